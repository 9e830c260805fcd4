//! The ids of sessions as mongod sees them.
//!
//! mongod identifies a session by its id and the user who owns it, and to mongod all callers of a gateway may be one
//! user. A caller who knows the id of another's session could read its results and end its transactions. Every id is
//! therefore replaced by a hash of the caller and the id: a caller cannot find an id whose hash is the id of another's
//! session.

use sha2::{Digest, Sha256};

/// Bytes of a session id.
pub const SESSION_ID_BYTES: usize = 16;

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"mongate session id 1";

/// The caller that sessions belong to.
#[derive(Debug, Clone)]
pub struct SessionOwner {
    /// The state of the hash before the id.
    state: Sha256,
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
        Self { state }
    }

    /// The id in mongod of the session that the caller calls `id`: the first 16 bytes of a SHA-256 over both. It is the
    /// same on every gateway and after every restart. The bits that a UUID has for its version are not kept; mongod
    /// does not look at them.
    pub fn id_in_mongod(&self, id: &[u8; SESSION_ID_BYTES]) -> [u8; SESSION_ID_BYTES] {
        let hash = self.state.clone().chain_update(id).finalize();
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
        let hexadecimal: String = ids[0].iter().map(|byte| format!("{byte:02x}")).collect();
        // Gateways of different versions have to agree.
        assert_eq!(hexadecimal, "0d9dbd974e8be2aeb3ef4a43a24b78db");
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
