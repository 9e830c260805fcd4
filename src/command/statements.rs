//! The statements of the write commands `update`, `delete`, `findAndModify` and `bulkWrite`.

use bson::raw::{RawBsonRef, RawElement};
use smallvec::SmallVec;

use super::javascript::ValueUse;
use super::names;
use super::pipeline;
use super::reader::Reader;
use super::stored;
use super::strict::{self, Fields, key};
use super::table::Class::{Read, Write};
use super::unclear::Unclear;

pub(super) fn insert(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Write)?;
    stored::check_documents(reader.documents("documents")?.into_iter().flatten())
}

pub(super) fn update(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    changed_collection(reader)?;
    let is_of_buckets = own_collection_has_buckets(reader);
    for statement in reader.documents("updates")?.into_iter().flatten() {
        for element in strict::elements(statement?) {
            statement_element(reader, &element?, "u", is_of_buckets)?;
        }
    }
    Ok(())
}

pub(super) fn delete(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    changed_collection(reader)?;
    let statements = reader.documents("deletes")?;
    if !reader.searches() {
        return Ok(());
    }
    for statement in statements.into_iter().flatten() {
        for element in strict::elements(statement?) {
            reader.search_javascript(&element?, ValueUse::Evaluated)?;
        }
    }
    Ok(())
}

/// The collection of a statement that finds documents before it changes them. Such a statement also reads: the number
/// of changed documents tells whether a filter matches, and the errors of an expression show values.
fn changed_collection(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Write)?;
    reader.own_collection(Read)
}

/// The reply contains the changed document as well.
pub(super) fn find_and_modify(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    changed_collection(reader)?;
    let is_of_buckets = own_collection_has_buckets(reader);
    match reader.fields.get("update") {
        Some(update) => modification(reader, update, is_of_buckets),
        None => Ok(()),
    }
}

fn own_collection_has_buckets(reader: &Reader<'_, '_>) -> bool {
    let collection = reader.fields.first().and_then(strict::text).unwrap_or_default();
    stored::writes_buckets(reader, collection)
}

/// A statement names its collection by an index into `nsInfo`. Every entry of `nsInfo` counts as written, whether a
/// statement uses it or not. An update or a delete also reads its collection, as the commands of these names do.
pub(super) fn bulk_write(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let mut namespaces = SmallVec::<[Target<'_>; 4]>::new();
    for entry in reader.documents("nsInfo")?.into_iter().flatten() {
        let entry = Fields::of(entry?)?;
        let namespace = entry.get("ns").and_then(strict::text).ok_or(Unclear::CollectionName)?;
        if !entry.are_among(&["ns"]) {
            return Err(Unclear::Argument("nsInfo"));
        }
        reader.reaches.add_namespace(namespace, Write)?;
        namespaces.push(Target { namespace, is_read: false, has_where: false });
    }
    if namespaces.is_empty() {
        return Err(Unclear::Argument("nsInfo"));
    }
    for operation in reader.documents("ops")?.into_iter().flatten() {
        let operation = Fields::of(operation?)?;
        let kind = operation.first().ok_or(Unclear::Argument("ops"))?;
        let is_insert = match key(kind) {
            "insert" => true,
            "update" | "delete" => false,
            _ => return Err(Unclear::Argument("ops")),
        };
        let target = index(kind).and_then(|at| namespaces.get_mut(at)).ok_or(Unclear::Argument("ops"))?;
        if !is_insert && !target.is_read {
            target.is_read = true;
            reader.reaches.add_namespace(target.namespace, Read)?;
        }
        let (_, collection) = names::namespace(target.namespace)?;
        let is_of_buckets = stored::writes_buckets(reader, collection);
        for element in operation.iter() {
            match key(element) {
                "document" => stored::check_value(element)?,
                _ => statement_element(reader, element, "updateMods", is_of_buckets)?,
            }
        }
        // The search starts again for the next statement, which may be for another database.
        if std::mem::take(&mut reader.found.stored_functions) && !target.has_where {
            target.has_where = true;
            let (database, _) = names::namespace(target.namespace)?;
            reader.reaches.add_stored_functions(database)?;
        }
    }
    Ok(())
}

/// An entry of `nsInfo`, and what the statements for it do so far.
struct Target<'a> {
    namespace: &'a str,
    is_read: bool,
    has_where: bool,
}

fn index(element: &RawElement<'_>) -> Option<usize> {
    match element.value() {
        Ok(RawBsonRef::Int32(number)) => usize::try_from(number).ok(),
        Ok(RawBsonRef::Int64(number)) => usize::try_from(number).ok(),
        _ => None,
    }
}

fn statement_element<'a>(
    reader: &mut Reader<'a, '_>,
    element: &RawElement<'a>,
    modification_key: &str,
    is_of_buckets: bool,
) -> Result<(), Unclear> {
    if key(element) == modification_key {
        modification(reader, element, is_of_buckets)
    } else {
        reader.search_javascript(element, ValueUse::Evaluated)
    }
}

/// An update is a pipeline, or a document of operators and values. The server runs code only in a pipeline; the values
/// of a document are stored.
fn modification<'a>(reader: &mut Reader<'a, '_>, element: &RawElement<'a>, is_of_buckets: bool) -> Result<(), Unclear> {
    if is_of_buckets {
        stored::check_value(element)?;
    }
    let Some(stages) = strict::array(element) else {
        return reader.search_javascript(element, ValueUse::Stored);
    };
    pipeline::of_update(stages)?;
    reader.search_javascript(element, ValueUse::Evaluated)
}
