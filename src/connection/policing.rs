//! The policy of a listener's connections: which one is in force, how it looks from each caller, and what it found.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::Route;
use crate::identity::Identified;
use crate::listener::ClientAddress;
use crate::policy::{CallerFacts, Policy, SessionOwner, View};
use crate::relay::{CursorBook, EffectivePolicy, Finding, HoldBudget, PolicySource, counter_labels};
use crate::telemetry::policy_metrics::{PolicyDecision, PolicyMetrics};

/// Callers whose view of the policy is kept. Who comes when there are so many has his made, and all others anew.
const VIEWS_MAX: usize = 1024;

/// The policy in force; one for the whole gateway.
#[derive(Default)]
pub struct PolicyInForce {
    version: AtomicU64,
    current: ArcSwapOption<Loaded>,
    holding: HoldBudget,
}

/// A policy, and since when.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub policy: Arc<Policy>,
    /// When it was taken into use.
    pub since: SystemTime,
}

impl PolicyInForce {
    /// From the start.
    pub fn new(policy: Option<Policy>) -> Self {
        let this = Self::default();
        this.replace(policy);
        this
    }

    /// Open connections follow with their next message.
    pub fn replace(&self, policy: Option<Policy>) {
        let loaded = policy.map(|policy| Loaded { policy: Arc::new(policy), since: SystemTime::now() });
        self.current.store(loaded.map(Arc::new));
        // After it: whoever sees the new number finds the new policy, or a newer one.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// `None` where everything passes.
    pub fn current(&self) -> Option<Arc<Loaded>> {
        self.current.load_full()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// What the connections of one listener share of the policy.
pub struct Policing {
    in_force: Arc<PolicyInForce>,
    /// Of the upstream that the listener leads to.
    cursors: Arc<CursorBook>,
    views: Mutex<Views>,
}

/// How one policy looks from those who have called.
#[derive(Default)]
struct Views {
    version: u64,
    policy: Option<(Arc<Policy>, Arc<PolicyMetrics>)>,
    by_caller: HashMap<CallerKey, Arc<View>>,
}

/// What tells callers of one listener apart.
#[derive(PartialEq, Eq, Hash)]
struct CallerKey {
    principal: Option<Arc<Identified>>,
    source: Option<IpAddr>,
}

impl Policing {
    /// Connections that share an upstream share `cursors`.
    pub fn new(in_force: Arc<PolicyInForce>, cursors: Arc<CursorBook>) -> Self {
        Self { in_force, cursors, views: Mutex::default() }
    }

    /// Takes a lock; asked once per connection and policy.
    fn orders(&self, listener: &str, who: Option<&Arc<Identified>>, source: Option<IpAddr>) -> Option<EffectivePolicy> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.in_force.version();
        if views.version != version {
            let policy = self.in_force.current().map(|loaded| {
                let metrics = Arc::new(PolicyMetrics::new(listener, counter_labels(&loaded.policy)));
                (Arc::clone(&loaded.policy), metrics)
            });
            *views = Views { version, policy, by_caller: HashMap::new() };
        }
        let Views { policy, by_caller, .. } = &mut *views;
        let (policy, metrics) = policy.as_ref()?;
        if by_caller.len() >= VIEWS_MAX {
            by_caller.clear();
        }
        let key = CallerKey { principal: who.cloned(), source: source.filter(|_| policy.uses_sources()) };
        let facts = CallerFacts { principal: who.map(|who| &who.principal), source, listener };
        let view = by_caller.entry(key).or_insert_with(|| Arc::new(policy.view(&facts)));
        Some(EffectivePolicy {
            policy: Arc::clone(policy),
            view: Arc::clone(view),
            metrics: Arc::clone(metrics),
            cursors: Arc::clone(&self.cursors),
            caller: cursor_owner(&facts, policy.uses_sources()),
            session_owner: who.map_or_else(
                || SessionOwner::listener(listener),
                |who| SessionOwner::principal(who.principal.as_str()),
            ),
            hold_budget: self.in_force.holding.clone(),
        })
    }
}

/// The owner of a caller's cursors: the listener, the principal, and the source where rules use sources. Each begins with
/// its length, so that no two callers have the same text.
fn cursor_owner(caller: &CallerFacts<'_>, uses_sources: bool) -> Arc<str> {
    let CallerFacts { principal, source, listener } = caller;
    let mut owner = format!("{}:{listener}", listener.len());
    if let Some(principal) = principal {
        let principal = principal.as_str();
        let _ = write!(owner, " principal {}:{principal}", principal.len());
    }
    if let Some(source) = source.filter(|_| uses_sources) {
        let _ = write!(owner, " source {source}");
    }
    owner.into()
}

/// The policy for one connection.
pub(super) struct CallerPolicySource {
    pub(super) route: Arc<Route>,
    pub(super) client: ClientAddress,
    pub(super) who: Option<Arc<Identified>>,
    /// Where the client is, as far as is known.
    pub(super) source: Option<IpAddr>,
}

impl PolicySource for CallerPolicySource {
    fn version(&self) -> u64 {
        self.route.policing.in_force.version()
    }

    fn effective_policy(&self) -> Option<EffectivePolicy> {
        self.route.policing.orders(&self.route.listener, self.who.as_ref(), self.source)
    }

    fn log_finding(&self, finding: &Finding<'_>) {
        let Finding { rule, decision, command, namespace, unclear, count } = finding;
        let (listener, client) = (&self.route.listener, self.client);
        let principal = self.who.as_ref().map(|who| who.principal.as_str());
        let unclear = unclear.map(tracing::field::display);
        let namespace = (!namespace.is_empty()).then_some(*namespace);
        // A macro's level is fixed where it stands.
        match (decision, count) {
            (PolicyDecision::Deny, 1) => {
                tracing::warn!(listener, %client, principal, rule, command, namespace, unclear, "command refused");
            }
            (PolicyDecision::WouldDeny, 1) => {
                tracing::warn!(listener, %client, principal, rule, command, namespace, unclear, "command would be refused");
            }
            (PolicyDecision::Audit | PolicyDecision::Allow, 1) => {
                tracing::info!(listener, %client, principal, rule, command, namespace, "command audited");
            }
            (decision, count) => tracing::info!(
                listener,
                %client,
                principal,
                rule,
                decision = decision.label(),
                count,
                "decisions of this rule on the connection, in all"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Principal;

    #[test]
    fn a_cursor_belongs_to_a_caller_of_one_listener_and_of_one_source_where_rules_use_sources() {
        let cart = Principal::configured("cluster.local/ns/shop/sa/cart");
        let odd = Principal::configured("cart source 10.0.0.1");
        let sources = ["10.0.0.1", "10.0.0.2"].map(|source| Some(source.parse().unwrap()));
        let mut owners = Vec::new();
        for listener in ["orders", "cart", "cart principal 4:cart"] {
            for principal in [None, Some(&cart), Some(&odd)] {
                let of = |source, uses| cursor_owner(&CallerFacts { principal, source, listener }, uses);
                assert_eq!(of(sources[0], false), of(sources[1], false));
                owners.extend([of(sources[0], false), of(sources[0], true), of(sources[1], true)]);
            }
        }
        let all = owners.len();
        owners.sort();
        owners.dedup();
        assert_eq!(owners.len(), all, "{owners:?}");
    }
}
