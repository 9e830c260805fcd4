//! Assembly: reads what the configuration names, binds everything, and runs it until the process is told to end.
//!
//! The only place that knows everybody. Each part is given its own section of the configuration and nothing else.

mod background;
mod certificates;
mod expiry;
mod owner;
mod policy_reload;
mod rotation;
mod status;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::admin;
use crate::admin::{AdminServer, Sources};
use crate::config::{Config, IdentityConfig, ListenAddress, ListenerConfig, Topology, UpstreamConfig};
use crate::connection::{
    AddressBook, Admission, ListedPrincipal, MemberSelector, Policing, PolicyInForce, Route, SlotMap, Upstream,
};
use crate::identity::{Identities, KnownSource, PrincipalPattern, TrustDomains};
use crate::lifecycle::drain::{Drain, DrainWatch};
use crate::lifecycle::readiness::{ConditionState, Readiness};
use crate::lifecycle::signals::SignalEvent;
use crate::lifecycle::tasks::Tasks;
use crate::listener;
use crate::listener::{BindError, BoundSocket, ConnectionLimit, Listener, ProxyRules};
use crate::policy::PolicyProblem;
use crate::relay::Limits;
use crate::telemetry::metrics::{ListenerMetrics, Metrics, UpstreamMetrics};
use crate::tls::{ListenerTls, ListenerTlsError, UpstreamTlsError};
use crate::upstream::REASONS;

use certificates::Certificates;
use owner::Owner;
use policy_reload::PolicyFollower;
use rotation::{Reload, ReloadRecord};
use status::{PolicyStatus, Status};
use worker::Workers;

/// How long the cutting of connections may take once the drain is over.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates, keys or names that the configuration points to cannot be used; all of them.
    #[error("{}", lines(.0))]
    Tls(Vec<UpstreamTlsError>),
    /// The same of what listeners show and trust.
    #[error("{}", listener_lines(.0))]
    ListenerTls(Vec<ListenerTlsError>),
    /// The policy cannot be used; all that is wrong with it.
    #[error("{}", policy_reload::sentences(.0))]
    Policy(Vec<PolicyProblem>),
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

fn lines(errors: &[UpstreamTlsError]) -> String {
    errors.iter().map(|error| format!("{error}; {}", error.remedy())).collect::<Vec<_>>().join("\n")
}

fn listener_lines(errors: &[ListenerTlsError]) -> String {
    errors.iter().map(|error| format!("{error}; {}", error.remedy())).collect::<Vec<_>>().join("\n")
}

/// Everything bound, nothing served yet; clients that connect wait in the system's queue.
pub struct BoundGateway {
    listeners: Vec<(Listener, Arc<Route>)>,
    upstreams: Vec<Arc<Upstream>>,
    admin: AdminServer,
    metrics: Metrics,
    certificates: Certificates,
    policy: Arc<PolicyInForce>,
    follower: Option<PolicyFollower>,
    workers: Workers,
    drain: Drain,
    drain_timeout: Duration,
}

impl BoundGateway {
    /// Loads certificates, binds every listener and the administration port, and starts the workers.
    ///
    /// `metrics` must be installed before. Must be called inside the runtime that [`BoundGateway::run`] will be on: one
    /// that carries no MongoDB traffic itself.
    ///
    /// The policy follows `file`, where one is given: the one that `config` was read from.
    pub fn bind(config: &Config, file: Option<&Path>, metrics: Metrics) -> Result<Self, StartError> {
        let drain = Drain::new();
        let policy = policy_reload::compile(config).map_err(StartError::Policy)?;
        let policy = Arc::new(PolicyInForce::new(policy));
        let follower = file.map(|file| PolicyFollower::new(file, config, &policy));
        let readiness = Readiness::new(drain.watch());
        let upstreams = upstreams(config)?;
        let doors = doors(config, &upstreams)?;
        let common = Common { config, upstreams: &upstreams, policy: &policy, drain: &drain.watch() };
        let mut listeners = Vec::new();
        for (section, door) in config.listeners.values().zip(doors) {
            listeners.extend(open_listener(section, door, &common)?);
        }
        let workers = Workers::start(config.workers, &drain.watch()).map_err(StartError::Worker)?;
        let upstreams: Vec<_> = upstreams.into_values().collect();
        let certificates = Certificates::new(config, &upstreams, &listeners);
        for upstream in &upstreams {
            let title = Owner::Upstream(Arc::clone(upstream), 0).title();
            let records = Owner::credentials_of(upstream).filter_map(|owner| certificates.record(&owner.title()));
            let (upstream, records) = (Arc::clone(upstream), records.collect::<Vec<_>>());
            readiness.add(&title, move || condition(&upstream, &records));
        }
        for owner in routes(&listeners).filter_map(Owner::listener_of) {
            let record = certificates.record(&owner.title());
            readiness.add(&owner.title(), move || listener_condition(record.as_deref()));
        }
        let record = follower.as_ref().map(PolicyFollower::record);
        if let Some(record) = record.clone() {
            let policy = Arc::clone(&policy);
            readiness.add("policy", move || policy_condition(&policy, &record));
        }
        let status = Status::new(&listeners, &upstreams, certificates.records(), &workers, &readiness)
            .with_policy(PolicyStatus::new(&policy, record));
        let sources = Sources { metrics: metrics.clone(), readiness, status: Arc::new(move || status.snapshot()) };
        let admin = admin::bind(&config.admin, sources)?;
        let drain_timeout = config.drain_timeout;
        Ok(Self { listeners, upstreams, admin, metrics, certificates, policy, follower, workers, drain, drain_timeout })
    }

