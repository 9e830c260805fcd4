//! Metrics of the process itself.

use metrics::{Counter, Gauge, counter, gauge};

use super::families::{HELD_BYTES, HELD_BYTES_MAX, LOG_LINES_DROPPED, OVERLOAD_CONNECTIONS, OVERLOADED};
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

/// The metric handles of the overload state.
pub struct OverloadMetrics {
    overloaded: Gauge,
    refused: Counter,
    closed: Counter,
}

impl OverloadMetrics {
    /// Looks up the handles in the recorder that is installed now.
    #[expect(clippy::new_without_default, reason = "looking up a handle is a side effect")]
    pub fn new() -> Self {
        Self {
            overloaded: gauge!(OVERLOADED),
            refused: counter!(OVERLOAD_CONNECTIONS, "action" => "refused"),
            closed: counter!(OVERLOAD_CONNECTIONS, "action" => "closed"),
        }
    }

    /// Sets the state, and the numbers of connections since the start of the process.
    pub fn set(&self, is_overloaded: bool, refused: u64, closed: u64) {
        self.overloaded.set(if is_overloaded { 1.0 } else { 0.0 });
        self.refused.absolute(refused);
        self.closed.absolute(closed);
    }
}
