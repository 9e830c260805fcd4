//! Upstream's side of the conversation: frames replies, and finds the request that each of them answers.
//!
//! A reply is forwarded as it arrives, unless the filters hold it to rewrite it. A reply that cannot be parsed is
//! counted and forwarded byte for byte, and so is a stream that has lost its message boundaries, unless the filters
//! object.

use std::task::Context;

use tokio::time::Instant;

use crate::relay::context::ConnectionState;
use crate::relay::end::EndReason;
use crate::relay::filter::reply;
use crate::relay::filter::reply::ReplyView;
use crate::relay::filter::verdict::ReplyVerdict;
use crate::relay::held_reply::HeldReply;
use crate::relay::hold_budget::BudgetRequest;
use crate::relay::in_flight::Sender;
use crate::telemetry::metrics::Direction;
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

/// The longest reply to a request of the gateway itself. That to `ping` has some hundred bytes.
const OWN_REPLY_BYTES_MAX: usize = 32 * 1024;

/// What reading one input has come to.
#[derive(Debug)]
pub(super) struct ReadReplies {
    /// Bytes at the front of the input that go to the client.
    pub(super) forwarded: usize,
    /// What follows them.
    pub(super) next: Next,
}

/// What follows the bytes that go to the client.
#[derive(Debug)]
pub(super) enum Next {
    /// The rest of the input is kept until more of it has arrived.
    NeedInput,
    /// The turn of the connection is over. The rest of the input is kept, and is read before anything else.
    Interrupted,
    /// The client reads `message` in place of the next `replaced` bytes of the input, and reading goes on behind those.
    Rewritten { message: Vec<u8>, replaced: usize },
    /// The next `taken` bytes of the input are held apart. Nothing more is read while they are sent.
    Held { taken: usize },
    /// The client reads the local replies that are due, and reading goes on.
    LocalReplies,
    /// The conversation ends.
    Close(EndReason),
}

/// Where the reader stands in the stream of messages.
enum State {
    Between,
    /// The header of a reply has been read, and the filters have not decided yet.
    Begun {
        header: Header,
    },
    Message {
        header: Header,
        scan: MessageScan,
    },
    /// In a long reply that is held apart.
    Held(Box<HeldReply>),
    Unframed,
}

