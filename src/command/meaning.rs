//! The meaning of a command: which command it is, and every resource that it reaches.
//!
//! Only the types. [`read`](super::read) fills them in, and the policy decides on them.

use bson::RawDocument;
use smallvec::SmallVec;

use super::known::KnownNames;
use super::listing::Listing;
use super::table::{Class, Command};

/// A command that was understood completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning<'a> {
    /// The command; for an `explain`, the command that is explained.
    pub command: &'static Command,
    /// Whether the command is inside an `explain`.
    pub explained: bool,
    /// `$db`, or the database of an `OP_QUERY`.
    pub database: &'a str,
    /// Every resource that the command reaches, and how; never empty. The first is the command's own resource.
    pub reaches: SmallVec<[Reach<'a>; 2]>,
    /// Whether the command runs JavaScript on the server. Filters, updates and pipelines are searched for it only if
    /// [`ReadOptions::javascript`] was set.
    pub javascript: bool,
    /// Whether clients need the command to work, and the command neither shows nor changes anything of other clients:
    /// the handshake, what shells start with, and the end of the client's own sessions, transactions and cursors.
    pub essential: bool,
    /// What the reply lists, if it can be filtered: one that shows only what the caller may see then says nothing about
    /// the rest. For a `getMore` too.
    pub listing: Option<Listing>,
    /// The cursors that a `getMore` reads or a `killCursors` closes.
    pub cursors: SmallVec<[i64; 1]>,
    /// The ids of the sessions that the body names: the command's own session, and those that it ends or refreshes.
    pub sessions: SmallVec<[&'a [u8; 16]; 1]>,
}

/// One resource that a command reaches, and what the command does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reach<'a> {
    /// What is reached.
    pub resource: Resource<'a>,
    /// What the command does with it: `Read`, `Write`, `Ddl`, or a class of administration. An `aggregate` that ends in
    /// `$out` has `Read` for its sources and `Write` for its target. Never `Wrapper` or `Legacy`.
    pub class: Class,
    /// Whether the command shows or changes this only incidentally, as `getLog` shows lines about every database. Such
    /// a reach needs no `allow` rule of its own, but a `deny` rule for it refuses the command.
    pub incidental: bool,
}

/// What a command reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource<'a> {
    /// No namespace at all: sessions and transactions.
    NoNamespace,
    /// A database as such: the command names no collection and is judged by its database alone.
    Database(&'a str),
    /// One collection or view.
    Collection {
        /// Its database.
        database: &'a str,
        /// Its name, which may contain dots.
        collection: &'a str,
    },
    /// Every collection of a database: `dropDatabase`, a change stream on the database.
    WholeDatabase(&'a str),
    /// Every database: `listDatabases`, a change stream on the cluster.
    WholeServer,
    /// A system collection that exposes data of other collections: `system.profile` exposes its database,
    /// `local.oplog.rs` the whole server. An `allow` rule must cover all of that, or name the collection.
    SystemCollection {
        /// Its database.
        database: &'a str,
        /// Its name.
        collection: &'a str,
        /// What it exposes.
        exposes: Exposes,
    },
}

/// What a [`Resource::SystemCollection`] exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exposes {
    /// Every collection of its database.
    Database,
    /// Every database.
    Server,
    /// Only itself. An `allow` rule must still cover the whole database or name the collection: an operator who allows
    /// single collections does not expect this one to be among them.
    Itself,
}

/// What [`read`](super::read) looks for in addition to the resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions<'k> {
    /// Whether to search filters, updates and pipelines for JavaScript at every depth. This visits every element.
    pub javascript: bool,
    /// Whether to search filters for JavaScript that sees the functions in `system.js`. This visits every element, but
    /// only if the request contains the bytes of `$where`.
    pub stored_functions: bool,
    /// The names that the operator declares as known.
    pub known: Option<&'k KnownNames>,
}

/// A document sequence (section kind 1) that has arrived completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Its identifier, for example `documents`.
    pub identifier: &'a [u8],
    /// The bytes of its documents, one after the other; not validated yet.
    pub documents: &'a [u8],
}

/// A command as it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The section of kind 0, or the document of an `OP_QUERY` without its `$query` wrapper.
    pub body: &'a RawDocument,
    /// For an `OP_QUERY`, the database in its namespace; the body of an `OP_QUERY` has no `$db`.
    pub database: Option<&'a str>,
    /// The document sequences. May be empty unless [`needs_sequences`] is true.
    pub sequences: &'a [Sequence<'a>],
}

/// Whether [`read`](super::read) needs the document sequences of `command`, because its meaning depends on them.
pub fn needs_sequences(command: &Command, options: ReadOptions<'_>) -> bool {
    match command.name {
        "bulkWrite" => true,
        "update" | "delete" => options.javascript || options.stored_functions,
        _ => false,
    }
}

/// The identifiers of the document sequences that `command` accepts; any other one is refused.
pub fn sequences_of(command: &Command) -> &'static [&'static str] {
    match command.name {
        "insert" => &["documents"],
        "update" => &["updates"],
        "delete" => &["deletes"],
        "bulkWrite" => &["ops", "nsInfo"],
        _ => &[],
    }
}
