//! Every resource that a command reaches: a function for each command that reaches more than the table says.
//!
//! Other commands reach the resource that the table gives. [`pipeline`](super::pipeline) reads the stages of pipelines,
//! and [`statements`](super::statements) the statements of writes.

use bson::raw::RawElement;

use super::arguments;
use super::meaning::Resource;
use super::names;
use super::pipeline;
use super::reader::Reader;
use super::statements;
use super::strict::{self, Fields, key};
use super::table::Class::{self, Admin, Cluster, Ddl, Read, Session, Write};
use super::table::CollectionAt;
use super::unclear::Unclear;
use super::users;

/// Finds the resources of a command. The first one is the command's own.
pub(super) fn find(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    match reader.command.name {
        "aggregate" => pipeline::aggregate(reader),
        "find" | "insert" | "count" | "distinct" => reader.own_collection(reader.command.class),
        "update" => statements::update(reader),
        "delete" => statements::delete(reader),
        "findAndModify" => statements::find_and_modify(reader),
        "bulkWrite" => statements::bulk_write(reader),
        "getMore" => get_more(reader),
        "killCursors" => kill_cursors(reader),
        "mapReduce" => map_reduce(reader),
        "create" | "collMod" => create(reader),
        "renameCollection" => rename_collection(reader),
        "cloneCollectionAsCapped" => clone_collection(reader),
        "compactStructuredEncryptionData" => compact_encryption_data(reader),
        "validate" => validate(reader),
        "dbHash" => db_hash(reader),
        "dbCheck" => db_check(reader),
        "filemd5" => file_md5(reader),
        "applyOps" => apply_ops(reader),
        "enableSharding" | "getDatabaseVersion" => named_database(reader),
        "endSessions" | "refreshSessions" | "killSessions" => sessions(reader),
        "dropDatabase" | "listCollections" | "profile" => {
            reader.reaches.add(Resource::WholeDatabase(reader.database), reader.command.class)
        }
        "currentOp"
        | "getLog"
        | "listDatabases"
        | "lockInfo"
        | "setProfilingFilterGlobally"
        | "top"
        | "validateDBMetadata" => reader.reaches.add(Resource::WholeServer, reader.command.class),
        _ => by_table(reader),
    }
}

fn by_table(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let class = reader.command.class;
    match (class, reader.command.collection) {
        (Session, _) => reader.reaches.add(Resource::NoNamespace, Session),
        (Class::UserAdmin, _) => users::administer(reader),
        (_, CollectionAt::None) => reader.reaches.add(Resource::Database(reader.database), class),
        (_, CollectionAt::First) => reader.own_collection(class),
        (_, CollectionAt::FirstFullNamespace) => reader.namespace_at(reader.command_value()?, class),
        (_, CollectionAt::Field(field)) => reader.collection_in(field, class),
    }
}

/// A view stores a read, so the client that creates it must be allowed to read everything that the view exposes.
fn create(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Ddl)?;
    if let Some(source) = reader.fields.get("viewOn") {
        reader.collection_at(source, Read)?;
    }
    if let Some(stages) = reader.fields.get("pipeline") {
        pipeline::of_view(reader, strict::array(stages).ok_or(Unclear::Pipeline)?)?;
    }
    if let Some(encrypted) = reader.fields.get("encryptedFields") {
        let encrypted = strict::document(encrypted).ok_or(Unclear::Argument("encryptedFields"))?;
        for field in Fields::of(encrypted)?.iter().filter(|field| key(field).ends_with("Collection")) {
            reader.collection_at(field, Ddl)?;
        }
    }
    Ok(())
}

fn rename_collection(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let (source, target) = (reader.command_value()?, reader.argument("to")?);
    reader.namespace_at(source, Ddl)?;
    reader.namespace_at(source, Read)?;
    reader.namespace_at(target, Ddl)?;
    reader.namespace_at(target, Write)
}

fn clone_collection(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Read)?;
    reader.collection_in("toCollection", Ddl)?;
    reader.collection_in("toCollection", Write)
}

/// Works on further collections. Their names derive from the collection's name, or are stored in its options.
fn compact_encryption_data(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Ddl)?;
    reader.reaches.add(Resource::WholeDatabase(reader.database), Ddl)
}

fn validate(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let is_read_only = ["repair", "fixMultikey"].iter().all(|field| strict::is_off(reader.fields.get(field)));
    reader.own_collection(if is_read_only { Read } else { Ddl })
}

/// Without names, or with an empty list, `dbHash` reads all collections.
fn db_hash(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let named = match reader.fields.get("collections") {
        Some(named) => Some(strict::array(named).ok_or(Unclear::Argument("collections"))?),
        None => None,
    };
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return reader.reaches.add(Resource::WholeDatabase(reader.database), Read);
    };
    strict::items(named).try_for_each(|name| reader.collection_at(&name?, Read))
}

