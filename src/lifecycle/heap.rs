//! Returns memory to the system that connections have given back to the allocator.
//!
//! The allocator of the C library keeps free memory that has used memory behind it. After a crowd of clients, that was
//! three quarters of what the crowd had taken: the overload state would never end, and a container that is sized for
//! usual times would stay near its limit.

use std::time::Duration;

use tokio::time::Instant;

/// Fewest connections that have to have ended since the last time, so that it is worth the time.
const ENDED_MIN: u64 = 64;

/// Shortest times between two times while there is enough memory, as busy applications open and close connections all
/// day, and while it is scarce.
const INTERVAL_MIN: Duration = Duration::from_secs(10);
const SCARCE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Decides when memory is returned.
#[derive(Debug)]
pub struct HeapTrimmer {
    /// Connections that had ended when memory was returned last, and when that was.
    last: (u64, Instant),
}

impl HeapTrimmer {
    /// Starts now.
    #[expect(clippy::new_without_default, reason = "it depends on the time")]
    pub fn new() -> Self {
        Self { last: (0, Instant::now()) }
    }

    /// Whether to return memory now, when `open` connections are open and `ended` have ended in all: at least as many
    /// have ended since the last time as are open, or memory is `scarce` and some have ended.
    pub fn is_due(&mut self, open: u64, ended: u64, scarce: bool) -> bool {
        let (ended_before, last) = self.last;
        let new = ended.saturating_sub(ended_before);
        let interval = if scarce { SCARCE_INTERVAL_MIN } else { INTERVAL_MIN };
        let is_due = new >= ENDED_MIN && (scarce || new >= open) && last.elapsed() >= interval;
        if is_due {
            self.last = (ended, Instant::now());
        }
        is_due
    }
}

/// Returns what is free to the system. Takes about a millisecond for each 100 MiB of heap; other threads wait for
/// memory meanwhile. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::give_back();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use nix::libc::malloc_trim;

    #[expect(unsafe_code, reason = "no safe crate has this function")]
    pub(super) fn give_back() {
        // SAFETY: malloc_trim takes no pointer and the locks of the allocator. Any thread may call it at any time.
        unsafe {
            malloc_trim(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_returned_after_a_crowd_has_left_and_not_all_the_time() {
        let mut trimmer = HeapTrimmer::new();
        for (seconds, open, ended, scarce, expected) in [
            (20, 0, 0, false, false),
            (1, 1_000, 0, false, false),
            (1, 600, 400, false, false),
            (1, 500, 500, false, true),
            (1, 0, 1_000, false, false),
            (10, 0, 1_000, false, true),
            (20, 0, 1_063, false, false),
            (1, 5_000, 1_063, true, false),
            (1, 5_000, 1_064, true, true),
            (1, 5_000, 1_100, true, false),
            (0, 5_000, 1_128, true, true),
            (0, 5_000, 2_000, true, false),
            (1, 5_000, 2_000, true, true),
        ] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(trimmer.is_due(open, ended, scarce), expected, "{open} {ended} {scarce}");
        }
    }
}
