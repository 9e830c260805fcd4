//! The first filter: asks the policy in force about each request.
//!
//! Parses each command body as a whole, and has the policy judge it. A command that cannot be understood is denied:
//! only bytes that were judged go upstream. Writes no log itself: findings go to the source of the policy.

use bson::RawDocument;

use crate::command;
use crate::command::table::{Class, Command};
use crate::command::{Meaning, Request, Resource, Sequence, Unclear, table};
use crate::policy::{Effect, ErrorCode, Grounds, Judgement, SESSION_ID_BYTES, Sentence};
use crate::relay::cursors::CursorOrigin;
use crate::relay::end::EndReason;
use crate::relay::filter::findings::{Findings, Subject};
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::patches::Patches;
use crate::relay::filter::policy_source::{CURSOR_NOT_FOUND, CursorError, EffectivePolicy, PolicySource};
use crate::relay::filter::session_ids::SessionIds;
use crate::relay::filter::verdict::{Close, Hold, Verdict};
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::hold_budget::HoldBudget;
use crate::relay::in_flight::InFlightRequest;
use crate::relay::limits::{HELD_BYTES_MAX, WAITING_BYTES_MAX};
use crate::relay::listed::Listed;
use crate::telemetry::policy_metrics::PolicyDecision;
use crate::wire::error_reply::CommandError;
use crate::wire::header::OpCode;
use crate::wire::reply::{ClusterTimes, ReplyFacts};
use crate::wire::request::RequestFacts;
use crate::wire::{op_msg, op_query};

mod replies;

/// mongod's own limit for a command body: 16 MiB and 16 KiB.
const BODY_BYTES_MAX: usize = 16_793_600;

