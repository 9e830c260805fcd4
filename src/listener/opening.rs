//! Reads what a client sends before its first message: a PROXY header, a TLS handshake, and the header of the message.
//!
//! No work is done for a client before it sends something, so that TCP probes are cheap. Everything before the first
//! message has one deadline. Nothing is answered here; the caller decides about the reply.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::client_stream::{ClientAddress, ClientSocket, ClientStream, PeerUser};
use super::handshake;
use super::handshake::{HandshakeFailure, PeerTls};
use super::proxy_header;
use super::proxy_header::{Measure, ProxyHeader, ProxyHeaderError};
use crate::config::{ListenerConfig, ProxyProtocol};
use crate::wire::header::{HEADER_BYTES, Header};

/// How long a client may take to send its first message header. A driver sends its hello immediately; a client that
/// stays silent for longer would hold a connection permit for nothing.
const OPENING_DEADLINE: Duration = Duration::from_secs(30);

/// Size of the first read, so that a usual hello takes one system call.
const OPENING_BYTES_MAX: usize = 2048;

/// How the bytes of a client begin, or why there are none.
#[derive(Debug)]
pub enum Opening {
    /// A MongoDB message: its header, and all bytes read so far.
    Message(Header, Vec<u8>),
    /// A TLS handshake record: all bytes read so far.
    Tls(Vec<u8>),
    /// An HTTP request.
    Http,
    /// A PROXY header on a listener or in a place that expects none.
    Proxy,
    /// A PROXY header that is invalid or not supported.
    BadProxy(ProxyHeaderError),
    /// The TLS handshake failed.
    Handshake(HandshakeFailure),
    /// Another protocol, or a message header with an impossible length.
    Unknown,
    /// The client sent no byte before it closed or the deadline passed: a TCP probe.
    Nothing,
    /// The client sent less than a message header before it closed or the deadline passed.
    Unfinished,
    /// The socket failed.
    Failed(io::Error),
}

/// Everything that a client showed before its first message.
#[derive(Debug)]
pub struct ClientPreamble {
    /// The stream, for the reply and for everything that follows. `None` when the deadline passed during a TLS
    /// handshake.
    pub client: Option<ClientStream>,
    /// Peer credentials of a unix domain socket.
    pub user: Option<PeerUser>,
    /// The PROXY header, if there is one; or why it, or its absence, is not accepted.
    pub proxy: Result<Option<ProxyHeader>, ProxyRefusal>,
    /// What the client showed in TLS.
    pub tls: PeerTls,
    /// How the client's bytes begin; with TLS, the decrypted bytes.
    pub opening: Opening,
}

/// Which clients of a listener may or must send a PROXY header.
#[derive(Debug, Clone)]
pub struct ProxyRules {
    protocol: ProxyProtocol,
    trusted: Vec<IpNet>,
    identity_tlv: Option<u8>,
}

/// Why a client is rejected because of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyRefusal {
    /// The client sent a PROXY header, or one is required, and its address is not in `proxy_trusted`.
    Untrusted,
    /// A PROXY header is required and the client sent none.
    Missing,
}

impl ProxyRules {
    /// The rules of a listener.
    pub fn new(config: &ListenerConfig) -> Self {
        Self {
            protocol: config.proxy_protocol,
            trusted: config.proxy_trusted.clone(),
            identity_tlv: config.proxy_identity_tlv,
        }
    }

    /// Clients of a unix domain socket are always trusted: the file mode of the socket restricts them.
    fn is_trusted(&self, source: ClientAddress) -> bool {
        match source {
            ClientAddress::Unix => true,
            ClientAddress::Tcp(address) => self.trusted.iter().any(|network| network.contains(&address.ip())),
        }
    }

    fn check(&self, source: ClientAddress, header: Option<ProxyHeader>) -> Result<Option<ProxyHeader>, ProxyRefusal> {
        let needs_trust = header.is_some() || self.protocol == ProxyProtocol::Required;
        if needs_trust && !self.is_trusted(source) {
            return Err(ProxyRefusal::Untrusted);
        }
        if header.is_none() && self.protocol == ProxyProtocol::Required {
            return Err(ProxyRefusal::Missing);
        }
        Ok(header)
    }
}

