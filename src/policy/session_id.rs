//! The ids of sessions as mongod sees them.
//!
//! mongod identifies a session by its id and its user, and all callers of a gateway may be one user to mongod. A caller
//! that knows the session id of another caller could read the results of its writes and end its transactions. Every id
//! is therefore replaced by a hash of the caller and the id: a caller cannot find an id whose hash is the session of
//! another caller.

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Bytes of a session id.
pub const SESSION_ID_BYTES: usize = 16;

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"mongate session id 1";

/// The caller that sessions belong to.
#[derive(Debug, Clone)]
pub struct SessionOwner {
    /// The state of the hash before the id.
    state: Arc<Sha256>,
}

impl SessionOwner {
    /// A caller with a principal: the same through every listener and every gateway.
    pub fn principal(principal: &str) -> Self {
        Self::new(b'p', principal)
    }

    /// The callers of a listener that have no principal.
    pub fn listener(listener: &str) -> Self {
        Self::new(b'l', listener)
    }

    fn new(kind: u8, name: &str) -> Self {
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes();
        let state = Sha256::new().chain_update(DOMAIN).chain_update([kind]).chain_update(length).chain_update(name);
        Self { state: Arc::new(state) }
    }

    /// The id in mongod of the session that the caller calls `id`: the first 16 bytes of a SHA-256 over both. It is the
    /// same on every gateway and after every restart. The bits that a UUID has for its version are not kept; mongod
    /// does not look at them.
    pub fn id_in_mongod(&self, id: &[u8; SESSION_ID_BYTES]) -> [u8; SESSION_ID_BYTES] {
        let hash = Sha256::clone(&self.state).chain_update(id).finalize();
        hash.first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_for_every_caller_and_never_change() {
        let owners = [
            SessionOwner::principal("cart"),
            SessionOwner::listener("cart"),
            SessionOwner::principal("car"),
            SessionOwner::principal("cart\0"),
            SessionOwner::listener(""),
        ];
        let mut ids: Vec<_> =
            owners.iter().flat_map(|owner| [owner.id_in_mongod(&[7; 16]), owner.id_in_mongod(&[8; 16])]).collect();
        let input = [&b"mongate session id 1p\x04\0\0\0\0\0\0\0cart"[..], &[7; 16]].concat();
        assert_eq!(ids[0], Sha256::digest(input)[..16]);
        // Gateways of different versions have to agree.
        assert_eq!(u128::from_be_bytes(ids[0]), 0x0d9d_bd97_4e8b_e2ae_b3ef_4a43_a24b_78db);
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
