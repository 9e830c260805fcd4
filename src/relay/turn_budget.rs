//! What one connection may do in one turn on its worker, before the other connections of the worker run.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Bytes of both directions together. A read that begins within the budget may exceed it by its own length.
const BYTES: usize = 256 * 1024;

/// Requests, and as many replies: 64 messages together. Each direction has its own number, so that a client that never
/// stops sending does not hold back its own replies.
const MESSAGES: u32 = 32;

/// What is left of one turn.
///
/// A message costs more than its bytes: one read may bring thousands of requests that are denied, and each of them is
/// judged, counted and answered.
pub(super) struct TurnBudget {
    bytes: usize,
    requests: u32,
    replies: u32,
}

impl TurnBudget {
    /// A turn begins.
    pub(super) const FULL: Self = Self { bytes: BYTES, requests: MESSAGES, replies: MESSAGES };

    /// Bytes have been read, or a piece of a message that was held apart is being sent.
    pub(super) fn use_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A request has taken as long as several.
    pub(super) fn use_requests(&mut self, requests: u32) {
        self.requests = self.requests.saturating_sub(requests);
    }

    /// Whether another request may begin.
    pub(super) fn take_request(&mut self) -> bool {
        take(&mut self.requests)
    }

    /// Whether another reply may begin.
    pub(super) fn take_reply(&mut self) -> bool {
        take(&mut self.replies)
    }

    /// Whether more may be read from the client.
    pub(super) fn allows_requests(&self) -> bool {
        self.bytes > 0 && self.requests > 0
    }

    /// Whether more may be read from upstream.
    pub(super) fn allows_replies(&self) -> bool {
        self.bytes > 0 && self.replies > 0
    }

    /// Whether the turn is over.
    pub(super) fn is_used_up(&self) -> bool {
        !self.allows_requests() || !self.allows_replies()
    }
}

fn take(left: &mut u32) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

/// Has this task run again after the other tasks that are ready, and after those whose sockets are ready.
///
/// A task that wakes itself with its waker runs again before the runtime looks at the sockets of the others.
pub(super) fn yield_turn(cx: &mut Context<'_>) {
    // The first poll leaves the waker with the runtime, which does not need the future any longer.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
pub(super) const MESSAGES_OF_ONE_TURN: usize = MESSAGES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_end_the_turn_of_both_directions_and_messages_that_of_their_own() {
        let mut turn = TurnBudget::FULL;
        assert_eq!((0..100).filter(|_| turn.take_request()).count(), MESSAGES_OF_ONE_TURN);
        assert_eq!((turn.allows_requests(), turn.allows_replies(), turn.is_used_up()), (false, true, true));
        assert_eq!((0..100).filter(|_| turn.take_reply()).count(), MESSAGES_OF_ONE_TURN);
        assert!(!turn.allows_replies());

        let mut turn = TurnBudget::FULL;
        turn.use_bytes(BYTES - 1);
        assert!(!turn.is_used_up());
        turn.use_bytes(1000);
        assert_eq!((turn.allows_requests(), turn.allows_replies(), turn.is_used_up()), (false, false, true));
    }
}
