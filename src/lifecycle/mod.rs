//! The life of the process: how it drains, what still runs, which signals end it, whether it is ready.
//!
//! Decides nothing about connections: it tells them the stage, and waits for their tasks.

pub mod descriptors;
pub mod drain;
pub mod file_watch;
pub mod readiness;
pub mod signals;
pub mod tasks;
