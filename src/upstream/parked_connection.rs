//! A proven connection that belongs to no runtime, so that any worker can take it.

use std::io;
use std::io::Write as _;
use std::net::TcpStream;

use super::proven_connection::{ConnectionFacts, ProvenConnection};
use crate::tls::{Records, TlsSession};

/// A proven connection that belongs to no runtime and that nothing reads from.
#[derive(Debug)]
pub struct ParkedConnection {
    socket: TcpStream,
    session: TlsSession,
    facts: ConnectionFacts,
}

impl ParkedConnection {
    /// Removes the socket from its runtime. Fails, and closes the connection, if that is not possible.
    pub fn new(connection: ProvenConnection) -> io::Result<Self> {
        let (socket, session, facts) = connection.into_parts();
        Ok(Self { socket: socket.into_std()?, session, facts })
    }

    /// Registers the socket with the runtime of the calling worker.
    pub fn register(self) -> io::Result<ProvenConnection> {
        let socket = tokio::net::TcpStream::from_std(self.socket)?;
        Ok(ProvenConnection::from_parts(socket, self.session, self.facts))
    }

    /// The generation of its certificate set, counted from 0.
    pub fn generation(&self) -> u64 {
        self.facts.generation
    }

    /// Whether it is authenticated as a user.
    pub fn has_user(&self) -> bool {
        self.facts.user.is_some()
    }

    /// Whether the connection is open and has no data to read, not even a part of a TLS record: mongod sends nothing
    /// without a request.
    pub fn is_silent(&self) -> bool {
        let is_empty = matches!(self.socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_empty && self.session.is_open() && self.session.kept().is_empty()
    }

    /// Sends `close_notify`, if the socket accepts it at once, and closes the socket.
    pub fn close(mut self) {
        let mut records = Records::default();
        self.session.close(&mut records);
        let _ = self.socket.write(records.as_slice());
    }
}
