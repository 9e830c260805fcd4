//! What becomes of a request, and what becomes of a reply.

use crate::relay::end::EndReason;
use crate::relay::filter::local_reply::LocalReply;

/// What becomes of a request.
///
/// Every request gets one, so that it is small: rare and large values are boxed.
pub(in crate::relay) enum Verdict {
    /// The filter cannot decide yet: the bytes that have arrived are held.
    NeedMore(Hold),
    /// The policy lets the request pass and changes some of its bytes, in place. The other filters decide afterwards.
    Patch,
    /// The request goes upstream as it is.
    Forward,
    /// These bytes go upstream in place of the request, all of which has arrived.
    Rewrite(Vec<u8>),
    /// The client gets a local reply. The request does not go upstream.
    Reply(Box<LocalReply>),
    /// The connection ends: the request can be neither forwarded nor answered.
    Close(Box<Close>),
}

/// Where the bytes of an undecided request are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Hold {
    /// At the front of the connection's input, where the request can still be rewritten.
    InInput,
    /// Outside of the input and charged to the hold budget, until this many bytes of the request have arrived, its
    /// header included.
    Apart(usize),
}

/// How a request ends its connection.
pub(in crate::relay) struct Close {
    /// Why, for the log.
    pub(in crate::relay) reason: EndReason,
    /// What the client reads before its side closes; empty where it reads nothing.
    pub(in crate::relay) final_reply: Vec<u8>,
}

/// What becomes of a reply.
pub(in crate::relay) enum ReplyVerdict {
    /// The reply is held until all of it has arrived.
    NeedMore,
    /// The reply is held outside of the input until all of it has arrived, and is filtered then.
    HoldApart,
    /// The reply goes to the client as it is.
    Forward,
    /// These bytes go to the client in place of the reply, all of which has arrived.
    Rewrite(Vec<u8>),
    /// The connection ends: the client may not read the reply.
    Close(EndReason),
}

impl Verdict {
    /// The connection ends, and the client reads nothing more.
    pub(in crate::relay) fn close(reason: EndReason) -> Self {
        Self::Close(Box::new(Close { reason, final_reply: Vec::new() }))
    }
}

impl From<LocalReply> for Verdict {
    fn from(reply: LocalReply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_small() {
        assert!(size_of::<Verdict>() <= 24, "{} bytes", size_of::<Verdict>());
    }
}
