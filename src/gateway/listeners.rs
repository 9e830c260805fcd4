//! Opens the listeners and the routes of their connections.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::error::StartError;
use super::messages::FILE_LIMIT_TOO_LOW;
use crate::cluster::{AddressBook, MemberSelector, SlotMap, Upstream};
use crate::config::{Config, IdentityConfig, ListenAddress, ListenerConfig, Topology};
use crate::connection::{Admission, ListedPrincipal, ListenerPolicy, PolicyInForce, Route, TokenRules};
use crate::identity::{Identities, KnownSource, PrincipalPattern, TrustDomains};
use crate::lifecycle::descriptors;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::overload::Overload;
use crate::lifecycle::service_manager::PassedSocket;
use crate::listener::{
    BoundSocket, ConnectionLimit, HandshakePlaces, Listener, ListenerLimits, PassedSockets, ServerIdentity,
};
use crate::relay::{CursorBook, Limits};
use crate::telemetry::metrics::ListenerMetrics;
use crate::tls::ListenerTls;
use crate::tokens::TokenKeys;

/// All listeners: one [`Listener`] for each address. All addresses of a section share one route.
pub(super) struct Listeners(Vec<(Listener, Arc<Route>)>);

/// What all listeners are made from.
pub(super) struct ListenerInputs<'a> {
    pub(super) config: &'a Config,
    pub(super) upstreams: &'a BTreeMap<String, Arc<Upstream>>,
    pub(super) policy: &'a Arc<PolicyInForce>,
    /// Validates tokens; `None` without a token issuer.
    pub(super) tokens: Option<&'a TokenKeys>,
    pub(super) overload: Overload,
    pub(super) drain: DrainWatch,
}

impl Listeners {
    /// Loads the certificates of all listeners, then binds their addresses in the order of the configuration.
    /// Uses the sockets that the service manager passed, if there are any.
    pub(super) fn open(inputs: &ListenerInputs<'_>, passed: Vec<PassedSocket>) -> Result<Self, StartError> {
        let mut passed = PassedSockets::new(passed, inputs.config.listeners.keys().map(String::as_str))?;
        let servers = server_identities(inputs.config)?;
        let identities = IdentitySources::new(inputs.config, inputs.upstreams);
        let cursors: BTreeMap<&str, Arc<CursorBook>> =
            inputs.upstreams.keys().map(|name| (name.as_str(), Arc::default())).collect();
        let mut listeners = Vec::new();
        let connections = connection_limits(inputs.config);
        for ((section, server), max_connections) in inputs.config.listeners.values().zip(servers).zip(connections) {
            let upstream = inputs.upstreams.get(&section.upstream).zip(cursors.get(section.upstream.as_str()));
            let Some((upstream, cursors)) = upstream else {
                // The configuration has been checked: every listener names an existing upstream.
                return Err(StartError::Worker(io::ErrorKind::NotFound.into()));
            };
            let bound = passed.open(section)?;
            let (metrics, listed) = metrics_of(inputs.config, &section.name);
            let route = Arc::new(Route {
                admission: Admission::new(section, server, identities.of(section), Arc::clone(&metrics)),
                max_connections,
                tcp_keepalive: section.tcp_keepalive,
                limits: Limits {
                    idle_timeout: section.idle_timeout,
                    max_lifetime: section.max_lifetime,
                    lifetime_grace: Some(inputs.config.drain_timeout),
                    half_close_timeout: section.half_close_timeout,
                },
                listed,
                tokens: inputs
                    .tokens
                    .and_then(|tokens| TokenRules::new(inputs.config, section, Arc::clone(tokens.validator()) as _)),
                policy: Arc::new(ListenerPolicy::new(&section.name, Arc::clone(inputs.policy), Arc::clone(cursors))),
                upstream: Arc::clone(upstream),
                selector: selector(section, upstream, &bound),
                overload: inputs.overload.clone(),
                drain: inputs.drain.clone(),
            });
            let limits = ListenerLimits {
                connections: ConnectionLimit::new(max_connections),
                handshakes: HandshakePlaces::new(max_connections),
            };
            for (slot, bound) in bound.into_iter().enumerate() {
                let listener = Listener::new(section, slot, bound, limits.clone(), Arc::clone(&metrics));
                listeners.push((listener.map_err(StartError::Worker)?, Arc::clone(&route)));
            }
        }
        passed.finish()?;
        Ok(Self(listeners))
    }

