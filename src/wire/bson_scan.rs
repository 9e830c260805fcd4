//! Finds the top-level elements of a BSON document in a stream of bytes, without decoding or buffering the document.
//!
//! A value longer than [`VALUE_BYTES_MAX`] is skipped by its declared length and not read. Names and short values are
//! returned as raw bytes. The scan verifies what it relies on: lengths, types and the closing NUL. Anything
//! inconsistent is [`Malformed`].
//!
//! Spec: BSON 1.1, <https://bsonspec.org/spec.html>.

/// The longest accepted element name, in bytes without its NUL. Names of commands and arguments are far shorter.
pub const NAME_BYTES_MAX: usize = 1024;

/// The longest value that is returned, in bytes with its length prefix: room for `db.collection` (255 bytes).
pub const VALUE_BYTES_MAX: usize = 512;

/// The maximum number of bytes that a scan leaves unconsumed: type, name, and the two strings of a regular expression.
pub const KEPT_BYTES_MAX: usize = 3 * NAME_BYTES_MAX + 4;

/// Element types that the gateway reads.
///
/// Spec: BSON 1.1 § element.
pub mod kind {
    /// 64-bit floating point.
    pub const DOUBLE: u8 = 0x01;
    /// UTF-8 string.
    pub const STRING: u8 = 0x02;
    /// Embedded document.
    pub const DOCUMENT: u8 = 0x03;
    /// Array.
    pub const ARRAY: u8 = 0x04;
    /// Boolean.
    pub const BOOLEAN: u8 = 0x08;
    /// 32-bit integer.
    pub const INT32: u8 = 0x10;
    /// 64-bit integer.
    pub const INT64: u8 = 0x12;
}

/// The bytes are not a BSON document, or a name is longer than [`NAME_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed BSON")]
pub struct Malformed;

/// One top-level element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// Position in the document, from 0.
    pub index: u32,
    /// The type byte, see [`kind`].
    pub kind: u8,
    /// The name without its NUL. Any bytes: mongod does not require UTF-8.
    pub name: &'a [u8],
    /// The raw value with its length prefix; `None` if it is longer than [`VALUE_BYTES_MAX`].
    pub value: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// The text of a string value, without length and NUL; `None` for any other type, and for a value that is `None`.
    pub fn string(&self) -> Option<&'a [u8]> {
        if self.kind != kind::STRING {
            return None;
        }
        self.value?.get(4..)?.split_last().map(|(_, text)| text)
    }

    /// A number or boolean as mongod reads `ok` and `code`: the whole part, saturating. `None` for any other type.
    pub fn number(&self) -> Option<i64> {
        let value = self.value?;
        match self.kind {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "saturates, and NaN becomes 0, as a reader of `ok` expects"
            )]
            kind::DOUBLE => value.first_chunk().map(|b| f64::from_le_bytes(*b) as i64),
            kind::BOOLEAN => value.first().map(|b| i64::from(*b != 0)),
            kind::INT32 => value.first_chunk().map(|b| i64::from(i32::from_le_bytes(*b))),
            kind::INT64 => value.first_chunk().map(|b| i64::from_le_bytes(*b)),
            _ => None,
        }
    }
}

/// The result of [`DocumentScan::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned<'a> {
    /// An element. A long value has not been consumed; the next call skips it.
    Element(Element<'a>),
    /// The input ends here. Pass the unconsumed bytes again, followed by more.
    NeedMore,
    /// The document is complete.
    End,
}

/// A scan of one document that arrives in pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct DocumentScan {
    /// Remaining bytes of the document, with its closing NUL; 0 before the length is read and after the end.
    left: u32,
    /// Remaining bytes of the current value that have to be skipped; `skip < left` inside the document.
    skip: u32,
    /// Number of elements found.
    index: u32,
    started: bool,
}

