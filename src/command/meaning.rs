//! What a command means: which command it is, and every place that it reaches.
//!
//! The types only; [`read`](super::read) finds them. Decides nothing: who may do what is for the policy.

use bson::RawDocument;
use smallvec::SmallVec;

use super::table::{Class, Command};

/// A command that was understood, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meaning<'a> {
    /// What is done; of an `explain` the command that is explained.
    pub command: &'static Command,
    /// Whether it stands inside an `explain`.
    pub explained: bool,
    /// `$db`, or the database of an `OP_QUERY`.
    pub database: &'a str,
    /// Every place that it reaches and how; never empty. The first is its own.
    pub reaches: SmallVec<[Reach<'a>; 2]>,
    /// Whether it runs JavaScript on the server. Of filters and pipelines only known where [`Look::javascript`] was set.
    pub javascript: bool,
    /// The cursors that a `getMore` reads or a `killCursors` ends.
    pub cursors: SmallVec<[i64; 1]>,
    /// The ids of sessions that it names, in its body: of its own session, and of those that it ends or refreshes.
    pub sessions: SmallVec<[&'a [u8; 16]; 1]>,
}

/// One place that a command reaches, and what it does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reach<'a> {
    /// Where.
    pub place: Place<'a>,
    /// What it does there: `Read`, `Write`, `Ddl`, or what kind of administration. An `aggregate` that ends in `$out` is
    /// `Read` where it reads and `Write` where it writes. Never `Wrapper` or `Legacy`.
    pub class: Class,
}

/// Where a command reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place<'a> {
    /// Into no namespace at all: sessions and transactions.
    Nowhere,
    /// A command without a collection, judged by its database and nothing else.
    Database(&'a str),
    /// One collection or view.
    Collection {
        /// Its database.
        database: &'a str,
        /// Its name, which may have dots.
        collection: &'a str,
    },
    /// Every collection of a database: `dropDatabase`, a change stream on it.
    WholeDatabase(&'a str),
    /// Everything: `listDatabases`, a change stream on the cluster.
    WholeServer,
    /// A collection that shows more than itself: `system.profile` all of its database, `local.oplog.rs` all of the
    /// server. Who may not see all that it shows may see it only if it is named.
    Window {
        /// Its database.
        database: &'a str,
        /// Its name.
        collection: &'a str,
        /// What it shows.
        shows: Shows,
    },
}

/// What a [`Place::Window`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shows {
    /// Every collection of its database.
    Database,
    /// Every database.
    Server,
}

/// What is looked for besides the places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Whether filters, updates and pipelines are searched for JavaScript at every depth; costs a walk over all of them.
    pub javascript: bool,
}

/// A document sequence (section kind 1) that is here as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Its identifier, as in `documents`.
    pub identifier: &'a [u8],
    /// Its documents one after the other, not looked at yet.
    pub documents: &'a [u8],
}

/// A command as it travels.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The body: the one section of kind 0, or the document of an `OP_QUERY`, already taken out of a `$query` wrapper.
    pub body: &'a RawDocument,
    /// Of an `OP_QUERY`, the database in its namespace; such a body has no `$db`.
    pub database: Option<&'a str>,
    /// The sequences that are here. Empty unless [`needs_sequences`] has asked for them.
    pub sequences: &'a [Sequence<'a>],
}

/// Whether the meaning of `command` stands in its document sequences too, so that [`read`](super::read) has to have them.
pub fn needs_sequences(command: &Command, look: Look) -> bool {
    match command.name {
        "bulkWrite" => true,
        "update" | "delete" => look.javascript,
        _ => false,
    }
}

/// The identifiers of the document sequences that `command` takes; any other is refused.
pub fn sequences_of(command: &Command) -> &'static [&'static str] {
    match command.name {
        "insert" => &["documents"],
        "update" => &["updates"],
        "delete" => &["deletes"],
        "bulkWrite" => &["ops", "nsInfo"],
        _ => &[],
    }
}
