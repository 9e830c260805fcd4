//! Requests that wait for their replies, and which of them a reply answers.
//!
//! A MongoDB connection is serial: the queue nearly always holds one request. A client that pipelines may have up to
//! [`IN_FLIGHT_MAX`]. A request with `moreToCome` gets no reply and is only counted here.

use std::collections::VecDeque;

use bson::RawDocumentBuf;
use tokio::time::Instant;

use crate::command::table;
use crate::command::table::CommandId;
use crate::relay::judged_command::JudgedCommand;
use crate::relay::listed::Listed;
use crate::wire::header::Header;

/// Requests in flight on one connection, at which its client is not read until replies come. The requests of one turn
/// are taken together, so that there may be a few more. Drivers have one.
pub(super) const IN_FLIGHT_MAX: usize = 1024;

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The client.
    Client,
    /// The client, and the request has the client's id upstream too, where those of others are changed.
    ClientWithItsId,
    /// The gateway itself: the client does not see the reply.
    Gateway,
}

/// A request that waits for its reply.
#[derive(Debug)]
pub(super) struct InFlightRequest {
    /// The `responseTo` of the next reply.
    pub(super) expected_response_to: i32,
    pub(super) command: CommandId,
    /// When the request had gone upstream whole.
    pub(super) started: Instant,
    /// Whether the client accepts a stream of replies.
    pub(super) exhaust_allowed: bool,
    /// Whether a reply has come that announced another one.
    pub(super) is_streaming: bool,
    /// `database.collection`, kept only for the debug log.
    pub(super) namespace: Option<Box<str>>,
    /// The cursor that the request reads or kills.
    pub(super) cursor: Option<i64>,
    /// The command that the policy has judged, if its reply may open a cursor.
    pub(super) judged: Option<Box<JudgedCommand>>,
    /// The version of the policy that let the request pass.
    pub(super) policy_version: u64,
    /// The transaction that the request belongs to.
    pub(super) transaction: Option<u64>,
    /// Its sender.
    pub(super) sender: Sender,
    /// Whether its replies may name members, and are rewritten.
    pub(super) names_members: bool,
    /// The field `speculativeAuthenticate` that its reply gets.
    pub(super) speculated: Option<Box<RawDocumentBuf>>,
    /// What its replies list, so that they are filtered.
    pub(super) listed: Option<Box<Listed>>,
    /// The number of unacknowledged requests before it; [`InFlight::push`] sets it.
    pub(super) unacknowledged_before: u32,
    /// The local reply to a request that did not go upstream.
    pub(super) local_reply: Option<Box<[u8]>>,
}

impl InFlightRequest {
    /// A request that has gone upstream whole just now.
    pub(super) fn new(request_id: i32, command: CommandId) -> Self {
        Self {
            expected_response_to: request_id,
            command,
            started: Instant::now(),
            exhaust_allowed: false,
            is_streaming: false,
            namespace: None,
            cursor: None,
            judged: None,
            policy_version: 0,
            transaction: None,
            sender: Sender::Client,
            names_members: false,
            speculated: None,
            listed: None,
            unacknowledged_before: 0,
            local_reply: None,
        }
    }

    fn is_answered_by(&self, response_to: i32) -> bool {
        self.local_reply.is_none() && self.expected_response_to == response_to
    }
}

/// The requests in flight on one connection, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: VecDeque<InFlightRequest>,
    /// The number of unacknowledged requests, and how many of them mongod is known to have executed: it executes
    /// requests in their order, so that a reply confirms all before it. Both wrap around together.
    unacknowledged: u32,
    confirmed: u32,
    /// After a stream of replies was restarted on another upstream connection: the `responseTo` of its first reply
    /// there, and the one that the client waits for.
    restarted_stream: Option<(i32, i32)>,
    /// Local replies whose turn it is.
    due_replies: Vec<u8>,
}

impl InFlight {
    pub(super) fn push(&mut self, request: InFlightRequest) {
        self.requests.push_back(InFlightRequest { unacknowledged_before: self.unacknowledged, ..request });
    }

    /// Adds a local reply, which comes behind the replies to the requests before its own.
    pub(super) fn push_local_reply(&mut self, reply: Vec<u8>) {
        if self.requests.is_empty() {
            self.due_replies.extend_from_slice(&reply);
            return;
        }
        self.push(InFlightRequest { local_reply: Some(reply.into()), ..InFlightRequest::new(0, table::OTHER) });
    }

