//! Why a command cannot be understood.

use std::fmt;

/// Why a command cannot be understood.
///
/// As text, it completes the sentence "the policy cannot judge this command: ...". The text contains no values. It
/// contains only names from the gateway's own tables of commands, stages and arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The bytes are not a valid BSON document.
    NotBson,
    /// The body is empty.
    NoCommand,
    /// The message has a flag bit that the wire protocol does not define.
    UnknownFlag,
    /// The message is longer than a command of its kind can be.
    TooLong,
    /// An `OP_QUERY` that is not one command.
    OldQuery,
    /// The command is not in the table.
    UnknownCommand,
    /// The command was removed from MongoDB.
    Removed(&'static str),
    /// Servers send this command to each other; clients do not need it. Empty if the name is not in the table.
    Internal(&'static str),
    /// `$db` is missing or not a string; or the body of an `OP_QUERY` has one.
    NoDatabase,
    /// MongoDB does not allow this database name.
    DatabaseName,
    /// The name of a collection is not a string, or MongoDB does not allow it.
    CollectionName,
    /// A key occurs twice where only one of the two would count.
    DuplicateKey,
    /// A document that is to be stored has a field twice.
    DuplicateField,
    /// A document that is to be stored has more fields than there is memory to compare their names.
    TooManyFields,
    /// More arguments than any command has.
    TooManyArguments,
    /// An unknown argument that begins with `$`.
    UnknownDollarArgument,
    /// An argument that only servers send.
    InternalArgument(&'static str),
    /// `lsid` is not a document, or has more fields than `id`.
    Session,
    /// A required argument is missing, or an argument has an unknown form.
    Argument(&'static str),
    /// The command inside `explain` cannot be explained, or is for another database.
    Explain,
    /// The command does not accept this document sequence, or the sequence occurs twice or in the body as well.
    Sequence,
    /// The pipeline is not an array of documents with one stage each.
    Pipeline,
    /// A stage is unknown.
    UnknownStage,
    /// A stage that only servers send to each other.
    InternalStage,
    /// A known stage has an unknown form.
    Stage(&'static str),
    /// A stage is at a position where it is not allowed: in a nested pipeline or in an update.
    StagePosition(&'static str),
    /// Pipelines or documents are nested more deeply than a server accepts.
    TooDeep,
    /// The command reaches more resources, or names more cursors, than the gateway tells apart.
    TooManyResources,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBson => "the body is not valid BSON",
            Self::UnknownFlag => "the message has an unknown flag",
            Self::TooLong => "the command is too long",
            Self::OldQuery => {
                "the legacy opcode OP_QUERY is accepted only for one command on <database>.$cmd; update the driver to \
                 a version that sends OP_MSG"
            }
            Self::NoCommand => "the body is empty",
            Self::UnknownCommand => "the command is unknown",
            Self::Removed(name) => return write!(f, "the command {name} was removed from MongoDB"),
            Self::Internal("") => "the command is reserved for MongoDB servers",
            Self::Internal(name) => return write!(f, "the command {name} is reserved for MongoDB servers"),
            Self::NoDatabase => "the database is missing, or is named where this kind of message does not name it",
            Self::DatabaseName => "the name of a database is not valid",
            Self::CollectionName => "the name of a collection is not valid",
            Self::DuplicateKey => "a key occurs twice",
            Self::DuplicateField => "a document has the same field twice",
            Self::TooManyFields => "a document has too many fields to compare their names",
            Self::TooManyArguments => "the command has too many arguments",
            Self::UnknownDollarArgument => "an argument that begins with $ is unknown",
            Self::InternalArgument(name) => return write!(f, "the argument {name} is reserved for MongoDB servers"),
            Self::Session => "lsid is not a plain session id",
            Self::Argument(name) => return write!(f, "the argument {name} is missing or has an unknown form"),
            Self::Explain => "explain does not contain a command that it can explain",
            Self::Sequence => "the command does not accept this document sequence",
            Self::Pipeline => "the pipeline is not an array of documents with one stage each",
            Self::UnknownStage => "the pipeline has an unknown stage",
            Self::InternalStage => "the pipeline has a stage that is reserved for MongoDB servers",
            Self::Stage(name) => return write!(f, "the stage {name} has an unknown form"),
            Self::StagePosition(name) => return write!(f, "the stage {name} is not allowed at this position"),
            Self::TooDeep => "it is nested too deeply",
            Self::TooManyResources => "the command reaches too many collections or cursors",
        })
    }
}
