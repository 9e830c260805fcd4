//! What the policy changes in a request that it lets pass, in place: the ids of sessions, and the flag that allows a
//! stream of replies.

use smallvec::SmallVec;

use crate::policy::SESSION_ID_BYTES;
use crate::wire::header::HEADER_BYTES;
use crate::wire::message_scan::flag;

/// Bytes that take the place of as many bytes of a message. The message keeps its length.
#[derive(Debug, Default)]
pub(in crate::relay) struct Patches {
    /// The position of each session id in the message, and the id that takes its place.
    session_ids: SmallVec<[(usize, [u8; SESSION_ID_BYTES]); 1]>,
    /// The flags of an `OP_MSG` that take the place of its own.
    flags: Option<u32>,
}

impl Patches {
    pub(in crate::relay) fn is_empty(&self) -> bool {
        self.session_ids.is_empty() && self.flags.is_none()
    }

    pub(in crate::relay) fn add_session_id(&mut self, at: usize, id: [u8; SESSION_ID_BYTES]) {
        self.session_ids.push((at, id));
    }

    /// Has mongod send one reply to an `OP_MSG` with these flags.
    pub(in crate::relay) fn clear_exhaust(&mut self, flags: u32) {
        self.flags = Some(flags & !flag::EXHAUST_ALLOWED);
    }

    /// Whether the flag that allows a stream of replies is cleared.
    pub(in crate::relay) fn clears_exhaust(&self) -> bool {
        self.flags.is_some()
    }

    /// Changes `message`, the first bytes of a message whose checksum covers `covered` bytes. Returns by what the
    /// checksum changes: see [`change_checksum`].
    pub(in crate::relay) fn apply(&self, message: &mut [u8], covered: Option<usize>) -> u32 {
        let flags = self.flags.map(u32::to_le_bytes);
        let flags = flags.iter().map(|flags| (HEADER_BYTES, flags.as_slice()));
        let session_ids = self.session_ids.iter().map(|(at, id)| (*at, id.as_slice()));
        let mut change = 0;
        for (at, new) in flags.chain(session_ids) {
            let Some(old) = message.get_mut(at..at + new.len()) else { continue };
            if let Some(covered) = covered {
                // CRC-32C is linear: the difference of two checksums depends on the bytes that differ and on how many
                // bytes follow them, but not on those.
                let behind = covered.saturating_sub(at + new.len());
                change ^= crc32c::crc32c_combine(crc32c::crc32c(old) ^ crc32c::crc32c(new), 0, behind);
            }
            old.copy_from_slice(new);
        }
        change
    }
}

/// Bytes of a checksum, the last of its message.
pub(in crate::relay) const CHECKSUM_BYTES: usize = 4;

/// Changes the checksum at the end of `message` by what [`Patches::apply`] has returned. A wrong checksum remains
/// wrong.
pub(in crate::relay) fn change_checksum(message: &mut [u8], change: u32) {
    if let Some(checksum) = message.last_chunk_mut::<CHECKSUM_BYTES>() {
        *checksum = (u32::from_le_bytes(*checksum) ^ change).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_checksum_of_a_changed_message_is_the_one_that_mongod_computes(
            mut message in prop::collection::vec(any::<u8>(), 60..400),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 16]>()), 0..4),
            flags in any::<Option<u32>>(),
            is_wrong in any::<bool>(),
        ) {
            let covered = message.len() - 4;
            let mut checksum = crc32c::crc32c(&message[..covered]);
            if is_wrong {
                checksum ^= 1;
            }
            message[covered..].copy_from_slice(&checksum.to_le_bytes());
            let mut patches = Patches { flags, ..Patches::default() };
            // The ids of one message do not overlap.
            let mut free = 20;
            for (place, id) in places {
                if free + 16 < covered {
                    let at = free + place.index(covered - free - 16);
                    patches.add_session_id(at, id);
                    free = at + 16;
                }
            }
            // The end of the message may not have arrived.
            let change = patches.apply(&mut message[..covered], Some(covered));
            for (at, id) in &patches.session_ids {
                prop_assert_eq!(&message[*at..at + 16], id);
            }
            prop_assert!(flags.is_none_or(|flags| message[16..20] == flags.to_le_bytes()));
            change_checksum(&mut message, change);
            let is_right = message[covered..] == crc32c::crc32c(&message[..covered]).to_le_bytes();
            prop_assert_eq!(is_right, !is_wrong);
        }
    }
}
