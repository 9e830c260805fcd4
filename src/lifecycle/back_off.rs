//! The pause between two attempts that fail: it doubles with each failure, up to a limit.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// An exponential back-off with jitter: gateways that lost the same server do not come back at the same moment.
#[derive(Debug, Clone)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl BackOff {
    /// The first pause is `first`; no pause is longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause after one more failure: up to a quarter shorter than the one that is due.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(1.0 - random_share() / 4.0)
    }

    /// An attempt succeeded: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random number from 0 to 1. The standard library seeds each of these hashers at random.
fn random_share() -> f64 {
    let bits = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_a_reset() {
        let mut back_off = BackOff::new(Duration::from_secs(1), Duration::from_secs(30));
        for due in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
            let pause = back_off.next_pause();
            assert!(pause <= due && pause >= due * 3 / 4, "{pause:?}");
        }
        back_off.reset();
        assert!(back_off.next_pause() <= Duration::from_secs(1));
    }
}
