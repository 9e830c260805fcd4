//! A TLS session with its socket, for the gateway's own commands on a new connection.
//!
//! The relay of client traffic uses session and socket [separately](TlsStream::into_parts).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Records, TlsSession, invalid};

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 8 * 1024;

/// A session with a completed handshake, and its socket.
///
/// As with rustls's own streams, the end of the socket without `close_notify` is an error of kind `UnexpectedEof`.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    session: TlsSession,
    /// Decrypted, and not read yet.
    plain: Vec<u8>,
    /// Encrypted, and not written to the socket yet.
    unsent: Vec<u8>,
    /// Whether the server sent `close_notify`.
    is_closed: bool,
    /// Whether the socket has ended, with or without `close_notify`.
    has_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Makes a TLS handshake on `socket`, which nothing else may use.
    ///
    /// An error of rustls becomes the source of an error of kind `InvalidData`. The alert for it is sent if the socket
    /// accepts it at once. Cancel safe: dropping the future closes the socket.
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, socket: S) -> io::Result<Self> {
        let session = TlsSession::new(config, name).map_err(invalid)?;
        let mut stream =
            Self { socket, session, plain: Vec::new(), unsent: Vec::new(), is_closed: false, has_ended: false };
        stream.decrypt(&mut [])?;
        loop {
            poll_fn(|cx| stream.poll_send(cx)).await?;
            if !stream.session.facts().is_handshaking() {
                return Ok(stream);
            }
            poll_fn(|cx| stream.poll_receive(cx)).await?;
            let is_over = stream.is_closed || stream.has_ended;
            if is_over && stream.session.facts().is_handshaking() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed during the TLS handshake"));
            }
        }
    }

    /// Whether nothing is waiting to be read or sent.
    pub fn is_quiet(&self) -> bool {
        self.plain.is_empty() && self.unsent.is_empty()
    }

    /// Socket and session. Data that waits to be read or sent is lost unless the stream [is quiet](Self::is_quiet).
    pub fn into_parts(self) -> (S, TlsSession) {
        (self.socket, self.session)
    }

    /// The session.
    pub fn session(&self) -> &TlsSession {
        &self.session
    }

    /// Decrypts what has been read.
    fn decrypt(&mut self, input: &mut [u8]) -> io::Result<()> {
        let (plain, mut answer) = (&mut self.plain, Records::default());
        let opened = self.session.open(input, |bytes| plain.extend_from_slice(bytes), &mut answer);
        self.unsent.extend_from_slice(answer.as_slice());
        self.is_closed |= opened.map_err(invalid)?;
        Ok(())
    }

    /// Reads once from the socket, and decrypts the data.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let kept = self.session.kept().len();
        let mut input = self.session.kept().to_vec();
        input.resize(kept + READ_BYTES, 0);
        let mut read = ReadBuf::new(&mut input);
        read.set_filled(kept);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        let filled = read.filled().len();
        self.has_ended = filled == kept;
        let decrypted = self.decrypt(&mut input[..filled]);
        if decrypted.is_err() {
            // Sends the alert without waiting.
            let _ = self.poll_send(cx);
        }
        Poll::Ready(decrypted)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..count);
        }
        self.unsent = Vec::new();
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.plain.is_empty() {
            if this.is_closed {
                return Poll::Ready(Ok(()));
            }
            if this.has_ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            ready!(this.poll_receive(cx))?;
        }
        let count = this.plain.len().min(buffer.remaining());
        buffer.put_slice(&this.plain[..count]);
        this.plain.drain(..count);
        if this.plain.is_empty() {
            this.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        let mut sealed = Records::default();
        this.session.seal(bytes, &mut sealed)?;
        this.unsent.extend_from_slice(sealed.as_slice());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut sealed = Records::default();
        this.session.close(&mut sealed);
        this.unsent.extend_from_slice(sealed.as_slice());
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
