//! The first filter: asks the policy in force about each request.
//!
//! Parses each command body as a whole, and has the policy judge it. A command that cannot be understood is denied:
//! only bytes that were judged go upstream. Writes no log itself: findings go to the source of the policy.

use crate::command;
use crate::command::{Meaning, Request, Resource, Unclear, table};
use crate::policy::{Effect, ErrorCode, Grounds, Judgement, Sentence};
use crate::relay::end::EndReason;
use crate::relay::filter::findings::{Findings, Subject};
use crate::relay::filter::judgeable::{Judgeable, has_foreign_sequence, judgeable, unclear_document, unjudgeable};
use crate::relay::filter::judged_commands::{JudgedCommands, denies_reply};
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::names_permit::NamesPermit;
use crate::relay::filter::policy_source::{CursorError, EffectivePolicy, PolicySource};
use crate::relay::filter::reply::ReplyView;
use crate::relay::filter::request_changes::RequestChanges;
use crate::relay::filter::verdict::{Close, Hold, Verdict};
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::in_flight::InFlightRequest;
use crate::relay::judged_command::JudgedCommand;
use crate::relay::listed::Listed;
use crate::telemetry::policy_metrics::PolicyDecision;
use crate::wire::error_reply::CommandError;
use crate::wire::header::OpCode;
use crate::wire::reply::{ClusterTimes, ReplyFacts};
use crate::wire::request::RequestFacts;

mod early_denial;
mod replies;

