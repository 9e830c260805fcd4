//! A strict reader of BSON: it reads every element, refuses duplicate keys, and returns a value only if it has the
//! expected type.
//!
//! Reads one level. Values that do not name a resource are not read; mongod validates them before it executes the
//! command.

use bson::raw::{RawArray, RawBsonRef, RawDocument, RawElement, RawIter};
use bson::spec::ElementType;
use smallvec::SmallVec;

use super::unclear::Unclear;

/// The elements of a document in their order, without duplicate keys.
///
/// The inline storage takes 1.3 KiB. On the common path the value is filled in place and never moved.
#[derive(Default)]
pub(super) struct Fields<'a>(SmallVec<[RawElement<'a>; FIELDS_HELD]>);

impl<'a> Fields<'a> {
    /// Fills the empty value with the elements of a command body: at least one, at most [`ARGUMENTS_MAX`]. After an
    /// error the content is undefined.
    pub(super) fn take_command(&mut self, body: &'a RawDocument) -> Result<(), Unclear> {
        self.take(body, ARGUMENTS_MAX)?;
        if self.0.is_empty() { Err(Unclear::NoCommand) } else { Ok(()) }
    }

    /// The elements of any document, in any number; costs `n log n`.
    pub(super) fn of(document: &'a RawDocument) -> Result<Self, Unclear> {
        let mut fields = Self::default();
        fields.take(document, usize::MAX)?;
        Ok(fields)
    }

    fn take(&mut self, document: &'a RawDocument, count_max: usize) -> Result<(), Unclear> {
        debug_assert!(self.0.is_empty(), "the fields of one document");
        for element in elements(document) {
            if self.0.len() == count_max {
                return Err(Unclear::TooManyArguments);
            }
            self.0.push(element?);
        }
        if self.has_duplicate_key() { Err(Unclear::DuplicateKey) } else { Ok(()) }
    }

    fn has_duplicate_key(&self) -> bool {
        if self.0.len() <= FIELDS_HELD {
            let mut rest = self.0.as_slice();
            while let Some((first, others)) = rest.split_first() {
                if others.iter().any(|other| other.key() == first.key()) {
                    return true;
                }
                rest = others;
            }
            return false;
        }
        let mut keys: Vec<&str> = self.iter().map(key).collect();
        keys.sort_unstable();
        keys.iter().zip(keys.iter().skip(1)).any(|(one, next)| one == next)
    }

    pub(super) fn first(&self) -> Option<&RawElement<'a>> {
        self.0.first()
    }

    pub(super) fn get(&self, name: &str) -> Option<&RawElement<'a>> {
        self.iter().find(|element| key(element) == name)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, RawElement<'a>> {
        self.0.iter()
    }

    /// Whether every key is one of `names`.
    pub(super) fn are_among(&self, names: &[&str]) -> bool {
        self.iter().all(|element| names.contains(&key(element)))
    }
}

/// An iterator over documents, in an array of the body or in a document sequence.
pub(super) enum Documents<'a> {
    Array(RawIter<'a>),
    Sequence(&'a [u8]),
}

impl<'a> Iterator for Documents<'a> {
    type Item = Result<&'a RawDocument, Unclear>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Array(array) => {
                #[cfg(test)]
                work::count();
                let element = array.next()?.map_err(|_| Unclear::NotBson);
                Some(element.and_then(|element| document(&element).ok_or(Unclear::NotBson)))
            }
            Self::Sequence([]) => None,
            Self::Sequence(bytes) => {
                let taken = bytes
                    .first_chunk()
                    .and_then(|length| usize::try_from(i32::from_le_bytes(*length)).ok())
                    .and_then(|length| bytes.split_at_checked(length));
                let Some((document, rest)) = taken else {
                    *bytes = &[];
                    return Some(Err(Unclear::NotBson));
                };
                *bytes = rest;
                Some(RawDocument::from_bytes(document).map_err(|_| {
                    *bytes = &[];
                    Unclear::NotBson
                }))
            }
        }
    }
}

