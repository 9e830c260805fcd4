//! Upstream's side of the conversation: reads replies as they pass, and says which request each of them answers.
//!
//! Replies are not held, and but for one number not changed. What cannot be understood is counted and passes byte for byte.
//! The exception are replies to hello where the terms give members other names: these wait until they are whole, and do
//! not pass when they cannot be read.

use crate::relay::context::ConnectionState;
use crate::relay::end::EndReason;
use crate::relay::open_state::OpenState;
use crate::telemetry::metrics::Direction;
use crate::wire::header::{HEADER_BYTES, Header, ImpossibleLength};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

/// The longest reply to hello that is held, header included; mongod's have some hundred bytes, and a large set's a few
/// thousand.
pub(super) const HELLO_REPLY_BYTES_MAX: usize = 32 * 1024;

/// What a reading of an input has settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Bytes at the front of the input that may go to the client.
    pub(super) passed: usize,
    /// What the client is to read behind them, instead of so many bytes of the input.
    pub(super) instead: Option<(Vec<u8>, usize)>,
    /// What follows may not pass: the conversation ends.
    pub(super) end: Option<EndReason>,
}

impl Settled {
    fn passed(bytes: usize) -> Self {
        Self { passed: bytes, ..Self::default() }
    }
}

enum State {
    Between,
    Message { header: Header, scan: MessageScan },
    Unframed,
}

/// What a reply to hello comes to.
enum Hello {
    /// It is not whole.
    Partial,
    /// It passes as it is.
    Kept,
    /// What the client is to read instead.
    Renamed(Vec<u8>),
    /// It may not pass. What it is, for the log.
    Unreadable(&'static str),
}

/// Reads the replies of one connection.
pub(super) struct Replies {
    state: State,
    facts: ReplyFacts,
    holds: OpenState,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { state: State::Between, facts: ReplyFacts::default(), holds: OpenState::default() }
    }

    /// What the client has open in mongod.
    pub(super) fn holds(&self) -> &OpenState {
        &self.holds
    }

    /// Whether the client has been given whole messages only.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Reads `input` and tells what of it may go to the client.
    ///
    /// Where a stream of replies was begun anew on another connection, its first reply is made to answer what the client
    /// waits for. A reply to hello that is changed ends the call, as does one that is followed by an answer of the gateway's
    /// own ([`InFlight::has_due`]).
    ///
    /// The rest, less than a header, what a scan keeps, or a reply to hello that is not whole, stands at the front of the next
    /// call's input; or everything behind a reply that ended the call.
    ///
    /// [`InFlight::has_due`]: super::in_flight::Exchange::has_due
    pub(super) fn read(&mut self, input: &mut [u8], desk: &mut ConnectionState) -> Settled {
        let mut at = 0;
        loop {
            match &mut self.state {
                State::Between => {
                    let Some(head) = input.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
                        return Settled::passed(at);
                    };
                    let Ok(header) = read_header(head, desk) else {
                        desk.record.unparsed(Direction::ToClient);
                        if desk.terms.renames() {
                            let end = Some(EndReason::UnreadableHello("a length that no message has"));
                            return Settled { passed: at, instead: None, end };
                        }
                        self.state = State::Unframed;
                        continue;
                    };
                    if desk.terms.renames() && desk.exchange.names_members(header.response_to) {
                        match self.take_hello(&header, &input[at..], desk) {
                            Hello::Partial => return Settled::passed(at),
                            Hello::Kept if desk.exchange.has_due() => {
                                return Settled::passed(at + header.length as usize);
                            }
                            Hello::Kept => at += header.length as usize,
                            Hello::Renamed(renamed) => {
                                let instead = Some((renamed, header.length as usize));
                                return Settled { passed: at, instead, end: None };
                            }
                            Hello::Unreadable(why) => {
                                let end = Some(EndReason::UnreadableHello(why));
                                return Settled { passed: at, instead: None, end };
                            }
                        }
                        continue;
                    }
                    at += HEADER_BYTES;
                    self.facts.clear();
                    self.state = State::Message { header, scan: MessageScan::new(&header) };
                }
                State::Message { header, scan } => {
                    at += scan.advance(&input[at..], &mut self.facts);
                    if scan.left() > 0 {
                        return Settled::passed(at);
                    }
                    let (header, malformed) = (*header, scan.is_malformed());
                    self.state = State::Between;
                    self.settle(&header, malformed, desk);
                    if desk.exchange.has_due() {
                        return Settled::passed(at);
                    }
                }
                State::Unframed => return Settled::passed(input.len()),
            }
        }
    }

    /// A reply to hello stands at the front of `input`: it is settled, if it is whole.
    fn take_hello(&mut self, header: &Header, input: &[u8], desk: &mut ConnectionState) -> Hello {
        let length = header.length as usize;
        if length > HELLO_REPLY_BYTES_MAX {
            return Hello::Unreadable("more than 32 KiB");
        }
        let Some(message) = input.get(..length) else { return Hello::Partial };
        let Ok(renamed) = desk.terms.rename(message) else { return Hello::Unreadable("what cannot be read") };
        self.facts.clear();
        let mut scan = MessageScan::new(header);
        scan.advance(&message[HEADER_BYTES..], &mut self.facts);
        self.settle(header, scan.is_malformed(), desk);
        renamed.map_or(Hello::Kept, Hello::Renamed)
    }

    /// A reply is complete: its request is settled, if it is known.
    fn settle(&mut self, header: &Header, malformed: bool, desk: &mut ConnectionState) {
        let ConnectionState { exchange, record, guard, .. } = desk;
        if malformed {
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
    }
}

/// The header of the next reply, which is made to answer what the client waits for.
fn read_header(head: &mut [u8; HEADER_BYTES], desk: &mut ConnectionState) -> Result<Header, ImpossibleLength> {
    let mut header = Header::parse(*head)?;
    let answered = desk.exchange.answered(header.response_to);
    if answered != header.response_to {
        header.response_to = answered;
        *head = header.to_bytes();
    }
    Ok(header)
}
