//! Why a command is not understood.

use std::fmt;

/// Why a command is not understood.
///
/// As text it completes the sentence "it cannot be judged, ..."; it repeats no values and no names but those of the
/// command table and of the stages and arguments that this gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The bytes are not a BSON document, or not one that can be read without guessing.
    NotBson,
    /// The body is empty.
    NoCommand,
    /// A flag bit that the protocol does not have.
    UnknownFlag,
    /// Longer than any such command is.
    TooLong,
    /// An `OP_QUERY` that is not one command.
    OldQuery,
    /// There is no command of this name in the table.
    UnknownCommand,
    /// The command was taken out of MongoDB.
    Removed(&'static str),
    /// Servers send this command to each other; no client has use for it. Empty where the name is not in the table.
    Internal(&'static str),
    /// No `$db` or one that is no string; or, of an `OP_QUERY`, one more in the body.
    NoDatabase,
    /// A database has a name that no database can have.
    DatabaseName,
    /// A collection is not named by a plain string, or has a name that no collection can have.
    CollectionName,
    /// The same key stands twice where it may count once.
    DuplicateKey,
    /// More arguments than any command has.
    TooManyArguments,
    /// An argument that begins with `$` and is not known.
    UnknownDollarArgument,
    /// An argument that only servers send.
    InternalArgument(&'static str),
    /// `lsid` has more than an `id`, or is no document.
    Session,
    /// An argument of this name has to be there and is not, or has a form that is not known.
    Argument(&'static str),
    /// The command inside `explain` cannot be explained, or stands in another database.
    Explain,
    /// A document sequence that the command does not take, or one that stands twice or in the body too.
    Sequence,
    /// A pipeline is no array of documents with one stage each.
    Pipeline,
    /// A stage is not known.
    UnknownStage,
    /// A stage that only servers send to each other.
    InternalStage,
    /// A stage that is known has a form that is not.
    Stage(&'static str),
    /// A stage stands where it may not: in a pipeline inside another, or in one that updates.
    StagePlace(&'static str),
    /// Pipelines or documents in each other, deeper than a server takes them.
    TooDeep,
    /// It reaches more places, or names more cursors, than are told apart.
    TooManyPlaces,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBson => "its body is not readable BSON",
            Self::UnknownFlag => "it has a flag that the protocol does not know",
            Self::TooLong => "it is longer than a command may be",
            Self::OldQuery => {
                "legacy opcode OP_QUERY is not supported under a policy, except for one command; use a driver for \
                 MongoDB 3.6 or later that sends OP_MSG"
            }
            Self::NoCommand => "its body is empty",
            Self::UnknownCommand => "there is no such command",
            Self::Removed(name) => return write!(f, "MongoDB no longer has the command {name}"),
            Self::Internal("") => "it is a command that servers send each other",
            Self::Internal(name) => return write!(f, "{name} is a command that servers send each other"),
            Self::NoDatabase => "it does not name its database in the way of its kind of message",
            Self::DatabaseName => "it names a database as no database can be named",
            Self::CollectionName => "it names a collection as no collection can be named",
            Self::DuplicateKey => "a key stands twice in it",
            Self::TooManyArguments => "it has more arguments than any command",
            Self::UnknownDollarArgument => "it has an argument that begins with $ and is not known",
            Self::InternalArgument(name) => return write!(f, "its argument {name} is for servers among themselves"),
            Self::Session => "its lsid is more than the id of a session",
            Self::Argument(name) => return write!(f, "its argument {name} is missing or has a form that is not known"),
            Self::Explain => "what it explains is no command that can be explained there",
            Self::Sequence => "it has a document sequence that it cannot have",
            Self::Pipeline => "its pipeline is not an array of documents with one stage each",
            Self::UnknownStage => "a stage of its pipeline is not known",
            Self::InternalStage => "a stage of its pipeline is for servers among themselves",
            Self::Stage(name) => return write!(f, "its stage {name} has a form that is not known"),
            Self::StagePlace(name) => return write!(f, "its stage {name} stands where it cannot stand"),
            Self::TooDeep => "it is nested deeper than a server takes it",
            Self::TooManyPlaces => "it reaches more collections or cursors than one command may",
        })
    }
}
