//! Throttles log lines that repeat: the first failure of a kind is logged, and later ones are counted.
//!
//! Keeps one small entry for each key until the process ends. Keys must therefore come from a closed set, such as a
//! configured name and an enum, and never from the wire.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A repeated failure is logged at most once in this time. That is often enough to show that it continues, and seldom
/// enough that a thousand clients that reconnect every second do not fill a disk.
const INTERVAL: Duration = Duration::from_secs(10);

/// Remembers which failures were logged recently. Everything that logs the same failures shares one.
pub struct LogThrottle<K> {
    entries: Mutex<HashMap<K, Entry>>,
}

struct Entry {
    logged_at: Instant,
    suppressed: u64,
}

/// Whether to log a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDecision {
    /// Log it.
    Log {
        /// Failures with the same key since the last line that were not logged; 0 for the first.
        suppressed: u64,
    },
    /// Do not log it: a line about it is recent. The failure has been counted.
    Suppress,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash> LogThrottle<K> {
    /// Makes a throttle with nothing logged yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one failure at `now`, and returns whether to log it. Takes a lock, so it is not for the data path.
    pub fn note(&self, key: K, now: Instant) -> LogDecision {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(&key) else {
            entries.insert(key, Entry { logged_at: now, suppressed: 0 });
            return LogDecision::Log { suppressed: 0 };
        };
        if now.saturating_duration_since(entry.logged_at) < INTERVAL {
            entry.suppressed += 1;
            return LogDecision::Suppress;
        }
        entry.logged_at = now;
        LogDecision::Log { suppressed: std::mem::take(&mut entry.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_at_once_and_then_every_ten_seconds_with_a_count() {
        const SUPPRESS: LogDecision = LogDecision::Suppress;
        let log = |suppressed| LogDecision::Log { suppressed };
        let cases = [
            (0, "refused", log(0)),
            (1, "refused", SUPPRESS),
            (2_000, "expired", log(0)),
            (9_999, "refused", SUPPRESS),
            (10_000, "refused", log(2)),
            (10_001, "refused", SUPPRESS),
            (11_999, "expired", SUPPRESS),
            (20_000, "refused", log(1)),
            (60_000, "refused", log(0)),
            (60_000, "expired", log(1)),
            // Threads may report their times out of order.
            (59_000, "refused", SUPPRESS),
        ];
        let throttle = LogThrottle::new();
        let start = Instant::now();
        for (after_ms, kind, expected) in cases {
            let decision = throttle.note(("orders", kind), start + Duration::from_millis(after_ms));
            assert_eq!(decision, expected, "{kind} after {after_ms} ms");
        }
        assert_eq!(throttle.note(("stock", "refused"), start), log(0));
    }
}
