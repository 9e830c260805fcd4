//! The client's side of the conversation: reads requests as they pass, and lets them go upstream.
//!
//! A request leaves as soon as its command is known. Only a hello is held until it is whole, since it changes on the
//! way. What cannot be understood is counted and passes byte for byte; a stream that has lost its message boundaries
//! passes unread from there on.

use std::task::Context;

use tokio::time::Instant;

use crate::command::table;
use crate::command::table::CollectionAt;
use crate::relay::context::ConnectionState;
use crate::relay::filter::handshake::{Fate, HandshakeFilter, may_name_members};
use crate::relay::filter::local_reply::OwnAnswer;
use crate::relay::filter::policy::{Look, Unjudged};
use crate::relay::filter::view::RequestView;
use crate::relay::framing::ReadCursor;
use crate::relay::hold_budget::{BudgetRequest, HeldMessage};
use crate::relay::in_flight::InFlightRequest;
use crate::relay::limits::{HELD_BYTES_MAX, WAITING_BYTES_MAX};
use crate::relay::migration::introduction::{Introduction, begins_anew, introduction, pins_upstream};
use crate::telemetry::metrics::Direction;
use crate::wire::error_reply::CommandError;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::MessageScan;
use crate::wire::request::RequestFacts;

/// What the client sent ends the conversation.
#[derive(Debug, Clone, Copy)]
pub(super) enum Halt {
    /// `OP_COMPRESSED`, which no hello allowed it to.
    Compressed(Header),
    /// What a policy cannot judge, and nobody can answer.
    Unjudged(Unjudged),
    /// What the terms do not let pass, and nobody can answer.
    Undetermined(&'static str),
}

/// Where in the stream the reader stands.
enum State {
    Between,
    Message {
        header: Header,
        scan: MessageScan,
        /// Whether it may go upstream as far as the policy is concerned.
        judged: bool,
        /// Whether it goes upstream as it comes.
        released: bool,
    },
    /// A request that does not go upstream is read to its end. The reply goes to the client then, unless it wants none.
    Refused {
        left: usize,
        reply: Option<Vec<u8>>,
    },
    /// A length that cannot be: nobody knows where the next message starts.
    Unframed,
}

/// Reads the requests of one connection.
pub(super) struct Requests {
    state: State,
    facts: RequestFacts,
    /// Whether the last complete message was understood.
    understood: bool,
    /// Bytes at the front of the next input that have been read but not let go.
    scanned: usize,
    /// The beginning of a long message, while the policy cannot judge it yet.
    held: Option<Box<HeldMessage>>,
    ask: BudgetRequest,
    introduction: Introduction,
    /// The hello that a monitor's stream of replies answers, as it can begin the stream anew elsewhere.
    stream: Option<Box<[u8]>>,
    /// Whether a hello has said that the client expects a load balancer.
    greeted: bool,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            facts: RequestFacts::default(),
            understood: true,
            scanned: 0,
            held: None,
            ask: BudgetRequest::default(),
            introduction: Introduction::Unneeded,
            stream: None,
            greeted: false,
        }
    }

    /// The message that makes another mongod connection the client's own, empty where none is needed; `None` where
    /// nothing can.
    pub(super) fn introduction(&self) -> Option<&[u8]> {
        match &self.introduction {
            Introduction::Unneeded => Some(&[]),
            Introduction::Hello(message) => Some(message),
            Introduction::Unrepeatable => None,
        }
    }

    /// What begins the client's stream of replies anew on another connection.
    pub(super) fn stream(&self) -> Option<&[u8]> {
        self.stream.as_deref()
    }

    /// The client can have no other mongod connection than this one.
    pub(super) fn pin(&mut self) {
        self.introduction = Introduction::Unrepeatable;
    }

    /// Whether the client is not in the middle of a request.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Whether a part of the current request has gone upstream, and the rest has not.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.state, State::Message { released: true, .. })
    }

    /// Whether what the client said last is what the protocol allows, as far as it can be read.
    pub(super) fn is_understood(&self) -> bool {
        match &self.state {
            State::Between => self.understood,
            State::Message { scan, .. } => !scan.is_malformed(),
            State::Refused { .. } => true,
            State::Unframed => false,
        }
    }

    /// Whether a long message waits for a share of what may be held; nothing else is read meanwhile.
    pub(super) fn is_waiting(&self) -> bool {
        self.ask.is_waiting()
    }

    /// Whether that share has come just now: what stands at the front of the next input is to be read at once, since the
    /// share counts from here on.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        self.ask.poll_granted(cx)
    }

    /// By when what is held has to be here, or to have left.
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.due())
    }

    /// Whether a message that was held is on its way out; nothing else is read meanwhile.
    pub(super) fn is_leaving(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_leaving())
    }

    /// Hands to `pass` the next piece of the message that is on its way out. Whether that was the last one: what stands at
    /// the front of the next input comes next then.
    pub(super) fn let_held_go(&mut self, pass: impl FnOnce(&[u8])) -> bool {
        let Some(held) = &mut self.held else { return true };
        let piece = held.next_piece(HELD_BYTES_MAX);
        if piece.is_empty() {
            self.held = None;
            return true;
        }
        pass(piece);
        false
    }

    /// Reads `input`, hands to `pass` what may go upstream, and returns how many bytes of the input that settled.
    ///
    /// The rest, at most [`HELD_BYTES_MAX`] and what a scan keeps, stands at the front of the next call's input.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        pass: &mut impl FnMut(&[u8]),
        desk: &mut ConnectionState,
    ) -> Result<usize, Halt> {
        let mut walk = ReadCursor { input, at: self.scanned, sent: 0, start: 0, pass };
        if self.held.is_some() {
            self.go_on_holding(&mut walk, desk);
            if self.held.is_some() {
                return Ok(walk.sent);
            }
        }
        while match self.state {
            State::Between => self.begin(&mut walk, desk)?,
            State::Message { .. } => self.go_on(&mut walk, desk)?,
            State::Refused { .. } => self.drop_refused(&mut walk, desk),
            State::Unframed => walk.all(),
        } {}
        match &self.state {
            State::Message { released: true, .. } | State::Unframed => walk.pass_to(walk.at),
            State::Message { .. } | State::Between | State::Refused { .. } => walk.pass_to(walk.start),
        }
        self.scanned = walk.at - walk.sent;
        Ok(walk.sent)
    }

    /// A message begins, if its header is here. Whether to go on.
    fn begin(
        &mut self,
        walk: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        desk: &mut ConnectionState,
    ) -> Result<bool, Halt> {
        walk.start = walk.at;
        let Some(head) = walk.input.get(walk.at..).and_then(<[u8]>::first_chunk) else { return Ok(false) };
        desk.guard.follow();
        let Ok(header) = Header::parse(*head) else {
            desk.record.unparsed(Direction::ToUpstream);
            desk.guard.give_up("a length that no message has").map_err(Halt::Unjudged)?;
            if desk.terms.are_strict() {
                walk.pass_to(walk.start);
                return Err(Halt::Undetermined("a length that no message has"));
            }
            self.state = State::Unframed;
            return Ok(true);
        };
        if header.op_code == OpCode::COMPRESSED {
            walk.pass_to(walk.start);
            return Err(Halt::Compressed(header));
        }
        let guarded = desk.guard.begin(&header).map_err(Halt::Unjudged)?;
        if !desk.terms.takes(&header) {
            walk.pass_to(walk.start);
            return Err(Halt::Undetermined("a message of a kind that no driver sends"));
        }
        walk.at += HEADER_BYTES;
        self.facts.clear();
        self.state = State::Message { header, scan: MessageScan::new(&header), judged: !guarded, released: false };
        Ok(true)
    }

    /// Reads on in a message. Whether to go on.
    fn go_on(
        &mut self,
        walk: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        desk: &mut ConnectionState,
    ) -> Result<bool, Halt> {
        let State::Message { header, scan, judged, released } = &mut self.state else { return Ok(false) };
        // It may have begun long ago.
        if !*released && desk.guard.follow() {
            *judged = !desk.guard.begin(header).map_err(Halt::Unjudged)?;
            // Perhaps it need not be held any more.
            self.ask = BudgetRequest::default();
        }
        walk.at += scan.advance(&walk.input[walk.at..], &mut self.facts);
        if !*judged {
            match desk.guard.look(walk.message(), header, scan, &self.facts) {
                Look::Pass => *judged = true,
                Look::Refuse(error) => {
                    walk.drop_message();
                    self.refuse(&error, desk);
                    return Ok(true);
                }
                Look::Later(Some(wanted))
                    if wanted > WAITING_BYTES_MAX && !is_hello(&self.facts) && !is_kept(header, &self.facts, desk) =>
                {
                    return Ok(self.hold(wanted, walk, desk));
                }
                Look::Later(_) => return Ok(false),
            }
        }
        if !*released {
            let seen = RequestView { message: walk.message(), header, scan, facts: &self.facts };
            match desk.terms.look(&seen, self.greeted) {
                Fate::Pass => {}
                Fate::Wait => return Ok(false),
                Fate::Answer(answer) => {
                    walk.drop_message();
                    self.answer(&answer, desk);
                    return Ok(true);
                }
            }
        }
        *released = *released || may_leave(header, scan, &self.facts, &desk.terms);
        desk.guard.check_rest(scan, &self.facts).map_err(Halt::Unjudged)?;
        if scan.left() > 0 {
            return Ok(false);
        }
        if !*released {
            let seen = RequestView { message: walk.message(), header, scan, facts: &self.facts };
            desk.terms.named_in(&seen).into_iter().for_each(|user| desk.record.named(user));
        }
        let (header, malformed, released) = (*header, scan.is_malformed(), *released);
        if !released && let Err(answer) = self.let_go(&header, walk, &desk.terms) {
            walk.drop_message();
            self.answer(&answer, desk);
            return Ok(true);
        }
        self.understood = !malformed;
        if malformed || pins_upstream(&header, &self.facts, &desk.terms) {
            self.pin();
        }
        self.settle(header, malformed, desk);
        self.state = State::Between;
        Ok(true)
    }

    /// A message that was held until it is whole, as a hello is, leaves; it may be changed on its way.
    fn let_go(
        &mut self,
        header: &Header,
        walk: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        terms: &HandshakeFilter,
    ) -> Result<(), OwnAnswer> {
        let rewritten = match (hello::without(walk.message(), terms.withheld()), terms.holds_back(&self.facts)) {
            // What begins an authentication was only looked at.
            _ if terms.begins_authentication(&self.facts) => None,
            (Ok(rewritten), _) => rewritten,
            (Err(_), Some(refusal)) => return Err(refusal()),
            // mongod says what is wrong with it.
            (Err(_), None) => None,
        };
        self.greeted = self.greeted || self.facts.load_balanced();
        let message = rewritten.as_deref().unwrap_or(walk.message());
        if matches!(self.introduction, Introduction::Unneeded) {
            self.introduction = introduction(message, &self.facts);
        }
        self.stream = if self.facts.exhaust_allowed() { begins_anew(header, message) } else { None };
        if let Some(rewritten) = rewritten {
            walk.drop_message();
            (walk.pass)(&rewritten);
        }
        Ok(())
    }

    /// Takes a long message out of the input, to be judged when `wanted` bytes of it are here. Whether to go on: not while
    /// there is no room for it.
    fn hold(
        &mut self,
        wanted: usize,
        walk: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        desk: &mut ConnectionState,
    ) -> bool {
        let Some(share) = desk.guard.holding().and_then(|holding| self.ask.share(holding, wanted)) else {
            return false;
        };
        let scanned = walk.message().len();
        walk.at = walk.start;
        walk.pass_to(walk.start);
        match HeldMessage::new(wanted, scanned, share) {
            Ok(held) => self.held = Some(Box::new(held)),
            Err(error) => {
                // What of it has been read is dropped, the rest as it comes.
                walk.at += scanned;
                walk.sent = walk.at;
                self.refuse(&no_memory(&error), desk);
                return true;
            }
        }
        self.go_on_holding(walk, desk);
        self.held.is_none()
    }

    /// Takes what is wanted of the message that is held, and has it judged when that is all here.
    fn go_on_holding(&mut self, walk: &mut ReadCursor<'_, impl FnMut(&[u8])>, desk: &mut ConnectionState) {
        let (Some(held), State::Message { header, scan, judged, released }) = (&mut self.held, &mut self.state) else {
            return;
        };
        walk.at += held.take(&walk.input[walk.at..]);
        walk.start = walk.at;
        walk.sent = walk.at;
        if !held.is_whole() {
            return;
        }
        let scanned = scan.advance(&held.bytes()[held.scanned..], &mut self.facts);
        held.scanned += scanned;
        // A body that asks for more than it has declared.
        scan.give_up_on(held.bytes().len() - held.scanned);
        desk.guard.follow();
        if let Err(error) = desk.guard.decide(held.bytes(), header, scan, &self.facts) {
            self.held = None;
            self.refuse(&error, desk);
        } else if let Some(refusal) = desk.terms.holds_back(&self.facts) {
            self.held = None;
            self.answer(&refusal(), desk);
        } else {
            (*judged, *released) = (true, true);
            held.let_go();
        }
    }

    /// The request does not go upstream: the rest of it is read and dropped, and its answer is `error`.
    fn refuse(&mut self, error: &CommandError, desk: &mut ConnectionState) {
        let State::Message { header, scan, .. } = &self.state else { return };
        let command = self.facts.command().and_then(table::find);
        desk.record.denied(command.map_or(table::OTHER, |command| command.id));
        // Who wants no reply would take this one for that of his next request.
        let reply = is_answered(header, &self.facts).then(|| error.reply_to(header));
        self.state = State::Refused { left: scan.left() as usize, reply };
    }

    /// The request does not go upstream, as the gateway answers it: the rest of it is read and dropped.
    fn answer(&mut self, answer: &OwnAnswer, desk: &mut ConnectionState) {
        let State::Message { header, scan, .. } = &self.state else { return };
        if scan.is_malformed() {
            desk.record.unparsed(Direction::ToUpstream);
        }
        let command = self.facts.command().and_then(table::find);
        let id = command.map_or(table::OTHER, |command| command.id);
        let reply = if is_answered(header, &self.facts) {
            desk.record.answered_here(id, answer.error());
            Some(answer.reply_to(header))
        } else {
            desk.record.unacknowledged(id);
            None
        };
        self.state = State::Refused { left: scan.left() as usize, reply };
    }

    /// Reads a refused request to its end. Whether to go on.
    fn drop_refused(&mut self, walk: &mut ReadCursor<'_, impl FnMut(&[u8])>, desk: &mut ConnectionState) -> bool {
        let State::Refused { left, reply } = &mut self.state else { return false };
        let step = (*left).min(walk.input.len() - walk.at);
        walk.at += step;
        walk.sent = walk.at;
        *left -= step;
        if *left > 0 {
            return false;
        }
        if let Some(reply) = reply.take() {
            desk.exchange.push_refusal(reply);
        }
        self.state = State::Between;
        true
    }

    /// A request is complete: it is counted, and waits for its reply if it wants one.
    fn settle(&self, header: Header, malformed: bool, desk: &mut ConnectionState) {
        let ConnectionState { exchange, record, terms, .. } = desk;
        if malformed {
            record.unparsed(Direction::ToUpstream);
        }
        let facts = &self.facts;
        let command = facts.command().and_then(table::find);
        let id = command.map_or(table::OTHER, |command| command.id);
        if !is_answered(&header, facts) {
            exchange.push_unacknowledged();
            record.unacknowledged(id);
            return;
        }
        let namespace = record.wants_namespaces().then(|| namespace(command.map(|c| c.collection), facts));
        exchange.push(InFlightRequest {
            exhaust_allowed: facts.exhaust_allowed(),
            namespace,
            cursor: facts.cursor(),
            transaction: facts.transaction(),
            names_members: terms.renames() && may_name_members(facts),
            ..InFlightRequest::new(header.request_id, id)
        });
    }
}

