//! A long reply that is held apart until all of it has arrived, then filtered, and then sent piece by piece.

use std::io;

use tokio::time::Instant;

use crate::relay::context::ConnectionState;
use crate::relay::end::EndReason;
use crate::relay::held_message::HeldMessage;
use crate::relay::hold_budget::BudgetPermit;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::wire::header::{HEADER_BYTES, Header};
use crate::wire::message_scan::MessageScan;
use crate::wire::reply::ReplyFacts;

/// A reply that is held apart.
pub(super) struct HeldReply {
    header: Header,
    message: HeldMessage,
}

impl HeldReply {
    /// Room for the whole reply, for which `permit` suffices: a server sends what it announces. Fails where the system
    /// has no memory.
    pub(super) fn new(header: Header, permit: BudgetPermit) -> io::Result<Self> {
        Ok(Self { header, message: HeldMessage::new(header.length as usize, 0, permit)? })
    }

    /// Copies what is missing from the front of `input`, and returns how many bytes those are. A reply that has arrived
    /// is filtered, entered in the ledger, and can be sent.
    pub(super) fn take(
        &mut self,
        input: &[u8],
        facts: &mut ReplyFacts,
        connection: &mut ConnectionState,
    ) -> Result<usize, EndReason> {
        let taken = self.message.take(input);
        if self.message.is_filled() {
            self.filter(facts, connection)?;
        }
        Ok(taken)
    }

    fn filter(&mut self, facts: &mut ReplyFacts, connection: &mut ConnectionState) -> Result<(), EndReason> {
        let message = self.message.bytes_mut();
        let mut scan = MessageScan::new(&self.header);
        scan.advance(message.get(HEADER_BYTES..).unwrap_or_default(), facts);
        let ConnectionState { filters, in_flight, .. } = connection;
        let listed = in_flight.listed(self.header.response_to);
        let listed = listed.ok_or(EndReason::UnreadableReply("a reply to no request"))?;
        let filtered = filters.policy.filter_reply(message, listed)?;
        self.message.truncate(filtered);
        self.message.start_sending();
        connection.reply_arrived(&self.header, facts, scan.is_malformed());
        Ok(())
    }

    /// Whether the reply is being sent to the client.
    pub(super) fn is_being_sent(&self) -> bool {
        self.message.is_being_sent()
    }

    /// When the reply has to have arrived or, once it is being sent, when the client has to have taken it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.message.deadline()
    }

    /// Whether a part of the reply has not been sent.
    pub(super) fn has_more(&self) -> bool {
        self.message.has_more()
    }

    /// The next piece to send.
    pub(super) fn next_piece(&mut self) -> &[u8] {
        self.message.next_piece(HELD_BYTES_MAX)
    }
}
