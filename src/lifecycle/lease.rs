//! A client's right to use a shared upstream connection, as the two sides see it that must agree: the client's relay,
//! which knows when the client is idle, and the store of connections, which knows whether another client waits.
//!
//! The relay pays two atomic operations for each idle period, and takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The clients that wait for a connection of one pool.
#[derive(Debug)]
pub struct LeaseDemand {
    began: Instant,
    waiting: AtomicUsize,
}

/// The state of one lease. The relay sets whether its client is idle; the store asks for the lease back.
#[derive(Debug)]
pub struct LeaseState {
    demand: Arc<LeaseDemand>,
    /// Microseconds from `LeaseDemand::began`, plus 1; 0 while the client is not idle.
    idle_since: AtomicU64,
    is_recalled: AtomicBool,
    /// Wakes the relay when the lease is recalled.
    recalled: Notify,
}

impl Default for LeaseDemand {
    fn default() -> Self {
        Self { began: Instant::now(), waiting: AtomicUsize::new(0) }
    }
}

impl LeaseDemand {
    /// Sets how many clients wait.
    ///
    /// Sequentially consistent with [`LeaseState::set_idle`]: of a client that begins to wait and another one that
    /// becomes idle, at least one sees the other.
    pub fn set_waiting(&self, count: usize) {
        self.waiting.store(count, Ordering::SeqCst);
    }

    fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl LeaseState {
    /// The state of a new lease, whose client is not idle.
    pub fn new(demand: &Arc<LeaseDemand>) -> Self {
        Self {
            demand: Arc::clone(demand),
            idle_since: AtomicU64::new(0),
            is_recalled: AtomicBool::new(false),
            recalled: Notify::new(),
        }
    }

    /// Sets whether the client is idle: nothing is in flight, and the connection could be given back now. An earlier
    /// recall ends, because it was for an earlier idle period.
    pub fn set_idle(&self, is_idle: bool) {
        self.is_recalled.store(false, Ordering::Relaxed);
        let since = if is_idle { self.now() } else { 0 };
        self.idle_since.store(since, Ordering::SeqCst);
    }

    /// Whether the lease should be given back at the next boundary: another client waits for a connection of this pool,
    /// or this lease is recalled. Costs two atomic loads.
    pub fn is_wanted(&self) -> bool {
        self.demand.has_waiters() || self.is_recalled.load(Ordering::Relaxed)
    }

    /// Resolves when the client is idle and the lease should be given back. Cancel safe; for one waiter.
    pub async fn recalled(&self) {
        while !(self.idle_since.load(Ordering::SeqCst) > 0 && self.is_wanted()) {
            self.recalled.notified().await;
        }
    }

    /// How long the client has been idle; `None` if it is not, or if the lease is recalled already.
    pub fn idle_time(&self) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::SeqCst);
        let is_idle = since > 0 && !self.is_recalled.load(Ordering::Relaxed);
        is_idle.then(|| Duration::from_micros(self.now().saturating_sub(since)))
    }

    /// Asks for the lease back. If the client is not idle any longer, its next idle period ends the recall.
    pub fn recall(&self) {
        self.is_recalled.store(true, Ordering::Relaxed);
        self.recalled.notify_one();
    }

    fn now(&self) -> u64 {
        u64::try_from(self.demand.began.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_recall_is_for_one_idle_period() {
        let lease = LeaseState::new(&Arc::default());
        assert!(lease.idle_time().is_none() && !lease.is_wanted());
        lease.set_idle(true);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(lease.idle_time(), Some(Duration::from_secs(3)));
        assert!(lease.recalled().now_or_never().is_none());
        lease.recall();
        assert!(lease.is_wanted() && lease.idle_time().is_none(), "it is not recalled twice");
        assert!(lease.recalled().now_or_never().is_some());
        // A request arrived before the relay saw the recall.
        lease.set_idle(false);
        assert!(!lease.is_wanted() && lease.recalled().now_or_never().is_none());
        lease.set_idle(true);
        assert!(lease.recalled().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_recall_wakes_the_relay_that_waits_for_it() {
        let lease = LeaseState::new(&Arc::default());
        lease.set_idle(true);
        tokio::join!(biased; lease.recalled(), async { lease.recall() });
    }

    #[test]
    fn a_client_that_becomes_idle_sees_those_that_wait() {
        let demand = Arc::new(LeaseDemand::default());
        let lease = LeaseState::new(&demand);
        demand.set_waiting(1);
        assert!(lease.is_wanted(), "a busy client gives way at its next boundary");
        assert!(lease.recalled().now_or_never().is_none(), "but not within a request");
        lease.set_idle(true);
        assert!(lease.recalled().now_or_never().is_some());
        demand.set_waiting(0);
        assert!(!lease.is_wanted() && lease.recalled().now_or_never().is_none());
    }
}
