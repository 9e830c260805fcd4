//! Types of single values that are parsed from text: server addresses, listen addresses, durations.
//!
//! Parsing is pure: no DNS name is resolved and no file is opened.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The address of a server as `host:port`. The host is a DNS name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host as written, without the brackets of an IPv6 address.
    pub host: String,
    /// The port, 1 to 65535.
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

/// Why a text is not `host:port`, with a remedy. Each message continues a sentence that begins with the key or the
/// text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// `mongodb://…`. The text is not repeated, because it may contain a password.
    #[error("is a connection string; write only host and port, as in \"mongo.example:27017\"")]
    ConnectionString,
    /// A list of servers.
    #[error("has several servers; write one mongod or mongos, as in \"mongo.example:27017\"")]
    Several,
    /// The port is missing.
    #[error("has no port; write \"{with_port}\" (27017 is the default port of mongod)")]
    NoPort {
        /// The host with the default port.
        with_port: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// More than one colon without brackets.
    #[error("needs brackets around the IPv6 address, as in \"[::1]:27017\"")]
    Brackets,
    /// The host is not valid.
    #[error(
        "must be host:port, as in \"mongo.example:27017\"; the host is a DNS name (letters, digits, \"-\", \"_\", \
         \".\"), an IPv4 address, or an IPv6 address in brackets"
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
    // `u16::from_str` also accepts a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// Whether `text` is a valid DNS name or IPv4 address.
///
/// Underscores are not allowed in host names, but container networks use them and resolvers accept them.
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // A name whose last label is a number is an IPv4 address, or a mistake in one: `300.0.0.1`, `10.0.1`.
    let last_is_numeric = name.rsplit('.').next().is_some_and(numeric);
    name.len() <= 253 && name.split('.').all(label) && (!last_is_numeric || text.parse::<Ipv4Addr>().is_ok())
}

/// The address of a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP: `127.0.0.1:27017`, `[::1]:27017`.
    Tcp(SocketAddr),
    /// Unix domain socket: `unix:/run/mongate/mongodb-27017.sock`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only processes of this machine can connect to the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether the kernel chooses the port, which then is another one each time.
    pub fn has_port_0(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.port() == 0)
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

/// Why a text is not a listen address, with a remedy. Each message continues a sentence that begins with the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// A path without `unix:`.
    #[error(
        "is a path; for a unix domain socket write unix: before it, as in \"unix:/run/mongate/mongodb-27017.sock\""
    )]
    BarePath,
    /// `unix:` without the path of a file, or with control characters.
    #[error("must have the path of a file after unix:, as in \"unix:/run/mongate/mongodb-27017.sock\"")]
    SocketPath,
    /// `unix://…`, as in a URL.
    #[error("has several slashes after unix:; write one, as in \"unix:/run/mongate/mongodb-27017.sock\"")]
    Slashes,
    /// The port is missing.
    #[error("has no port; write \"{with_port}\" (27017 is the default port of mongod)")]
    NoPort {
        /// The address with the default port of mongod.
        with_port: String,
    },
    /// `localhost:27017`.
    #[error(
        "must be an IP address, because names are not resolved here; write \"127.0.0.1:{port}\" or \"[::1]:{port}\""
    )]
    Localhost {
        /// The given port.
        port: u16,
    },
    /// `:27017` and `*:27017`.
    #[error(
        "has no IP address; write \"127.0.0.1:{port}\" for this machine only, or \"0.0.0.0:{port}\" for all interfaces"
    )]
    NoHost {
        /// The given port.
        port: u16,
    },
    /// Any other text.
    #[error(
        "must be an IP address and port, as in \"127.0.0.1:27017\" or \"[::1]:27017\", or unix: and a path, as in \
         \"unix:/run/mongate/mongodb-27017.sock\""
    )]
    Tcp,
}

/// Parses `"5s"`, `"500ms"`, `"1h 30min"`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    // humantime 2.4 panics if a carry from "1000ms" makes its seconds reach 2^64. 15 digits in total cannot reach that.
    if text.bytes().filter(u8::is_ascii_digit).count() > 15 {
        return Err(humantime::DurationError::NumberOverflow);
    }
    humantime::parse_duration(text)
}

/// Parses `"64KiB"`, `"256MiB"`, `"1GiB"` to a number of bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    // `u64::from_str` also accepts a leading plus sign.
    let number = number.trim_end();
    let number: u64 = number.parse().ok().filter(|_| !number.starts_with('+'))?;
    number.checked_mul(1 << shift)
}

/// Writes a number of bytes in the largest unit that shows it without a fraction; whole KiB only.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20)];
    let (unit, shift) = units.into_iter().find(|(_, shift)| bytes.trailing_zeros() >= *shift).unwrap_or(("KiB", 10));
    format!("{}{unit}", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_and_port_are_parsed() {
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
    fn an_invalid_server_address_has_an_error_with_a_remedy() {
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
    fn an_invalid_listen_address_has_an_error_with_a_remedy() {
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
    fn sizes_are_parsed_and_written() {
        for (text, bytes) in [("64KiB", 64 << 10), ("256MiB", 256 << 20), ("3GiB", 3 << 30), ("1TiB", 1 << 40)] {
            assert_eq!((parse_size(text), size_text(bytes)), (Some(bytes), text.to_owned()));
        }
        assert_eq!(parse_size("2 MiB"), Some(2 << 20));
        for text in ["", "MiB", "64", "64MB", "64mib", "-1MiB", "+1MiB", "1.5MiB", "18446744073709551615KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
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
        fn a_printed_server_address_parses_back(host in any_host(), port in 1u16..) {
            let address = HostPort { host, port };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn a_printed_listen_address_parses_back(address in any_listen_address()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn a_printed_duration_parses_back(millis in 0u64..1000 * 60 * 60 * 24 * 365 * 100) {
            let duration = Duration::from_millis(millis);
            let printed = humantime::format_duration(duration).to_string();
            prop_assert_eq!(parse_duration(&printed), Ok(duration));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in any::<String>(), near in "[0-9.a-zµ:/\\[\\] -]{0,40}") {
            for text in [text, near] {
                let _ = text.parse::<HostPort>();
                let _ = text.parse::<ListenAddress>();
                let _ = parse_duration(&text);
            }
        }
    }
}
