//! Refuses a duplicate field in documents that a command has the server store, and in values that a pipeline stores.
//!
//! A time-series collection writes outside of its memory when it gets such a document (CVE-2026-8053). No name shows
//! which collections are time series, so every inserted document is compared. What an update stores is compared only
//! where it can change the buckets of a time series. The documents in the document sequences of `insert` and `update`
//! are compared while they arrive, see [`FieldNames`].

use std::sync::LazyLock;

use bson::raw::RawElement;
use bson::{RawBsonRef, RawDocument};
use memchr::memmem::Finder;

use super::reader::Reader;
use super::strict::{self, key};
use super::unclear::Unclear;
use crate::wire::field_names::{ComparedPart, FieldFault, FieldNames};

/// Refuses a duplicate field at any depth of any of the documents.
pub(super) fn check_documents<'a>(
    documents: impl Iterator<Item = Result<&'a RawDocument, Unclear>>,
) -> Result<(), Unclear> {
    let mut names = FieldNames::new(ComparedPart::Everything);
    for document in documents {
        names.read(document?.as_bytes());
    }
    result(&names)
}

/// Refuses a duplicate field at any depth of a value. A value that is neither a document nor an array has no fields.
pub(super) fn check_value(element: &RawElement<'_>) -> Result<(), Unclear> {
    let mut names = FieldNames::new(ComparedPart::Everything);
    match element.value() {
        Ok(RawBsonRef::Document(document)) => names.read(document.as_bytes()),
        Ok(RawBsonRef::Array(array)) => names.read(array.as_bytes()),
        _ => return Ok(()),
    }
    result(&names)
}

/// Whether a command writes the buckets of a time series, not its measurements.
pub(super) fn writes_buckets(reader: &Reader<'_, '_>, collection: &str) -> bool {
    collection.starts_with("system.buckets.") || reader.fields.get("rawData").is_some()
}

/// Refuses a duplicate field in the values of `$literal`: a pipeline can store such a value as it is, at once or, in a
/// view, later. Every other expression for an object refuses a duplicate field itself.
pub(super) fn check_literals(reader: &Reader<'_, '_>, body: &RawDocument) -> Result<(), Unclear> {
    static LITERAL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"$literal\0"));
    let has_pipeline = matches!(reader.command.name, "aggregate" | "collMod" | "create");
    if !has_pipeline || LITERAL.find(body.as_bytes()).is_none() {
        return Ok(());
    }
    reader.fields.iter().try_for_each(|element| check_literals_in(element, 1))
}

fn check_literals_in(element: &RawElement<'_>, depth: usize) -> Result<(), Unclear> {
    if key(element) == "$literal" {
        return check_value(element);
    }
    if depth == DEPTH_MAX {
        return Err(Unclear::TooDeep);
    }
    match element.value() {
        Ok(RawBsonRef::Document(document)) => {
            strict::elements(document).try_for_each(|element| check_literals_in(&element?, depth + 1))
        }
        Ok(RawBsonRef::Array(array)) => {
            strict::items(array).try_for_each(|element| check_literals_in(&element?, depth + 1))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(Unclear::NotBson),
    }
}

fn result(names: &FieldNames) -> Result<(), Unclear> {
    match names.final_fault() {
        None => Ok(()),
        Some(FieldFault::Duplicate) => Err(Unclear::DuplicateField),
        Some(FieldFault::Malformed) => Err(Unclear::NotBson),
        Some(FieldFault::TooDeep) => Err(Unclear::TooDeep),
    }
}

/// mongod accepts fewer than 200 levels of nested BSON.
const DEPTH_MAX: usize = 200;
