//! The administration port: a read-only, unauthenticated HTTP/1.1 server for probes, Prometheus and operators.
//!
//! ```text
//! GET /         lists the paths below
//! GET /livez    200: the process runs (liveness probe)
//! GET /readyz   200 or 503, with every condition and what is wrong (readiness probe); JSON if the client accepts it
//! GET /metrics  Prometheus text format
//! GET /status   JSON
//! ```
//! Every client that can connect can read everything. A hostile client cannot exhaust memory or block the others: the
//! number of connections, the size of a request head and every duration are limited, and request bodies are not read.

mod healthcheck;
mod routes;

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::config::AdminConfig;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;

pub use healthcheck::{HealthError, healthcheck};
pub use routes::{GaugeSource, Sources, StatusSource};

/// Why the administration port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminBindError {
    /// Another process listens on the address.
    #[error("admin.address: cannot listen on {address}: it is in use; stop the other process or choose a free port")]
    InUse {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The address does not belong to this machine.
    #[error("admin.address: cannot listen on {address}: this machine has no such address; choose one that it has")]
    NotHere {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// The port is reserved for privileged processes.
    #[error("admin.address: cannot listen on {address}: permission denied; choose a port from 1024 up")]
    Forbidden {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
    /// Any other error.
    #[error("admin.address: cannot listen on {address}")]
    Failed {
        /// As configured.
        address: SocketAddr,
        /// From the system.
        source: io::Error,
    },
}

impl AdminBindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, source },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { address, source },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address, source },
            _ => Self::Failed { address, source },
        }
    }
}

/// The bound administration port. Clients wait in the kernel's queue until
/// [`serve_on_own_thread`](Self::serve_on_own_thread) runs.
pub struct AdminServer {
    listener: StdTcpListener,
    address: SocketAddr,
    sources: Sources,
    limits: AdminLimits,
}

/// Bounds on what the clients of this port can use.
#[derive(Clone, Copy)]
struct AdminLimits {
    /// Open connections. A further client takes the place of the oldest.
    connections_max: usize,
    /// From the start of the connection, or from the previous response, to the end of the next request head.
    head_timeout: Duration,
    /// Age at which a connection stops taking requests; it finishes the current response.
    age_max: Duration,
    /// Limit for that last response. The connection is then closed even if the client has not read all of it.
    grace: Duration,
}

/// A probe, a scraper and a few people need a handful of connections; 64 leave room for clients that leave theirs open.
/// A request head fits into one packet, so five seconds are generous.
const LIMITS: AdminLimits = AdminLimits {
    connections_max: 64,
    head_timeout: Duration::from_secs(5),
    age_max: Duration::from_mins(1),
    grace: Duration::from_secs(5),
};

/// How long a connection is not closed for a newer one: longer than any probe or scrape in the same data centre takes.
const UNDISTURBED_TIME: Duration = Duration::from_millis(100);

/// Limit of a request head, and the size of the response buffer. hyper's minimum is 8 KiB.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// First and longest pause of the back-off after a failed `accept`; the pause doubles between them. A probe has one
/// second as a rule.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(100);

/// Log messages of this module.
const SERVE_FAILED: &str = "administration port failed";
const ACCEPT_FAILED: &str = "administration port cannot accept connections";
const CONNECTION_FAILED: &str = "administration connection failed";

