//! Moves bytes both ways: between the client's socket and the TLS session with upstream.
//!
//! What arrives is read into the worker's shared buffers, understood there, and written at once. A connection keeps
//! only what could not be written or understood yet. While one side does not take its bytes, the other is not read.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bson::rawdoc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::lifecycle::lease::LeaseState;
use crate::relay::client_half::ClientHalf;
use crate::relay::connection_stats::ConnectionStats;
use crate::relay::context::{ConnectionState, OWN_REQUEST_ID};
use crate::relay::end::{End, EndReason, Side};
use crate::relay::monitoring::{Event, Heard};
use crate::relay::replies::{Next, ReadReplies, Replies};
use crate::relay::request_ids::keeps_id;
use crate::relay::requests::{Requests, refusal_labels};
use crate::relay::scratch::{PLAIN_BYTES, Scratch, with_records, with_scratch};
use crate::relay::sharing::{Condition, Demand, Sharing};
use crate::relay::turn_budget::{TurnBudget, yield_turn};
use crate::relay::upstream_half::UpstreamHalf;
use crate::telemetry::metrics::Direction;
use crate::tls::{Records, TlsSession};
use crate::wire::error_reply::CommandError;
use crate::wire::header::Header;
use crate::wire::hello;
use crate::wire::hello::Withheld;
use crate::wire::op_msg;

/// A client that does not take this many bytes is not read. Replies of mongod are bounded otherwise, and are fewer;
/// local replies are not.
const UNSENT_BYTES_MAX: usize = 2 * PLAIN_BYTES;

/// The sockets that were not ready to be read in this call of [`Pump::poll_end`]. They have this task's waker, and are
/// not polled again: the worker's only thread runs this task, so that no socket becomes ready meanwhile.
#[derive(Default)]
struct Quiet {
    client: bool,
    upstream: bool,
}

/// Both sides of one connection and everything between them.
pub(super) struct Pump<C, U> {
    client: ClientHalf<C>,
    upstream: UpstreamHalf<U>,
    pub(super) requests: Requests,
    replies: Replies,
    /// Whether the last call of [`Pump::poll_end`] ended without reading the client's socket until nothing was there.
    is_client_unread: bool,
    /// Set where the upstream connections belong to a pool. On the heap, because most connections may have none.
    pub(super) sharing: Option<Box<Sharing>>,
    pub(super) connection: ConnectionState,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Pump<C, U> {
    /// With an upstream connection of its own.
    pub(super) fn new(client: C, socket: U, session: TlsSession, connection: ConnectionState) -> Self {
        Self::with(client, UpstreamHalf::new(socket, session), None, connection)
    }

    /// With upstream connections of a pool, and none yet.
    pub(super) fn sharing(client: C, sharing: Sharing, connection: ConnectionState) -> Self {
        Self::with(client, UpstreamHalf::detached(), Some(Box::new(sharing)), connection)
    }

    fn with(client: C, upstream: UpstreamHalf<U>, sharing: Option<Box<Sharing>>, connection: ConnectionState) -> Self {
        Self {
            client: ClientHalf::new(client),
            upstream,
            requests: Requests::new(),
            replies: Replies::new(),
            is_client_unread: false,
            sharing,
            connection,
        }
    }

    /// Takes what has been read from the client already, before anything else.
    pub(super) fn begin(&mut self, first_bytes: &mut [u8], cx: &mut Context<'_>) -> Result<(), End> {
        self.connection.stats.bytes(Direction::ToUpstream, first_bytes.len());
        self.take_requests(first_bytes, cx)
    }

    /// Moves what can be moved. Ready when the conversation has ended.
    ///
    /// Cancel safe between calls. A call moves no more than a [`TurnBudget`] allows. Where there may be more, it has
    /// the task wake again after the other connections of the worker.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut quiet = Quiet::default();
        self.connection.turn = TurnBudget::FULL;
        loop {
            match self.move_once(&mut quiet, cx) {
                Ok(_) if self.connection.turn.is_used_up() => {
                    yield_turn(cx);
                    return Poll::Pending;
                }
                Ok(true) => {}
                Ok(false) => break,
                Err(end) => {
                    if let (Some(sharing), false) = (&mut self.sharing, end.0 == Side::Client) {
                        sharing.condition = Condition::Spoiled;
                    }
                    return Poll::Ready(end);
                }
            }
        }
        self.is_client_unread = !quiet.client && !self.client.is_closed();
        self.end_reached().map_or(Poll::Pending, Poll::Ready)
    }

