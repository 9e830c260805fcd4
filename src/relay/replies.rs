//! Upstream's side of the conversation: reads replies as they pass, and says which request each of them answers.
//!
//! Replies to `hello` are held until they are whole where they name members, and are given other names. All others are never
//! held, and but for one number never changed. What cannot be understood is counted and passes byte for byte.

use std::sync::Arc;

use crate::relay::desk::Desk;
use crate::relay::holds::Holds;
use crate::relay::record::Record;
use crate::relay::terms::Terms;
use crate::telemetry::metrics::Direction;
use crate::topology::Unreadable;
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

/// The longest reply to `hello` that is held, header included: 50 members, each with the longest name, have half of it.
const HELLO_BYTES_MAX: usize = 32 * 1024;

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
    terms: Arc<Terms>,
    /// What the client is to get in the place of so many of the bytes that come next.
    replacement: Option<(usize, Vec<u8>)>,
}

impl Replies {
    pub(super) fn new(terms: Arc<Terms>) -> Self {
        let (facts, holds) = (ReplyFacts::default(), Holds::default());
        Self { state: State::Between, facts, holds, terms, replacement: None }
    }

    /// What the client is to get, and in the place of how many bytes behind those that the last reading settled.
    pub(super) fn take_replacement(&mut self) -> Option<(usize, Vec<u8>)> {
        self.replacement.take()
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
    /// behind a reply that is followed by an answer of the gateway's own ([`Exchange::has_due`]); or a reply to `hello` that is
    /// not whole yet; or everything from one on that is [replaced](Self::take_replacement). Fails where such a reply cannot be
    /// read, as names could get out.
    pub(super) fn read(&mut self, input: &mut [u8], desk: &mut Desk) -> Result<usize, Unreadable> {
        let Desk { exchange, record, guard } = desk;
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Between => {
                    let Some(head) = input.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { return Ok(at) };
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
                    if self.terms.naming.changes_replies() && exchange.is_answered_by(&header, Record::is_monitor) {
                        let length = header.length as usize;
                        if length > HELLO_BYTES_MAX {
                            return Err(Unreadable);
                        }
                        let Some(message) = input.get(at..at + length) else { return Ok(at) };
                        self.replacement = self.terms.naming.apply(message)?.map(|bytes| (length, bytes));
                    }
                    at += HEADER_BYTES;
                    self.facts.clear();
                    self.state = State::Message { header, scan: MessageScan::new(&header) };
                }
                State::Message { header, scan } => {
                    at += scan.advance(&input[at..], &mut self.facts);
                    if scan.left() > 0 {
                        return Ok(at);
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
                    if let Some((length, _)) = self.replacement {
                        return Ok(at - length);
                    }
                    if exchange.has_due() {
                        return Ok(at);
                    }
                }
                State::Unframed => return Ok(input.len()),
            }
        }
    }
}
