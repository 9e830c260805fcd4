//! Finds an object with two fields of the same name, at any depth, in documents that arrive in pieces.
//!
//! Nothing is buffered. A 64-bit hash of each field name is kept until the object of the field ends. Two names with the
//! same hash count as one name. This does not happen by chance, and a client that constructs such names gets only its
//! own documents refused. The keys of arrays are not compared, because servers ignore them.
//!
//! Spec: BSON 1.1, <https://bsonspec.org/spec.html>. mongod accepts a document with a duplicate field. Its time-series
//! collections then write outside of their memory (CVE-2026-8053).

use std::fmt;

use self::level::{DOCUMENT, Form, LEVELS_MAX, Level, Next, State};
use self::name_hash::NameHash;

mod level;
mod name_hash;
#[cfg(test)]
mod tests;

pub use self::level::FieldFault;

/// Which parts of the documents are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparedPart {
    /// The whole documents.
    Everything,
    /// The fields of each document and, if the value of the field with this name is an object or an array, everything
    /// in it.
    Field(&'static [u8]),
}

/// A comparison of the field names of documents, one after the other.
#[derive(Clone)]
pub struct FieldNames {
    /// The open objects and arrays, and after those, objects that have ended, whose memory is used again.
    levels: Vec<Level>,
    /// The number of open ones; 0 between two documents.
    depth: usize,
    /// Bytes read since the start of the documents.
    offset: u64,
    state: State,
    /// The hash of the name in [`ComparedPart::Field`].
    only: Option<u64>,
    fault: Option<FieldFault>,
}

impl FieldNames {
    /// Starts at the first byte of the first document.
    pub fn new(part: ComparedPart) -> Self {
        let mut names = Self { levels: Vec::new(), depth: 0, offset: 0, state: DOCUMENT, only: None, fault: None };
        names.restart(part);
        names
    }

    /// Starts again with other documents.
    pub fn restart(&mut self, part: ComparedPart) {
        self.release();
        (self.offset, self.state, self.fault) = (0, DOCUMENT, None);
        self.only = match part {
            ComparedPart::Everything => None,
            ComparedPart::Field(name) => Some(NameHash::of(name)),
        };
    }

