//! How long a connection lives, and how much of a message it holds.

use std::time::Duration;

/// When a connection ends although both sides would go on; `None` is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Nothing moved, and no command in flight, for so long.
    pub idle_timeout: Option<Duration>,
    /// This old, and no command in flight.
    pub max_lifetime: Option<Duration>,
}

/// The longest message that is held back, header included. A hello has a few kilobytes at most.
pub(in crate::relay) const HELD_BYTES_MAX: usize = 64 * 1024;

/// What the policy has to see whole and is longer is held apart, against the budget for that; header included.
pub(in crate::relay) const WAITING_BYTES_MAX: usize = 16 * 1024;
