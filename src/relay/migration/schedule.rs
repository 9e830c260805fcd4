//! When a connection leaves a replaced certificate set, and how.
//!
//! The MongoDB protocol cannot tell a client to connect again, and a client may send its next request while the gateway
//! closes. Where that is possible, the client therefore stays connected and moves to another upstream connection. Where
//! it is not, its connection closes at a moment when that does least harm.
//!
//! Decides by the clock and a few facts only, and costs nothing while no certificate set is being replaced.

use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::renewal::Schedule;
use crate::relay::upstream_side::UpstreamSide;

/// A client that has been quiet for this duration notices that its connection closes: drivers check a socket that has
/// been idle for a second before they use it.
const QUIET: Duration = Duration::from_millis(1500);

/// The first and the longest pause after an upstream connection could not be replaced.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The way of one connection to the new certificate set.
pub(in crate::relay) struct UpstreamMigration<U> {
    due: Instant,
    patience: Instant,
    deadline: Instant,
    retry: Duration,
    replacement: Replacement<U>,
}

/// The upstream connection that is to replace the current one.
enum Replacement<U> {
    None,
    Requested,
    Offered(Box<UpstreamSide<U>>),
}

/// What a connection is like at this moment.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
pub(in crate::relay) struct MigrationFacts {
    /// Its upstream connection can be replaced, now or after the command in flight.
    pub(in crate::relay) can_move: bool,
    /// It can be replaced now.
    pub(in crate::relay) at_boundary: bool,
    /// No message and no command would be cut short by closing now.
    pub(in crate::relay) is_idle: bool,
    /// The client is not in the middle of a message.
    pub(in crate::relay) is_whole: bool,
    /// The client has cursors or transactions open.
    pub(in crate::relay) has_open_state: bool,
    /// When bytes have moved last, in either direction.
    pub(in crate::relay) last_moved: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum MigrationStep {
    /// Nothing yet.
    Wait,
    /// Have another upstream connection made.
    Request,
    /// Replace the upstream connection by the one that was offered.
    Move,
    /// Close the connection.
    Close,
}

impl<U> UpstreamMigration<U> {
    pub(in crate::relay) fn new(schedule: Schedule) -> Self {
        let Schedule { due, patience, deadline } = schedule;
        Self { due, patience, deadline, retry: RETRY.0, replacement: Replacement::None }
    }

    /// The next step. Called whenever the task wakes.
    pub(in crate::relay) fn step(&mut self, facts: &MigrationFacts, now: Instant) -> MigrationStep {
        let is_late = now >= self.deadline;
        // Cursors and transactions belong to mongod's sessions, and survive a move. The move waits for them only while
        // there is time, since a pool closes most of them through other connections, which is not seen here.
        if now < self.due || (facts.has_open_state && now < self.patience) {
            return MigrationStep::Wait;
        }
        let is_quiet = now >= facts.last_moved + QUIET;
        if facts.can_move {
            match self.replacement {
                Replacement::None => {
                    self.replacement = Replacement::Requested;
                    return MigrationStep::Request;
                }
                Replacement::Offered(_) if facts.at_boundary => return MigrationStep::Move,
                // The client sends unacknowledged writes without end, or never finishes a message: it would never move.
                _ if is_late && facts.is_idle && !facts.at_boundary && (facts.is_whole || is_quiet) => {
                    return MigrationStep::Close;
                }
                _ => return MigrationStep::Wait,
            }
        }
        if facts.is_idle && (is_late || is_quiet) { MigrationStep::Close } else { MigrationStep::Wait }
    }

    /// When the next step may be due although nothing happens; `None` where only an event can change it.
    pub(in crate::relay) fn next_due(&self, facts: &MigrationFacts, now: Instant) -> Option<Instant> {
        [self.due, self.patience, self.deadline, facts.last_moved + QUIET].into_iter().filter(|at| *at > now).min()
    }

    pub(in crate::relay) fn offer(&mut self, offer: UpstreamSide<U>) {
        self.replacement = Replacement::Offered(Box::new(offer));
    }

