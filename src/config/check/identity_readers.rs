//! Readers of values that identify clients, servers or namespaces. Each returns the checked value, or an error that
//! continues a sentence which begins with the key.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::error::quoted;
use crate::config::given::Given;

/// User IDs of this machine.
pub(super) fn uids(given: &Given<'_>) -> Result<Vec<u32>, String> {
    given.numbers()
}

/// The two formats of a principal.
const PRINCIPAL: &str = "a SPIFFE ID without \"spiffe://\", as in \"cluster.local/ns/shop/sa/orders\", or a \
                         distinguished name, as in \"CN=orders,O=Acme\"";

/// One principal.
pub(super) fn principal(given: &Given<'_>) -> Result<String, String> {
    let text = given.text(PRINCIPAL)?;
    if let Some(rest) = text.strip_prefix("spiffe://") {
        return Err(format!("must not have the scheme spiffe://; write \"{rest}\""));
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
    if texts.iter().all(fits) { Ok(owned(&texts)) } else { Err(format!("must be a list of strings, each {what}")) }
}

/// Values of a rule, each exact, `prefix*`, `*suffix`, or `*`. `what` describes one value, with examples in quotes.
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
            "has {shown}; a \"*\" is allowed once: at the end (\"prefix*\"), at the beginning (\"*suffix\"), or alone"
        ));
    }
    match texts.iter().find(|text| text.contains('\0')) {
        Some(wrong) => Err(format!("has {}, which can never match: names do not contain a NUL", quoted(wrong))),
        None => Ok(texts),
    }
}

/// Principals of a rule. A leading `spiffe://` is removed.
pub(super) fn rule_principals(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "a principal, as in \"cluster.local/ns/shop/sa/orders\" or \"cluster.local/ns/shop/*\"";
    let texts = pattern_texts(given, what)?;
    let without_scheme = |text: &str| match text.strip_prefix("spiffe://") {
        // Without the scheme this would be "*", which also matches principals that are not SPIFFE IDs.
        Some("" | "*") => Err(format!(
            "has {}, which has no trust domain; write \"TRUST-DOMAIN/*\" for all SPIFFE IDs of a trust domain, or \
             \"*\" for every principal",
            quoted(text)
        )),
        Some(rest) => Ok(rest.to_owned()),
        None => Ok(text.to_owned()),
    };
    texts.into_iter().map(without_scheme).collect()
}

/// Databases of a rule.
pub(super) fn databases(given: &Given<'_>) -> Result<Vec<String>, String> {
    let texts = pattern_texts(given, "a database, as in \"shop\" or \"shop-*\"")?;
    match texts.iter().find(|text| text.contains('.')) {
        Some(wrong) => Err(format!(
            "has {}, which can never match: the name of a database has no dot; put collections in the key collections, \
             without the database",
            quoted(wrong)
        )),
        None => Ok(owned(&texts)),
    }
}

/// The name of a trust domain.
///
/// Spec: SPIFFE-ID § 2.1.
pub(super) fn trust_domain(given: &Given<'_>) -> Result<String, String> {
    let what = "a trust domain, as in \"cluster.local\": lower-case letters, digits, \".\", \"-\" and \"_\", without \
                spiffe://";
    let text = given.text(what)?;
    if is_trust_domain(text) { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

/// A list of trust domains.
pub(super) fn trust_domains(given: &Given<'_>) -> Result<Vec<String>, String> {
    let texts = given.texts("a trust domain, as in \"cluster.local\"")?;
    match texts.iter().find(|text| !is_trust_domain(text)) {
        None => Ok(owned(&texts)),
        Some(wrong) => Err(format!("has {}, which is not a trust domain, as in \"cluster.local\"", quoted(wrong))),
    }
}

fn is_trust_domain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(allowed)
}

/// URI names of server certificates.
pub(super) fn uris(given: &Given<'_>) -> Result<Vec<String>, String> {
    let what = "a URI, as in \"spiffe://cluster.local/ns/mongo/sa/mongod\"";
    let texts = given.texts(what)?;
    let fits =
        |text: &&str| text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if texts.iter().all(fits) { Ok(owned(&texts)) } else { Err(format!("must be a list of strings, each {what}")) }
}

/// IP addresses and networks. An address is returned as a network with one address.
pub(super) fn networks(given: &Given<'_>) -> Result<Vec<IpNet>, String> {
    let texts = given.texts("an IP address or network, as in \"10.1.3.0/24\"")?;
    texts.into_iter().map(network).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| address());
    let network = network
        .map_err(|_| format!("has {}, which is not an IP address or network, as in \"10.1.3.0/24\"", quoted(text)))?;
    if network.trunc() != network {
        let (shown, network) = (quoted(text), network.trunc());
        return Err(format!("has {shown}, which has bits set after its prefix; the network is \"{network}\""));
    }
    Ok(unmapped(network))
}

/// Converts a network of IPv4-mapped IPv6 addresses, such as `::ffff:10.0.0.0/104`, to IPv4, because addresses of
/// clients are converted too.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    mapped.and_then(|(address, prefix)| IpNet::new(address.into(), prefix).ok()).unwrap_or(network)
}

/// A TLV type from the range that the PROXY protocol reserves for custom use.
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
    fn a_mapped_ipv4_network_is_converted_to_ipv4() {
        let check = |text: &str, expected: &str| assert_eq!(network(text).unwrap().to_string(), expected, "{text}");
        check("10.1.3.0/24", "10.1.3.0/24");
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        check("::ffff:10.1.3.7", "10.1.3.7/32");
        check("::/0", "::/0");
        check("fd00::/8", "fd00::/8");
    }
}
