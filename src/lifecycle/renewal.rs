//! Renewal of a certificate set: one side announces a new generation, and every connection of an older generation gets
//! a time by which to move to a connection with the new set.
//!
//! Like the drain, it works across runtimes and threads. It decides when a connection moves, not how.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// 2^64 divided by the golden ratio. Its multiples, modulo 2^64, are spread evenly for any number of them.
const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The side that begins renewals. Clones share the same state.
#[derive(Clone)]
pub struct Renewal {
    state: Arc<RenewalState>,
}

/// The side that watches renewals. Clones share the same state.
#[derive(Clone)]
pub struct RenewalWatch {
    state: Arc<RenewalState>,
}

/// When one connection has to move from its old certificate set to the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// When the connection may move first: in the first half of the window, at a time of its own.
    pub due: Instant,
    /// Half a window later, and again a time of its own, so that connections which had to wait do not all move at the
    /// end of the window.
    pub patience: Instant,
    /// End of the window. From here on the connection waits only for its command in flight.
    pub deadline: Instant,
}

struct RenewalState {
    /// Generation of the newest set that has carried a connection; it only increases.
    generation: AtomicU64,
    renewed: Notify,
    window: Duration,
    began: Mutex<Instant>,
    /// Number of schedules handed out.
    schedules: AtomicU64,
}

impl Renewal {
    /// Starts with generation 0, the generation of the first set. Connections leave an old set within `window`.
    pub fn new(window: Duration) -> Self {
        let state = RenewalState {
            generation: AtomicU64::new(0),
            renewed: Notify::new(),
            window,
            began: Mutex::new(Instant::now()),
            schedules: AtomicU64::new(0),
        };
        Self { state: Arc::new(state) }
    }

    /// Starts to move the connections that are older than `generation`. Does nothing if that has already begun.
    pub fn begin(&self, generation: u64) {
        // A watcher that sees the new generation must also see its start time.
        let mut began = self.state.began.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state.generation.fetch_max(generation, Ordering::AcqRel) >= generation {
            return;
        }
        *began = Instant::now();
        drop(began);
        self.state.renewed.notify_waiters();
    }

    /// A watch on these renewals.
    pub fn watch(&self) -> RenewalWatch {
        RenewalWatch { state: Arc::clone(&self.state) }
    }
}

impl RenewalWatch {
    /// The current generation. It costs one atomic load, so it can be called at every wake-up.
    pub fn generation(&self) -> u64 {
        self.state.generation.load(Ordering::Acquire)
    }

    /// Resolves when there is a newer generation than `known`; immediately if there already is.
    ///
    /// Cancel safe. As with [`DrainWatch::draining`](super::drain::DrainWatch::draining), one poll registers the task.
    /// A loop on the data path checks [`generation`](Self::generation) when it is woken, and does not poll again.
    pub async fn newer_than(&self, known: u64) {
        let mut woken = std::pin::pin!(self.state.renewed.notified());
        woken.as_mut().enable();
        if self.generation() <= known {
            woken.await;
        }
    }

    /// The schedule of one more connection in the current renewal.
    pub fn schedule(&self) -> Schedule {
        let began = *self.state.began.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.state.schedules.fetch_add(1, Ordering::Relaxed);
        let thousandth = ((number.wrapping_mul(GOLDEN_STEP) >> 32) * 1000) >> 32;
        let half = self.state.window / 2;
        let thousandth = u32::try_from(thousandth).unwrap_or_default();
        let due = began + half * thousandth / 1000;
        Schedule { due, patience: due + half, deadline: began + self.state.window }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn watchers_of_an_older_generation_are_woken_and_the_others_wait() {
        let renewal = Renewal::new(Duration::from_mins(10));
        let watch = renewal.watch();
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = pin!(watch.newer_than(0));
        assert_eq!(waits.as_mut().poll(&mut context), Poll::Pending);
        renewal.begin(2);
        assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(()));
        renewal.begin(1);
        assert_eq!(watch.generation(), 2);
        assert_eq!(pin!(watch.newer_than(1)).poll(&mut context), Poll::Ready(()));
        assert_eq!(pin!(watch.newer_than(2)).poll(&mut context), Poll::Pending);
    }

    #[tokio::test(start_paused = true)]
    async fn schedules_are_spread_over_the_first_half_of_the_window() {
        let renewal = Renewal::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(100)).await;
        renewal.begin(1);
        let now = Instant::now();
        let watch = renewal.watch();
        let mut schedules: Vec<_> = (0..32).map(|_| watch.schedule()).collect();
        assert!(schedules.iter().all(|one| one.deadline == now + Duration::from_secs(10)));
        schedules.sort_by_key(|one| one.due);
        assert!(schedules[0].due >= now && schedules[31].due <= now + Duration::from_secs(5));
        assert!(
            schedules.iter().all(|one| one.patience >= now + Duration::from_secs(5) && one.patience < one.deadline)
        );
        // Perfectly even schedules would be 156 ms apart.
        assert!(schedules.windows(2).all(|pair| pair[1].due - pair[0].due < Duration::from_millis(400)));
        assert!(schedules.windows(2).all(|pair| pair[1].due > pair[0].due));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_begin_does_not_restart_a_renewal() {
        let renewal = Renewal::new(Duration::from_secs(10));
        renewal.begin(1);
        let deadline = renewal.watch().schedule().deadline;
        tokio::time::advance(Duration::from_secs(3)).await;
        renewal.begin(1);
        assert_eq!(renewal.watch().schedule().deadline, deadline);
    }
}
