//! Removes parts of documents in place: what is kept moves towards the front of the same memory.
//!
//! For replies of megabytes, of which there is no second copy. Elements that are kept are not changed by a byte.

use std::ops::Range;

use crate::wire::bson_elements::WholeElement;
use crate::wire::bson_scan::{DocumentScan, Malformed, Scanned};

/// The elements of a document inside a buffer, which may change before them while they are read.
#[derive(Debug)]
pub struct ElementWalk {
    at: usize,
    end: usize,
    scan: DocumentScan,
}

/// An element inside a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedElement {
    /// The type byte, see [`crate::wire::bson_scan::kind`].
    pub kind: u8,
    /// The whole element: type, name and value.
    pub element: Range<usize>,
    /// The name without its NUL.
    pub name: Range<usize>,
    /// The value, with its length prefix if it has one.
    pub value: Range<usize>,
}

impl PlacedElement {
    /// The element in the buffer that it was found in.
    pub fn whole<'b>(&self, buffer: &'b [u8]) -> Option<WholeElement<'b>> {
        let part = |range: &Range<usize>| buffer.get(range.clone());
        let (name, value, bytes) = (part(&self.name)?, part(&self.value)?, part(&self.element)?);
        Some(WholeElement { kind: self.kind, name, value, bytes })
    }
}

impl ElementWalk {
    /// Starts at the first element of the document that fills `range` of the buffer.
    pub fn new(range: &Range<usize>) -> Self {
        Self { at: range.start, end: range.end, scan: DocumentScan::default() }
    }

    /// The next element; `None` behind the last one. It is an error if a length is wrong, or if the document does not
    /// fill its range. The buffer must not have changed behind the previous element.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Option<PlacedElement>, Malformed> {
        // The length of the document comes before its first element.
        let is_first = self.scan.left() == 0;
        let start = if is_first { self.at.checked_add(4).ok_or(Malformed)? } else { self.at };
        let (used, found) = self.scan.next(buffer.get(self.at..self.end).ok_or(Malformed)?)?;
        self.at += used;
        let (kind, name_bytes) = match found {
            Scanned::Element(element) => (element.kind, element.name.len()),
            Scanned::End if self.at == self.end => return Ok(None),
            Scanned::End | Scanned::NeedMore => return Err(Malformed),
        };
        // The scan has not stepped over a long value yet.
        let remaining = self.scan.pass(0) as usize;
        self.scan.pass(remaining);
        self.at += remaining;
        let name = start + 1..start + 1 + name_bytes;
        let value = name.end + 1..self.at;
        if self.at > self.end || value.start > value.end {
            return Err(Malformed);
        }
        Ok(Some(PlacedElement { kind, element: start..self.at, name, value }))
    }
}

/// A buffer whose kept parts move to its front.
///
/// Parts are kept in the order in which they are in the buffer. Nothing is written over bytes that have not been read:
/// each call says where those begin.
#[derive(Debug)]
pub struct Compaction<'b> {
    buffer: &'b mut [u8],
    /// `0 <= written <=` the start of what is unread.
    written: usize,
}

/// A document that is being written.
#[derive(Debug)]
#[must_use = "the document has no length before it is closed"]
pub struct OpenDocument(usize);

impl<'b> Compaction<'b> {
    /// Keeps the first `kept` bytes of the buffer.
    pub fn new(buffer: &'b mut [u8], kept: usize) -> Self {
        Self { buffer, written: kept }
    }

    /// The buffer; what is unread has not changed.
    pub fn buffer(&self) -> &[u8] {
        self.buffer
    }

    /// The number of bytes that have been written.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Keeps `range`, which is read with that.
    pub fn keep(&mut self, range: Range<usize>) -> Result<(), Malformed> {
        let length = range.len();
        if range.start < self.written || range.end > self.buffer.len() {
            return Err(Malformed);
        }
        if range.start > self.written {
            self.buffer.copy_within(range, self.written);
        }
        self.written += length;
        Ok(())
    }

    /// Writes other bytes before what is unread.
    pub fn put(&mut self, bytes: &[u8], unread: usize) -> Result<(), Malformed> {
        let end = self.written.checked_add(bytes.len()).filter(|end| *end <= unread).ok_or(Malformed)?;
        self.buffer.get_mut(self.written..end).ok_or(Malformed)?.copy_from_slice(bytes);
        self.written = end;
        Ok(())
    }