    /// Name and address of every listener, with real ports.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &ListenAddress)> {
        self.listeners.iter().map(|(listener, route)| (route.listener.as_str(), listener.address()))
    }

    /// The administration port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until the first event that is no [`SignalEvent::Reload`], then lets commands in flight finish for at most
    /// `drain_timeout`, unless a [`SignalEvent::Stop`] ends that at once.
    ///
    /// When dropped, everything goes on until its runtime, and with the workers the process, ends.
    pub async fn run(self, mut next_event: impl AsyncFnMut() -> SignalEvent) {
        let Self {
            listeners,
            upstreams,
            admin,
            metrics,
            certificates,
            policy,
            follower,
            workers,
            drain: stage,
            drain_timeout,
        } = self;
        announce(&listeners, admin.address());
        policy_reload::tell(&policy);
        let own = Tasks::new();
        own.spawn("administration", admin.serve(stage.watch()));
        own.spawn("metrics upkeep", background::upkeep(metrics, stage.watch()));
        let mut reloads = vec![certificates.run(&own, &stage.watch())];
        if let Some(follower) = follower {
            reloads.push(follower.reload());
            own.spawn("policy", follower.run(stage.watch()));
        }
        for upstream in &upstreams {
            watch::watch_over(upstream, routes(&listeners), &own, &stage.watch());
        }
        for (listener, route) in listeners {
            own.spawn("accept", accept(listener, route, workers.hand()));
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = workers.count(), "started");

        loop {
            match next_event().await {
                SignalEvent::Reload => reloads.iter().for_each(Reload::ask),
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

fn open_upstream(section: &UpstreamConfig) -> Result<Upstream, UpstreamTlsError> {
    Upstream::new(section, UpstreamMetrics::new(&section.name, &REASONS))
}

/// What readiness says of an upstream. Files that cannot be used are no reason to send clients elsewhere while the last
/// good set is in use: every gateway that shares them would say so at once.
fn condition(upstream: &Upstream, reloads: &[Arc<ReloadRecord>]) -> ConditionState {
    let state = watch::condition(upstream);
    let problem = reloads.iter().find_map(|reload| reload.problem());
    match (state, problem) {
        (ConditionState::Holds(found) | ConditionState::Warns(found), Some(problem)) => {
            ConditionState::Warns(format!("{found}; certificates not renewed: {problem}"))
        }
        (state, _) => state,
    }
}

/// What readiness says of the policy: the last good one is in force whatever stands in the file.
fn policy_condition(in_force: &PolicyInForce, reload: &ReloadRecord) -> ConditionState {
    let policy = match in_force.current().map(|loaded| loaded.policy.rule_names().len()) {
        None => "none in force".to_owned(),
        Some(1) => "1 rule in force".to_owned(),
        Some(rules) => format!("{rules} rules in force"),
    };
    match reload.problem() {
        None => ConditionState::Holds(policy),
        Some(problem) => ConditionState::Warns(format!("{policy}; not reloaded: {problem}")),
    }
}

/// What readiness says of a listener that shows certificates. It is bound, or there would be no report.
fn listener_condition(reload: Option<&ReloadRecord>) -> ConditionState {
    match reload.and_then(ReloadRecord::problem) {
        None => ConditionState::Holds(String::new()),
        Some(problem) => ConditionState::Warns(format!("certificates not renewed: {problem}")),
    }
}

/// The doors of all listeners in their order: their certificates, and who their clients can be.
fn doors(config: &Config, upstreams: &BTreeMap<String, Arc<Upstream>>) -> Result<Vec<Admission>, StartError> {
    let first = upstreams.values().filter_map(|upstream| upstream.credentials().first());
    let own: Vec<_> = first.map(|credential| credential.identity.tls()).collect();
    let own = own.iter().flatten().filter_map(|tls| tls.credentials.certificates().next());
    let domains = TrustDomains::new(config.trust_domain.as_deref(), &config.trust_domain_aliases, own);
    let known: Vec<_> = config.identities.iter().map(known_source).collect();
    let (mut doors, mut errors) = (Vec::new(), Vec::new());
    for section in config.listeners.values() {
        match section.tls.as_ref().map(|tls| ListenerTls::load(&section.name, tls)).transpose() {
            Ok(tls) => {
                let identities = Identities::new(domains.clone(), &known, section.principal.as_deref());
                doors.push(Admission::new(section.mode, tls, ProxyRules::new(section), identities));
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
        let metrics = Arc::new(ListenerMetrics::for_principal(listener, pattern.as_str()));
        ListedPrincipal { pattern, metrics }
    };
    let listed: Vec<_> = config.metrics.principals.iter().map(listed).collect();
    let all = if listed.is_empty() {
        ListenerMetrics::new(listener)
    } else {
        ListenerMetrics::for_principal(listener, "other")
    };
    (Arc::new(all), listed)
}

/// What all listeners have in common.
struct Common<'a> {
    config: &'a Config,
    upstreams: &'a BTreeMap<String, Arc<Upstream>>,
    policy: &'a Arc<PolicyInForce>,
    drain: &'a DrainWatch,
}

/// One listener for each of its addresses, and the one route that they share.
fn open_listener(
    section: &ListenerConfig,
    door: Admission,
    common: &Common<'_>,
) -> Result<Vec<(Listener, Arc<Route>)>, StartError> {
    let Some(upstream) = common.upstreams.get(&section.upstream) else {
        // The configuration has been checked: every listener names an upstream that exists.
        return Err(StartError::Worker(io::ErrorKind::NotFound.into()));
    };
    let bound = listener::bind(section)?;
    let (metrics, listed) = measurements(common.config, &section.name);
    let route = Arc::new(Route {
        listener: section.name.clone(),
        places: section.max_connections,
        tcp_keepalive: section.tcp_keepalive,
        limits: Limits { idle_timeout: section.idle_timeout, max_lifetime: section.max_lifetime },
        door,
        metrics: Arc::clone(&metrics),
        listed,
        policing: Policing::new(Arc::clone(common.policy), Arc::clone(&upstream.cursors)),
        upstream: Arc::clone(upstream),
        destination: destination(section, upstream, &bound),
        drain: common.drain.clone(),
    });
    let places = ConnectionLimit::new(section.max_connections);
    let listeners = bound.into_iter().enumerate().map(|(slot, bound)| {
        let listener = Listener::new(section, slot, bound, places.clone(), Arc::clone(&metrics));
        Ok((listener.map_err(StartError::Worker)?, Arc::clone(&route)))
    });
    listeners.collect()
}

fn destination(section: &ListenerConfig, upstream: &Upstream, bound: &[BoundSocket]) -> MemberSelector {
    match &section.topology {
        _ if section.intercept => MemberSelector::Intercepted(AddressBook::default()),
        Topology::Direct => MemberSelector::Direct(upstream.config().deployment.listed().first().cloned()),
        Topology::LoadBalanced(preference) => MemberSelector::LoadBalanced(*preference),
        Topology::Members(members) => {
            let addresses = bound.iter().filter_map(|bound| match bound.address {
                ListenAddress::Tcp(address) => Some(address),
                ListenAddress::Unix(_) => None,
            });
            let addresses: Vec<_> = addresses.collect();
            MemberSelector::Members(SlotMap::new(members, &addresses))
        }
    }
}

/// The routes of `listeners`, each once.
fn routes(listeners: &[(Listener, Arc<Route>)]) -> impl Iterator<Item = &Arc<Route>> {
    listeners.iter().filter(|(listener, _)| listener.slot() == 0).map(|(_, route)| route)
}

fn announce(listeners: &[(Listener, Arc<Route>)], admin: SocketAddr) {
    for (listener, route) in listeners {
        let upstream = route.upstream.name();
        tracing::info!(listener = route.listener, address = %listener.address(), upstream, "listening");
    }
    tracing::info!(address = %admin, "admin listening");
}

async fn told_to_stop(next_event: &mut impl AsyncFnMut() -> SignalEvent) {
    while next_event().await != SignalEvent::Stop {}
}

/// Takes clients in until the drain begins; the listening socket closes then, and a unix socket's file goes.
async fn accept(listener: Listener, route: Arc<Route>, workers: worker::Dispatcher) {
    loop {
        tokio::select! {
            // Nobody is let in once the drain has begun.
            biased;
            () = route.drain.draining() => return,
            arrival = listener.accept() => workers.give(arrival, &route).await,
        }
    }
}