    /// One attempt at everything. Returns whether anything has moved.
    fn move_once(&mut self, quiet: &mut Quiet, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = self.client.flush(cx)?;
        moved |= self.upstream.flush(cx);
        moved |= self.send_held_request(cx)?;
        moved |= self.take_budget(cx)?;
        moved |= self.take_validation(cx)?;
        moved |= self.read_client(&mut quiet.client, cx)?;
        moved |= self.answer_hello(cx)?;
        moved |= self.send_held_reply(cx)?;
        moved |= self.take_reply_budget(cx)?;
        moved |= self.read_upstream(&mut quiet.upstream, cx)?;
        moved |= self.pass_on_client_end(cx);
        Ok(moved)
    }

    fn end_reached(&mut self) -> Option<End> {
        if !self.client.has_everything() || self.replies.is_interrupted() {
            return None;
        }
        if self.has_left_its_pool() {
            return Some((Side::Client, if self.is_whole() { EndReason::Closed } else { EndReason::Interrupted }));
        }
        if self.upstream.is_closed() && self.can_detach() {
            self.upstream.detach();
            if let Some(sharing) = &mut self.sharing {
                sharing.condition = Condition::Lost;
            }
            return None;
        }
        if self.upstream.is_closed() {
            let is_whole = self.replies.is_between() && self.upstream.kept().is_empty();
            return Some(match self.upstream.take_write_error() {
                _ if self.client.is_closed() => (Side::Client, EndReason::Closed),
                Some(error) => (Side::Upstream, EndReason::Socket(error)),
                None if is_whole && self.connection.in_flight.is_idle(ConnectionStats::is_monitor) => {
                    (Side::Upstream, EndReason::Closed)
                }
                None => (Side::Upstream, EndReason::Interrupted),
            });
        }
        if self.client.is_closed() && self.upstream.is_finished() && self.connection.in_flight.len() == 0 {
            return Some((Side::Client, if self.is_whole() { EndReason::Closed } else { EndReason::Interrupted }));
        }
        None
    }

    fn read_client(&mut self, is_quiet: &mut bool, cx: &mut Context<'_>) -> Result<bool, End> {
        let is_full = self.connection.in_flight.is_full() || self.client.unsent_bytes() > UNSENT_BYTES_MAX;
        if self.is_busy() || !self.upstream.has_everything() || is_full || !self.connection.turn.allows_requests() {
            return Ok(false);
        }
        if self.requests.is_interrupted() {
            self.take_kept_requests(cx)?;
            return Ok(true);
        }
        if *is_quiet || self.client.is_closed() {
            return Ok(false);
        }
        with_scratch(|scratch| {
            let Poll::Ready(input) = self.client.poll_read(scratch.plain, cx)? else {
                *is_quiet = true;
                return Ok(false);
            };
            if let Some(input) = input {
                let arrived = input.len() - self.client.kept().len();
                self.connection.turn.use_bytes(arrived);
                self.connection.stats.bytes(Direction::ToUpstream, arrived);
                self.take_requests(input, cx)?;
            }
            Ok(true)
        })
    }

    /// Whether a long request has to be sent or to get its part of the hold budget, or a token has to be validated,
    /// before anything else is read.
    fn is_busy(&self) -> bool {
        self.requests.is_sending_held() || self.requests.awaits_budget() || self.connection.filters.is_waiting()
    }