    /// Begins a document in place of one at `replaced`, of which nothing has to be read yet: the length is written when
    /// the document is closed.
    pub fn open(&mut self, replaced: usize) -> Result<OpenDocument, Malformed> {
        if self.written > replaced {
            return Err(Malformed);
        }
        self.written += 4;
        Ok(OpenDocument(self.written - 4))
    }

    /// Ends a document: writes its NUL and its length. Bytes from `unread` on have not been read.
    #[expect(clippy::needless_pass_by_value, reason = "a document is closed once")]
    pub fn close(&mut self, document: OpenDocument, unread: usize) -> Result<(), Malformed> {
        let OpenDocument(start) = document;
        self.put(&[0], unread)?;
        let length = u32::try_from(self.written - start).map_err(|_| Malformed)?;
        self.replace(start, &length.to_le_bytes())
    }

    /// Writes over bytes that have been written before.
    pub fn replace(&mut self, at: usize, bytes: &[u8]) -> Result<(), Malformed> {
        let end = at.checked_add(bytes.len()).filter(|end| *end <= self.written).ok_or(Malformed)?;
        self.buffer.get_mut(at..end).ok_or(Malformed)?.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::bson_elements::WholeElements;

    /// Keeps the elements of `document` whose names begin with `a`.
    fn only_a(document: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut buffer = document.to_vec();
        let range = 0..buffer.len();
        let mut walk = ElementWalk::new(&range);
        let mut compaction = Compaction::new(&mut buffer, 0);
        let open = compaction.open(0)?;
        while let Some(found) = walk.next(compaction.buffer())? {
            if compaction.buffer()[found.name.clone()].starts_with(b"a") {
                compaction.keep(found.element)?;
            }
        }
        compaction.close(open, range.end)?;
        let written = compaction.written();
        buffer.truncate(written);
        Ok(buffer)
    }

    #[test]
    fn what_is_removed_leaves_a_document_of_the_rest() {
        let long = "x".repeat(3000);
        let document = doc! { "b": &long, "a1": 1, "c": {}, "a2": &long, "d": [1], "a3": { "b": &long }, "e": 2.5 };
        let expected = doc! { "a1": 1, "a2": &long, "a3": { "b": &long } };
        let bytes = bson::serialize_to_vec(&document).unwrap();
        let kept: Document = bson::deserialize_from_slice(&only_a(&bytes).unwrap()).unwrap();
        assert_eq!(kept, expected);
        for end in 0..bytes.len() {
            assert_eq!(only_a(&bytes[..end]), Err(Malformed));
        }
        assert_eq!(only_a(&bson::serialize_to_vec(&doc! {}).unwrap()).unwrap().len(), 5);
    }

    #[test]
    fn nothing_is_written_over_unread_bytes() {
        let mut buffer = *b"0123456789";
        let mut compaction = Compaction::new(&mut buffer, 2);
        assert_eq!(compaction.put(b"abc", 4), Err(Malformed));
        assert_eq!(compaction.put(b"ab", 4), Ok(()));
        assert_eq!(compaction.keep(3..5), Err(Malformed));
        assert_eq!(compaction.keep(6..11), Err(Malformed));
        assert_eq!(compaction.keep(6..8), Ok(()));
        assert_eq!(compaction.replace(5, b"xy"), Err(Malformed));
        assert_eq!((compaction.written(), compaction.buffer()), (6, &b"01ab676789"[..]));
    }

    proptest! {
        #[test]
        fn a_walk_finds_what_an_iterator_over_whole_elements_finds(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut bytes = bytes;
            if let Some(prefix) = u32::try_from(bytes.len()).ok().zip(bytes.first_chunk_mut()) {
                *prefix.1 = prefix.0.to_le_bytes();
            }
            let mut walk = ElementWalk::new(&(0..bytes.len()));
            for element in WholeElements::new(&bytes) {
                match (element, walk.next(&bytes)) {
                    (Ok(element), Ok(Some(found))) => {
                        prop_assert_eq!(element.bytes, &bytes[found.element]);
                        prop_assert_eq!((element.name, element.value), (&bytes[found.name], &bytes[found.value]));
                    }
                    (Err(Malformed), Err(Malformed)) => return Ok(()),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(walk.next(&bytes), Ok(None));
        }
    }
}
