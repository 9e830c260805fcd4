//! Listening sockets: accepts clients within the connection limit, reads what a client sends before its first message,
//! and writes the final reply to a rejected client.
//!
//! [`Listener::accept`] never fails. This module knows no upstream and decides about no identity.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::Socket;
use tokio::net::{TcpListener, UnixListener};

use crate::config::{ListenAddress, ListenerConfig};
use crate::lifecycle::descriptors;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::{ConnectionOutcome, ListenerMetrics};

mod client_hello;
mod client_stream;
mod connection_limit;
mod handshake;
mod handshake_places;
mod opening;
mod original_dst;
mod passed_sockets;
mod proxy_header;
mod refusal;
mod server_identity;
mod socket;
mod take_over;

pub use client_stream::{ClientAddress, ClientSocket, ClientStream, PeerUser, Prefixed};
pub use connection_limit::{ConnectionLimit, ConnectionPermit};
pub use handshake::{HandshakeFailure, PeerTls};
pub use handshake_places::{HandshakeEntry, HandshakePlace, HandshakePlaces, WaitingClient};
pub use opening::{ClientPreamble, Opening, ProxyRefusal, ProxyRules, read_opening};
pub use passed_sockets::PassedSockets;
pub use proxy_header::{ProxyHeader, ProxyHeaderError, ProxySource};
pub use refusal::{final_reply, refuse, refuse_http, refuse_tls};
pub use server_identity::ServerIdentity;
pub use socket::{BindError, BoundSocket, bind_path};

use socket::SocketFile;

/// First and longest pause of the back-off when the system has no descriptor or memory for another connection.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Fewest and most clients above `max_connections` that get an error reply at the same time, for a few seconds each:
/// a quarter of `max_connections`. Further clients are closed without a reply.
const REFUSALS_MAX: (usize, usize) = (8, 256);

/// Log messages of this module.
const EXHAUSTED: &str = "cannot accept connections: out of file descriptors or memory";
const ACCEPTING_AGAIN: &str = "accepting connections again";
const ACCEPT_FAILED: &str = "connection ended before it was accepted";

/// A client that has just connected.
#[derive(Debug)]
pub struct Arrival {
    /// Non-blocking, and not registered with a runtime, so that any worker can serve it.
    pub socket: Socket,
    /// Peer address of the client.
    pub address: ClientAddress,
    /// Index of the listener's address that accepted the client, from 0.
    pub slot: usize,
    /// The destination before the kernel redirected the connection (`SO_ORIGINAL_DST`), on a listener that intercepts.
    /// `None` on other listeners, and for a client that was not redirected. Never an address of the listener. Boxed,
    /// because most connections have none.
    pub original_destination: Option<Box<SocketAddr>>,
    /// Whether the client is within the connection limit.
    pub admittance: Admittance,
    /// The client's place until it has sent its first message, or its right to wait for one.
    pub entry: HandshakeEntry,
}

/// The limits of a listener, which all of its addresses share.
#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// All connections.
    pub connections: ConnectionLimit,
    /// Clients that have not sent their first message yet.
    pub handshakes: HandshakePlaces,
}

/// Whether a client is within the connection limit.
#[derive(Debug)]
pub enum Admittance {
    /// The client has one of the `max_connections` permits.
    Admitted(ConnectionPermit),
    /// All permits are in use. The client gets an error reply and is closed; this is its permit for that reply.
    LimitReached(ConnectionPermit),
}

/// A listening socket and its connection limit.
pub struct Listener {
    name: String,
    slot: usize,
    intercept: bool,
    reuse_port: bool,
    address: ListenAddress,
    acceptor: Acceptor,
    file: Option<SocketFile>,
    limits: ListenerLimits,
    refusal_limit: ConnectionLimit,
    metrics: Arc<ListenerMetrics>,
    exhaustions: LogThrottle,
}

