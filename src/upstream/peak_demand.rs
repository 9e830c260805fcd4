//! How many connections are asked for at a time.

use tokio::time::Instant;

/// For how long a busy second is remembered.
const SECONDS: usize = 60;

/// Counts what is asked for in each second of the last minute.
#[derive(Debug)]
pub(super) struct PeakDemand {
    began: Instant,
    /// By second since `began`, modulo their number.
    counts: [u16; SECONDS],
    /// The second that was counted last.
    newest: u64,
}

impl PeakDemand {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, counts: [0; SECONDS], newest: 0 }
    }

    /// One more is asked for.
    pub(super) fn note(&mut self, now: Instant) {
        let at = self.advance(now);
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
    }

    /// The most that was asked for within one second of the last minute.
    pub(super) fn peak(&mut self, now: Instant) -> usize {
        self.advance(now);
        self.counts.iter().copied().max().unwrap_or_default().into()
    }

    /// Forgets what is over a minute old, and says where the current second stands.
    fn advance(&mut self, now: Instant) -> usize {
        let second = now.saturating_duration_since(self.began).as_secs();
        let slot = |second: u64| usize::try_from(second % SECONDS as u64).unwrap_or_default();
        let passed = second.saturating_sub(self.newest).min(SECONDS as u64);
        for gone in 0..passed {
            self.counts[slot(second - gone)] = 0;
        }
        self.newest = self.newest.max(second);
        slot(self.newest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_busiest_second_of_the_last_minute_counts() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut demand = PeakDemand::new(began);
        assert_eq!(demand.peak(began), 0);
        for ms in [100, 200, 900, 1100, 5500, 5600] {
            demand.note(after(ms));
        }
        assert_eq!(demand.peak(after(6000)), 3);
        assert_eq!(demand.peak(after(59_999)), 3);
        assert_eq!(demand.peak(after(60_000)), 2);
        assert_eq!(demand.peak(after(65_000)), 0);
        demand.note(after(100_000_000));
        assert_eq!(demand.peak(after(100_000_500)), 1);
    }
}
