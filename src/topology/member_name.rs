//! The name of a member: `host:port` in lower case, as in the configuration of the set.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Default port of mongod.
pub const DEFAULT_PORT: u16 = 27017;

/// The longest name in bytes. DNS allows host names of 253.
const NAME_BYTES_MAX: usize = 300;

/// The name of one mongod or mongos. Cheap to clone; the order is that of the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName {
    /// `host:port`, with an IPv6 host in brackets.
    text: Arc<str>,
    port: u16,
}

/// Why a text is not the name of a member. Each message continues a sentence that begins with that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableName {
    /// The host is missing.
    #[error("has no host")]
    NoHost,
    /// The port is missing or invalid.
    #[error("has no port from 1 to 65535")]
    Port,
    /// The name is too long.
    #[error("is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A character that is not allowed in a host name, such as those of paths, lists and URIs.
    #[error("has a character that is not allowed in a host name")]
    Character,
    /// The text in brackets is not an IPv6 address.
    #[error("has brackets that do not contain an IPv6 address")]
    Brackets,
}

impl MemberName {
    /// Parses `host:port`, or `host` with [`DEFAULT_PORT`].
    pub fn with_default_port(text: &str) -> Result<Self, UnusableName> {
        Self::read(text, Some(DEFAULT_PORT))
    }

    /// The host without the brackets of an IPv6 address, for DNS and for the verification of certificates.
    pub fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or(&*self.text, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn read(text: &str, default_port: Option<u16>) -> Result<Self, UnusableName> {
        if text.len() > NAME_BYTES_MAX {
            return Err(UnusableName::TooLong);
        }
        let (host, port) = split(text)?;
        let port = match port {
            Some(port) => read_port(port)?,
            None => default_port.ok_or(UnusableName::Port)?,
        };
        Ok(Self { text: format!("{}:{port}", host.to_ascii_lowercase()).into(), port })
    }
}

impl FromStr for MemberName {
    type Err = UnusableName;

    /// Parses `host:port`.
    fn from_str(text: &str) -> Result<Self, UnusableName> {
        Self::read(text, None)
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// Host and port. An IPv6 host keeps its brackets.
fn split(text: &str) -> Result<(&str, Option<&str>), UnusableName> {
    if !text.starts_with('[') {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        check_host(host)?;
        return Ok((host, port));
    }
    let end = text.find(']').ok_or(UnusableName::Brackets)?;
    let (host, behind) = text.split_at_checked(end + 1).ok_or(UnusableName::Brackets)?;
    check_ipv6(host.get(1..end).unwrap_or_default())?;
    if behind.is_empty() {
        return Ok((host, None));
    }
    behind.strip_prefix(':').map(|port| (host, Some(port))).ok_or(UnusableName::Port)
}

fn check_host(host: &str) -> Result<(), UnusableName> {
    if host.is_empty() {
        return Err(UnusableName::NoHost);
    }
    let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.bytes().all(is_usable) { Ok(()) } else { Err(UnusableName::Character) }
}

/// An IPv6 address, with an optional zone after `%`.
fn check_ipv6(text: &str) -> Result<(), UnusableName> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    address.parse::<std::net::Ipv6Addr>().map_err(|_| UnusableName::Brackets)?;
    zone.map_or(Ok(()), check_host)
}

fn read_port(text: &str) -> Result<u16, UnusableName> {
    // `parse` would accept a sign.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port != 0);
    port.ok_or(UnusableName::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str, u16), UnusableName>) {
        let name = text.parse::<MemberName>();
        let parts = name.as_ref().map(|name| (name.as_str(), name.host(), name.port())).map_err(|error| *error);
        assert_eq!(parts, expected, "{text:?}");
    }

    #[test]
    fn a_name_is_parsed_into_host_and_port_in_lower_case() {
        check("mongo-0.mongo:27017", Ok(("mongo-0.mongo:27017", "mongo-0.mongo", 27017)));
        check("Mongo_A.Example.COM:1", Ok(("mongo_a.example.com:1", "mongo_a.example.com", 1)));
        check("10.0.0.1:65535", Ok(("10.0.0.1:65535", "10.0.0.1", 65535)));
        check("[2001:DB8::1]:27018", Ok(("[2001:db8::1]:27018", "2001:db8::1", 27018)));
        check("[fe80::1%eth0]:27018", Ok(("[fe80::1%eth0]:27018", "fe80::1%eth0", 27018)));
    }

    #[test]
    fn invalid_names_are_errors() {
        check("", Err(UnusableName::NoHost));
        check(":27017", Err(UnusableName::NoHost));
        for text in ["mongo", "mongo:", "mongo:0", "mongo:65536", "mongo:+1", "mongo:1:2", "::1", "[::1]", "[::1]1"] {
            let refused = text.parse::<MemberName>();
            assert!(matches!(refused, Err(UnusableName::Port | UnusableName::NoHost)), "{text:?} {refused:?}");
        }
        for text in ["a b:1", "a\n:1", "a\0:1", "/tmp/m.sock:1", "a,b:1", "user@a:1", "a%0a:1", "müller:1", "a]:1"] {
            check(text, Err(UnusableName::Character));
        }
        for text in ["[mongo]:1", "[::1:1", "[]:1", "[1.2.3.4]:1", "[[::1]]:1", "[[::1]:1"] {
            check(text, Err(UnusableName::Brackets));
        }
        check("[::1%a b]:1", Err(UnusableName::Character));
        check(&format!("{}:1", "a".repeat(300)), Err(UnusableName::TooLong));
    }

    #[test]
    fn the_default_port_is_used_where_it_may_be_missing() {
        for (text, expected) in
            [("Mongo", "mongo:27017"), ("mongo:1", "mongo:1"), ("[::1]", "[::1]:27017"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(MemberName::with_default_port(text).unwrap().as_str(), expected);
        }
        assert_eq!(MemberName::with_default_port("mongo:x"), Err(UnusableName::Port));
    }
}