    /// Sends the next piece of a request that was held apart, when the piece before has left.
    fn send_held_request(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.requests.is_sending_held() || !self.upstream.has_everything() {
            return Ok(false);
        }
        let is_last = with_records(|records| {
            let mut sealed = Ok(());
            let is_last = self.requests.send_held(|piece| {
                self.connection.turn.use_bytes(piece.len());
                sealed = self.upstream.seal(piece, records);
            });
            sealed.map_err(sealing_failed)?;
            self.upstream.send(records, cx);
            Ok(is_last)
        })?;
        if is_last {
            self.take_kept_requests(cx)?;
        }
        Ok(true)
    }

    /// Reads on in a long request that has waited for the hold budget, also where the client sends nothing more: other
    /// connections wait for its part, so that its deadline has to begin.
    fn take_budget(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.requests.poll_budget(cx) {
            return Ok(false);
        }
        self.take_kept_requests(cx)?;
        Ok(true)
    }

    /// Reads on behind an authentication.
    fn take_validation(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(tokens) = &mut self.connection.filters.tokens else { return Ok(false) };
        if !tokens.poll_resumed(cx) {
            return Ok(false);
        }
        self.take_kept_requests(cx)?;
        Ok(true)
    }

    /// Reads on in what was read from the client before.
    fn take_kept_requests(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut kept = self.client.take_kept();
        self.take_requests(&mut kept, cx)
    }

    /// Reads the requests in `input`, and sends what goes upstream.
    fn take_requests(&mut self, input: &mut [u8], cx: &mut Context<'_>) -> Result<(), End> {
        let settled = with_records(|records| {
            let (upstream, mut sealed) = (&mut self.upstream, Ok(()));
            let mut seal = |bytes: &[u8]| {
                if sealed.is_ok() {
                    sealed = upstream.seal(bytes, records);
                }
            };
            let settled = self.requests.read(input, &mut seal, &mut self.connection);
            self.upstream.send(records, cx);
            sealed.map(|()| settled).map_err(sealing_failed)
        })?;
        match settled {
            Ok(settled) => {
                self.client.keep(input.get(settled..).unwrap_or_default());
                self.queue_due_replies();
                Ok(())
            }
            Err(close) => {
                self.client.queue(&close.final_reply);
                Err((Side::Client, close.reason))
            }
        }
    }

    /// Puts local replies whose turn it is behind what the client has not taken, where a message may begin.
    fn queue_due_replies(&mut self) {
        if self.connection.in_flight.has_due_replies() && self.replies.is_between() {
            self.client.queue(&self.connection.in_flight.take_due_replies());
        }
    }

    fn read_upstream(&mut self, is_quiet: &mut bool, cx: &mut Context<'_>) -> Result<bool, End> {
        let is_held_up = self.replies.is_sending_held() || self.replies.awaits_budget();
        if is_held_up || !self.client.has_everything() || !self.connection.turn.allows_replies() {
            return Ok(false);
        }
        if self.replies.is_interrupted() {
            self.take_kept_replies(cx)?;
            return Ok(true);
        }
        if *is_quiet || self.upstream.is_closed() {
            return Ok(false);
        }
        with_scratch(|Scratch { plain, sealed }| {
            let Poll::Ready(input) = self.upstream.poll_read(sealed, plain, cx)? else {
                *is_quiet = true;
                return Ok(false);
            };
            let arrived = input.len() - self.upstream.kept().len();
            self.connection.turn.use_bytes(arrived);
            self.connection.stats.bytes(Direction::ToClient, arrived);
            self.take_replies(input, cx)?;
            Ok(true)
        })
    }

