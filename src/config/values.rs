//! Single values with a form of their own: parse, print, bounds.
//!
//! Parsing looks at the text and nothing else: no name is looked up, no file is opened.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// `host:port`, as an upstream is written; the host is a DNS name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Without brackets, as written.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if text.starts_with("mongodb://") || text.starts_with("mongodb+srv://") {
            return Err(HostPortError::ConnectionString);
        }
        if text.contains(',') {
            return Err(HostPortError::Several);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => split_brackets(rest)?,
            None => split_name(text)?,
        };
        Ok(Self { host: host.to_owned(), port: parse_port(port).ok_or(HostPortError::Port)? })
    }
}

/// Why a text is no `host:port`; each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// `mongodb://…`; nothing of it is repeated, as it may hold a password.
    #[error("is a connection string; give the host and port alone, as in \"mongo.example:27017\"")]
    ConnectionString,
    /// A list of servers.
    #[error("names several servers; an upstream is one mongod or mongos, as in \"mongo.example:27017\"")]
    Several,
    /// A host and nothing after it.
    #[error("has no port; write \"{with_port}\" (27017 is mongod's usual port)")]
    NoPort {
        /// The same host with the usual port.
        with_port: String,
    },
    /// The port is no number, or 0, or above 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// More than one colon, no brackets.
    #[error("needs brackets around the IPv6 address, as in \"[::1]:27017\"")]
    Brackets,
    /// What stands before the port cannot be a host.
    #[error(
        "must be host:port, as in \"mongo.example:27017\"; the host is a DNS name (letters, digits, \"-\", \"_\", \".\"), \
         an IPv4 address, or an IPv6 address in brackets"
    )]
    Host,
}

fn split_brackets(rest: &str) -> Result<(&str, &str), HostPortError> {
    let (host, after) = rest.split_once(']').ok_or(HostPortError::Brackets)?;
    if host.parse::<Ipv6Addr>().is_err() {
        return Err(HostPortError::Host);
    }
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Err(HostPortError::NoPort { with_port: format!("[{host}]:27017") }),
        None => Err(HostPortError::Host),
    }
}

fn split_name(text: &str) -> Result<(&str, &str), HostPortError> {
    match text.split_once(':') {
        None if is_host(text) => Err(HostPortError::NoPort { with_port: format!("{text}:27017") }),
        Some((_, port)) if port.contains(':') => Err(HostPortError::Brackets),
        Some((host, port)) if is_host(host) => Ok((host, port)),
        _ => Err(HostPortError::Host),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` also takes a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// Whether `text` can be a DNS name or an IPv4 address.
///
/// Underscores are no part of host names, but container networks use them, and resolvers take them.
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // A name that ends in a number is an address, or a mistake in one: `300.0.0.1`, `10.0.1`.
    let last_is_numeric = name.rsplit('.').next().is_some_and(numeric);
    name.len() <= 253 && name.split('.').all(label) && (!last_is_numeric || text.parse::<Ipv4Addr>().is_ok())
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:27017`, `[::1]:27017`.
    Tcp(SocketAddr),
    /// `unix:/run/mongate/mongodb-27017.sock`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only processes of this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return parse_socket_path(path);
        }
        if text.starts_with('/') {
            return Err(ListenAddressError::BarePath);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Err(ListenAddressError::NoPort { with_port: SocketAddr::new(ip, 27017).to_string() });
        }
        match text.rsplit_once(':').map(|(host, port)| (host, parse_port(port))) {
            Some(("localhost", Some(port))) => Err(ListenAddressError::Localhost { port }),
            Some(("" | "*", Some(port))) => Err(ListenAddressError::NoHost { port }),
            _ => Err(ListenAddressError::Tcp),
        }
    }
}

fn parse_socket_path(path: &str) -> Result<ListenAddress, ListenAddressError> {
    if path.is_empty() || path.contains(char::is_control) || path.ends_with('/') {
        return Err(ListenAddressError::SocketPath);
    }
    if path.starts_with("//") {
        return Err(ListenAddressError::Slashes);
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

/// Why a text is no address to listen on; each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// A path without `unix:` before it.
    #[error("is a path; for a unix socket put unix: before it, as in \"unix:/run/mongate/mongodb-27017.sock\"")]
    BarePath,
    /// `unix:` and nothing that could be a file after it, or control characters.
    #[error("must name a file after unix:, as in \"unix:/run/mongate/mongodb-27017.sock\"")]
    SocketPath,
    /// `unix://…`, where a host would stand in a URL.
    #[error("is no URL; one slash follows unix:, as in \"unix:/run/mongate/mongodb-27017.sock\"")]
    Slashes,
    /// An IP address and nothing after it.
    #[error("has no port; write \"{with_port}\" (27017 is mongod's usual port)")]
    NoPort {
        /// The same address with the usual port.
        with_port: String,
    },
    /// `localhost:27017`.
    #[error("must be an IP address, as names are not looked up here; write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")]
    Localhost {
        /// What stood after the colon.
        port: u16,
    },
    /// `:27017` and `*:27017`.
    #[error(
        "names no address; write \"127.0.0.1:{port}\" for this machine alone, \"0.0.0.0:{port}\" for every interface"
    )]
    NoHost {
        /// What stood after the colon.
        port: u16,
    },
    /// Anything else.
    #[error(
        "must be an IP address and port, as in \"127.0.0.1:27017\" or \"[::1]:27017\", or unix: and a path, as in \
         \"unix:/run/mongate/mongodb-27017.sock\""
    )]
    Tcp,
}

