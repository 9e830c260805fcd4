//! What a value that names clients, servers or namespaces may be: each reader returns the value, or the rest of a sentence
//! that begins with the key.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::error::quoted;
use crate::config::given::Given;

/// Users of this machine.
pub(super) fn uids(given: &Given<'_>) -> Result<Vec<u32>, String> {
    given.numbers()
}

/// What a principal may be written like: a SPIFFE id without its scheme, or a distinguished name.
const PRINCIPAL: &str = "a SPIFFE id without \"spiffe://\", as in \"cluster.local/ns/shop/sa/orders\", or a distinguished \
                         name, as in \"CN=orders,O=Acme\"";

/// A principal of the operator's own words.
pub(super) fn principal(given: &Given<'_>) -> Result<String, String> {
    let text = given.text(PRINCIPAL)?;
    if let Some(rest) = text.strip_prefix("spiffe://") {
        return Err(format!("is written without its scheme: \"{rest}\""));
    }
    if text.contains(|c: char| c.is_control() || c == '*') {
        return Err(format!("must be {PRINCIPAL}"));
    }
    Ok(text.to_owned())
}

/// Principals, each exact or with a `*` at one end.
pub(super) fn principal_patterns(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "a principal, as in \"cluster.local/ns/shop/sa/orders\" or \"cluster.local/ns/shop/*\"";
    let texts = given.texts(what)?;
    let fits = |text: &&str| {
        let inner = text.strip_suffix('*').or_else(|| text.strip_prefix('*')).unwrap_or(text);
        !inner.contains(|c: char| c.is_control() || c == '*') && !text.starts_with("spiffe://")
    };
    if texts.iter().all(fits) { Ok(owned(&texts)) } else { Err(format!("must be a list, each {what}")) }
}

/// Values of a rule: each exact, `prefix*`, `*suffix`, or `*`; `what` says what one of them is, with examples in quotes.
pub(super) fn patterns(given: &Given<'_>, what: &str) -> Result<Vec<String>, String> {
    Ok(owned(&pattern_texts(given, what)?))
}

fn pattern_texts<'a>(given: &'a Given<'_>, what: &str) -> Result<Vec<&'a str>, String> {
    let texts = given.texts(what)?;
    let misplaced = |text: &&&str| {
        let inner = text.strip_suffix('*').or_else(|| text.strip_prefix('*')).unwrap_or(text);
        inner.contains('*')
    };
    if let Some(wrong) = texts.iter().find(misplaced) {
        let shown = quoted(wrong);
        return Err(format!(
            "has {shown}; a \"*\" may stand once, at the end (\"prefix*\") or at the beginning (\"*suffix\"), or alone"
        ));
    }
    match texts.iter().find(|text| text.contains('\0')) {
        Some(wrong) => Err(format!("has {}, which can never match: no name has a NUL", quoted(wrong))),
        None => Ok(texts),
    }
}

/// Principals of a rule; `spiffe://` before them is taken off.
pub(super) fn rule_principals(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "a principal, as in \"cluster.local/ns/shop/sa/orders\" or \"cluster.local/ns/shop/*\"";
    let texts = pattern_texts(given, what)?;
    let taken_off = |text: &str| match text.strip_prefix("spiffe://") {
        // Anybody who is somebody would be more than it says.
        Some("" | "*") => Err(format!(
            "has {}, which names no trust domain; write \"TRUST-DOMAIN/*\" for all SPIFFE ids of one, or \"*\" for every \
             principal",
            quoted(text)
        )),
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text.to_owned()),
    };
    texts.into_iter().map(taken_off).collect()
}

/// Databases of a rule.
pub(super) fn databases(given: &Given<'_>) -> Result<Vec<String>, String> {
    let texts = pattern_texts(given, "a database, as in \"shop\" or \"shop-*\"")?;
    match texts.iter().find(|text| text.contains('.')) {
        Some(wrong) => Err(format!(
            "has {}, which can never match: a database's name has no dot; collections stand in the key collections, without \
             their database",
            quoted(wrong)
        )),
        None => Ok(owned(&texts)),
    }
}

/// A trust domain's name.
///
/// Spec: SPIFFE-ID § 2.1.
pub(super) fn trust_domain(given: &Given<'_>) -> Result<String, String> {
    let what = "a trust domain, as in \"cluster.local\": lower-case letters, digits, \".\", \"-\" and \"_\", without spiffe://";
    let text = given.text(what)?;
    if is_trust_domain(text) { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

/// Several of them.
pub(super) fn trust_domains(given: &Given<'_>) -> Result<Vec<String>, String> {
    let texts = given.texts("a trust domain, as in \"cluster.local\"")?;
    match texts.iter().find(|text| !is_trust_domain(text)) {
        None => Ok(owned(&texts)),
        Some(wrong) => Err(format!("has {wrong:?}, which is no trust domain, as \"cluster.local\" is one")),
    }
}

fn is_trust_domain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

/// URIs of server certificates.
pub(super) fn uris(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "a URI, as in \"spiffe://cluster.local/ns/mongo/sa/mongod\"";
    let texts = given.texts(what)?;
    let fits =
        |text: &&str| text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if texts.iter().all(fits) { Ok(owned(&texts)) } else { Err(format!("must be a list, each {what}")) }
}

/// Addresses, alone or as networks.
pub(super) fn networks(given: &Given<'_>) -> Result<Vec<IpNet>, String> {
    let texts = given.texts("an IP address or network, as in \"10.1.3.0/24\"")?;
    texts.into_iter().map(network).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| address());
    let network =
        network.map_err(|_| format!("has {text:?}, which is no IP address or network, as \"10.1.3.0/24\" is one"))?;
    if network.trunc() != network {
        return Err(format!("has {text:?}, with bits set behind the prefix; the network is \"{}\"", network.trunc()));
    }
    Ok(unmapped(network))
}

/// Of networks of IPv4 addresses that are written in IPv6, as `::ffff:10.0.0.0/104`, those addresses: clients are known by
/// them.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    mapped.and_then(|(address, prefix)| IpNet::new(address.into(), prefix).ok()).unwrap_or(network)
}

/// A type of TLV that PROXY leaves to its users.
///
/// Spec: the PROXY protocol, versions 1 and 2 § 2.2.
pub(super) fn tlv(given: &Given<'_>) -> Result<u8, String> {
    let number = given.whole_number(0xE0, 0xF7).map_err(|sentence| format!("{sentence} (0xE0 to 0xF7)"))?;
    u8::try_from(number).map_err(|error| error.to_string())
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv4_is_one_however_it_is_written() {
        let check = |text: &str, expected: &str| assert_eq!(network(text).unwrap().to_string(), expected, "{text}");
        check("10.1.3.0/24", "10.1.3.0/24");
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        check("::ffff:10.1.3.7", "10.1.3.7/32");
        check("::/0", "::/0");
        check("fd00::/8", "fd00::/8");
    }
}
