//! The brake on warnings that repeat: the same failure of the same upstream is news once, and then a number.
//!
//! Keeps one small entry per kind of failure for ever, so keys must come from a closed set (a configured name and an
//! enum), never from the wire.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// LogThrottle of one failure are told at most once in this time: often enough to see that it goes on, seldom enough that a
/// thousand clients that reconnect every second do not fill a disk.
const INTERVAL: Duration = Duration::from_secs(10);

/// Remembers which failures were logged lately; share one among all who may log them.
pub struct LogThrottle<K> {
    lately: Mutex<HashMap<K, Lately>>,
}

struct Lately {
    logged_at: Instant,
    suppressed: u64,
}

/// Whether to log a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDecision {
    /// Log it, and that so many like it were not logged since the last line.
    Log {
        /// 0 for the first.
        suppressed: u64,
    },
    /// It was logged a moment ago; it has been counted.
    Suppress,
}

impl<K> Default for LogThrottle<K> {
    fn default() -> Self {
        Self { lately: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash> LogThrottle<K> {
    /// With nothing logged yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one failure at `now`. Takes a lock: for failures, not for the data path.
    pub fn note(&self, key: K, now: Instant) -> LogDecision {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = lately.get_mut(&key) else {
            lately.insert(key, Lately { logged_at: now, suppressed: 0 });
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
            // Threads may bring their times in another order.
            (59_000, "refused", SUPPRESS),
        ];
        let repeats = LogThrottle::new();
        let start = Instant::now();
        for (after_ms, kind, expected) in cases {
            let verdict = repeats.note(("orders", kind), start + Duration::from_millis(after_ms));
            assert_eq!(verdict, expected, "{kind} after {after_ms} ms");
        }
        assert_eq!(repeats.note(("stock", "refused"), start), log(0));
    }
}
