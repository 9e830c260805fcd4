//! The addresses that the configuration uses, to detect an address that is used twice.

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

    /// Adds an address without a check.
    pub(super) fn insert(&mut self, key: &str, address: &ListenAddress) {
        // Port 0 is a different free port each time.
        if !matches!(address, ListenAddress::Tcp(tcp) if tcp.port() == 0) {
            self.0.push((address.clone(), key.to_owned()));
        }
    }
}
