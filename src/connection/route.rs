//! Where a listener's connections go, and what they share.

use std::sync::Arc;
use std::time::Duration;

use super::destination::MemberSelector;
use super::door::Admission;
use super::policing::Policing;
use super::upstream::Upstream;
use crate::identity::{Principal, PrincipalPattern};
use crate::lifecycle::drain::DrainWatch;
use crate::relay::Limits;
use crate::telemetry::metrics::ListenerMetrics;
use crate::tls::ListenerTls;

/// What a listener leads to, and what its connections share.
pub struct Route {
    /// Name of the listener.
    pub listener: String,
    /// `max_connections`, for the sentence that refuses the one above.
    pub places: usize,
    /// Keepalive towards clients.
    pub tcp_keepalive: Option<Duration>,
    /// Idle and lifetime limits.
    pub limits: Limits,
    /// Who is let in, and as whom.
    pub door: Admission,
    /// The listener's measurements; of commands, errors and bytes those of all principals that are not listed.
    pub metrics: Arc<ListenerMetrics>,
    /// The principals that the operator wants to see in metrics, in the order of the configuration.
    pub listed: Vec<ListedPrincipal>,
    /// What its connections may do.
    pub policing: Policing,
    /// Where it leads.
    pub upstream: Arc<Upstream>,
    /// To which of its members.
    pub destination: MemberSelector,
    /// Ends connections when the process ends.
    pub drain: DrainWatch,
}

/// A principal, or several, with measurements of its own.
pub struct ListedPrincipal {
    /// Who counts as this one.
    pub pattern: PrincipalPattern,
    /// What it does.
    pub metrics: Arc<ListenerMetrics>,
}

impl Route {
    /// TLS clients that arrive from now on are shown `tls`; those that are in and would not be let in by it have to go.
    pub fn renew_tls(&self, tls: ListenerTls) {
        self.door.renew_tls(tls);
    }

    /// Where the commands of `principal` are counted; asked once per connection.
    pub(super) fn metrics_of(&self, principal: Option<&Principal>) -> &Arc<ListenerMetrics> {
        let listed = principal.and_then(|who| self.listed.iter().find(|listed| listed.pattern.matches(who)));
        listed.map_or(&self.metrics, |listed| &listed.metrics)
    }
}
