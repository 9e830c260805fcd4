//! The client's half of the pump: its socket, what was read from it, and what it has not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::relay::end::{End, EndReason, Side};
use crate::relay::sockets::{keep, kept_and_read};

/// The client's side of one connection.
pub(super) struct ClientHalf<C> {
    socket: C,
    /// Bytes that were read and are not settled: the front of the next input.
    kept: Vec<u8>,
    /// Bytes for the client that its socket has not taken.
    unsent: Vec<u8>,
    /// Whether the client's TLS session may still hold written bytes.
    is_unflushed: bool,
    /// Whether the client has closed its side.
    is_closed: bool,
}

impl<C: AsyncRead + AsyncWrite + Unpin> ClientHalf<C> {
    pub(super) fn new(socket: C) -> Self {
        Self { socket, kept: Vec::new(), unsent: Vec::new(), is_unflushed: false, is_closed: false }
    }

    pub(super) fn socket(&mut self) -> &mut C {
        &mut self.socket
    }

    /// Whether the client has closed its side.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether the client's socket has taken everything.
    pub(super) fn has_everything(&self) -> bool {
        self.unsent.is_empty() && !self.is_unflushed
    }

    /// The number of bytes that the client's socket has not taken.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.unsent.len()
    }

    /// The bytes that were read and are not settled.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    pub(super) fn keep(&mut self, rest: &[u8]) {
        keep(&mut self.kept, rest);
    }

    pub(super) fn take_kept(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Reads into `buffer`. The input begins with what was kept; there is none when the client has closed its side.
    pub(super) fn poll_read<'b>(
        &mut self,
        buffer: &'b mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<&'b mut [u8]>, End>> {
        let input = match ready!(kept_and_read(&self.kept, &mut self.socket, buffer, cx)) {
            Ok(input) => Some(input).filter(|input| input.len() > self.kept.len()),
            // Many TLS clients close without close_notify: only message boundaries show whether a message was cut
            // short.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Poll::Ready(Err(failed(error))),
        };
        self.is_closed = input.is_none();
        Poll::Ready(Ok(input))
    }

    /// Sends `bytes` behind what the socket has not taken, and keeps what it does not take.
    pub(super) fn send(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), End> {
        if self.unsent.is_empty() {
            let written = self.write(bytes, cx)?;
            keep(&mut self.unsent, &bytes[written..]);
        } else {
            self.queue(bytes);
        }
        Ok(())
    }

    /// Puts `bytes` behind what the socket has not taken.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Takes what the socket has not taken.
    pub(super) fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }

    /// Sends what the socket has not taken. Returns whether any of it has moved.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.has_everything() {
            return Ok(false);
        }
        let unsent = self.take_unsent();
        let written = self.write(&unsent, cx)?;
        if written < unsent.len() {
            self.unsent = unsent;
            self.unsent.drain(..written);
        }
        Ok(written > 0)
    }

    /// Closes the gateway's side without waiting.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
    }

    /// Writes what the socket takes of `bytes`, and flushes it: a TLS session may hold what its own socket does not
    /// take. Flushing costs a plaintext socket nothing.
    fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<usize, End> {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(0)) => return Err(failed(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Err(failed(error)),
                Poll::Pending => break,
            }
        }
        self.is_unflushed |= written > 0;
        if self.is_unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.socket).poll_flush(cx)
        {
            flushed.map_err(failed)?;
            self.is_unflushed = false;
        }
        Ok(written)
    }
}

fn failed(error: io::Error) -> End {
    (Side::Client, EndReason::Socket(error))
}