/// Binds the configured address. Needs no runtime.
pub fn bind(config: &AdminConfig, sources: Sources) -> Result<AdminServer, AdminBindError> {
    let failed = |source| AdminBindError::new(config.address, source);
    let listener = StdTcpListener::bind(config.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(AdminServer { listener, address, sources, limits: LIMITS })
}

impl AdminServer {
    /// The bound address, with the port that the kernel chose when port 0 is configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves requests until [`Stage::Stopped`](crate::lifecycle::drain::Stage::Stopped). It keeps serving during the
    /// drain, when operators watch it.
    ///
    /// Returns when the connections of this port have ended too. Rendering a page blocks the runtime for milliseconds.
    async fn serve(self, drain: DrainWatch) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(address = %self.address, %error, "{SERVE_FAILED}");
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

impl AdminServer {
    /// Serves on a thread and a runtime of its own, so that probes are answered while the gateway is busy. The future
    /// resolves when serving has ended; dropping it changes nothing.
    pub fn serve_on_own_thread(self, drain: DrainWatch) -> impl Future<Output = ()> + Send + 'static {
        let (ended, wait) = oneshot::channel::<()>();
        let address = self.address;
        let run = move || -> io::Result<()> {
            Builder::new_current_thread().enable_all().build()?.block_on(self.serve(drain));
            drop(ended);
            Ok(())
        };
        let log_failure = move |error: io::Error| tracing::error!(%address, %error, "{SERVE_FAILED}");
        let started = thread::Builder::new().name("admin".to_owned()).spawn(move || run().unwrap_or_else(log_failure));
        if let Err(error) = started {
            log_failure(error);
        }
        async move {
            // An error says that the sender was dropped: serving has ended.
            let _ = wait.await;
        }
    }
}

/// The connections that are open, oldest first: the way to close each of them.
#[derive(Default)]
struct OpenConnections(VecDeque<(Instant, oneshot::Sender<()>)>);

impl OpenConnections {
    /// Takes note of a new connection. The receiver resolves when the connection has to make room for another.
    fn add(&mut self) -> oneshot::Receiver<()> {
        self.forget_ended();
        let (close, closed) = oneshot::channel();
        self.0.push_back((Instant::now(), close));
        closed
    }

    /// Waits until the oldest connection has had [`UNDISTURBED_TIME`], and closes it. Never resolves if none
    /// is left to be closed. Cancel safe.
    async fn close_oldest(&mut self) {
        self.forget_ended();
        match self.0.front() {
            Some((opened, _)) => tokio::time::sleep_until(*opened + UNDISTURBED_TIME).await,
            // Those that were told to close are about to end.
            None => pending().await,
        }
        if let Some((_, close)) = self.0.pop_front() {
            // It may have ended meanwhile, which makes room too.
            let _ = close.send(());
        }
    }

    fn forget_ended(&mut self) {
        self.0.retain(|(_, close)| !close.is_closed());
    }
}

/// Accepts connections and serves each in a task of its own. At the limit, the oldest connection makes room: a probe
/// takes milliseconds, and must not wait for slow readers. When the system has no descriptor for another connection,
/// the oldest makes room too: clients leave a few for this port (`lifecycle::descriptors`). Never returns.
async fn accept_all(
    listener: &TcpListener,
    sources: &Arc<Sources>,
    limits: AdminLimits,
    tasks: &Tasks,
    drain: &DrainWatch,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let mut open = OpenConnections::default();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, _client)) => {
                pause = ACCEPT_PAUSE_MIN;
                let permit = loop {
                    tokio::select! {
                        biased;
                        permit = Arc::clone(&permits).acquire_owned() => break permit,
                        () = open.close_oldest() => {}
                    }
                };
                let Ok(permit) = permit else { return };
                let make_room = open.add();
                let sources = Arc::clone(sources);
                let drain = drain.clone();
                tasks.spawn("administration connection", async move {
                    tokio::select! {
                        () = serve_connection(stream, sources, limits, permit) => {}
                        // The list keeps the sender as long as the connection is open.
                        _ = make_room => {}
                        () = drain.stopped() => {}
                    }
                });
            }
            Err(error) if affects_one_client(&error) => {}
            Err(error) => {
                if pause == ACCEPT_PAUSE_MIN {
                    tracing::warn!(%error, "{ACCEPT_FAILED}");
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = open.close_oldest() => {}
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Whether the error belongs to one connection. The others, such as too many open files, would repeat at once.
fn affects_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Serves one connection until the client closes it, breaks the protocol, or reaches a limit.
async fn serve_connection(
    stream: TcpStream,
    sources: Arc<Sources>,
    limits: AdminLimits,
    _permit: OwnedSemaphorePermit,
) {
    // A response is one write. With Nagle's algorithm it could wait for the client's acknowledgement.
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
        tracing::debug!(%error, "{CONNECTION_FAILED}");
    }
}

#[cfg(test)]
mod tests;
