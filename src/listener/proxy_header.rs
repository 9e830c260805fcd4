//! The header of the PROXY protocol, which a proxy sends before the bytes of its client.
//!
//! Spec: The PROXY protocol, versions 1 and 2 (`doc/proxy-protocol.txt` of `HAProxy`). The `ppp` crate parses headers.
//! The end of a header is found here, so that no byte after it is consumed and at most [`HEADER_BYTES_MAX`] bytes are
//! buffered.
//!
//! Whether the sender of a header is trusted is decided in `opening.rs`.

use std::net::SocketAddr;

use ppp::v1;
use ppp::v2;
use ppp::v2::{Addresses, Command, Protocol, Type, TypeLengthValues};

use crate::identity::ProxyIdentity;

/// Longest accepted header of version 2, in bytes. The specification allows 64 KiB. Addresses take at most 216 bytes,
/// and the names of a certificate some hundred.
pub(super) const HEADER_BYTES_MAX: usize = 4096;

/// Longest header of version 1 in bytes, with its line end, as specified.
const V1_BYTES_MAX: usize = 107;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the fixed part of version 2, which ends with the length of the rest.
const V2_FIXED_BYTES: usize = 16;

/// TLV type of the client's SPIFFE ID, as proxies of an ambient mesh (Istio) send it.
const TLV_SOURCE_IDENTITY: u8 = 0xD0;

/// Sub-TLV type of the common name of the client certificate, in the TLV of TLS (`PP2_SUBTYPE_SSL_CN`).
const SUBTYPE_SSL_CN: u8 = 0x22;
/// Flags of the TLV of TLS: the client showed a certificate on this connection, or earlier in this TLS session.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a proxy states about its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Address of the client.
    pub source: ProxySource,
    /// The address that the client connected to, if the header has an IP address of the client.
    pub destination: Option<SocketAddr>,
    /// Identity of the client, if the header has one; not verified yet.
    pub identity: Option<ProxyIdentity>,
}

/// The client address in a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySource {
    /// A TCP client. A mapped IPv6 address is converted to IPv4.
    Client(SocketAddr),
    /// The proxy itself (`LOCAL`): a health check.
    Proxy,
    /// The proxy does not know the address, or it is not an IP address.
    Unknown,
}

/// Why a PROXY header is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// More than 107 bytes in version 1, more than 4 KiB in version 2.
    #[error("the PROXY header is too long: version 1 has at most 107 bytes, and 4096 bytes of version 2 are accepted")]
    TooLong,
    /// The header does not follow the specification.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The header has a CRC-32C that does not match.
    #[error("the checksum (CRC-32C) of the PROXY header does not match")]
    Checksum,
    /// The header is for another protocol than TCP.
    #[error("the PROXY header is for a datagram, not for a TCP stream")]
    NotAStream,
    /// Two values state the identity of the client.
    #[error("the PROXY header has two identities of the client")]
    Ambiguous,
}

/// How much of the first bytes is a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// The bytes are no PROXY header.
    Absent,
    /// More bytes are needed.
    Undecided,
    /// The first bytes, as many as this number, are a complete header.
    Whole(usize),
}

/// Finds the end of the header at the front of `bytes`. Reads at most the bytes that a header can have.
pub(super) fn measure(bytes: &[u8]) -> Result<Measure, ProxyHeaderError> {
    if starts_alike(bytes, V2_START) {
        let Some(length) = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) else { return Ok(Measure::Undecided) };
        let whole = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) + V2_FIXED_BYTES;
        if whole > HEADER_BYTES_MAX {
            return Err(ProxyHeaderError::TooLong);
        }
        return Ok(if bytes.len() < whole { Measure::Undecided } else { Measure::Whole(whole) });
    }
    if !starts_alike(bytes, V1_START) {
        return Ok(Measure::Absent);
    }
    let line = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => Ok(Measure::Whole(end + 2)),
        None if bytes.len() >= V1_BYTES_MAX => Err(ProxyHeaderError::TooLong),
        None => Ok(Measure::Undecided),
    }
}

/// Whether `bytes` begin with a PROXY header, for a listener that expects none.
pub(super) fn is_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_START) || bytes.starts_with(V2_START)
}

/// Parses a complete header, as found by [`measure`]. `identity_type` is a further TLV type, in addition to 0xD0, that
/// contains a SPIFFE ID.
pub(super) fn parse(header: &[u8], identity_type: Option<u8>) -> Result<ProxyHeader, ProxyHeaderError> {
    if header.starts_with(V2_START) {
        return parse_v2(header, identity_type);
    }
    let parsed = v1::Header::try_from(header).map_err(|_| ProxyHeaderError::Malformed)?;
    let (source, destination) = match parsed.addresses {
        v1::Addresses::Tcp4(ip) => {
            client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
        }
        v1::Addresses::Tcp6(ip) => {
            client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
        }
        v1::Addresses::Unknown => (ProxySource::Unknown, None),
    };
    Ok(ProxyHeader { source, destination, identity: None })
}

