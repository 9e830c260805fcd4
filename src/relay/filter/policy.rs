//! The first filter: asks the policy in force about each request.
//!
//! Parses each command body as a whole, and has the policy judge it. A command that cannot be understood is denied:
//! only bytes that were judged go upstream. Writes no log itself: findings go to the source of the policy.

use bson::RawDocument;

use crate::command;
use crate::command::{Meaning, Request, Resource, Sequence, Unclear, table};
use crate::policy::{Effect, ErrorCode, Grounds, Judgement, Sentence};
use crate::relay::end::EndReason;
use crate::relay::filter::findings::{Findings, Subject};
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::names_permit::NamesPermit;
use crate::relay::filter::policy_source::{CURSOR_NOT_FOUND, EffectivePolicy, PolicySource};
use crate::relay::filter::verdict::{Close, Hold, Verdict};
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::hold_budget::HoldBudget;
use crate::relay::in_flight::InFlightRequest;
use crate::relay::limits::{HELD_BYTES_MAX, WAITING_BYTES_MAX};
use crate::telemetry::policy_metrics::PolicyDecision;
use crate::wire::error_reply::CommandError;
use crate::wire::field_names::FieldFault;
use crate::wire::header::OpCode;
use crate::wire::reply::ReplyFacts;
use crate::wire::request::RequestFacts;
use crate::wire::{op_msg, op_query};

/// mongod's own limit for a command body: 16 MiB and 16 KiB.
const BODY_BYTES_MAX: usize = 16_793_600;

/// Asks the policy about the requests of one connection.
pub struct PolicyFilter {
    source: Option<Box<dyn PolicySource>>,
    /// The version of the policy in `effective`.
    version: u64,
    effective: Option<EffectivePolicy>,
    findings: Findings,
    names_permit: NamesPermit,
    /// Whether a document of the current request was refused, or would have been.
    has_refused_document: bool,
}

impl PolicyFilter {
    /// Follows the policy of `source`, which is asked for every request whether it has changed.
    pub fn new(source: Box<dyn PolicySource>) -> Self {
        // No source has this version, so that the first request fetches the policy.
        Self { source: Some(source), version: u64::MAX, ..Self::off() }
    }

    /// Allows every request.
    pub fn off() -> Self {
        Self {
            source: None,
            version: 0,
            effective: None,
            findings: Findings::default(),
            names_permit: NamesPermit::default(),
            has_refused_document: false,
        }
    }

    /// Takes the policy that is in force now, for a request of which nothing has gone upstream. Returns whether it is
    /// another one than before.
    pub(in crate::relay) fn refresh(&mut self) -> bool {
        let Some(source) = &self.source else { return false };
        let version = source.version();
        let is_new = version != self.version;
        if is_new {
            let effective = source.effective_policy();
            // The findings so far are about rules of the previous policy.
            self.log_totals();
            (self.version, self.effective) = (version, effective);
        }
        is_new
    }

    /// Whether a policy is in force.
    pub(in crate::relay) fn is_in_force(&self) -> bool {
        self.effective.is_some()
    }

    /// Decides about a request of which nothing has gone upstream. A request that was forwarded is not decided again.
    pub(in crate::relay) fn inspect(&mut self, request: &RequestView<'_>) -> Verdict {
        if self.effective.is_none() {
            return Verdict::Forward;
        }
        self.has_refused_document = request.facts.field_fault().is_some();
        match request.header.op_code {
            OpCode::MSG | OpCode::QUERY if request.header.response_to == 0 => {}
            OpCode::MSG | OpCode::QUERY => return self.forward_or_close("a request that claims to be a reply"),
            _ => return self.forward_or_close("a message of a type that no policy can judge"),
        }
        match self.judge_request(request) {
            // The request asks for more bytes than it has declared.
            Verdict::NeedMore(_) if request.extent == Extent::Final => {
                self.deny_unclear(Unclear::NotBson, request.facts)
            }
            verdict => verdict,
        }
    }

    /// Decides about a stream whose message boundaries are lost.
    pub(in crate::relay) fn inspect_unframed(&mut self) -> Verdict {
        self.forward_or_close("an impossible message length")
    }

    /// Whether what follows the part of a request that was judged ends the connection. Part of the request may have
    /// gone upstream, so that it can only be cut short; mongod does not execute a message that never ends.
    pub(in crate::relay) fn inspect_rest(&mut self, request: &RequestView<'_>) -> Option<Box<Close>> {
        if let Some(unclear) = self.unclear_documents(request.facts) {
            return self.cut_short(unclear, request);
        }
        let effective = self.effective.as_ref()?;
        let is_odd = request.scan.is_malformed() || has_foreign_sequence(request.facts);
        if !is_odd || !effective.denies_unclear() {
            return None;
        }
        match self.forward_or_close("a message whose end contradicts its beginning") {
            Verdict::Close(close) => Some(close),
            _ => None,
        }
    }