/// Reads the replies of one connection.
pub(super) struct Replies {
    state: State,
    facts: ReplyFacts,
    budget_request: BudgetRequest,
    is_interrupted: bool,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            facts: ReplyFacts::default(),
            budget_request: BudgetRequest::default(),
            is_interrupted: false,
        }
    }

    /// Whether the client has been given whole messages only.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Between | State::Begun { .. })
    }

    /// Reads `input`, and returns what of it goes to the client.
    ///
    /// The next call's input has to begin with what is behind that: less than a header, what a scan keeps, a reply that
    /// is held, or all replies for which the turn has not sufficed.
    pub(super) fn read(&mut self, input: &mut [u8], connection: &mut ConnectionState) -> ReadReplies {
        let mut at = 0;
        let next = loop {
            match &mut self.state {
                State::Between => {
                    if let Some(next) = self.begin(at, input, connection) {
                        break next;
                    }
                }
                State::Begun { header } => {
                    let header = *header;
                    if let Some(next) = self.decide(header, &mut at, input, connection) {
                        break next;
                    }
                }
                State::Message { header, scan } => {
                    at += scan.advance(&input[at..], &mut self.facts);
                    if scan.left() > 0 {
                        break Next::NeedInput;
                    }
                    connection.reply_arrived(header, &self.facts, scan.is_malformed());
                    self.state = State::Between;
                    if connection.in_flight.has_due_replies() {
                        break Next::LocalReplies;
                    }
                }
                State::Held(held) => {
                    break match held.take(&input[at..], &mut self.facts, connection) {
                        Ok(taken) => Next::Held { taken },
                        Err(reason) => Next::Close(reason),
                    };
                }
                State::Unframed => {
                    // A policy may have come into force.
                    if let ReplyVerdict::Close(reason) = connection.filters.decide_unframed_reply() {
                        break Next::Close(reason);
                    }
                    at = input.len();
                    break Next::NeedInput;
                }
            }
        };
        self.is_interrupted = matches!(next, Next::Interrupted);
        ReadReplies { forwarded: at, next }
    }

    /// Whether the last input had more replies than the turn: they have to be read before anything else.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// Whether a long reply waits for the hold budget; nothing else is read meanwhile.
    pub(super) fn awaits_budget(&self) -> bool {
        self.budget_request.is_waiting()
    }

    /// Whether the hold budget has just been granted: what is at the front of the next input has to be read at once.
    pub(super) fn poll_budget(&mut self, cx: &mut Context<'_>) -> bool {
        self.budget_request.poll_granted(cx)
    }

    /// Gives back what was granted to a reply that does not have to be held any longer.
    pub(super) fn return_budget(&mut self) {
        self.budget_request.return_granted();
    }

    /// When a reply that is held apart has to have arrived or, once it is being sent, when the client has to have taken
    /// it.
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        if let State::Held(held) = &self.state { held.deadline() } else { None }
    }

    /// Whether a reply that was held apart is being sent; nothing else is read meanwhile.
    pub(super) fn is_sending_held(&self) -> bool {
        matches!(&self.state, State::Held(held) if held.is_being_sent())
    }

    /// The next piece of the reply that is being sent; `None` if there is none left. What is at the front of the next
    /// input comes next then.
    pub(super) fn next_held_piece(&mut self) -> Option<&[u8]> {
        if let State::Held(held) = &mut self.state
            && held.has_more()
        {
            return Some(held.next_piece());
        }
        None
    }

    /// The reply that was held apart has been sent.
    pub(super) fn held_was_sent(&mut self) {
        self.state = State::Between;
    }

    /// Takes a long reply out of the input. Reads nothing more while the hold budget has no room for it.
    fn hold_apart(&mut self, header: Header, connection: &mut ConnectionState) -> Option<Next> {
        let account = connection.filters.policy.reply_account()?;
        let Some(permit) = self.budget_request.permit(&account, header.length as usize) else {
            return Some(Next::NeedInput);
        };
        match HeldReply::new(header, permit) {
            Ok(held) => {
                self.facts.clear(connection.filters.policy.keeps_times());
                self.state = State::Held(Box::new(held));
                None
            }
            Err(_) => Some(Next::Close(EndReason::UnreadableReply("a list that is too long for the memory"))),
        }
    }

    /// Reads the header of a reply. `None` to read on.
    fn begin(&mut self, at: usize, input: &mut [u8], connection: &mut ConnectionState) -> Option<Next> {
        let Some(head) = input.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { return Some(Next::NeedInput) };
        if !connection.turn.take_reply() {
            return Some(Next::Interrupted);
        }
        let Ok(header) = reply::read_header(head, connection.shared_ids, &mut connection.in_flight) else {
            connection.stats.unparsed(Direction::ToClient);
            if connection.shared_ids.is_some() {
                return Some(Next::Close(EndReason::ForeignReply));
            }
            if let ReplyVerdict::Close(reason) = connection.filters.decide_unframed_reply() {
                return Some(Next::Close(reason));
            }
            self.state = State::Unframed;
            return None;
        };
        if connection.shared_ids.is_some() && !connection.in_flight.is_next_answered_by(header.response_to) {
            // It may be for the client that had the connection before.
            return Some(Next::Close(EndReason::ForeignReply));
        }
        self.state = State::Begun { header };
        None
    }

    /// Has the filters decide about a reply. `None` to read on.
    fn decide(
        &mut self,
        header: Header,
        at: &mut usize,
        input: &[u8],
        connection: &mut ConnectionState,
    ) -> Option<Next> {
        if connection.in_flight.next().is_some_and(|request| request.sender == Sender::Gateway) {
            return Some(self.take_own(&header, &input[*at..], connection));
        }
        let view = ReplyView { message: &input[*at..], header: &header, in_flight: &connection.in_flight };
        let verdict = connection.filters.decide_reply(&view);
        match verdict {
            ReplyVerdict::NeedMore => return Some(Next::NeedInput),
            ReplyVerdict::HoldApart => return self.hold_apart(header, connection),
            ReplyVerdict::Close(reason) => return Some(Next::Close(reason)),
            ReplyVerdict::Forward | ReplyVerdict::Rewrite(_) => {}
        }
        let mut scan = MessageScan::new(&header);
        self.facts.clear(connection.filters.policy.keeps_times());
        let ReplyVerdict::Rewrite(message) = verdict else {
            *at += HEADER_BYTES;
            self.state = State::Message { header, scan };
            return None;
        };
        let replaced = header.length as usize;
        scan.advance(&input[*at + HEADER_BYTES..*at + replaced], &mut self.facts);
        connection.reply_arrived(&header, &self.facts, scan.is_malformed());
        self.state = State::Between;
        Some(Next::Rewritten { message, replaced })
    }

    /// Takes the reply to a request of the gateway itself, which does not go to the client.
    fn take_own(&mut self, header: &Header, arrived: &[u8], connection: &mut ConnectionState) -> Next {
        let replaced = header.length as usize;
        if replaced > OWN_REPLY_BYTES_MAX {
            return Next::Close(EndReason::ForeignReply);
        }
        if arrived.len() < replaced {
            return Next::NeedInput;
        }
        connection.own_reply_arrived(header);
        self.state = State::Between;
        Next::Rewritten { message: Vec::new(), replaced }
    }
}
