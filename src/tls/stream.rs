//! A TLS session on its socket, for what is said on a connection before anybody else gets it.
//!
//! Where bytes flow in quantity, the two are [taken apart](TlsStream::into_parts).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Records, TlsSession, invalid};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 8 * 1024;

/// A session whose handshake is over, on its socket.
///
/// As with rustls's own streams, an end of the socket without a goodbye is an error of the kind `UnexpectedEof`.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    session: TlsSession,
    /// Opened, and not read yet.
    plain: Vec<u8>,
    /// Sealed, and not taken by the socket yet.
    unsent: Vec<u8>,
    /// The server has said goodbye; or its socket has ended, with or without it.
    said_goodbye: bool,
    has_ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands on `socket`, which is used for nothing else.
    ///
    /// An error of rustls is the source of one of the kind `InvalidData`; the server has been told by an alert, as far as the socket took it.
    /// Cancel safe: the socket is closed then.
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, socket: S) -> io::Result<Self> {
        let session = TlsSession::new(config, name).map_err(invalid)?;
        let mut stream =
            Self { socket, session, plain: Vec::new(), unsent: Vec::new(), said_goodbye: false, has_ended: false };
        stream.take(&mut [])?;
        loop {
            poll_fn(|cx| stream.poll_send(cx)).await?;
            if !stream.session.facts().is_handshaking() {
                return Ok(stream);
            }
            poll_fn(|cx| stream.poll_receive(cx)).await?;
            let is_over = stream.said_goodbye || stream.has_ended;
            if is_over && stream.session.facts().is_handshaking() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the TLS handshake"));
            }
        }
    }

    /// Whether nothing waits to be read or sent.
    pub fn is_quiet(&self) -> bool {
        self.plain.is_empty() && self.unsent.is_empty()
    }

    /// Socket and session, of a stream that [is quiet](Self::is_quiet): what waits is lost.
    pub fn into_parts(self) -> (S, TlsSession) {
        (self.socket, self.session)
    }

    /// What is known of the session.
    pub fn session(&self) -> &TlsSession {
        &self.session
    }

    /// Opens what has been read.
    fn take(&mut self, input: &mut [u8]) -> io::Result<()> {
        let (plain, mut answer) = (&mut self.plain, Records::default());
        let opened = self.session.open(input, |bytes| plain.extend_from_slice(bytes), &mut answer);
        self.unsent.extend_from_slice(answer.as_slice());
        self.said_goodbye |= opened.map_err(invalid)?;
        Ok(())
    }

    /// Reads once, and opens it.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let kept = self.session.kept().len();
        let mut input = self.session.kept().to_vec();
        input.resize(kept + READ_BYTES, 0);
        let mut read = ReadBuf::new(&mut input);
        read.set_filled(kept);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        let filled = read.filled().len();
        self.has_ended = filled == kept;
        let taken = self.take(&mut input[..filled]);
        if taken.is_err() {
            // The alert, without waiting for it.
            let _ = self.poll_send(cx);
        }
        Poll::Ready(taken)
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
            if this.said_goodbye {
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