    /// Reads the next bytes of the documents. After a fault, does nothing.
    ///
    /// Costs a constant number of steps for each element and for each byte of its name. Values are skipped.
    pub fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && self.fault.is_none() {
            match self.step(rest) {
                Ok(used) => {
                    self.offset += used as u64;
                    rest = rest.get(used..).unwrap_or_default();
                }
                Err(fault) => {
                    self.fault = Some(fault);
                    self.release();
                }
            }
        }
    }

    /// What is wrong with what was read so far.
    pub fn fault(&self) -> Option<FieldFault> {
        self.fault
    }

    /// What is wrong with what was read, if nothing follows.
    pub fn final_fault(&self) -> Option<FieldFault> {
        let is_between = self.depth == 0 && matches!(self.state, State::Length { filled: 0, .. });
        self.fault.or((!is_between).then_some(FieldFault::Malformed))
    }

    /// The number of names that are remembered outside of a small buffer: each takes about 20 bytes.
    pub fn names_held(&self) -> usize {
        self.levels.iter().take(self.depth).map(Level::names_held).sum()
    }

    /// Forgets all names, and frees the memory that an unusual document needed.
    pub fn release(&mut self) {
        self.depth = 0;
        self.levels.truncate(LEVELS_KEPT);
        self.levels.iter_mut().for_each(Level::release);
    }

    /// Reads what `self.state` says at the start of `rest`, which is not empty. Returns the number of read bytes.
    fn step(&mut self, rest: &[u8]) -> Result<usize, FieldFault> {
        match self.state {
            State::Element => self.elements(rest),
            State::Name { kind, mut name } => {
                let end = memchr::memchr(0, rest);
                name.extend(end.and_then(|end| rest.get(..end)).unwrap_or(rest));
                let Some(end) = end else {
                    self.state = State::Name { kind, name };
                    return Ok(rest.len());
                };
                self.state = self.after_name(kind, name.finish())?;
                Ok(end + 1)
            }
            State::Length { form, filled: 0, .. } if rest.len() >= 4 => {
                let length = rest.first_chunk().copied().unwrap_or_default();
                self.state = self.after_length(form, length, self.offset + 4)?;
                Ok(4)
            }
            State::Length { form, mut bytes, filled } => {
                let missing = bytes.iter_mut().skip(usize::from(filled));
                let taken = missing.zip(rest).map(|(to, from)| *to = *from).count();
                let filled = filled + u8::try_from(taken).unwrap_or_default();
                self.state = State::Length { form, bytes, filled };
                if filled == 4 {
                    self.state = self.after_length(form, bytes, self.offset + taken as u64)?;
                }
                Ok(taken)
            }
            State::Strings(count) => {
                let Some(end) = memchr::memchr(0, rest) else { return Ok(rest.len()) };
                self.state = if count > 1 { State::Strings(count - 1) } else { State::Element };
                Ok(end + 1)
            }
            State::Skip(left) => {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                self.state = match left - step as u64 {
                    0 => State::Element,
                    left => State::Skip(left),
                };
                Ok(step)
            }
        }
    }

    /// Reads elements for as long as they have arrived, and then sets the state.
    fn elements(&mut self, input: &[u8]) -> Result<usize, FieldFault> {
        let mut used = 0;
        while matches!(self.state, State::Element) {
            let rest = input.get(used..).unwrap_or_default();
            let only = self.only.filter(|_| self.depth == 1);
            let level = innermost(&mut self.levels, self.depth).ok_or(FieldFault::Malformed)?;
            let (read, next) = level.elements(rest, self.offset + used as u64, only)?;
            used += read;
            match next {
                Next::NeedMore => break,
                Next::State(state) => self.state = state,
                Next::Enter { form, length } => {
                    self.state = self.after_length(form, length, self.offset + used as u64)?;
                }
                Next::Leave => self.leave(),
            }
        }
        Ok(used)
    }

    /// What follows the name of an element: its value.
    fn after_name(&mut self, kind: u8, hash: u64) -> Result<State, FieldFault> {
        let only = self.only.filter(|_| self.depth == 1);
        let level = innermost(&mut self.levels, self.depth).ok_or(FieldFault::Malformed)?;
        level.compare(hash)?;
        Ok(match Form::of(kind, only, hash) {
            Form::Fixed(bytes) => State::Skip(u64::from(bytes)),
            Form::Strings => State::Strings(2),
            Form::Invalid => return Err(FieldFault::Malformed),
            form => State::Length { form, bytes: [0; 4], filled: 0 },
        })
    }

    /// What follows the length of a document, or of a value. `offset` is behind the length.
    fn after_length(&mut self, form: Form, length: [u8; 4], offset: u64) -> Result<State, FieldFault> {
        let left = form.bytes_behind(length)?;
        let level = innermost(&mut self.levels, self.depth);
        // The closing NUL of the enclosing object must still fit behind it.
        if level.is_some_and(|level| offset + left >= level.end) {
            return Err(FieldFault::Malformed);
        }
        if !matches!(form, Form::Object | Form::Array) {
            return Ok(State::Skip(left));
        }
        if self.depth == LEVELS_MAX {
            return Err(FieldFault::TooDeep);
        }
        if self.depth == self.levels.len() {
            self.levels.push(Level::default());
        }
        self.depth += 1;
        if let Some(level) = innermost(&mut self.levels, self.depth) {
            level.open(offset + left, matches!(form, Form::Array));
        }
        Ok(State::Element)
    }

    /// The innermost object has ended.
    fn leave(&mut self) {
        if let Some(level) = innermost(&mut self.levels, self.depth) {
            level.close();
        }
        self.depth -= 1;
        self.state = if self.depth == 0 { DOCUMENT } else { State::Element };
    }
}

impl fmt::Debug for FieldNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldNames").field("offset", &self.offset).field("fault", &self.fault).finish_non_exhaustive()
    }
}

fn innermost(levels: &mut [Level], depth: usize) -> Option<&mut Level> {
    levels.get_mut(depth.checked_sub(1)?)
}

/// Levels whose memory is kept: 300 bytes each.
const LEVELS_KEPT: usize = 8;
