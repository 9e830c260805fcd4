//! How a connection leaves a certificate set that is no longer in use.
//!
//! MongoDB has no word for "please connect again", and a connection that closes between two commands can meet the next
//! one on its way. So the client is not sent away where that can be avoided: its upstream connection is exchanged beneath
//! it. Where it cannot, the connection closes at a moment when that hurts least.
//!
//! Only decides, by the clock and a few facts; costs nothing while no renewal is under way.

use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::renewal::Schedule;
use crate::relay::upstream_side::UpstreamSide;

/// Quiet for so long means that closing is noticed in time: drivers look at a socket before they use it when it has been
/// idle for a second.
const QUIET: Duration = Duration::from_millis(1500);

/// First and longest pause after an exchange that did not come about.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A connection on its way to the new set.
pub(in crate::relay) struct UpstreamMigration<U> {
    due: Instant,
    patience: Instant,
    deadline: Instant,
    retry: Duration,
    replacement: Replacement<U>,
}

enum Replacement<U> {
    None,
    Asked,
    Offered(Box<UpstreamSide<U>>),
}

/// What a connection is like at this moment.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
pub(in crate::relay) struct Facts {
    /// Its upstream connection can be exchanged, now or after the command in flight.
    pub(in crate::relay) can_move: bool,
    /// It can be exchanged now.
    pub(in crate::relay) at_boundary: bool,
    /// Ending would cut short nothing that is under way.
    pub(in crate::relay) is_idle: bool,
    /// The client is not in the middle of a message.
    pub(in crate::relay) is_whole: bool,
    /// The client has cursors or transactions open.
    pub(in crate::relay) holds_something: bool,
    /// When something moved last, either way.
    pub(in crate::relay) moved: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Step {
    Wait,
    /// Have another upstream connection made.
    Ask,
    /// Exchange it.
    Move,
    Close,
}

impl<U> UpstreamMigration<U> {
    pub(in crate::relay) fn new(schedule: Schedule) -> Self {
        let Schedule { due, patience, deadline } = schedule;
        Self { due, patience, deadline, retry: RETRY.0, replacement: Replacement::None }
    }

    /// Asked again whenever the task wakes.
    pub(in crate::relay) fn step(&mut self, facts: &Facts, now: Instant) -> Step {
        let late = now >= self.deadline;
        // Cursors and transactions belong to mongod's sessions, so that an exchange does not hurt them; it waits for them
        // only as long as it has time. A pool ends most of them through other connections, which is not seen here.
        if now < self.due || (facts.holds_something && now < self.patience) {
            return Step::Wait;
        }
        let quiet = now >= facts.moved + QUIET;
        if facts.can_move {
            match self.replacement {
                Replacement::None => {
                    self.replacement = Replacement::Asked;
                    return Step::Ask;
                }
                Replacement::Offered(_) if facts.at_boundary => return Step::Move,
                // Unacknowledged writes never stop, or a message is never finished: they would stay for ever.
                _ if late && facts.is_idle && !facts.at_boundary && (facts.is_whole || quiet) => return Step::Close,
                _ => return Step::Wait,
            }
        }
        if facts.is_idle && (late || quiet) { Step::Close } else { Step::Wait }
    }

    /// When to look again though nothing happens; `None` leaves it to events.
    pub(in crate::relay) fn next_look(&self, facts: &Facts, now: Instant) -> Option<Instant> {
        [self.due, self.patience, self.deadline, facts.moved + QUIET].into_iter().filter(|at| *at > now).min()
    }

    pub(in crate::relay) fn offer(&mut self, offer: UpstreamSide<U>) {
        self.replacement = Replacement::Offered(Box::new(offer));
    }

    pub(in crate::relay) fn take_offer(&mut self) -> Option<Box<UpstreamSide<U>>> {
        match std::mem::replace(&mut self.replacement, Replacement::None) {
            Replacement::Offered(offer) => Some(offer),
            Replacement::None | Replacement::Asked => None,
        }
    }

