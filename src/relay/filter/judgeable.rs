//! How much of a request has to arrive before the policy can judge it, and which forms of a request it cannot judge.

use bson::RawDocument;

use crate::command;
use crate::command::{ReadOptions, Sequence, Unclear, table};
use crate::relay::filter::verdict::Hold;
use crate::relay::filter::view::RequestView;
use crate::relay::limits::{BODY_BYTES_MAX, HELD_BYTES_MAX, WAITING_BYTES_MAX};
use crate::wire::field_names::FieldFault;
use crate::wire::header::OpCode;
use crate::wire::request::RequestFacts;
use crate::wire::{op_msg, op_query};

/// What there is to judge of a request.
pub(in crate::relay) enum Judgeable<'a> {
    /// More of the request has to arrive.
    NeedMore(Hold),
    /// The request has a form that cannot be judged.
    Unclear(Unclear),
    /// A command.
    Command {
        body: &'a RawDocument,
        /// The database of an `OP_QUERY`.
        database: Option<&'a str>,
        /// The document sequences, if the policy needs them.
        sequences: Vec<Sequence<'a>>,
    },
}

/// What there is to judge of an `OP_MSG` or `OP_QUERY` that is read with `options`.
pub(in crate::relay) fn judgeable<'a>(request: &RequestView<'a>, options: ReadOptions<'_>) -> Judgeable<'a> {
    if let Some(unclear) = unclear_framing(request) {
        return Judgeable::Unclear(unclear);
    }
    if request.header.op_code == OpCode::QUERY {
        return query(request);
    }
    // A short message is held to its end: an error behind its body can still be answered then.
    if !request.is_whole() && request.length() <= WAITING_BYTES_MAX {
        return Judgeable::NeedMore(Hold::InInput);
    }
    let RequestView { message, scan, facts, .. } = *request;
    let command = facts.command().and_then(table::find);
    let needs_sequences = command.is_some_and(|command| command::needs_sequences(command, options));
    if !request.is_whole() && needs_sequences {
        return Judgeable::NeedMore(hold(request.length()));
    }
    let Some(body) = scan.body() else { return unfinished(request) };
    let sequences = if needs_sequences { op_msg::sequences(message) } else { Some(Vec::new()) };
    let (Some(Ok(body)), Some(sequences)) = (message.get(body).map(RawDocument::from_bytes), sequences) else {
        return Judgeable::Unclear(Unclear::NotBson);
    };
    let sequences = sequences.iter().map(|(identifier, documents)| Sequence { identifier, documents }).collect();
    Judgeable::Command { body, database: None, sequences }
}

/// An `OP_MSG` whose body has not arrived.
fn unfinished(request: &RequestView<'_>) -> Judgeable<'static> {
    match request.scan.body_end() {
        Some(end) if end > BODY_BYTES_MAX + HELD_BYTES_MAX => Judgeable::Unclear(Unclear::TooLong),
        // How much of the message is needed depends on the command: it may be more than the body.
        Some(_) if !request.facts.is_named() => Judgeable::NeedMore(Hold::InInput),
        Some(end) => Judgeable::NeedMore(hold(end)),
        // A document sequence precedes the body. No driver sends that; the message is held, up to the size of a body.
        None if request.facts.sequences().next().is_some() => match request.length() {
            length if length > BODY_BYTES_MAX => Judgeable::Unclear(Unclear::TooLong),
            length => Judgeable::NeedMore(hold(length)),
        },
        None => Judgeable::NeedMore(Hold::InInput),
    }
}

fn query<'a>(request: &RequestView<'a>) -> Judgeable<'a> {
    let is_command = request.facts.command().is_some() || !request.facts.is_named();
    if !is_command || request.length() > BODY_BYTES_MAX + HELD_BYTES_MAX {
        return Judgeable::Unclear(Unclear::OldQuery);
    }
    if !request.is_whole() {
        let is_named = request.facts.is_named();
        return Judgeable::NeedMore(if is_named { hold(request.length()) } else { Hold::InInput });
    }
    match op_query::command(request.message) {
        Some(query) => {
            Judgeable::Command { body: query.command, database: Some(query.database), sequences: Vec::new() }
        }
        None => Judgeable::Unclear(Unclear::OldQuery),
    }
}

/// How to hold a request until `bytes` of it have arrived.
pub(in crate::relay) fn hold(bytes: usize) -> Hold {
    if bytes > WAITING_BYTES_MAX { Hold::Apart(bytes) } else { Hold::InInput }
}

/// What in the framing of a request cannot be understood for sure.
fn unclear_framing(request: &RequestView<'_>) -> Option<Unclear> {
    let RequestView { header, scan, facts, .. } = *request;
    if scan.is_malformed() {
        return Some(Unclear::NotBson);
    }
    if header.op_code == OpCode::MSG && facts.has_unknown_flag() {
        return Some(Unclear::UnknownFlag);
    }
    if has_foreign_sequence(facts) {
        return Some(Unclear::Sequence);
    }
    if let Some(fault) = facts.field_fault() {
        return Some(unclear_document(fault));
    }
    // A hello is held in the input, to be rewritten there.
    (request.is_hello() && request.length() > HELD_BYTES_MAX).then_some(Unclear::TooLong)
}

/// What is wrong with a document of the request.
pub(in crate::relay) fn unclear_document(fault: FieldFault) -> Unclear {
    match fault {
        FieldFault::Duplicate => Unclear::DuplicateField,
        FieldFault::Malformed => Unclear::NotBson,
        FieldFault::TooDeep => Unclear::TooDeep,
    }
}

/// Whether the request has a document sequence that its command does not take, where the command is known.
pub(in crate::relay) fn has_foreign_sequence(facts: &RequestFacts) -> bool {
    let taken = || facts.command().and_then(table::find).map(command::sequences_of);
    let is_taken = |found: &[u8]| taken().is_some_and(|taken| taken.iter().any(|taken| taken.as_bytes() == found));
    facts.has_odd_sequence() || (facts.is_named() && !facts.sequences().all(is_taken))
}

/// The name of a message that cannot be judged, and mostly gets no reply.
pub(in crate::relay) fn unjudgeable(op_code: OpCode) -> &'static str {
    match op_code.0 {
        2001 => "the legacy opcode OP_UPDATE",
        2002 => "the legacy opcode OP_INSERT",
        2005 => "the legacy opcode OP_GET_MORE",
        2006 => "the legacy opcode OP_DELETE",
        2007 => "the legacy opcode OP_KILL_CURSORS",
        _ => "a message of an unknown type",
    }
}