/// Reads the bytes of a client up to the header of its first message, within 30 s.
///
/// If `tls` is set and the client begins TLS, the handshake is performed first; not if the PROXY rules reject the
/// client. When this future is dropped, the client's connection closes.
pub async fn read_opening(
    mut socket: ClientSocket,
    source: ClientAddress,
    rules: &ProxyRules,
    tls: Option<Arc<ServerConfig>>,
) -> ClientPreamble {
    let deadline = Instant::now() + OPENING_DEADLINE;
    let user = socket.peer_user();
    let mut bytes = Vec::with_capacity(OPENING_BYTES_MAX);
    let header = match rules.protocol {
        ProxyProtocol::Off => Ok(None),
        _ => read_proxy_header(&mut socket, &mut bytes, rules.identity_tlv, deadline).await,
    };
    let (proxy, opening) = match header {
        Ok(header) => (rules.check(source, header), read_first_message(&mut socket, bytes, deadline).await),
        Err(opening) => (Ok(None), opening),
    };
    match (opening, tls, &proxy) {
        (Opening::Tls(bytes), Some(config), Ok(_)) => {
            let (client, tls, opening) = read_opening_in_tls(config, bytes, socket, deadline).await;
            ClientPreamble { client, user, proxy, tls, opening }
        }
        (opening, _, _) => {
            ClientPreamble { client: Some(ClientStream::Plain(socket)), user, proxy, tls: PeerTls::Plaintext, opening }
        }
    }
}

async fn read_opening_in_tls(
    config: Arc<ServerConfig>,
    read: Vec<u8>,
    socket: ClientSocket,
    deadline: Instant,
) -> (Option<ClientStream>, PeerTls, Opening) {
    match handshake::accept(config, read, socket, deadline).await {
        Ok(stream) => {
            let tls = handshake::peer_tls(&stream);
            let mut client = ClientStream::Tls(Box::new(stream));
            let opening = match read_first_message(&mut client, Vec::with_capacity(OPENING_BYTES_MAX), deadline).await {
                // TLS inside TLS is not supported, and a PROXY header comes before TLS.
                Opening::Tls(_) | Opening::Proxy => Opening::Unknown,
                opening => opening,
            };
            (Some(client), tls, opening)
        }
        Err((failure, socket)) => (socket.map(ClientStream::Plain), PeerTls::Plaintext, Opening::Handshake(failure)),
    }
}

/// Removes the PROXY header from the front of `bytes`. Reads until it is known whether there is one, and all of it.
async fn read_proxy_header(
    client: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    identity_tlv: Option<u8>,
    deadline: Instant,
) -> Result<Option<ProxyHeader>, Opening> {
    loop {
        match proxy_header::measure(bytes).map_err(Opening::BadProxy)? {
            Measure::Absent => return Ok(None),
            Measure::Whole(length) => {
                let header: Vec<u8> = bytes.drain(..length).collect();
                return proxy_header::parse(&header, identity_tlv).map(Some).map_err(Opening::BadProxy);
            }
            Measure::Undecided => read_more(client, bytes, deadline).await?,
        }
    }
}

/// Reads until the kind of the opening is known. `bytes` have already been read.
async fn read_first_message(client: &mut (impl AsyncRead + Unpin), mut bytes: Vec<u8>, deadline: Instant) -> Opening {
    loop {
        match recognise(&bytes) {
            Some(Opening::Message(header, _)) => return Opening::Message(header, bytes),
            Some(Opening::Tls(_)) => return Opening::Tls(bytes),
            Some(other) => return other,
            None => {}
        }
        if let Err(end) = read_more(client, &mut bytes, deadline).await {
            return end;
        }
    }
}

