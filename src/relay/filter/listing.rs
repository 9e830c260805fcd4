//! Removes from the reply to a `listCollections` or `listDatabases` what the caller may not see.
//!
//! Works on one complete message, in place. All bytes are kept except those of hidden entries, and the sums that
//! include them. A reply that cannot be parsed with certainty is an error and must not be forwarded.
//!
//! Spec: the MongoDB manual § listCollections, § listDatabases; forms tested with mongod 6.0.5.

use std::ops::Range;

use bson::RawDocument;
use smallvec::SmallVec;

use crate::command::{Listing, resources_of, view_sources};
use crate::policy::View;
use crate::relay::listed::Listed;
use crate::wire::bson_compaction::{Compaction, ElementWalk, PlacedElement};
use crate::wire::bson_elements::{WholeElement, WholeElements};
use crate::wire::bson_scan::{Malformed, kind};
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// Where the document of an `OP_MSG` starts: behind the flags and the kind of its only section.
const MSG_DOCUMENT: usize = HEADER_BYTES + 5;

/// Where the first document of an `OP_REPLY` starts: behind flags, cursor ID, starting point and number of documents.
const REPLY_DOCUMENT: usize = HEADER_BYTES + 20;

/// The collection that the cursor of a `listCollections` has.
const CURSOR_COLLECTION: &str = ".$cmd.listCollections";

/// The divisor of `totalSizeMb`.
const MEBIBYTE: i64 = 1024 * 1024;

/// The fields of an entry of a collection. Others, which a newer server may have, are removed.
const ENTRY_FIELDS: [&[u8]; 5] = [b"name", b"type", b"options", b"info", b"idIndex"];

/// Removes from `message` what the caller with this view may not see, and returns the new length of the message in
/// bytes. After an error, the contents of `message` are undefined.
pub(super) fn filter(message: &mut [u8], listed: &Listed, view: &View) -> Result<usize, Malformed> {
    let header = Header::parse(*message.first_chunk().ok_or(Malformed)?).map_err(|_| Malformed)?;
    if header.length as usize != message.len() {
        return Err(Malformed);
    }
    let (start, checksum_bytes) = match header.op_code {
        OpCode::MSG => (MSG_DOCUMENT, checksum_bytes(message)?),
        OpCode::REPLY => (REPLY_DOCUMENT, 0),
        _ => return Err(Malformed),
    };
    if !has_one_document(message, header.op_code) {
        return Err(Malformed);
    }
    let document = start..message.len().checked_sub(checksum_bytes).ok_or(Malformed)?;
    let mut reply = ListReply { compaction: Compaction::new(message, start), listed, view, sum: 0 };
    reply.document(&document)?;
    let written = reply.compaction.written();
    let length = u32::try_from(written + checksum_bytes).map_err(|_| Malformed)?;
    message[..HEADER_BYTES].copy_from_slice(&Header { length, ..header }.to_bytes());
    if checksum_bytes > 0 {
        let sum = crc32c::crc32c(&message[..written]);
        message[written..written + checksum_bytes].copy_from_slice(&sum.to_le_bytes());
    }
    Ok(length as usize)
}

/// The bytes of the checksum of an `OP_MSG`, which is verified.
fn checksum_bytes(message: &[u8]) -> Result<usize, Malformed> {
    let flags = message.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
    let flags = u32::from_le_bytes(*flags);
    if flags & flag::REQUIRED & !flag::KNOWN != 0 {
        return Err(Malformed);
    }
    if flags & flag::CHECKSUM_PRESENT == 0 {
        return Ok(0);
    }
    let (sealed, checksum) = message.split_last_chunk().ok_or(Malformed)?;
    if crc32c::crc32c(sealed) == u32::from_le_bytes(*checksum) { Ok(checksum.len()) } else { Err(Malformed) }
}

/// Whether the message consists of one document; that nothing follows it is checked when it is read.
fn has_one_document(message: &[u8], op_code: OpCode) -> bool {
    if op_code == OpCode::MSG {
        return message.get(MSG_DOCUMENT - 1) == Some(&0);
    }
    message.get(REPLY_DOCUMENT - 4..).and_then(<[u8]>::first_chunk) == Some(&1_i32.to_le_bytes())
}

/// A reply that is being filtered.
struct ListReply<'m, 'l> {
    compaction: Compaction<'m>,
    listed: &'l Listed,
    view: &'l View,
    /// The sum of `sizeOnDisk` of the databases that are shown.
    sum: i64,
}

/// What is shown of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Everything,
    /// The fields that are known, with these options.
    Known(ShownOptions),
}

/// What is shown of the `options` of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShownOptions {
    Nothing,
    /// The collation of a view, without its definition.
    Collation,
    Everything,
}

/// A sum over all databases: its type, and where its value has been written.
struct Sum {
    kind: u8,
    at: usize,
    divisor: i64,
}

