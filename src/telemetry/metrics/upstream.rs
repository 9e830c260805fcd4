//! The metrics of one upstream: connection attempts, spare connections, certificate renewals, and members.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::families::{
    POOL_REUSES, POOL_WAIT, UPSTREAM_HANDSHAKE_DURATION, UPSTREAM_HANDSHAKES, UPSTREAM_MEMBERS,
    UPSTREAM_PRIMARY_CHANGES, UPSTREAM_RECYCLED, UPSTREAM_WARM_CONNECTIONS,
};
use super::labels::Recycling;

/// The metric handles of one upstream.
pub struct UpstreamMetrics {
    /// By outcome: `ok`, and each reason for a failure.
    handshakes: Vec<(&'static str, Counter)>,
    handshake_duration: Histogram,
    warm_connections: Gauge,
    pool_wait: Histogram,
    pool_reuses: Counter,
    /// By [`Recycling`].
    recycled: [Counter; 2],
}

impl UpstreamMetrics {
    /// Looks up the handles in the recorder that is installed now. `reasons` are all values that
    /// [`count_failed_handshake`](Self::count_failed_handshake) can count.
    pub fn new(upstream: &str, reasons: &[&'static str]) -> Self {
        let outcome =
            |outcome| (outcome, counter!(UPSTREAM_HANDSHAKES, "upstream" => upstream.to_owned(), "outcome" => outcome));
        Self {
            handshakes: std::iter::once("ok").chain(reasons.iter().copied()).map(outcome).collect(),
            handshake_duration: histogram!(UPSTREAM_HANDSHAKE_DURATION, "upstream" => upstream.to_owned()),
            warm_connections: gauge!(UPSTREAM_WARM_CONNECTIONS, "upstream" => upstream.to_owned()),
            pool_wait: histogram!(POOL_WAIT, "upstream" => upstream.to_owned()),
            pool_reuses: counter!(POOL_REUSES, "upstream" => upstream.to_owned()),
            recycled: [Recycling::Moved, Recycling::Closed]
                .map(|how| counter!(UPSTREAM_RECYCLED, "upstream" => upstream.to_owned(), "how" => how.label())),
        }
    }

    /// Records that a number of spare connections changed from `before` to `now`.
    pub fn change_warm_connections(&self, before: usize, now: usize) {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.warm_connections.increment(number(now) - number(before));
    }

    /// Records how long a client waited for a connection of a pool that was not ready for it.
    pub fn record_pool_wait(&self, duration: Duration) {
        self.pool_wait.record(duration);
    }

    /// Counts a connection of a pool that serves another client.
    pub fn count_pool_reuse(&self) {
        self.pool_reuses.increment(1);
    }

    /// Counts a connection that left a replaced certificate set.
    pub fn count_recycled(&self, how: Recycling) {
        self.recycled[how as usize].increment(1);
    }

    /// Counts a successful attempt to connect, and records the duration of its TLS handshake.
    pub fn count_handshake(&self, duration: Duration) {
        self.count("ok");
        self.handshake_duration.record(duration);
    }

    /// Counts a failed attempt to connect. Its duration is not recorded: it would show the timeout, not the server.
    pub fn count_failed_handshake(&self, reason: &'static str) {
        self.count(reason);
    }

    fn count(&self, outcome: &'static str) {
        if let Some((_, counter)) = self.handshakes.iter().find(|(known, _)| *known == outcome) {
            counter.increment(1);
        }
    }
}

/// The metric handles of an upstream with several members.
pub struct SetMetrics {
    members: Vec<(&'static str, Gauge)>,
    primary_changes: Counter,
}

impl SetMetrics {
    /// Looks up the handles in the recorder that is installed now. `states` are all states of a member.
    pub fn new(upstream: &str, states: &[&'static str]) -> Self {
        let gauge = |state: &&'static str| {
            (*state, gauge!(UPSTREAM_MEMBERS, "upstream" => upstream.to_owned(), "state" => *state))
        };
        Self {
            members: states.iter().map(gauge).collect(),
            primary_changes: counter!(UPSTREAM_PRIMARY_CHANGES, "upstream" => upstream.to_owned()),
        }
    }

    /// Sets the current states of the members, one entry for each member.
    pub fn set_members(&self, states: &[&'static str]) {
        for (state, gauge) in &self.members {
            let count = states.iter().filter(|is| *is == state).count();
            gauge.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }

    /// Sets how many times another member became primary.
    pub fn set_primary_changes(&self, count: u64) {
        self.primary_changes.absolute(count);
    }
}