    /// Reads the replies in `input`, and sends what goes to the client.
    fn take_replies(&mut self, mut input: &mut [u8], cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            let ReadReplies { forwarded, next } = self.replies.read(input, &mut self.connection);
            let (forwarded, rest) = input.split_at_mut(forwarded);
            self.client.send(forwarded, cx)?;
            input = match next {
                Next::NeedInput | Next::Interrupted => {
                    self.upstream.keep(rest);
                    return Ok(());
                }
                Next::Held { taken } => {
                    self.upstream.keep(&rest[taken..]);
                    return Ok(());
                }
                Next::LocalReplies => rest,
                Next::Rewritten { message, replaced } => {
                    self.client.send(&message, cx)?;
                    &mut rest[replaced..]
                }
                Next::Close(reason @ EndReason::DeniedMeanwhile) => return Err((Side::Gateway, reason)),
                Next::Close(reason) => return Err((Side::Upstream, reason)),
            };
            self.queue_due_replies();
        }
    }

    /// Sends the next piece of a reply that was held apart, when the client has taken the piece before.
    fn send_held_reply(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.replies.is_sending_held() || !self.client.has_everything() {
            return Ok(false);
        }
        if let Some(piece) = self.replies.next_held_piece() {
            self.connection.turn.use_bytes(piece.len());
            self.client.send(piece, cx)?;
            return Ok(true);
        }
        self.replies.held_was_sent();
        self.queue_due_replies();
        self.take_kept_replies(cx)?;
        Ok(true)
    }

    /// Reads on in a long reply that has waited for the hold budget: other connections wait for its part, so that its
    /// deadline has to begin.
    fn take_reply_budget(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.connection.turn.allows_replies() || !self.replies.poll_budget(cx) {
            return Ok(false);
        }
        self.take_kept_replies(cx)?;
        self.replies.return_budget();
        Ok(true)
    }

    /// Reads on in what was read from upstream before.
    fn take_kept_replies(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut kept = self.upstream.take_kept();
        self.take_replies(&mut kept, cx)
    }

    /// Closes the gateway's side to upstream when the client has closed its own.
    fn pass_on_client_end(&mut self, cx: &mut Context<'_>) -> bool {
        let has_more = self.is_busy() || self.requests.is_interrupted() || self.has_left_its_pool();
        if !self.client.is_closed() || self.upstream.is_finished() || has_more {
            return false;
        }
        self.upstream.finish(cx)
    }
}

