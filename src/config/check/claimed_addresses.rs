//! The addresses that the configuration gives to something, so that each is given once.

use crate::config::values::ListenAddress;

/// The addresses that are spoken for, and by which key.
#[derive(Default)]
pub(super) struct ClaimedAddresses(Vec<(ListenAddress, String)>);

impl ClaimedAddresses {
    pub(super) fn claim(&mut self, key: &str, address: &ListenAddress) -> Result<(), String> {
        let first = self.0.iter().find(|(taken, _)| taken == address).map(|(_, key)| key.clone());
        self.insert(key, address);
        first.map_or(Ok(()), |first| Err(format!("is the same as {first}; each needs an address of its own")))
    }

    pub(super) fn insert(&mut self, key: &str, address: &ListenAddress) {
        // Port 0 is a different free port for each.
        if !matches!(address, ListenAddress::Tcp(tcp) if tcp.port() == 0) {
            self.0.push((address.clone(), key.to_owned()));
        }
    }
}
