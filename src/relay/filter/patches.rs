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

    /// Forgets all changes.
    pub(in crate::relay) fn clear(&mut self) {
        self.session_ids.clear();
        self.flags = None;
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
    pub(in crate::relay) fn apply(&mut self, message: &mut [u8], covered: Option<usize>) -> u32 {
        // The change of a checksum is computed from the front to the back.
        self.session_ids.sort_unstable_by_key(|(at, _)| *at);
        let flags = self.flags.map(u32::to_le_bytes);
        let flags = flags.iter().map(|flags| (HEADER_BYTES, flags.as_slice()));
        let session_ids = self.session_ids.iter().map(|(at, id)| (*at, id.as_slice()));
        let mut change = covered.map(|_| ChecksumChange::default());
        for (at, new) in flags.chain(session_ids) {
            let Some(old) = message.get_mut(at..at + new.len()) else { continue };
            if let Some(change) = &mut change {
                change.add(at, old, new);
            }
            old.copy_from_slice(new);
        }
        change.zip(covered).map_or(0, |(change, covered)| change.at(covered))
    }
}

/// By what the checksum of a message changes when some of its bytes change, without reading the others: CRC-32C is
/// linear, so that the difference of two checksums is computed from the bytes that differ and from zeros for the rest.
#[derive(Default)]
struct ChecksumChange {
    register: u32,
    /// The bytes of the message that have been processed.
    end: usize,
}

impl ChecksumChange {
    /// The bytes `old` at position `at` become `new`, at most 16 bytes and behind all that were added before.
    fn add(&mut self, at: usize, old: &[u8], new: &[u8]) {
        self.pass_unchanged(at);
        let mut differs = [0; SESSION_ID_BYTES];
        for (differs, (old, new)) in differs.iter_mut().zip(old.iter().zip(new)) {
            *differs = old ^ new;
        }
        self.pass(&differs[..new.len()]);
    }

    /// The change of the checksum over the first `covered` bytes.
    fn at(mut self, covered: usize) -> u32 {
        self.pass_unchanged(covered);
        self.register
    }

    fn pass_unchanged(&mut self, end: usize) {
        static ZEROS: [u8; 4096] = [0; 4096];
        let count = end.saturating_sub(self.end);
        if count > COMBINED_BYTES_MIN {
            self.register = crc32c::crc32c_combine(self.register, 0, count);
            self.end = end;
        }
        while self.end < end {
            self.pass(&ZEROS[..ZEROS.len().min(end - self.end)]);
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        // The complements take back those of a checksum: only without them it is linear.
        self.register = !crc32c::crc32c_append(!self.register, bytes);
        self.end += bytes.len();
    }
}

/// From this number of unchanged bytes on, combining checksums is faster than passing the bytes. Combining takes some
/// microseconds, too long for each of ten thousand session ids.
const COMBINED_BYTES_MIN: usize = 64 * 1024;

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
            unchanged in prop::sample::select(vec![0, 5000, 100_000]),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 16]>()), 0..4),
            flags in any::<Option<u32>>(),
            is_wrong in any::<bool>(),
        ) {
            let middle = message.len() / 2;
            message.splice(middle..middle, std::iter::repeat_n(7, unchanged));
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
            patches.session_ids.reverse();
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
