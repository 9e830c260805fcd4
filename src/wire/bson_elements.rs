//! The top-level elements of a complete document, as raw bytes.
//!
//! For code that changes one element and keeps all others byte for byte, including names and strings that are not UTF-8
//! and names that occur twice. Of a value only its length is read.

use crate::wire::bson_scan::{DocumentScan, Element, Malformed, Scanned};

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeElement<'a> {
    /// The type byte, see [`crate::wire::bson_scan::kind`].
    pub kind: u8,
    /// The name without its NUL.
    pub name: &'a [u8],
    /// The value, with its length prefix if it has one.
    pub value: &'a [u8],
    /// The whole element: type, name and value.
    pub bytes: &'a [u8],
}

impl<'a> WholeElement<'a> {
    /// The text of a string, without length and NUL; `None` for any other type, and for a string without its NUL.
    pub fn string(&self) -> Option<&'a [u8]> {
        self.as_element().string().filter(|_| self.value.last() == Some(&0))
    }

    /// A number or boolean, see [`Element::number`].
    pub fn number(&self) -> Option<i64> {
        self.as_element().number()
    }

    fn as_element(&self) -> Element<'a> {
        Element { index: 0, kind: self.kind, name: self.name, value: Some(self.value) }
    }
}

/// Iterator over the elements of a document.
///
/// Ends after an error. It is an error if a length is wrong, or if the document does not fill all of the bytes.
#[derive(Debug)]
pub struct WholeElements<'a> {
    document: &'a [u8],
    at: usize,
    scan: DocumentScan,
    ended: bool,
}

impl<'a> WholeElements<'a> {
    /// Starts at the first element of `document`.
    pub fn new(document: &'a [u8]) -> Self {
        Self { document, at: 0, scan: DocumentScan::default(), ended: false }
    }

    fn advance(&mut self) -> Result<Option<WholeElement<'a>>, Malformed> {
        // The length of the document comes before its first element.
        let start = self.at.max(4);
        let (used, found) = self.scan.next(self.document.get(self.at..).unwrap_or_default())?;
        self.at += used;
        let element = match found {
            Scanned::Element(element) => element,
            Scanned::End if self.at == self.document.len() => return Ok(None),
            Scanned::End | Scanned::NeedMore => return Err(Malformed),
        };
        // The scan has not stepped over a long value yet.
        let remaining = self.scan.pass(0) as usize;
        self.scan.pass(remaining);
        self.at += remaining;
        let bytes = self.document.get(start..self.at).ok_or(Malformed)?;
        let value = bytes.get(2 + element.name.len()..).ok_or(Malformed)?;
        Ok(Some(WholeElement { kind: element.kind, name: element.name, value, bytes }))
    }
}

impl<'a> Iterator for WholeElements<'a> {
    type Item = Result<WholeElement<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Builds a document from elements as raw bytes.
#[derive(Debug)]
pub struct DocumentBytes {
    bytes: Vec<u8>,
}

impl DocumentBytes {
    /// An empty document with memory reserved for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut document = Vec::with_capacity(bytes.max(5));
        document.extend_from_slice(&[0; 4]);
        Self { bytes: document }
    }

    /// Appends a whole element, copied from another document.
    pub fn push(&mut self, element: &[u8]) {
        self.bytes.extend_from_slice(element);
    }

    /// Appends an element. `name` must not contain a NUL.
    pub fn push_value(&mut self, kind: u8, name: &[u8], value: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
    }

    /// Appends a string element. `name` must not contain a NUL.
    pub fn push_string(&mut self, name: &[u8], text: &str) {
        let length = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
        self.push_value(crate::wire::bson_scan::kind::STRING, name, &length.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    /// The bytes of the document.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(prefix) = self.bytes.first_chunk_mut() {
            *prefix = length.to_le_bytes();
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;
    use proptest::prelude::*;

    use super::*;

    fn elements(document: &[u8]) -> Result<Vec<WholeElement<'_>>, Malformed> {
        WholeElements::new(document).collect()
    }

    #[test]
    fn elements_of_any_length_are_returned_byte_for_byte() {
        let long = "x".repeat(3000);
        let document = doc! {
            "a": 1, "long": long.as_str(), "s": "é", "inner": { "y": [long.as_str(), 2] }, "f": 2.9, "r": bson::Regex {
                pattern: "p".try_into().unwrap(), options: "i".try_into().unwrap() }, "last": long.as_str(),
        };
        let bytes = bson::serialize_to_vec(&document).unwrap();
        let found = elements(&bytes).unwrap();
        let names: Vec<_> = found.iter().map(|e| std::str::from_utf8(e.name).unwrap()).collect();
        assert_eq!(names, ["a", "long", "s", "inner", "f", "r", "last"]);
        assert_eq!((found[1].string(), found[2].string()), (Some(long.as_bytes()), Some("é".as_bytes())));
        assert_eq!((found[0].number(), found[4].number(), found[2].number()), (Some(1), Some(2), None));
        let mut copy = DocumentBytes::with_capacity(0);
        for element in &found {
            if element.name == b"s" { copy.push_string(b"s", "é") } else { copy.push(element.bytes) }
        }
        assert_eq!(copy.finish(), bytes);
        for end in 0..bytes.len() {
            assert_eq!(elements(&bytes[..end]), Err(Malformed));
        }
        assert_eq!(elements(&[&bytes[..], &[0]].concat()), Err(Malformed));
    }

    #[test]
    fn the_empty_document_has_no_elements() {
        assert_eq!(elements(&DocumentBytes::with_capacity(0).finish()), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn the_elements_of_any_bytes_cover_the_whole_document(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if let Some(prefix) = u32::try_from(bytes.len()).ok().zip(bytes.first_chunk_mut()) {
                *prefix.1 = prefix.0.to_le_bytes();
            }
            if let Ok(found) = elements(&bytes) {
                let inside: Vec<u8> = found.iter().flat_map(|element| element.bytes).copied().collect();
                prop_assert_eq!(&inside, &bytes[4..bytes.len() - 1]);
            }
        }
    }
}
