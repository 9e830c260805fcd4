//! The PROXY header that a proxy sends ahead of a client's bytes: where it ends, and what it says.
//!
//! Spec: The PROXY protocol, versions 1 and 2 (`doc/proxy-protocol.txt` of `HAProxy`). The `ppp` crate reads headers; where one ends is decided here, so
//! that no byte behind it is touched and nothing longer than [`HEADER_BYTES_MAX`] is ever collected.
//!
//! Refuses to trust: whether this source may send a header is decided by whoever reads it.

use std::net::SocketAddr;

use ppp::v1;
use ppp::v2;
use ppp::v2::{Addresses, Command, Protocol, Type, TypeLengthValues};

use crate::identity::ProxyIdentity;

/// Bytes of a whole header of version 2. The standard allows 64 KiB; addresses take 216 at most, and a certificate's
/// names some hundred.
pub(super) const HEADER_BYTES_MAX: usize = 4096;

/// Bytes of a whole header of version 1, line end included; the standard's own limit.
const V1_BYTES_MAX: usize = 107;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to and with the length of what follows.
const V2_FIXED_BYTES: usize = 16;

/// The source's SPIFFE id, as proxies of an ambient mesh send it.
const TLV_SOURCE_IDENTITY: u8 = 0xD0;

/// The common name of the client's certificate, inside of the TLV of TLS.
const SUBTYPE_SSL_CN: u8 = 0x22;
/// The client showed a certificate on this connection, or earlier in this TLS session.
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// What a proxy says of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Where the client is.
    pub source: ProxySource,
    /// Who it is, if the proxy says so; judged by nobody yet.
    pub identity: Option<ProxyIdentity>,
}

/// Where a PROXY header says that the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySource {
    /// There. An IPv4 client of an IPv6 socket stands as the IPv4 client that it is.
    Client(SocketAddr),
    /// It is the proxy itself: a health check.
    Proxy,
    /// The proxy does not know, or it is no address of a network.
    Unknown,
}

/// Bytes that begin as a PROXY header and are none that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// More than 107 bytes in version 1, more than 4 KiB in version 2.
    #[error("the PROXY header is longer than is taken")]
    TooLong,
    /// Not what the standard says.
    #[error("the PROXY header cannot be read")]
    Malformed,
    /// The header carries a CRC-32C, and it does not match.
    #[error("the checksum of the PROXY header does not match")]
    Checksum,
    /// The header is for another protocol than TCP.
    #[error("the PROXY header is for a datagram")]
    NotAStream,
    /// Two values say who the client is.
    #[error("the PROXY header says twice who the client is")]
    Ambiguous,
}

/// How much of some first bytes is a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// They begin as something else.
    Absent,
    /// More bytes are needed to tell.
    Undecided,
    /// So many bytes are one.
    Whole(usize),
}

/// Finds the end of the header that `bytes` begin with; looks at no more bytes than a header can have.
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

/// Whether `bytes` are the beginning of a PROXY header, for a listener that expects none.
pub(super) fn is_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_START) || bytes.starts_with(V2_START)
}

/// Reads a whole header, as [`measure`] found it. `identity_type` is a type of TLV that carries a SPIFFE id beside 0xD0.
pub(super) fn parse(header: &[u8], identity_type: Option<u8>) -> Result<ProxyHeader, ProxyHeaderError> {
    if header.starts_with(V2_START) {
        return parse_v2(header, identity_type);
    }
    let parsed = v1::Header::try_from(header).map_err(|_| ProxyHeaderError::Malformed)?;
    let source = match parsed.addresses {
        v1::Addresses::Tcp4(ip) => client(SocketAddr::from((ip.source_address, ip.source_port))),
        v1::Addresses::Tcp6(ip) => client(SocketAddr::from((ip.source_address, ip.source_port))),
        v1::Addresses::Unknown => ProxySource::Unknown,
    };
    Ok(ProxyHeader { source, identity: None })
}

fn parse_v2(bytes: &[u8], identity_type: Option<u8>) -> Result<ProxyHeader, ProxyHeaderError> {
    let header = v2::Header::try_from(bytes).map_err(|_| ProxyHeaderError::Malformed)?;
    // What else stands in such a header is to be passed over, says the standard.
    if header.command == Command::Local {
        return Ok(ProxyHeader { source: ProxySource::Proxy, identity: None });
    }
    let source = match header.addresses {
        Addresses::IPv4(ip) => client(SocketAddr::from((ip.source_address, ip.source_port))),
        Addresses::IPv6(ip) => client(SocketAddr::from((ip.source_address, ip.source_port))),
        Addresses::Unix(_) => ProxySource::Unknown,
        // Likewise: nobody can say where addresses end and values begin.
        Addresses::Unspecified => return Ok(ProxyHeader { source: ProxySource::Unknown, identity: None }),
    };
    if header.protocol != Protocol::Stream {
        return Err(ProxyHeaderError::NotAStream);
    }
    let identity = identity(&header, identity_type)?;
    Ok(ProxyHeader { source, identity })
}

