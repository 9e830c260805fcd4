//! A reply as the filters see it, and the member names in a reply to hello.

use bson::RawDocumentBuf;

use crate::relay::end::EndReason;
use crate::relay::filter::naming::Naming;
use crate::relay::filter::verdict::ReplyVerdict;
use crate::relay::in_flight::{InFlight, InFlightRequest, Sender};
use crate::relay::request_ids::RequestIds;
use crate::topology::RewriteError;
use crate::wire::header::{HEADER_BYTES, Header, ImpossibleLength};
use crate::wire::hello;

/// The longest reply to hello that is held, header included. mongod's have some hundred bytes, those of a large replica
/// set a few thousand.
pub(in crate::relay) const HELLO_REPLY_BYTES_MAX: usize = 32 * 1024;

/// A reply whose header has arrived.
#[derive(Clone, Copy)]
pub(in crate::relay) struct ReplyView<'a> {
    /// The bytes that have arrived, from the header on. There may be more behind the reply.
    pub(in crate::relay) message: &'a [u8],
    pub(in crate::relay) header: &'a Header,
    /// The requests that it may answer.
    pub(in crate::relay) in_flight: &'a InFlight,
}

impl ReplyView<'_> {
    /// The request that it answers; `None` if it answers none.
    pub(in crate::relay) fn request(&self) -> Option<&InFlightRequest> {
        self.in_flight.answered_by(self.header.response_to)
    }
}

/// Reads the header of a reply, and changes it to answer what the client waits for. That differs from what the server
/// answers where `shared_ids` have changed the id of the request, and for the first reply of a stream that was
/// restarted on another upstream connection.
pub(in crate::relay) fn read_header(
    head: &mut [u8; HEADER_BYTES],
    shared_ids: Option<RequestIds>,
    in_flight: &mut InFlight,
) -> Result<Header, ImpossibleLength> {
    let mut header = Header::parse(*head)?;
    let response_to = match shared_ids {
        // A reply of a stream answers the previous reply, whose id has not changed.
        Some(_) if in_flight.next().is_some_and(|next| next.is_streaming || next.sender == Sender::ClientWithItsId) => {
            header.response_to
        }
        Some(ids) => ids.to_client(header.response_to),
        None => in_flight.client_response_to(header.response_to),
    };
    if response_to != header.response_to {
        header.response_to = response_to;
        *head = header.to_bytes();
    }
    Ok(header)
}

/// Decides about a reply. A reply that may name members, or that gets the result of an authentication, is held until
/// all of it has arrived, and is not forwarded when it cannot be parsed. `has_tokens` is whether clients authenticate
/// with tokens.
#[inline]
pub(in crate::relay) fn inspect(reply: &ReplyView<'_>, naming: &Naming, has_tokens: bool) -> ReplyVerdict {
    let names_members = naming.rewrites_hello() && reply.in_flight.names_members(reply.header.response_to);
    let speculated = if has_tokens { reply.request().and_then(|request| request.speculated.as_deref()) } else { None };
    if !names_members && speculated.is_none() {
        return ReplyVerdict::Forward;
    }
    rewrite(reply, names_members.then_some(naming), speculated)
}

/// Rewrites a reply to hello.
fn rewrite(reply: &ReplyView<'_>, naming: Option<&Naming>, speculated: Option<&RawDocumentBuf>) -> ReplyVerdict {
    let length = reply.header.length as usize;
    if length > HELLO_REPLY_BYTES_MAX {
        return unreadable("a reply longer than 32 KiB");
    }
    let Some(message) = reply.message.get(..length) else { return ReplyVerdict::NeedMore };
    let renamed = match naming.map_or(Ok(None), |naming| naming.rewrite(message)) {
        Ok(renamed) => renamed,
        Err(RewriteError::Unreadable) => return unreadable("a reply that cannot be parsed"),
        Err(RewriteError::MembersUnknown) => return ReplyVerdict::Close(EndReason::MembersUnknown),
    };
    let Some(field) = speculated else { return renamed.map_or(ReplyVerdict::Forward, ReplyVerdict::Rewrite) };
    match hello::reply_with(renamed.as_deref().unwrap_or(message), hello::SPECULATIVE_AUTHENTICATE, field) {
        Ok(rewritten) => ReplyVerdict::Rewrite(rewritten),
        Err(_) => unreadable("a reply that cannot be parsed"),
    }
}

/// Decides about a stream of replies whose message boundaries are lost.
pub(in crate::relay) fn inspect_unframed(naming: &Naming) -> ReplyVerdict {
    if naming.rewrites_hello() { unreadable("an impossible message length") } else { ReplyVerdict::Forward }
}

fn unreadable(what: &'static str) -> ReplyVerdict {
    ReplyVerdict::Close(EndReason::UnreadableHello(what))
}
