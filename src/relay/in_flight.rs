//! Open requests: which replies are still to come, and to what.
//!
//! A MongoDB connection is serial, so the queue nearly always holds one request; a client that pipelines may have up to
//! [`OPEN_MAX`]. Requests with `moreToCome` are never answered and do not stand here.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::command::table;
use crate::command::table::CommandId;
use crate::wire::header::Header;

/// Open requests of one connection; at the limit the client is not read until replies come. What one read brings is still
/// taken, so that there may be a few thousand more. Drivers have one.
pub(super) const OPEN_MAX: usize = 1024;

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct InFlightRequest {
    /// What the next reply's `responseTo` will be.
    pub(super) expected_response_to: i32,
    pub(super) command: CommandId,
    /// When it had gone upstream whole.
    pub(super) started: Instant,
    /// Whether it allowed a stream of replies.
    pub(super) exhaust_allowed: bool,
    /// Whether a reply has come and said that more will follow unasked.
    pub(super) streaming: bool,
    /// `database.collection` for the debug log; only kept when that is on.
    pub(super) namespace: Option<Box<str>>,
    /// The cursor that it reads or kills.
    pub(super) cursor: Option<i64>,
    /// The transaction that it belongs to.
    pub(super) transaction: Option<u64>,
    /// Whether its replies may name members, and are to be changed.
    pub(super) names_members: bool,
    /// Unacknowledged requests that went before it, as [`InFlight::push`] finds them.
    pub(super) behind: u32,
    /// Of a request that did not go upstream, what the client is to read when it is its turn.
    pub(super) refusal: Option<Box<[u8]>>,
}

impl InFlightRequest {
    /// A request that is complete now.
    pub(super) fn new(request_id: i32, command: CommandId) -> Self {
        Self {
            expected_response_to: request_id,
            command,
            started: Instant::now(),
            exhaust_allowed: false,
            streaming: false,
            namespace: None,
            cursor: None,
            transaction: None,
            names_members: false,
            behind: 0,
            refusal: None,
        }
    }

    /// Whether a reply with this `responseTo` is one to this request.
    fn is_answered_by(&self, response_to: i32) -> bool {
        self.refusal.is_none() && self.expected_response_to == response_to
    }
}

/// The open requests of one connection, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    open: VecDeque<InFlightRequest>,
    /// Requests that want no reply, and how many of them are known to be done: mongod takes one after the other, so an
    /// answer stands for all that went before it. Both wrap around together.
    unacknowledged: u32,
    done: u32,
    /// After a stream of replies was begun anew elsewhere: what its first reply answers there, and what it answers for
    /// the client.
    renamed: Option<(i32, i32)>,
    /// Answers of the gateway's own whose turn it is.
    due: Vec<u8>,
}

impl InFlight {
    pub(super) fn push(&mut self, request: InFlightRequest) {
        self.open.push_back(InFlightRequest { behind: self.unacknowledged, ..request });
    }

    /// A request was refused: `reply` is its answer, in its turn behind those that are still to come.
    pub(super) fn push_refusal(&mut self, reply: Vec<u8>) {
        if self.open.is_empty() {
            self.due.extend_from_slice(&reply);
            return;
        }
        self.push(InFlightRequest { refusal: Some(reply.into()), ..InFlightRequest::new(0, table::OTHER) });
    }

