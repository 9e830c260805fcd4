//! Raw wire messages, valid and invalid, over plaintext or mutual TLS, and their replies.
//!
//! This is independent of the gateway's wire code on purpose, so that a mistake there is not repeated here.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bson::{Document, doc};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ALL_VERSIONS, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::certificates::{Issued, Pki};

/// Limit for a reply on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// `OP_REPLY`.
pub const OP_REPLY: i32 = 1;
/// `OP_QUERY`.
pub const OP_QUERY: i32 = 2004;
/// `OP_GET_MORE`.
pub const OP_GET_MORE: i32 = 2005;
/// `OP_COMPRESSED`.
pub const OP_COMPRESSED: i32 = 2012;
/// `OP_MSG`.
pub const OP_MSG: i32 = 2013;

/// `OP_MSG` flag: a CRC-32C ends the message.
pub const CHECKSUM_PRESENT: u32 = 1;
/// `OP_MSG` flag: in a reply, another reply follows without a request; in a request, the client expects no reply.
pub const MORE_TO_COME: u32 = 1 << 1;
/// `OP_MSG` flag: the client accepts a stream of replies.
pub const EXHAUST_ALLOWED: u32 = 1 << 16;

/// A complete message with the correct length: header and `body`.
pub fn message(op_code: i32, request_id: i32, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(16 + body.len()).expect("test messages are small");
    with_length(length, op_code, request_id, body)
}

/// A message that declares `length`, independent of `body`.
pub fn with_length(length: i32, op_code: i32, request_id: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + body.len());
    for field in [length, request_id, 0, op_code] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

/// An `OP_MSG` with these sections, in this order.
pub fn op_msg(request_id: i32, flags: u32, sections: &[Vec<u8>]) -> Vec<u8> {
    message(OP_MSG, request_id, &[&flags.to_le_bytes()[..], &sections.concat()].concat())
}

/// An `OP_MSG` with these sections, a checksum, and the flag for it.
pub fn op_msg_with_checksum(request_id: i32, flags: u32, sections: &[Vec<u8>]) -> Vec<u8> {
    let flags = (flags | CHECKSUM_PRESENT).to_le_bytes();
    // Includes four bytes for the checksum, because the checksum covers the length in the header.
    let mut bytes = message(OP_MSG, request_id, &[&flags[..], &sections.concat(), &[0; 4]].concat());
    let covered = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..covered]);
    bytes[covered..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Section kind 0: the command.
pub fn body_section(command: &Document) -> Vec<u8> {
    [&[0][..], &encode(command)].concat()
}

/// Section kind 1: a document sequence.
pub fn sequence_section(identifier: &str, documents: &[Document]) -> Vec<u8> {
    let documents: Vec<u8> = documents.iter().flat_map(encode).collect();
    let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).expect("test sections are small");
    sequence_section_claiming(size, identifier, &documents)
}

/// Section kind 1 that declares `size`, with any bytes as documents.
pub fn sequence_section_claiming(size: i32, identifier: &str, documents: &[u8]) -> Vec<u8> {
    [&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], documents].concat()
}

/// An `OP_QUERY` for a namespace such as `admin.$cmd`.
pub fn op_query(request_id: i32, namespace: &str, return_count: i32, query: &Document) -> Vec<u8> {
    let head =
        [&0_i32.to_le_bytes()[..], namespace.as_bytes(), &[0], &0_i32.to_le_bytes(), &return_count.to_le_bytes()];
    message(OP_QUERY, request_id, &[&head.concat()[..], &encode(query)].concat())
}

/// An `OP_COMPRESSED` with the uncompressed `payload` (compressor 0).
pub fn op_compressed(request_id: i32, original_op_code: i32, payload: &[u8]) -> Vec<u8> {
    let size = i32::try_from(payload.len()).expect("test messages are small");
    let head = [&original_op_code.to_le_bytes()[..], &size.to_le_bytes(), &[0]];
    message(OP_COMPRESSED, request_id, &[&head.concat()[..], payload].concat())
}

/// A document as BSON.
pub fn encode(document: &Document) -> Vec<u8> {
    bson::serialize_to_vec(document).expect("a document of a test is valid BSON")
}

/// A reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The whole message.
    pub bytes: Vec<u8>,
    /// Request ID in the header.
    pub request_id: i32,
    /// ID of the request that this replies to, in the header.
    pub response_to: i32,
    /// Operation code in the header.
    pub op_code: i32,
    /// Flags of the `OP_MSG` or `OP_REPLY`.
    pub flags: u32,
    /// The first document.
    pub document: Document,
}

impl Reply {
    /// The error code, if there is one.
    pub fn code(&self) -> Option<i32> {
        self.document.get_i32("code").ok()
    }

    fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let word = |at: usize| -> anyhow::Result<i32> {
            let word = bytes.get(at..at + 4).context("a reply that is too short")?;
            Ok(i32::from_le_bytes(word.try_into()?))
        };
        let op_code = word(12)?;
        let first_document = match op_code {
            OP_MSG => 21,
            OP_REPLY => 36,
            other => bail!("a reply with operation code {other}"),
        };
        let document = bson::RawDocumentBuf::from_bytes(document_at(&bytes, first_document)?.to_vec())?;
        // A reply may repeat invalid UTF-8 of the request. Its error code can be read anyway.
        let code = document.get_i32("code").ok();
        let document =
            Document::try_from(document.as_ref()).unwrap_or_else(|_| doc! { "unreadable": true, "code": code });
        Ok(Self {
            request_id: word(4)?,
            response_to: word(8)?,
            op_code,
            flags: word(16)?.cast_unsigned(),
            document,
            bytes,
        })
    }
}

