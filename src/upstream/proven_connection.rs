//! A proven connection that no client uses yet, and replaying a client's hello on it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bson::rawdoc;
use tokio::net::TcpStream;

use super::mongo_user::MongoUser;
use super::own_commands::declared;
use super::server_error_codes::is_not_served;
use super::stream::{HandshakeFacts, UpstreamStream};
use crate::tls::{Records, TlsSession};
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::op_msg;
use crate::wire::reply::ReplyFacts;

/// The longest accepted reply to a hello. Real ones have a few KiB, most of it the members of a large replica set.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 4 * 1024;

/// A proven connection that no client uses yet, with socket and TLS session as separate parts, as the relay needs them.
///
/// Dropping it closes the socket.
pub struct ProvenConnection {
    /// Registered with the runtime of its owner.
    pub socket: TcpStream,
    /// The session; its handshake is complete, and no data waits to be read or sent.
    pub session: TlsSession,
    /// The resolved address.
    pub address: SocketAddr,
    /// What the TLS handshake negotiated.
    pub handshake: HandshakeFacts,
    /// The generation of its certificate set, counted from 0.
    pub generation: u64,
    /// The user that it is authenticated as, if the gateway authenticates.
    pub user: Option<Arc<MongoUser>>,
    /// Whether the gateway's own commands have to declare an API version.
    pub(super) declares_api: bool,
}

/// What is known of a proven connection, without its socket and TLS session.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// The resolved address.
    pub address: SocketAddr,
    /// What the TLS handshake negotiated.
    pub handshake: HandshakeFacts,
    /// The generation of its certificate set, counted from 0.
    pub generation: u64,
    /// The user that it is authenticated as, if the gateway authenticates.
    pub user: Option<Arc<MongoUser>>,
    /// See [`ProvenConnection::declares_api`].
    declares_api: bool,
}

/// Why a client's hello could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum HelloReplayError {
    /// The connection failed.
    #[error("the connection failed")]
    Failed(#[from] io::Error),
    /// mongod did not reply to the hello with `ok: 1`.
    #[error("mongod rejected the client's hello on the new connection")]
    Rejected,
}

impl ProvenConnection {
    /// Uses a proven stream, in which no data waits to be read or sent.
    pub fn new(stream: UpstreamStream) -> Self {
        let UpstreamStream { tls, generation, address, handshake, user, declares_api, .. } = stream;
        let (socket, session) = tls.into_parts();
        Self { socket, session, address, handshake, generation, user, declares_api }
    }

    /// Separates socket and session from what is known of the connection.
    pub fn into_parts(self) -> (TcpStream, TlsSession, ConnectionFacts) {
        let Self { socket, session, address, handshake, generation, user, declares_api } = self;
        (socket, session, ConnectionFacts { address, handshake, generation, user, declares_api })
    }

    /// The connection of these parts, which [`into_parts`](Self::into_parts) separated.
    pub fn from_parts(socket: TcpStream, session: TlsSession, facts: ConnectionFacts) -> Self {
        let ConnectionFacts { address, handshake, generation, user, declares_api } = facts;
        Self { socket, session, address, handshake, generation, user, declares_api }
    }

    /// Replays a client's hello, which mongod has answered on another connection, and drops the reply.
    ///
    /// `hello` is a complete message that expects one reply; if it is empty, nothing is sent. Limited in memory, not in
    /// time. Not cancel safe: if this was dropped or failed, the connection must not be used.
    pub async fn replay_hello(&mut self, hello: &[u8]) -> Result<(), HelloReplayError> {
        if hello.is_empty() || self.ask(hello).await?.ok() == Some(true) {
            Ok(())
        } else {
            Err(HelloReplayError::Rejected)
        }
    }

    /// Proves the connection once more: mongod has to answer a `ping`. As in [`Connector::prove`], an error proves it
    /// too.
    ///
    /// [`Connector::prove`]: super::Connector::prove
    ///
    /// Limited in memory, not in time. Not cancel safe: if this was dropped or failed, the connection must not be used.
    pub async fn prove_again(&mut self) -> Result<(), HelloReplayError> {
        let ping = declared(rawdoc! { "ping": 1, "$db": "admin" }, self.declares_api);
        let reply = self.ask(&op_msg::encode(1, 0, &ping)).await?;
        let is_served = reply.ok() == Some(true) || reply.code().is_some_and(|code| !is_not_served(code));
        if is_served { Ok(()) } else { Err(HelloReplayError::Rejected) }
    }

    /// Sends a complete message, and returns the facts of the reply.
    async fn ask(&mut self, message: &[u8]) -> Result<ReplyFacts, HelloReplayError> {
        let request =
            message.first_chunk().and_then(|head| Header::parse(*head).ok()).ok_or(HelloReplayError::Rejected)?;
        let mut sealed = Records::default();
        self.session.seal(message, &mut sealed)?;
        self.send(sealed.as_slice()).await?;
        let mut reply = Vec::new();
        while !is_complete(&reply)? {
            self.receive(&mut reply).await?;
        }
        facts_of(&request, &reply).ok_or(HelloReplayError::Rejected)
    }

    async fn send(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            self.socket.writable().await?;
            match self.socket.try_write(records) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => records = records.get(result?..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Waits for data, and appends its plaintext to `reply`. The data may contain no plaintext.
    async fn receive(&mut self, reply: &mut Vec<u8>) -> io::Result<()> {
        self.socket.readable().await?;
        let kept = self.session.kept().len();
        let mut input = self.session.kept().to_vec();
        input.resize(kept + READ_BYTES, 0);
        let count = match self.socket.try_read(&mut input[kept..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            result => result?,
        };
        let mut answer = Records::default();
        let opened = self.session.open(&mut input[..kept + count], |bytes| reply.extend_from_slice(bytes), &mut answer);
        if opened.map_err(io::Error::other)? && !is_complete(reply).unwrap_or(true) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.send(answer.as_slice()).await
    }
}

impl fmt::Debug for ProvenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvenConnection")
            .field("address", &self.address)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

fn is_complete(reply: &[u8]) -> Result<bool, HelloReplayError> {
    let Some(head) = reply.first_chunk() else { return Ok(false) };
    match Header::parse(*head) {
        Ok(header) if header.length as usize <= REPLY_BYTES_MAX => Ok(reply.len() >= header.length as usize),
        _ => Err(HelloReplayError::Rejected),
    }
}

/// The facts of `reply`; `None` if it is not one complete reply to `request`.
fn facts_of(request: &Header, reply: &[u8]) -> Option<ReplyFacts> {
    let (head, body) = reply.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::parse(*head).ok()?;
    let (mut scan, mut facts) = (MessageScan::new(&header), ReplyFacts::default());
    let used = scan.advance(body, &mut facts);
    let is_reply =
        used == body.len() && header.response_to == request.request_id && !scan.is_malformed() && !facts.more_to_come();
    is_reply.then_some(facts)
}
