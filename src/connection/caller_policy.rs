//! The policy as it applies to each caller of a listener, and the log lines about its decisions.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::messages::{COMMAND_AUDITED, COMMAND_DENIED, COMMAND_WOULD_BE_DENIED, DECISIONS_OF_RULE};
use super::policy_in_force::PolicyInForce;
use crate::identity::{Identified, Principal};
use crate::listener::ClientAddress;
use crate::policy::{CallerFacts, Policy, SessionOwner, View};
use crate::relay::{CursorBook, CursorCaller, EffectivePolicy, Finding, PolicySource, SessionMapping, counter_labels};
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::policy_metrics::{PolicyDecision, PolicyMetrics};

/// Callers whose view of the policy is kept. When there are more, all views are discarded and made again on demand.
const VIEWS_MAX: usize = 1024;

/// The policy for the connections of one listener.
pub struct ListenerPolicy {
    listener: String,
    in_force: Arc<PolicyInForce>,
    cursors: Arc<CursorBook>,
    views: Mutex<Views>,
    log_throttle: LogThrottle,
}

/// One policy as it applies to the callers seen so far.
#[derive(Default)]
struct Views {
    version: u64,
    policy: Option<(Arc<Policy>, Arc<PolicyMetrics>)>,
    by_caller: HashMap<CallerKey, Arc<View>>,
}

/// What a policy can distinguish callers of one listener by.
#[derive(PartialEq, Eq, Hash)]
struct CallerKey {
    identity: Option<Arc<Identified>>,
    source: Option<IpAddr>,
}

impl ListenerPolicy {
    /// `cursors` is shared by all listeners that lead to the same upstream.
    pub fn new(listener: &str, in_force: Arc<PolicyInForce>, cursors: Arc<CursorBook>) -> Self {
        let log_throttle = LogThrottle::new(LogSubject::Listener(listener.to_owned()));
        Self { listener: listener.to_owned(), in_force, cursors, views: Mutex::default(), log_throttle }
    }

    /// Whether the policy in force denies all clients of the listener everything except handshake commands.
    pub fn denies_everything(&self) -> bool {
        self.in_force.current().is_some_and(|loaded| loaded.policy.denies_everything_at(&self.listener))
    }

    /// The policy as it applies to a caller; `None` without a policy. Takes a lock: called once for each connection and
    /// policy.
    fn effective(&self, identity: Option<&Arc<Identified>>, source: Option<IpAddr>) -> Option<EffectivePolicy> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.in_force.version();
        if views.version != version {
            let policy = self.in_force.current().map(|loaded| {
                let metrics = Arc::new(PolicyMetrics::new(&self.listener, counter_labels(&loaded.policy)));
                (Arc::clone(&loaded.policy), metrics)
            });
            *views = Views { version, policy, by_caller: HashMap::new() };
        }
        let Views { policy, by_caller, .. } = &mut *views;
        let (policy, metrics) = policy.as_ref()?;
        if by_caller.len() >= VIEWS_MAX {
            by_caller.clear();
        }
        let key = CallerKey { identity: identity.cloned(), source: source.filter(|_| policy.uses_sources()) };
        let principal = identity.map(|identity| &identity.principal);
        let facts = CallerFacts { principal, source, listener: &self.listener };
        let view = by_caller.entry(key).or_insert_with(|| Arc::new(policy.view(&facts)));
        Some(EffectivePolicy {
            policy: Arc::clone(policy),
            view: Arc::clone(view),
            metrics: Arc::clone(metrics),
            cursors: Arc::clone(&self.cursors),
            caller: cursor_caller(&facts, policy.uses_sources()),
        })
    }
}

/// The owner of a caller's cursors. The listener begins with its length, so that two callers never have the same name.
fn cursor_caller(caller: &CallerFacts<'_>, has_sources: bool) -> CursorCaller {
    let CallerFacts { principal, source, listener } = *caller;
    let mut name = format!("{}:{listener}", listener.len());
    if let Some(principal) = principal {
        let _ = write!(name, " principal {principal}");
    }
    CursorCaller { name: name.into(), source, has_sources }
}

/// Whose share of the hold budget a caller uses.
fn budget_caller(caller: &CallerFacts<'_>) -> Arc<str> {
    let CursorCaller { name, source, .. } = cursor_caller(caller, true);
    match source {
        Some(source) => format!("{name} source {source}").into(),
        None => name,
    }
}

/// The owner of a caller's sessions: the principal, or else the listener. Unlike the owner of cursors it is the same at
/// every listener of every gateway, since a driver retries a write through another connection.
fn session_owner(principal: Option<&Principal>, listener: &str) -> SessionOwner {
    match principal {
        Some(principal) => SessionOwner::principal(principal.as_str()),
        None => SessionOwner::listener(listener),
    }
}

