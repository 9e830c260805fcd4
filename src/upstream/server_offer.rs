//! What a server would negotiate with a client that supports everything, when it negotiates nothing with the gateway.
//!
//! rustls has no CBC, DHE and RSA cipher suites, no Ed448 and no brainpool curves. A server that has nothing else only
//! sends an alert. This sends a `ClientHello` of TLS 1.2 that offers all of them, and reads what the server selects
//! until its first encrypted byte. No handshake is completed, and nothing is verified: the result is for a message.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::connector::Connector;
use crate::identity::CertificateFacts;

/// The most bytes that are read: a hello, a certificate chain and a key exchange.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The cipher suites of rustls, which come first: a server that has one of them selects it.
const SUPPORTED_SUITES: [u16; 6] = [0xC02F, 0xC02B, 0xC030, 0xC02C, 0xCCA8, 0xCCA9];

/// Cipher suites that rustls does not have, with the names that OpenSSL and mongod's settings use.
const OTHER_SUITES: [(u16, &str); 28] = [
    (0xC014, "ECDHE-RSA-AES256-SHA"),
    (0xC013, "ECDHE-RSA-AES128-SHA"),
    (0xC00A, "ECDHE-ECDSA-AES256-SHA"),
    (0xC009, "ECDHE-ECDSA-AES128-SHA"),
    (0xC028, "ECDHE-RSA-AES256-SHA384"),
    (0xC027, "ECDHE-RSA-AES128-SHA256"),
    (0xC024, "ECDHE-ECDSA-AES256-SHA384"),
    (0xC023, "ECDHE-ECDSA-AES128-SHA256"),
    (0xC0AD, "ECDHE-ECDSA-AES256-CCM"),
    (0xC0AC, "ECDHE-ECDSA-AES128-CCM"),
    (0x009F, "DHE-RSA-AES256-GCM-SHA384"),
    (0x009E, "DHE-RSA-AES128-GCM-SHA256"),
    (0xCCAA, "DHE-RSA-CHACHA20-POLY1305"),
    (0x006B, "DHE-RSA-AES256-SHA256"),
    (0x0067, "DHE-RSA-AES128-SHA256"),
    (0x0039, "DHE-RSA-AES256-SHA"),
    (0x0033, "DHE-RSA-AES128-SHA"),
    (0x009D, "AES256-GCM-SHA384"),
    (0x009C, "AES128-GCM-SHA256"),
    (0xC09D, "AES256-CCM"),
    (0xC09C, "AES128-CCM"),
    (0x003D, "AES256-SHA256"),
    (0x003C, "AES128-SHA256"),
    (0x0035, "AES256-SHA"),
    (0x002F, "AES128-SHA"),
    (0x0084, "CAMELLIA256-SHA"),
    (0x0041, "CAMELLIA128-SHA"),
    (0x000A, "DES-CBC3-SHA"),
];

/// Groups of the key exchange. The names are those that rustls does not have.
const GROUPS: [(u16, Option<&str>); 12] = [
    (29, None),
    (23, None),
    (24, None),
    (25, Some("P-521")),
    (30, Some("X448")),
    (26, Some("brainpoolP256r1")),
    (27, Some("brainpoolP384r1")),
    (28, Some("brainpoolP512r1")),
    (22, Some("secp256k1")),
    (21, Some("P-224")),
    (19, Some("P-192")),
    (256, Some("ffdhe2048")),
];

/// Signature algorithms of every kind, Ed448 and SHA-1 included.
const SIGNATURES: [u16; 17] = [
    0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B, 0x0401, 0x0501, 0x0601,
    0x0203, 0x0201, 0x0402,
];

