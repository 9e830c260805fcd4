//! Readers of single values. Each returns the checked value, or an error that continues a sentence which begins with
//! the key.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::schema::nearest;
use crate::config::section::Section;
use crate::config::values::HostPort;
use crate::config::values::ListenAddress;
use crate::config::values::is_host;
use crate::config::values::parse_duration;
use crate::config::values::parse_size;
use crate::config::values::size_text;

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
    let what = format!("a duration from {shown_min} to {shown_max} with a unit, as in \"5s\" or \"2min\"");
    let duration = parse_duration(given.text(&what)?).ok();
    duration.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| format!("must be {what}"))
}

pub(super) fn duration_or_off(given: &Given<'_>, max: Duration) -> Result<Option<Duration>, String> {
    if given.text("").is_ok_and(|text| text == "off") {
        return Ok(None);
    }
    duration(given, Duration::from_secs(1), max).map(Some).map_err(|sentence| format!("{sentence}, or \"off\""))
}

/// A number of bytes.
pub(super) fn size(given: &Given<'_>, min: u64, max: u64) -> Result<u64, String> {
    let what = format!("a size from {} to {} with a unit, as in \"256MiB\"", size_text(min), size_text(max));
    let size = parse_size(given.text(&what)?);
    size.filter(|size| (min..=max).contains(size)).ok_or_else(|| format!("must be {what}"))
}

/// `tcp_keepalive` of upstreams and listeners. Linux accepts at most 32767 seconds.
pub(super) fn keepalive(section: &mut Section<'_>) -> Option<Duration> {
    section.or("tcp_keepalive", Some(2 * MINUTE), |given| duration_or_off(given, 9 * HOUR))
}

pub(super) fn file(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let text = given.text("the path of a PEM file")?;
    if text.contains("-----BEGIN") {
        return Err("contains PEM text; write it to a file and set the path of that file".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("must be the path of a PEM file, without control characters".to_owned());
    }
    Ok(directory.join(text))
}

pub(super) fn server_name(given: &Given<'_>) -> Result<String, String> {
    let what = "a DNS name or an IP address without a port, as in \"mongo.example\"";
    let text = given.text(what)?;
    let fits = is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok();
    if fits { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

pub(super) fn listen_address(given: &Given<'_>) -> Result<ListenAddress, String> {
    given.text("an IP address and port, as in \"127.0.0.1:27017\"")?.parse().map_err(sentence)
}

/// Makes the path of a unix domain socket absolute, relative to `directory`, and checks its length.
pub(super) fn resolved(address: ListenAddress, directory: &Path) -> Result<ListenAddress, String> {
    let ListenAddress::Unix(path) = address else { return Ok(address) };
    let path = directory.join(path);
    if !path.is_absolute() {
        return Err("must be an absolute path, as in \"unix:/run/mongate/mongodb-27017.sock\"".to_owned());
    }
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "is a path of {length} bytes, and a unix domain socket can have at most {SOCKET_PATH_MAX}; choose a \
             shorter path, as in \"unix:/run/mongate/mongodb-27017.sock\""
        ));
    }
    Ok(ListenAddress::Unix(path))
}

pub(super) fn permissions(given: &Given<'_>) -> Result<u32, String> {
    let what = "an octal file mode from \"0000\" to \"0777\", as in \"0660\"";
    let text = given.text(what)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = if digits { u32::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| format!("must be {what}"))
}

/// `true` or `false`.
pub(super) fn boolean(given: &Given<'_>) -> Result<bool, String> {
    given.boolean()
}

/// A date and time with its offset from UTC.
pub(super) fn instant(given: &Given<'_>) -> Result<SystemTime, String> {
    given.instant()
}

/// The servers of an upstream. No two are equal, also if upper and lower case are ignored.
pub(super) fn members(given: &Given<'_>) -> Result<Vec<HostPort>, String> {
    let what = "host:port, as in \"mongo-0.mongo:27017\"";
    let mut members: Vec<HostPort> = Vec::new();
    for text in given.texts(what)? {
        let member: HostPort = text.parse().map_err(|error| format!("has {}, which {error}", quoted(text)))?;
        if members.iter().any(|known| known.port == member.port && known.host.eq_ignore_ascii_case(&member.host)) {
            return Err(format!("has {} twice; remove one of the two", quoted(text)));
        }
        members.push(member);
    }
    if members.is_empty() { Err(format!("is empty; list at least one server, each {what}")) } else { Ok(members) }
}

/// The DNS name whose SRV records list the servers.
pub(super) fn srv(given: &Given<'_>) -> Result<String, String> {
    let what = "the DNS name of a cluster without a port, as in \"cluster.example.com\"";
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

/// The first and the last port of a range, as in `27017-27023`.
pub(super) fn ports(given: &Given<'_>) -> Result<(u16, u16), String> {
    let what = "a range of ports, as in \"27017-27023\"";
    let text = given.text(what)?;
    let range = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
    range.filter(|(first, last)| first <= last).ok_or_else(|| format!("must be {what}"))
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port > 0)
}

/// A host that clients can connect to.
pub(super) fn advertised_host(given: &Given<'_>) -> Result<String, String> {
    let what = "a DNS name or an IP address without a port, as in \"gateway.local\"";
    let text = given.text(what)?;
    let fits = is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok();
    if fits { Ok(text.to_ascii_lowercase()) } else { Err(format!("must be {what}")) }
}

/// A number of spare connections.
pub(super) fn spares(given: &Given<'_>) -> Result<usize, String> {
    given.whole_number(0, 1000)
}

/// The unix domain socket of a SPIFFE agent: `unix:/path`, or `unix:///path` as in the SPIFFE specification.
/// A hand-over adds `.new`.
const CONTROL_PATH_MAX: usize = SOCKET_PATH_MAX - 4;

pub(super) fn socket_path(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let what = "a path, as in \"/run/mongate/control.sock\"";
    let text = given.text(what)?;
    if text.is_empty() || text.starts_with("unix:") || text.contains(char::is_control) {
        return Err(format!("must be {what}"));
    }
    let path = directory.join(text);
    if path.as_os_str().len() > CONTROL_PATH_MAX {
        return Err(format!("is longer than {CONTROL_PATH_MAX} bytes with its directory; choose a shorter path"));
    }
    Ok(path)
}

pub(super) fn socket(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let what = "the unix domain socket of the agent, as in \"unix:/run/spire/agent.sock\"";
    let text = given.text(what)?;
    let text = text.replacen("unix:///", "unix:/", 1);
    match text.parse().map(|address| resolved(address, directory)) {
        Ok(Ok(ListenAddress::Unix(path))) => Ok(path),
        Ok(Err(sentence)) => Err(sentence),
        _ => Err(format!("must be {what}")),
    }
}