    /// Adds a request that gets no reply.
    pub(super) fn push_unacknowledged(&mut self) {
        self.unacknowledged = self.unacknowledged.wrapping_add(1);
    }

    /// Whether there are local replies whose turn it is. They go to the client between two messages.
    pub(super) fn has_due_replies(&self) -> bool {
        !self.due_replies.is_empty()
    }

    /// Takes the local replies whose turn it is.
    pub(super) fn take_due_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.due_replies)
    }

    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= IN_FLIGHT_MAX
    }

    /// The number of requests that wait.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// The number of requests of the client that wait.
    pub(super) fn unanswered(&self) -> usize {
        self.requests.iter().filter(|request| request.sender != Sender::Gateway).count()
    }

    /// Whether no request of the client is in flight, except a monitor's stream of replies, which never ends by itself.
    pub(super) fn is_idle(&self, is_monitor: impl Fn(CommandId) -> bool) -> bool {
        let is_idle = |request: &InFlightRequest| request.exhaust_allowed && is_monitor(request.command);
        self.requests.iter().all(|request| request.sender == Sender::Gateway || is_idle(request))
    }

    /// Whether all requests in flight have commands that `is_such` accepts.
    pub(super) fn is_all(&self, is_such: impl Fn(CommandId) -> bool) -> bool {
        self.requests.iter().all(|request| is_such(request.command))
    }

    /// The oldest request that went upstream: mongod replies in order.
    pub(super) fn next(&self) -> Option<&InFlightRequest> {
        self.requests.iter().find(|request| request.local_reply.is_none())
    }

    /// Whether a reply with this `responseTo` answers the oldest request that went upstream.
    pub(super) fn is_next_answered_by(&self, response_to: i32) -> bool {
        self.next().is_some_and(|request| request.is_answered_by(response_to))
    }

    /// Whether a monitor's stream of replies is all that is in flight.
    pub(super) fn is_streaming(&self, is_monitor: impl Fn(CommandId) -> bool) -> bool {
        self.unanswered() > 0 && self.is_idle(is_monitor)
    }

    /// Whether every request that went upstream is answered, or confirmed by a later reply: the next request cannot
    /// overtake it on another upstream connection. One stream of replies may be in flight, since it can be restarted.
    pub(super) fn is_settled(&self) -> bool {
        let streams = self.requests.iter().filter(|request| request.exhaust_allowed).take(1).count();
        self.requests.len() == streams && self.unacknowledged == self.confirmed
    }

    /// The stream of replies has been restarted by a request with this id.
    pub(super) fn restart_stream(&mut self, request_id: i32) {
        self.restarted_stream = self.requests.front().map(|request| (request_id, request.expected_response_to));
    }

    /// The `responseTo` that the client waits for, of a reply with this `responseTo`: another one for the first reply
    /// of a restarted stream.
    pub(super) fn client_response_to(&mut self, response_to: i32) -> i32 {
        match self.restarted_stream {
            Some((there, here)) if there == response_to => {
                self.restarted_stream = None;
                here
            }
            _ => response_to,
        }
    }

    /// The request that a reply with this `responseTo` answers.
    pub(super) fn answered_by(&self, response_to: i32) -> Option<&InFlightRequest> {
        self.requests.iter().find(|request| request.is_answered_by(response_to))
    }

    /// Whether a reply may name members: as the request says that it answers, or, where it answers none, as any request
    /// in flight says.
    pub(super) fn names_members(&self, response_to: i32) -> bool {
        match self.answered_by(response_to) {
            Some(request) => request.names_members,
            None => self.requests.iter().any(|request| request.names_members),
        }
    }

    /// What a reply lists: as the request says that it answers, or, where it answers none, as any request in flight
    /// says.
    pub(super) fn listed(&self, response_to: i32) -> Option<&Listed> {
        match self.answered_by(response_to) {
            Some(request) => request.listed.as_deref(),
            None => self.requests.iter().find_map(|request| request.listed.as_deref()),
        }
    }

    /// Finds the request that a complete reply answers, and hands it to `answered`. Returns whether there is one.
    ///
    /// A reply with `moreToCome` keeps its request in flight: the next reply names the id of this one. Requests before
    /// the answered one got no reply, and are removed.
    pub(super) fn answer(
        &mut self,
        reply: &Header,
        more_to_come: bool,
        answered: impl FnOnce(&mut InFlightRequest),
    ) -> bool {
        let Some(position) = self.requests.iter().position(|request| request.is_answered_by(reply.response_to)) else {
            return false;
        };
        for _ in 0..position {
            if let Some(reply) = self.requests.pop_front().and_then(|request| request.local_reply) {
                self.due_replies.extend_from_slice(&reply);
            }
        }
        if let Some(request) = self.requests.front_mut() {
            answered(request);
            self.confirmed = request.unacknowledged_before;
            request.expected_response_to = reply.request_id;
            request.is_streaming = true;
        }
        if !more_to_come {
            self.requests.pop_front();
            while let Some(reply) = self.requests.front_mut().and_then(|next| next.local_reply.take()) {
                self.due_replies.extend_from_slice(&reply);
                self.requests.pop_front();
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

    pub(in crate::relay) fn request(request_id: i32) -> InFlightRequest {
        InFlightRequest::new(request_id, OTHER)
    }

    fn reply(request_id: i32, response_to: i32) -> Header {
        Header { length: 100, request_id, response_to, op_code: OpCode::MSG }
    }

    /// Pushes requests 1..=3, applies replies (id, responseTo, moreToCome), and compares the number of requests left.
    fn check(replies: &[(i32, i32, bool)], left: usize) {
        let mut in_flight = InFlight::default();
        (1..=3).for_each(|id| in_flight.push(request(id)));
        for (id, response_to, more) in replies {
            in_flight.answer(&reply(*id, *response_to), *more, |_| {});
        }
        assert_eq!(in_flight.len(), left, "{replies:?}");
    }

    #[test]
    fn a_reply_removes_its_request_and_the_unanswered_requests_before_it() {
        check(&[(90, 1, false)], 2);
        check(&[(90, 1, false), (91, 2, false), (92, 3, false)], 0);
        check(&[(90, 3, false)], 0);
        check(&[(90, 77, false)], 3);
    }

    #[test]
    fn a_local_reply_waits_for_its_turn() {
        let mut in_flight = InFlight::default();
        in_flight.push_local_reply(b"a".to_vec());
        assert_eq!(in_flight.take_due_replies(), b"a");
        in_flight.push(request(1));
        in_flight.push_local_reply(b"b".to_vec());
        in_flight.push_local_reply(b"c".to_vec());
        in_flight.push(request(2));
        in_flight.push_local_reply(b"d".to_vec());
        assert!(!in_flight.has_due_replies());
        // A local reply has no id of mongod: no reply to 0 answers it.
        assert!(!in_flight.answer(&reply(89, 0), false, |_| {}));
        in_flight.answer(&reply(90, 1), true, |_| {});
        assert!(!in_flight.has_due_replies());
        in_flight.answer(&reply(91, 90), false, |_| {});
        assert_eq!(in_flight.take_due_replies(), b"bc");
        in_flight.answer(&reply(92, 2), false, |_| {});
        assert_eq!((in_flight.take_due_replies(), in_flight.len()), (b"d".to_vec(), 0));
    }

    #[test]
    fn each_reply_of_a_stream_answers_the_one_before_it() {
        check(&[(90, 1, true), (91, 90, true), (92, 91, true)], 3);
        check(&[(90, 1, true), (91, 90, false)], 2);
        check(&[(90, 1, true), (91, 1, false)], 3);
    }

    #[test]
    fn a_reply_confirms_the_unacknowledged_requests_before_it_and_not_those_behind() {
        let mut in_flight = InFlight::default();
        assert!(in_flight.is_settled());
        in_flight.push_unacknowledged();
        in_flight.push(request(1));
        in_flight.push_unacknowledged();
        in_flight.answer(&reply(90, 1), false, |_| {});
        assert!(!in_flight.is_settled());
        in_flight.push(request(2));
        assert!(!in_flight.is_settled());
        in_flight.answer(&reply(91, 2), false, |_| {});
        assert!(in_flight.is_settled());
    }
}
