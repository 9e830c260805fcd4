//! From the bytes of a command to its meaning: the parts that are the same for all commands.
//!
//! Reads the whole body strictly. Anything that is not understood is an [`Unclear`] error, never a guess.

use bson::RawDocument;
use smallvec::SmallVec;

use super::arguments;
use super::javascript::ValueUse;
use super::known::plain_name;
use super::meaning::{Meaning, ReadOptions, Request, Sequence, sequences_of};
use super::names;
use super::reach::{self, TEST_COMMANDS};
use super::reader::Reader;
use super::stored;
use super::strict::{self, Fields, key};
use super::table::{self, Class, Command};
use super::unclear::Unclear;

/// Reads the meaning of `request`.
///
/// Does not allocate, unless the command reaches more than two resources or has more arguments than any driver sends.
/// The cost is bounded by the length of the request.
///
/// Spec: the MongoDB manual § Database Commands, § Aggregation Stages; the behaviour of mongod was tested with 6.0.5.
pub fn read<'a>(request: &Request<'a>, options: ReadOptions<'_>) -> Result<Meaning<'a>, Unclear> {
    let mut fields = Fields::default();
    fields.take_command(request.body)?;
    let command = command_of(&fields, options)?;
    let database = database_of(&fields, request.database)?;
    let mut sessions = SmallVec::new();
    arguments::check(command, &fields, &mut sessions)?;
    check_sequences(command, &fields, request.sequences)?;
    if command.class == Class::Wrapper {
        return read_explained(request.body, &fields, database, options, sessions);
    }
    let mut reader = Reader::new(command, database, &fields, request.sequences, options);
    reader.sessions = sessions;
    meaning(reader, request.body, false)
}

/// The name of the unknown command or stage, if [`read`] failed because of it. Reads the request a second time, so that
/// the common path does not keep names. `None` for a name that is not [plain](plain_name): the name is shown in logs
/// and errors.
pub fn unknown_name<'a>(request: &Request<'a>) -> Option<&'a str> {
    let mut fields = Fields::default();
    fields.take_command(request.body).ok()?;
    let first = fields.first()?;
    let mut inner = Fields::default();
    let explained = key(first) == "explain";
    if explained {
        inner.take_command(strict::document(first)?).ok()?;
    }
    let fields = if explained { &inner } else { &fields };
    let name = key(fields.first()?);
    let Some(command) = table::find(name.as_bytes()) else { return plain_name(name) };
    let database = request.database.or_else(|| request.body.get_str("$db").ok())?;
    let sequences = if explained { &[] } else { request.sequences };
    let mut reader = Reader::new(command, database, fields, sequences, ReadOptions::default());
    // The error is known already.
    let _ = reach::find(&mut reader);
    reader.reaches.unknown_stage.and_then(plain_name)
}

/// Whether the name is reserved for MongoDB servers. The operator cannot allow such a command.
pub fn is_reserved(name: &str) -> bool {
    is_internal(name)
}

/// The key of the first element names the command; no other element does.
fn command_of(fields: &Fields<'_>, options: ReadOptions<'_>) -> Result<&'static Command, Unclear> {
    command_named(fields.first().map(key).ok_or(Unclear::NoCommand)?, options)
}

