//! The hash of a field name.

/// The hash of a name that may arrive byte by byte. Names of up to seven bytes have different hashes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NameHash {
    hash: u64,
    /// The bytes since the last whole word.
    word: u64,
    filled: u32,
}

impl NameHash {
    pub(super) fn of(name: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.extend(name);
        hash.finish()
    }

    /// The hash of the name at the start of `bytes`, and what is behind its NUL; `None` if that has not arrived.
    #[inline]
    pub(super) fn of_cstring(bytes: &[u8]) -> Option<(u64, &[u8])> {
        let (mut hash, mut rest) = (0, bytes);
        while let Some((chunk, behind)) = rest.split_first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            // The lowest high bit that is set is that of the first zero byte.
            let zeros = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
            if zeros != 0 {
                // The bits up to the zero byte, which has no bits itself.
                let name = word & (zeros ^ (zeros - 1));
                return Some((mixed(hash, name), rest.get(zeros.trailing_zeros() as usize / 8 + 1..)?));
            }
            (hash, rest) = (mixed(hash, word), behind);
        }
        let end = rest.iter().position(|byte| *byte == 0)?;
        let mut name = Self { hash, ..Self::default() };
        name.extend(rest.get(..end)?);
        Some((name.finish(), rest.get(end + 1..)?))
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
    }

    fn push(&mut self, byte: u8) {
        self.word |= u64::from(byte) << (8 * self.filled);
        self.filled += 1;
        if self.filled == 8 {
            self.hash = mixed(self.hash, self.word);
            (self.word, self.filled) = (0, 0);
        }
    }

    pub(super) fn finish(self) -> u64 {
        mixed(self.hash, self.word)
    }
}

/// An odd multiplier maps different words to different hashes. It is that of `FxHash`.
fn mixed(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(26) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5)
}
