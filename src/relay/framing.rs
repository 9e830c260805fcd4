//! Where the reader of requests stands: in the stream of messages, and in its current input.

use crate::relay::filter::chain::Stage;
use crate::wire::header::Header;
use crate::wire::message_scan::MessageScan;

/// Where the reader stands in the stream of messages.
pub(super) enum State {
    /// Between two messages.
    Between,
    /// In a message.
    Message { header: Header, scan: MessageScan, stage: Stage },
    /// In a message that does not go upstream: what is left of it is dropped, and `reply` is due then. `None` where the
    /// client expects no reply.
    Dropping { left: usize, reply: Option<Vec<u8>> },
    /// Behind an impossible length: where the next message starts is not known.
    Unframed,
}

/// Where the reader stands in one input: `sent <= start <= at <= input.len()`. Of a message that is being forwarded,
/// `start` has no meaning.
pub(super) struct ReadCursor<'i, P> {
    pub(super) input: &'i mut [u8],
    /// The bytes before have been read.
    pub(super) at: usize,
    /// The bytes before are settled: they have gone upstream, or will never.
    pub(super) sent: usize,
    /// Where the current message starts.
    pub(super) start: usize,
    /// Takes the bytes that go upstream.
    pub(super) pass: &'i mut P,
}

impl<P: FnMut(&[u8])> ReadCursor<'_, P> {
    /// The bytes of the current message that have been read.
    pub(super) fn message(&self) -> &[u8] {
        &self.input[self.start..self.at]
    }

    /// The same, to be changed in place.
    pub(super) fn message_mut(&mut self) -> &mut [u8] {
        &mut self.input[self.start..self.at]
    }

    /// The bytes that have not been read.
    pub(super) fn rest(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// Sends what is before `end` upstream.
    pub(super) fn pass_to(&mut self, end: usize) {
        if end > self.sent {
            (self.pass)(&self.input[self.sent..end]);
            self.sent = end;
        }
    }

    /// Sends what is before the current message upstream, and drops what has been read of the message itself.
    pub(super) fn drop_message(&mut self) {
        self.pass_to(self.start);
        self.sent = self.at;
    }

    /// Takes the next bytes of the current message out of the input, to be held apart.
    pub(super) fn take_out(&mut self, bytes: usize) {
        self.at += bytes;
        self.start = self.at;
        self.sent = self.at;
    }
}
