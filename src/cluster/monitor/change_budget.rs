//! Paces changes of the member list.
//!
//! A member that is added or removed costs a monitor, connections, threads for name lookups, and work of the clients'
//! listeners. Servers decide what their list of members is, so a hostile one could cause that cost without limit.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Members that are added or removed without a wait: a whole set of 50 members, the most that mongod allows, can be
/// replaced.
const BURST: u32 = 128;

/// Afterwards, the time for each member: 16 per second.
const INTERVAL: Duration = Duration::from_micros(62_500);

/// How many members may be added or removed now. A token bucket that needs no timer (GCRA). One list is taken whole, so
/// the budget may be overdrawn once.
pub(super) struct ChangeBudget {
    /// When the bucket will be full again.
    full_at: Instant,
}

impl ChangeBudget {
    pub(super) fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Counts members that were added or removed.
    pub(super) fn spend(&mut self, members: usize) {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        self.full_at = self.full_at.max(Instant::now()) + INTERVAL.saturating_mul(members);
    }

    /// Resolves when the budget is not overdrawn. Cancel safe.
    pub(super) async fn available(&self) {
        if let Some(at) = self.full_at.checked_sub(INTERVAL * BURST) {
            sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the next report waits.
    async fn wait(budget: &ChangeBudget) -> Duration {
        let before = Instant::now();
        budget.available().await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_a_scale_up_and_a_replaced_set_do_not_wait() {
        let mut budget = ChangeBudget::new();
        budget.spend(50);
        assert_eq!(wait(&budget).await, Duration::ZERO);
        for _ in 0..20 {
            budget.spend(2);
            assert_eq!(wait(&budget).await, Duration::ZERO);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        budget.spend(100);
        // Replies that change no membership, such as those of an election.
        for _ in 0..1_000 {
            budget.spend(0);
            assert_eq!(wait(&budget).await, Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_change_without_end_are_slowed_down_to_16_members_per_second() {
        let (mut budget, started) = (ChangeBudget::new(), Instant::now());
        let mut members = 0;
        while started.elapsed() < Duration::from_mins(1) {
            budget.spend(4);
            members += 4;
            assert!(wait(&budget).await <= Duration::from_millis(251));
        }
        let most = u32::try_from(60 * 16).unwrap() + BURST + 8;
        assert!((60 * 16..=most).contains(&members), "{members}");
        // A pause fills the bucket again, and no further.
        tokio::time::advance(Duration::from_hours(1)).await;
        budget.spend(BURST as usize);
        assert_eq!(wait(&budget).await, Duration::ZERO);
        budget.spend(16);
        assert_eq!(wait(&budget).await, Duration::from_secs(1));
    }
}
