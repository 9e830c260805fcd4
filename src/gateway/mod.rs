//! Assembly: reads what the configuration names, binds everything, and runs it until the process is told to end.
//!
//! The only place that knows everybody. Each part is given its own section of the configuration and nothing else.

mod background;
mod status;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::admin;
use crate::admin::{AdminServer, Sources};
use crate::config::{Config, IdentityConfig, ListenAddress, ListenerConfig};
use crate::connection::{Door, ListedPrincipal, Route, Upstream};
use crate::identity::{Identities, KnownSource, PrincipalPattern, TrustDomains};
use crate::lifecycle::drain::{Drain, DrainWatch};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::signals::SignalEvent;
use crate::lifecycle::tasks::Tasks;
use crate::listener;
use crate::listener::{BindError, Listener, ProxyRules};
use crate::relay::Limits;
use crate::telemetry::metrics::{CertificateRole, ListenerMetrics, Metrics, UpstreamMetrics, set_certificate_expiry};
use crate::tls::{ClientTlsError, ServerTls, ServerTlsError};
use crate::upstream::{Connector, REASONS, Shelf};

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
    /// The same of what listeners show and trust.
    #[error("{}", listener_lines(.0))]
    ListenerTls(Vec<ServerTlsError>),
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

fn listener_lines(errors: &[ServerTlsError]) -> String {
    errors.iter().map(|error| format!("{error}; {}", error.remedy())).collect::<Vec<_>>().join("\n")
}

/// Everything bound, nothing served yet; clients that connect wait in the system's queue.
pub struct BoundGateway {
    listeners: Vec<(Listener, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    admin: AdminServer,
    metrics: Metrics,
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
        let upstreams = upstreams(config, &readiness)?;
        let doors = doors(config, &upstreams)?;
        let mut listeners = Vec::new();
        for (section, door) in config.listeners.values().zip(doors) {
            listeners.push(open_listener(config, section, door, &upstreams, &drain.watch())?);
        }
        let workers = Workers::start(config.workers, &drain.watch()).map_err(StartError::Worker)?;
        let upstreams: Vec<_> = upstreams.into_values().collect();
        let status = Status::new(&listeners, &upstreams, &workers, &readiness);
        let sources = Sources { metrics: metrics.clone(), readiness, status: Arc::new(move || status.snapshot()) };
        let admin = admin::bind(&config.admin, sources)?;
        Ok(Self { listeners, upstreams, admin, metrics, workers, drain, drain_timeout: config.drain_timeout })
    }

