//! Answers the hello requests of one client in place of mongod, from what the gateway's monitor of the member hears.
//!
//! Every driver keeps connections to each member only for this. Answered here, they need no connection to mongod. The
//! service answers as mongod does: at once, when the state of the member changes, or with one reply after the other. It
//! does not rewrite the names of members, and does not decide whether a client may be answered.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-monitoring.md`.

mod question;
mod reply;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bson::RawDocumentBuf;
use tokio::time::Instant;

use crate::lifecycle::feed::{Changes, Feed};
use crate::topology::{KnownHello, TopologyVersion};
use crate::wire::error_reply;
use crate::wire::header::Header;
use crate::wire::message_scan::flag;
use crate::wire::op_msg;

use question::{HelloQuestion, ReplyStyle, Wait};

/// The longest wait for a change. A client that asks for more receives a reply earlier than it has to.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// The shortest time between two replies of a stream in which nothing has changed. mongod sends them as fast as the
/// client asks for; those of a driver are 500 ms apart or more.
const STREAM_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) enum Heard {
    /// mongod has to answer it.
    NotMine,
    /// The reply, a complete message.
    Reply(Vec<u8>),
    /// The client waits for a change: [`HelloService::poll`] returns the reply.
    Later,
}

/// What happens while a client waits.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) enum Event {
    /// The next reply, a complete message.
    Reply(Vec<u8>),
    /// The member does not answer. The client has to notice that by the loss of its connection, as it does without a
    /// gateway.
    Lost,
}

/// Answers the hello requests of one client, which sends the next one when the last has been answered.
pub(in crate::relay) struct HelloService {
    feed: Arc<Feed<KnownHello>>,
    /// Whether a hello with the metadata of the client has been answered. mongod rejects a second one.
    introduced: bool,
    /// The request that waits for its next reply. Most clients do not monitor.
    waiting: Option<Box<Waiting>>,
}

/// A request that waits for its next reply.
struct Waiting {
    request: Header,
    style: ReplyStyle,
    stream: Option<Stream>,
    /// The state that the client knows.
    known: TopologyVersion,
    at_most: Duration,
    /// When the client receives a reply even if nothing has changed.
    due: Instant,
    /// The losses of the member when the wait began.
    losses: u64,
    changes: Changes<KnownHello>,
}

/// Replies of which each is in response to the previous one.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// What the next reply responds to.
    response_to: i32,
    /// The ID of the next reply.
    next_id: i32,
}

impl HelloService {
    /// For a client of the member that `feed` is about.
    pub(in crate::relay) fn new(feed: Arc<Feed<KnownHello>>) -> Self {
        Self { feed, introduced: false, waiting: None }
    }

    /// Answers a complete message, header included, as it would go upstream. If a request waits afterwards,
    /// [`HelloService::poll`] has to be called, also after a reply: it is the first of a stream.
    ///
    /// While a request waits, none is taken: [`HelloService::finish`] ends the wait.
    pub(in crate::relay) fn take(&mut self, message: &[u8], now: Instant) -> Heard {
        self.answer(message, now).unwrap_or(Heard::NotMine)
    }

    fn answer(&mut self, message: &[u8], now: Instant) -> Option<Heard> {
        if self.is_waiting() {
            return None;
        }
        let question = HelloQuestion::read(message)?;
        if question.introduces && self.introduced {
            return None;
        }
        let sight = Sight::of(&self.feed, now)?;
        if sight.hello.requires_api && !question.declares_api {
            return None;
        }
        let heard = match question.wait {
            None => Heard::Reply(error_reply::reply(&question.header, &sight.document(question.style)?)),
            Some(wait) => self.answer_wait(&question, wait, &sight)?,
        };
        self.introduced |= question.introduces;
        Some(heard)
    }

    /// Answers a client that knows a state of the member: at once if it has changed.
    fn answer_wait(&mut self, question: &HelloQuestion, wait: Wait, sight: &Sight) -> Option<Heard> {
        // A server without it does not wait.
        let current = sight.hello.topology_version?;
        let document = sight.document(question.style)?;
        let is_news = is_news(wait.known, current);
        if !wait.streams && (is_news || wait.at_most.is_zero()) {
            return Some(Heard::Reply(error_reply::reply(&question.header, &document)));
        }
        let at_least = if wait.streams { STREAM_INTERVAL_MIN } else { Duration::ZERO };
        let at_most = wait.at_most.clamp(at_least, WAIT_MAX);
        let mut waiting = Box::new(Waiting {
            request: question.header,
            style: question.style,
            stream: wait.streams.then_some(Stream { response_to: question.header.request_id, next_id: 1 }),
            known: wait.known,
            at_most,
            due: sight.now + at_most,
            losses: sight.losses,
            changes: self.feed.changes(),
        });
        let heard = if is_news { Heard::Reply(waiting.next(&document, current, sight.now)) } else { Heard::Later };
        self.waiting = Some(waiting);
        Some(heard)
    }

