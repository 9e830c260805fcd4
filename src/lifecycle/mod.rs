//! The lifecycle of the process: drain, running tasks, signals, readiness, the service manager, changed files,
//! certificate renewal, the limits of the container, the overload state, memory that is returned to the system, leases
//! of shared connections, and values that one task observes for many connections.
//!
//! Makes no decision about a connection: it publishes the stage, and waits for the tasks of the connections.

pub mod back_off;
pub mod cgroup;
pub mod descriptors;
pub mod drain;
pub mod feed;
pub mod file_watch;
pub mod heap;
pub mod lease;
pub mod overload;
pub mod pending_restart;
pub mod readiness;
pub mod reload;
pub mod reload_status;
pub mod renewal;
pub mod service_manager;
pub mod signals;
pub mod tasks;
