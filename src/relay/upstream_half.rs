//! The upstream half of the pump: its socket and TLS session, what was read from them, and what they have not taken
//! yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::relay::end::{End, EndReason, Side};
use crate::relay::sockets::{keep, kept_and_read};
use crate::tls::{Records, TlsSession};

/// The upstream side of one connection.
pub(super) struct UpstreamHalf<U> {
    /// `None` while the connection has no upstream connection.
    link: Option<Link<U>>,
    /// Plaintext that was read and is not forwarded: the front of the next input.
    kept: Vec<u8>,
    /// Records that the socket has not taken; without an upstream connection, plaintext that waits for one.
    unsent: Vec<u8>,
    /// Whether upstream has closed its side.
    is_closed: bool,
    /// Whether the gateway has closed its side, after the client.
    is_finished: bool,
    /// Why the socket takes nothing any longer. What upstream has sent before is still read.
    write_error: Option<io::Error>,
}

/// An upstream connection.
struct Link<U> {
    socket: U,
    session: TlsSession,
}

impl<U: AsyncRead + AsyncWrite + Unpin> UpstreamHalf<U> {
    pub(super) fn new(socket: U, session: TlsSession) -> Self {
        Self { link: Some(Link { socket, session }), ..Self::detached() }
    }

    /// Without an upstream connection.
    pub(super) fn detached() -> Self {
        Self {
            link: None,
            kept: Vec::new(),
            unsent: Vec::new(),
            is_closed: false,
            is_finished: false,
            write_error: None,
        }
    }

    /// Whether there is an upstream connection.
    pub(super) fn is_attached(&self) -> bool {
        self.link.is_some()
    }

    /// Whether the TLS session has no part of a record.
    pub(super) fn is_between_records(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.session.kept().is_empty())
    }

    /// What was sent while there was no upstream connection.
    pub(super) fn unsealed(&self) -> &[u8] {
        if self.is_attached() { &[] } else { &self.unsent }
    }

    /// Replaces the first bytes of what was sent while there was no upstream connection.
    pub(super) fn replace_unsealed(&mut self, bytes: usize, other: &[u8]) {
        if bytes <= self.unsealed().len() {
            self.unsent.splice(..bytes, other.iter().copied());
        }
    }

    /// Removes the first bytes of what was sent while there was no upstream connection.
    pub(super) fn drop_unsealed(&mut self, bytes: usize) {
        if bytes >= self.unsealed().len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..bytes);
        }
    }

    /// Uses an upstream connection, where there is none. What was sent before is sent now.
    pub(super) fn attach(&mut self, socket: U, mut session: TlsSession) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.unsent);
        if !waiting.is_empty() {
            let mut records = Records::default();
            session.seal(&waiting, &mut records)?;
            self.unsent.extend_from_slice(records.as_slice());
        }
        self.replace_link(socket, session);
        Ok(())
    }

    /// Goes on without an upstream connection, and returns the present one.
    pub(super) fn detach(&mut self) -> Option<(U, TlsSession)> {
        (self.is_closed, self.write_error) = (false, None);
        self.unsent = Vec::new();
        self.link.take().map(|link| (link.socket, link.session))
    }

    /// Whether upstream has closed its side.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the gateway has closed its side, after the client.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether bytes can be exchanged in both directions.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_closed && self.write_error.is_none()
    }

    pub(super) fn take_write_error(&mut self) -> Option<io::Error> {
        self.write_error.take()
    }

    /// Whether the socket has taken everything.
    pub(super) fn has_everything(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Plaintext that was read and is not forwarded.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    pub(super) fn keep(&mut self, rest: &[u8]) {
        keep(&mut self.kept, rest);
    }

    pub(super) fn take_kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Reads records into `sealed`, and decrypts them into `plain`. The input begins with what was kept.
    pub(super) fn poll_read<'b>(
        &mut self,
        sealed: &mut [u8],
        plain: &'b mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<&'b mut [u8], End>> {
        let Some(Link { socket, session }) = &mut self.link else { return Poll::Pending };
        let before = session.kept().len();
        let sealed = ready!(kept_and_read(session.kept(), socket, sealed, cx))
            .map_err(|error| (Side::Upstream, EndReason::Socket(error)))?;
        // mongod closes without close_notify: only message boundaries show whether a message was cut short.
        self.is_closed = sealed.len() == before;
        let mut filled = self.kept.len();
        plain[..filled].copy_from_slice(&self.kept);
        let mut answer = Records::default();
        let opened = session.open(
            sealed,
            |bytes| {
                plain[filled..][..bytes.len()].copy_from_slice(bytes);
                filled += bytes.len();
            },
            &mut answer,
        );
        self.send(&mut answer, cx);
        self.is_closed |= opened.map_err(|error| (Side::Upstream, EndReason::Tls(error)))?;
        Poll::Ready(Ok(&mut plain[..filled]))
    }

    /// Encrypts `bytes` into `records`.
    pub(super) fn seal(&mut self, bytes: &[u8], records: &mut Records) -> io::Result<()> {
        if let Some(link) = &mut self.link {
            return link.session.seal(bytes, records);
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends `records` behind what the socket has not taken, and keeps what it does not take.
    pub(super) fn send(&mut self, records: &mut Records, cx: &mut Context<'_>) {
        let bytes = records.as_slice();
        let written = if self.has_everything() { self.write(bytes, cx) } else { 0 };
        self.unsent.extend_from_slice(&bytes[written..]);
        records.clear();
    }

    /// Sends what the socket has not taken. Returns whether any of it has moved.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        if self.has_everything() {
            return false;
        }
        let unsent = std::mem::take(&mut self.unsent);
        let written = self.write(&unsent, cx);
        if written < unsent.len() {
            self.unsent = unsent;
            self.unsent.drain(..written);
        }
        written > 0
    }

    /// Closes the gateway's side after the client has closed its own: mongod then stops work for the client, as it does
    /// for a client that is connected directly. Returns whether the side is closed.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) -> bool {
        self.send_close_notify(cx);
        if !self.has_everything() && self.write_error.is_none() {
            return false;
        }
        // A socket that has failed already shows that on the next read.
        self.is_finished =
            self.link.as_mut().is_none_or(|link| Pin::new(&mut link.socket).poll_shutdown(cx).is_ready());
        self.is_finished
    }

    /// Closes the gateway's side without waiting. Records that the socket does not take now are lost, which does no
    /// harm.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        self.send_close_notify(cx);
        if let Some(link) = &mut self.link {
            let _ = Pin::new(&mut link.socket).poll_shutdown(cx);
        }
    }

    /// Goes on with another upstream connection.
    pub(super) fn replace(&mut self, socket: U, session: TlsSession) {
        // They belong to the previous connection, which has closed.
        (self.unsent, self.write_error) = (Vec::new(), None);
        self.replace_link(socket, session);
    }

    fn replace_link(&mut self, socket: U, session: TlsSession) {
        self.link = Some(Link { socket, session });
    }

    /// Sends `close_notify` behind what the socket has not taken. Only the first call has an effect.
    fn send_close_notify(&mut self, cx: &mut Context<'_>) {
        self.flush(cx);
        let mut records = Records::default();
        if let Some(link) = &mut self.link {
            link.session.close(&mut records);
        }
        self.send(&mut records, cx);
    }

    /// Writes what the socket takes of `bytes`; nothing, once it has failed.
    fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> usize {
        let mut written = 0;
        let Some(Link { socket, .. }) = &mut self.link else { return 0 };
        while written < bytes.len() && self.write_error.is_none() {
            match Pin::new(&mut *socket).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => break,
            }
        }
        written
    }
}
