//! What an operator sees: metrics, log lines, and a throttle for log lines that repeat.
//!
//! Records what other modules report. It reads no traffic and decides nothing, and a name from the wire never becomes a
//! label value.

mod code_names;
pub mod log_throttle;
pub mod log_writer;
pub mod logs;
pub mod metrics;
pub mod policy_metrics;
