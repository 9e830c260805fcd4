//! The statements of the write commands `update`, `delete`, `findAndModify` and `bulkWrite`.

use bson::raw::{RawBsonRef, RawElement};

use super::javascript::ValueUse;
use super::pipeline;
use super::reader::Reader;
use super::strict::{self, Fields, key};
use super::table::Class::{Read, Write};
use super::unclear::Unclear;

pub(super) fn update(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Write)?;
    for statement in reader.documents("updates")?.into_iter().flatten() {
        for element in strict::elements(statement?) {
            statement_element(reader, &element?, "u")?;
        }
    }
    Ok(())
}

pub(super) fn delete(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Write)?;
    if !reader.options.javascript {
        return Ok(());
    }
    for statement in reader.documents("deletes")?.into_iter().flatten() {
        for element in strict::elements(statement?) {
            reader.search_javascript(&element?, ValueUse::Evaluated)?;
        }
    }
    Ok(())
}

/// The reply contains the changed document, so this command reads as well.
pub(super) fn find_and_modify(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Write)?;
    reader.own_collection(Read)?;
    match reader.fields.get("update") {
        Some(update) => modification(reader, update),
        None => Ok(()),
    }
}

/// A statement names its collection by an index into `nsInfo`. Every entry of `nsInfo` counts as written, whether a
/// statement uses it or not.
pub(super) fn bulk_write(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let mut count = 0;
    for entry in reader.documents("nsInfo")?.into_iter().flatten() {
        let entry = Fields::of(entry?)?;
        let namespace = entry.get("ns").and_then(strict::text).ok_or(Unclear::CollectionName)?;
        if !entry.are_among(&["ns"]) {
            return Err(Unclear::Argument("nsInfo"));
        }
        reader.reaches.add_namespace(namespace, Write)?;
        count += 1;
    }
    if count == 0 {
        return Err(Unclear::Argument("nsInfo"));
    }
    for operation in reader.documents("ops")?.into_iter().flatten() {
        let operation = Fields::of(operation?)?;
        let kind = operation.first().ok_or(Unclear::Argument("ops"))?;
        if !matches!(key(kind), "insert" | "update" | "delete") || !points_into(kind, count) {
            return Err(Unclear::Argument("ops"));
        }
        for element in operation.iter().filter(|element| key(element) != "document") {
            statement_element(reader, element, "updateMods")?;
        }
    }
    Ok(())
}

/// Whether the element is a valid index into a list of `count` entries.
fn points_into(element: &RawElement<'_>, count: i64) -> bool {
    let number = match element.value() {
        Ok(RawBsonRef::Int32(number)) => i64::from(number),
        Ok(RawBsonRef::Int64(number)) => number,
        _ => return false,
    };
    (0..count).contains(&number)
}

fn statement_element<'a>(
    reader: &mut Reader<'a, '_>,
    element: &RawElement<'a>,
    modification_key: &str,
) -> Result<(), Unclear> {
    if key(element) == modification_key {
        modification(reader, element)
    } else {
        reader.search_javascript(element, ValueUse::Evaluated)
    }
}

/// An update is a pipeline, or a document of operators and values. The server runs code only in a pipeline; the values
/// of a document are stored.
fn modification<'a>(reader: &mut Reader<'a, '_>, element: &RawElement<'a>) -> Result<(), Unclear> {
    let Some(stages) = strict::array(element) else {
        return reader.search_javascript(element, ValueUse::Stored);
    };
    pipeline::of_update(stages)?;
    reader.search_javascript(element, ValueUse::Evaluated)
}