/// What a server has instead of what the gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsupportedOffer {
    /// The key of its certificate, such as `Ed448`.
    Key(String),
    /// Its cipher suite, such as `AES256-SHA`.
    Suite(&'static str),
    /// Its group of the key exchange, such as `brainpoolP256r1`.
    Group(&'static str),
}

impl UnsupportedOffer {
    /// What the server offers. Completes a sentence about it.
    pub fn sentence(&self) -> String {
        match self {
            Self::Key(key) => {
                format!("its certificate has a key of the type {key}, which the gateway does not support")
            }
            Self::Suite(suite) => {
                format!("of TLS 1.2 it offers only cipher suites such as {suite}, which the gateway does not support")
            }
            Self::Group(group) => {
                format!("it offers only the key exchange with {group}, which the gateway does not support")
            }
        }
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Key(_) => {
                "give mongod a certificate with an RSA key of 2048 bits or more, an ECDSA key on P-256, P-384 or \
                 P-521, or an Ed25519 key"
            }
            Self::Suite(_) => {
                "enable TLS 1.3 (net.tls.disabledProtocols), or an ECDHE suite with AES-GCM: mongod's parameter \
                 opensslCipherConfig, as in ECDHE-RSA-AES256-GCM-SHA384"
            }
            Self::Group(_) => {
                "enable one of the groups X25519, P-256 and P-384 in the OpenSSL configuration of mongod's host \
                 (Groups)"
            }
        }
    }
}

/// Asks the server at `address` what it supports. `None` if it answers with something that the gateway supports, or not
/// at all before `deadline`.
///
/// Cancel safe: dropping the future closes the connection.
pub async fn unsupported_offer(
    connector: &Connector,
    address: SocketAddr,
    deadline: Instant,
) -> Option<UnsupportedOffer> {
    let tcp = connector.dial(address, None, deadline).await.ok()?;
    let handshake = timeout_at(deadline, ask(tcp)).await.ok()??;
    judge(&handshake)
}

/// The bytes of the handshake messages that the server sends.
async fn ask(mut tcp: TcpStream) -> Option<Vec<u8>> {
    tcp.write_all(&client_hello()).await.ok()?;
    let mut handshake = Vec::new();
    while handshake.len() < ANSWER_BYTES_MAX && !is_complete(&handshake) {
        let mut header = [0; 5];
        if tcp.read_exact(&mut header).await.is_err() || header[0] != 0x16 {
            break;
        }
        let start = handshake.len();
        handshake.resize(start + usize::from(u16::from_be_bytes([header[3], header[4]])), 0);
        tcp.read_exact(&mut handshake[start..]).await.ok()?;
    }
    Some(handshake)
}

fn client_hello() -> Vec<u8> {
    let numbers = |numbers: &mut dyn Iterator<Item = u16>| {
        let bytes: Vec<u8> = numbers.flat_map(u16::to_be_bytes).collect();
        prefixed(&bytes)
    };
    let extension = |kind: u16, content: Vec<u8>| [kind.to_be_bytes().to_vec(), prefixed(&content)].concat();
    let suites = SUPPORTED_SUITES.into_iter().chain(OTHER_SUITES.map(|(suite, _)| suite));
    let extensions = [
        extension(10, numbers(&mut GROUPS.into_iter().map(|(group, _)| group))),
        // Uncompressed points only.
        extension(11, vec![1, 0]),
        extension(13, numbers(&mut SIGNATURES.into_iter())),
    ];
    let body = [
        &[3, 3][..],
        // The random bytes protect a handshake that is completed.
        &[0x5A; 32],
        // No session, and no compression.
        &[0],
        &numbers(&mut suites.into_iter()),
        &[1, 0],
        &prefixed(&extensions.concat()),
    ]
    .concat();
    let message = [&[1, 0][..], &prefixed(&body)].concat();
    [&[0x16, 3, 1][..], &prefixed(&message)].concat()
}

/// `bytes` after their length in two bytes.
fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length, bytes].concat()
}

/// The complete messages: type and content.
fn messages(mut handshake: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let ([kind, length @ ..], rest) = handshake.split_first_chunk::<4>()?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (content, rest) = rest.split_at_checked(length)?;
        handshake = rest;
        Some((*kind, content))
    })
}

/// Whether the server has said everything: `ServerHelloDone`.
fn is_complete(handshake: &[u8]) -> bool {
    messages(handshake).any(|(kind, _)| kind == 14)
}