/// Every element of a document; the last item is an error if the bytes are not valid.
pub(super) fn elements(document: &RawDocument) -> impl Iterator<Item = Result<RawElement<'_>, Unclear>> {
    counted(document.iter_elements())
}

/// Every element of an array in its order. Like mongod, ignores the keys.
pub(super) fn items(array: &RawArray) -> impl Iterator<Item = Result<RawElement<'_>, Unclear>> {
    counted(array.iter_elements())
}

fn counted(elements: RawIter<'_>) -> impl Iterator<Item = Result<RawElement<'_>, Unclear>> {
    elements.map(|element| {
        #[cfg(test)]
        work::count();
        element.map_err(|_| Unclear::NotBson)
    })
}

pub(super) fn key<'a>(element: &RawElement<'a>) -> &'a str {
    element.key().as_str()
}

/// The text of a string (type 0x02) in valid UTF-8; `None` for symbols and code.
pub(super) fn text<'a>(element: &RawElement<'a>) -> Option<&'a str> {
    match value_if(element, ElementType::String)? {
        RawBsonRef::String(text) => Some(text),
        _ => None,
    }
}

pub(super) fn document<'a>(element: &RawElement<'a>) -> Option<&'a RawDocument> {
    match value_if(element, ElementType::EmbeddedDocument)? {
        RawBsonRef::Document(document) => Some(document),
        _ => None,
    }
}

pub(super) fn array<'a>(element: &RawElement<'a>) -> Option<&'a RawArray> {
    match value_if(element, ElementType::Array)? {
        RawBsonRef::Array(array) => Some(array),
        _ => None,
    }
}

pub(super) fn int64(element: &RawElement<'_>) -> Option<i64> {
    match value_if(element, ElementType::Int64)? {
        RawBsonRef::Int64(number) => Some(number),
        _ => None,
    }
}

fn value_if<'a>(element: &RawElement<'a>, expected: ElementType) -> Option<RawBsonRef<'a>> {
    if element.element_type() == expected { element.value().ok() } else { None }
}

/// Whether the element is the number one, in any numeric type.
pub(super) fn is_one(element: &RawElement<'_>) -> bool {
    match element.value() {
        Ok(RawBsonRef::Int32(number)) => number == 1,
        Ok(RawBsonRef::Int64(number)) => number == 1,
        #[expect(clippy::float_cmp, reason = "one is exact")]
        Ok(RawBsonRef::Double(number)) => number == 1.0,
        // A decimal can represent one in many ways: 1, 1.0, 10E-1.
        #[expect(clippy::float_cmp, reason = "one is exact")]
        Ok(RawBsonRef::Decimal128(number)) => number.to_string().parse::<f64>().is_ok_and(|number| number == 1.0),
        _ => false,
    }
}

pub(super) fn is_number(element: &RawElement<'_>) -> bool {
    matches!(
        element.element_type(),
        ElementType::Int32 | ElementType::Int64 | ElementType::Double | ElementType::Decimal128
    )
}

/// Whether an option is certainly off: absent, or exactly `false`.
pub(super) fn is_off(element: Option<&RawElement<'_>>) -> bool {
    element.is_none_or(|element| matches!(element.value(), Ok(RawBsonRef::Boolean(false))))
}

/// The number of elements that need no allocation: more than a `find` with every option that a driver can set.
const FIELDS_HELD: usize = 24;

/// No command has more than about thirty arguments.
const ARGUMENTS_MAX: usize = 128;

/// Counts the elements that are read, so that tests can limit the cost of hostile bodies without a clock.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        static ELEMENTS: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::command) fn count() {
        ELEMENTS.set(ELEMENTS.get() + 1);
    }

    /// The number of elements that this thread has read since the last call.
    pub(in crate::command) fn take() -> usize {
        ELEMENTS.replace(0)
    }
}
