//! The renewal of a certificate set as a value: one side begins it, every connection made before it watches it.
//!
//! Like the drain it works across runtimes and threads. It says when a connection is to leave its old set; how, is the
//! business of whoever carries it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Two to the 64th by the golden ratio: its multiples fill a range evenly, however many of them there are.
const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Begins renewals; clones are the same.
#[derive(Clone)]
pub struct Renewal {
    shared: Arc<Shared>,
}

/// Sees renewals; clones see the same.
#[derive(Clone)]
pub struct RenewalWatch {
    shared: Arc<Shared>,
}

/// When one connection is to leave its old set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Its turn: in the first half of the window, where no two connections have the same.
    pub due: Instant,
    /// The end of the window: from here on it waits for nothing but the command in flight.
    pub deadline: Instant,
}

struct Shared {
    /// The newest set that has carried a connection; only grows.
    generation: AtomicU64,
    renewed: Notify,
    window: Duration,
    began: Mutex<Instant>,
    /// Connections that have asked for their turn.
    places: AtomicU64,
}

impl Renewal {
    /// With generation 0, which everybody starts with; old sets are left within `window`.
    pub fn new(window: Duration) -> Self {
        let shared = Shared {
            generation: AtomicU64::new(0),
            renewed: Notify::new(),
            window,
            began: Mutex::new(Instant::now()),
            places: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has everything that is older than `generation` leave, from now on; does nothing where that has begun.
    pub fn begin(&self, generation: u64) {
        // A watcher that sees the generation must find its beginning.
        let mut began = self.shared.began.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.generation.fetch_max(generation, Ordering::AcqRel) >= generation {
            return;
        }
        *began = Instant::now();
        drop(began);
        self.shared.renewed.notify_waiters();
    }

    /// A watch on these renewals.
    pub fn watch(&self) -> RenewalWatch {
        RenewalWatch { shared: Arc::clone(&self.shared) }
    }
}

impl RenewalWatch {
    /// The generation of this moment: one atomic load, cheap enough for every wake-up.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Resolves when there is a newer generation than `known`, at once if there is already.
    ///
    /// Cancel safe. As with [`DrainWatch::draining`](super::drain::DrainWatch::draining), one poll registers the task,
    /// and a loop on the data path looks at [`generation`](Self::generation) when it is woken instead of polling again.
    pub async fn newer_than(&self, known: u64) {
        let mut woken = std::pin::pin!(self.shared.renewed.notified());
        woken.as_mut().enable();
        if self.generation() <= known {
            woken.await;
        }
    }

    /// The turn of one more connection in the renewal under way.
    pub fn schedule(&self) -> Schedule {
        let began = *self.shared.began.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.shared.places.fetch_add(1, Ordering::Relaxed);
        let thousandth = ((place.wrapping_mul(GOLDEN_STEP) >> 32) * 1000) >> 32;
        let half = self.shared.window / 2;
        let thousandth = u32::try_from(thousandth).unwrap_or_default();
        Schedule { due: began + half * thousandth / 1000, deadline: began + self.shared.window }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn whoever_is_older_is_told_and_whoever_is_not_waits() {
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
    async fn turns_are_spread_over_the_first_half() {
        let renewal = Renewal::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(100)).await;
        renewal.begin(1);
        let now = Instant::now();
        let watch = renewal.watch();
        let mut turns: Vec<_> = (0..32).map(|_| watch.schedule()).collect();
        assert!(turns.iter().all(|turn| turn.deadline == now + Duration::from_secs(10)));
        turns.sort_by_key(|turn| turn.due);
        assert!(turns[0].due >= now && turns[31].due <= now + Duration::from_secs(5));
        // Evenly would be 156 ms apart.
        assert!(turns.windows(2).all(|pair| pair[1].due - pair[0].due < Duration::from_millis(400)));
        assert!(turns.windows(2).all(|pair| pair[1].due > pair[0].due));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_has_begun_does_not_begin_again() {
        let renewal = Renewal::new(Duration::from_secs(10));
        renewal.begin(1);
        let deadline = renewal.watch().schedule().deadline;
        tokio::time::advance(Duration::from_secs(3)).await;
        renewal.begin(1);
        assert_eq!(renewal.watch().schedule().deadline, deadline);
    }
}
