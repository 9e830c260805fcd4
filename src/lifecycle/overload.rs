//! The overload state: what the gateway gives up when the memory of its container is nearly used up, before the kernel
//! kills the process.
//!
//! From 90 % of the limit on, new connections are refused; from 95 % on, idle connections are closed too, in rounds.
//! This module decides; `gateway` measures, and the connections do what follows.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

use super::cgroup::MemoryUse;

/// Percentages of the limit at which refusing begins and ends. The distance keeps the state from changing with every
/// connection.
const REFUSING: (u64, u64) = (90, 85);
/// Percentages of the limit at which closing begins and ends.
const CLOSING: (u64, u64) = (95, 90);

/// An idle connection is closed in one round of this many, so that they do not all come back at once.
const ROUNDS: u64 = 8;

/// How much memory is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Enough, or there is no limit.
    None,
    /// Little: new connections are refused.
    High,
    /// Nearly none: idle connections are closed too.
    Critical,
}

/// The overload state of the process. Clones share it.
#[derive(Clone, Default)]
pub struct Overload(Arc<State>);

#[derive(Default)]
struct State {
    /// A [`Pressure`] as a number.
    pressure: AtomicU8,
    percent: AtomicU64,
    /// The number of the last round in which idle connections were closed.
    round: AtomicU64,
    rounds: Notify,
    tickets: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// The part of one connection in the rounds.
pub struct ClosingRounds {
    overload: Overload,
    seen: u64,
    slot: u64,
    /// The bytes that the connection had moved in the last round.
    moved: Option<u64>,
}

impl Overload {
    /// Takes a measurement. Returns the pressure after it, and whether it has changed. Each measurement under
    /// [`Pressure::Critical`] begins a round.
    ///
    /// Only one task may call this.
    pub fn observe(&self, memory: Option<MemoryUse>) -> (Pressure, bool) {
        let (before, percent) = (self.pressure(), memory.map_or(0, MemoryUse::percent));
        let holds = |(begin, end): (u64, u64), level| percent >= if before >= level { end } else { begin };
        let after = if holds(CLOSING, Pressure::Critical) {
            Pressure::Critical
        } else if holds(REFUSING, Pressure::High) {
            Pressure::High
        } else {
            Pressure::None
        };
        self.0.percent.store(percent, Ordering::Relaxed);
        self.0.pressure.store(after as u8, Ordering::Relaxed);
        if after == Pressure::Critical {
            self.0.round.fetch_add(1, Ordering::Release);
            self.0.rounds.notify_waiters();
        }
        (after, after != before)
    }

    /// The pressure at the last measurement.
    pub fn pressure(&self) -> Pressure {
        match self.0.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::High,
            _ => Pressure::Critical,
        }
    }

    /// The used part of the memory limit at the last measurement, in percent.
    pub fn percent(&self) -> u64 {
        self.0.percent.load(Ordering::Relaxed)
    }

    /// Whether new connections are refused.
    pub fn is_refusing(&self) -> bool {
        self.pressure() >= Pressure::High
    }

    /// Counts a connection that was refused.
    pub fn count_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections were refused, and how many closed, since the start of the process.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.refused.load(Ordering::Relaxed), self.0.closed.load(Ordering::Relaxed))
    }

    /// The part of a new connection in the rounds.
    pub fn closing_rounds(&self) -> ClosingRounds {
        let slot = self.0.tickets.fetch_add(1, Ordering::Relaxed) % ROUNDS;
        ClosingRounds { overload: self.clone(), seen: self.round(), slot, moved: None }
    }

    fn round(&self) -> u64 {
        self.0.round.load(Ordering::Acquire)
    }
}