    /// What is wrong with the documents of a request that is being forwarded.
    fn unclear_documents(&mut self, facts: &RequestFacts) -> Option<Unclear> {
        let effective = self.effective.as_ref()?;
        if let Some(fault) = facts.field_fault() {
            return Some(unclear_document(fault));
        }
        let is_covered = self.names_permit.covers(facts.field_names_held(), &effective.hold_budget);
        (!is_covered).then_some(Unclear::TooManyFields)
    }

    /// Ends the connection of a client that sends a document that may not be stored; a dry run forwards it. The client
    /// gets the error if it reads replies at all. mongod gets a message that never ends, and does not execute it.
    fn cut_short(&mut self, unclear: Unclear, request: &RequestView<'_>) -> Option<Box<Close>> {
        // A dry run gets here again with each piece of the request.
        if std::mem::replace(&mut self.has_refused_document, true) {
            return None;
        }
        let Verdict::Reply(reply) = self.deny_unclear(unclear, request.facts) else { return None };
        let is_silent = request.facts.more_to_come();
        let final_reply = if is_silent { Vec::new() } else { reply.to_message(request.header) };
        Some(Box::new(Close { reason: EndReason::RefusedDocument(unclear), final_reply }))
    }

    /// Remembers the owner of the cursor that a reply opens or ends.
    pub(in crate::relay) fn note_reply(&self, request: &InFlightRequest, reply: &ReplyFacts) {
        let Some(effective) = &self.effective else { return };
        match (request.cursor, reply.cursor().filter(|id| *id != 0)) {
            (None, Some(id)) => effective.cursors.add(id, &effective.caller, self.version),
            (Some(id), None) if reply.cursor().is_some() || reply.code() == Some(CURSOR_NOT_FOUND.code) => {
                effective.cursors.forget(id);
            }
            _ => {}
        }
    }

    /// The budget for requests that are held apart; `None` without a policy.
    pub(in crate::relay) fn hold_budget(&self) -> Option<&HoldBudget> {
        self.effective.as_ref().map(|effective| &effective.hold_budget)
    }

    /// Logs the number of findings of each kind that was found more than once, and forgets them.
    pub(in crate::relay) fn log_totals(&mut self) {
        if let (Some(source), Some(effective)) = (&self.source, &self.effective) {
            self.findings.log_totals(effective, &**source);
        }
    }

    /// Judges a request, or says how much of it has to arrive first.
    fn judge_request(&mut self, request: &RequestView<'_>) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let RequestView { message, scan, facts, .. } = *request;
        if let Some(unclear) = unclear_framing(request) {
            return self.deny_unclear(unclear, facts);
        }
        if request.header.op_code == OpCode::QUERY {
            return if request.is_whole() { self.judge_query(request) } else { hold(request.length()) };
        }
        // A short message is held to its end: an error behind its body can still be answered then.
        if !request.is_whole() && request.length() <= WAITING_BYTES_MAX {
            return Verdict::NeedMore(Hold::InInput);
        }
        let command = facts.command().and_then(table::find);
        let needs_sequences =
            command.is_some_and(|command| command::needs_sequences(command, effective.view.read_options()));
        if !request.is_whole() && needs_sequences {
            return hold(request.length());
        }
        match (scan.body(), scan.body_end()) {
            (Some(body), _) => {
                let sequences = if needs_sequences { op_msg::sequences(message) } else { Some(Vec::new()) };
                match (message.get(body).map(RawDocument::from_bytes), sequences) {
                    (Some(Ok(body)), Some(sequences)) => self.judge(body, None, &sequences, facts),
                    _ => self.deny_unclear(Unclear::NotBson, facts),
                }
            }
            (None, Some(end)) if end > BODY_BYTES_MAX + HELD_BYTES_MAX => self.deny_unclear(Unclear::TooLong, facts),
            // How much of the message is needed depends on the command: it may be more than the body.
            (None, Some(_)) if !facts.is_named() => Verdict::NeedMore(Hold::InInput),
            (None, Some(end)) => hold(end),
            // A document sequence precedes the body. No driver sends that; the message is held, up to the size of a
            // body.
            (None, None) if facts.sequences().next().is_some() => match request.length() {
                length if length > BODY_BYTES_MAX => self.deny_unclear(Unclear::TooLong, facts),
                length => hold(length),
            },
            (None, None) => Verdict::NeedMore(Hold::InInput),
        }
    }

    fn judge_query(&mut self, request: &RequestView<'_>) -> Verdict {
        match op_query::command(request.message) {
            Some(query) if request.is_hello() => self.judge(query.command, Some(query.database), &[], request.facts),
            _ => self.deny_unclear(Unclear::OldQuery, request.facts),
        }
    }

