//! The life of the process: how it drains, what still runs, which signals end it, whether it is ready, and when
//! connections leave an old certificate set.
//!
//! Decides nothing about connections: it tells them the stage, and waits for their tasks.

pub mod back_off;
pub mod descriptors;
pub mod drain;
pub mod file_watch;
pub mod readiness;
pub mod reload;
pub mod reload_status;
pub mod renewal;
pub mod signals;
pub mod tasks;
