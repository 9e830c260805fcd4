//! How long a connection lives, and how much of a message it holds.

use std::time::Duration;

/// When the gateway closes a connection that both sides would keep open. `None` means never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Closes a connection on which no bytes have moved for this duration, unless a command is in flight.
    pub idle_timeout: Option<Duration>,
    /// Closes a connection of this age as soon as no command is in flight.
    pub max_lifetime: Option<Duration>,
}

/// The longest message that is held in a connection's input, header included. A hello has a few kilobytes at most.
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024;

/// mongod's own limit for a command body: 16 MiB and 16 KiB.
pub(super) const BODY_BYTES_MAX: usize = 16_793_600;

/// The longest part of a message that waits for the policy in a connection's input, header included. What is longer is
/// held apart, and counts against the hold budget.
pub(super) const WAITING_BYTES_MAX: usize = 16 * 1024;
