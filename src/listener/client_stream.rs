//! A client's socket, TCP or unix, behind one type.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Between keepalive probes; the system's default finds a dead peer after eleven minutes only.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    /// Over the network.
    Tcp(SocketAddr),
    /// On this machine, through a socket file.
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

/// An accepted client, registered with the runtime of the worker that serves it.
#[derive(Debug)]
pub enum ClientStream {
    /// Over the network.
    Tcp(TcpStream),
    /// Through a socket file.
    Unix(UnixStream),
}

impl ClientStream {
    /// Registers an accepted, non-blocking socket with the current runtime.
    ///
    /// Fails when the kernel refuses the registration or an option.
    pub fn register(socket: Socket, address: ClientAddress, keepalive: Option<Duration>) -> io::Result<Self> {
        match address {
            ClientAddress::Unix => UnixStream::from_std(socket.into()).map(Self::Unix),
            ClientAddress::Tcp(_) => {
                socket.set_tcp_nodelay(true)?;
                if let Some(time) = keepalive {
                    SockRef::from(&socket)
                        .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(KEEPALIVE_INTERVAL))?;
                }
                TcpStream::from_std(socket.into()).map(Self::Tcp)
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
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
