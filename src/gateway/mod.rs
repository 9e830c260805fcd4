//! Assembly: makes every part from the configuration, connects the parts, and runs them until the process ends.
//!
//! The only module that knows all others. Each part gets its own section of the configuration and nothing else.

mod conditions;
mod control_actions;
mod error;
mod listeners;
mod memory_watch;
mod messages;
mod policy_reload;
mod rule_expiry;
mod service_report;
mod shutdown;
mod status_page;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::admin;
use crate::admin::{AdminServer, Sources};
use crate::certs::CertificateSupervisor;
use crate::cluster::{Upstream, UseOfHello, monitor};
use crate::config::{Config, ListenAddress, LoadedConfig, PoolMode, Warning};
use crate::connection::{PolicyInForce, Route};
use crate::control::{ControlBindError, ControlSocket};
use crate::lifecycle::cgroup;
use crate::lifecycle::drain::{Drain, DrainWatch};
use crate::lifecycle::overload::Overload;
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::reload_status::ReloadStatus;
use crate::lifecycle::service_manager::{ServiceEnvironment, ServiceManager};
use crate::lifecycle::signals::SignalEvent;
use crate::lifecycle::tasks::Tasks;
use crate::listener::Listener;
use crate::relay::HoldBudget;
use crate::telemetry::metrics::{Metrics, UpstreamMetrics};
use crate::tokens::TokenKeys;
use crate::upstream::REASONS;

pub use error::StartError;

use control_actions::ControlActions;
use listeners::{ListenerInputs, Listeners};
use messages::{ADMIN_LISTENING, CONFIGURATION_WARNING, LISTENING, STARTED};
use policy_reload::PolicyReloader;
use service_report::ServiceReport;
use shutdown::Shutdown;
use status_page::{PolicyStatus, StatusPage};
use worker::{Dispatcher, Workers};

/// How often recorded durations are folded into their histograms. Until then each one takes 16 bytes.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A gateway with all sockets bound that serves no client yet: the kernel queues new connections.
pub struct BoundGateway {
    listeners: Listeners,
    upstreams: Vec<Arc<Upstream>>,
    admin: AdminServer,
    warnings: Vec<Warning>,
    metrics: Metrics,
    certificates: CertificateSupervisor,
    tokens: Option<TokenKeys>,
    policy: Arc<PolicyInForce>,
    policy_reloader: Option<PolicyReloader>,
    workers: Workers,
    overload: Overload,
    drain: Drain,
    readiness: Readiness,
    manager: ServiceManager,
    shutdown: Shutdown,
    control: Option<ControlSocket>,
    /// Certificate sets and the policy, with the results of their reloads.
    reloaded: Vec<(String, Arc<ReloadStatus>)>,
}

impl BoundGateway {
    /// Loads certificates, binds every listener and the administration port, and starts the workers.
    ///
    /// `metrics` must be installed before. Must be called inside the runtime that [`BoundGateway::run`] will use, which
    /// carries no MongoDB traffic itself.
    ///
    /// `source` is where `config` was read from; the policy follows changes of the file. Without it the policy never
    /// changes.
    ///
    /// `service` is what the service manager passed to the process. Its sockets replace those that listeners would
    /// bind.
    pub fn bind(
        config: &Config,
        source: Option<&LoadedConfig>,
        service: ServiceEnvironment,
        metrics: Metrics,
    ) -> Result<Self, StartError> {
        let drain = Drain::new();
        let manager = ServiceManager::new(&service);
        let policy = policy_reload::compile(config).map_err(StartError::Policy)?;
        let max_held_bytes = config.max_held_bytes.unwrap_or_else(|| HoldBudget::default_bytes(cgroup::memory_limit()));
        let policy = Arc::new(PolicyInForce::new(policy, HoldBudget::new(max_held_bytes)));
        let policy_reloader = source.map(|source| PolicyReloader::new(source, &policy));
        let upstreams = upstreams(config)?;
        let tokens = TokenKeys::new(&config.token_issuers).map_err(StartError::TokenIssuers)?;
        let overload = Overload::default();
        let inputs = ListenerInputs {
            config,
            tokens: tokens.as_ref(),
            upstreams: &upstreams,
            policy: &policy,
            overload: overload.clone(),
            drain: drain.watch(),
        };
        let mut listeners = Listeners::open(&inputs, service.sockets)?;
        let workers = Workers::start(config.workers, &drain.watch()).map_err(StartError::Worker)?;
        let upstreams: Vec<_> = upstreams.into_values().collect();
        let servers = listeners.server_identities();
        let certificates = CertificateSupervisor::new(config, &upstreams, &servers);

        let readiness = Readiness::new(drain.watch());
        conditions::add_memory(&readiness, &overload);
        conditions::add_servers(&readiness, &upstreams, &listeners, &certificates);
        if let Some(tokens) = &tokens {
            conditions::add_tokens(&readiness, tokens);
        }
        let policy_status = policy_reloader.as_ref().map(PolicyReloader::status);
        let pending = policy_reloader.as_ref().map(PolicyReloader::pending_restart).unwrap_or_default();
        if let Some(status) = policy_status.clone() {
            conditions::add_policy(&readiness, &policy, status);
        }
        let status = StatusPage::new(&listeners, &upstreams, certificates.statuses(), &workers, &readiness)
            .with_policy(PolicyStatus::new(&policy, policy_status))
            .with_pending_restart(Arc::clone(&pending));
        let gauges = conditions::gauges(&readiness, &upstreams, &listeners, pending, &policy);
        let status = Arc::new(move || status.snapshot());
        let sources = Sources { metrics: metrics.clone(), gauges, readiness: readiness.clone(), status };
        let admin = admin::bind(&config.admin, sources)?;
        let shutdown = Shutdown::new(config);
        let reloaded = certificates.statuses().iter().map(|(title, status)| (title.clone(), Arc::clone(status)));
        let policy_reloads = policy_reloader.as_ref().map(|reloader| ("policy".to_owned(), reloader.status()));
        let reloaded = reloaded.chain(policy_reloads).collect();
        // Nothing after this can fail.
        listeners.take_over()?;
        Ok(Self {
            listeners,
            upstreams,
            admin,
            warnings: config.warnings_outside_policy(),
            metrics,
            certificates,
            tokens,
            policy,
            policy_reloader,
            workers,
            overload,
            drain,
            readiness,
            manager,
            shutdown,
            control: None,
            reloaded,
        })
    }