    /// The next reply to the request that waits, or that the member is lost. Wakes the task at a change of the member,
    /// but not when [`HelloService::next_due`] has come.
    ///
    /// Returns a reply each time that one is due, so it must not be called while the last one has not been sent.
    pub(in crate::relay) fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        // Each change is compared with what the client knows; several may have come.
        while waiting.changes.poll(cx).is_ready() {}
        let sight = Sight::of(&self.feed, now).filter(|sight| sight.losses == waiting.losses);
        let event = match sight.and_then(|sight| waiting.due_reply(&sight)) {
            Some(DueReply::NotYet) => return Poll::Pending,
            Some(DueReply::Due(message)) => Event::Reply(message),
            None => Event::Lost,
        };
        if waiting.stream.is_none() || event == Event::Lost {
            self.waiting = None;
        }
        Poll::Ready(event)
    }

    /// When the request that waits receives its next reply even if nothing changes.
    pub(in crate::relay) fn next_due(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.due)
    }

    /// Whether a request waits for a reply, or for the next one of a stream.
    pub(in crate::relay) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Ends the wait with its last reply, a complete message. `None` if no request waits, or if the member is lost,
    /// which [`HelloService::poll`] reports.
    pub(in crate::relay) fn finish(&mut self, now: Instant) -> Option<Vec<u8>> {
        let waiting = self.waiting.as_ref()?;
        let sight = Sight::of(&self.feed, now).filter(|sight| sight.losses == waiting.losses)?;
        let document = sight.document(waiting.style)?;
        let last = match waiting.stream {
            Some(stream) => op_msg::encode(stream.next_id, stream.response_to, &document),
            None => error_reply::reply(&waiting.request, &document),
        };
        self.waiting = None;
        Some(last)
    }
}

/// What is known of the member at one moment.
struct Sight {
    hello: Arc<KnownHello>,
    /// How often the member has been lost, read before its hello.
    losses: u64,
    now: Instant,
}

impl Sight {
    /// `None` while the member does not answer.
    fn of(feed: &Feed<KnownHello>, now: Instant) -> Option<Self> {
        let losses = feed.losses();
        Some(Self { hello: feed.current()?, losses, now })
    }

    /// The document of a reply; `None` if the member would not reply like this.
    fn document(&self, style: ReplyStyle) -> Option<RawDocumentBuf> {
        reply::document(&self.hello, style, self.now.into_std())
    }
}

/// Whether a reply is due.
enum DueReply {
    NotYet,
    Due(Vec<u8>),
}

impl Waiting {
    /// The reply, if the member has changed or the time is over. `None` if the member has become a server that does not
    /// reply to such a request.
    fn due_reply(&mut self, sight: &Sight) -> Option<DueReply> {
        let current = sight.hello.topology_version?;
        if sight.now < self.due && !is_news(self.known, current) {
            return Some(DueReply::NotYet);
        }
        let document = sight.document(self.style)?;
        Some(DueReply::Due(self.next(&document, current, sight.now)))
    }

    /// The next reply as a message; the one after that is due later.
    fn next(&mut self, document: &RawDocumentBuf, current: TopologyVersion, now: Instant) -> Vec<u8> {
        let Some(stream) = &mut self.stream else { return error_reply::reply(&self.request, document) };
        let message = op_msg::encode_with(flag::MORE_TO_COME, stream.next_id, stream.response_to, document);
        *stream = Stream { response_to: stream.next_id, next_id: stream.next_id.checked_add(1).unwrap_or(1) };
        self.known = current;
        self.due = now + self.at_most;
        message
    }
}

/// Whether the state of a member is later than the one that a client knows, or that of another process.
///
/// A client may know a later state than the gateway's monitor, if it heard of it on a connection to mongod. mongod
/// replies to a later state than its own with an error, but here it is the monitor that is about to hear of it.
fn is_news(known: TopologyVersion, current: TopologyVersion) -> bool {
    current.process_id != known.process_id || current.counter > known.counter
}

#[cfg(test)]
mod tests;