/// Reads `"5s"`, `"500ms"`, `"1h 30min"`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    // humantime 2.4 panics where its seconds reach 2^64 by a carry from "1000ms"; 15 digits in all cannot get there.
    if text.bytes().filter(u8::is_ascii_digit).count() > 15 {
        return Err(humantime::DurationError::NumberOverflow);
    }
    humantime::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_and_a_port_are_taken_apart() {
        let check = |text: &str, host: &str, port: u16| {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
            assert_eq!(parsed.to_string(), text);
        };
        check("mongo:27017", "mongo", 27017);
        check("mongo_1.orders.svc.cluster.local.:1", "mongo_1.orders.svc.cluster.local.", 1);
        check("10.0.0.1:65535", "10.0.0.1", 65535);
        check("[2001:db8::1]:27017", "2001:db8::1", 27017);
    }

    #[test]
    fn an_upstream_address_that_is_none_says_what_to_write() {
        let check = |text: &str, expected: HostPortError| {
            assert_eq!(text.parse::<HostPort>(), Err(expected), "{text:?}");
        };
        let no_port = |text: &str| HostPortError::NoPort { with_port: text.to_owned() };
        check("", HostPortError::Host);
        check("mongo", no_port("mongo:27017"));
        check("[::1]", no_port("[::1]:27017"));
        check(":27017", HostPortError::Host);
        check("mongo:", HostPortError::Port);
        check("mongo:0", HostPortError::Port);
        check("mongo:+1", HostPortError::Port);
        check("mongo:-1", HostPortError::Port);
        check("mongo:65536", HostPortError::Port);
        check("mongo:99999999999999999999", HostPortError::Port);
        check("mongo:27017/orders", HostPortError::Port);
        check("::1:27017", HostPortError::Brackets);
        check("[::1:27017", HostPortError::Brackets);
        check("[mongo]:27017", HostPortError::Host);
        check("[::1]27017", HostPortError::Host);
        check("[fe80::1%eth0]:27017", HostPortError::Host);
        check("mongo\0:27017", HostPortError::Host);
        check("mon go:27017", HostPortError::Host);
        check("300.0.0.1:27017", HostPortError::Host);
        check("a..b:27017", HostPortError::Host);
        check(&format!("{}:27017", "a".repeat(64)), HostPortError::Host);
        check("mongodb://user:secret@mongo:27017", HostPortError::ConnectionString);
        check("mongodb+srv://mongo", HostPortError::ConnectionString);
        check("a:27017,b:27017", HostPortError::Several);
    }

    #[test]
    fn a_listen_address_that_is_none_says_what_to_write() {
        let check = |text: &str, expected: ListenAddressError| {
            assert_eq!(text.parse::<ListenAddress>(), Err(expected), "{text:?}");
        };
        check("", ListenAddressError::Tcp);
        check("27017", ListenAddressError::Tcp);
        check("mongo:27017", ListenAddressError::Tcp);
        check("127.0.0.1:65536", ListenAddressError::Tcp);
        check("localhost:27017", ListenAddressError::Localhost { port: 27017 });
        check(":27017", ListenAddressError::NoHost { port: 27017 });
        check("*:27017", ListenAddressError::NoHost { port: 27017 });
        check("127.0.0.1", ListenAddressError::NoPort { with_port: "127.0.0.1:27017".to_owned() });
        check("::1", ListenAddressError::NoPort { with_port: "[::1]:27017".to_owned() });
        check("/run/m.sock", ListenAddressError::BarePath);
        check("unix:", ListenAddressError::SocketPath);
        check("unix:/run/", ListenAddressError::SocketPath);
        check("unix:/run/m\0.sock", ListenAddressError::SocketPath);
        check("unix:///run/m.sock", ListenAddressError::Slashes);
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_local() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<ListenAddress>().unwrap().is_local(), expected, "{text}");
        };
        check("127.0.0.2:1", true);
        check("[::1]:1", true);
        check("[::ffff:127.0.0.1]:1", true);
        check("unix:/run/m.sock", true);
        check("0.0.0.0:1", false);
        check("[::]:1", false);
        check("10.0.0.1:1", false);
    }

    #[test]
    fn a_duration_that_overflows_is_an_error() {
        for text in ["18446744073709551615s 1000ms", "18446744073709551615s1000000us", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), Err(humantime::DurationError::NumberOverflow), "{text}");
        }
    }

    fn any_host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z_]([a-z0-9_-]{0,20}[a-z])?(\\.[a-z]{1,20}){0,3}\\.?",
            any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
        ]
    }

    fn any_listen_address() -> impl Strategy<Value = ListenAddress> {
        prop_oneof![
            any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| ListenAddress::Tcp((ip, port).into())),
            any::<(Ipv6Addr, u16, u32)>()
                .prop_map(|(ip, port, scope)| ListenAddress::Tcp(SocketAddrV6::new(ip, port, 0, scope).into())),
            "(/[a-zA-Z0-9 äé:%._-]{1,20}){1,4}".prop_map(|path| ListenAddress::Unix(path.into())),
        ]
    }

    proptest! {
        #[test]
        fn what_an_upstream_address_prints_parses_back(host in any_host(), port in 1u16..) {
            let address = HostPort { host, port };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn what_a_listen_address_prints_parses_back(address in any_listen_address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn what_a_duration_prints_parses_back(millis in 0u64..1000 * 60 * 60 * 24 * 365 * 100) {
            let duration = Duration::from_millis(millis);
            let printed = humantime::format_duration(duration).to_string();
            prop_assert_eq!(parse_duration(&printed), Ok(duration));
        }

        #[test]
        fn no_text_makes_a_value_panic(text in any::<String>(), near in "[0-9.a-zµ:/\\[\\] -]{0,40}") {
            for text in [text, near] {
                let _ = text.parse::<HostPort>();
                let _ = text.parse::<ListenAddress>();
                let _ = parse_duration(&text);
            }
        }
    }
}