    /// Takes over the addresses that another process listens on, where that is configured.
    pub(super) fn take_over(&mut self) -> Result<(), StartError> {
        Ok(self.0.iter_mut().try_for_each(|(listener, _)| listener.take_over())?)
    }

    /// Each address with its route.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Listener, Arc<Route>)> {
        self.0.iter()
    }

    /// The first address of each section, with its route.
    pub(super) fn first_addresses(&self) -> impl Iterator<Item = &(Listener, Arc<Route>)> {
        self.iter().filter(|(listener, _)| listener.slot() == 0)
    }

    /// The server certificates of all TLS listeners.
    pub(super) fn server_identities(&self) -> Vec<Arc<ServerIdentity>> {
        self.first_addresses().filter_map(|(_, route)| route.admission.server_identity().cloned()).collect()
    }

    /// The slot maps of all listeners that lead to `upstream`.
    pub(super) fn slot_maps_of(&self, upstream: &Arc<Upstream>) -> Vec<Arc<SlotMap>> {
        let routes = self.first_addresses().map(|(_, route)| route);
        let slot_map = |route: &Arc<Route>| match &route.selector {
            MemberSelector::Members(slots) => Some(Arc::clone(slots)),
            _ => None,
        };
        routes.filter(|route| Arc::ptr_eq(&route.upstream, upstream)).filter_map(slot_map).collect()
    }

    /// Each address with its route.
    pub(super) fn into_pairs(self) -> impl Iterator<Item = (Listener, Arc<Route>)> {
        self.0.into_iter()
    }
}

/// The connection limit of each listener, in the order of the configuration. Says so if the limit of open files allows
/// fewer than configured: without descriptors, the gateway could not even refuse clients.
fn connection_limits(config: &Config) -> Vec<usize> {
    let wanted: Vec<_> = config.listeners.values().map(|section| section.max_connections).collect();
    let limit = descriptors::limit();
    let allowed = descriptors::allowed(&wanted, limit);
    for (section, allowed) in config.listeners.values().zip(&allowed).filter(|(it, max)| it.max_connections != **max) {
        tracing::warn!(
            listener = section.name,
            limit,
            wanted = descriptors::needed(&wanted),
            configured = section.max_connections,
            max_connections = allowed,
            remedy = "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections",
            "{FILE_LIMIT_TOO_LOW}"
        );
    }
    allowed
}

/// The server certificate of each listener, in the order of the configuration; `None` for plaintext.
fn server_identities(config: &Config) -> Result<Vec<Option<Arc<ServerIdentity>>>, StartError> {
    let (mut identities, mut errors) = (Vec::new(), Vec::new());
    for section in config.listeners.values() {
        match section.tls.as_ref().map(|tls| ListenerTls::load(&section.name, tls)).transpose() {
            Ok(tls) => identities.push(tls.map(|tls| Arc::new(ServerIdentity::new(&section.name, tls)))),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(identities) } else { Err(StartError::ListenerTls(errors)) }
}

/// What all listeners identify clients by.
struct IdentitySources {
    domains: TrustDomains,
    known: Vec<KnownSource>,
}

impl IdentitySources {
    /// The trust domain is that of the configuration, or else that of the gateway's own client certificates.
    fn new(config: &Config, upstreams: &BTreeMap<String, Arc<Upstream>>) -> Self {
        let credentials = upstreams.values().filter_map(|upstream| upstream.credentials().first());
        let own: Vec<_> = credentials.map(|credential| credential.identity.tls()).collect();
        let own = own.iter().flatten().filter_map(|tls| tls.credentials.certificates().next());
        let domains = TrustDomains::new(config.trust_domain.as_deref(), &config.trust_domain_aliases, own);
        Self { domains, known: config.identities.iter().map(known_source).collect() }
    }

    fn of(&self, section: &ListenerConfig) -> Identities {
        Identities::new(self.domains.clone(), &self.known, section.principal.as_deref())
    }
}

fn known_source(identity: &IdentityConfig) -> KnownSource {
    let IdentityConfig { principal, sources, uids, may_forward: _ } = identity.clone();
    KnownSource { principal, sources, uids }
}

/// The metrics of a listener, and those of each principal that the configuration lists.
fn metrics_of(config: &Config, listener: &str) -> (Arc<ListenerMetrics>, Vec<ListedPrincipal>) {
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

fn selector(section: &ListenerConfig, upstream: &Upstream, bound: &[BoundSocket]) -> MemberSelector {
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
            MemberSelector::Members(Arc::new(SlotMap::new(&section.name, members, &addresses)))
        }
    }
}
