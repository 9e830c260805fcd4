//! Finds the end of a `ClientHello`, so that no TLS session is made before one has arrived.
//!
//! Spec: RFC 8446 § 4 (handshake messages) and § 5.1 (records). rustls parses the message; it would accept one of
//! 64 KiB, and keep its buffer for each client that never completes it.

/// Longest accepted `ClientHello` in bytes, with its record headers. A usual one has 300 to 2,000 bytes: the largest
/// parts are key shares with post-quantum keys and session tickets.
pub(super) const HELLO_BYTES_MAX: usize = 16 * 1024;

const RECORD_HEADER_BYTES: usize = 5;
/// Longest plaintext in one record.
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Type and length of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// How much of a `ClientHello` has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// More bytes are needed.
    Undecided,
    /// The message is complete; bytes after it may follow.
    Whole,
    /// The message has, or announces, more than [`HELLO_BYTES_MAX`] bytes.
    TooLong,
    /// The bytes are no `ClientHello`; rustls knows the alert for them.
    Invalid,
}

/// Measures the `ClientHello` at the front of `bytes`.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    let (mut rest, mut head, mut arrived) = (bytes, [0; MESSAGE_HEADER_BYTES], 0);
    let mut message = None;
    while let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() {
        let [kind, major, _, high, low] = *header;
        let length = usize::from(high) << 8 | usize::from(low);
        if kind != HANDSHAKE_RECORD || major != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Measure::Invalid;
        }
        let payload = &after[..length.min(after.len())];
        for (place, byte) in head.iter_mut().skip(arrived).zip(payload) {
            *place = *byte;
        }
        arrived += payload.len();
        if arrived >= MESSAGE_HEADER_BYTES {
            let [kind, length @ ..] = head;
            if kind != CLIENT_HELLO {
                return Measure::Invalid;
            }
            let whole = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) + MESSAGE_HEADER_BYTES;
            if whole > HELLO_BYTES_MAX {
                return Measure::TooLong;
            }
            message = Some(whole);
        }
        if message.is_some_and(|whole| arrived >= whole) {
            return Measure::Whole;
        }
        rest = &after[payload.len()..];
    }
    if bytes.len() >= HELLO_BYTES_MAX { Measure::TooLong } else { Measure::Undecided }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A handshake message of type `kind` that announces `announced` bytes and has `sent`, in records of `cut` bytes.
    fn hello(kind: u8, announced: usize, sent: usize, cut: usize) -> Vec<u8> {
        let [.., high, middle, low] = announced.to_be_bytes();
        let message = [&[kind, high, middle, low][..], &vec![7; sent]].concat();
        message.chunks(cut).flat_map(record).collect()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        let [.., high, low] = payload.len().to_be_bytes();
        [&[HANDSHAKE_RECORD, 3, 1, high, low][..], payload].concat()
    }

    fn check(bytes: &[u8], expected: Measure) {
        assert_eq!(measure(bytes), expected, "{:?}", &bytes[..bytes.len().min(16)]);
    }

    #[test]
    fn a_hello_is_whole_at_its_last_byte_however_it_is_cut_into_records() {
        for cut in [1, 3, 4, 5, 100, 16_384] {
            let bytes = hello(CLIENT_HELLO, 512, 512, cut);
            for end in 0..bytes.len() {
                check(&bytes[..end], Measure::Undecided);
            }
            check(&bytes, Measure::Whole);
            check(&[&bytes[..], &[20, 3, 3, 0, 1, 1]].concat(), Measure::Whole);
        }
    }

    #[test]
    fn a_hello_that_announces_too_much_is_refused_before_it_arrives() {
        let largest = HELLO_BYTES_MAX - MESSAGE_HEADER_BYTES;
        check(&hello(CLIENT_HELLO, largest, 0, 4), Measure::Undecided);
        check(&hello(CLIENT_HELLO, largest + 1, 0, 4), Measure::TooLong);
        check(&hello(CLIENT_HELLO, 60_000, 0, 1), Measure::TooLong);
        // Nothing but record headers: one byte of the message in each.
        check(&hello(CLIENT_HELLO, 15_000, 2_800, 1), Measure::TooLong);
    }

    #[test]
    fn other_bytes_are_left_to_rustls() {
        check(&[22, 3, 1, 0xFF, 0xFF], Measure::Invalid);
        check(&[22, 3, 1, 0, 0], Measure::Invalid);
        check(&[21, 3, 1, 0, 2, 2, 40], Measure::Invalid);
        check(&hello(2, 100, 100, 200), Measure::Invalid);
        check(&[], Measure::Undecided);
    }
}
