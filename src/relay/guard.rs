//! What stands between a request and upstream where a policy is in force.
//!
//! Reads each command body as a whole, asks the policy, and says what becomes of it. What cannot be read is refused: the
//! same bytes that were judged are those that go upstream, or none do. Decides nothing itself, and writes no log; whoever
//! gave it the policy does.

use std::sync::Arc;

use bson::RawDocument;

use crate::command;
use crate::command::{Meaning, Request, Resource, Sequence, Unclear, table};
use crate::policy::{Effect, ErrorCode, Grounds, Judgement, Note, Policy, RuleId, Sentence, View};
use crate::relay::cursors::{CursorBook, CursorOwnership};
use crate::relay::exchange::InFlightRequest;
use crate::relay::holding::HoldBudget;
use crate::relay::requests::{HELD_BYTES_MAX, WAITING_BYTES_MAX};
use crate::telemetry::policy_metrics::{PolicyDecision, PolicyMetrics};
use crate::wire::error_reply::CommandError;
use crate::wire::header::{Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;
use crate::wire::request::RequestFacts;
use crate::wire::{op_msg, op_query};

/// mongod's own limit of a command body: 16 MiB and 16 KiB.
const BODY_BYTES_MAX: usize = 16_793_600;

/// Kinds of findings that are told one by one, for one connection; what is beyond is only counted in the metrics.
const TOLD_MAX: usize = 64;

/// `MongoDB`'s code for what a user may not do.
const UNAUTHORIZED: (i32, &str) = (13, "Unauthorized");

/// For a cursor that nobody was given: what mongod answers too, and what lets a change stream begin again by itself.
const CURSOR_NOT_FOUND: (i32, &str) = (43, "CursorNotFound");

/// Where a connection's policy comes from, and where its findings go.
pub trait PolicySource: Send + Sync {
    /// Changes whenever [`PolicySource::orders`] would say something new. Asked for every message.
    fn version(&self) -> u64;
    /// The policy in force, as it looks from this connection's caller; `None` where everything passes.
    fn orders(&self) -> Option<EffectivePolicy>;
    /// A finding to be logged: the first of its kind, or at the end of a connection how many there were.
    fn tell(&self, finding: &Finding<'_>);
}

/// A policy as one connection is to follow it.
#[derive(Clone)]
pub struct EffectivePolicy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// As it looks from this connection's caller.
    pub view: Arc<View>,
    /// Counts its decisions, by the place that [`place_of`] tells.
    pub metrics: Arc<PolicyMetrics>,
    /// Who was given which cursor.
    pub cursors: Arc<CursorBook>,
    /// Whose cursors this caller's are.
    pub caller: Arc<str>,
    /// What may be held of bodies.
    pub holding: HoldBudget,
}

/// Something that the policy found, for the log.
#[derive(Debug)]
pub struct Finding<'a> {
    /// The rule, or what else decided.
    pub rule: &'a str,
    /// What follows from it.
    pub decision: PolicyDecision,
    /// The command; `None` where it has no name that is known.
    pub command: Option<&'static str>,
    /// `database.collection` as far as the finding is about one.
    pub namespace: &'a str,
    /// What was not understood.
    pub unclear: Option<Unclear>,
    /// 1 for the first; at the end of the connection all of them.
    pub count: u64,
}

/// The place of `grounds` among the counters of a policy with so many rules: the rules, then what is beside them.
pub fn place_of(grounds: Grounds, rules: usize) -> usize {
    match grounds {
        Grounds::Rule(RuleId(id)) => id as usize,
        other => rules + Grounds::WITHOUT_RULE.iter().position(|beside| *beside == other).unwrap_or_default(),
    }
}

/// The guard of one connection.
pub struct PolicyFilter {
    authority: Option<Box<dyn PolicySource>>,
    version: u64,
    orders: Option<EffectivePolicy>,
    told: Vec<(Grounds, PolicyDecision, u64)>,
}

/// What is to be done with a request.
pub(super) enum Look {
    /// More of it has to be here. How much of the message, from its start, where that is known.
    Later(Option<usize>),
    /// It may go upstream.
    Pass,
    /// It may not; the error is for the client.
    Refuse(CommandError),
}

/// A message that may not even be answered: the connection ends. Why, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unjudged(pub(super) &'static str);

impl PolicyFilter {
    /// Asks `authority` when a message comes.
    pub fn new(authority: Box<dyn PolicySource>) -> Self {
        // No authority has this version, so that the first message asks.
        Self { authority: Some(authority), version: u64::MAX, orders: None, told: Vec::new() }
    }