/// Asks the policy about the requests of one connection.
pub struct PolicyFilter {
    source: Option<Box<dyn PolicySource>>,
    /// The version of the policy in `effective`.
    version: u64,
    effective: Option<EffectivePolicy>,
    findings: Findings,
    /// What the replies to the current request list.
    listed: Option<Box<Listed>>,
    /// Whether any request of this connection had such replies.
    has_listed: bool,
    /// The policy that came into force after the one that judges requests, with its version; for replies only.
    newer: Option<Box<(u64, Option<EffectivePolicy>)>>,
    /// Maps session ids, from the first request that was read under a policy.
    session_ids: Option<Box<SessionIds>>,
    /// What has to change in the current request.
    patches: Patches,
    /// Whether judging the request has found its sessions.
    has_found_sessions: bool,
    /// Whether that has been changed. A request that is judged again, by another policy, is not changed again.
    is_patched: bool,
    /// A version of the policy, and whether it ends streams that no policy has judged.
    ends_streams: (u64, bool),
    /// The times of the server's last reply under a policy; boxed, since a standalone server has none.
    times: Option<Box<ClusterTimes>>,
    /// Of the current request, what its cursor will remember if it opens one.
    origin: Option<Box<CursorOrigin>>,
    /// Memory for the next one.
    spare_origin: Option<Box<CursorOrigin>>,
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
            listed: None,
            has_listed: false,
            newer: None,
            session_ids: None,
            patches: Patches::default(),
            has_found_sessions: false,
            is_patched: false,
            ends_streams: (u64::MAX, false),
            times: None,
            origin: None,
            spare_origin: None,
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
            self.newer = None;
            if let (None, Some(effective)) = (&self.session_ids, &self.effective) {
                let (owner, hold_budget) = (effective.session_owner.clone(), effective.hold_budget.clone());
                self.session_ids = Some(Box::new(SessionIds::new(owner, hold_budget)));
            }
        }
        is_new
    }

    /// Decides about a request of which nothing has gone upstream. A request that was forwarded is not decided again.
    pub(in crate::relay) fn inspect(&mut self, request: &RequestView<'_>) -> Verdict {
        self.listed = None;
        (self.patches, self.has_found_sessions) = (Patches::default(), false);
        let verdict = match &self.effective {
            Some(_) => self.inspect_judged(request),
            None => self.inspect_unjudged(request),
        };
        if matches!(verdict, Verdict::Forward) {
            self.patch(request);
        }
        verdict
    }

    fn inspect_judged(&mut self, request: &RequestView<'_>) -> Verdict {
        match request.header.op_code {
            OpCode::MSG | OpCode::QUERY if request.header.response_to == 0 => {}
            OpCode::MSG | OpCode::QUERY => return self.forward_or_close("a request that claims to be a reply"),
            op_code => return self.forward_or_close(unjudgeable(op_code)),
        }
        match self.judge_request(request) {
            // The request asks for more bytes than it has declared.
            Verdict::NeedMore(_) if request.extent == Extent::Final => {
                self.deny_unclear(Unclear::NotBson, request.facts)
            }
            verdict => verdict,
        }
    }

    /// Forwards a request that no policy judges, and holds it until its session ids can be mapped: the client's
    /// sessions have been mapped before, and have to remain the same.
    fn inspect_unjudged(&self, request: &RequestView<'_>) -> Verdict {
        let RequestView { scan, header, .. } = *request;
        let is_final = request.extent == Extent::Final || request.is_whole() || scan.is_malformed();
        if self.session_ids.is_none() || is_final || scan.body().is_some() {
            return Verdict::Forward;
        }
        let needed = match (header.op_code, scan.body_end()) {
            (OpCode::MSG, Some(end)) => end,
            (OpCode::MSG, None) if request.facts.sequences().next().is_none() => {
                return Verdict::NeedMore(Hold::InInput);
            }
            (OpCode::MSG | OpCode::QUERY, _) => request.length(),
            _ => return Verdict::Forward,
        };
        // mongod takes no body that is longer.
        if needed > BODY_BYTES_MAX + HELD_BYTES_MAX { Verdict::Forward } else { hold(needed) }
    }

    /// Finds what has to change in a request that the policy lets pass, where that has not been found by judging it.
    fn patch(&mut self, request: &RequestView<'_>) {
        if self.is_patched {
            self.patches = Patches::default();
            return;
        }
        let facts = request.facts;
        if self.effective.is_some() && facts.exhaust_allowed() && !request.is_hello() {
            self.patches.clear_exhaust(facts.flags());
        }
        if !self.has_found_sessions
            && let Some(session_ids) = &mut self.session_ids
            && let Some(body) = request.command()
        {
            for id in command::session_ids(body) {
                self.patches.add_session_id(position(id, request.message), session_ids.id_in_mongod(id));
            }
        }
    }

    /// Whether the request that was decided about last has to change before it goes upstream.
    pub(in crate::relay) fn has_patches(&self) -> bool {
        !self.patches.is_empty()
    }

    /// Takes what has to change in the request.
    pub(in crate::relay) fn take_patches(&mut self) -> Patches {
        self.is_patched = true;
        std::mem::take(&mut self.patches)
    }

    /// Whether a policy is in force now. A stream of replies has begun without one, since under a policy none may
    /// begin.
    pub(in crate::relay) fn ends_streams(&mut self) -> bool {
        let Some(source) = &self.source else { return false };
        let version = source.version();
        if version == self.version {
            return self.effective.is_some();
        }
        if version != self.ends_streams.0 {
            self.ends_streams = (version, source.effective_policy().is_some());
        }
        self.ends_streams.1
    }

    /// Decides about a stream whose message boundaries are lost.
    pub(in crate::relay) fn inspect_unframed(&mut self) -> Verdict {
        self.forward_or_close("an impossible message length")
    }

    /// Whether what follows the part of a request that was judged ends the connection. Part of the request may have
    /// gone upstream, so that it can only be cut short; mongod does not execute a message that never ends.
    pub(in crate::relay) fn inspect_rest(&mut self, request: &RequestView<'_>) -> Option<Box<Close>> {
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

    /// A new request begins: what was kept of the previous request is no longer needed.
    pub(in crate::relay) fn begin_request(&mut self) {
        self.is_patched = false;
        if self.origin.is_some() {
            self.spare_origin = self.origin.take();
        }
    }

    /// Takes what the cursor of the current request will remember if it opens one; [`PolicyFilter::note_reply`] gets it
    /// with the reply.
    pub(in crate::relay) fn take_origin(&mut self) -> Option<Box<CursorOrigin>> {
        self.origin.take()
    }

    /// Remembers the owner and the origin of the cursor that a reply opens, and forgets the cursor that it ends.
    pub(in crate::relay) fn note_reply(&mut self, request: &mut InFlightRequest, reply: &ReplyFacts) {
        let origin = request.origin.take();
        if let Some(times) = reply.times() {
            match &mut self.times {
                Some(known) => **known = times,
                None => self.times = Some(Box::new(times)),
            }
        }
        let Some(effective) = &self.effective else { return };
        match (request.cursor, reply.cursor().filter(|id| *id != 0), origin) {
            // Without an origin nothing is known about the cursor, and no caller may read it.
            (None, Some(id), Some(origin)) => return effective.cursors.add(id, &effective.caller, *origin),
            (Some(id), None, _) if reply.cursor().is_some() || reply.code() == Some(CURSOR_NOT_FOUND.code) => {
                effective.cursors.forget(id);
            }
            (_, _, Some(origin)) => self.spare_origin = Some(origin),
            _ => {}
        }
    }

    /// Whether the times of replies are needed.
    pub(in crate::relay) fn keeps_times(&self) -> bool {
        self.effective.is_some()
    }

    /// The times of the server's last reply, for the reply to a request that is denied.
    pub(in crate::relay) fn times(&self) -> Option<&ClusterTimes> {
        self.times.as_deref()
    }

    /// The budget for requests that are held apart; `None` before there is a policy.
    pub(in crate::relay) fn hold_budget(&self) -> Option<&HoldBudget> {
        self.session_ids.as_ref().map(|session_ids| &session_ids.hold_budget)
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
            return self.judge_query(request);
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
                    (Some(Ok(body)), Some(sequences)) => self.judge(body, None, &sequences, request),
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
        let is_command = request.facts.command().is_some() || !request.facts.is_named();
        if !is_command || request.length() > BODY_BYTES_MAX + HELD_BYTES_MAX {
            return self.deny_unclear(Unclear::OldQuery, request.facts);
        }
        if !request.is_whole() {
            let is_named = request.facts.is_named();
            return if is_named { hold(request.length()) } else { Verdict::NeedMore(Hold::InInput) };
        }
        match op_query::command(request.message) {
            Some(query) => self.judge(query.command, Some(query.database), &[], request),
            _ => self.deny_unclear(Unclear::OldQuery, request.facts),
        }
    }

    fn judge(
        &mut self,
        body: &RawDocument,
        database: Option<&str>,
        sequences: &[(&[u8], &[u8])],
        view: &RequestView<'_>,
    ) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let sequences: Vec<_> =
            sequences.iter().map(|(identifier, documents)| Sequence { identifier, documents }).collect();
        let request = Request { body, database, sequences: &sequences };
        let meaning = match command::read(&request, effective.view.read_options()) {
            Ok(meaning) => meaning,
            Err(unclear) => return self.deny_unknown(unclear, command::unknown_name(&request), view.facts),
        };
        let mut judgement = effective.view.judge(&meaning);
        let (mut code, mut opened_by) = (ErrorCode::UNAUTHORIZED, None);
        if judgement.effect == Effect::Allow && !meaning.cursors.is_empty() {
            let mut notes = std::mem::take(&mut judgement.notes);
            match effective.check_cursors(&meaning, self.version) {
                Ok(found) => notes.extend(found.into_iter().flat_map(|found| found.notes)),
                Err(CursorError::Unusable(error)) => {
                    judgement = effective.view.deny(Grounds::Cursor);
                    code = error;
                }
                Err(CursorError::Denied(denial, origin)) => (judgement, opened_by) = (*denial, Some(origin)),
            }
            judgement.notes.extend(notes);
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
        if judgement.effect == Effect::Allow
            && let Some(listing) = meaning.listing
        {
            self.listed = Some(Box::new(Listed { listing, database: meaning.database.into() }));
        }
        if judgement.effect == Effect::Allow
            && let Some(session_ids) = &mut self.session_ids
        {
            self.has_found_sessions = true;
            for id in &meaning.sessions {
                self.patches.add_session_id(position(*id, view.message), session_ids.id_in_mongod(id));
            }
        }
        if judgement.effect == Effect::Allow && may_open_cursor(meaning.command) {
            let origin = match self.spare_origin.take() {
                Some(mut origin) => {
                    origin.replace(&meaning, effective.view.read_options(), self.version);
                    origin
                }
                None => Box::new(CursorOrigin::new(&meaning, effective.view.read_options(), self.version)),
            };
            self.origin = Some(origin);
        }
        if judgement.effect == Effect::Allow && judgement.notes.is_empty() {
            // The common path: there is nothing to log.
            effective.count(judgement.grounds, PolicyDecision::Allow);
            return verdict;
        }
        let namespace = match &opened_by {
            Some(origin) => namespace(&origin.meaning.meaning(), judgement.reach),
            None => namespace(&meaning, judgement.reach),
        };
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
    // A hello is held in the input, to be rewritten there.
    (request.is_hello() && request.length() > HELD_BYTES_MAX).then_some(Unclear::TooLong)
}

/// Whether the request has a document sequence that its command does not take, where the command is known.
fn has_foreign_sequence(facts: &RequestFacts) -> bool {
    let taken = || facts.command().and_then(table::find).map(command::sequences_of);
    let is_taken = |found: &[u8]| taken().is_some_and(|taken| taken.iter().any(|taken| taken.as_bytes() == found));
    facts.has_odd_sequence() || (facts.is_named() && !facts.sequences().all(is_taken))
}

/// Whether the reply to a command may open a cursor. It is known for certain only that the frequent commands here do
/// not.
fn may_open_cursor(command: &Command) -> bool {
    match command.class {
        Class::Handshake | Class::Auth | Class::Session | Class::Write => command.name == "bulkWrite",
        _ => !matches!(command.name, "getMore" | "killCursors" | "count" | "distinct"),
    }
}

/// What a message is called that cannot be judged, and mostly gets no reply.
fn unjudgeable(op_code: OpCode) -> &'static str {
    match op_code.0 {
        2001 => "the legacy opcode OP_UPDATE",
        2002 => "the legacy opcode OP_INSERT",
        2005 => "the legacy opcode OP_GET_MORE",
        2006 => "the legacy opcode OP_DELETE",
        2007 => "the legacy opcode OP_KILL_CURSORS",
        _ => "a message of an unknown type",
    }
}

/// Where in `message` a session id is that is part of it.
fn position(id: &[u8; SESSION_ID_BYTES], message: &[u8]) -> usize {
    id.as_ptr().addr().wrapping_sub(message.as_ptr().addr())
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
