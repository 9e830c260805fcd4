//! Measures the demand for connections: the busiest second of the last minute.

use tokio::time::Instant;

/// Seconds that are remembered.
const SECONDS: usize = 60;

/// Counts the requested connections in each second of the last minute.
#[derive(Debug)]
pub(super) struct PeakDemand {
    began: Instant,
    /// Indexed by the second since `began`, modulo the length.
    counts: [u16; SECONDS],
    /// The last second that was counted.
    newest: u64,
}

impl PeakDemand {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, counts: [0; SECONDS], newest: 0 }
    }

    /// Counts one requested connection.
    pub(super) fn record(&mut self, now: Instant) {
        let at = self.advance(now);
        if let Some(count) = self.counts.get_mut(at) {
            *count = count.saturating_add(1);
        }
    }

    /// The number of requested connections in the busiest second of the last minute.
    pub(super) fn peak(&mut self, now: Instant) -> usize {
        self.advance(now);
        self.counts.iter().copied().max().unwrap_or_default().into()
    }

    /// Resets the counts that are older than a minute, and returns the index of the current second.
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
            demand.record(after(ms));
        }
        assert_eq!(demand.peak(after(6000)), 3);
        assert_eq!(demand.peak(after(59_999)), 3);
        assert_eq!(demand.peak(after(60_000)), 2);
        assert_eq!(demand.peak(after(65_000)), 0);
        demand.record(after(100_000_000));
        assert_eq!(demand.peak(after(100_000_500)), 1);
    }
}
