//! Upstream's side of the conversation: reads replies as they pass, and says which request each of them answers.
//!
//! Replies are never held, and but for one number never changed. What cannot be understood is counted and passes byte for byte.

use crate::relay::desk::Desk;
use crate::relay::holds::Holds;
use crate::telemetry::metrics::Direction;
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

enum State {
    Between,
    Message { header: Header, scan: MessageScan },
    Unframed,
}

/// Reads the replies of one connection.
pub(super) struct Replies {
    state: State,
    facts: ReplyFacts,
    holds: Holds,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { state: State::Between, facts: ReplyFacts::default(), holds: Holds::default() }
    }

    /// What the client has open in mongod.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Whether the client has been given whole messages only.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Reads `input` and returns how many of its bytes may go to the client.
    ///
    /// Where a stream of replies was begun anew on another connection, its first reply is made to answer what the client
    /// waits for; nothing else is changed.
    ///
    /// The rest, less than a header or what a scan keeps, stands at the front of the next call's input; or everything
    /// behind a reply that is followed by an answer of the gateway's own ([`Exchange::has_due`]).
    pub(super) fn read(&mut self, input: &mut [u8], desk: &mut Desk) -> usize {
        let Desk { exchange, record, guard } = desk;
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Between => {
                    let Some(head) = input.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { return at };
                    let Ok(mut header) = Header::parse(*head) else {
                        record.unparsed(Direction::ToClient);
                        self.state = State::Unframed;
                        continue;
                    };
                    let answered = exchange.answered(header.response_to);
                    if answered != header.response_to {
                        header.response_to = answered;
                        *head = header.to_bytes();
                    }
                    at += HEADER_BYTES;
                    self.facts.clear();
                    self.state = State::Message { header, scan: MessageScan::new(&header) };
                }
                State::Message { header, scan } => {
                    at += scan.advance(&input[at..], &mut self.facts);
                    if scan.left() > 0 {
                        return at;
                    }
                    if scan.is_malformed() {
                        record.unparsed(Direction::ToClient);
                    }
                    let (facts, holds) = (&self.facts, &mut self.holds);
                    let known = exchange.answer(header, facts.more_to_come(), |request| {
                        record.answered(request, facts);
                        holds.settle(request, facts);
                        guard.settle(request, facts);
                    });
                    if !known {
                        record.unparsed(Direction::ToClient);
                    }
                    self.state = State::Between;
                    if exchange.has_due() {
                        return at;
                    }
                }
                State::Unframed => return input.len(),
            }
        }
    }
}