    /// There is no replacement for now: the old connection stays in use, and it is tried again after a pause.
    pub(in crate::relay) fn postpone(&mut self, now: Instant) {
        self.replacement = Replacement::None;
        self.due = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Window of ten seconds, turn after three, patience until eight; the look is after so many milliseconds.
    #[track_caller]
    fn check(change: impl Fn(&mut Facts), replaced: bool, steps: &[(u64, u64, Step)]) {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        for (moved, now, step) in steps {
            let schedule = Schedule { due: after(3000), patience: after(8000), deadline: after(10_000) };
            let mut leaving: UpstreamMigration<()> = UpstreamMigration::new(schedule);
            if !replaced {
                leaving.replacement = Replacement::Asked;
            }
            let mut facts = Facts {
                can_move: true,
                at_boundary: true,
                is_idle: true,
                is_whole: true,
                holds_something: false,
                moved: after(*moved),
            };
            change(&mut facts);
            assert_eq!(leaving.step(&facts, after(*now)), *step, "{facts:?}, moved at {moved}, looked at {now}");
        }
    }

    #[test]
    fn a_connection_that_can_move_is_never_closed() {
        let steps = [(0, 2999, Step::Wait), (0, 3000, Step::Ask), (9999, 10_000, Step::Ask)];
        check(|_| {}, true, &steps);
        check(|_| {}, false, &[(0, 3000, Step::Wait), (0, 60_000, Step::Wait)]);
        let busy = |facts: &mut Facts| (facts.at_boundary, facts.is_idle) = (false, false);
        check(busy, false, &[(0, 60_000, Step::Wait)]);
    }

    #[test]
    fn one_that_cannot_closes_when_quiet_and_late_at_any_boundary() {
        let steps = [
            (0, 2999, Step::Wait),
            (0, 3000, Step::Close),
            (2000, 3000, Step::Wait),
            (2000, 3500, Step::Close),
            (9999, 10_000, Step::Close),
        ];
        check(|facts| facts.can_move = false, true, &steps);
        let busy = |facts: &mut Facts| (facts.can_move, facts.is_idle) = (false, false);
        check(busy, true, &[(0, 3000, Step::Wait), (0, 60_000, Step::Wait)]);
    }

    #[test]
    fn what_is_open_holds_it_back_as_long_as_there_is_patience() {
        let open = |facts: &mut Facts| facts.holds_something = true;
        check(open, true, &[(0, 7999, Step::Wait), (0, 8000, Step::Ask)]);
        let tied = |facts: &mut Facts| (facts.can_move, facts.holds_something) = (false, true);
        let steps =
            [(0, 7999, Step::Wait), (0, 8000, Step::Close), (7999, 8000, Step::Wait), (9999, 10_000, Step::Close)];
        check(tied, true, &steps);
    }

    #[test]
    fn what_never_comes_to_a_boundary_is_closed_in_the_end() {
        let unacknowledged = |facts: &mut Facts| facts.at_boundary = false;
        check(unacknowledged, false, &[(0, 9999, Step::Wait), (9999, 10_000, Step::Close)]);
        let half = |facts: &mut Facts| (facts.at_boundary, facts.is_whole) = (false, false);
        check(half, false, &[(0, 9999, Step::Wait), (9999, 10_000, Step::Wait), (9999, 11_499, Step::Close)]);
    }

    #[test]
    fn an_exchange_that_did_not_come_about_is_tried_again_after_ever_longer_pauses() {
        let began = Instant::now();
        let mut leaving: UpstreamMigration<()> =
            UpstreamMigration::new(Schedule { due: began, patience: began, deadline: began + QUIET });
        let mut pauses = Vec::new();
        for _ in 0..7 {
            leaving.postpone(began);
            pauses.push((leaving.due - began).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }
}