/// What the relay asks and does between two calls of [`Pump::poll_end`].
impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Pump<C, U> {
    /// Whether nothing would be cut short by ending now: no command in flight, no message partly forwarded.
    ///
    /// A request of which nothing has gone upstream is no reason to wait: its client may never finish it. Requests and
    /// replies that wait for the next turn have arrived already.
    pub(super) fn is_idle(&self) -> bool {
        !self.requests.is_forwarding()
            && !self.requests.is_interrupted()
            && !self.replies.is_interrupted()
            && self.replies.is_between()
            && self.client.has_everything()
            // An unacknowledged write is safe only when it has left.
            && self.upstream.has_everything()
            && self.connection.in_flight.is_idle(ConnectionStats::is_monitor)
    }

    /// Whether the client can move to another upstream connection unnoticed, now or after the command in flight:
    /// everything that this one knows of the client can be repeated there.
    pub(super) fn can_move(&self) -> bool {
        let introduction = self.requests.introduction();
        let is_streaming = self.connection.in_flight.is_streaming(ConnectionStats::is_monitor);
        introduction.hello().is_some() && (!is_streaming || introduction.stream().is_some())
    }

    /// Whether the client can move now: every request is answered, and nothing more has been read from either side.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.is_idle()
            && self.is_whole()
            && self.upstream.kept().is_empty()
            && self.connection.in_flight.is_settled()
            && !self.client.is_closed()
            && self.upstream.is_usable()
    }

    /// Whether the upstream connection could serve another client now, or this client could do without it: nothing is
    /// owed in either direction, and what it knows of the client can be repeated on another one.
    ///
    /// It may have been closed, and the client may have gone.
    pub(super) fn can_detach(&self) -> bool {
        self.can_detach_when_confirmed() && self.connection.in_flight.is_settled()
    }

    /// As [`Pump::can_detach`], but unacknowledged writes may be on their way.
    pub(super) fn can_detach_when_confirmed(&self) -> bool {
        self.sharing.as_ref().is_some_and(|sharing| sharing.condition != Condition::Spoiled)
            && self.upstream.is_attached()
            && !self.upstream.is_finished()
            && self.requests.is_between()
            && !self.requests.is_interrupted()
            && !self.is_busy()
            && !self.replies.is_interrupted()
            && self.replies.is_between()
            && self.upstream.has_everything()
            && self.upstream.kept().is_empty()
            && self.upstream.is_between_records()
            && self.connection.in_flight.len() == 0
            && self.requests.introduction().hello().is_some()
            // Behind the address there may be several mongos, and cursors and transactions belong to one of them.
            && !(self.connection.filters.handshake.passes_load_balancing() && self.has_open_state())
    }

    /// Whether the upstream connection can serve another client.
    pub(super) fn is_reusable(&self) -> bool {
        self.can_detach() && self.upstream.is_usable()
    }

    /// Asks the server for a reply: it executes requests in their order, so that all unacknowledged writes are done by
    /// then.
    pub(super) fn confirm_writes(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(ids) = self.connection.shared_ids else { return Ok(()) };
        let ping = op_msg::encode(ids.to_upstream(OWN_REQUEST_ID), 0, &rawdoc! { "ping": 1, "$db": "admin" });
        with_records(|records| {
            self.upstream.seal(&ping, records).map_err(sealing_failed)?;
            self.upstream.send(records, cx);
            Ok(())
        })?;
        self.connection.own_request_sent();
        if let Some(sharing) = &mut self.sharing {
            sharing.goes_back = true;
        }
        Ok(())
    }

    /// Whether the upstream connection is open in both directions.
    pub(super) fn is_upstream_usable(&self) -> bool {
        self.upstream.is_usable()
    }

    /// Goes on without an upstream connection, and returns the present one.
    pub(super) fn detach(&mut self) -> Option<(U, TlsSession)> {
        if let Some(sharing) = &mut self.sharing {
            sharing.end_use();
        }
        self.connection.filters.handshake.set_introduced(false);
        self.upstream.detach()
    }

    /// Uses an upstream connection on which `is_introduced` says whether the client's hello has been answered.
    pub(super) fn attach(
        &mut self,
        socket: U,
        session: TlsSession,
        lease: Option<Arc<LeaseState>>,
        is_introduced: bool,
    ) -> Result<(), End> {
        if let Some(sharing) = &mut self.sharing {
            sharing.begin_use(lease);
        }
        self.connection.filters.handshake.set_introduced(is_introduced);
        if is_introduced {
            self.withhold_introduction();
        }
        self.upstream.attach(socket, session).map_err(sealing_failed)
    }

    /// Takes the `client` document out of the hello that introduces the client, if that hello waits: mongod has had it.
    fn withhold_introduction(&mut self) {
        let hello = self.requests.introduction().first_hello();
        let withheld = Withheld { client: true, ..Withheld::default() };
        if !hello.is_empty()
            && self.upstream.unsealed().starts_with(hello)
            && let Ok(Some(rewritten)) = hello::without(hello, withheld)
        {
            self.upstream.replace_unsealed(hello.len(), &rewritten);
        }
    }

    /// Answers the requests that wait for an upstream connection with `error` and its `labels`, also the one of which a
    /// part is still to come.
    pub(super) fn refuse_waiting(
        &mut self,
        error: &CommandError,
        labels: &'static [&'static str],
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        if self.upstream.is_attached() {
            return Ok(());
        }
        let Some(ids) = self.connection.shared_ids else { return Ok(()) };
        let mut replies = Vec::new();
        let mut rest = self.upstream.unsealed();
        while let Some(header) = rest.first_chunk().and_then(|head| Header::parse(*head).ok()) {
            let keeps_id = keeps_id(&header, rest) == Some(true);
            let id = if keeps_id { header.request_id } else { ids.to_client(header.request_id) };
            if let Some(request) = self.connection.in_flight.answered_by(id) {
                let labels = refusal_labels(labels, request.transaction, Some(request.command.name().as_bytes()));
                replies.extend_from_slice(&error.labelled_reply_to(&header, &labels));
            }
            rest = rest.get(header.length as usize..).unwrap_or_default();
        }
        self.upstream.drop_unsealed(usize::MAX);
        if let Some(sharing) = &mut self.sharing {
            sharing.demand = Demand::None;
        }
        if self.requests.is_forwarding() || self.requests.is_sending_held() {
            self.requests.refuse_rest(error, labels, &mut self.connection);
        }
        self.take_replies(&mut replies, cx)?;
        self.take_kept_requests(cx)
    }

    /// Whether the client has closed its side, and its upstream connection can serve others, or it has none.
    fn has_left_its_pool(&self) -> bool {
        if self.sharing.is_none() || !self.client.is_closed() {
            return false;
        }
        let has_none = !self.upstream.is_attached() && self.upstream.has_everything();
        has_none || self.is_reusable()
    }

    /// Answers a hello that was sent while there is no upstream connection. Anything else needs one.
    fn answer_hello(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(sharing) = &mut self.sharing else { return Ok(false) };
        let is_held_up = self.replies.is_sending_held() || self.replies.awaits_budget() || !self.replies.is_between();
        if self.upstream.is_attached() || is_held_up || !self.client.has_everything() {
            return Ok(false);
        }
        if sharing.hello.is_waiting() {
            match sharing.hello.poll(Instant::now(), cx) {
                Poll::Ready(Event::Reply(mut reply)) => return self.take_replies(&mut reply, cx).map(|()| true),
                Poll::Ready(Event::Lost) => return Err((Side::Upstream, EndReason::MemberLost)),
                Poll::Pending => {}
            }
        }
        let sent = self.upstream.unsealed();
        if sent.is_empty() || sharing.demand != Demand::None {
            return Ok(false);
        }
        let length = sent.first_chunk().and_then(|head| Header::parse(*head).ok()).map_or(0, |it| it.length as usize);
        let heard = sent.get(..length).map_or(Heard::NotMine, |message| sharing.answer(message, Instant::now()));
        let mut reply = match heard {
            Heard::Reply(reply) => reply,
            Heard::Later => Vec::new(),
            Heard::NotMine => {
                sharing.demand = Demand::New;
                // A monitor would hold it for ever, and so could a client that never shows a token.
                let is_brief = self.connection.in_flight.is_all(ConnectionStats::is_monitor);
                sharing.goes_back = is_brief || self.connection.filters.awaits_token();
                let mut last = sharing.hello.finish(Instant::now()).unwrap_or_default();
                return self.take_replies(&mut last, cx).map(|()| true);
            }
        };
        self.upstream.drop_unsealed(length);
        self.take_replies(&mut reply, cx)?;
        Ok(true)
    }

    /// Whether the client has closed its side.
    pub(super) fn client_has_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether the client's socket is not read at the moment, so that the client could leave without being noticed.
    pub(super) fn is_client_unread(&self) -> bool {
        self.is_client_unread
    }

    /// Whether the client is not in the middle of a message.
    pub(super) fn is_whole(&self) -> bool {
        self.requests.is_between() && self.client.kept().is_empty()
    }

    /// When a message that is held apart has to have arrived, or to have been sent.
    pub(super) fn hold_deadline(&self) -> Option<Instant> {
        match (self.requests.hold_deadline(), self.replies.hold_deadline()) {
            (Some(request), Some(reply)) => Some(request.min(reply)),
            (request, reply) => request.or(reply),
        }
    }

    /// The end of a conversation whose hold deadline has passed.
    pub(super) fn missed_hold_deadline(&self) -> End {
        if self.replies.hold_deadline().is_some() && self.replies.hold_deadline() == self.hold_deadline() {
            let (side, what) = if self.replies.is_sending_held() {
                (Side::Client, "a long reply was not taken in time")
            } else {
                (Side::Upstream, "a long reply did not arrive in time")
            };
            return (side, EndReason::Socket(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        if self.requests.is_sending_held() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "a long command was not taken in time");
            return (Side::Upstream, EndReason::Socket(error));
        }
        (Side::Client, EndReason::TooSlow)
    }

    /// Whether the client has cursors or transactions open.
    pub(super) fn has_open_state(&self) -> bool {
        !self.connection.open_state.is_empty()
    }

    /// The hello that introduces the client on another upstream connection.
    pub(super) fn introduction(&self) -> Option<&[u8]> {
        self.requests.introduction().hello()
    }

    /// The client's first hello, also where the client cannot have another upstream connection; empty if there is none
    /// that another connection could answer.
    pub(super) fn first_hello(&self) -> &[u8] {
        self.requests.introduction().first_hello()
    }

    /// Whether the owner of the connection has to learn of a token: nothing is in flight from the time before it.
    pub(super) fn needs_owner(&self) -> bool {
        let filters = &self.connection.filters;
        filters.tokens.as_ref().is_some_and(|tokens| tokens.needs_owner()) && self.connection.in_flight.len() == 0
    }

    /// Whether the client has authenticated behind a stream of replies, which has no end.
    pub(super) fn has_authentication_behind_stream(&self) -> bool {
        let ConnectionState { filters, in_flight, .. } = &self.connection;
        let needs_owner = filters.tokens.as_ref().is_some_and(|tokens| tokens.needs_owner());
        needs_owner && in_flight.next().is_some_and(|request| request.exhaust_allowed)
    }

    /// Has the client stay on this upstream connection.
    pub(super) fn pin(&mut self) {
        self.requests.pin();
    }

    /// Goes on with another upstream connection, and closes the current one. Only at a boundary.
    ///
    /// A stream of replies is restarted there: the client gets the next reply sooner than otherwise.
    pub(super) fn replace_upstream(&mut self, socket: U, session: TlsSession, cx: &mut Context<'_>) -> Result<(), End> {
        self.upstream.close(cx);
        self.upstream.replace(socket, session);
        if self.connection.in_flight.is_streaming(ConnectionStats::is_monitor)
            && let Some(hello) = self.requests.introduction().stream()
        {
            let header = hello.first_chunk().and_then(|head| Header::parse(*head).ok());
            self.connection.in_flight.restart_stream(header.map_or(0, |header| header.request_id));
            let mut records = Records::default();
            self.upstream.seal(hello, &mut records).map_err(sealing_failed)?;
            self.upstream.send(&mut records, cx);
        }
        Ok(())
    }

    /// Whether the client's socket has taken everything.
    pub(super) fn client_has_everything(&self) -> bool {
        self.client.has_everything()
    }

    /// Whether the client's last message follows the protocol.
    pub(super) fn client_is_understood(&self) -> bool {
        self.requests.is_understood()
    }

    /// Takes what the client has to read before its side closes.
    pub(super) fn take_final_reply(&mut self) -> Vec<u8> {
        self.client.take_unsent()
    }

    /// The client's socket.
    pub(super) fn client(&mut self) -> &mut C {
        self.client.socket()
    }

    /// Closes the side to upstream.
    pub(super) fn close_upstream(&mut self, cx: &mut Context<'_>) {
        self.upstream.close(cx);
    }

    /// Closes the side to the client.
    pub(super) fn close_client(&mut self, cx: &mut Context<'_>) {
        self.client.close(cx);
    }
}

fn sealing_failed(error: io::Error) -> End {
    (Side::Gateway, EndReason::Socket(error))
}
