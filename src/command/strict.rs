//! BSON read without guessing: every element, keys once, values only of the type that is asked for.
//!
//! Looks one level deep. What lies inside a value that names no place is left alone; mongod checks it before it acts.

use bson::raw::{RawArray, RawBsonRef, RawDocument, RawElement, RawIter};
use bson::spec::ElementType;
use smallvec::SmallVec;

use super::unclear::Unclear;

/// The elements of a document in their order, no key twice.
///
/// Takes 1.3 KiB where it stands: on the common path it is filled in its place, and never moved.
#[derive(Default)]
pub(super) struct Fields<'a>(SmallVec<[RawElement<'a>; FIELDS_HELD]>);

impl<'a> Fields<'a> {
    /// Takes those of a command's body, where there were none before: at most [`ARGUMENTS_MAX`], and at least the command
    /// itself. After an error it holds nothing that means anything.
    pub(super) fn take_command(&mut self, body: &'a RawDocument) -> Result<(), Unclear> {
        self.take(body, ARGUMENTS_MAX)?;
        if self.0.is_empty() { Err(Unclear::NoCommand) } else { Ok(()) }
    }

    /// Of any document, however many; costs `n log n`.
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
        if self.has_a_key_twice() { Err(Unclear::DuplicateKey) } else { Ok(()) }
    }

    fn has_a_key_twice(&self) -> bool {
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

/// Documents one after the other: in an array of the body, or in a document sequence.
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

/// Every element of a document; ends with an error where the bytes do not add up.
pub(super) fn elements(document: &RawDocument) -> impl Iterator<Item = Result<RawElement<'_>, Unclear>> {
    counted(document.iter_elements())
}

/// Every element of an array in its order; its keys mean nothing to mongod, and nothing here.
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

/// The text of a string (type 0x02): neither a symbol, nor code, nor text that is not UTF-8.
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

fn value_if<'a>(element: &RawElement<'a>, wanted: ElementType) -> Option<RawBsonRef<'a>> {
    if element.element_type() == wanted { element.value().ok() } else { None }
}

/// Whether it is the number one, of whatever type.
pub(super) fn is_one(element: &RawElement<'_>) -> bool {
    match element.value() {
        Ok(RawBsonRef::Int32(number)) => number == 1,
        Ok(RawBsonRef::Int64(number)) => number == 1,
        #[expect(clippy::float_cmp, reason = "one is exact")]
        Ok(RawBsonRef::Double(number)) => number == 1.0,
        // It has many ways to write one: 1, 1.0, 10E-1.
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

/// Whether a switch is off beyond doubt: not there, or exactly `false`.
pub(super) fn is_off(element: Option<&RawElement<'_>>) -> bool {
    element.is_none_or(|element| matches!(element.value(), Ok(RawBsonRef::Boolean(false))))
}

/// So many elements are held without an allocation: a find with everything that a driver can say has fewer.
const FIELDS_HELD: usize = 24;

/// Commands have about thirty arguments at the most.
const ARGUMENTS_MAX: usize = 128;

/// Counts the elements that are looked at, so that tests can hold the cost of hostile bodies without a clock.
#[cfg(test)]
pub(super) mod work {
    use std::cell::Cell;

    thread_local! {
        static ELEMENTS: Cell<usize> = const { Cell::new(0) };
    }

    pub(in crate::command) fn count() {
        ELEMENTS.set(ELEMENTS.get() + 1);
    }

    /// The elements looked at since it was last asked, on this thread.
    pub(in crate::command) fn take() -> usize {
        ELEMENTS.replace(0)
    }
}
