//! Waiting for what nobody announces: by looking again and again, with an end.

use std::thread;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes so long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const PACE: Duration = Duration::from_millis(10);

/// Looks until there is something, and returns it.
///
/// # Panics
/// When it does not come; `what` is then named.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    patiently(look).unwrap_or_else(|| panic!("waited in vain until {what}"))
}

/// Looks until there is something, and returns it; for who can say more of it if it does not come.
pub fn patiently<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() > deadline {
            return found;
        }
        thread::park_timeout(PACE);
    }
}

/// Looks until the same value was seen for `steady`, and returns it: for what ends without a sign, such as a stream that
/// meets a peer who does not read.
///
/// # Panics
/// When it goes on changing.
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
