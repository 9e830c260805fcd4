//! The facts that decide which rules apply to a caller.

use std::net::IpAddr;

use crate::identity::Principal;

/// The facts that decide which rules apply to a caller. They do not change during a connection.
#[derive(Debug, Clone, Copy)]
pub struct CallerFacts<'a> {
    /// `None` for an unauthenticated caller.
    pub principal: Option<&'a Principal>,
    /// The caller's address; `None` on a unix domain socket, and if a PROXY header has no address.
    pub source: Option<IpAddr>,
    /// The name of the listener.
    pub listener: &'a str,
}