impl DocumentScan {
    /// Finds the next element in `input`, which starts at the first byte that the previous call did not consume.
    ///
    /// Returns the number of consumed bytes of `input`. With `NeedMore`, at most [`KEPT_BYTES_MAX`] bytes are not
    /// consumed, so a caller can keep them. A document can declare any length up to 2 GiB; the caller compares it with
    /// the length of the message (see [`DocumentScan::left`]).
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Scanned<'a>), Malformed> {
        let mut at = 0;
        if !self.started {
            let Some(length) = input.first_chunk() else { return Ok((0, Scanned::NeedMore)) };
            let length = u32::try_from(i32::from_le_bytes(*length)).ok().filter(|l| *l >= 5).ok_or(Malformed)?;
            self.left = length - 4;
            self.started = true;
            at = 4;
        }
        if self.left == 0 {
            return Ok((at, Scanned::End));
        }
        at += self.step_over(input.get(at..).unwrap_or_default());
        let rest = input.get(at..).unwrap_or_default();
        if self.skip > 0 || rest.is_empty() {
            return Ok((at, Scanned::NeedMore));
        }
        if rest.first() == Some(&0) {
            self.left -= 1;
            return if self.left == 0 { Ok((at + 1, Scanned::End)) } else { Err(Malformed) };
        }
        let Some((length, element)) = self.element(rest)? else { return Ok((at, Scanned::NeedMore)) };
        Ok((at + length, Scanned::Element(element)))
    }

    /// Remaining bytes of the document; valid once its length has been read.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Returns to the start of the embedded document that [`DocumentScan::next`] has just returned as a value. The
    /// caller reads that document with another scan, and reports its progress with [`DocumentScan::pass`]. Returns how
    /// many of the consumed bytes the caller has to pass again.
    pub fn enter(&mut self, element: &Element<'_>) -> usize {
        let Some(value) = element.value else { return 0 };
        let length = u32::try_from(value.len()).unwrap_or_default();
        self.left += length;
        self.skip = length;
        value.len()
    }

    /// Skips `bytes` bytes of the current value, which the caller has read. Returns the remaining bytes of the value.
    pub fn pass(&mut self, bytes: usize) -> u32 {
        let step = self.skip.min(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.skip -= step;
        self.left -= step;
        self.skip
    }

    fn step_over(&mut self, rest: &[u8]) -> usize {
        let before = self.skip;
        (before - self.pass(rest.len())) as usize
    }

    /// Reads type, name and a short value at the start of `rest`; `None` if they have not arrived completely.
    fn element<'a>(&mut self, rest: &'a [u8]) -> Result<Option<(usize, Element<'a>)>, Malformed> {
        let Some((&kind, after_kind)) = rest.split_first() else { return Ok(None) };
        let Some((name, after_name)) = cstring(after_kind)? else { return Ok(None) };
        let Some(value_bytes) = value_length(kind, after_name)? else { return Ok(None) };
        let head_bytes = 2 + name.len();
        let whole = u64::try_from(head_bytes).unwrap_or(u64::MAX).saturating_add(u64::from(value_bytes));
        // The closing NUL must still fit after the element.
        if whole >= u64::from(self.left) {
            return Err(Malformed);
        }
        let head = u32::try_from(head_bytes).map_err(|_| Malformed)?;
        let index = self.index;
        let value = if value_bytes as usize <= VALUE_BYTES_MAX {
            let Some(value) = after_name.get(..value_bytes as usize) else { return Ok(None) };
            Some(value)
        } else {
            None
        };
        self.left -= head;
        self.index += 1;
        let consumed = if let Some(value) = value {
            self.left -= value_bytes;
            head_bytes + value.len()
        } else {
            self.skip = value_bytes;
            head_bytes
        };
        Ok(Some((consumed, Element { index, kind, name, value })))
    }
}

/// A name and the bytes after its NUL.
type NameAndRest<'a> = (&'a [u8], &'a [u8]);

/// Splits a NUL-terminated name off `bytes`; `None` if its NUL has not arrived.
pub(super) fn cstring(bytes: &[u8]) -> Result<Option<NameAndRest<'_>>, Malformed> {
    let window = bytes.get(..=NAME_BYTES_MAX).unwrap_or(bytes);
    match window.iter().position(|b| *b == 0) {
        Some(end) => Ok(bytes.split_at_checked(end).and_then(|(name, rest)| Some((name, rest.get(1..)?)))),
        None if window.len() > NAME_BYTES_MAX => Err(Malformed),
        None => Ok(None),
    }
}

