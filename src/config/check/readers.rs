//! What a single value of the file may be: each reader returns the value, or the rest of a sentence that begins with the
//! key.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::schema::nearest;
use crate::config::section::Section;
use crate::config::values::HostPort;
use crate::config::values::ListenAddress;
use crate::config::values::is_host;
use crate::config::values::parse_duration;

pub(super) const MINUTE: Duration = Duration::from_mins(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const MONTH: Duration = Duration::from_hours(30 * 24);

/// `sockaddr_un.sun_path` has 108 bytes on Linux, the last one for the NUL.
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn sentence(error: impl Display) -> String {
    error.to_string()
}

pub(super) fn choice<T: Copy>(given: &Given<'_>, choices: &[(&str, T)]) -> Result<T, String> {
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let words = words.join(", ");
    // "a", "b" or "c"
    let words = words.rsplit_once(", ").map_or(words.clone(), |(most, last)| format!("{most} or {last}"));
    let text = given.text(&words)?;
    match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, choices.iter().map(|(word, _)| *word)) {
            Some(near) => format!("must be {words}; did you mean \"{near}\"?"),
            None => format!("must be {words}"),
        }),
    }
}

pub(super) fn duration(given: &Given<'_>, min: Duration, max: Duration) -> Result<Duration, String> {
    let (shown_min, shown_max) = (humantime::format_duration(min), humantime::format_duration(max));
    let what = format!("a time from {shown_min} to {shown_max} with its unit, as in \"5s\" or \"2min\"");
    let duration = parse_duration(given.text(&what)?).ok();
    duration.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| format!("must be {what}"))
}

pub(super) fn duration_or_off(given: &Given<'_>, max: Duration) -> Result<Option<Duration>, String> {
    if given.text("").is_ok_and(|text| text == "off") {
        return Ok(None);
    }
    duration(given, Duration::from_secs(1), max).map(Some).map_err(|sentence| format!("{sentence}, or \"off\""))
}

/// The same for both sides. Linux keeps this time in seconds and takes at most 32767 of them.
pub(super) fn keepalive(section: &mut Section<'_>) -> Option<Duration> {
    section.or("tcp_keepalive", Some(2 * MINUTE), |given| duration_or_off(given, 9 * HOUR))
}

pub(super) fn file(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let text = given.text("the name of a PEM file")?;
    if text.contains("-----BEGIN") {
        return Err("holds PEM text; write it to a file and give the file's name".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("must be the name of a PEM file, without control characters".to_owned());
    }
    Ok(directory.join(text))
}

pub(super) fn server_name(given: &Given<'_>) -> Result<String, String> {
    let what = "a DNS name or an IP address without port, as in \"mongo.example\"";
    let text = given.text(what)?;
    let fits = is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok();
    if fits { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

pub(super) fn listen_address(given: &Given<'_>) -> Result<ListenAddress, String> {
    given.text("an IP address and port, as in \"127.0.0.1:27017\"")?.parse().map_err(sentence)
}

/// Puts a relative socket path below `directory`, and sees that the system can take it.
pub(super) fn placed(address: ListenAddress, directory: &Path) -> Result<ListenAddress, String> {
    let ListenAddress::Unix(path) = address else { return Ok(address) };
    let path = directory.join(path);
    if !path.is_absolute() {
        return Err("must be an absolute path, as in \"unix:/run/mongate/mongodb-27017.sock\"".to_owned());
    }
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "makes a path of {length} bytes; the system takes at most {SOCKET_PATH_MAX} for a unix socket, so choose a \
             shorter one, as in \"unix:/run/mongate/mongodb-27017.sock\""
        ));
    }
    Ok(ListenAddress::Unix(path))
}

pub(super) fn permissions(given: &Given<'_>) -> Result<u32, String> {
    let what = "the octal mode of a file, from \"0000\" to \"0777\", as in \"0660\"";
    let text = given.text(what)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = if digits { u32::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| format!("must be {what}"))
}

/// `true` or `false`.
pub(super) fn boolean(given: &Given<'_>) -> Result<bool, String> {
    given.boolean()
}

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

/// The servers of an upstream; no two alike, whatever case they are written in.
pub(super) fn members(given: &Given<'_>) -> Result<Vec<HostPort>, String> {
    let what = "host:port, as in \"mongo-0.mongo:27017\"";
    let mut members: Vec<HostPort> = Vec::new();
    for text in given.texts(what)? {
        let member: HostPort = text.parse().map_err(|error| format!("has {}, which {error}", quoted(text)))?;
        if members.iter().any(|known| known.port == member.port && known.host.eq_ignore_ascii_case(&member.host)) {
            return Err(format!("has {} twice", quoted(text)));
        }
        members.push(member);
    }
    if members.is_empty() { Err(format!("is empty; it must be a list, each {what}")) } else { Ok(members) }
}

/// A name that SRV records are looked for under.
pub(super) fn srv(given: &Given<'_>) -> Result<String, String> {
    let what = "the DNS name of a cluster without port, as in \"cluster.example.com\"";
    let text = given.text(what)?;
    let is_address = text.parse::<IpAddr>().is_ok();
    if is_host(text) && !is_address { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

/// The name of a replica set.
pub(super) fn replica_set(given: &Given<'_>) -> Result<String, String> {
    let what = "the name of a replica set, as in \"rs0\"";
    let text = given.text(what)?;
    if text.contains(char::is_control) || text.len() > 255 {
        Err(format!("must be {what}"))
    } else {
        Ok(text.to_owned())
    }
}

/// The first and the last of a range of ports, as in `27017-27023`.
pub(super) fn ports(given: &Given<'_>) -> Result<(u16, u16), String> {
    let what = "a range of ports, as in \"27017-27023\"";
    let text = given.text(what)?;
    let range = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    range.filter(|(first, last)| first <= last).ok_or_else(|| format!("must be {what}"))
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}

/// A host that clients can be told.
pub(super) fn advertised_host(given: &Given<'_>) -> Result<String, String> {
    let what = "a DNS name or an IP address without port, as in \"gateway.local\"";
    let text = given.text(what)?;
    let fits = is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok();
    if fits { Ok(text.to_ascii_lowercase()) } else { Err(format!("must be {what}")) }
}

/// A number of connections.
pub(super) fn spares(given: &Given<'_>) -> Result<usize, String> {
    given.whole_number(0, 1000)
}

/// A type of TLV that PROXY leaves to its users.
///
/// Spec: the PROXY protocol, versions 1 and 2 § 2.2.
pub(super) fn tlv(given: &Given<'_>) -> Result<u8, String> {
    let number = given.whole_number(0xE0, 0xF7).map_err(|sentence| format!("{sentence} (0xE0 to 0xF7)"))?;
    u8::try_from(number).map_err(sentence)
}

/// The socket of an agent, as the SPIFFE standard writes endpoints: `unix:/path` or `unix:///path`.
pub(super) fn socket(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let what = "the agent's unix socket, as in \"unix:/run/spire/agent.sock\"";
    let text = given.text(what)?;
    let text = text.replacen("unix:///", "unix:/", 1);
    match text.parse().map(|address| placed(address, directory)) {
        Ok(Ok(ListenAddress::Unix(path))) => Ok(path),
        Ok(Err(sentence)) => Err(sentence),
        _ => Err(format!("must be {what}")),
    }
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