fn parse_v2(bytes: &[u8], identity_type: Option<u8>) -> Result<ProxyHeader, ProxyHeaderError> {
    let header = v2::Header::try_from(bytes).map_err(|_| ProxyHeaderError::Malformed)?;
    // The specification says to ignore the rest of a LOCAL header.
    if header.command == Command::Local {
        return Ok(ProxyHeader { source: ProxySource::Proxy, destination: None, identity: None });
    }
    let (source, destination) = match header.addresses {
        Addresses::IPv4(ip) => {
            client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
        }
        Addresses::IPv6(ip) => {
            client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
        }
        Addresses::Unix(_) => (ProxySource::Unknown, None),
        // The end of the addresses is not known, so the TLVs cannot be found.
        Addresses::Unspecified => {
            return Ok(ProxyHeader { source: ProxySource::Unknown, destination: None, identity: None });
        }
    };
    if header.protocol != Protocol::Stream {
        return Err(ProxyHeaderError::NotAStream);
    }
    let identity = identity(&header, identity_type)?;
    Ok(ProxyHeader { source, destination, identity })
}

/// The source and the destination of a client.
fn client(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> (ProxySource, Option<SocketAddr>) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (ProxySource::Client(canonical(source.into())), Some(canonical(destination.into())))
}

/// The client's identity from the TLVs. Also verifies the checksum, if there is one.
fn identity(header: &v2::Header<'_>, identity_type: Option<u8>) -> Result<Option<ProxyIdentity>, ProxyHeaderError> {
    let (mut id, mut common_name) = (None, None);
    let mut offset = header.len() - header.tlv_bytes().len();
    for tlv in header.tlvs() {
        let tlv = tlv.map_err(|_| ProxyHeaderError::Malformed)?;
        let value = offset + 3;
        offset = value + tlv.value.len();
        if tlv.kind == u8::from(Type::CRC32C) {
            verify_checksum(header.as_bytes(), value, &tlv.value)?;
        } else if tlv.kind == u8::from(Type::SSL) {
            set_once(&mut common_name, verified_common_name(&tlv.value)?)?;
        } else if tlv.kind == TLV_SOURCE_IDENTITY || Some(tlv.kind) == identity_type {
            set_once(&mut id, text(&tlv.value)?)?;
        }
    }
    Ok(id.map(ProxyIdentity::Id).or(common_name.map(ProxyIdentity::CommonName)))
}

fn set_once(identity: &mut Option<String>, value: Option<String>) -> Result<(), ProxyHeaderError> {
    if identity.is_some() && value.is_some() {
        return Err(ProxyHeaderError::Ambiguous);
    }
    *identity = identity.take().or(value);
    Ok(())
}