    /// Whether there are answers of the gateway's own whose turn it is; they go between two messages.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Those answers.
    pub(super) fn take_due(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.due)
    }

    /// A request that wants no reply has gone upstream.
    pub(super) fn push_unacknowledged(&mut self) {
        self.unacknowledged = self.unacknowledged.wrapping_add(1);
    }

    /// Whether everything that went upstream is answered, or known to be done: nothing that comes next could overtake it.
    /// One stream of replies may be under way, as it can begin anew.
    pub(super) fn is_settled(&self) -> bool {
        let streams = self.open.iter().filter(|request| request.exhaust_allowed).take(1).count();
        self.open.len() == streams && self.unacknowledged == self.done
    }

    /// The stream of replies goes on with answers to `request_id`.
    pub(super) fn restart_stream(&mut self, request_id: i32) {
        self.renamed = self.open.front().map(|request| (request_id, request.expected_response_to));
    }

    /// What a reply answers, for the client: `response_to` as it came, but for the first after a new beginning.
    pub(super) fn answered(&mut self, response_to: i32) -> i32 {
        match self.renamed {
            Some((there, here)) if there == response_to => {
                self.renamed = None;
                here
            }
            _ => response_to,
        }
    }

    /// Whether a monitor's stream of replies is all that is under way.
    pub(super) fn is_streaming(&self, is_monitor: impl Fn(CommandId) -> bool) -> bool {
        !self.open.is_empty() && self.is_idle(is_monitor)
    }

    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= OPEN_MAX
    }

    /// Whether nothing but a monitor's stream of replies, which never ends by itself, is under way.
    pub(super) fn is_idle(&self, is_monitor: impl Fn(CommandId) -> bool) -> bool {
        self.open.iter().all(|request| request.exhaust_allowed && is_monitor(request.command))
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether the reply that begins may name members: by what it answers, or, where that is nothing, by what is open.
    pub(super) fn names_members(&self, response_to: i32) -> bool {
        match self.open.iter().find(|request| request.is_answered_by(response_to)) {
            Some(request) => request.names_members,
            None => self.open.iter().any(|request| request.names_members),
        }
    }

    /// Finds the request that a complete reply answers, and hands it to `answered`.
    ///
    /// A reply with `moreToCome` keeps its request open: the next one names this reply's id. Requests before the
    /// answered one got no reply and are dropped; a reply to nothing that is known is nobody's (`false`).
    pub(super) fn answer(
        &mut self,
        reply: &Header,
        more_to_come: bool,
        answered: impl FnOnce(&InFlightRequest),
    ) -> bool {
        let Some(position) = self.open.iter().position(|request| request.is_answered_by(reply.response_to)) else {
            return false;
        };
        let passed_over = self.open.drain(..position).filter_map(|request| request.refusal);
        self.due.extend(passed_over.flat_map(<[u8]>::into_vec));
        if let Some(request) = self.open.front_mut() {
            answered(request);
            self.done = request.behind;
            request.expected_response_to = reply.request_id;
            request.streaming = true;
        }
        if !more_to_come {
            self.open.pop_front();
            while let Some(refusal) = self.open.front_mut().and_then(|next| next.refusal.take()) {
                self.due.extend_from_slice(&refusal);
                self.open.pop_front();
            }
        }
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::command::table::OTHER;
    use crate::wire::header::OpCode;

    pub(in crate::relay) fn open(request_id: i32) -> InFlightRequest {
        InFlightRequest::new(request_id, OTHER)
    }

    fn reply(request_id: i32, response_to: i32) -> Header {
        Header { length: 100, request_id, response_to, op_code: OpCode::MSG }
    }

    /// Pushes requests 1..=3, applies (reply id, responseTo, moreToCome), and tells how many are left open.
    fn check(replies: &[(i32, i32, bool)], left: usize) {
        let mut exchange = InFlight::default();
        (1..=3).for_each(|id| exchange.push(open(id)));
        for (id, response_to, more) in replies {
            exchange.answer(&reply(*id, *response_to), *more, |_| {});
        }
        assert_eq!(exchange.len(), left, "{replies:?}");
    }

    #[test]
    fn replies_close_their_request_and_what_was_left_unanswered_before_it() {
        check(&[(90, 1, false)], 2);
        check(&[(90, 1, false), (91, 2, false), (92, 3, false)], 0);
        check(&[(90, 3, false)], 0);
        check(&[(90, 77, false)], 3);
    }

    #[test]
    fn a_refusal_waits_for_its_turn() {
        let mut exchange = InFlight::default();
        exchange.push_refusal(b"a".to_vec());
        assert_eq!(exchange.take_due(), b"a");
        exchange.push(open(1));
        exchange.push_refusal(b"b".to_vec());
        exchange.push_refusal(b"c".to_vec());
        exchange.push(open(2));
        exchange.push_refusal(b"d".to_vec());
        assert!(!exchange.has_due());
        // A refusal has no id of mongod's: an answer to 0 is nobody's.
        assert!(!exchange.answer(&reply(89, 0), false, |_| {}));
        exchange.answer(&reply(90, 1), true, |_| {});
        assert!(!exchange.has_due());
        exchange.answer(&reply(91, 90), false, |_| {});
        assert_eq!(exchange.take_due(), b"bc");
        exchange.answer(&reply(92, 2), false, |_| {});
        assert_eq!((exchange.take_due(), exchange.len()), (b"d".to_vec(), 0));
    }

    #[test]
    fn a_stream_goes_on_from_reply_to_reply() {
        check(&[(90, 1, true), (91, 90, true), (92, 91, true)], 3);
        check(&[(90, 1, true), (91, 90, false)], 2);
        check(&[(90, 1, true), (91, 1, false)], 3);
    }

    #[test]
    fn an_answer_stands_for_the_unacknowledged_before_it_and_not_for_those_behind() {
        let mut exchange = InFlight::default();
        assert!(exchange.is_settled());
        exchange.push_unacknowledged();
        exchange.push(open(1));
        exchange.push_unacknowledged();
        exchange.answer(&reply(90, 1), false, |_| {});
        assert!(!exchange.is_settled());
        exchange.push(open(2));
        assert!(!exchange.is_settled());
        exchange.answer(&reply(91, 2), false, |_| {});
        assert!(exchange.is_settled());
    }
}
