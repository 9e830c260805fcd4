//! From a command's bytes to its meaning: the envelope, and what is the same for all commands.
//!
//! Reads the whole body, strictly: what is not understood is [`Unclear`], never a guess.

use smallvec::SmallVec;

use super::arguments;
use super::javascript::{self, Values};
use super::meaning::{Look, Meaning, Request, Sequence, needs_sequences, sequences_of};
use super::names;
use super::reach;
use super::reaches::Reaches;
use super::strict::{self, Documents, Fields, key};
use super::table::{self, Class, Command};
use super::unclear::Unclear;

/// Reads what `request` means.
///
/// Allocates nothing unless the command reaches more than two places or has more arguments than any driver sends. The
/// cost is bounded by the length of what is given.
///
/// Spec: the MongoDB manual § Database Commands, § Aggregation Stages; what mongod takes beyond them was tried on 6.0.5.
pub fn read<'a>(request: &Request<'a>, look: Look) -> Result<Meaning<'a>, Unclear> {
    let mut fields = Fields::default();
    fields.take_command(request.body)?;
    let command = command_of(&fields)?;
    let database = database_of(&fields, request.database)?;
    let mut sessions = SmallVec::new();
    arguments::check(command, &fields, &mut sessions)?;
    check_sequences(command, &fields, request.sequences)?;
    if command.class == Class::Wrapper {
        return read_explained(&fields, database, look, sessions);
    }
    Reader { sessions, ..Reader::new(command, database, &fields, request.sequences, look) }.meaning(false)
}

/// A command while it is read: what it is made of, and what was found so far.
pub(super) struct Reader<'a, 'r> {
    pub(super) command: &'static Command,
    pub(super) database: &'a str,
    pub(super) fields: &'r Fields<'a>,
    pub(super) sequences: &'r [Sequence<'a>],
    pub(super) look: Look,
    pub(super) reaches: Reaches<'a>,
    pub(super) javascript: bool,
    pub(super) cursors: SmallVec<[i64; 1]>,
    pub(super) sessions: SmallVec<[&'a [u8; 16]; 1]>,
}

impl<'a, 'r> Reader<'a, 'r> {
    fn new(
        command: &'static Command,
        database: &'a str,
        fields: &'r Fields<'a>,
        sequences: &'r [Sequence<'a>],
        look: Look,
    ) -> Self {
        let (reaches, javascript) = (Reaches::default(), false);
        let (cursors, sessions) = (SmallVec::new(), SmallVec::new());
        Self { command, database, fields, sequences, look, reaches, javascript, cursors, sessions }
    }

    fn meaning(mut self, explained: bool) -> Result<Meaning<'a>, Unclear> {
        reach::find(&mut self)?;
        if self.look.javascript {
            let fields = self.fields;
            for element in fields.iter().filter(|element| !reads_its_own_javascript(self.command, key(element))) {
                self.search_javascript(element, Values::Code)?;
            }
        }
        Ok(Meaning {
            command: self.command,
            explained,
            database: self.database,
            reaches: self.reaches.into_list(),
            javascript: self.javascript,
            cursors: self.cursors,
            sessions: self.sessions,
        })
    }

    /// Looks for JavaScript in one value, if that is asked for and none was found yet.
    pub(super) fn search_javascript(
        &mut self,
        element: &bson::raw::RawElement<'a>,
        values: Values,
    ) -> Result<(), Unclear> {
        if self.look.javascript && !self.javascript {
            self.javascript = javascript::is_in(element, values)?;
        }
        Ok(())
    }

    /// The documents of `field`, in the body or in a sequence.
    pub(super) fn documents(&self, field: &'static str) -> Result<Option<Documents<'a>>, Unclear> {
        if let Some(element) = self.fields.get(field) {
            let array = strict::array(element).ok_or(Unclear::Argument(field))?;
            return Ok(Some(Documents::Array(array.iter_elements())));
        }
        let sequence = self.sequences.iter().find(|sequence| sequence.identifier == field.as_bytes());
        if sequence.is_none() && needs_sequences(self.command, self.look) {
            return Err(Unclear::Argument(field));
        }
        Ok(sequence.map(|sequence| Documents::Sequence(sequence.documents)))
    }
}

/// Where stored values stand beside what is executed, the reader of the command looks for JavaScript itself.
fn reads_its_own_javascript(command: &Command, field: &str) -> bool {
    matches!(
        (command.name, field),
        ("insert", "documents") | ("update", "updates") | ("findAndModify", "update") | ("bulkWrite", "ops")
    )
}

/// The command is what the first element is called, and nothing else.
fn command_of(fields: &Fields<'_>) -> Result<&'static Command, Unclear> {
    let name = fields.first().map(key).ok_or(Unclear::NoCommand)?;
    match table::find(name.as_bytes()) {
        Some(command) if is_internal(command.name) => Err(Unclear::Internal(command.name)),
        Some(command) if command.class == Class::Legacy => Err(Unclear::Removed(command.name)),
        Some(command) => Ok(command),
        None if is_internal(name) => Err(Unclear::Internal("")),
        None => Err(Unclear::UnknownCommand),
    }
}

/// What members and routers of a cluster send each other, and the migrations that copy data to another host.
fn is_internal(name: &str) -> bool {
    const FAMILIES: [&str; 5] = ["_", "internalRename", "cluster", "donor", "recipient"];
    FAMILIES.iter().any(|family| name.starts_with(family)) || name.ends_with("ShardSplit") || name == "doTxn"
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

/// The command inside an `explain`; it is judged as if it were sent. A function of its own, so that the fields of nearly all
/// commands have a stack of half the size.
#[inline(never)]
fn read_explained<'a>(
    outer: &Fields<'a>,
    database: &'a str,
    look: Look,
    mut sessions: SmallVec<[&'a [u8; 16]; 1]>,
) -> Result<Meaning<'a>, Unclear> {
    let mut inner = Fields::default();
    inner.take_command(outer.first().and_then(strict::document).ok_or(Unclear::Explain)?)?;
    let command = command_of(&inner)?;
    let can_be = matches!(
        command.name,
        "aggregate" | "count" | "delete" | "distinct" | "find" | "findAndModify" | "mapReduce" | "update"
    );
    let stands_here = inner.get("$db").is_none_or(|inner| strict::text(inner) == Some(database));
    if !can_be || !stands_here {
        return Err(Unclear::Explain);
    }
    arguments::check(command, &inner, &mut sessions)?;
    Reader { sessions, ..Reader::new(command, database, &inner, &[], look) }.meaning(true)
}
