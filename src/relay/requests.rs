//! The client's side of the conversation: reads requests as they pass, and lets them go upstream.
//!
//! A request leaves as soon as its command is known. Only a hello is held until it is whole, since it changes on the
//! way. What cannot be understood is counted and passes byte for byte; a stream that has lost its message boundaries
//! passes unread from there on.

use tokio::time::Instant;

use crate::command::table;
use crate::command::table::CollectionAt;
use crate::relay::exchange::{Exchange, Open};
use crate::relay::record::Record;
use crate::telemetry::metrics::Direction;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::MessageScan;
use crate::wire::request::RequestFacts;

/// The longest message that is held back, header included. A hello has a few kilobytes at most.
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024;

/// The longest hello that is kept for a later connection. Its `client` document has 512 bytes at most.
const HELLO_BYTES_MAX: usize = 4096;

/// The client sent `OP_COMPRESSED`, which no hello allowed it to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compressed(pub(super) Header);

/// Where in the stream the reader stands.
enum State {
    Between,
    Message {
        header: Header,
        scan: MessageScan,
        released: bool,
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
    /// The client's hello as it went upstream, where that was its first request and can be repeated elsewhere.
    hello: Option<Box<[u8]>>,
    begun: bool,
    /// Whether something of the client's may live in the mongod connection itself.
    anchored: bool,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            state: State::Between,
            facts: RequestFacts::default(),
            understood: true,
            scanned: 0,
            hello: None,
            begun: false,
            anchored: false,
        }
    }

    /// What makes another mongod connection the client's own; `None` where nothing can.
    pub(super) fn hello(&self) -> Option<&[u8]> {
        self.hello.as_deref().filter(|_| !self.anchored)
    }

    /// The client can have no other mongod connection than this one.
    pub(super) fn anchor(&mut self) {
        self.anchored = true;
        self.hello = None;
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
            State::Unframed => false,
        }
    }

    /// Reads `input`, hands to `pass` what may go upstream, and returns how many bytes of the input that settled.
    ///
    /// The rest, at most [`HELD_BYTES_MAX`] and what a scan keeps, stands at the front of the next call's input.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        pass: &mut impl FnMut(&[u8]),
        exchange: &mut Exchange,
        record: &mut Record,
    ) -> Result<usize, Compressed> {
        let mut at = self.scanned;
        // `input[..sent]` is settled; the current message starts at `start`, or before the input when it is released.
        let (mut sent, mut start) = (0, 0);
        loop {
            match &mut self.state {
                State::Between => {
                    start = at;
                    let Some(head) = input.get(at..).and_then(<[u8]>::first_chunk) else { break };
                    let Ok(header) = Header::parse(*head) else {
                        record.unparsed(Direction::ToUpstream);
                        self.state = State::Unframed;
                        continue;
                    };
                    if header.op_code == OpCode::COMPRESSED {
                        pass(&input[sent..at]);
                        return Err(Compressed(header));
                    }
                    at += HEADER_BYTES;
                    self.facts.clear();
                    self.state = State::Message { header, scan: MessageScan::new(&header), released: false };
                }
                State::Message { header, scan, released } => {
                    at += scan.advance(&input[at..], &mut self.facts);
                    *released = *released || may_leave(header, scan, &self.facts);
                    if scan.left() > 0 {
                        break;
                    }
                    let rewritten = if *released { None } else { hello::without_compression(&input[start..at]) };
                    let (header, malformed, released) = (*header, scan.is_malformed(), *released);
                    if !self.begun && !released {
                        self.hello = repeatable(rewritten.as_deref().unwrap_or(&input[start..at]), &self.facts);
                    }
                    self.begun = true;
                    if let Some(rewritten) = rewritten {
                        pass(&input[sent..start]);
                        pass(&rewritten);
                        sent = at;
                    }
                    self.understood = !malformed;
                    if malformed || ties(&header, &self.facts) {
                        self.anchor();
                    }
                    self.settle(header, malformed, exchange, record);
                    self.state = State::Between;
                }
                State::Unframed => {
                    at = input.len();
                    break;
                }
            }
        }
        let may_go = match &self.state {
            State::Message { released: true, .. } | State::Unframed => at,
            State::Message { .. } | State::Between => start.max(sent),
        };
        if may_go > sent {
            pass(&input[sent..may_go]);
        }
        self.scanned = at - may_go;
        Ok(may_go)
    }

    /// A request is complete: it is counted, and waits for its reply if it wants one.
    fn settle(&self, header: Header, malformed: bool, exchange: &mut Exchange, record: &mut Record) {
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
        exchange.push(Open {
            expected_response_to: header.request_id,
            command: id,
            started: Instant::now(),
            exhaust_allowed: facts.exhaust_allowed(),
            streaming: false,
            namespace,
            cursor: facts.cursor(),
            transaction: facts.transaction(),
            behind: 0,
        });
    }
}

/// Whether the bytes of a message that is still arriving may go upstream.
fn may_leave(header: &Header, scan: &MessageScan, facts: &RequestFacts) -> bool {
    let is_hello = facts.command().is_some_and(hello::is_hello);
    header.length as usize > HELD_BYTES_MAX || scan.is_malformed() || (facts.is_named() && !is_hello)
}

/// The message, if it is a hello that any connection would answer at once and alike.
fn repeatable(message: &[u8], facts: &RequestFacts) -> Option<Box<[u8]>> {
    let is_hello = facts.command().is_some_and(hello::is_hello);
    let at_once = !facts.waits() && !facts.exhaust_allowed() && !facts.more_to_come();
    (is_hello && at_once && message.len() <= HELLO_BYTES_MAX).then(|| message.into())
}

/// Whether a request leaves something in the mongod connection that a new one would not have: who the client is, or, with
/// the legacy messages, how its last write went.
fn ties(header: &Header, facts: &RequestFacts) -> bool {
    match facts.command() {
        Some(b"saslStart" | b"saslContinue" | b"authenticate" | b"logout") => true,
        Some(command) if hello::is_hello(command) => facts.speculates(),
        _ => header.op_code != OpCode::MSG,
    }
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
