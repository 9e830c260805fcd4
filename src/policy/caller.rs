//! What decides which rules are about a connection.

use std::net::IpAddr;

use crate::identity::Principal;

/// What decides which rules are about a connection; fixed for as long as it lives.
#[derive(Debug, Clone, Copy)]
pub struct CallerFacts<'a> {
    /// Who, if anybody.
    pub principal: Option<&'a Principal>,
    /// From where; `None` on a unix socket, and where a proxy does not say.
    pub source: Option<IpAddr>,
    /// Through which listener.
    pub listener: &'a str,
}
