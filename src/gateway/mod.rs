//! Assembly: reads what the configuration names, binds everything, and runs it until the process is told to end.
//!
//! The only place that knows everybody. Each part is given its own section of the configuration and nothing else.

mod background;
mod expiry;
mod owner;
mod rotation;
mod status;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::admin;
use crate::admin::{AdminServer, Sources};
use crate::config::{Config, ListenAddress, UpstreamConfig};
use crate::connection::{Route, Upstream};
use crate::lifecycle::drain::{Drain, DrainWatch};
use crate::lifecycle::readiness::{ConditionState, Readiness};
use crate::lifecycle::signals::SignalEvent;
use crate::lifecycle::tasks::Tasks;
use crate::listener;
use crate::listener::{BindError, BoundSocket, Listener};
use crate::relay::Limits;
use crate::telemetry::metrics::{ListenerMetrics, Metrics, UpstreamMetrics};
use crate::telemetry::repeats::Repeats;
use crate::tls::ClientTlsError;
use crate::upstream::{Connector, REASONS, UpstreamHealth};

use expiry::Expiry;
use owner::Owner;
use rotation::{ReloadRecord, Rotation, Source};
use status::Status;
use worker::Workers;

/// How long the cutting of connections may take once the drain is over.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates, keys or names that the configuration points to cannot be used; all of them.
    #[error("{}", lines(.0))]
    Tls(Vec<ClientTlsError>),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The administration port cannot be opened.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    /// The system gives no thread or no runtime.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

fn lines(errors: &[ClientTlsError]) -> String {
    errors.iter().map(|error| format!("{error}; {}", error.remedy())).collect::<Vec<_>>().join("\n")
}

/// Everything bound, nothing served yet; clients that connect wait in the system's queue.
pub struct BoundGateway {
    listeners: Vec<(Listener, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    admin: AdminServer,
    metrics: Metrics,
    expiry: Arc<Expiry>,
    rotation: Rotation,
    workers: Workers,
    drain: Drain,
    drain_timeout: Duration,
}

impl BoundGateway {
    /// Loads certificates, binds every listener and the administration port, and starts the workers.
    ///
    /// `metrics` must be installed before. Must be called inside the runtime that [`BoundGateway::run`] will be on: one
    /// that carries no MongoDB traffic itself.
    pub fn bind(config: &Config, metrics: Metrics) -> Result<Self, StartError> {
        let drain = Drain::new();
        let readiness = Readiness::new(drain.watch());
        let upstreams = upstreams(config)?;
        let mut listeners = Vec::new();
        for section in config.listeners.values() {
            let bound = listener::bind(section)?;
            listeners.push(open_listener(section, bound, &upstreams, &drain.watch())?);
        }
        let workers = Workers::start(config.workers, &drain.watch()).map_err(StartError::Worker)?;
        let upstreams: Vec<_> = upstreams.into_values().collect();
        let owners: Vec<_> = upstreams.iter().map(|upstream| Owner::Upstream(Arc::clone(upstream))).collect();
        let expiry = Arc::new(Expiry::new(owners));
        expiry.look(SystemTime::now());
        let mut rotation = Rotation::new(Arc::clone(&expiry));
        let mut reloads = BTreeMap::new();
        for upstream in &upstreams {
            let section = config.upstreams.get(upstream.connector.upstream());
            let source = section.and_then(|section| Source::of_upstream(upstream, section));
            let reload = source.map(|source| rotation.add(source));
            let title = Owner::Upstream(Arc::clone(upstream)).title();
            reloads.extend(reload.clone().map(|reload| (title.clone(), reload)));
            let upstream = Arc::clone(upstream);
            readiness.add(&title, move || condition(&upstream, reload.as_deref()));
        }
        let status = Status::new(&listeners, &upstreams, reloads, &workers, &readiness);
        let sources = Sources { metrics: metrics.clone(), readiness, status: Arc::new(move || status.snapshot()) };
        let admin = admin::bind(&config.admin, sources)?;
        let drain_timeout = config.drain_timeout;
        Ok(Self { listeners, upstreams, admin, metrics, expiry, rotation, workers, drain, drain_timeout })
    }

    /// Name and address of every listener, with real ports.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &ListenAddress)> {
        self.listeners.iter().map(|(listener, route)| (route.listener.as_str(), listener.address()))
    }

