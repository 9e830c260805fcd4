//! Polling for conditions that no event announces, with a time limit.

use std::thread;
use std::time::{Duration, Instant};

/// Default time limit. Nothing that a test waits for takes this long, unless it never happens.
const PATIENCE: Duration = Duration::from_secs(30);
/// Default pause between two polls.
const PACE: Duration = Duration::from_millis(10);

/// Polls `check` until it succeeds, with pauses of `pace`. After `limit`, returns the error of the last poll.
///
/// All other functions that wait by polling use this one.
pub fn poll<T, E>(limit: Duration, pace: Duration, mut check: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Err(_) if Instant::now() <= deadline => thread::park_timeout(pace),
            result => return result,
        }
    }
}

/// As [`poll`], with the default limit and pause.
pub fn patiently<T, E>(check: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    poll(PATIENCE, PACE, check)
}

/// Polls `check` until it returns a value.
///
/// # Panics
/// If there is no value within the time limit. The message contains `what`, the awaited condition.
pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    patiently(|| check().ok_or(())).unwrap_or_else(|()| panic!("timed out waiting until {what}"))
}

/// Polls `look` until it has returned the same value for the duration `steady`, and returns that value. For conditions
/// that nothing announces, such as a stream that stops because its peer does not read.
///
/// # Panics
/// If the value still changes after the time limit.
pub fn until_steady<T: PartialEq>(what: &str, steady: Duration, mut look: impl FnMut() -> T) -> T {
    let mut seen = (look(), Instant::now());
    until(what, || {
        let now = look();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        (seen.1.elapsed() >= steady).then_some(())
    });
    seen.0
}