/// The length of an element's value in bytes, with its length prefix; `None` if the length has not arrived.
fn value_length(kind: u8, value: &[u8]) -> Result<Option<u32>, Malformed> {
    let fixed = match kind {
        0x06 | 0x0A | 0x7F | 0xFF => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        // Two cstrings: pattern and options.
        0x0B => {
            let Some((pattern, rest)) = cstring(value)? else { return Ok(None) };
            let Some((options, _)) = cstring(rest)? else { return Ok(None) };
            return Ok(u32::try_from(pattern.len() + options.len() + 2).ok());
        }
        0x02 | 0x03 | 0x04 | 0x05 | 0x0C | 0x0D | 0x0E | 0x0F => return prefixed_length(kind, value),
        _ => return Err(Malformed),
    };
    Ok(Some(fixed))
}

/// The length of a value that starts with a 32-bit length.
fn prefixed_length(kind: u8, value: &[u8]) -> Result<Option<u32>, Malformed> {
    let Some(prefix) = value.first_chunk() else { return Ok(None) };
    let declared = u32::try_from(i32::from_le_bytes(*prefix)).map_err(|_| Malformed)?;
    // The bytes that the declared length does not count, and the smallest valid length.
    let (uncounted, min) = match kind {
        kind::DOCUMENT | kind::ARRAY => (0, 5),
        0x0F => (0, 14),
        0x05 => (5, 0),
        0x0C => (4 + 12, 1),
        _ => (4, 1),
    };
    if declared < min {
        return Err(Malformed);
    }
    declared.checked_add(uncounted).map(Some).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc, oid::ObjectId};
    use proptest::prelude::*;

    use super::*;

    /// (index, kind, name, value) of every element.
    type Seen = Vec<(u32, u8, Vec<u8>, Option<Vec<u8>>)>;

    /// Scans the document in pieces of `cut` bytes.
    fn scan_in_pieces(bytes: &[u8], cut: usize) -> Result<Seen, Malformed> {
        let (mut scan, mut seen, mut start, mut end) = (DocumentScan::default(), Vec::new(), 0, 0);
        loop {
            match scan.next(&bytes[start..end])? {
                (used, Scanned::Element(e)) => {
                    seen.push((e.index, e.kind, e.name.to_vec(), e.value.map(<[u8]>::to_vec)));
                    start += used;
                }
                (used, Scanned::End) => {
                    assert_eq!(start + used, bytes.len(), "the scan ends at the end of the document");
                    return Ok(seen);
                }
                (used, Scanned::NeedMore) => {
                    start += used;
                    assert!(end - start <= KEPT_BYTES_MAX);
                    assert!(end < bytes.len(), "the scan requests more bytes than there are");
                    end = (end + cut).min(bytes.len());
                }
            }
        }
    }

    fn bytes_of(document: &Document) -> Vec<u8> {
        bson::serialize_to_vec(document).unwrap()
    }

    fn value() -> impl Strategy<Value = bson::Bson> {
        let leaf = prop_oneof![
            any::<f64>().prop_map(bson::Bson::Double),
            "\\PC{0,700}".prop_map(bson::Bson::String),
            any::<bool>().prop_map(bson::Bson::Boolean),
            any::<i32>().prop_map(bson::Bson::Int32),
            any::<i64>().prop_map(bson::Bson::Int64),
            Just(bson::Bson::Null),
            Just(bson::Bson::MinKey),
            Just(bson::Bson::MaxKey),
            Just(bson::Bson::Undefined),
            any::<[u8; 12]>().prop_map(|b| bson::Bson::ObjectId(ObjectId::from_bytes(b))),
            prop::collection::vec(any::<u8>(), 0..700).prop_map(|bytes| {
                bson::Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes })
            }),
            any::<i64>().prop_map(|ms| bson::Bson::DateTime(bson::DateTime::from_millis(ms))),
            ("[a-z]{0,9}").prop_map(bson::Bson::JavaScriptCode),
            ("[a-z]{0,9}").prop_map(bson::Bson::Symbol),
            any::<[u8; 16]>().prop_map(|b| bson::Bson::Decimal128(bson::Decimal128::from_bytes(b))),
            any::<(u32, u32)>()
                .prop_map(|(time, increment)| bson::Bson::Timestamp(bson::Timestamp { time, increment })),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(bson::Bson::Array),
                prop::collection::vec(("[a-z$.]{0,6}", inner), 0..5)
                    .prop_map(|pairs| bson::Bson::Document(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_elements_that_the_bson_crate_finds(
            pairs in prop::collection::vec(("[^\\x00]{0,40}", value()), 0..8),
            cut in 1_usize..900,
        ) {
            let document: Document = pairs.into_iter().collect();
            let bytes = bytes_of(&document);
            let seen = scan_in_pieces(&bytes, cut).unwrap();
            let raw = bson::RawDocument::from_bytes(&bytes).unwrap();
            let expected: Vec<_> = raw.iter_elements().map(|e| e.unwrap()).collect();
            prop_assert_eq!(seen.len(), expected.len());
            for ((index, kind, name, value), (position, element)) in seen.iter().zip(expected.iter().enumerate()) {
                prop_assert_eq!(*index as usize, position);
                prop_assert_eq!(*kind, element.element_type() as u8);
                prop_assert_eq!(name.as_slice(), element.key().as_str().as_bytes());
                let found = Element { index: *index, kind: *kind, name, value: value.as_deref() };
                let decoded = element.value().unwrap();
                if let (Some(text), Some(_)) = (decoded.as_str(), value) {
                    prop_assert_eq!(found.string(), Some(text.as_bytes()));
                }
                if let Some(number) = decoded.as_i32().map(i64::from).or(decoded.as_i64()) {
                    prop_assert_eq!(found.number(), Some(number));
                }
            }
        }

        #[test]
        fn hostile_bytes_neither_panic_nor_hang(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let (mut scan, mut at) = (DocumentScan::default(), 0);
            while let Ok((used, found)) = scan.next(&bytes[at..]) {
                at += used;
                if matches!(found, Scanned::NeedMore | Scanned::End) {
                    break;
                }
                prop_assert!(used > 0, "every element consumes bytes");
            }
        }

        #[test]
        fn a_document_with_a_flipped_byte_ends_or_is_malformed(at in 0_usize..80, bit in 0_u8..8) {
            let mut bytes = bytes_of(&doc! { "find": "c", "filter": { "a": [1, "x"] }, "n": 1.5, "$db": "shop" });
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let (mut scan, mut from) = (DocumentScan::default(), 0);
            while let Ok((used, Scanned::Element(_))) = scan.next(&bytes[from..]) {
                from += used;
            }
        }
    }

    #[test]
    fn long_values_are_skipped_and_the_elements_after_them_are_found() {
        let document = doc! { "insert": "c", "documents": [{ "text": "x".repeat(100_000) }], "$db": "shop" };
        let bytes = bytes_of(&document);
        for cut in [1, 7, 4096, bytes.len()] {
            let seen = scan_in_pieces(&bytes, cut).unwrap();
            let names: Vec<&[u8]> = seen.iter().map(|(_, _, name, _)| name.as_slice()).collect();
            assert_eq!(names, [b"insert".as_slice(), b"documents", b"$db"]);
            assert_eq!(seen[1].3, None);
        }
    }

    fn check_malformed(bytes: &[u8]) {
        let (mut scan, mut at) = (DocumentScan::default(), 0);
        loop {
            match scan.next(&bytes[at..]) {
                Err(Malformed) => return,
                Ok((used, Scanned::Element(_))) => at += used,
                Ok((_, other)) => panic!("{bytes:?} was accepted: {other:?}"),
            }
        }
    }

    #[test]
    fn inconsistent_documents_are_malformed() {
        check_malformed(&4_i32.to_le_bytes());
        check_malformed(&(-1_i32).to_le_bytes());
        check_malformed(b"\x06\0\0\0\0\0");
        check_malformed(b"\x08\0\0\0\x20a\0\0");
        check_malformed(b"\x09\0\0\0\x10a\0\0\0\0\0\0");
        check_malformed(b"\x0c\0\0\0\x02a\0\0\0\0\0\0");
        check_malformed(b"\x0c\0\0\0\x02a\0\xff\xff\xff\xff\0");
        check_malformed(b"\x0c\0\0\0\x03a\0\x04\0\0\0\0");
        check_malformed(b"\x0c\0\0\0\x05a\0\xff\xff\xff\x7f\0");
        let mut endless_name = 2000_i32.to_le_bytes().to_vec();
        endless_name.extend_from_slice(&[b'a'; 1500]);
        check_malformed(&endless_name);
    }
}