    /// Lets everything pass.
    pub fn off() -> Self {
        Self { authority: None, version: 0, orders: None, told: Vec::new() }
    }

    /// Takes the policy of this moment, for a message of which nothing has gone upstream. Whether it is another one.
    pub(super) fn follow(&mut self) -> bool {
        let Some(authority) = &self.authority else { return false };
        let version = authority.version();
        let changed = version != self.version;
        if changed {
            let orders = authority.orders();
            // What was told was told of the rules of the policy before.
            self.end();
            (self.version, self.orders) = (version, orders);
        }
        changed
    }

    /// A message begins: says whether there is a policy to look at it.
    pub(super) fn begin(&mut self, header: &Header) -> Result<bool, Unjudged> {
        if self.orders.is_none() {
            return Ok(false);
        }
        let why = match header.op_code {
            OpCode::MSG | OpCode::QUERY if header.response_to == 0 => return Ok(true),
            OpCode::MSG | OpCode::QUERY => "a request that claims to be a reply",
            _ => "a message of a kind that no policy can judge",
        };
        self.give_up(why).map(|()| false)
    }

    /// There is something that can be neither judged nor answered: it passes in a dry run only.
    pub(super) fn give_up(&mut self, why: &'static str) -> Result<(), Unjudged> {
        let Some(orders) = &self.orders else { return Ok(()) };
        let judgement = orders.view.deny(Grounds::Unclear);
        self.count(&judgement, None, "", None);
        if judgement.effect == Effect::Allow { Ok(()) } else { Err(Unjudged(why)) }
    }

    /// Looks at a request of which `message` is here, from its start.
    pub(super) fn look(&mut self, message: &[u8], header: &Header, scan: &MessageScan, facts: &RequestFacts) -> Look {
        let Some(orders) = &self.orders else { return Look::Pass };
        let whole = scan.left() == 0;
        if let Some(unclear) = odd(header, scan, facts) {
            return self.refuse_unclear(unclear, facts);
        }
        if header.op_code == OpCode::QUERY {
            return if whole { self.judge_query(message, facts) } else { Look::Later(Some(header.length as usize)) };
        }
        // A short message waits for its end: what is wrong behind its body can still be answered then.
        if !whole && header.length as usize <= WAITING_BYTES_MAX {
            return Look::Later(None);
        }
        let command = facts.command().and_then(table::find);
        let look = orders.view.read_options();
        if !whole && command.is_some_and(|command| command::needs_sequences(command, look)) {
            return Look::Later(Some(header.length as usize));
        }
        match (scan.body(), scan.body_end()) {
            (Some(body), _) => {
                let sequences = match command {
                    Some(command) if command::needs_sequences(command, look) => op_msg::sequences(message),
                    _ => Some(Vec::new()),
                };
                match (message.get(body).map(RawDocument::from_bytes), sequences) {
                    (Some(Ok(body)), Some(sequences)) => self.judge(body, None, &sequences, facts),
                    _ => self.refuse_unclear(Unclear::NotBson, facts),
                }
            }
            (None, Some(end)) if end > BODY_BYTES_MAX + HELD_BYTES_MAX => self.refuse_unclear(Unclear::TooLong, facts),
            // How much of it is wanted depends on the command: it may be more than the body.
            (None, Some(_)) if !facts.is_named() => Look::Later(None),
            (None, Some(end)) => Look::Later(Some(end)),
            // A sequence stands before the body. No driver does that; it is held as a body is, and no longer.
            (None, None) if facts.sequences().next().is_some() => match header.length as usize {
                length if length > BODY_BYTES_MAX => self.refuse_unclear(Unclear::TooLong, facts),
                length => Look::Later(Some(length)),
            },
            (None, None) => Look::Later(None),
        }
    }

    /// Looks at a request of which all that was asked for is here: if that does not suffice, nobody can be sure of it.
    pub(super) fn decide(
        &mut self,
        message: &[u8],
        header: &Header,
        scan: &MessageScan,
        facts: &RequestFacts,
    ) -> Result<(), CommandError> {
        let look = match self.look(message, header, scan, facts) {
            Look::Later(_) => self.refuse_unclear(Unclear::NotBson, facts),
            look => look,
        };
        if let Look::Refuse(error) = look { Err(error) } else { Ok(()) }
    }