fn document_at(bytes: &[u8], at: usize) -> anyhow::Result<&[u8]> {
    let rest = bytes.get(at..).context("a reply without a document")?;
    let length = rest.first_chunk().map_or(0, |length| i32::from_le_bytes(*length));
    rest.get(..usize::try_from(length)?).context("a reply with an incomplete document")
}

/// A connection for raw messages.
pub struct Connection {
    stream: Box<dyn Stream>,
}

trait Stream: Read + Write + Send {
    fn limit(&self, timeout: Duration) -> std::io::Result<()>;

    /// The local address; `None` for a unix domain socket.
    fn local(&self) -> Option<SocketAddr>;
}

impl Stream for TcpStream {
    fn local(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }

    fn limit(&self, timeout: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Stream for UnixStream {
    fn local(&self) -> Option<SocketAddr> {
        None
    }

    fn limit(&self, timeout: Duration) -> std::io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn local(&self) -> Option<SocketAddr> {
        self.sock.local()
    }

    fn limit(&self, timeout: Duration) -> std::io::Result<()> {
        self.sock.limit(timeout)
    }
}

/// The result of reading from a connection.
#[derive(Debug)]
pub enum Received {
    /// A complete message.
    Reply(Box<Reply>),
    /// The peer closed or reset the connection after these bytes of an incomplete message.
    Closed(Vec<u8>),
}

impl Connection {
    /// Connects over plain TCP.
    pub fn plain(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream)
    }

    /// Connects to a unix domain socket.
    pub fn unix(path: &Path) -> anyhow::Result<Self> {
        Self::over(UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?)
    }

    /// Connects over TLS with the client certificate `client`.
    pub fn tls(address: &str, pki: &Pki, client: &Issued) -> anyhow::Result<Self> {
        Self::tls_with(address, &[], client_config(pki, Some(client), ALL_VERSIONS)?)
    }

    /// Connects, sends `prefix`, and then begins TLS.
    pub fn tls_with(address: &str, prefix: &[u8], config: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        socket.write_all(prefix)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())?;
        let session = ClientConnection::new(config, name)?;
        Self::over(StreamOwned::new(session, socket))
    }

    /// The client's own address; `None` for a unix domain socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.stream.local()
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Reads the next message or the end of the connection. Fails if neither arrives in time.
    pub fn receive(&mut self) -> anyhow::Result<Received> {
        let mut bytes = Vec::new();
        if !self.read_exactly(&mut bytes, 16)? {
            return Ok(Received::Closed(bytes));
        }
        let length = bytes.first_chunk().map_or(0, |length| i32::from_le_bytes(*length));
        let length = usize::try_from(length).ok().filter(|length| (16..=48_000_000).contains(length));
        // Bytes that are not a message, such as HTTP, are read until the connection ends.
        let remaining = length.unwrap_or(usize::MAX) - 16;
        if !self.read_exactly(&mut bytes, remaining)? {
            return Ok(Received::Closed(bytes));
        }
        Ok(Received::Reply(Box::new(Reply::parse(bytes)?)))
    }

    /// Reads the next message; the end of the connection is an error.
    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        match self.receive()? {
            Received::Reply(reply) => Ok(*reply),
            Received::Closed(bytes) => bail!("the connection ended after {} bytes instead of a reply", bytes.len()),
        }
    }

    /// Sends a command and returns its reply, which may be an error. `command` must have `$db`.
    pub fn command(&mut self, command: &Document) -> anyhow::Result<Document> {
        self.send(&op_msg(1, 0, &[body_section(command)]))?;
        let reply = self.reply()?;
        if reply.response_to != 1 {
            bail!("a reply to {} instead of 1", reply.response_to);
        }
        Ok(reply.document)
    }

    /// Sends a command that must succeed and returns its reply.
    pub fn run(&mut self, command: &Document) -> anyhow::Result<Document> {
        let reply = self.command(command)?;
        let ok = reply.get("ok").and_then(|ok| ok.as_f64().or_else(|| ok.as_i32().map(f64::from)));
        if ok != Some(1.0) {
            bail!("the command failed: {reply}");
        }
        Ok(reply)
    }

    fn over(stream: impl Stream + 'static) -> anyhow::Result<Self> {
        stream.limit(TIMEOUT)?;
        Ok(Self { stream: Box::new(stream) })
    }

    /// Appends `count` bytes, or fewer if the connection ends before. Returns whether all bytes arrived.
    fn read_exactly(&mut self, bytes: &mut Vec<u8>, count: usize) -> anyhow::Result<bool> {
        let before = bytes.len();
        let limit = u64::try_from(count)?;
        match Read::by_ref(&mut self.stream).take(limit).read_to_end(bytes) {
            Ok(_) => Ok(bytes.len() - before == count),
            Err(error) if is_end(error.kind()) => Ok(false),
            Err(error) => Err(error).context("neither a reply nor the end of the connection"),
        }
    }
}

/// mongod closes TLS without `close_notify`, and resets the TCP connection if there are unread bytes.
fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The certificate that a server shows, even if the server rejects the client certificate.
pub fn shown_certificate(address: &str, config: &Arc<ClientConfig>) -> anyhow::Result<CertificateDer<'static>> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let mut session = ClientConnection::new(Arc::clone(config), ServerName::try_from(host.to_owned())?)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    let shown = session.peer_certificates().and_then(<[_]>::first).context("a server without a certificate")?;
    Ok(shown.clone().into_owned())
}

/// TLS configuration of a client that trusts the CA of `pki`, with or without a client certificate.
pub fn client_config(
    pki: &Pki,
    client: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots);
    Ok(Arc::new(match client.map(Issued::der) {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key)?,
        None => builder.with_no_client_auth(),
    }))
}
