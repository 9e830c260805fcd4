//! The addresses that the configuration uses, to detect an address that is used twice.

use std::net::IpAddr;

use crate::config::values::HostPort;
use crate::config::values::ListenAddress;

/// The addresses in use, with the key of each.
#[derive(Default)]
pub(super) struct ClaimedAddresses(Vec<(ListenAddress, String)>);

impl ClaimedAddresses {
    /// Adds an address. If it is in use, the error is a sentence that begins with the address.
    pub(super) fn claim(&mut self, key: &str, address: &ListenAddress) -> Result<(), String> {
        let first = self.0.iter().find(|(claimed, _)| claimed == address).map(|(_, key)| key.clone());
        self.insert(key, address);
        first.map_or(Ok(()), |first| Err(format!("is already used by {first}; choose another address")))
    }

    /// The key of the address that a connection to `server` from this host certainly reaches, without a name lookup.
    pub(super) fn reached_by(&self, server: &HostPort) -> Option<&str> {
        let is_localhost = server.host.eq_ignore_ascii_case("localhost");
        let ip = server.host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let is_reached = |claimed: &ListenAddress| {
            let ListenAddress::Tcp(claimed) = claimed else { return false };
            let bound = claimed.ip().to_canonical();
            let is_loopback = is_localhost || ip.is_some_and(|ip| ip.is_loopback());
            let is_same = Some(bound) == ip || (is_localhost && bound.is_loopback());
            claimed.port() == server.port && (is_same || (bound.is_unspecified() && is_loopback))
        };
        self.0.iter().find(|(claimed, _)| is_reached(claimed)).map(|(_, key)| key.as_str())
    }

    /// Adds an address without a check.
    pub(super) fn insert(&mut self, key: &str, address: &ListenAddress) {
        if !address.has_port_0() {
            self.0.push((address.clone(), key.to_owned()));
        }
    }
}