    /// Answers requests on this socket while the gateway runs, and moves the socket to its path.
    pub fn set_control(&mut self, mut control: ControlSocket) -> Result<(), ControlBindError> {
        control.take_over()?;
        self.control = Some(control);
        Ok(())
    }

    /// Name and address of every listener, with the actual port where the configuration has port 0.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, &ListenAddress)> {
        self.listeners.iter().map(|(listener, route)| (route.listener(), listener.address()))
    }

    /// The address of the administration port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until the first event that is not [`SignalEvent::Reload`]. Then shuts down as `[shutdown]` says, and
    /// drains: commands in flight may finish within `drain_timeout`, unless [`SignalEvent::Stop`] ends that at once.
    ///
    /// Returns the number of connections that were closed with a command in flight.
    ///
    /// When dropped, all tasks continue until their runtime, or the process with its workers, ends.
    pub async fn run(self, mut next_event: impl AsyncFnMut() -> SignalEvent) -> usize {
        let (workers, drain, shutdown) = (self.workers, self.drain, self.shutdown);
        for (listener, route) in self.listeners.iter() {
            let (address, upstream) = (listener.address(), route.upstream.name());
            tracing::info!(listener = route.listener(), %address, upstream, "{LISTENING}");
        }
        tracing::info!(address = %self.admin.address(), "{ADMIN_LISTENING}");
        for warning in self.warnings {
            tracing::warn!(key = warning.key, warning = warning.sentence, "{CONFIGURATION_WARNING}");
        }
        policy_reload::log_policy(&self.policy);
        let own = Tasks::new();
        let admin_ended = self.admin.serve_on_own_thread(drain.watch());
        own.spawn("administration", admin_ended);
        own.spawn("metrics upkeep", metrics_upkeep(self.metrics, drain.watch()));
        own.spawn("memory", memory_watch::run(self.overload, workers.connections(), drain.watch()));
        let mut reloads = vec![self.certificates.start(&own, &drain.watch())];
        if let Some(tokens) = self.tokens {
            tokens.start(&own, &drain.watch());
        }
        if let Some(reloader) = self.policy_reloader {
            reloads.push(reloader.request());
            own.spawn("policy", reloader.run(drain.watch()));
        }
        own.spawn("policy expiry", rule_expiry::run(Arc::clone(&self.policy), drain.watch()));
        for upstream in &self.upstreams {
            let slot_maps = self.listeners.slot_maps_of(upstream);
            let use_of_hello = match upstream.config().pool.mode {
                PoolMode::Off => UseOfHello::FollowsSet,
                PoolMode::Session | PoolMode::Request => UseOfHello::AnswersClients,
            };
            monitor::start(upstream, slot_maps, use_of_hello, &own, &drain.watch());
        }
        for (listener, route) in self.listeners.into_pairs() {
            own.spawn("accept", accept(listener, route, workers.dispatcher()));
        }
        let max_held_bytes = self.policy.hold_budget().max_bytes();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = workers.count(), max_held_bytes, "{STARTED}");

        let report = ServiceReport::new(self.manager, self.readiness, reloads, drain.watch());
        report.started(&own, workers.dispatcher()).await;
        let drain_request = Arc::new(Notify::new());
        if let Some(control) = self.control {
            let actions =
                ControlActions { report: report.clone(), reloaded: self.reloaded, drain: Arc::clone(&drain_request) };
            own.spawn("control", control.serve(actions, own.clone(), drain.watch()));
        }
        loop {
            let event = tokio::select! {
                event = next_event() => event,
                () = drain_request.notified() => SignalEvent::Drain,
            };
            match event {
                SignalEvent::Reload => report.reload(),
                SignalEvent::Drain => break,
                SignalEvent::Stop => {
                    drain.stop();
                    break;
                }
            }
        }
        report.stopping(shutdown.longest()).await;
        shutdown.run(&drain, &workers.connections(), &own, &mut next_event).await
    }
}

fn upstreams(config: &Config) -> Result<BTreeMap<String, Arc<Upstream>>, StartError> {
    let (mut upstreams, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, section) in &config.upstreams {
        match Upstream::new(section, UpstreamMetrics::new(&section.name, &REASONS)) {
            Ok(upstream) => drop(upstreams.insert(name.clone(), Arc::new(upstream))),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(upstreams) } else { Err(StartError::Tls(errors)) }
}

/// Accepts clients until the drain begins. Then the listening socket closes, and the file of a unix domain socket is
/// removed.
async fn accept(listener: Listener, route: Arc<Route>, workers: Dispatcher) {
    loop {
        tokio::select! {
            // No client is accepted after the drain has begun.
            biased;
            () = route.drain.draining() => return,
            arrival = listener.accept() => workers.dispatch(arrival, &route).await,
        }
    }
}

/// Folds recorded durations into their histograms until the process stops.
async fn metrics_upkeep(metrics: Metrics, drain: DrainWatch) {
    let upkeep = async {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
            metrics.upkeep();
        }
    };
    tokio::select! {
        () = upkeep => {}
        () = drain.stopped() => {}
    }
}
