//! What an upstream connection knows of its client, and how another one can learn it.

use crate::relay::filter::handshake::Authentication;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::flag;
use crate::wire::request::RequestFacts;

/// The longest hello that is kept. Its `client` document has 512 bytes at most.
const HELLO_BYTES_MAX: usize = 4096;

/// What is sent first on another upstream connection before it can serve the client.
#[derive(Default)]
pub(in crate::relay) struct Introduction {
    hello: Hello,
    /// The hello that the monitor's stream of replies answers, changed so that it restarts the stream elsewhere.
    stream: Option<Box<[u8]>>,
}

/// The first hello of a client.
#[derive(Default)]
enum Hello {
    /// The client has sent none.
    #[default]
    None,
    /// As mongod has received it.
    Repeatable(Box<[u8]>),
    /// The client has sent something that cannot be repeated: it stays on this upstream connection. The hello from
    /// before, if there was one that could be repeated.
    Unrepeatable(Option<Box<[u8]>>),
}

impl Introduction {
    /// The message that has to be the first on another upstream connection, empty where none has to be; `None` where
    /// the client cannot have another one.
    pub(in crate::relay) fn hello(&self) -> Option<&[u8]> {
        match &self.hello {
            Hello::None => Some(&[]),
            Hello::Repeatable(message) => Some(message),
            Hello::Unrepeatable(_) => None,
        }
    }

    /// The hello that the client has sent before anything that cannot be repeated; empty if there is none.
    pub(in crate::relay) fn first_hello(&self) -> &[u8] {
        match &self.hello {
            Hello::Repeatable(message) | Hello::Unrepeatable(Some(message)) => message,
            Hello::None | Hello::Unrepeatable(None) => &[],
        }
    }

    /// The message that restarts the monitor's stream of replies on another upstream connection.
    pub(in crate::relay) fn stream(&self) -> Option<&[u8]> {
        self.stream.as_deref()
    }

    /// Has the client stay on this upstream connection.
    pub(in crate::relay) fn pin(&mut self) {
        let before = match std::mem::take(&mut self.hello) {
            Hello::Repeatable(message) | Hello::Unrepeatable(Some(message)) => Some(message),
            Hello::None | Hello::Unrepeatable(None) => None,
        };
        self.hello = Hello::Unrepeatable(before);
    }

    /// Takes note of a request that was understood and has been forwarded. `message` is what mongod has received, where
    /// the request was held until all of it had arrived.
    pub(in crate::relay) fn note(
        &mut self,
        header: &Header,
        facts: &RequestFacts,
        message: Option<&[u8]>,
        authentication: Authentication,
    ) {
        let is_hello = facts.command().is_some_and(hello::is_hello);
        let is_first = matches!(self.hello, Hello::None);
        if let Some(message) = message
            && (is_hello || !facts.is_named())
        {
            self.note_hello(header, facts, message);
        }
        if pins_upstream(header, facts, is_hello, authentication) {
            self.pin();
            if is_first {
                // This one says more than who the client is.
                self.hello = Hello::Unrepeatable(None);
            }
        }
    }

    /// A hello, or a request without a command, which may be anything.
    fn note_hello(&mut self, header: &Header, facts: &RequestFacts, message: &[u8]) {
        if matches!(self.hello, Hello::None) {
            let waits = facts.waits() || facts.exhaust_allowed() || facts.more_to_come();
            let is_server = hello::claims_to_be_server(message);
            let is_repeatable = facts.command().is_some() && !waits && !is_server && message.len() <= HELLO_BYTES_MAX;
            self.hello = if is_repeatable { Hello::Repeatable(message.into()) } else { Hello::Unrepeatable(None) };
        }
        self.stream = if facts.exhaust_allowed() { restarts_stream(header, message) } else { None };
    }
}

/// Whether a request leaves something in the upstream connection that another one does not have: who the client is, or,
/// with the legacy messages, the result of its last write.
fn pins_upstream(header: &Header, facts: &RequestFacts, is_hello: bool, authentication: Authentication) -> bool {
    if is_hello {
        // A hello that was too long to be held was not kept either.
        let authenticates = facts.speculates() && authentication == Authentication::Clients;
        return authenticates || header.length as usize > HELD_BYTES_MAX;
    }
    let authenticates = matches!(facts.command(), Some(b"saslStart" | b"saslContinue" | b"authenticate" | b"logout"));
    let asks_for_last_write = matches!(facts.command(), Some(b"getLastError" | b"getlasterror"));
    authenticates || asks_for_last_write || header.op_code != OpCode::MSG
}

/// A monitor's hello, changed so that mongod answers it at once: a monitor expects a reply within some seconds, of
/// which part is over. mongod waits only while the client knows its topology, which `processId` identifies first.
///
/// `None` where the hello has no `processId`, and where a checksum does not allow the first reply to be rewritten.
fn restarts_stream(header: &Header, message: &[u8]) -> Option<Box<[u8]>> {
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