impl ClosingRounds {
    /// Resolves when [`must_close`](Self::must_close) is to be called. Cancel safe. Takes a lock once, however often it
    /// is polled: it has to stay in the task of its first poll.
    pub async fn round_begins(&self) {
        let state = &self.overload.0;
        let mut woken = pin!(state.rounds.notified());
        let mut is_registered = false;
        poll_fn(|cx| {
            if !std::mem::replace(&mut is_registered, true) {
                let _ = woken.as_mut().poll(cx);
            }
            if self.overload.round() > self.seen { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the connection has to close in this round: it is at rest, has moved no bytes since the last round, and
    /// the round is for its slot. `moved` is the number of bytes that it has moved. Counts it then.
    pub fn must_close(&mut self, is_at_rest: bool, moved: u64) -> bool {
        self.seen = self.overload.round();
        let was_silent = self.moved.replace(moved) == Some(moved);
        let must_close = is_at_rest && was_silent && self.seen % ROUNDS == self.slot;
        if must_close {
            self.overload.0.closed.fetch_add(1, Ordering::Relaxed);
        }
        must_close
    }
}

#[cfg(test)]
mod tests {
    use futures::stream::FuturesUnordered;
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn observe(overload: &Overload, percent: u64) -> (Pressure, bool) {
        overload.observe(Some(MemoryUse { used: percent, limit: 100 }))
    }

    #[test]
    fn each_pressure_ends_below_where_it_begins() {
        use Pressure::{Critical, High, None};
        let overload = Overload::default();
        let cases = [
            (89, (None, false)),
            (90, (High, true)),
            (94, (High, false)),
            (86, (High, false)),
            (84, (None, true)),
            (89, (None, false)),
            (95, (Critical, true)),
            (91, (Critical, false)),
            (89, (High, true)),
            (120, (Critical, true)),
            (10, (None, true)),
        ];
        for (percent, expected) in cases {
            assert_eq!(observe(&overload, percent), expected, "{percent}");
            assert_eq!((overload.is_refusing(), overload.percent()), (expected.0 != None, percent));
        }
        observe(&overload, 99);
        assert_eq!(overload.observe(Option::None), (None, true), "the limit was removed");
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_in_one_of_eight_rounds() {
        let overload = Overload::default();
        let mut rounds: Vec<_> = (0..ROUNDS).map(|_| overload.closing_rounds()).collect();
        assert!(rounds[0].round_begins().now_or_never().is_none(), "there is no round yet");
        let mut closed = Vec::new();
        // In the first round it is not known yet whether they are silent.
        for round in 0..=ROUNDS {
            observe(&overload, 96);
            for (at, part) in rounds.iter_mut().enumerate() {
                part.round_begins().await;
                if part.must_close(true, 700) {
                    closed.push((round, at));
                }
                assert!(part.round_begins().now_or_never().is_none(), "a round counts once");
            }
        }
        closed.sort_by_key(|(_, at)| *at);
        closed.dedup_by_key(|(_, at)| *at);
        assert_eq!(closed.len(), rounds.len(), "{closed:?}");
        assert!(overload.counts().1 >= ROUNDS);
    }

    #[tokio::test]
    async fn a_connection_that_works_or_moves_bytes_stays() {
        let overload = Overload::default();
        let (mut busy, mut moving) = (overload.closing_rounds(), overload.closing_rounds());
        for round in 0..3 * ROUNDS {
            observe(&overload, 96);
            assert!(!busy.must_close(false, 700) && !moving.must_close(true, round));
        }
        assert_eq!(overload.counts(), (0, 0));
    }

    #[test]
    fn a_waiting_connection_is_woken_by_a_round() {
        let overload = Overload::default();
        let part = overload.closing_rounds();
        // It polls a future again only after that was woken.
        let mut waiting = FuturesUnordered::from_iter([part.round_begins()]);
        assert_eq!(waiting.next().now_or_never(), None);
        observe(&overload, 91);
        assert_eq!(waiting.next().now_or_never(), None, "no round begins below 95 percent");
        observe(&overload, 96);
        assert_eq!(waiting.next().now_or_never(), Some(Some(())));
    }
}