    /// Name and address of every listener, with real ports.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &ListenAddress)> {
        self.listeners.iter().map(|(listener, route)| (route.listener.as_str(), listener.address()))
    }

    /// The administration port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until the first event, then lets commands in flight finish for at most `drain_timeout`, unless a
    /// [`SignalEvent::Stop`] ends that at once.
    ///
    /// When dropped, everything goes on until its runtime, and with the workers the process, ends.
    pub async fn run(self, mut next_event: impl AsyncFnMut() -> SignalEvent) {
        let Self { listeners, upstreams, admin, metrics, workers, drain: stage, drain_timeout } = self;
        announce(&listeners, admin.address());
        let own = Tasks::new();
        own.spawn("administration", admin.serve(stage.watch()));
        own.spawn("metrics upkeep", background::upkeep(metrics, stage.watch()));
        for upstream in upstreams {
            if upstream.shelf.is_on() {
                own.spawn("spare connections", background::keep_warm(Arc::clone(&upstream), stage.watch()));
            }
            own.spawn("upstream probe", background::probe(upstream, stage.watch()));
        }
        for (listener, route) in listeners {
            own.spawn("accept", accept(listener, route, workers.hand()));
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = workers.count(), "started");

        if next_event().await == SignalEvent::Stop {
            stage.stop();
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

fn upstreams(config: &Config, readiness: &Readiness) -> Result<BTreeMap<String, Arc<Upstream>>, StartError> {
    let (mut made, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, section) in &config.upstreams {
        match Connector::new(section) {
            Ok(connector) => {
                tell_expiry(name, &connector);
                let upstream = Upstream::new(
                    connector,
                    UpstreamMetrics::new(name, &REASONS),
                    readiness.add(&format!("upstream {name}")),
                    Shelf::new(section.warm_connections, section.warm_connections_max),
                    section.certificate_recycle_after,
                );
                made.insert(name.clone(), Arc::new(upstream));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(made) } else { Err(StartError::Tls(errors)) }
}

/// Of several certificates the one that ends first counts.
fn tell_expiry(upstream: &str, connector: &Connector) {
    let Some(tls) = connector.tls() else { return };
    let ends = [
        (CertificateRole::UpstreamClient, tls.credentials.certificates().map(|own| own.not_after).min()),
        (CertificateRole::UpstreamCa, tls.authorities.certificates.iter().map(|authority| authority.not_after).min()),
    ];
    for (role, end) in ends {
        let Some(end) = end else { continue };
        let age = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        set_certificate_expiry(role, upstream, i64::try_from(age.as_secs()).unwrap_or_default());
    }
}

/// The doors of all listeners in their order: their certificates, and who their clients can be.
fn doors(config: &Config, upstreams: &BTreeMap<String, Arc<Upstream>>) -> Result<Vec<Door>, StartError> {
    let own: Vec<_> = upstreams.values().map(|upstream| upstream.connector.tls()).collect();
    let own = own.iter().flatten().filter_map(|tls| tls.credentials.certificates().next());
    let domains = TrustDomains::new(config.trust_domain.as_deref(), &config.trust_domain_aliases, own);
    let known: Vec<_> = config.identities.iter().map(known_source).collect();
    let (mut doors, mut errors) = (Vec::new(), Vec::new());
    for section in config.listeners.values() {
        match section.tls.as_ref().map(|tls| ServerTls::load(&section.name, tls)).transpose() {
            Ok(tls) => {
                let identities = Identities::new(domains.clone(), &known, section.principal.as_deref());
                doors.push(Door::new(section.mode, tls, ProxyRules::new(section), identities));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(doors) } else { Err(StartError::ListenerTls(errors)) }
}

fn known_source(identity: &IdentityConfig) -> KnownSource {
    let IdentityConfig { principal, sources, uids } = identity.clone();
    KnownSource { principal, sources, uids }
}

/// The handles of the listener itself, and those of each principal that is listed.
fn measurements(config: &Config, listener: &str) -> (Arc<ListenerMetrics>, Vec<ListedPrincipal>) {
    let listed = |text: &String| {
        let pattern = PrincipalPattern::new(text);
        let metrics = Arc::new(ListenerMetrics::of_principal(listener, pattern.as_str()));
        ListedPrincipal { pattern, metrics }
    };
    let listed: Vec<_> = config.metrics.principals.iter().map(listed).collect();
    let all = if listed.is_empty() {
        ListenerMetrics::new(listener)
    } else {
        ListenerMetrics::of_principal(listener, "other")
    };
    (Arc::new(all), listed)
}

fn open_listener(
    config: &Config,
    section: &ListenerConfig,
    door: Door,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
    drain: &DrainWatch,
) -> Result<(Listener, Arc<Route>), StartError> {
    let Some(upstream) = upstreams.get(&section.upstream) else {
        // The configuration has been checked: every listener names an upstream that exists.
        return Err(StartError::Worker(io::ErrorKind::NotFound.into()));
    };
    let bound = listener::bind(section)?;
    let (metrics, listed) = measurements(config, &section.name);
    let listener = Listener::new(section, bound, Arc::clone(&metrics)).map_err(StartError::Worker)?;
    let route = Route {
        listener: section.name.clone(),
        places: section.max_connections,
        tcp_keepalive: section.tcp_keepalive,
        limits: Limits { idle_timeout: section.idle_timeout, max_lifetime: section.max_lifetime },
        door,
        metrics,
        listed,
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
