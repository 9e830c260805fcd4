//! The commands that can be about one collection or one database, and how each of them accesses it.
//!
//! [`read`](super::read) says what one request reaches. This says what the requests of a command can reach, for the
//! question whether a caller may do anything at a place.

use smallvec::{SmallVec, smallvec};

use super::meaning::Resource;
use super::names;
use super::reach::{SHOWS_THE_SERVER, TEST_COMMANDS};
use super::reaches::Reaches;
use super::read::is_internal;
use super::table::Class::{self, Admin, AdminRead, Cluster, Ddl, Read, UserAdmin, Write};
use super::table::{self, CollectionAt, Command};

/// One way to access a place. Every class of it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The command.
    pub command: &'static Command,
    /// The classes, and whether each is [incidental](super::Reach::incidental).
    pub classes: SmallVec<[(Class, bool); 2]>,
    /// Whether the command runs JavaScript.
    pub javascript: bool,
}

/// How a command can reach a database without naming a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseAccess {
    /// As [`Resource::Database`].
    Itself,
    /// As [`Resource::Database`], and the command belongs to `admin`.
    OnlyAdmin,
    /// As [`Resource::WholeDatabase`].
    Whole,
}

/// Every way to access a single collection. The most frequent ones come first.
pub fn of_collections() -> impl Iterator<Item = Access> {
    let frequent = [&b"find"[..], b"insert"].into_iter().filter_map(table::find);
    let javascript = table::find(b"aggregate").map(|command| Access {
        command,
        classes: smallvec![(Read, false)],
        javascript: true,
    });
    frequent.chain(table::all()).filter_map(of_collection).chain(javascript)
}

/// Every way to access a database as such.
pub fn of_databases() -> impl Iterator<Item = (Access, DatabaseAccess)> {
    table::all().iter().filter_map(|command| {
        let (classes, access): (SmallVec<_>, _) = match (command.name, command.class, command.collection) {
            ("aggregate" | "dbStats" | "listDatabases", ..) => (smallvec![(Read, false)], DatabaseAccess::Itself),
            ("dbHash" | "filemd5" | "listCollections", ..) => (smallvec![(Read, false)], DatabaseAccess::Whole),
            ("dropDatabase", ..) => (smallvec![(Ddl, false)], DatabaseAccess::Whole),
            ("profile", ..) => (smallvec![(Admin, false)], DatabaseAccess::Whole),
            ("dbCheck" | "checkMetadataConsistency", ..) => {
                (smallvec![(Admin, false), (Read, true)], DatabaseAccess::Whole)
            }
            ("enableSharding" | "getDatabaseVersion" | "movePrimary", ..) => {
                (smallvec![(Cluster, false)], DatabaseAccess::Itself)
            }
            // They also show collections of `admin`.
            ("usersInfo" | "rolesInfo", ..) => return None,
            (_, UserAdmin, _) => (smallvec![(UserAdmin, false)], DatabaseAccess::Itself),
            (_, class @ (AdminRead | Admin | Cluster), CollectionAt::None) if is_for_clients(command) => {
                (smallvec![(class, false)], DatabaseAccess::OnlyAdmin)
            }
            _ => return None,
        };
        Some((Access { command, classes, javascript: false }, access))
    })
}

/// What a command reaches that reads the collection of this name; `None` for a name that no collection can have.
pub fn resources_of<'a>(database: &'a str, collection: &'a str) -> Option<SmallVec<[Resource<'a>; 2]>> {
    let mut reaches = Reaches::default();
    names::database(database).ok()?;
    reaches.add_collection(database, collection, Read).ok()?;
    Some(reaches.into_list().iter().map(|reach| reach.resource).collect())
}

/// Whether a database can have this name.
pub fn is_database_name(name: &str) -> bool {
    names::database(name).is_ok()
}

/// How a command accesses one collection; `None` if it always needs more than that.
fn of_collection(command: &'static Command) -> Option<Access> {
    let class = command.class;
    let is_incidental_too = || matches!(class, Admin | Cluster) && !command.name.starts_with("planCache");
    let classes = match command.name {
        "update" | "delete" | "findAndModify" => smallvec![(Write, false), (Read, false)],
        "createIndexes" | "reIndex" | "collMod" | "renameCollection" => smallvec![(Ddl, false), (Read, false)],
        "bulkWrite" => smallvec![(Write, false)],
        "dbHash" | "cloneCollectionAsCapped" | "listCollections" => smallvec![(Read, false)],
        // They need a whole database, or `system.js`, or reach no collection.
        "compactStructuredEncryptionData"
        | "cleanupStructuredEncryptionData"
        | "enableSharding"
        | "filemd5"
        | "mapReduce" => return None,
        _ if !is_for_clients(command) || command.collection == CollectionAt::None => return None,
        _ if is_incidental_too() => smallvec![(class, false), (Read, true)],
        _ => smallvec![(class, false)],
    };
    Some(Access { command, classes, javascript: false })
}

/// Whether [`read`](super::read) understands the command when a client sends it, and the command does not reach the
/// whole server.
fn is_for_clients(command: &Command) -> bool {
    let is_of_class = matches!(command.class, Read | Write | Ddl | AdminRead | Admin | Cluster);
    let is_for_server = SHOWS_THE_SERVER.contains(&command.name)
        || TEST_COMMANDS.contains(&command.name)
        || matches!(command.name, "applyOps" | "setProfilingFilterGlobally");
    is_of_class && !is_internal(command.name) && !is_for_server
}
