//! A proven connection in the parts that a relay takes, and how a client is introduced on it a second time.

use std::fmt;
use std::io;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConnection;
use tokio::net::TcpStream;

use super::{HandshakeFacts, MongoUser, UpstreamStream};
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

/// A reply to hello has a few KiB, most of them the members of a large replica set.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// A proven connection that no client uses yet, in parts. Dropping it closes the socket.
pub struct Link {
    /// Registered with the runtime of whoever has it.
    pub socket: TcpStream,
    /// The finished session; nothing waits in it.
    pub tls: ClientConnection,
    /// The address, of those that the name has, that answered.
    pub address: SocketAddr,
    /// What was agreed on.
    pub handshake: HandshakeFacts,
    /// Which set of certificates it was made with, counted from 0.
    pub generation: u64,
    /// The user that it is authenticated as, where the gateway authenticates.
    pub user: Option<Arc<MongoUser>>,
}

/// Why a client could not be introduced.
#[derive(Debug, thiserror::Error)]
pub enum IntroductionError {
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// mongod answered the hello with something else than `ok: 1`.
    #[error("the client's hello was not taken a second time")]
    Refused,
}

impl Link {
    /// From a proven stream.
    pub fn new(stream: UpstreamStream) -> Self {
        let UpstreamStream { tls, generation, address, handshake, user, .. } = stream;
        let (socket, tls) = tls.into_inner();
        Self { socket, tls, address, handshake, generation, user }
    }

    /// Repeats a client's `hello`, which mongod has answered elsewhere already, and drops the answer.
    ///
    /// `hello` is a complete message that asks for one answer; where it is empty, nothing is said. Bounded in memory, not in time. Not cancel safe: where
    /// this was dropped or failed, the connection must not be used.
    pub async fn introduce(&mut self, hello: &[u8]) -> Result<(), IntroductionError> {
        if hello.is_empty() {
            return Ok(());
        }
        let request =
            hello.first_chunk().and_then(|head| Header::parse(*head).ok()).ok_or(IntroductionError::Refused)?;
        self.tls.writer().write_all(hello)?;
        let mut reply = Vec::new();
        while !is_complete(&reply)? {
            self.send().await?;
            self.receive(&mut reply).await?;
        }
        if agrees(&request, &reply) { Ok(()) } else { Err(IntroductionError::Refused) }
    }

    async fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.socket.writable().await?;
            match self.tls.write_tls(&mut Ready(&self.socket)) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for a piece of plaintext; there may be none in what arrives.
    async fn receive(&mut self, reply: &mut Vec<u8>) -> io::Result<()> {
        self.socket.readable().await?;
        match self.tls.read_tls(&mut Ready(&self.socket)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            result => result?,
        };
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        let start = reply.len();
        reply.resize(start + state.plaintext_bytes_to_read(), 0);
        self.tls.reader().read_exact(&mut reply[start..])
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A socket that is ready, or says `WouldBlock`, in the blocking clothes that rustls reads from and writes to.
struct Ready<'a>(&'a TcpStream);

impl Read for Ready<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Ready<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_complete(reply: &[u8]) -> Result<bool, IntroductionError> {
    let Some(head) = reply.first_chunk() else { return Ok(false) };
    match Header::parse(*head) {
        Ok(header) if header.length as usize <= REPLY_BYTES_MAX => Ok(reply.len() >= header.length as usize),
        _ => Err(IntroductionError::Refused),
    }
}

/// Whether `reply` answers `request` with `ok: 1`, and nothing stands behind it.
fn agrees(request: &Header, reply: &[u8]) -> bool {
    let Some((head, body)) = reply.split_first_chunk::<HEADER_BYTES>() else { return false };
    let Ok(header) = Header::parse(*head) else { return false };
    let (mut scan, mut facts) = (MessageScan::new(&header), ReplyFacts::default());
    let used = scan.advance(body, &mut facts);
    used == body.len()
        && header.response_to == request.request_id
        && !scan.is_malformed()
        && !facts.more_to_come()
        && facts.ok() == Some(true)
}
