//! Every place that a command reaches: one function for each kind of command that reaches more than its own.
//!
//! A command that is not named here has the place that the table gives it. Stages of pipelines are read in
//! [`pipeline`](super::pipeline), statements of writes in [`statements`](super::statements).

use bson::raw::RawElement;

use super::arguments;
use super::meaning::Place;
use super::names;
use super::pipeline;
use super::read::Reader;
use super::statements;
use super::strict::{self, Fields, key};
use super::table::Class::{self, Admin, Cluster, Ddl, Read, Session, Write};
use super::table::CollectionAt;
use super::unclear::Unclear;
use super::users;

/// Finds the places of a command; the first is its own.
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
            reader.reaches.add(Place::WholeDatabase(reader.database), reader.command.class)
        }
        "currentOp"
        | "getLog"
        | "listDatabases"
        | "lockInfo"
        | "setProfilingFilterGlobally"
        | "top"
        | "validateDBMetadata" => reader.reaches.add(Place::WholeServer, reader.command.class),
        _ => by_table(reader),
    }
}

fn by_table(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let class = reader.command.class;
    match (class, reader.command.collection) {
        (Session, _) => reader.reaches.add(Place::Nowhere, Session),
        (Class::UserAdmin, _) => users::administer(reader),
        (_, CollectionAt::None) => reader.reaches.add(Place::Database(reader.database), class),
        (_, CollectionAt::First) => reader.own_collection(class),
        (_, CollectionAt::FirstFullNamespace) => reader.namespace_at(reader.command_value()?, class),
        (_, CollectionAt::Field(field)) => reader.collection_in(field, class),
    }
}

impl<'a, 'r> Reader<'a, 'r> {
    pub(super) fn command_value(&self) -> Result<&'r RawElement<'a>, Unclear> {
        self.fields.first().ok_or(Unclear::NoCommand)
    }

    /// The collection that the first element names.
    pub(super) fn own_collection(&mut self, class: Class) -> Result<(), Unclear> {
        self.collection_at(self.command_value()?, class)
    }

    fn collection_in(&mut self, field: &'static str, class: Class) -> Result<(), Unclear> {
        self.collection_at(self.argument(field)?, class)
    }

    pub(super) fn collection_at(&mut self, element: &RawElement<'a>, class: Class) -> Result<(), Unclear> {
        let name = strict::text(element).ok_or(Unclear::CollectionName)?;
        self.reaches.add_collection(self.database, name, class)
    }

    fn namespace_at(&mut self, element: &RawElement<'a>, class: Class) -> Result<(), Unclear> {
        self.reaches.add_namespace(strict::text(element).ok_or(Unclear::CollectionName)?, class)
    }

    fn argument(&self, field: &'static str) -> Result<&'r RawElement<'a>, Unclear> {
        self.fields.get(field).ok_or(Unclear::Argument(field))
    }
}

/// A view stores a read: whoever makes it must be one who may read all that it shows.
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

/// Works on collections whose names it makes up from its own or takes from the options of that.
fn compact_encryption_data(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Ddl)?;
    reader.reaches.add(Place::WholeDatabase(reader.database), Ddl)
}

fn validate(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let only_looks = ["repair", "fixMultikey"].iter().all(|field| strict::is_off(reader.fields.get(field)));
    reader.own_collection(if only_looks { Read } else { Ddl })
}

/// Without names it looks at all collections, and an empty list names none.
fn db_hash(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let named = match reader.fields.get("collections") {
        Some(named) => Some(strict::array(named).ok_or(Unclear::Argument("collections"))?),
        None => None,
    };
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        return reader.reaches.add(Place::WholeDatabase(reader.database), Read);
    };
    strict::items(named).try_for_each(|name| reader.collection_at(&name?, Read))
}

fn db_check(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    if strict::is_number(reader.command_value()?) {
        return reader.reaches.add(Place::WholeDatabase(reader.database), Admin);
    }
    reader.own_collection(Admin)
}

/// Reads `<root>.chunks`. That name stands nowhere in the body but for the root that is meant without one.
fn file_md5(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let root = match reader.fields.get("root") {
        Some(root) => strict::text(root).ok_or(Unclear::CollectionName)?,
        None => "fs",
    };
    if root == "fs" {
        return reader.reaches.add_collection(reader.database, "fs.chunks", Read);
    }
    reader.reaches.add(Place::WholeDatabase(reader.database), Read)
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

/// The collection is what mongod compares with the cursor's own; of cursors without a collection it is `$cmd.…`.
fn cursor_place<'a>(reader: &mut Reader<'a, '_>, name: &RawElement<'a>) -> Result<(), Unclear> {
    if strict::text(name).is_some_and(|name| name.starts_with("$cmd.") && !name.contains('\0')) {
        return reader.reaches.add(Place::Database(reader.database), Read);
    }
    reader.collection_at(name, Read)
}

fn get_more(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    cursor_place(reader, reader.argument("collection")?)?;
    reader.cursors.push(strict::int64(reader.command_value()?).ok_or(Unclear::Argument("getMore"))?);
    Ok(())
}

fn kill_cursors(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    cursor_place(reader, reader.command_value()?)?;
    let cursors = strict::array(reader.argument("cursors")?).ok_or(Unclear::Argument("cursors"))?;
    for cursor in strict::items(cursors) {
        if reader.cursors.len() == CURSORS_MAX {
            return Err(Unclear::TooManyPlaces);
        }
        reader.cursors.push(strict::int64(&cursor?).ok_or(Unclear::Argument("cursors"))?);
    }
    Ok(())
}

/// Whoever may send this may do anything; that it names places as well is for rules that forbid one of them.
fn apply_ops(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.reaches.add(Place::WholeServer, Cluster)?;
    let operations = strict::array(reader.command_value()?).ok_or(Unclear::Argument("applyOps"))?;
    for operation in strict::items(operations) {
        let operation = strict::document(&operation?).ok_or(Unclear::Argument("applyOps"))?;
        let Some(namespace) = Fields::of(operation)?.get("ns").map(strict::text) else {
            continue;
        };
        let namespace = namespace.ok_or(Unclear::CollectionName)?;
        match namespace.split_once('.') {
            // A no-operation belongs nowhere.
            None if namespace.is_empty() => {}
            None => reader.reaches.add(Place::Database(names::database(namespace)?), Cluster)?,
            Some((database, "$cmd")) => reader.reaches.add(Place::Database(names::database(database)?), Cluster)?,
            Some(_) => reader.reaches.add_namespace(namespace, Cluster)?,
        }
    }
    Ok(())
}

/// The first value is a database, whatever `$db` says.
fn named_database(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let name = strict::text(reader.command_value()?).ok_or(Unclear::DatabaseName)?;
    reader.reaches.add(Place::Database(names::database(name)?), Cluster)
}

fn sessions(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    by_table(reader)?;
    let sessions = strict::array(reader.command_value()?).ok_or(Unclear::Session)?;
    // Without an id it means all sessions of the user that all callers may be.
    if reader.command.name == "killSessions" && sessions.is_empty() {
        reader.reaches.add(Place::WholeServer, Admin)?;
    }
    for session in strict::items(sessions) {
        reader.sessions.push(arguments::session(&session?)?);
    }
    Ok(())
}

/// Drivers end a batch's cursors at once, and never near so many.
const CURSORS_MAX: usize = 1000;
