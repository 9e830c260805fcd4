//! The byte stream of a client behind one type: TCP or unix domain socket, with or without TLS.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::CertificateDer;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// Interval between keepalive probes. With the kernel's default of 75 s, a dead peer is found eleven minutes later.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long after the first keepalive probe a client that acknowledges nothing is given up: nine probes.
const UNACKNOWLEDGED_TIME: Duration = Duration::from_secs(90);

/// The event of a peer that sends nothing more. Other systems than Linux report it only together with `HUP`.
#[cfg(target_os = "linux")]
const READ_END: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const READ_END: PollFlags = PollFlags::HUP;

/// The peer address of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// The client connects over TCP from this address.
    Tcp(SocketAddr),
    /// The client connects through a unix domain socket.
    Unix,
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The peer credentials of a unix domain socket (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerUser {
    /// User ID of the client process.
    pub uid: u32,
    /// Group ID of the client process.
    pub gid: u32,
    /// ID of the process that connected. It may have passed the socket to another process.
    pub pid: Option<i32>,
}

/// The socket of an accepted client, registered with the runtime of the worker that serves it.
#[derive(Debug)]
pub enum ClientSocket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain socket.
    Unix(UnixStream),
}

/// A client's socket with or without TLS.
#[derive(Debug)]
pub enum ClientStream {
    /// The MongoDB wire protocol in plaintext.
    Plain(ClientSocket),
    /// The MongoDB wire protocol over TLS. Boxed, because most connections are plaintext.
    Tls(Box<TlsStream<Prefixed<ClientSocket>>>),
}

/// A stream whose first bytes have already been read, and that may limit how many more are.
#[derive(Debug)]
pub struct Prefixed<S> {
    /// Empty and deallocated once it has been read.
    prefix: Vec<u8>,
    taken: usize,
    /// How many bytes may still be read. One read may exceed it.
    allowance: usize,
    stream: S,
}

/// The stream has been read up to its limit.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than allowed")]
pub(super) struct ReadLimitReached;

impl ClientSocket {
    /// The peer credentials; `None` for TCP.
    pub fn peer_user(&self) -> Option<PeerUser> {
        let Self::Unix(stream) = self else { return None };
        let peer = stream.peer_cred().ok()?;
        Some(PeerUser { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() })
    }

    /// The address that the client connected to; `None` for a unix domain socket.
    fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Registers an accepted, non-blocking socket with the current runtime.
    ///
    /// Fails when the kernel rejects the registration or a socket option.
    pub fn register(socket: Socket, address: ClientAddress, keepalive: Option<Duration>) -> io::Result<Self> {
        match address {
            ClientAddress::Unix => UnixStream::from_std(socket.into()).map(Self::Unix),
            ClientAddress::Tcp(_) => {
                socket.set_tcp_nodelay(true)?;
                if let Some(time) = keepalive {
                    SockRef::from(&socket)
                        .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(KEEPALIVE_INTERVAL))?;
                    // Probes are only sent while no data is unacknowledged; this limits that case, and a closed window.
                    socket.set_tcp_user_timeout(Some(time + UNACKNOWLEDGED_TIME))?;
                }
                TcpStream::from_std(socket.into()).map(Self::Tcp)
            }
        }
    }
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl ClientStream {
    /// The address of this machine that the client is connected to; `None` for a unix domain socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(socket) => socket.local_address(),
            Self::Tls(stream) => stream.get_ref().0.stream.local_address(),
        }
    }

    /// The certificate chain that the client sent, leaf certificate first; `None` if it sent none.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates(),
        }
    }

    /// What the client has closed, by what the kernel knows and without reading: `Write` if it sends nothing more,
    /// `Both` if it is gone. `None` if it is there, as far as the kernel knows.
    ///
    /// Does not wait. A client that is not read is not noticed otherwise, because its end comes after its last bytes.
    pub fn closed_by_client(&self) -> Option<Shutdown> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.get_ref().0.stream,
        };
        let mut asked = [PollFd::new(socket, READ_END)];
        poll(&mut asked, Some(&Timespec::default())).ok()?;
        let [seen] = asked.map(|asked| asked.revents());
        if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Some(Shutdown::Both);
        }
        seen.intersects(READ_END).then_some(Shutdown::Write)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer).map(accept_missing_close_notify),
        }
    }
}