/// The policy for one connection.
pub(super) struct CallerPolicySource {
    pub(super) policy: Arc<ListenerPolicy>,
    pub(super) client: ClientAddress,
    pub(super) identity: Option<Arc<Identified>>,
    /// The address of the client, if it is known.
    pub(super) source: Option<IpAddr>,
}

impl PolicySource for CallerPolicySource {
    fn version(&self) -> u64 {
        self.policy.in_force.version()
    }

    fn effective_policy(&self) -> Option<EffectivePolicy> {
        self.policy.effective(self.identity.as_ref(), self.source)
    }

    fn session_mapping(&self) -> Option<SessionMapping> {
        let ListenerPolicy { listener, in_force, .. } = &*self.policy;
        let principal = self.identity.as_ref().map(|identity| &identity.principal);
        let has_sources = in_force.current().is_some_and(|loaded| loaded.policy.uses_sources());
        let caller = CallerFacts { principal, source: self.source.filter(|_| has_sources), listener };
        in_force.has_had_policy().then(|| SessionMapping {
            owner: session_owner(principal, listener),
            hold_budget: in_force.hold_budget().clone(),
            caller: budget_caller(&caller),
        })
    }

    fn log_finding(&self, finding: &Finding<'_>) {
        let Finding { rule, decision, command, namespace, unclear, count } = finding;
        let (listener, client) = (&self.policy.listener, self.client);
        let principal = self.identity.as_ref().map(|identity| identity.principal.as_str());
        // A client can make up any number of names that the policy does not know.
        let known_command = command.filter(|_| unclear.is_none());
        let unclear = unclear.map(tracing::field::display);
        let namespace = (!namespace.is_empty()).then_some(*namespace);
        let (message, budget) = message_and_budget(*decision, *count);
        let kind = kind(rule, known_command.unwrap_or("other"), principal, self.client);
        let LogDecision::Log { suppressed } = self.policy.log_throttle.note(message, &kind, budget) else { return };
        // One macro for each level: the level of a macro is a constant.
        match (decision, count) {
            (PolicyDecision::Deny, 1) => tracing::warn!(
                listener,
                %client,
                principal,
                rule,
                command,
                namespace,
                unclear,
                suppressed,
                "{COMMAND_DENIED}"
            ),
            (PolicyDecision::WouldDeny, 1) => tracing::warn!(
                listener,
                %client,
                principal,
                rule,
                command,
                namespace,
                unclear,
                suppressed,
                "{COMMAND_WOULD_BE_DENIED}"
            ),
            (PolicyDecision::Audit | PolicyDecision::Allow, 1) => tracing::info!(
                listener,
                %client,
                principal,
                rule,
                command,
                namespace,
                suppressed,
                "{COMMAND_AUDITED}"
            ),
            (decision, count) => tracing::info!(
                listener,
                %client,
                principal,
                rule,
                decision = decision.label(),
                count,
                suppressed,
                "{DECISIONS_OF_RULE}"
            ),
        }
    }
}

fn message_and_budget(decision: PolicyDecision, count: u64) -> (&'static str, LineBudget) {
    match (decision, count) {
        (PolicyDecision::Deny, 1) => (COMMAND_DENIED, LineBudget::Denials),
        (PolicyDecision::WouldDeny, 1) => (COMMAND_WOULD_BE_DENIED, LineBudget::Denials),
        (PolicyDecision::Audit | PolicyDecision::Allow, 1) => (COMMAND_AUDITED, LineBudget::Traffic),
        _ => (DECISIONS_OF_RULE, LineBudget::Changes),
    }
}

/// The kind of a line: the rule, the command, and the principal or else the address. A caller that is denied again and
/// again does not use up the lines about others, nor those about its own other commands.
fn kind(rule: &str, command: &str, principal: Option<&str>, client: ClientAddress) -> String {
    match (principal, client) {
        (Some(principal), _) => format!("{rule}: {command} for {principal}"),
        (None, ClientAddress::Tcp(address)) => format!("{rule}: {command} for {}", address.ip()),
        (None, ClientAddress::Unix) => format!("{rule}: {command}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_cursors_is_a_principal_of_one_listener() {
        let cart = Principal::configured("cluster.local/ns/shop/sa/cart");
        let odd = Principal::configured("cart principal cluster.local/ns/shop/sa/cart");
        let mut names = Vec::new();
        for listener in ["orders", "cart", "cart principal cart"] {
            for principal in [None, Some(&cart), Some(&odd)] {
                names.push(cursor_caller(&CallerFacts { principal, source: None, listener }, false).name);
            }
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
    }
}