/// The text of a value; `None` for an empty value, which counts as absent.
fn text(value: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
    let text = std::str::from_utf8(value).map_err(|_| ProxyHeaderError::Malformed)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The common name of the client certificate, if the proxy has verified the certificate.
fn verified_common_name(ssl: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
    let Some(([client, verify @ ..], values)) = ssl.split_first_chunk::<5>() else {
        return Err(ProxyHeaderError::Malformed);
    };
    let mut name = None;
    for tlv in TypeLengthValues::from(values) {
        let tlv = tlv.map_err(|_| ProxyHeaderError::Malformed)?;
        if tlv.kind == SUBTYPE_SSL_CN {
            set_once(&mut name, text(&tlv.value)?)?;
        }
    }
    let verified = client & CLIENT_CERTIFICATE != 0 && *verify == [0; 4];
    Ok(name.filter(|_| verified))
}

/// Verifies the checksum at `offset`. It covers the whole header, with zeros in place of the checksum.
fn verify_checksum(header: &[u8], offset: usize, sum: &[u8]) -> Result<(), ProxyHeaderError> {
    let sum: [u8; 4] = sum.try_into().map_err(|_| ProxyHeaderError::Malformed)?;
    let (before, rest) = header.split_at_checked(offset).ok_or(ProxyHeaderError::Malformed)?;
    let after = rest.get(sum.len()..).ok_or(ProxyHeaderError::Malformed)?;
    let computed = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    if computed == u32::from_be_bytes(sum) { Ok(()) } else { Err(ProxyHeaderError::Checksum) }
}

/// Whether one of the two is a prefix of the other.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2 from its version and command, family and protocol, addresses, and TLVs.
    pub(in crate::listener) fn v2(command: u8, family: u8, addresses: &[u8], tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = addresses.to_vec();
        for (kind, value) in tlvs {
            body.push(*kind);
            body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            body.extend(*value);
        }
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, &body].concat()
    }

    const IPV4: [u8; 12] = [10, 1, 3, 7, 10, 0, 0, 1, 0x1F, 0x90, 0x69, 0x89];

    fn ipv4(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        v2(0x21, 0x11, &IPV4, tlvs)
    }

    /// An IPv4 header with a checksum as its last TLV.
    fn with_checksum(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let mut header = ipv4(&[tlvs, &[(3, &[0; 4])]].concat());
        let sum = crc32c::crc32c(&header);
        let offset = header.len() - 4;
        header[offset..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ssl(client: u8, verify: u32, values: &[(u8, &[u8])]) -> Vec<u8> {
        let values = v2(0, 0, &[], values);
        [&[client][..], &verify.to_be_bytes(), &values[V2_FIXED_BYTES..]].concat()
    }

    /// Source and identity of a header. Also checks that its end is found when it arrives in pieces or with more bytes.
    fn parsed(header: &[u8]) -> Result<String, ProxyHeaderError> {
        for cut in 0..header.len() {
            assert_eq!(measure(&header[..cut]), Ok(Measure::Undecided), "after {cut} bytes");
        }
        assert_eq!(measure(&[header, b"more"].concat()), Ok(Measure::Whole(header.len())));
        let parsed = parse(header, Some(0xE4))?;
        let source = match parsed.source {
            ProxySource::Client(address) => address.to_string(),
            other => format!("{other:?}"),
        };
        Ok(match parsed.identity {
            None => source,
            Some(ProxyIdentity::Id(id)) => format!("{source} id {id}"),
            Some(ProxyIdentity::CommonName(name)) => format!("{source} name {name}"),
        })
    }

    #[test]
    fn version_1_has_the_clients_address() {
        for (header, expected) in [
            ("PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017\r\n", Ok("10.1.3.7:8080")),
            ("PROXY TCP6 2001:db8::7 ::1 8080 27017\r\n", Ok("[2001:db8::7]:8080")),
            ("PROXY TCP6 ::ffff:10.1.3.7 ::1 8080 27017\r\n", Ok("10.1.3.7:8080")),
            ("PROXY UNKNOWN\r\n", Ok("Unknown")),
            ("PROXY UNKNOWN 1.2.3.4 what ever\r\n", Ok("Unknown")),
            ("PROXY TCP4 10.1.3.7 10.0.0.1 8080\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4 10.1.3.7 10.0.0.1 08080 27017\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4 10.1.3.7 10.0.0.1 8080 99999\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4 ::1 ::1 8080 27017\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4  10.1.3.7 10.0.0.1 8080 27017\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017 \r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY UDP4 10.1.3.7 10.0.0.1 8080 27017\r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY \r\n", Err(ProxyHeaderError::Malformed)),
            ("PROXY TCP4 \u{fc} 10.0.0.1 8080 27017\r\n", Err(ProxyHeaderError::Malformed)),
        ] {
            assert_eq!(parsed(header.as_bytes()), expected.map(str::to_owned), "{header}");
        }
    }

    #[test]
    fn version_2_has_the_clients_address_and_identity() {
        let ipv6 = [&[0; 10][..], &[0xFF, 0xFF, 10, 1, 3, 7], &[0; 16], &[0, 80, 0, 81]].concat();
        let spiffe = b"spiffe://td/x".as_slice();
        for (header, expected) in [
            (ipv4(&[]), "10.1.3.7:8080"),
            (v2(0x21, 0x21, &ipv6, &[]), "10.1.3.7:80"),
            (v2(0x21, 0x31, &[b'/'; 216], &[(0xD0, b"td/x")]), "Unknown id td/x"),
            (v2(0x21, 0x00, &[1, 2, 3], &[]), "Unknown"),
            (v2(0x20, 0x00, &[], &[]), "Proxy"),
            (v2(0x20, 0x11, &IPV4, &[(0xD0, spiffe)]), "Proxy"),
            (ipv4(&[(1, b"h2"), (2, b"host"), (0xD0, spiffe)]), "10.1.3.7:8080 id spiffe://td/x"),
            (ipv4(&[(0xE4, b"td/x")]), "10.1.3.7:8080 id td/x"),
            (ipv4(&[(0xE5, b"td/x"), (0xD0, b"")]), "10.1.3.7:8080"),
            (ipv4(&[(4, &[0; 1000])]), "10.1.3.7:8080"),
            (with_checksum(&[(0xD0, spiffe)]), "10.1.3.7:8080 id spiffe://td/x"),
        ] {
            assert_eq!(parsed(&header).as_deref(), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn the_common_name_is_used_only_if_the_proxy_verified_the_certificate() {
        let name: &[(u8, &[u8])] = &[(0x21, b"TLSv1.3"), (0x22, b"cart"), (0x23, b"x")];
        for (client, verify, values, expected) in [
            (0x07, 0, name, "10.1.3.7:8080 name cart"),
            (0x03, 0, name, "10.1.3.7:8080 name cart"),
            (0x05, 0, name, "10.1.3.7:8080 name cart"),
            (0x01, 0, name, "10.1.3.7:8080"),
            (0x07, 1, name, "10.1.3.7:8080"),
            (0x07, 0, &[(0x21, b"TLSv1.3")], "10.1.3.7:8080"),
            (0x07, 0, &[(0x22, b"")], "10.1.3.7:8080"),
        ] {
            assert_eq!(parsed(&ipv4(&[(0x20, &ssl(client, verify, values))])).as_deref(), Ok(expected));
        }
        let both = ipv4(&[(0x20, &ssl(7, 0, name)), (0xD0, b"td/x")]);
        assert_eq!(parsed(&both).as_deref(), Ok("10.1.3.7:8080 id td/x"));
    }

    #[test]
    fn an_invalid_header_is_an_error() {
        use ProxyHeaderError as E;
        let mut damaged = with_checksum(&[(0xD0, b"td/x")]);
        damaged[16] ^= 1;
        let (mut torn, mut torn_inside) = (ipv4(&[(0xD0, b"td/x")]), ssl(7, 0, &[(0x22, b"cart")]));
        torn[30] = 9;
        torn_inside[7] = 9;
        for (header, expected) in [
            (damaged, E::Checksum),
            (ipv4(&[(3, &[0; 3])]), E::Malformed),
            (torn, E::Malformed),
            (ipv4(&[(0x20, &[1, 0, 0, 0])]), E::Malformed),
            (ipv4(&[(0x20, &torn_inside)]), E::Malformed),
            (ipv4(&[(0xD0, b"\xFF")]), E::Malformed),
            (ipv4(&[(0xD0, b"td/x"), (0xE4, b"td/x")]), E::Ambiguous),
            (ipv4(&[(0x20, &ssl(7, 0, &[(0x22, b"a"), (0x22, b"b")]))]), E::Ambiguous),
            (v2(0x21, 0x12, &IPV4, &[]), E::NotAStream),
            (v2(0x21, 0x10, &IPV4, &[]), E::NotAStream),
            (v2(0x11, 0x11, &IPV4, &[]), E::Malformed),
            (v2(0x22, 0x11, &IPV4, &[]), E::Malformed),
            (v2(0x21, 0x41, &IPV4, &[]), E::Malformed),
            (v2(0x21, 0x11, &IPV4[..11], &[]), E::Malformed),
        ] {
            assert_eq!(parsed(&header), Err(expected), "{header:?}");
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_an_error_before_it_is_complete() {
        let most = ipv4(&[(4, &[0; HEADER_BYTES_MAX - 16 - 12 - 3])]);
        assert_eq!(most.len(), HEADER_BYTES_MAX);
        assert_eq!(measure(&most), Ok(Measure::Whole(HEADER_BYTES_MAX)));
        let more = ipv4(&[(4, &[0; HEADER_BYTES_MAX - 16 - 12 - 2])]);
        assert_eq!(measure(&more[..16]), Err(ProxyHeaderError::TooLong));
        let line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
        assert_eq!(measure(&line[..106]), Ok(Measure::Undecided));
        assert_eq!(measure(&line[..107]), Err(ProxyHeaderError::TooLong));
        assert_eq!(measure(&line), Err(ProxyHeaderError::TooLong));
    }

    #[test]
    fn other_protocols_are_recognised_as_no_header_immediately() {
        for bytes in [b"POST".as_slice(), b"PROX\0", b"\r\n\r\n\x01", b"\x16\x03\x01", &[58, 0, 0, 0], &[13, 0, 0, 0]] {
            assert_eq!(measure(bytes), Ok(Measure::Absent), "{bytes:?}");
            assert!(!is_proxy_header(bytes));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_measured_and_parsed_without_panic(
            start in prop::sample::select(
                vec![b"PROXY TCP4 ".to_vec(), b"PROXY ".to_vec(), ipv4(&[]), V2_START.to_vec(), vec![]]
            ),
            rest in prop::collection::vec(any::<u8>(), 0..300),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = [start, rest].concat();
            for (index, byte) in damage {
                if !bytes.is_empty() {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
            }
            if let Ok(Measure::Whole(whole)) = measure(&bytes) {
                prop_assert!(whole <= bytes.len() && whole <= HEADER_BYTES_MAX);
                let _ = parse(&bytes[..whole], Some(0xE4));
            }
        }

        #[test]
        fn any_tlvs_are_parsed_without_panic(
            tlvs in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let tlvs: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
            let _ = parse(&ipv4(&tlvs), None);
        }
    }
}
