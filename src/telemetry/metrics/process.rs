//! Metrics of the process itself.

use metrics::{Gauge, counter, gauge};

use super::families::{HELD_BYTES, HELD_BYTES_MAX, LOG_LINES_DROPPED};
use super::labels::Direction;

/// The memory that is reserved for messages of one direction that are held for the policy.
pub struct HeldBytes(Gauge);

impl HeldBytes {
    /// Publishes `max`, the number of bytes that may be held.
    pub fn new(direction: Direction, max: u64) -> Self {
        gauge!(HELD_BYTES_MAX, "direction" => direction.label()).set(as_f64(max));
        let held = gauge!(HELD_BYTES, "direction" => direction.label());
        held.set(0.0);
        Self(held)
    }

    /// Sets the number of bytes that are held.
    pub fn set(&self, bytes: u64) {
        self.0.set(as_f64(bytes));
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// Sets the number of log lines that were dropped since the start of the process.
pub fn set_dropped_log_lines(total: u64) {
    counter!(LOG_LINES_DROPPED).absolute(total);
}
