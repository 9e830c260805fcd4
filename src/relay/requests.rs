//! Reads the client's side of the conversation: frames requests, asks the filters about each, and carries out their
//! verdict.
//!
//! A message that cannot be parsed is counted and forwarded byte for byte, unless a filter decides otherwise. After an
//! impossible message length the rest of the stream is forwarded in the same way.

use std::ops::ControlFlow;
use std::task::Context;

use tokio::time::Instant;

use crate::relay::context::ConnectionState;
use crate::relay::end::EndReason;
use crate::relay::filter::chain::Stage;
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::patches::{CHECKSUM_BYTES, change_checksum};
use crate::relay::filter::verdict::{Close, Hold, Verdict};
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::framing::{ReadCursor, State};
use crate::relay::held_message::{FIRST_PART_BYTES, HeldMessage};
use crate::relay::hold_budget::BudgetRequest;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::relay::migration::introduction::Introduction;
use crate::relay::request_ids::keeps_id;
use crate::telemetry::metrics::Direction;
use crate::wire::error_reply::CommandError;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::MessageScan;
use crate::wire::request::RequestFacts;

/// The validation of a token takes as long as this number of requests, or longer.
const VALIDATION_REQUESTS: u32 = 8;

/// Error labels, by which a driver knows what it may do.
type Labels = &'static [&'static str];

/// Reads the requests of one connection.
pub(super) struct Requests {
    state: State,
    facts: RequestFacts,
    /// Whether the last complete message was understood.
    is_understood: bool,
    /// Bytes at the front of the next input that have been read, and are held there.
    scanned: usize,
    /// Whether the last input had more requests than the turn: nothing new is read before they have been.
    is_interrupted: bool,
    /// A long message that is held apart, until the filters decide and then until it has been sent.
    held: Option<Box<HeldMessage>>,
    budget_request: BudgetRequest,
    /// By what the checksum at the end of the current message changes, since other bytes of it have changed.
    checksum_change: u32,
    introduction: Introduction,
}

/// Whether to read on: not where more input is needed, and not where the connection ends.
type Flow = ControlFlow<Stop>;

/// Why reading stops.
enum Stop {
    NeedInput,
    /// The turn is over.
    Interrupted,
    Close(Box<Close>),
}