    fn judge(
        &mut self,
        body: &RawDocument,
        database: Option<&str>,
        sequences: &[(&[u8], &[u8])],
        facts: &RequestFacts,
    ) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let sequences: Vec<_> =
            sequences.iter().map(|(identifier, documents)| Sequence { identifier, documents }).collect();
        let request = Request { body, database, sequences: &sequences };
        let meaning = match command::read(&request, effective.view.read_options()) {
            Ok(meaning) => meaning,
            Err(unclear) => return self.deny_unknown(unclear, command::unknown_name(&request), facts),
        };
        let mut judgement = effective.view.judge(&meaning);
        let mut code = ErrorCode::UNAUTHORIZED;
        if judgement.effect == Effect::Allow
            && let Some(error) = effective.cursor_error(&meaning, self.version)
        {
            let notes = std::mem::take(&mut judgement.notes);
            judgement = effective.view.deny(Grounds::Cursor);
            judgement.notes.extend(notes);
            code = error;
        }
        let verdict = match judgement.effect {
            Effect::Allow => Verdict::Forward,
            Effect::Deny => denied(&Sentence {
                policy: &effective.policy,
                grounds: judgement.grounds,
                database: Some(meaning.database),
                command: Some(meaning.command.name),
                unclear: None,
                name: None,
                code,
            }),
        };
        if judgement.effect == Effect::Allow && judgement.notes.is_empty() {
            // The common path: there is nothing to log.
            effective.count(judgement.grounds, PolicyDecision::Allow);
            return verdict;
        }
        let namespace = namespace(&meaning, judgement.reach);
        let subject = Subject { command: Some(meaning.command.name), namespace: &namespace, unclear: None };
        self.add_finding(&judgement, subject);
        verdict
    }

    /// Denies a request that cannot be understood; a dry run forwards it.
    fn deny_unclear(&mut self, unclear: Unclear, facts: &RequestFacts) -> Verdict {
        self.deny_unknown(unclear, None, facts)
    }

    /// The same, with the name of the unknown command or stage if it can be shown.
    fn deny_unknown(&mut self, unclear: Unclear, name: Option<&str>, facts: &RequestFacts) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let judgement = effective.view.deny(Grounds::Unclear);
        let command = facts.command().and_then(table::find).map(|command| command.name);
        let database = facts.database().map(|name| name.to_text()).filter(|name| is_plain(name));
        let verdict = match judgement.effect {
            Effect::Allow => Verdict::Forward,
            Effect::Deny => denied(&Sentence {
                policy: &effective.policy,
                grounds: judgement.grounds,
                database: database.as_deref(),
                command,
                unclear: Some(unclear),
                name,
                code: effective.view.code_of(unclear),
            }),
        };
        let namespace = database.as_deref().unwrap_or_default();
        self.add_finding(&judgement, Subject { command: command.or(name), namespace, unclear: Some(unclear) });
        verdict
    }

    /// Closes the connection on what can be neither judged nor answered; a dry run forwards it.
    fn forward_or_close(&mut self, what: &'static str) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let judgement = effective.view.deny(Grounds::Unclear);
        self.add_finding(&judgement, Subject::default());
        match judgement.effect {
            Effect::Allow => Verdict::Forward,
            Effect::Deny => Verdict::close(EndReason::Unjudged(what)),
        }
    }

    fn add_finding(&mut self, judgement: &Judgement, subject: Subject<'_>) {
        if let (Some(source), Some(effective)) = (&self.source, &self.effective) {
            self.findings.add(judgement, subject, effective, &**source);
        }
    }
}

/// Holds a request until `bytes` of it have arrived.
fn hold(bytes: usize) -> Verdict {
    Verdict::NeedMore(if bytes > WAITING_BYTES_MAX { Hold::Apart(bytes) } else { Hold::InInput })
}

fn denied(sentence: &Sentence<'_>) -> Verdict {
    let ErrorCode { code, name } = sentence.code;
    LocalReply::Denied(CommandError { code, code_name: name, message: sentence.to_string() }).into()
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
    let is_held_whole = request.is_hello() || header.op_code == OpCode::QUERY;
    (is_held_whole && request.length() > HELD_BYTES_MAX).then_some(Unclear::TooLong)
}

fn unclear_document(fault: FieldFault) -> Unclear {
    match fault {
        FieldFault::Duplicate => Unclear::DuplicateField,
        FieldFault::Malformed => Unclear::NotBson,
        FieldFault::TooDeep => Unclear::TooDeep,
    }
}

/// Whether the request has a document sequence that its command does not take, where the command is known.
fn has_foreign_sequence(facts: &RequestFacts) -> bool {
    let taken = || facts.command().and_then(table::find).map(command::sequences_of);
    let is_taken = |found: &[u8]| taken().is_some_and(|taken| taken.iter().any(|taken| taken.as_bytes() == found));
    facts.has_odd_sequence() || (facts.is_named() && !facts.sequences().all(is_taken))
}

/// The namespace that decided, or else the command's own.
fn namespace(meaning: &Meaning<'_>, reach: Option<usize>) -> String {
    let reach = meaning.reaches.get(reach.unwrap_or_default());
    match reach.map(|reach| reach.resource) {
        Some(
            Resource::Collection { database, collection } | Resource::SystemCollection { database, collection, .. },
        ) => {
            format!("{database}.{collection}")
        }
        Some(Resource::Database(database) | Resource::WholeDatabase(database)) => database.to_owned(),
        Some(Resource::WholeServer) => "*".to_owned(),
        Some(Resource::NoNamespace) | None => String::new(),
    }
}

/// Whether a database name from the wire can be quoted in an error message.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$'))
}
