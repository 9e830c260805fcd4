//! The addresses of a client, and the PROXY header that tells them to a server.
//!
//! Spec: The PROXY protocol, version 2 (`doc/proxy-protocol.txt` of `HAProxy`). mongod reads the header in
//! `src/mongo/transport/proxy_protocol_header_parser.cpp`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ppp::v2::{AddressFamily, Addresses, Builder, Command, Protocol, Version};

/// Between which addresses a client connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientEndpoints {
    source: SocketAddr,
    destination: SocketAddr,
}

impl ClientEndpoints {
    /// `source` is the address of the client, and `destination` the address that it connected to, if that is known.
    ///
    /// A header has both addresses in the same family. A destination of the other family is replaced by the unspecified
    /// address: a server must see an IPv4 client as an IPv4 client.
    pub fn new(source: SocketAddr, destination: Option<SocketAddr>) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let source = canonical(source);
        let unspecified: IpAddr =
            if source.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let destination = match destination.map(canonical) {
            Some(known) if known.is_ipv4() == source.is_ipv4() => known,
            other => SocketAddr::new(unspecified, other.map_or(0, |known| known.port())),
        };
        Self { source, destination }
    }
}

/// The header of a connection for `client`. Without a client, the header says `LOCAL`: the server uses the gateway's
/// address.
///
/// The family of unix domain sockets is never sent. mongod would take such a client for one on its own host, and its
/// localhost exception lets that client create the first user.
pub(super) fn proxy_header(client: Option<&ClientEndpoints>) -> io::Result<Vec<u8>> {
    let builder = match client {
        Some(ClientEndpoints { source, destination }) => Builder::with_addresses(
            Version::Two | Command::Proxy,
            Protocol::Stream,
            Addresses::from((*source, *destination)),
        ),
        None => Builder::new(Version::Two | Command::Local, AddressFamily::Unspecified | Protocol::Unspecified),
    };
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    #[track_caller]
    fn check(source: &str, destination: Option<&str>, family: u8, addresses: &[u8]) {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let client = ClientEndpoints::new(parse(source), destination.map(parse));
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        let expected = [SIGNATURE, &[0x21, family], &length, addresses].concat();
        assert_eq!(proxy_header(Some(&client)).unwrap(), expected, "{source} {destination:?}");
    }

    #[test]
    fn the_header_has_the_addresses_of_the_client() {
        let ports = [0x1F, 0x90, 0x69, 0x89];
        let from = [10, 1, 3, 7];
        check("10.1.3.7:8080", Some("10.0.0.1:27017"), 0x11, &[&from[..], &[10, 0, 0, 1], &ports].concat());
        check(
            "[::ffff:10.1.3.7]:8080",
            Some("[::ffff:10.0.0.1]:27017"),
            0x11,
            &[&from[..], &[10, 0, 0, 1], &ports].concat(),
        );
        check("10.1.3.7:8080", Some("[fd00::1]:27017"), 0x11, &[&from[..], &[0; 4], &ports].concat());
        check("10.1.3.7:8080", None, 0x11, &[&from[..], &[0; 4], &ports[..2], &[0, 0]].concat());
        let (six, here) = (Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 7).octets(), Ipv6Addr::LOCALHOST.octets());
        check("[fd00::7]:8080", Some("[::1]:27017"), 0x21, &[&six[..], &here, &ports].concat());
        check("[fd00::7]:8080", Some("10.0.0.1:27017"), 0x21, &[&six[..], &[0; 16], &ports].concat());
    }

    #[test]
    fn a_connection_without_a_client_is_local() {
        assert_eq!(proxy_header(None).unwrap(), [SIGNATURE, &[0x20, 0x00, 0, 0]].concat());
    }
}