    /// Whether what comes behind a body that was judged is still what was judged. Some of the message may have gone
    /// upstream, so that it can only be cut short; mongod does nothing about a message that never ends.
    pub(super) fn check_rest(&mut self, scan: &MessageScan, facts: &RequestFacts) -> Result<(), Unjudged> {
        let is_odd = scan.is_malformed() || has_foreign_sequence(facts);
        if is_odd && self.orders.as_ref().is_some_and(EffectivePolicy::enforce) {
            return self.give_up("a message that goes on otherwise than it began");
        }
        Ok(())
    }

    /// A request was answered: whom its cursor belongs to is remembered.
    pub(super) fn settle(&self, request: &InFlightRequest, reply: &ReplyFacts) {
        let Some(orders) = &self.orders else { return };
        match (request.cursor, reply.cursor().filter(|id| *id != 0)) {
            (None, Some(id)) => orders.cursors.give(id, &orders.caller, self.version),
            (Some(id), None) if reply.cursor().is_some() || reply.code() == Some(CURSOR_NOT_FOUND.0) => {
                orders.cursors.forget(id);
            }
            _ => {}
        }
    }

    /// The budget for what is held.
    pub(super) fn holding(&self) -> Option<&HoldBudget> {
        self.orders.as_ref().map(|orders| &orders.holding)
    }

    /// Tells how often each thing was found that was found more than once, and forgets all.
    pub(super) fn end(&mut self) {
        let (Some(authority), Some(orders)) = (&self.authority, &self.orders) else { return };
        for (grounds, decision, count) in self.told.drain(..).filter(|(_, _, count)| *count > 1) {
            let rule = orders.policy.label(grounds);
            authority.tell(&Finding { rule, decision, command: None, namespace: "", unclear: None, count });
        }
    }

    fn judge_query(&mut self, message: &[u8], facts: &RequestFacts) -> Look {
        match op_query::command(message) {
            Some(query) if facts.command().is_some_and(hello::is_hello) => {
                self.judge(query.command, Some(query.database), &[], facts)
            }
            _ => self.refuse_unclear(Unclear::OldQuery, facts),
        }
    }

    fn judge(
        &mut self,
        body: &RawDocument,
        database: Option<&str>,
        sequences: &[(&[u8], &[u8])],
        facts: &RequestFacts,
    ) -> Look {
        let Some(orders) = &self.orders else { return Look::Pass };
        let sequences: Vec<_> =
            sequences.iter().map(|(identifier, documents)| Sequence { identifier, documents }).collect();
        let request = Request { body, database, sequences: &sequences };
        let meaning = match command::read(&request, orders.view.read_options()) {
            Ok(meaning) => meaning,
            Err(unclear) => return self.refuse_unknown(unclear, command::unknown_name(&request), facts),
        };
        let mut judgement = orders.view.judge(&meaning);
        let mut code = UNAUTHORIZED;
        if judgement.effect == Effect::Allow
            && let Some(refused) = orders.refuses_cursors(&meaning, self.version)
        {
            let notes = std::mem::take(&mut judgement.notes);
            judgement = orders.view.deny(Grounds::Cursor);
            judgement.notes.extend(notes);
            code = refused;
        }
        let look = match judgement.effect {
            Effect::Allow => Look::Pass,
            Effect::Deny => {
                let (policy, grounds) = (&*orders.policy, judgement.grounds);
                let (database, command) = (Some(meaning.database), Some(meaning.command.name));
                let code = ErrorCode { code: code.0, name: code.1 };
                let sentence = Sentence { policy, grounds, database, command, unclear: None, name: None, code };
                Look::Refuse(CommandError { code: code.code, code_name: code.name, message: sentence.to_string() })
            }
        };
        if judgement.effect == Effect::Allow && judgement.notes.is_empty() {
            // The common path: nothing to tell.
            let place = place_of(judgement.grounds, orders.policy.rule_names().len());
            orders.metrics.count(place, PolicyDecision::Allow);
            return look;
        }
        let namespace = namespace(&meaning, judgement.reach);
        self.count(&judgement, Some(meaning.command.name), &namespace, None);
        look
    }

    fn refuse_unclear(&mut self, unclear: Unclear, facts: &RequestFacts) -> Look {
        self.refuse_unknown(unclear, None, facts)
    }