    pub(in crate::relay) fn take_offer(&mut self) -> Option<Box<UpstreamSide<U>>> {
        match std::mem::replace(&mut self.replacement, Replacement::None) {
            Replacement::Offered(offer) => Some(offer),
            Replacement::None | Replacement::Requested => None,
        }
    }

    /// No other upstream connection can be made now: the current one stays in use, and another is requested after a
    /// pause.
    pub(in crate::relay) fn postpone(&mut self, now: Instant) {
        self.replacement = Replacement::None;
        self.due = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
    }
}

#[cfg(test)]
mod tests {
    use super::MigrationStep::{Close, Request, Wait};
    use super::*;

    /// A window of ten seconds: due after three, patience until eight. `steps` has the time of the last move and the
    /// current time in milliseconds, and the expected step.
    #[track_caller]
    fn check(change: impl Fn(&mut MigrationFacts), can_request: bool, steps: &[(u64, u64, MigrationStep)]) {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        for (moved, now, step) in steps {
            let schedule = Schedule { due: after(3000), patience: after(8000), deadline: after(10_000) };
            let mut migration: UpstreamMigration<()> = UpstreamMigration::new(schedule);
            if !can_request {
                migration.replacement = Replacement::Requested;
            }
            let mut facts = MigrationFacts {
                can_move: true,
                at_boundary: true,
                is_idle: true,
                is_whole: true,
                has_open_state: false,
                last_moved: after(*moved),
            };
            change(&mut facts);
            assert_eq!(migration.step(&facts, after(*now)), *step, "{facts:?}, moved at {moved}, now {now}");
        }
    }

    #[test]
    fn a_connection_that_can_move_is_never_closed() {
        let steps = [(0, 2999, Wait), (0, 3000, Request), (9999, 10_000, Request)];
        check(|_| {}, true, &steps);
        check(|_| {}, false, &[(0, 3000, Wait), (0, 60_000, Wait)]);
        let busy = |facts: &mut MigrationFacts| (facts.at_boundary, facts.is_idle) = (false, false);
        check(busy, false, &[(0, 60_000, Wait)]);
    }

    #[test]
    fn a_connection_that_cannot_move_closes_when_it_is_quiet_or_at_the_deadline() {
        let steps = [(0, 2999, Wait), (0, 3000, Close), (2000, 3000, Wait), (2000, 3500, Close), (9999, 10_000, Close)];
        check(|facts| facts.can_move = false, true, &steps);
        let busy = |facts: &mut MigrationFacts| (facts.can_move, facts.is_idle) = (false, false);
        check(busy, true, &[(0, 3000, Wait), (0, 60_000, Wait)]);
    }

    #[test]
    fn open_cursors_delay_a_move_until_patience_ends() {
        let open = |facts: &mut MigrationFacts| facts.has_open_state = true;
        check(open, true, &[(0, 7999, Wait), (0, 8000, Request)]);
        let pinned = |facts: &mut MigrationFacts| (facts.can_move, facts.has_open_state) = (false, true);
        let steps = [(0, 7999, Wait), (0, 8000, Close), (7999, 8000, Wait), (9999, 10_000, Close)];
        check(pinned, true, &steps);
    }

    #[test]
    fn a_connection_that_is_never_at_a_boundary_closes_at_the_deadline() {
        let unacknowledged = |facts: &mut MigrationFacts| facts.at_boundary = false;
        check(unacknowledged, false, &[(0, 9999, Wait), (9999, 10_000, Close)]);
        let half = |facts: &mut MigrationFacts| (facts.at_boundary, facts.is_whole) = (false, false);
        check(half, false, &[(0, 9999, Wait), (9999, 10_000, Wait), (9999, 11_499, Close)]);
    }

    #[test]
    fn a_replacement_that_fails_is_requested_again_after_longer_and_longer_pauses() {
        let began = Instant::now();
        let mut migration: UpstreamMigration<()> =
            UpstreamMigration::new(Schedule { due: began, patience: began, deadline: began + QUIET });
        let mut pauses = Vec::new();
        for _ in 0..7 {
            migration.postpone(began);
            pauses.push((migration.due - began).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }
}