/// Appends the next bytes, or returns how the opening ended.
async fn read_more(
    client: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
    deadline: Instant,
) -> Result<(), Opening> {
    match timeout_at(deadline, client.read_buf(bytes)).await {
        Ok(Ok(0)) | Err(_) if bytes.is_empty() => Err(Opening::Nothing),
        Ok(Ok(0)) | Err(_) => Err(Opening::Unfinished),
        Ok(Err(error)) if bytes.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => Err(Opening::Nothing),
        Ok(Err(error)) => Err(Opening::Failed(error)),
        Ok(Ok(_)) => Ok(()),
    }
}

/// The kind of opening that these first bytes are; `None` while more than one is possible.
fn recognise(bytes: &[u8]) -> Option<Opening> {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN"];
    // A handshake record of any TLS version. As the length of a message it is over 66,000; no driver's first message
    // is.
    if matches!(bytes, [0x16, 0x03, 1..=4, ..]) {
        return Some(Opening::Tls(Vec::new()));
    }
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Some(Opening::Http);
    }
    if proxy_header::is_proxy_header(bytes) {
        return Some(Opening::Proxy);
    }
    match Header::parse(*bytes.first_chunk::<HEADER_BYTES>()?) {
        Ok(header) => Some(Opening::Message(header, Vec::new())),
        Err(_) => Some(Opening::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::super::proxy_header::tests::v2;
    use super::*;

    const HELLO: [u8; 20] = [58, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xDD, 7, 0, 0, 0, 0, 0, 0];

    /// The name of the variant.
    fn kind(opening: &Opening) -> String {
        format!("{opening:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    /// Protocol, source, bytes that are sent, and the expected PROXY result and opening.
    type ProxyCase<'a> = (ProxyProtocol, ClientAddress, &'a [u8], (&'a str, &'a str));

    fn deadline() -> Instant {
        Instant::now() + OPENING_DEADLINE
    }

    async fn opening_of(bytes: &[u8], cut: usize) -> Opening {
        let (mut client, mut gateway) = tokio::io::duplex(4096);
        let bytes = bytes.to_vec();
        let write = async move {
            for piece in bytes.chunks(cut) {
                let _ = client.write_all(piece).await;
            }
        };
        tokio::join!(read_first_message(&mut gateway, Vec::new(), deadline()), write).0
    }

    async fn check(bytes: &[u8], expected: &str) {
        for cut in [1, 5, 4096] {
            let opening = opening_of(bytes, cut).await;
            assert_eq!(kind(&opening), expected, "{bytes:?} in pieces of {cut}");
            if let Opening::Message(_, read) | Opening::Tls(read) = opening {
                assert!(bytes.starts_with(&read), "the bytes that were read are returned");
            }
        }
    }

    #[tokio::test]
    async fn a_protocol_is_recognised_by_its_first_bytes() {
        check(&HELLO, "Message").await;
        // The length of a message of 790 bytes is the beginning of an SSL 3.0 record.
        check(&[&[0x16, 0x03, 0, 0][..], &HELLO[4..]].concat(), "Message").await;
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "Tls").await;
        check(b"GET / HTTP/1.1\r\n", "Http").await;
        check(b"POST /x HTTP/1.1\r\n", "Http").await;
        check(b"PROXY TCP4 127.0.0.1", "Proxy").await;
        check(b"\r\n\r\n\0\r\nQUIT\n", "Proxy").await;
        check(b"SSH-2.0-OpenSSH_9.2p1\r\n", "Unknown").await;
        check(&[0; 16], "Unknown").await;
        check(&HELLO[..15], "Unfinished").await;
        check(&[], "Nothing").await;
    }

    /// Checks the PROXY result and the opening of a client at `from` that sends `bytes` and closes. The listener trusts
    /// PROXY headers from 10.0.0.0/8.
    async fn check_proxy(protocol: ProxyProtocol, from: ClientAddress, bytes: &[u8], expected: (&str, &str)) {
        let rules = ProxyRules { protocol, trusted: vec!["10.0.0.0/8".parse().unwrap()], identity_tlv: None };
        for cut in [1, 7, 8192] {
            let (mut client, gateway) = UnixStream::pair().unwrap();
            let write = async {
                for piece in bytes.chunks(cut) {
                    let _ = client.write_all(piece).await;
                    tokio::task::yield_now().await;
                }
                let _ = client.shutdown().await;
            };
            let (heard, ()) = tokio::join!(read_opening(ClientSocket::Unix(gateway), from, &rules, None), write);
            let header = match heard.proxy {
                Ok(Some(header)) => format!("{:?}", header.source),
                Ok(None) => "none".to_owned(),
                Err(refusal) => format!("{refusal:?}"),
            };
            assert_eq!(
                (header.as_str(), kind(&heard.opening).as_str()),
                expected,
                "{protocol:?} {from} {bytes:?}, {cut}"
            );
        }
    }

    #[tokio::test]
    async fn proxy_headers_are_accepted_from_trusted_sources_only() {
        use ProxyProtocol::{Off, Optional, Required};
        let trusted = ClientAddress::Tcp("10.0.0.9:4000".parse().unwrap());
        let stranger = ClientAddress::Tcp("192.0.2.1:4000".parse().unwrap());
        let header = b"PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017\r\n".as_slice();
        let header_and = |more: &[u8]| [header, more].concat();
        let client = "Client(10.1.3.7:8080)";
        let local = [v2(0x20, 0, &[], &[]), HELLO.to_vec()].concat();
        let tls = b"\x16\x03\x01\x02\x00\x01";
        let cases: [ProxyCase<'_>; 23] = [
            (Off, trusted, &header_and(&HELLO), ("none", "Proxy")),
            (Off, trusted, &HELLO, ("none", "Message")),
            (Optional, trusted, &header_and(&HELLO), (client, "Message")),
            (Optional, trusted, &header_and(tls), (client, "Tls")),
            (Optional, trusted, &header_and(b"GET / HTTP/1.1\r\n"), (client, "Http")),
            (Optional, trusted, header, (client, "Nothing")),
            (Optional, trusted, &HELLO, ("none", "Message")),
            (Optional, trusted, &local, ("Proxy", "Message")),
            (Optional, trusted, &[], ("none", "Nothing")),
            (Optional, trusted, &header[..20], ("none", "Unfinished")),
            (Optional, trusted, b"PROXY TCP4 nonsense\r\n", ("none", "BadProxy")),
            (Optional, trusted, &[b"PROXY ".as_slice(), &[b'x'; 200]].concat(), ("none", "BadProxy")),
            (Optional, stranger, &header_and(&HELLO), ("Untrusted", "Message")),
            (Optional, stranger, &HELLO, ("none", "Message")),
            (Optional, ClientAddress::Unix, &header_and(&HELLO), (client, "Message")),
            (Required, trusted, &header_and(&HELLO), (client, "Message")),
            (Required, trusted, &HELLO, ("Missing", "Message")),
            (Required, trusted, tls, ("Missing", "Tls")),
            (Required, trusted, &[], ("Missing", "Nothing")),
            (Required, stranger, &header_and(&HELLO), ("Untrusted", "Message")),
            (Required, stranger, &HELLO, ("Untrusted", "Message")),
            (Required, stranger, &[], ("Untrusted", "Nothing")),
            (Required, ClientAddress::Unix, &HELLO, ("Missing", "Message")),
        ];
        for (protocol, from, bytes, expected) in cases {
            // A probe sends nothing, so a missing header is not reported.
            let expected = if bytes.is_empty() { ("none", expected.1) } else { expected };
            check_proxy(protocol, from, bytes, expected).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_at_the_deadline() {
        let (mut client, mut gateway) = tokio::io::duplex(64);
        assert!(matches!(read_first_message(&mut gateway, Vec::new(), deadline()).await, Opening::Nothing));
        client.write_all(&[58, 0, 0]).await.unwrap();
        assert!(matches!(read_first_message(&mut gateway, Vec::new(), deadline()).await, Opening::Unfinished));
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_proxy_header_ends_at_the_deadline() {
        let (mut client, mut gateway) = tokio::io::duplex(64);
        client.write_all(b"PROXY TCP4 10.1").await.unwrap();
        let end = read_proxy_header(&mut gateway, &mut Vec::new(), None, deadline()).await;
        assert!(matches!(end, Err(Opening::Unfinished)));
    }
}