    /// The administration port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until the first event that is no [`SignalEvent::Reload`], then lets commands in flight finish for at most `drain_timeout`, unless a
    /// [`SignalEvent::Stop`] ends that at once.
    ///
    /// When dropped, everything goes on until its runtime, and with the workers the process, ends.
    pub async fn run(self, mut next_event: impl AsyncFnMut() -> SignalEvent) {
        let Self { listeners, upstreams, admin, metrics, expiry, rotation, workers, drain: stage, drain_timeout } =
            self;
        announce(&listeners, admin.address());
        let own = Tasks::new();
        own.spawn("administration", admin.serve(stage.watch()));
        own.spawn("metrics upkeep", background::upkeep(metrics, stage.watch()));
        let reload = rotation.reload();
        own.spawn("certificate renewal", rotation.run(stage.watch()));
        let watch = stage.watch();
        own.spawn("certificate expiry", async move { expiry.watch(watch).await });
        for upstream in upstreams {
            own.spawn("upstream probe", background::probe(upstream, stage.watch()));
        }
        for (listener, route) in listeners {
            own.spawn("accept", accept(listener, route, workers.hand()));
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = workers.count(), "started");

        loop {
            match next_event().await {
                SignalEvent::Reload => reload.ask(),
                SignalEvent::Drain => break,
                SignalEvent::Stop => {
                    stage.stop();
                    break;
                }
            }
        }
        stage.begin();
        let connections = workers.connections();
        tracing::info!(connections = connections.len(), timeout = %humantime::format_duration(drain_timeout), "draining");
        connections.close();
        tokio::select! {
            // Done is better than cut.
            biased;
            () = connections.wait() => {}
            () = told_to_stop(&mut next_event) => {
                tracing::warn!(connections = connections.len(), "stopped at once by a second signal");
            }
            () = tokio::time::sleep(drain_timeout) => {
                tracing::warn!(connections = connections.len(), "drain_timeout is over: connections are cut");
            }
        }
        stage.stop();
        own.close();
        let _ = tokio::time::timeout(STOP_DEADLINE, async { tokio::join!(connections.wait(), own.wait()) }).await;
        tracing::info!("stopped");
    }
}

fn upstreams(config: &Config) -> Result<BTreeMap<String, Arc<Upstream>>, StartError> {
    let (mut made, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, section) in &config.upstreams {
        match open_upstream(section) {
            Ok(upstream) => drop(made.insert(name.clone(), Arc::new(upstream))),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(made) } else { Err(StartError::Tls(errors)) }
}

fn open_upstream(section: &UpstreamConfig) -> Result<Upstream, ClientTlsError> {
    Ok(Upstream {
        connector: Connector::new(section)?,
        health: UpstreamHealth::default(),
        metrics: UpstreamMetrics::new(&section.name, &REASONS),
        failed: Notify::new(),
        renewed: Notify::new(),
        repeats: Repeats::new(),
    })
}

/// What readiness says of an upstream. Files that cannot be used are no reason to send clients elsewhere while the last
/// good set is in use: every gateway that shares them would say so at once.
fn condition(upstream: &Upstream, reload: Option<&ReloadRecord>) -> ConditionState {
    let health = upstream.health.snapshot();
    if let Some(sentence) = health.complaint(background::PROBE_AGE_MAX) {
        return ConditionState::Fails(sentence);
    }
    let server = health.server.map(|(address, server)| format!("{} at {address}", server.role)).unwrap_or_default();
    match reload.and_then(ReloadRecord::problem) {
        None => ConditionState::Holds(server),
        Some(problem) => ConditionState::Warns(format!("{server}; certificates not renewed: {problem}")),
    }
}

fn open_listener(
    section: &crate::config::ListenerConfig,
    bound: BoundSocket,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
    drain: &DrainWatch,
) -> Result<(Listener, Arc<Route>), StartError> {
    let Some(upstream) = upstreams.get(&section.upstream) else {
        // The configuration has been checked: every listener names an upstream that exists.
        return Err(StartError::Worker(io::ErrorKind::NotFound.into()));
    };
    let metrics = Arc::new(ListenerMetrics::new(&section.name));
    let listener = Listener::new(section, bound, Arc::clone(&metrics)).map_err(StartError::Worker)?;
    let route = Route {
        listener: section.name.clone(),
        places: section.max_connections,
        tcp_keepalive: section.tcp_keepalive,
        limits: Limits { idle_timeout: section.idle_timeout, max_lifetime: section.max_lifetime },
        metrics,
        upstream: Arc::clone(upstream),
        drain: drain.clone(),
    };
    Ok((listener, Arc::new(route)))
}

fn announce(listeners: &[(Listener, Arc<Route>)], admin: SocketAddr) {
    for (listener, route) in listeners {
        let upstream = route.upstream.connector.upstream();
        tracing::info!(listener = route.listener, address = %listener.address(), upstream, "listening");
    }
    tracing::info!(address = %admin, "admin listening");
}

async fn told_to_stop(next_event: &mut impl AsyncFnMut() -> SignalEvent) {
    while next_event().await != SignalEvent::Stop {}
}

/// Takes clients in until the drain begins; the listening socket closes then, and a unix socket's file goes.
async fn accept(listener: Listener, route: Arc<Route>, workers: worker::Hand) {
    loop {
        tokio::select! {
            // Nobody is let in once the drain has begun.
            biased;
            () = route.drain.draining() => return,
            arrival = listener.accept() => workers.give(arrival, &route).await,
        }
    }
}