impl ListReply<'_, '_> {
    /// The document of the reply: a list, or an error.
    fn document(&mut self, range: &Range<usize>) -> Result<(), Malformed> {
        let (mut lists, mut failed) = (0, None);
        let mut sums = Vec::new();
        let mut walk = ElementWalk::new(range);
        let open = self.compaction.open(range.start)?;
        while let Some(found) = walk.next(self.compaction.buffer())? {
            match (self.listed.listing, &self.compaction.buffer()[found.name.clone()]) {
                (Listing::Collections, b"cursor") => {
                    lists += 1;
                    self.cursor(&found)?;
                }
                (Listing::Databases, b"databases") => {
                    lists += 1;
                    self.list(&found)?;
                }
                (Listing::Databases, b"totalSize") => sums.push(self.sum(&found, 1)?),
                (Listing::Databases, b"totalSizeMb") => sums.push(self.sum(&found, MEBIBYTE)?),
                (_, b"ok") => {
                    let is_second = failed.is_some();
                    let ok = found.whole(self.compaction.buffer()).and_then(|ok| ok.number());
                    failed = ok.filter(|_| !is_second).map(|ok| ok == 0);
                    self.compaction.keep(found.element)?;
                }
                _ => self.compaction.keep(found.element)?,
            }
        }
        self.compaction.close(open, range.end)?;
        for sum in sums {
            self.compaction.replace(sum.at, &number(sum.kind, self.sum / sum.divisor)?)?;
        }
        // An error lists nothing.
        if lists == 1 || (lists == 0 && failed == Some(true)) { Ok(()) } else { Err(Malformed) }
    }

    /// A document of one batch, the namespace of the cursor, and fields that say nothing about collections.
    fn cursor(&mut self, cursor: &PlacedElement) -> Result<(), Malformed> {
        self.head(cursor, kind::DOCUMENT)?;
        let (mut batches, mut namespaces) = (0, 0);
        let mut walk = ElementWalk::new(&cursor.value);
        let open = self.compaction.open(cursor.value.start)?;
        while let Some(found) = walk.next(self.compaction.buffer())? {
            match &self.compaction.buffer()[found.name.clone()] {
                b"firstBatch" | b"nextBatch" => {
                    batches += 1;
                    self.list(&found)?;
                }
                b"ns" => {
                    namespaces += 1;
                    if !self.is_own_cursor(&found) {
                        return Err(Malformed);
                    }
                    self.compaction.keep(found.element)?;
                }
                _ => self.compaction.keep(found.element)?,
            }
        }
        self.compaction.close(open, cursor.value.end)?;
        if (batches, namespaces) == (1, 1) { Ok(()) } else { Err(Malformed) }
    }

    /// Whether the namespace of the cursor is that of a list of the collections of the command's database.
    fn is_own_cursor(&self, namespace: &PlacedElement) -> bool {
        let namespace = namespace.whole(self.compaction.buffer()).and_then(|namespace| namespace.string());
        let database = namespace.and_then(|namespace| namespace.strip_suffix(CURSOR_COLLECTION.as_bytes()));
        database == Some(self.listed.database.as_bytes())
    }

    /// An array of entries. Those that are shown are numbered anew.
    fn list(&mut self, list: &PlacedElement) -> Result<(), Malformed> {
        self.head(list, kind::ARRAY)?;
        let mut count = 0_usize;
        let mut digits = [0; 20];
        let mut walk = ElementWalk::new(&list.value);
        let open = self.compaction.open(list.value.start)?;
        while let Some(entry) = walk.next(self.compaction.buffer())? {
            if entry.kind != kind::DOCUMENT {
                return Err(Malformed);
            }
            let value = &self.compaction.buffer()[entry.value.clone()];
            let shown = match self.listed.listing {
                Listing::Collections => self.shown_of_collection(value)?,
                Listing::Databases => {
                    let (name, size) = database(value)?;
                    let is_shown = name.is_some_and(|name| self.view.allows_anything_in(name));
                    self.sum = self.sum.saturating_add(if is_shown { size } else { 0 });
                    if is_shown { Shown::Everything } else { Shown::Nothing }
                }
            };
            if shown == Shown::Nothing {
                continue;
            }
            self.compaction.put(&[kind::DOCUMENT], entry.value.start)?;
            self.compaction.put(decimal(count, &mut digits), entry.value.start)?;
            self.compaction.put(&[0], entry.value.start)?;
            count += 1;
            match shown {
                Shown::Nothing | Shown::Everything => self.compaction.keep(entry.value)?,
                Shown::Known(options) => self.entry(&entry.value, options)?,
            }
        }
        self.compaction.close(open, list.value.end)
    }

    /// An entry of a collection, of which only a part is shown.
    fn entry(&mut self, range: &Range<usize>, shown: ShownOptions) -> Result<(), Malformed> {
        let mut walk = ElementWalk::new(range);
        let open = self.compaction.open(range.start)?;
        while let Some(found) = walk.next(self.compaction.buffer())? {
            match &self.compaction.buffer()[found.name.clone()] {
                b"options" if shown != ShownOptions::Everything => self.options(&found, shown)?,
                name if ENTRY_FIELDS.contains(&name) => self.compaction.keep(found.element)?,
                _ => {}
            }
        }
        self.compaction.close(open, range.end)
    }

