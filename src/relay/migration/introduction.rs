//! What mongod has been told of a client, and can be told again on another connection.

use crate::relay::filter::handshake::HandshakeFilter;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::flag;
use crate::wire::request::RequestFacts;

/// The longest hello that is kept for a later connection. Its `client` document has 512 bytes at most.
const HELLO_BYTES_MAX: usize = 4096;

/// What mongod has been told of the client, and another connection would have to be told.
pub(in crate::relay) enum Introduction {
    /// Nothing yet: there was no hello.
    Unneeded,
    /// The first hello as it went upstream.
    Hello(Box<[u8]>),
    /// Something that cannot be repeated: the client stays on this connection.
    Unrepeatable,
}

/// What a first hello tells mongod: it can be repeated where any connection would answer it at once and alike.
pub(in crate::relay) fn introduction(message: &[u8], facts: &RequestFacts) -> Introduction {
    let waits = facts.waits() || facts.exhaust_allowed() || facts.more_to_come();
    match facts.command() {
        Some(command) if !hello::is_hello(command) => Introduction::Unneeded,
        Some(_) if !waits && message.len() <= HELLO_BYTES_MAX => Introduction::Hello(message.into()),
        _ => Introduction::Unrepeatable,
    }
}

/// A monitor's hello, changed so that mongod answers it at once: a monitor counts on an answer within some seconds, and
/// part of them is over. mongod waits only as long as the topology is the one that the client knows, which it tells by
/// the id of its process first.
///
/// `None` where it names none, and where a checksum would not allow a reply to be changed later.
pub(in crate::relay) fn begins_anew(header: &Header, message: &[u8]) -> Option<Box<[u8]>> {
    const PROCESS_ID: &[u8] = b"\x07processId\0";
    const OBJECT_ID_BYTES: usize = 12;
    let flags = u32::from_le_bytes(*message.get(HEADER_BYTES..)?.first_chunk()?);
    if header.op_code != OpCode::MSG || flags & flag::CHECKSUM_PRESENT != 0 || message.len() > HELLO_BYTES_MAX {
        return None;
    }
    let at = message.windows(PROCESS_ID.len()).position(|bytes| bytes == PROCESS_ID)?;
    let mut message: Box<[u8]> = message.into();
    *message.get_mut(at + PROCESS_ID.len() + OBJECT_ID_BYTES - 1)? ^= 0xFF;
    Some(message)
}

/// Whether a request leaves something in the mongod connection that a new one would not have: who the client is, or, with
/// the legacy messages, how its last write went.
pub(in crate::relay) fn pins_upstream(header: &Header, facts: &RequestFacts, terms: &HandshakeFilter) -> bool {
    match facts.command() {
        Some(b"saslStart" | b"saslContinue" | b"authenticate" | b"logout") => true,
        // A hello that was too long to be held was not kept either.
        Some(command) if hello::is_hello(command) => {
            (facts.speculates() && !terms.gateway_authenticates()) || header.length as usize > HELD_BYTES_MAX
        }
        _ => header.op_code != OpCode::MSG,
    }
}