fn db_check(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    if strict::is_number(reader.command_value()?) {
        return reader.reaches.add(Resource::WholeDatabase(reader.database), Admin);
    }
    reader.own_collection(Admin)
}

/// Reads `<root>.chunks`. Only for the default root does the name exist as a string here. For another root, the body
/// has no string with the whole name, so the command counts as one that reads the whole database.
fn file_md5(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let root = match reader.fields.get("root") {
        Some(root) => strict::text(root).ok_or(Unclear::CollectionName)?,
        None => "fs",
    };
    if root == "fs" {
        return reader.reaches.add_collection(reader.database, "fs.chunks", Read);
    }
    reader.reaches.add(Resource::WholeDatabase(reader.database), Read)
}

fn map_reduce(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.javascript = true;
    reader.own_collection(Read)?;
    let out = reader.argument("out")?;
    let Some(out) = strict::document(out) else {
        return reader.collection_at(out, Write);
    };
    let out = Fields::of(out)?;
    if out.get("inline").is_some() && out.are_among(&["inline"]) {
        return Ok(());
    }
    let mut targets = ["replace", "merge", "reduce"].iter().filter_map(|action| out.get(action));
    let (Some(target), None) = (targets.next(), targets.next()) else {
        return Err(Unclear::Argument("out"));
    };
    if !out.are_among(&["replace", "merge", "reduce", "db", "sharded", "nonAtomic"]) {
        return Err(Unclear::Argument("out"));
    }
    let database = match out.get("db") {
        Some(database) => names::database(strict::text(database).ok_or(Unclear::DatabaseName)?)?,
        None => reader.database,
    };
    let target = strict::text(target).ok_or(Unclear::CollectionName)?;
    reader.reaches.add_collection(database, target, Write)
}

/// mongod compares this name with the collection of the cursor. A cursor without a collection has `$cmd.…`.
fn cursor_resource<'a>(reader: &mut Reader<'a, '_>, name: &RawElement<'a>) -> Result<(), Unclear> {
    if strict::text(name).is_some_and(|name| name.starts_with("$cmd.") && !name.contains('\0')) {
        return reader.reaches.add(Resource::Database(reader.database), Read);
    }
    reader.collection_at(name, Read)
}

fn get_more(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    cursor_resource(reader, reader.argument("collection")?)?;
    reader.cursors.push(strict::int64(reader.command_value()?).ok_or(Unclear::Argument("getMore"))?);
    Ok(())
}

fn kill_cursors(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    cursor_resource(reader, reader.command_value()?)?;
    let cursors = strict::array(reader.argument("cursors")?).ok_or(Unclear::Argument("cursors"))?;
    for cursor in strict::items(cursors) {
        if reader.cursors.len() == CURSORS_MAX {
            return Err(Unclear::TooManyResources);
        }
        reader.cursors.push(strict::int64(&cursor?).ok_or(Unclear::Argument("cursors"))?);
    }
    Ok(())
}

/// A client that may send `applyOps` may do anything, so it reaches the whole server. The namespaces that it names are
/// added for `deny` rules about them.
fn apply_ops(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.reaches.add(Resource::WholeServer, Cluster)?;
    let operations = strict::array(reader.command_value()?).ok_or(Unclear::Argument("applyOps"))?;
    for operation in strict::items(operations) {
        let operation = strict::document(&operation?).ok_or(Unclear::Argument("applyOps"))?;
        let Some(namespace) = Fields::of(operation)?.get("ns").map(strict::text) else {
            continue;
        };
        let namespace = namespace.ok_or(Unclear::CollectionName)?;
        match namespace.split_once('.') {
            // A no-op has an empty namespace.
            None if namespace.is_empty() => {}
            None => reader.reaches.add(Resource::Database(names::database(namespace)?), Cluster)?,
            Some((database, "$cmd")) => reader.reaches.add(Resource::Database(names::database(database)?), Cluster)?,
            Some(_) => reader.reaches.add_namespace(namespace, Cluster)?,
        }
    }
    Ok(())
}

/// The first value names a database, independently of `$db`.
fn named_database(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let name = strict::text(reader.command_value()?).ok_or(Unclear::DatabaseName)?;
    reader.reaches.add(Resource::Database(names::database(name)?), Cluster)
}

fn sessions(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    by_table(reader)?;
    let sessions = strict::array(reader.command_value()?).ok_or(Unclear::Session)?;
    // Without an id it ends all sessions of the user. All callers may be this user.
    if reader.command.name == "killSessions" && sessions.is_empty() {
        reader.reaches.add(Resource::WholeServer, Admin)?;
    }
    for session in strict::items(sessions) {
        reader.sessions.push(arguments::session(&session?)?);
    }
    Ok(())
}

/// Far more than drivers close with one command.
const CURSORS_MAX: usize = 1000;
