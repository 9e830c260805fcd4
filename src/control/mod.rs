//! The control socket: an operator changes a running gateway through it, with `mongate ctl`.
//!
//! A unix domain socket with mode 0600, never TCP. The peer must be root or the user of the gateway. A client sends one
//! request, a JSON object on one line of at most 64 KiB, and receives one reply in the same form. Every request that is
//! obeyed or refused is in the log with the user and the process that asked.

mod client;
mod log_level;
mod protocol;
mod server;
mod socket;

pub use client::{AskError, ask};
pub use protocol::{Reloaded, Reply, Request};
pub use server::Actions;
pub use socket::{ControlBindError, ControlSocket};
