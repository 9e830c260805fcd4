//! The open objects of a document, and the forms of values.

use std::collections::HashSet;

use super::name_hash::NameHash;
use crate::wire::bson_scan::kind;

/// What is wrong with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldFault {
    /// An object has two fields of the same name.
    Duplicate,
    /// The bytes are not BSON.
    Malformed,
    /// Objects are nested more deeply than a server accepts.
    TooDeep,
}

/// What comes next.
#[derive(Clone, Copy)]
pub(super) enum State {
    /// The first byte of an element, or the closing NUL.
    Element,
    /// The rest of the name of an element of this type.
    Name { kind: u8, name: NameHash },
    /// The rest of the length at the start of a document, or of a value of this form.
    Length { form: Form, bytes: [u8; 4], filled: u8 },
    /// This many cstrings: the rest of a regular expression.
    Strings(u8),
    /// This many bytes of a value that is not read.
    Skip(u64),
}

/// Before a document.
pub(super) const DOCUMENT: State = State::Length { form: Form::Object, bytes: [0; 4], filled: 0 };

/// An open object or array.
#[derive(Clone)]
pub(super) struct Level {
    /// The offset behind its closing NUL.
    pub(super) end: u64,
    is_array: bool,
    /// A bit for each value that the highest six bits of a hash had.
    seen: u64,
    /// The number of hashes in `few`.
    count: usize,
    /// The hashes of the first fields.
    few: [u64; FEW_FIELDS],
    /// Whether all hashes are in `many`.
    has_many: bool,
    /// All hashes, once there are more than in `few`. An object that is open later uses its memory again.
    many: Option<HashSet<u64>>,
}

/// Why the elements of one object cannot be read on.
pub(super) enum Next {
    /// All of the input has been read, up to the start of an element.
    NeedMore,
    /// A part of an element has not arrived.
    State(State),
    /// The length of an object or array in it has been read.
    Enter { form: Form, length: [u8; 4] },
    /// Its end has been read.
    Leave,
}

impl Default for Level {
    fn default() -> Self {
        Self { end: 0, is_array: false, seen: 0, count: 0, few: [0; FEW_FIELDS], has_many: false, many: None }
    }
}

impl Level {
    pub(super) fn open(&mut self, end: u64, is_array: bool) {
        (self.end, self.is_array, self.seen, self.count) = (end, is_array, 0, 0);
    }

    /// The object has ended.
    pub(super) fn close(&mut self) {
        self.has_many = false;
        self.many.take_if(|many| many.capacity() > MANY_FIELDS_KEPT);
    }

    /// Frees what was allocated for the names of an object with many fields.
    pub(super) fn release(&mut self) {
        (self.has_many, self.many) = (false, None);
    }

    /// The number of hashes outside of the fixed buffer.
    pub(super) fn names_held(&self) -> usize {
        self.many.as_ref().filter(|_| self.has_many).map_or(0, HashSet::len)
    }

    /// Reads elements at the start of `input`, up to an inner object, the end of this one, or a part that has not
    /// arrived. `offset` is where the input begins. Returns the number of read bytes.
    ///
    /// This is the common path, on which values are skipped without a change of the state.
    pub(super) fn elements(
        &mut self,
        input: &[u8],
        offset: u64,
        only: Option<u64>,
    ) -> Result<(usize, Next), FieldFault> {
        let mut rest = input;
        let next = loop {
            let Some((&kind, after_kind)) = rest.split_first() else { break Next::NeedMore };
            if kind == 0 {
                rest = after_kind;
                // An element that is too long for the object ends behind it. The closing NUL is in the wrong place
                // then.
                if offset + (input.len() - rest.len()) as u64 == self.end {
                    break Next::Leave;
                }
                return Err(FieldFault::Malformed);
            }
            let Some((hash, value)) = NameHash::of_cstring(after_kind) else {
                rest = after_kind;
                break Next::State(State::Name { kind, name: NameHash::default() });
            };
            rest = value;
            self.compare(hash)?;
            let form = Form::of(kind, only, hash);
            let skipped = if let Form::Fixed(bytes) = form {
                u64::from(bytes)
            } else {
                match (form, rest.split_first_chunk()) {
                    (Form::Prefixed(_), Some((length, behind))) => {
                        rest = behind;
                        let skipped = form.bytes_behind(*length)?;
                        if offset + (input.len() - rest.len()) as u64 + skipped >= self.end {
                            return Err(FieldFault::Malformed);
                        }
                        skipped
                    }
                    (Form::Object | Form::Array, Some((length, behind))) => {
                        rest = behind;
                        break Next::Enter { form, length: *length };
                    }
                    (Form::Fixed(_) | Form::Invalid, _) => return Err(FieldFault::Malformed),
                    (Form::Strings, _) => break Next::State(State::Strings(2)),
                    (_, None) => break Next::State(State::Length { form, bytes: [0; 4], filled: 0 }),
                }
            };
            match usize::try_from(skipped).ok().and_then(|skipped| rest.get(skipped..)) {
                Some(behind) => rest = behind,
                None => break Next::State(State::Skip(skipped)),
            }
        };
        Ok((input.len() - rest.len(), next))
    }