/// Asks the policy about the requests of one connection.
pub struct PolicyFilter {
    source: Option<Box<dyn PolicySource>>,
    /// The version of the policy in `effective`.
    version: u64,
    effective: Option<EffectivePolicy>,
    /// A policy that came into force after the last request, for the replies that arrive meanwhile, and its version.
    newer: Option<Box<(u64, Option<EffectivePolicy>)>>,
    findings: Findings,
    /// What the replies to the current request list.
    listed: Option<Box<Listed>>,
    /// Whether any request of this connection had such replies.
    has_listed: bool,
    /// What has to change in the current request.
    pub(in crate::relay) changes: RequestChanges,
    judged: JudgedCommands,
    /// The times of the server's last reply under a policy; boxed, since a standalone server has none.
    times: Option<Box<ClusterTimes>>,
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
            newer: None,
            findings: Findings::default(),
            changes: RequestChanges::default(),
            judged: JudgedCommands::default(),
            listed: None,
            has_listed: false,
            times: None,
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
            (self.version, self.effective, self.newer) = (version, effective, None);
            if let Some(source) = &self.source {
                self.changes.map_session_ids(&**source);
            }
        }
        is_new
    }

    /// The version of the policy that has decided about the last request.
    pub(in crate::relay) fn version(&self) -> u64 {
        self.version
    }

    /// A new request begins: what was kept of the previous request is no longer needed.
    pub(in crate::relay) fn begin_request(&mut self) {
        self.changes.begin_request();
        self.judged.begin_request();
    }

    /// Whether a policy is in force.
    pub(in crate::relay) fn is_in_force(&self) -> bool {
        self.effective.is_some()
    }

    /// Decides about a request of which nothing has gone upstream. A request that was forwarded is not decided again.
    #[inline]
    pub(in crate::relay) fn inspect(&mut self, request: &RequestView<'_>) -> Verdict {
        // Without a policy, the common path: nothing was kept of earlier requests.
        if self.effective.is_none() && !self.changes.maps_session_ids() {
            return Verdict::Forward;
        }
        self.inspect_and_change(request)
    }

    fn inspect_and_change(&mut self, request: &RequestView<'_>) -> Verdict {
        self.listed = None;
        self.changes.begin_inspection();
        let verdict = match &self.effective {
            Some(_) => self.inspect_judged(request),
            // There was a policy, and the sessions of the client must stay the same.
            None => self.changes.hold_for_session_ids(request).map_or(Verdict::Forward, Verdict::NeedMore),
        };
        if matches!(verdict, Verdict::Forward) {
            self.changes.find(request, self.effective.is_some());
        }
        verdict
    }

    fn inspect_judged(&mut self, request: &RequestView<'_>) -> Verdict {
        self.has_refused_document = request.facts.field_fault().is_some();
        match request.header.op_code {
            OpCode::MSG | OpCode::QUERY if request.header.response_to == 0 => {}
            OpCode::MSG | OpCode::QUERY => return self.forward_or_close("a request that claims to be a reply"),
            op_code => return self.forward_or_close(unjudgeable(op_code)),
        }
        let Some(effective) = &self.effective else { return Verdict::Forward };
        match judgeable(request, effective.view.read_options()) {
            Judgeable::Command { body, database, sequences } => {
                self.judge(&Request { body, database, sequences: &sequences }, request)
            }
            // The request asks for more bytes than it has declared.
            Judgeable::NeedMore(_) if request.extent == Extent::Final => {
                self.deny_unclear(Unclear::NotBson, request.facts)
            }
            Judgeable::NeedMore(hold @ Hold::Apart(_)) => {
                self.certain_denial(request).unwrap_or(Verdict::NeedMore(hold))
            }
            Judgeable::NeedMore(hold) => Verdict::NeedMore(hold),
            Judgeable::Unclear(unclear) => self.deny_unclear(unclear, request.facts),
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
        self.effective.as_ref()?;
        if let Some(fault) = facts.field_fault() {
            return Some(unclear_document(fault));
        }
        let account = self.changes.hold_account()?;
        let is_covered = self.names_permit.covers(facts.field_names_held(), account);
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

    /// Whether a reply may not reach the client, because the policy has changed since the request went upstream.
    #[inline]
    pub(in crate::relay) fn denies_reply(&mut self, reply: &ReplyView<'_>) -> bool {
        let Some(source) = &self.source else { return false };
        let version = source.version();
        if reply.request().is_some_and(|request| request.policy_version == version) {
            return false;
        }
        self.in_force().is_some_and(|effective| denies_reply(effective, version, reply))
    }

    /// Takes the command of the current request, which [`PolicyFilter::note_reply`] gets with its reply.
    pub(in crate::relay) fn take_judged(&mut self) -> Option<Box<JudgedCommand>> {
        self.judged.take()
    }

    /// Remembers the owner and the command of the cursor that a reply opens, forgets the cursor that it ends, and keeps
    /// the times of the server.
    pub(in crate::relay) fn note_reply(&mut self, request: &mut InFlightRequest, reply: &ReplyFacts) {
        let Some(effective) = &self.effective else { return };
        self.judged.settle(request, reply, effective);
        if let Some(times) = reply.times() {
            match &mut self.times {
                Some(known) => **known = times,
                None => self.times = Some(Box::new(times)),
            }
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

    /// Logs the number of findings of each kind that was found more than once, and forgets them.
    pub(in crate::relay) fn log_totals(&mut self) {
        if let (Some(source), Some(effective)) = (&self.source, &self.effective) {
            self.findings.log_totals(effective, &**source);
        }
    }

    fn judge(&mut self, command: &Request<'_>, request: &RequestView<'_>) -> Verdict {
        let Some(effective) = &self.effective else { return Verdict::Forward };
        let meaning = match command::read(command, effective.view.read_options()) {
            Ok(meaning) => meaning,
            Err(unclear) => return self.deny_unknown(unclear, command::unknown_name(command), request.facts),
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
                Err(CursorError::Denied(denial, command)) => (judgement, opened_by) = (*denial, Some(command)),
            }
            judgement.notes.extend(notes);
        }
        if judgement.effect == Effect::Allow {
            self.changes.map_sessions(&meaning, request.message);
            self.judged.keep(&meaning, effective, self.version);
            let listed = |listing| Box::new(Listed { listing, database: meaning.database.into() });
            self.listed = meaning.listing.map(listed);
            if judgement.notes.is_empty() {
                // The common path: there is nothing to log.
                effective.count(judgement.grounds, PolicyDecision::Allow);
                return Verdict::Forward;
            }
        }
        let namespace = match &opened_by {
            Some(command) => namespace(&command.meaning(), judgement.reach),
            None => namespace(&meaning, judgement.reach),
        };
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

fn denied(sentence: &Sentence<'_>) -> Verdict {
    let ErrorCode { code, name } = sentence.code;
    LocalReply::Denied(CommandError { code, code_name: name, message: sentence.to_string() }).into()
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