    fn options(&mut self, options: &PlacedElement, shown: ShownOptions) -> Result<(), Malformed> {
        self.head(options, kind::DOCUMENT)?;
        let mut walk = ElementWalk::new(&options.value);
        let open = self.compaction.open(options.value.start)?;
        while let Some(found) = walk.next(self.compaction.buffer())? {
            let is_collation = &self.compaction.buffer()[found.name.clone()] == b"collation";
            if shown == ShownOptions::Collation && is_collation {
                self.compaction.keep(found.element)?;
            }
        }
        self.compaction.close(open, options.value.end)
    }

    /// What is shown of an entry of `listCollections`. A caller that may not read a collection does not see its
    /// options, as its validator. The definition of a view is shown to callers that may read everything that it names.
    fn shown_of_collection(&self, entry: &[u8]) -> Result<Shown, Malformed> {
        let (mut name, mut options) = (None, None);
        let (mut is_view, mut is_known) = (false, true);
        for element in WholeElements::new(entry) {
            let element = element?;
            match element.name {
                b"name" if name.is_none() => name = Some(plain_text(&element)?),
                b"options" if options.is_none() && element.kind == kind::DOCUMENT => options = Some(element.value),
                b"name" | b"options" => return Err(Malformed),
                b"type" => is_view |= plain_text(&element)? == b"view",
                name => is_known &= ENTRY_FIELDS.contains(&name),
            }
        }
        let Ok(name) = std::str::from_utf8(name.ok_or(Malformed)?) else { return Ok(Shown::Nothing) };
        let database = &*self.listed.database;
        if !self.view.may_see(database, name) {
            return Ok(Shown::Nothing);
        }
        let shown = match options {
            None => ShownOptions::Everything,
            Some(_) if !resources_of(database, name).is_some_and(|resources| self.view.may_read(&resources)) => {
                ShownOptions::Nothing
            }
            Some(options) => self.shown_of_options(options, is_view)?,
        };
        let is_everything = is_known && shown == ShownOptions::Everything;
        Ok(if is_everything { Shown::Everything } else { Shown::Known(shown) })
    }

    fn shown_of_options(&self, options: &[u8], is_view: bool) -> Result<ShownOptions, Malformed> {
        let (mut is_view, mut is_understood) = (is_view, true);
        for option in WholeElements::new(options) {
            match option?.name {
                b"viewOn" | b"pipeline" => is_view = true,
                b"collation" => {}
                _ => is_understood = false,
            }
        }
        let is_shown = !is_view || (is_understood && self.may_read_sources(options));
        Ok(if is_shown { ShownOptions::Everything } else { ShownOptions::Collation })
    }

    fn may_read_sources(&self, options: &[u8]) -> bool {
        let Ok(options) = RawDocument::from_bytes(options) else { return false };
        view_sources(&self.listed.database, options).is_ok_and(|sources| {
            let resources: Vec<_> = sources.iter().map(|source| source.resource).collect();
            self.view.may_read(&resources)
        })
    }

    /// A sum, whose value is replaced when the list has been read.
    fn sum(&mut self, sum: &PlacedElement, divisor: i64) -> Result<Sum, Malformed> {
        let value = number(sum.kind, 0)?;
        self.compaction.keep(sum.element.clone())?;
        Ok(Sum { kind: sum.kind, at: self.compaction.written() - value.len(), divisor })
    }

    /// Keeps the type and the name of an element whose value is written anew.
    fn head(&mut self, element: &PlacedElement, expected: u8) -> Result<(), Malformed> {
        if element.kind != expected {
            return Err(Malformed);
        }
        self.compaction.keep(element.element.start..element.value.start)
    }
}

/// The text of a string without NUL.
fn plain_text<'e>(element: &WholeElement<'e>) -> Result<&'e [u8], Malformed> {
    element.string().filter(|text| !text.contains(&0)).ok_or(Malformed)
}

/// The name of a database, unless it is not valid UTF-8, and its size in bytes.
fn database(entry: &[u8]) -> Result<(Option<&str>, i64), Malformed> {
    let (mut name, mut size) = (None, None);
    for element in WholeElements::new(entry) {
        let element = element?;
        match element.name {
            b"name" if name.is_none() => name = Some(plain_text(&element)?),
            b"sizeOnDisk" if size.is_none() => size = Some(element.number().ok_or(Malformed)?),
            b"name" | b"sizeOnDisk" => return Err(Malformed),
            _ => {}
        }
    }
    Ok((std::str::from_utf8(name.ok_or(Malformed)?).ok(), size.unwrap_or_default()))
}

/// The value of a number of this type.
fn number(kind: u8, value: i64) -> Result<SmallVec<[u8; 8]>, Malformed> {
    match kind {
        #[expect(clippy::cast_precision_loss, reason = "older servers return these sums as doubles too")]
        kind::DOUBLE => Ok((value as f64).to_le_bytes().into()),
        kind::INT64 => Ok(value.to_le_bytes().into()),
        kind::INT32 => Ok(SmallVec::from_slice(&i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes())),
        _ => Err(Malformed),
    }
}

/// The decimal digits of the number of an entry.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests;