    /// Remembers the name of a field, unless there is one of this name already. An array has no fields.
    #[inline]
    pub(super) fn compare(&mut self, hash: u64) -> Result<(), FieldFault> {
        if self.is_array {
            return Ok(());
        }
        let bit = 1 << (hash >> 58);
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        match self.few.get_mut(self.count) {
            Some(free) if is_new => {
                *free = hash;
                self.count += 1;
                Ok(())
            }
            _ => self.compare_with_all(hash),
        }
    }

    #[inline(never)]
    fn compare_with_all(&mut self, hash: u64) -> Result<(), FieldFault> {
        if self.has_many {
            let is_new = self.many.get_or_insert_default().insert(hash);
            return if is_new { Ok(()) } else { Err(FieldFault::Duplicate) };
        }
        if self.few.iter().take(self.count).any(|known| *known == hash) {
            return Err(FieldFault::Duplicate);
        }
        if let Some(free) = self.few.get_mut(self.count) {
            *free = hash;
            self.count += 1;
        } else {
            let many = self.many.get_or_insert_default();
            many.clear();
            many.extend(self.few.iter().chain([&hash]));
            self.has_many = true;
        }
        Ok(())
    }
}

/// The form of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// This many bytes.
    Fixed(u8),
    /// A length, and this many bytes that the length does not count: negative for a length that counts itself.
    Prefixed(i8),
    /// Two cstrings.
    Strings,
    /// An object, or a document. It is read.
    Object,
    /// An array. It is read.
    Array,
    /// There is no such type.
    Invalid,
}

impl Form {
    /// The form of a value of type `kind`. With `only`, an object is read only if that is the hash of its name.
    #[inline]
    pub(super) fn of(kind: u8, only: Option<u64>, hash: u64) -> Self {
        match kind {
            kind::STRING | 0x0D | 0x0E => Self::Prefixed(0),
            kind::DOUBLE | 0x09 | 0x11 | kind::INT64 => Self::Fixed(8),
            kind::INT32 => Self::Fixed(4),
            kind::BOOLEAN => Self::Fixed(1),
            kind::DOCUMENT | kind::ARRAY if only.is_some_and(|only| only != hash) => Self::Prefixed(-4),
            kind::DOCUMENT => Self::Object,
            kind::ARRAY => Self::Array,
            0x05 => Self::Prefixed(1),
            0x06 | 0x0A | 0x7F | 0xFF => Self::Fixed(0),
            0x07 => Self::Fixed(12),
            0x0B => Self::Strings,
            0x0C => Self::Prefixed(12),
            0x0F => Self::Prefixed(-4),
            0x13 => Self::Fixed(16),
            _ => Self::Invalid,
        }
    }

    /// The number of bytes of the value behind its length.
    pub(super) fn bytes_behind(self, length: [u8; 4]) -> Result<u64, FieldFault> {
        let (uncounted, smallest) = match self {
            // The closing NUL.
            Self::Object | Self::Array => (-4, 1),
            Self::Prefixed(uncounted) => (i64::from(uncounted), 0),
            Self::Fixed(_) | Self::Strings | Self::Invalid => (0, 0),
        };
        let left = i64::from(i32::from_le_bytes(length)) + uncounted;
        u64::try_from(left).ok().filter(|left| *left >= smallest).ok_or(FieldFault::Malformed)
    }
}

/// Up to this number of fields, a linear search is cheaper than a set.
const FEW_FIELDS: usize = 32;

/// Room for this number of fields is kept from one object to the next.
const MANY_FIELDS_KEPT: usize = 1000;

/// mongod accepts fewer than 200 levels of nested BSON.
pub(super) const LEVELS_MAX: usize = 200;