const READ_ON: Flow = ControlFlow::Continue(());
const NEED_INPUT: Flow = ControlFlow::Break(Stop::NeedInput);
const INTERRUPTED: Flow = ControlFlow::Break(Stop::Interrupted);

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            facts: RequestFacts::default(),
            is_understood: true,
            scanned: 0,
            is_interrupted: false,
            held: None,
            budget_request: BudgetRequest::default(),
            checksum_change: 0,
            introduction: Introduction::default(),
        }
    }

    /// Reads `input`, changes it where the policy demands that, hands what goes upstream to `pass`, and returns how
    /// many bytes at the front of the input are settled.
    ///
    /// The next call's input has to begin with the rest: at most [`HELD_BYTES_MAX`], and what a scan keeps. The rest is
    /// longer where the turn of the connection is over before all requests have been read. [`Requests::is_interrupted`]
    /// then, and the next call has to come without more input.
    pub(super) fn read(
        &mut self,
        input: &mut [u8],
        pass: &mut impl FnMut(&[u8]),
        connection: &mut ConnectionState,
    ) -> Result<usize, Box<Close>> {
        let mut cursor = ReadCursor { input, at: self.scanned, sent: 0, start: 0, pass };
        let stop = loop {
            if let ControlFlow::Break(stop) = self.step(&mut cursor, connection) {
                break stop;
            }
        };
        self.is_interrupted = matches!(stop, Stop::Interrupted);
        if let Stop::Close(close) = stop {
            return Err(close);
        }
        match &self.state {
            State::Message { stage: Stage::Forwarding, .. } | State::Unframed => cursor.pass_to(cursor.at),
            State::Message { .. } | State::Between | State::Dropping { .. } => cursor.pass_to(cursor.start),
        }
        self.scanned = cursor.at - cursor.sent;
        Ok(cursor.sent)
    }

    /// Whether the last input had more requests than the turn: they have to be read before anything else.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// Whether the client is not in the middle of a request.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Whether part of the current request has gone upstream, and the rest has not.
    pub(super) fn is_forwarding(&self) -> bool {
        matches!(self.state, State::Message { stage: Stage::Forwarding, .. })
    }

    /// Whether the client's last message follows the wire protocol.
    pub(super) fn is_understood(&self) -> bool {
        match &self.state {
            State::Between => self.is_understood,
            State::Message { scan, .. } => !scan.is_malformed(),
            State::Dropping { .. } => true,
            State::Unframed => false,
        }
    }

    /// What is sent first on another upstream connection before it can serve the client.
    pub(super) fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// Has the client stay on this upstream connection.
    pub(super) fn pin(&mut self) {
        self.introduction.pin();
    }

    /// Whether a long request waits for the hold budget; nothing else is read meanwhile.
    pub(super) fn awaits_budget(&self) -> bool {
        self.budget_request.is_waiting()
    }

    /// Whether the hold budget has just been granted: what is at the front of the next input has to be read at once,
    /// since the budget is charged from here on.
    pub(super) fn poll_budget(&mut self, cx: &mut Context<'_>) -> bool {
        self.budget_request.poll_granted(cx)
    }

    /// When a request that is held apart has to have arrived or, once it may go upstream, has to have been sent.
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        self.held.as_ref().and_then(|held| held.deadline())
    }

    /// Whether a request that was held apart is being sent; nothing else is read meanwhile.
    pub(super) fn is_sending_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_being_sent())
    }

    /// Hands the next piece of the request that was held apart to `pass`. Returns whether there is none left: what is
    /// at the front of the next input comes next then.
    pub(super) fn send_held(&mut self, pass: impl FnOnce(&[u8])) -> bool {
        let Some(held) = &mut self.held else { return true };
        let piece = held.next_piece(HELD_BYTES_MAX);
        if piece.is_empty() {
            self.held = None;
            return true;
        }
        pass(piece);
        false
    }

    /// Drops what is left of the request of which a part is on its way, and whose beginning has not gone upstream. The
    /// client reads `error` with `labels` when all of the request has arrived.
    pub(super) fn refuse_rest(&mut self, error: &CommandError, labels: Labels, connection: &mut ConnectionState) {
        let State::Message { header, scan, .. } = &self.state else { return };
        let labels = refusal_labels(labels, self.facts.transaction(), self.facts.command());
        let reply = LocalReply::Refused(error.clone(), labels);
        let reply = connection.request_answered_locally(header, &self.facts, scan.is_malformed(), &reply);
        self.state = State::Dropping { left: scan.left() as usize, reply };
        self.held = None;
    }

    fn step(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        if self.held.is_some() {
            return self.fill_held(cursor, connection);
        }
        match self.state {
            State::Between => self.begin(cursor, connection),
            State::Message { .. } => self.read_message(cursor, connection),
            State::Dropping { .. } => self.drop_rest(cursor, connection),
            State::Unframed => {
                cursor.at = cursor.input.len();
                NEED_INPUT
            }
        }
    }

    /// Reads the header of a message.
    fn begin(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        cursor.start = cursor.at;
        if connection.filters.is_waiting() {
            return NEED_INPUT;
        }
        let Some(head) = cursor.rest().first_chunk() else { return NEED_INPUT };
        connection.turn.use_requests(connection.filters.take_validations() * VALIDATION_REQUESTS);
        if !connection.turn.take_request() {
            return INTERRUPTED;
        }
        let Ok(header) = Header::parse(*head) else { return self.lose_boundaries(cursor, connection) };
        if header.op_code == OpCode::COMPRESSED {
            let final_reply = LocalReply::compressed().to_message(&header);
            return close(Box::new(Close { reason: EndReason::Compressed, final_reply }), cursor);
        }
        if !self.change_id(&header, cursor, connection) {
            return NEED_INPUT;
        }
        cursor.at += HEADER_BYTES;
        self.facts.clear();
        self.checksum_change = 0;
        connection.filters.policy.begin_request();
        self.state =
            State::Message { header, scan: MessageScan::new(&header), stage: connection.filters.first_stage() };
        READ_ON
    }

    /// Changes the id of a request in the input where the upstream connection serves other clients too. Returns whether
    /// enough of the request has arrived for that.
    fn change_id(
        &mut self,
        header: &Header,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &ConnectionState,
    ) -> bool {
        let Some(ids) = connection.shared_ids else { return true };
        let message = &mut cursor.input[cursor.at..];
        let Some(keeps_id) = keeps_id(header, message) else { return false };
        if keeps_id {
            self.introduction.pin();
            return true;
        }
        let request_id = ids.to_upstream(header.request_id);
        if let Some(head) = message.first_chunk_mut() {
            *head = Header { request_id, ..*header }.to_bytes();
        }
        true
    }

    fn lose_boundaries(
        &mut self,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) -> Flow {
        connection.stats.unparsed(Direction::ToUpstream);
        connection.filters.policy.refresh();
        if let Verdict::Close(reason) = connection.filters.decide_unframed() {
            return close(reason, cursor);
        }
        self.state = State::Unframed;
        READ_ON
    }

    /// Reads on in a message, and has the filters decide about it.
    fn read_message(
        &mut self,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) -> Flow {
        let State::Message { scan, stage, .. } = &mut self.state else { return NEED_INPUT };
        // The request may have begun under another policy, and may not have to be held any longer.
        if *stage != Stage::Forwarding && connection.filters.policy.refresh() {
            *stage = stage.after_change_of_policy();
            self.budget_request = BudgetRequest::default();
        }
        if *stage != Stage::Forwarding && connection.filters.policy.is_in_force() {
            self.facts.compare_names();
        }
        cursor.at += scan.advance(cursor.rest(), &mut self.facts);
        if self.checksum_change != 0 && scan.left() == 0 {
            // A checksum is read as a whole, so that all of it is still in the input.
            change_checksum(&mut cursor.input[..cursor.at], std::mem::take(&mut self.checksum_change));
        }
        self.decide(cursor, connection)
    }

    /// Takes what is still missing of the request that is held apart, and has the filters decide when it is there.
    fn fill_held(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        let (Some(held), State::Message { scan, .. }) = (&mut self.held, &mut self.state) else {
            return NEED_INPUT;
        };
        let taken = held.take(cursor.rest());
        cursor.take_out(taken);
        if held.needs_budget() {
            // The connection is not read while there is no room. Its deadline does not pass meanwhile.
            return if held.grow(&mut self.budget_request) { READ_ON } else { NEED_INPUT };
        }
        if !held.is_filled() {
            return NEED_INPUT;
        }
        held.scanned += scan.advance(&held.bytes()[held.scanned..], &mut self.facts);
        // The body may ask for more bytes than it has declared.
        scan.give_up_on(held.bytes().len() - held.scanned);
        connection.filters.policy.refresh();
        self.decide(cursor, connection)
    }

    /// Has the filters decide about the request, changes it where the policy demands that, and carries the verdict out.
    fn decide(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        let State::Message { header, scan, stage } = &mut self.state else { return NEED_INPUT };
        let (message, extent) = match &mut self.held {
            Some(held) => (held.bytes_mut(), Extent::Final),
            None => (cursor.message_mut(), Extent::Growing),
        };
        let filters = &mut connection.filters;
        let view = RequestView { message, header, scan, facts: &self.facts, extent };
        let mut verdict = filters.decide(&view, stage);
        if matches!(verdict, Verdict::Patch) {
            let mut patches = filters.policy.changes.take();
            let covered = self.facts.has_checksum().then(|| (header.length as usize).saturating_sub(CHECKSUM_BYTES));
            let change = patches.apply(message, covered);
            if scan.left() == 0 {
                change_checksum(message, change);
            } else {
                self.checksum_change = change;
            }
            if patches.clears_exhaust() {
                self.facts.clear_exhaust();
            }
            verdict = filters.decide(&RequestView { message, header, scan, facts: &self.facts, extent }, stage);
        }
        self.carry_out(verdict, cursor, connection)
    }

    fn carry_out(
        &mut self,
        verdict: Verdict,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) -> Flow {
        match verdict {
            // The filters have been asked again after the change.
            Verdict::Forward | Verdict::Patch => self.forward(cursor, connection),
            Verdict::Rewrite(rewritten) => {
                self.complete(Some(&rewritten), cursor, connection);
                self.held = None;
                cursor.drop_message();
                (cursor.pass)(&rewritten);
                READ_ON
            }
            Verdict::NeedMore(Hold::InInput) => NEED_INPUT,
            Verdict::NeedMore(Hold::Apart(bytes)) => self.hold_apart(bytes, cursor, connection),
            Verdict::Reply(reply) => self.answer(&reply, cursor, connection),
            Verdict::Close(reason) => close(reason, cursor),
        }
    }

    /// The request goes upstream, beginning with the bytes that have arrived.
    fn forward(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        if let Some(held) = &mut self.held {
            held.start_sending();
            return NEED_INPUT;
        }
        if matches!(&self.state, State::Message { scan, .. } if scan.left() > 0) {
            return NEED_INPUT;
        }
        self.complete(None, cursor, connection);
        READ_ON
    }

    /// The request has arrived whole, and goes upstream as it came or as `rewritten`.
    fn complete(
        &mut self,
        rewritten: Option<&[u8]>,
        cursor: &ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) {
        let State::Message { header, scan, .. } = &self.state else { return };
        let (facts, message, is_malformed) = (&self.facts, cursor.message(), scan.is_malformed());
        if is_malformed {
            self.introduction.pin();
        } else {
            let handshake = &connection.filters.handshake;
            let is_in_input = message.len() == header.length as usize && message.len() <= HELD_BYTES_MAX;
            let sent = is_in_input.then_some(rewritten.unwrap_or(message));
            self.introduction.note(header, facts, sent, handshake.authentication());
            let request = RequestView { message, header, scan, facts, extent: Extent::Growing };
            if is_in_input && let Some(user) = handshake.user_in(&request) {
                connection.stats.named(user);
            }
        }
        connection.request_forwarded(header, facts, is_malformed);
        self.is_understood = !is_malformed;
        self.state = State::Between;
    }

    /// Takes a long request out of the input, to be decided when `bytes` of it have arrived. Reads nothing more while
    /// the hold budget has no room for it.
    fn hold_apart(
        &mut self,
        bytes: usize,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) -> Flow {
        let Some(account) = connection.filters.policy.changes.hold_account() else { return NEED_INPUT };
        let first_part = bytes.min(FIRST_PART_BYTES);
        let Some(permit) = self.budget_request.permit(account, first_part) else { return NEED_INPUT };
        let scanned = cursor.message().len();
        match HeldMessage::new(bytes, scanned, permit) {
            Ok(held) => {
                cursor.at = cursor.start;
                cursor.pass_to(cursor.start);
                self.held = Some(Box::new(held));
                READ_ON
            }
            Err(error) => self.answer(&LocalReply::no_memory(&error), cursor, connection),
        }
    }

    /// The request does not go upstream: what is left of it is dropped.
    fn answer(
        &mut self,
        reply: &LocalReply,
        cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>,
        connection: &mut ConnectionState,
    ) -> Flow {
        let State::Message { header, scan, .. } = &self.state else { return NEED_INPUT };
        let reply = connection.request_answered_locally(header, &self.facts, scan.is_malformed(), reply);
        self.state = State::Dropping { left: scan.left() as usize, reply };
        self.held = None;
        cursor.drop_message();
        READ_ON
    }

    /// Drops what is left of a request that has its local reply.
    fn drop_rest(&mut self, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>, connection: &mut ConnectionState) -> Flow {
        let State::Dropping { left, reply } = &mut self.state else { return NEED_INPUT };
        let dropped = (*left).min(cursor.rest().len());
        cursor.at += dropped;
        cursor.sent = cursor.at;
        *left -= dropped;
        if *left > 0 {
            return NEED_INPUT;
        }
        if let Some(reply) = reply.take() {
            connection.in_flight.push_local_reply(reply);
        }
        self.state = State::Between;
        READ_ON
    }
}

/// The labels of the error reply to a request that gets no upstream connection: `labels`, and in a transaction the one
/// by which a driver begins it again, as after the loss of a connection.
pub(super) fn refusal_labels(labels: Labels, transaction: Option<u64>, command: Option<&[u8]>) -> Vec<&'static str> {
    let aborts = transaction.is_some() && command != Some(b"commitTransaction");
    labels.iter().copied().chain(aborts.then_some("TransientTransactionError")).collect()
}

/// The connection ends. Requests before this one still go upstream, unless the policy ends it.
fn close(close: Box<Close>, cursor: &mut ReadCursor<'_, impl FnMut(&[u8])>) -> Flow {
    if !matches!(close.reason, EndReason::Unjudged(_)) {
        cursor.pass_to(cursor.start);
    }
    ControlFlow::Break(Stop::Close(close))
}