fn judge(handshake: &[u8]) -> Option<UnsupportedOffer> {
    let content = |kind: u8| messages(handshake).find(|(found, _)| *found == kind).map(|(_, content)| content);
    let key = content(11).and_then(leaf_key);
    if let Some(key) = key.filter(|key| !is_supported_key(key)) {
        return Some(UnsupportedOffer::Key(key));
    }
    let suite = content(2).and_then(selected_suite);
    if let Some((_, name)) = OTHER_SUITES.iter().find(|(known, _)| Some(*known) == suite) {
        return Some(UnsupportedOffer::Suite(name));
    }
    // ServerKeyExchange: a named curve.
    let group = content(12).and_then(|exchange| match exchange {
        [3, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    });
    GROUPS.iter().find(|(known, _)| Some(*known) == group).and_then(|(_, name)| name.map(UnsupportedOffer::Group))
}

/// The cipher suite of a `ServerHello`.
fn selected_suite(hello: &[u8]) -> Option<u16> {
    // After the version and the random bytes.
    let (session_length, rest) = hello.get(34..)?.split_first()?;
    let suite = rest.get(usize::from(*session_length)..)?.first_chunk()?;
    Some(u16::from_be_bytes(*suite))
}

/// The type of the key of the first certificate of a `Certificate` message.
fn leaf_key(certificates: &[u8]) -> Option<String> {
    let length = certificates.get(3..6)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let der = certificates.get(6..)?.get(..length)?;
    Some(CertificateFacts::from_der(der).ok()?.key)
}

fn is_supported_key(key: &str) -> bool {
    const CURVES: [&str; 4] = ["ECDSA P-256", "ECDSA P-384", "ECDSA P-521", "Ed25519"];
    let bits = key.strip_prefix("RSA ").and_then(|bits| bits.parse::<u32>().ok());
    CURVES.contains(&key) || key == "RSA-PSS" || bits.is_some_and(|bits| bits >= 2048)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::CertificateAuthority;

    fn message(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[kind, 0][..], &prefixed(content)].concat()
    }

    fn server_hello(suite: u16) -> Vec<u8> {
        message(2, &[&[3, 3][..], &[7; 32], &[2, 8, 9], &suite.to_be_bytes(), &[0]].concat())
    }

    fn certificate(der: &[u8]) -> Vec<u8> {
        let one = [&[0][..], &prefixed(der)].concat();
        message(11, &[&[0][..], &prefixed(&one)].concat())
    }

    #[test]
    fn the_first_thing_that_rustls_lacks_is_named() {
        let der = CertificateAuthority::new("Acme CA").issue("mongo", &[]).der;
        let exchange = |group: u16| message(12, &[&[3][..], &group.to_be_bytes(), &[1, 4]].concat());
        let answer = |suite, group| [server_hello(suite), certificate(&der), exchange(group)].concat();
        for (answer, expected) in [
            (answer(0x0035, 29), Some(UnsupportedOffer::Suite("AES256-SHA"))),
            (answer(0xC02F, 26), Some(UnsupportedOffer::Group("brainpoolP256r1"))),
            (answer(0xC02F, 29), None),
            (server_hello(0x0039), Some(UnsupportedOffer::Suite("DHE-RSA-AES256-SHA"))),
            (Vec::new(), None),
            (b"HTTP/1.1 400".to_vec(), None),
        ] {
            assert_eq!(judge(&answer), expected);
        }
        let whole = answer(0x0035, 29);
        for end in 0..whole.len() {
            judge(&whole[..end]);
        }
        assert!(!is_complete(&whole) && is_complete(&[whole, message(14, &[])].concat()));
    }

    #[test]
    fn keys_that_rustls_verifies_are_known() {
        for key in ["RSA 2048", "RSA 4096", "ECDSA P-256", "ECDSA P-384", "ECDSA P-521", "Ed25519", "RSA-PSS"] {
            assert!(is_supported_key(key), "{key}");
        }
        for key in ["RSA 1024", "RSA", "ECDSA brainpoolP256r1", "ECDSA secp256k1", "Ed448", "DSA"] {
            assert!(!is_supported_key(key), "{key}");
        }
    }
}
