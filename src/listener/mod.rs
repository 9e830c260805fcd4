//! Where clients arrive: sockets, their limits, and what a client says first.
//!
//! [`Listener::accept`] never fails. It knows nothing of upstreams: it hands over an [`Arrival`], hears what a client shows
//! before its first message, and says no to it when told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, UnixListener};

use crate::config::{ListenAddress, ListenerConfig};
use crate::telemetry::log_throttle::{LogDecision, LogThrottle};
use crate::telemetry::metrics::{ConnectionOutcome, ListenerMetrics};

mod client_stream;
mod handshake;
mod limits;
mod opening;
mod original;
mod proxy_header;
mod refusal;
mod socket;

pub use client_stream::{ClientAddress, ClientSocket, ClientStream, PeerUser, Prefixed};
pub use handshake::{HandshakeFailure, PeerTls};
pub use limits::{ConnectionLimit, ConnectionPermit};
pub use opening::{Heard, Opening, ProxyRefusal, ProxyRules, read_opening};
pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxySource};
pub use refusal::{final_reply, refuse, refuse_http, refuse_tls};
pub use socket::{BindError, BoundSocket, bind};

use original::original_destination;
use socket::SocketFile;

/// First and longest pause when the system has no descriptor or memory for another connection.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Clients above `max_connections` that are told so at one time, a few seconds each; more are closed without a word.
const REFUSALS_MAX: usize = 256;

/// A client that has just connected.
#[derive(Debug)]
pub struct Arrival {
    /// Non-blocking, not registered with any runtime yet, so that any worker can serve it.
    pub socket: Socket,
    /// Where it comes from.
    pub address: ClientAddress,
    /// Which of the listener's addresses it came to, counted from 0.
    pub slot: usize,
    /// Where it was on its way to when the kernel redirected it, on a listener that intercepts; `None` elsewhere, and for
    /// who came there by itself. Never an address of the listener. In a box, as most connections have none.
    pub original: Option<Box<SocketAddr>>,
    /// Its place, or that there was none.
    pub standing: Admittance,
}

/// Whether there is room for a client.
#[derive(Debug)]
pub enum Admittance {
    /// It has one of the `max_connections` places.
    Seated(ConnectionPermit),
    /// All were taken: it is to be told so, and leaves again.
    Full(ConnectionPermit),
}

/// A listening socket and the places of its connections.
pub struct Listener {
    name: String,
    slot: usize,
    intercept: bool,
    address: ListenAddress,
    acceptor: Acceptor,
    _file: Option<SocketFile>,
    places: ConnectionLimit,
    refusals: ConnectionLimit,
    metrics: Arc<ListenerMetrics>,
    exhaustions: LogThrottle<()>,
}

#[derive(Debug)]
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Takes over the bound socket of the listener's address at `slot`; the `places` are those of all its addresses. Must be
    /// called inside the runtime that will accept.
    pub fn new(
        config: &ListenerConfig,
        slot: usize,
        bound: BoundSocket,
        places: ConnectionLimit,
        metrics: Arc<ListenerMetrics>,
    ) -> io::Result<Self> {
        let BoundSocket { socket, address, file } = bound;
        let acceptor = match address {
            ListenAddress::Tcp(_) => Acceptor::Tcp(TcpListener::from_std(socket.into())?),
            ListenAddress::Unix(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
        };
        let refusals = ConnectionLimit::new(REFUSALS_MAX);
        let (name, exhaustions) = (config.name.clone(), LogThrottle::new());
        let intercept = config.intercept;
        Ok(Self { name, slot, intercept, address, acceptor, _file: file, places, refusals, metrics, exhaustions })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Which of the addresses of its section it is, counted from 0.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Its connections, counted.
    pub fn places(&self) -> &ConnectionLimit {
        &self.places
    }

    /// Waits for the next client.
    ///
    /// What concerns one connection only is skipped. When the system is out of descriptors or memory it waits, longer
    /// each time, and says so once, and when it is over. Cancel safe.
    pub async fn accept(&self) -> Arrival {
        let mut pause = None;
        let mut told = false;
        loop {
            match self.try_accept().await {
                Ok((socket, address)) => {
                    if told {
                        tracing::warn!(listener = self.name, "accepting connections again");
                    }
                    (pause, told) = (None, false);
                    if let Some(standing) = self.standing() {
                        let original = self.intercept.then(|| original_destination(&socket)).flatten().map(Box::new);
                        return Arrival { socket, address, slot: self.slot, original, standing };
                    }
                    self.metrics.open_connection().set_outcome(ConnectionOutcome::Rejected);
                }
                Err(error) if is_exhaustion(&error) => {
                    if pause.is_none() {
                        told = self.tell_exhaustion(&error);
                    }
                    let wait = pause.map_or(BACK_OFF.0, |last: Duration| (last * 2).min(BACK_OFF.1));
                    tokio::time::sleep(wait).await;
                    pause = Some(wait);
                }
                Err(error) => {
                    tracing::debug!(listener = self.name, %error, "a connection ended before it was accepted");
                }
            }
        }
    }

    /// Says that nobody can be let in, unless that was said a moment ago: while connections come and go at the limit,
    /// there is room for one and then none again all the time.
    fn tell_exhaustion(&self, error: &io::Error) -> bool {
        let LogDecision::Log { suppressed } = self.exhaustions.note((), std::time::Instant::now()) else {
            return false;
        };
        tracing::error!(
            listener = self.name,
            %error,
            remedy = "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections",
            suppressed,
            "cannot accept connections: the system has no room for another one"
        );
        true
    }

    /// The socket is taken out of this runtime again: the worker that serves it registers it with its own.
    async fn try_accept(&self) -> io::Result<(Socket, ClientAddress)> {
        Ok(match &self.acceptor {
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A client of a dual-stack socket is shown, and matched, as the IPv4 client that it is.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                (Socket::from(stream.into_std()?), ClientAddress::Tcp(address))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                (Socket::from(stream.into_std()?), ClientAddress::Unix)
            }
        })
    }

    fn standing(&self) -> Option<Admittance> {
        let seated = self.places.take().map(Admittance::Seated);
        seated.or_else(|| self.refusals.take().map(Admittance::Full))
    }
}

/// Whether the machine, and not this one connection, is the trouble.
fn is_exhaustion(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