    /// `name` is that of the command or stage that is unknown.
    fn refuse_unknown(&mut self, unclear: Unclear, name: Option<&str>, facts: &RequestFacts) -> Look {
        let Some(orders) = &self.orders else { return Look::Pass };
        let judgement = orders.view.deny(Grounds::Unclear);
        let command = facts.command().and_then(table::find).map(|command| command.name);
        let database = facts.database().map(|name| name.to_text()).filter(|name| is_plain(name));
        let sentence = Sentence {
            policy: &orders.policy,
            grounds: judgement.grounds,
            database: database.as_deref(),
            command,
            unclear: Some(unclear),
            name,
            code: orders.view.code_of(unclear),
        };
        let ErrorCode { code, name: code_name } = sentence.code;
        let error = CommandError { code, code_name, message: sentence.to_string() };
        self.count(&judgement, command, database.as_deref().unwrap_or_default(), Some(unclear));
        if judgement.effect == Effect::Allow { Look::Pass } else { Look::Refuse(error) }
    }

    /// Counts a judgement, and has the first of each kind told.
    fn count(
        &mut self,
        judgement: &Judgement,
        command: Option<&'static str>,
        namespace: &str,
        unclear: Option<Unclear>,
    ) {
        let decided = match judgement.effect {
            Effect::Allow => PolicyDecision::Allow,
            Effect::Deny => PolicyDecision::Deny,
        };
        let noted = judgement.notes.iter().map(|(note, grounds)| match note {
            Note::Audit => (*grounds, PolicyDecision::Audit),
            Note::WouldDeny => (*grounds, PolicyDecision::WouldDeny),
        });
        for (grounds, decision) in std::iter::once((judgement.grounds, decided)).chain(noted) {
            let (Some(orders), Some(authority)) = (&self.orders, &self.authority) else { return };
            orders.metrics.count(place_of(grounds, orders.policy.rule_names().len()), decision);
            if decision == PolicyDecision::Allow {
                continue;
            }
            let known = self.told.iter_mut().find(|(told, how, _)| (*told, *how) == (grounds, decision));
            if let Some((_, _, count)) = known {
                *count += 1;
            } else if self.told.len() < TOLD_MAX {
                self.told.push((grounds, decision, 1));
                let rule = orders.policy.label(grounds);
                authority.tell(&Finding { rule, decision, command, namespace, unclear, count: 1 });
            }
        }
    }
}

impl EffectivePolicy {
    /// Whether what cannot be judged is refused.
    fn enforce(&self) -> bool {
        self.view.deny(Grounds::Unclear).effect == Effect::Deny
    }

    /// Why a command may not have the cursors that it names, if it may not.
    fn refuses_cursors(&self, meaning: &Meaning<'_>, version: u64) -> Option<(i32, &'static str)> {
        let reads = meaning.command.name == "getMore";
        // A cursor of a whole database or of everything: what it shows was judged when it was opened, and cannot be told
        // from its name. A change stream begins again by itself, and is judged anew.
        let is_wide = meaning.reaches.first().is_some_and(|reach| matches!(reach.resource, Resource::Database(_)));
        meaning.cursors.iter().find_map(|id| match self.cursors.standing(*id, &self.caller) {
            CursorOwnership::Foreign => Some(UNAUTHORIZED),
            // To end what nobody was given is no harm, and what a driver does with a cursor that has just ended.
            CursorOwnership::Unknown if reads => Some(CURSOR_NOT_FOUND),
            CursorOwnership::Own { version: opened } if reads && is_wide && opened != version => Some(CURSOR_NOT_FOUND),
            CursorOwnership::Own { .. } | CursorOwnership::Unknown => None,
        })
    }
}

/// What in the framing of a request nobody can be sure of.
fn odd(header: &Header, scan: &MessageScan, facts: &RequestFacts) -> Option<Unclear> {
    if scan.is_malformed() {
        return Some(Unclear::NotBson);
    }
    if header.op_code == OpCode::MSG && facts.has_unknown_flag() {
        return Some(Unclear::UnknownFlag);
    }
    if has_foreign_sequence(facts) {
        return Some(Unclear::Sequence);
    }
    // It changes on its way, and waits for that.
    let is_hello = facts.command().is_some_and(hello::is_hello);
    let is_old = header.op_code == OpCode::QUERY;
    ((is_hello || is_old) && header.length as usize > HELD_BYTES_MAX).then_some(Unclear::TooLong)
}

/// Whether there is a document sequence that the command, where it is known already, does not take.
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

/// Whether a name from the wire can stand in a sentence.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$'))
}
