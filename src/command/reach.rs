//! Every resource that a command reaches: a function for each command that reaches more than the table says.
//!
//! Other commands reach the resource that the table gives. [`pipeline`](super::pipeline) reads the stages of pipelines,
//! and [`statements`](super::statements) the statements of writes.

use bson::raw::RawElement;

use super::arguments;
use super::javascript::Found;
use super::listing::{self, Listing};
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
        "other" => known(reader),
        "find" | "count" | "distinct" => reader.own_collection(reader.command.class),
        "insert" => statements::insert(reader),
        "update" => statements::update(reader),
        "delete" => statements::delete(reader),
        "findAndModify" => statements::find_and_modify(reader),
        "bulkWrite" => statements::bulk_write(reader),
        "getMore" => get_more(reader),
        "killCursors" => kill_cursors(reader),
        "mapReduce" => map_reduce(reader),
        "create" | "collMod" => create(reader),
        "createIndexes" | "reIndex" => build_indexes(reader),
        "renameCollection" => rename_collection(reader),
        "cloneCollectionAsCapped" => clone_collection(reader),
        "compactStructuredEncryptionData" | "cleanupStructuredEncryptionData" => compact_encryption_data(reader),
        "validate" => validate(reader),
        "dbHash" => db_hash(reader),
        "dbCheck" => db_check(reader),
        "filemd5" => file_md5(reader),
        "applyOps" => apply_ops(reader),
        "changePrimary" | "enableSharding" | "getDatabaseVersion" | "movePrimary" => named_database(reader),
        "endSessions" | "refreshSessions" => sessions(reader),
        "killSessions" => kill_sessions(reader),
        "commitTransaction" | "abortTransaction" => own_session(reader),
        "checkMetadataConsistency" => check_metadata(reader),
        "dropDatabase" | "profile" => {
            reader.reaches.add(Resource::WholeDatabase(reader.database), reader.command.class)
        }
        "listCollections" => {
            reader.listing = listing::of_collections(reader.fields);
            reader.reaches.add(Resource::WholeDatabase(reader.database), Read)
        }
        "listDatabases" => {
            reader.listing = listing::of_databases(reader.fields);
            reader.reaches.add(Resource::WholeServer, Read)
        }
        "killAllSessions" | "killAllSessionsByPattern" | "setProfilingFilterGlobally" => {
            reader.reaches.add(Resource::WholeServer, Admin)
        }
        "getLog" if is_startup_warnings(reader) => essential(reader),
        "getParameter" if asks_only_for(reader, &["featureCompatibilityVersion"]) => essential(reader),
        "hostInfo" if asks_only_for(reader, &[]) => essential(reader),
        _ if matches!(reader.command.class, Class::Handshake | Class::Auth) => essential(reader),
        name if SHOWS_THE_SERVER.contains(&name) => show_server(reader),
        name if TEST_COMMANDS.contains(&name) => show_server(reader),
        _ => by_table(reader),
    }
}

fn by_table(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let class = reader.command.class;
    match (class, reader.command.collection) {
        (Session, _) => reader.reaches.add(Resource::NoNamespace, Session),
        (Class::UserAdmin, _) => users::administer(reader),
        (_, CollectionAt::None) => reader.reaches.add(Resource::Database(reader.database), class),
        (_, CollectionAt::First) => {
            reader.own_collection(class)?;
            if class == Admin && !reader.command.name.starts_with("planCache") {
                reader.reaches.show_last()?;
            }
            Ok(())
        }
        (_, CollectionAt::FirstFullNamespace) => {
            reader.namespace_at(reader.command_value()?, class)?;
            if matches!(class, Admin | Cluster) { reader.reaches.show_last() } else { Ok(()) }
        }
        (_, CollectionAt::Field(field)) => reader.collection_in(field, class),
    }
}

/// A command that is only in `known_commands`.
fn known(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let class = reader.options.known.and_then(|known| known.class_of(key(reader.command_value().ok()?)));
    reader.reaches.add_known(class.ok_or(Unclear::UnknownCommand)?)
}

/// The command reaches its own database. It needs no `allow` rule.
fn essential(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.essential = true;
    reader.reaches.add(Resource::Database(reader.database), reader.command.class)
}

/// The command ends or refreshes the client's own sessions, or ends its transaction.
fn own_session(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.essential = true;
    reader.reaches.add(Resource::NoNamespace, Session)
}

/// The command shows what clients do on the whole server. A `deny` rule for reads of any resource denies it. An `allow`
/// rule for its class is enough.
fn show_server(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.reaches.add(Resource::WholeServer, reader.command.class)?;
    reader.reaches.add_incidental(Resource::WholeServer, Read)
}

/// Warnings about the host and the configuration; no line about what clients do.
fn is_startup_warnings(reader: &Reader<'_, '_>) -> bool {
    reader.fields.first().and_then(strict::text) == Some("startupWarnings")
}

/// Whether the value of the command is a number, and every argument is one of `names` or an argument of all commands.
fn asks_only_for(reader: &Reader<'_, '_>, names: &[&str]) -> bool {
    let is_expected = |element: &RawElement<'_>| GENERIC.contains(&key(element)) || names.contains(&key(element));
    reader.fields.first().is_some_and(strict::is_number) && reader.fields.iter().skip(1).all(is_expected)
}

/// The errors of an index build show values of documents: a 2dsphere index shows a value that is not a point, a unique
/// index shows a value that occurs twice.
fn build_indexes(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Ddl)?;
    reader.own_collection(Read)
}

