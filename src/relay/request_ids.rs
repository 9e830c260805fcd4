//! The ids of requests on an upstream connection that serves several clients.
//!
//! Every client counts its requests from a small number, so that the ids of two clients are often the same. A server
//! that repeats a reply late would then answer the request of the next client. The ids that go upstream are therefore
//! those of the client plus a random number, which is another one for each client.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// How the ids of one client and those on its upstream connections belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestIds {
    offset: i32,
}

/// Where the flags of an `OP_MSG` end.
const FLAGS_END: usize = HEADER_BYTES + 4;

/// Whether a request keeps its id: a checksum covers the id, and mongod's reply has one too. No driver sends checksums:
/// a client that does keeps its upstream connection for itself. `None` if too little of `message` has arrived.
pub(super) fn keeps_id(header: &Header, message: &[u8]) -> Option<bool> {
    if header.op_code != OpCode::MSG || (header.length as usize) < FLAGS_END {
        return Some(false);
    }
    let flags = message.get(HEADER_BYTES..FLAGS_END)?.first_chunk()?;
    Some(u32::from_le_bytes(*flags) & flag::CHECKSUM_PRESENT != 0)
}

impl RequestIds {
    /// For a client whose upstream connections serve others too.
    pub(super) fn random() -> Self {
        let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        Self { offset: i32::from_le_bytes([a, b, c, d]) }
    }

    /// The id that goes upstream in place of `id`.
    pub(super) fn to_upstream(self, id: i32) -> i32 {
        id.wrapping_add(self.offset)
    }

    /// The client's id of the request that is `id` upstream.
    pub(super) fn to_client(self, id: i32) -> i32 {
        id.wrapping_sub(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_differ_upstream_and_are_the_same_again_in_replies() {
        let (one, other) = (RequestIds::random(), RequestIds::random());
        assert_ne!(one, other);
        for id in [0, 1, i32::MAX, i32::MIN] {
            assert_eq!(one.to_client(one.to_upstream(id)), id);
            assert_ne!(one.to_upstream(id), other.to_upstream(id));
        }
    }
}
