//! The administration port: plain HTTP that shows and changes nothing.
//!
//! ```text
//! GET /         the paths below
//! GET /livez    200: the process runs
//! GET /readyz   200 or 503, with each condition and what is wrong; JSON where the client accepts it
//! GET /metrics  Prometheus text
//! GET /status   JSON
//! ```
//! Whoever reaches the port may read all of it. Hostile clients get neither memory nor time: connections, headers and
//! durations are bounded, request bodies are not read, and accepting never ends.

mod healthcheck;
mod routes;

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AdminConfig;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;

pub use healthcheck::{HealthError, healthcheck};
pub use routes::{Sources, StatusSource};

/// Why there is no administration port.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("administration cannot listen on {address}: another program does; stop it or choose a free admin.address")]
    InUse {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// Not an address of this machine.
    #[error("administration cannot listen on {address}: this machine has no such address; correct admin.address")]
    NotHere {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The port is reserved.
    #[error("administration may not listen on {address}: choose a port from 1024 up as admin.address")]
    Forbidden {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// Anything else.
    #[error("administration cannot listen on {address}")]
    Failed {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, source },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { address, source },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address, source },
            _ => Self::Failed { address, source },
        }
    }
}

/// The bound port; clients wait in its queue until it is served.
pub struct AdminServer {
    listener: StdTcpListener,
    address: SocketAddr,
    sources: Sources,
    limits: Limits,
}

/// What a client of this port may cost.
#[derive(Clone, Copy)]
struct Limits {
    /// The next one waits in the system's queue.
    connections_max: usize,
    /// From the connection, or the last answer, to the end of the next request's head.
    head_timeout: Duration,
    /// After it, a connection gets its current answer and no other.
    age_max: Duration,
    /// How long that answer may take; then the connection is cut, whether or not the client reads.
    grace: Duration,
}

/// A probe, a scraper and a few people need a handful of connections; 64 leave room for their mistakes.
/// Five seconds are long for a head that fits into one packet.
const LIMITS: Limits = Limits {
    connections_max: 64,
    head_timeout: Duration::from_secs(5),
    age_max: Duration::from_mins(1),
    grace: Duration::from_secs(5),
};

/// All of a request's head, and the unit in which answers are buffered. The least that hyper takes is 8 KiB.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Pauses after an accept that failed: doubling between these.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Takes the address; needs no runtime.
pub fn bind(config: &AdminConfig, sources: Sources) -> Result<AdminServer, BindError> {
    let failed = |source| BindError::new(config.address, source);
    let listener = StdTcpListener::bind(config.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(AdminServer { listener, address, sources, limits: LIMITS })
}

impl AdminServer {
    /// Where it listens, with the port that was taken for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until everything stops; a drain alone does not end it, as that is when people look.
    ///
    /// Returns when its own connections have ended too. Rendering takes milliseconds of the runtime it is on, so give
    /// it one that carries no MongoDB traffic.
    pub async fn serve(self, drain: DrainWatch) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(address = %self.address, %error, "the administration port cannot be served");
                return;
            }
        };
        let sources = Arc::new(self.sources);
        let tasks = Tasks::new();
        tokio::select! {
            () = accept_all(&listener, &sources, self.limits, &tasks, &drain) => {}
            () = drain.stopped() => {}
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Never returns.
async fn accept_all(listener: &TcpListener, sources: &Arc<Sources>, limits: Limits, tasks: &Tasks, drain: &DrainWatch) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _client)) => {
                pause = ACCEPT_PAUSE_MIN;
                let sources = Arc::clone(sources);
                let drain = drain.clone();
                tasks.spawn("administration connection", async move {
                    tokio::select! {
                        () = converse(stream, sources, limits, permit) => {}
                        () = drain.stopped() => {}
                    }
                });
            }
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                if pause == ACCEPT_PAUSE_MIN {
                    tracing::warn!(%error, "the administration port cannot accept connections for now");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// The others, such as too many open files, come again at once unless something changes.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// One client, until it leaves, breaks the protocol, or has been here too long.
async fn converse(stream: TcpStream, sources: Arc<Sources>, limits: Limits, _permit: OwnedSemaphorePermit) {
    // An answer is one write: without this a probe may wait for its acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let response = routes::respond(&sources, &request);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(limits.age_max) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an administration client was cut off");
    }
}

#[cfg(test)]
mod tests;