#[derive(Debug)]
enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Takes over the bound socket of the listener's address at index `slot`. Must be called inside the runtime
    /// that will accept.
    pub fn new(
        config: &ListenerConfig,
        slot: usize,
        bound: BoundSocket,
        limits: ListenerLimits,
        metrics: Arc<ListenerMetrics>,
    ) -> io::Result<Self> {
        let BoundSocket { socket, address, file, is_passed } = bound;
        let acceptor = match address {
            ListenAddress::Tcp(_) => Acceptor::Tcp(TcpListener::from_std(socket.into())?),
            ListenAddress::Unix(_) => Acceptor::Unix(UnixListener::from_std(socket.into())?),
        };
        let refusal_limit = ConnectionLimit::new((limits.connections.max() / 4).clamp(REFUSALS_MAX.0, REFUSALS_MAX.1));
        let name = config.name.clone();
        let exhaustions = LogThrottle::new(LogSubject::Listener(name.clone()));
        // The service manager keeps a passed socket, so there is nothing to take over.
        let (intercept, reuse_port) = (config.intercept, config.reuse_port && !is_passed);
        Ok(Self {
            name,
            slot,
            intercept,
            reuse_port,
            address,
            acceptor,
            file,
            limits,
            refusal_limit,
            metrics,
            exhaustions,
        })
    }

    /// With `reuse_port`, begins to listen, and takes over the new clients of another process with this address. Call
    /// it when nothing else can fail: clients that the kernel gives to a process that ends at once are lost. Without
    /// `reuse_port`, this does nothing.
    pub fn take_over(&mut self) -> Result<(), BindError> {
        if !self.reuse_port {
            return Ok(());
        }
        let result = match &self.acceptor {
            Acceptor::Tcp(listener) => take_over::tcp(listener).map(|listener| self.acceptor = Acceptor::Tcp(listener)),
            Acceptor::Unix(_) => self.file.as_mut().map_or(Ok(()), SocketFile::replace),
        };
        result.map_err(|cause| BindError::address(&self.name, &self.address, cause))
    }

    /// The bound address, with the port that the kernel chose when port 0 is configured.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Index of this address among those of its configuration section, from 0.
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The connection limit, shared by all addresses of the listener.
    pub fn connection_limit(&self) -> &ConnectionLimit {
        &self.limits.connections
    }

    /// Waits for the next client.
    ///
    /// An error that affects one connection only is skipped. When the system is out of descriptors or memory, this
    /// retries with back-off, and logs the begin and the end of that state once. A client is closed and counted as
    /// rejected when too many clients wait for a place, or too many are above the connection limit.
    pub async fn accept(&self) -> Arrival {
        let mut pause = None;
        let mut logged = false;
        loop {
            match self.try_accept().await {
                Ok((socket, address)) => {
                    if logged {
                        tracing::warn!(listener = self.name, "{ACCEPTING_AGAIN}");
                    }
                    (pause, logged) = (None, false);
                    // This never waits for a place: clients of other sources would wait too.
                    let entry = self.limits.handshakes.arrive(address);
                    if let Some((entry, admittance)) = entry.and_then(|entry| Some((entry, self.admittance()?))) {
                        let original_destination =
                            self.intercept.then(|| original_dst::original_destination(&socket)).flatten().map(Box::new);
                        return Arrival { socket, address, slot: self.slot, original_destination, admittance, entry };
                    }
                    self.metrics.open_connection().set_outcome(ConnectionOutcome::Rejected);
                }
                Err(error) if is_exhaustion(&error) => {
                    if pause.is_none() {
                        logged = self.log_exhaustion(&error);
                    }
                    let wait = pause.map_or(BACK_OFF.0, |last: Duration| (last * 2).min(BACK_OFF.1));
                    tokio::time::sleep(wait).await;
                    pause = Some(wait);
                }
                Err(error) => {
                    tracing::debug!(listener = self.name, %error, "{ACCEPT_FAILED}");
                }
            }
        }
    }

    /// Logs that no connection can be accepted, unless that was logged a moment ago: at the limit of open files, each
    /// connection that ends makes room for one more. Returns whether it was logged.
    fn log_exhaustion(&self, error: &io::Error) -> bool {
        let decision = self.exhaustions.note(EXHAUSTED, "", LineBudget::Failures);
        let LogDecision::Log { suppressed } = decision else { return false };
        tracing::error!(
            listener = self.name,
            %error,
            remedy = "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections",
            suppressed,
            "{EXHAUSTED}"
        );
        true
    }

    /// Accepts one connection. Its socket is deregistered from this runtime: the worker registers it with its own.
    async fn try_accept(&self) -> io::Result<(Socket, ClientAddress)> {
        // A client that is not accepted yet waits in the kernel's queue until there is room.
        if !descriptors::has_room() {
            return Err(Errno::MFILE.into());
        }
        let (socket, address) = match &self.acceptor {
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // A dual-stack socket reports IPv4 clients as mapped IPv6 addresses. Logs and rules use IPv4.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                (Socket::from(stream.into_std()?), ClientAddress::Tcp(address))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                (Socket::from(stream.into_std()?), ClientAddress::Unix)
            }
        };
        // The room was used up while this waited for a client.
        if descriptors::is_one_of_the_last(&socket) {
            return Err(Errno::MFILE.into());
        }
        Ok((socket, address))
    }

    fn admittance(&self) -> Option<Admittance> {
        let admitted = self.limits.connections.try_acquire().map(Admittance::Admitted);
        admitted.or_else(|| self.refusal_limit.try_acquire().map(Admittance::LimitReached))
    }
}

/// Whether the error is a shortage of the system and not a failure of one connection.
fn is_exhaustion(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
