//! Where a listener's connections go, and what they share.

use std::sync::Arc;
use std::time::Duration;

use super::admission::Admission;
use super::caller_policy::ListenerPolicy;
use super::connection_log::LogContext;
use super::ending::ListenerFacts;
use super::token_rules::TokenRules;
use crate::cluster::{MemberSelector, Upstream};
use crate::identity::{Principal, PrincipalPattern};
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::overload::Overload;
use crate::relay::Limits;
use crate::telemetry::metrics::ListenerMetrics;

/// Where a listener's connections go, and what they share.
pub struct Route {
    /// Which clients are admitted, and who they are.
    pub admission: Admission,
    /// The connection limit.
    pub max_connections: usize,
    /// TCP keepalive towards clients.
    pub tcp_keepalive: Option<Duration>,
    /// Idle timeout and maximum lifetime.
    pub limits: Limits,
    /// The principals with metrics of their own, in the order of the configuration.
    pub listed: Vec<ListedPrincipal>,
    /// How its clients authenticate with tokens; `None` if they do not.
    pub tokens: Option<TokenRules>,
    /// What its callers may do.
    pub policy: Arc<ListenerPolicy>,
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Selects a member of the upstream.
    pub selector: MemberSelector,
    /// Whether memory is left for more clients.
    pub overload: Overload,
    /// Ends connections when the process shuts down.
    pub drain: DrainWatch,
}

/// A principal, or several, with metrics of their own.
pub struct ListedPrincipal {
    /// Which principals these are.
    pub pattern: PrincipalPattern,
    /// Their metrics.
    pub metrics: Arc<ListenerMetrics>,
}

impl Route {
    /// The name of the listener.
    pub fn listener(&self) -> &str {
        self.admission.listener()
    }

    /// Where the commands of `principal` are counted. Called once per connection.
    pub(super) fn metrics_of(&self, principal: Option<&Principal>) -> &Arc<ListenerMetrics> {
        let listed =
            principal.and_then(|principal| self.listed.iter().find(|listed| listed.pattern.matches(principal)));
        listed.map_or(self.admission.metrics(), |listed| &listed.metrics)
    }

    pub(super) fn facts(&self) -> ListenerFacts<'_> {
        ListenerFacts {
            listener: self.listener(),
            upstream: self.upstream.name(),
            intercepts: matches!(self.selector, MemberSelector::Intercepted(_)),
        }
    }

    pub(super) fn log_context(&self) -> LogContext<'_> {
        LogContext { facts: self.facts(), throttle: self.admission.log_throttle() }
    }
}