/// The command of this name.
pub(super) fn command_named(name: &str, options: ReadOptions<'_>) -> Result<&'static Command, Unclear> {
    match table::find(name.as_bytes()) {
        Some(command) if is_internal(command.name) && !TEST_COMMANDS.contains(&command.name) => {
            Err(Unclear::Internal(command.name))
        }
        Some(command) if command.class == Class::Legacy => Err(Unclear::Removed(command.name)),
        Some(command) => Ok(command),
        None if is_internal(name) => Err(Unclear::Internal("")),
        None if options.known.is_some_and(|known| known.class_of(name).is_some()) => Ok(&table::KNOWN),
        None => Err(Unclear::UnknownCommand),
    }
}

/// Commands that mongod and mongos send to each other, and migrations that copy data to another host.
pub(super) fn is_internal(name: &str) -> bool {
    const FAMILIES: [&str; 5] = ["_", "internalRename", "cluster", "donor", "recipient"];
    const OTHERS: [&str; 3] = ["doTxn", "getQueryableEncryptionCountInfo", "replicateSearchIndexCommand"];
    FAMILIES.iter().any(|family| name.starts_with(family)) || name.ends_with("ShardSplit") || OTHERS.contains(&name)
}

fn database_of<'a>(fields: &Fields<'a>, of_query: Option<&'a str>) -> Result<&'a str, Unclear> {
    match (fields.get("$db"), of_query) {
        (Some(in_body), None) => names::database(strict::text(in_body).ok_or(Unclear::NoDatabase)?),
        (None, Some(of_query)) => names::database(of_query),
        _ => Err(Unclear::NoDatabase),
    }
}

fn check_sequences(command: &Command, fields: &Fields<'_>, sequences: &[Sequence<'_>]) -> Result<(), Unclear> {
    let taken = sequences_of(command);
    let mut rest = sequences;
    while let Some((sequence, others)) = rest.split_first() {
        let name = taken.iter().find(|name| name.as_bytes() == sequence.identifier).ok_or(Unclear::Sequence)?;
        if fields.get(name).is_some() || others.iter().any(|other| other.identifier == sequence.identifier) {
            return Err(Unclear::Sequence);
        }
        rest = others;
    }
    Ok(())
}

/// Reads the command inside an `explain`, as if a client had sent it. A separate function, so that all other commands
/// need only half the stack for their fields.
#[inline(never)]
fn read_explained<'a>(
    body: &RawDocument,
    outer: &Fields<'a>,
    database: &'a str,
    options: ReadOptions<'_>,
    mut sessions: SmallVec<[&'a [u8; 16]; 1]>,
) -> Result<Meaning<'a>, Unclear> {
    let mut inner = Fields::default();
    inner.take_command(outer.first().and_then(strict::document).ok_or(Unclear::Explain)?)?;
    let command = command_of(&inner, ReadOptions::default())?;
    let is_explainable = matches!(
        command.name,
        "aggregate" | "bulkWrite" | "count" | "delete" | "distinct" | "find" | "findAndModify" | "mapReduce" | "update"
    );
    let is_same_database = inner.get("$db").is_none_or(|inner| strict::text(inner) == Some(database));
    if !is_explainable || !is_same_database {
        return Err(Unclear::Explain);
    }
    arguments::check(command, &inner, &mut sessions)?;
    let mut reader = Reader::new(command, database, &inner, &[], options);
    reader.sessions = sessions;
    meaning(reader, body, true)
}

/// Finds what the command reaches, and JavaScript in it.
fn meaning<'a>(mut reader: Reader<'a, '_>, body: &RawDocument, explained: bool) -> Result<Meaning<'a>, Unclear> {
    reader.expect_stored_functions(body);
    reach::find(&mut reader)?;
    stored::check_literals(&reader, body)?;
    if reader.searches() {
        let fields = reader.fields;
        for element in fields.iter().filter(|element| !has_own_javascript_search(reader.command, key(element))) {
            reader.search_javascript(element, ValueUse::Evaluated)?;
        }
    }
    if reader.found.stored_functions {
        reader.reaches.add_stored_functions(reader.database)?;
    }
    Ok(Meaning {
        command: reader.command,
        explained,
        database: reader.database,
        reaches: reader.reaches.into_list(),
        javascript: reader.found.javascript,
        essential: reader.essential && !explained,
        listing: reader.listing,
        cursors: reader.cursors,
        sessions: reader.sessions,
    })
}

/// Whether the reader of the command searches this field itself, because the field mixes stored values with
/// expressions.
fn has_own_javascript_search(command: &Command, field: &str) -> bool {
    matches!(
        (command.name, field),
        ("insert", "documents") | ("update", "updates") | ("findAndModify", "update") | ("bulkWrite", "ops")
    )
}