/// `MongoDB`'s own code for it.
fn no_memory(error: &std::io::Error) -> CommandError {
    CommandError {
        code: 146,
        code_name: "ExceededMemoryLimit",
        message: format!("mongate: there is no memory to look at so long a command: {error}"),
    }
}

/// Whether the bytes of a message that is still arriving may go upstream.
fn may_leave(header: &Header, scan: &MessageScan, facts: &RequestFacts, terms: &HandshakeFilter) -> bool {
    let cannot_be_held = header.length as usize > HELD_BYTES_MAX || scan.is_malformed();
    if terms.begins_authentication(facts) {
        return cannot_be_held;
    }
    if terms.are_strict() {
        return terms.holds_back(facts).is_none();
    }
    cannot_be_held || (facts.is_named() && !is_hello(facts))
}

/// Whether it is to be changed on its way, and waits for that until it is whole.
fn is_hello(facts: &RequestFacts) -> bool {
    facts.command().is_some_and(hello::is_hello)
}

/// Whether it waits to be answered here; one that is too long for that is answered at once.
fn is_kept(header: &Header, facts: &RequestFacts, desk: &ConnectionState) -> bool {
    facts.is_named() && header.length as usize <= HELD_BYTES_MAX && desk.terms.holds_back(facts).is_some()
}

/// Whether mongod will answer: of the legacy messages it answers two.
fn is_answered(header: &Header, facts: &RequestFacts) -> bool {
    match header.op_code {
        OpCode::MSG => !facts.more_to_come(),
        OpCode::QUERY | OpCode::GET_MORE => true,
        _ => false,
    }
}

/// `database.collection` as far as the request names them.
fn namespace(collection_at: Option<CollectionAt>, facts: &RequestFacts) -> Box<str> {
    let database = facts.database().map(|d| d.to_text()).unwrap_or_default();
    let collection = match collection_at {
        Some(CollectionAt::First) => facts.first_value(),
        Some(CollectionAt::Field("collection")) => facts.collection_field(),
        Some(CollectionAt::FirstFullNamespace) => {
            return facts.first_value().map(|n| n.to_text()).unwrap_or_default().into();
        }
        _ => None,
    };
    match collection {
        Some(collection) => format!("{database}.{}", collection.to_text()).into(),
        None => database.into(),
    }
}