/// Many drivers close without a TLS `close_notify`. Whether bytes are missing is decided by message boundaries.
fn accept_missing_close_notify(read: io::Result<()>) -> io::Result<()> {
    read.or_else(|error| if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) })
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl<S> Prefixed<S> {
    /// A stream that returns `prefix` before the bytes of `stream`. After `allowance` bytes of `stream`, reading fails
    /// with [`ReadLimitReached`].
    pub(super) fn limited(prefix: Vec<u8>, stream: S, allowance: usize) -> Self {
        Self { prefix, taken: 0, allowance, stream }
    }

    /// Ends the limit.
    pub(super) fn lift_limit(&mut self) {
        self.allowance = usize::MAX;
    }

    /// The inner stream. The unread part of the prefix is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = this.prefix.get(this.taken..).unwrap_or_default();
        if rest.is_empty() {
            if this.allowance == 0 {
                return Poll::Ready(Err(io::Error::other(ReadLimitReached)));
            }
            let before = buffer.filled().len();
            let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
            if this.allowance != usize::MAX {
                this.allowance = this.allowance.saturating_sub(buffer.filled().len() - before);
            }
            return read;
        }
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        this.taken += count;
        if this.taken == this.prefix.len() {
            (this.prefix, this.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_closes_is_noticed_without_reading() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, address) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = ClientSocket::register(accepted.into(), ClientAddress::Tcp(address), None).unwrap();
        let stream = ClientStream::Plain(socket);
        io::Write::write_all(&mut client, b"not read").unwrap();
        assert_eq!(stream.closed_by_client(), None);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.closed_by_client(), Some(Shutdown::Write));
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(stream.closed_by_client(), Some(Shutdown::Both));
    }

    #[tokio::test]
    async fn a_client_of_a_unix_socket_that_closes_is_noticed_without_reading() {
        let (mut client, accepted) = std::os::unix::net::UnixStream::pair().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::from(std::os::fd::OwnedFd::from(accepted));
        let stream = ClientStream::Plain(ClientSocket::register(socket, ClientAddress::Unix, None).unwrap());
        io::Write::write_all(&mut client, b"not read").unwrap();
        assert_eq!(stream.closed_by_client(), None);
        drop(client);
        assert_eq!(stream.closed_by_client(), Some(Shutdown::Both));
    }

    #[tokio::test]
    async fn the_prefix_is_read_first_and_then_deallocated() {
        let (mut client, gateway) = tokio::io::duplex(64);
        client.write_all(b" and the rest").await.unwrap();
        drop(client);
        let mut stream = Prefixed::limited(b"first".to_vec(), gateway, usize::MAX);
        let mut start = [0; 3];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!((&start, stream.prefix.len()), (b"fir", 5));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!((rest.as_str(), stream.prefix.capacity()), ("st and the rest", 0));
    }

    #[tokio::test]
    async fn reading_fails_at_the_limit_until_it_is_lifted() {
        let (mut client, gateway) = tokio::io::duplex(64);
        client.write_all(&[7; 12]).await.unwrap();
        let mut stream = Prefixed::limited(vec![1; 5], gateway, 6);
        let mut read = [0; 11];
        stream.read_exact(&mut read[..8]).await.unwrap();
        stream.read_exact(&mut read[8..]).await.unwrap();
        let error = stream.read(&mut read).await.unwrap_err();
        assert!(error.get_ref().unwrap().is::<ReadLimitReached>());
        stream.lift_limit();
        assert_eq!(stream.read(&mut read).await.unwrap(), 6);
    }

    #[tokio::test]
    async fn a_unix_socket_has_peer_credentials() {
        let (_client, gateway) = UnixStream::pair().unwrap();
        let peer = ClientSocket::Unix(gateway).peer_user().unwrap();
        assert_eq!(peer.pid, Some(i32::try_from(std::process::id()).unwrap()));
    }
}