/// A view stores a read, so the client that creates it must be allowed to read everything that the view exposes.
///
/// The reply to `collMod` shows the old options, and its errors show documents that prevent a unique index. A validator
/// is an expression that runs on documents, and its errors show their values.
fn create(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    reader.own_collection(Ddl)?;
    if reader.command.name == "collMod" || reader.fields.get("validator").is_some() {
        reader.own_collection(Read)?;
    }
    if let Some(source) = reader.fields.get("viewOn") {
        reader.collection_at(source, Read)?;
    }
    if let Some(stages) = reader.fields.get("pipeline") {
        pipeline::of_view(reader, strict::array(stages).ok_or(Unclear::Pipeline)?)?;
    }
    if reader.command.name == "collMod"
        && reader.fields.get("viewOn").is_some() != reader.fields.get("pipeline").is_some()
    {
        // The view keeps the other half of its definition, which can name any collection of the database.
        reader.reaches.add(Resource::WholeDatabase(reader.database), Read)?;
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
    if !is_read_only {
        reader.own_collection(Ddl)?;
    }
    reader.own_collection(Read)
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
        reader.reaches.add(Resource::WholeDatabase(reader.database), Admin)?;
        return reader.reaches.add_incidental(Resource::WholeDatabase(reader.database), Read);
    }
    by_table(reader)
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
    // Its functions see `system.js`.
    reader.found = Found { javascript: true, stored_functions: true };
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
    reader.reaches.add_collection(database, target, Write)?;
    if out.get("reduce").is_some() {
        // The function receives the values that the target has.
        reader.reaches.add_collection(database, target, Read)?;
    }
    Ok(())
}

/// mongod compares this name with the collection of the cursor. A cursor without a collection has `$cmd.…`.
fn cursor_resource<'a>(reader: &mut Reader<'a, '_>, name: &RawElement<'a>) -> Result<(), Unclear> {
    if let Some(name) = strict::text(name).filter(|name| name.starts_with("$cmd.") && !name.contains('\0')) {
        // The cursor has the results of a command of the same client: the gateway knows the owner of each cursor.
        reader.essential = matches!((reader.database, name), ("admin", "$cmd.bulkWrite") | (_, "$cmd.listCollections"));
        return reader.reaches.add(Resource::Database(reader.database), Read);
    }
    reader.collection_at(name, Read)
}

fn get_more(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let name = reader.argument("collection")?;
    cursor_resource(reader, name)?;
    // mongod compares this name with that of the cursor.
    reader.listing = (strict::text(name) == Some("$cmd.listCollections")).then_some(Listing::Collections);
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
    show_server(reader)?;
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

/// Ends the client's own sessions if it names nothing else. Without a session it ends all sessions of the user, which
/// may be the user of all callers; with the `uid` of a user it ends a session by its id in mongod.
fn kill_sessions(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let named = reader.fields.first().and_then(strict::array).filter(|sessions| !sessions.is_empty());
    let is_own = |one: Result<RawElement<'_>, Unclear>| one.is_ok_and(|one| arguments::session(&one).is_ok());
    if named.is_some_and(|named| strict::items(named).all(is_own)) {
        return sessions(reader);
    }
    reader.reaches.add(Resource::WholeServer, Admin)
}

/// With a number, the command checks the whole cluster on `admin`, and the database elsewhere.
fn check_metadata(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    let resource = match reader.database {
        _ if !strict::is_number(reader.command_value()?) => return by_table(reader),
        "admin" => Resource::WholeServer,
        database => Resource::WholeDatabase(database),
    };
    reader.reaches.add(resource, Admin)?;
    reader.reaches.add_incidental(resource, Read)
}

fn sessions(reader: &mut Reader<'_, '_>) -> Result<(), Unclear> {
    own_session(reader)?;
    let sessions = strict::array(reader.command_value()?).ok_or(Unclear::Session)?;
    for session in strict::items(sessions) {
        if reader.sessions.len() > arguments::SESSIONS_MAX {
            return Err(Unclear::TooManyResources);
        }
        reader.sessions.push(arguments::session(&session?)?);
    }
    Ok(())
}

/// Commands that show what clients do on the whole server, or give the data of the whole server to a host that the
/// client chooses.
pub(super) const SHOWS_THE_SERVER: [&str; 10] = [
    "addShard",
    "currentOp",
    "getLog",
    "lockInfo",
    "removeQuerySettings",
    "replSetInitiate",
    "replSetReconfig",
    "setQuerySettings",
    "top",
    "validateDBMetadata",
];

/// Commands that a server has only if it was started with `enableTestCommands`. Some of them read and write anywhere.
pub(super) const TEST_COMMANDS: [&str; 29] = [
    "_hashBSONElement",
    "captrunc",
    "clearLog",
    "configureFailPoint",
    "cpuload",
    "createUnsplittableCollection",
    "echo",
    "emptycapped",
    "godinsert",
    "httpClientRequest",
    "logMessage",
    "makeSnapshot",
    "pinHistoryReplicated",
    "reapLogicalSessionCacheNow",
    "refreshLogicalSessionCacheNow",
    "replSetTest",
    "replSetTestEgress",
    "setCommittedSnapshot",
    "sleep",
    "stageDebug",
    "testDeprecation",
    "testDeprecationInVersion2",
    "testInternalTransactions",
    "testRemoval",
    "testReshardCloneCollection",
    "testVersion2",
    "testVersions1And2",
    "waitForOngoingChunkSplits",
    "whatsmysni",
];

/// Arguments that every command takes.
const GENERIC: [&str; 16] = [
    "$clusterTime",
    "$comment",
    "$db",
    "$readPreference",
    "apiDeprecationErrors",
    "apiStrict",
    "apiVersion",
    "autocommit",
    "clientOperationKey",
    "comment",
    "lsid",
    "maxTimeMS",
    "readConcern",
    "startTransaction",
    "txnNumber",
    "writeConcern",
];

/// Far more than drivers close with one command.
const CURSORS_MAX: usize = 1000;
