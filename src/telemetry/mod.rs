//! What the operator sees from outside: metrics, log lines, and the brake on lines that repeat.
//!
//! Counts and writes what it is told. Never looks at traffic, never decides, and no name from the wire becomes a label.

mod code_names;
pub mod log_throttle;
pub mod logs;
pub mod metrics;
pub mod policy_metrics;