fn client(address: SocketAddr) -> ProxySource {
    ProxySource::Client(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Walks all values, verifies the checksum if there is one, and keeps what says who the client is.
fn identity(header: &v2::Header<'_>, identity_type: Option<u8>) -> Result<Option<ProxyIdentity>, ProxyHeaderError> {
    let (mut id, mut common_name) = (None, None);
    let mut offset = header.len() - header.tlv_bytes().len();
    for tlv in header.tlvs() {
        let tlv = tlv.map_err(|_| ProxyHeaderError::Malformed)?;
        let value = offset + 3;
        offset = value + tlv.value.len();
        if tlv.kind == u8::from(Type::CRC32C) {
            check_sum(header.as_bytes(), value, &tlv.value)?;
        } else if tlv.kind == u8::from(Type::SSL) {
            keep(&mut common_name, verified_common_name(&tlv.value)?)?;
        } else if tlv.kind == TLV_SOURCE_IDENTITY || Some(tlv.kind) == identity_type {
            keep(&mut id, text(&tlv.value)?)?;
        }
    }
    Ok(id.map(ProxyIdentity::Id).or(common_name.map(ProxyIdentity::CommonName)))
}

/// An empty value says nothing, as if it were not there.
fn keep(kept: &mut Option<String>, value: Option<String>) -> Result<(), ProxyHeaderError> {
    if kept.is_some() && value.is_some() {
        return Err(ProxyHeaderError::Ambiguous);
    }
    *kept = kept.take().or(value);
    Ok(())
}

fn text(value: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
    let text = std::str::from_utf8(value).map_err(|_| ProxyHeaderError::Malformed)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The common name of a certificate that the client showed and the proxy verified.
fn verified_common_name(ssl: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
    let Some(([client, verify @ ..], values)) = ssl.split_first_chunk::<5>() else {
        return Err(ProxyHeaderError::Malformed);
    };
    let mut name = None;
    for tlv in TypeLengthValues::from(values) {
        let tlv = tlv.map_err(|_| ProxyHeaderError::Malformed)?;
        if tlv.kind == SUBTYPE_SSL_CN {
            keep(&mut name, text(&tlv.value)?)?;
        }
    }
    let verified = client & CLIENT_CERTIFICATE != 0 && *verify == [0; 4];
    Ok(name.filter(|_| verified))
}

/// The sum is that of the whole header, with zeros in its own place.
fn check_sum(header: &[u8], place: usize, sum: &[u8]) -> Result<(), ProxyHeaderError> {
    let sum: [u8; 4] = sum.try_into().map_err(|_| ProxyHeaderError::Malformed)?;
    let (before, rest) = header.split_at_checked(place).ok_or(ProxyHeaderError::Malformed)?;
    let after = rest.get(sum.len()..).ok_or(ProxyHeaderError::Malformed)?;
    let computed = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    if computed == u32::from_be_bytes(sum) { Ok(()) } else { Err(ProxyHeaderError::Checksum) }
}

/// Whether one of both begins with the other.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2: command and version, family and protocol, addresses, values.
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

    /// The same with a checksum at the end of its values.
    fn with_sum(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
        let mut header = ipv4(&[tlvs, &[(3, &[0; 4])]].concat());
        let sum = crc32c::crc32c(&header);
        let place = header.len() - 4;
        header[place..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ssl(client: u8, verify: u32, values: &[(u8, &[u8])]) -> Vec<u8> {
        let values = v2(0, 0, &[], values);
        [&[client][..], &verify.to_be_bytes(), &values[V2_FIXED_BYTES..]].concat()
    }

    /// Source and identity of a header that must be found whole in front of other bytes, in any pieces.
    fn told(header: &[u8]) -> Result<String, ProxyHeaderError> {
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
    fn version_1_says_where_the_client_is() {
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
            assert_eq!(told(header.as_bytes()), expected.map(str::to_owned), "{header}");
        }
    }

    #[test]
    fn version_2_says_where_and_who_the_client_is() {
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
            (with_sum(&[(0xD0, spiffe)]), "10.1.3.7:8080 id spiffe://td/x"),
        ] {
            assert_eq!(told(&header).as_deref(), Ok(expected), "{header:?}");
        }
    }

    #[test]
    fn the_common_name_counts_only_if_the_proxy_verified_the_certificate() {
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
            assert_eq!(told(&ipv4(&[(0x20, &ssl(client, verify, values))])).as_deref(), Ok(expected));
        }
        let both = ipv4(&[(0x20, &ssl(7, 0, name)), (0xD0, b"td/x")]);
        assert_eq!(told(&both).as_deref(), Ok("10.1.3.7:8080 id td/x"));
    }

    #[test]
    fn a_header_with_a_fault_is_refused() {
        use ProxyHeaderError as E;
        let mut damaged = with_sum(&[(0xD0, b"td/x")]);
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
            assert_eq!(told(&header), Err(expected), "{header:?}");
        }
    }

    #[test]
    fn a_header_that_is_too_long_is_refused_before_it_is_whole() {
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
    fn other_first_bytes_are_no_header_at_once() {
        for bytes in [b"POST".as_slice(), b"PROX\0", b"\r\n\r\n\x01", b"\x16\x03\x01", &[58, 0, 0, 0], &[13, 0, 0, 0]] {
            assert_eq!(measure(bytes), Ok(Measure::Absent), "{bytes:?}");
            assert!(!is_proxy_header(bytes));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_measured_and_read_without_panic(
            start in prop::sample::select(vec![b"PROXY TCP4 ".to_vec(), b"PROXY ".to_vec(), ipv4(&[]), V2_START.to_vec(), vec![]]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = [start, rest].concat();
            for (place, byte) in damage {
                if !bytes.is_empty() {
                    let index = place.index(bytes.len());
                    bytes[index] = byte;
                }
            }
            if let Ok(Measure::Whole(whole)) = measure(&bytes) {
                prop_assert!(whole <= bytes.len() && whole <= HEADER_BYTES_MAX);
                let _ = parse(&bytes[..whole], Some(0xE4));
            }
        }

        #[test]
        fn any_values_are_walked_to_the_end(
            tlvs in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            let tlvs: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
            let _ = parse(&ipv4(&tlvs), None);
        }
    }
}
