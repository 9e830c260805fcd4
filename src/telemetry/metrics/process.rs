//! Metrics of the process itself.

use metrics::counter;

use super::families::LOG_LINES_DROPPED;

/// Sets the number of log lines that were dropped since the start of the process.
pub fn set_dropped_log_lines(total: u64) {
    counter!(LOG_LINES_DROPPED).absolute(total);
}
