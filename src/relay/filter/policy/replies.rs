//! Replies under a policy: those that list collections or databases show only what the client may see.

use super::PolicyFilter;
use crate::relay::end::EndReason;
use crate::relay::filter::listing;
use crate::relay::filter::policy_source::{EffectivePolicy, SessionMapping};
use crate::relay::filter::reply::ReplyView;
use crate::relay::filter::verdict::ReplyVerdict;
use crate::relay::hold_budget::Account;
use crate::relay::limits::HELD_BYTES_MAX;
use crate::relay::listed::Listed;

impl PolicyFilter {
    /// Takes what the replies to the request that was decided about last list.
    pub(in crate::relay) fn take_listed(&mut self) -> Option<Box<Listed>> {
        self.has_listed |= self.listed.is_some();
        self.listed.take()
    }

    /// Decides about a reply. One that lists more than the client may see is held until all of it has arrived, and is
    /// filtered. The policy that is in force now decides, not the one that has judged the request.
    #[inline]
    pub(in crate::relay) fn inspect_reply(&mut self, reply: &ReplyView<'_>) -> ReplyVerdict {
        if !self.has_listed {
            return ReplyVerdict::Forward;
        }
        self.inspect_list(reply)
    }

    fn inspect_list(&mut self, reply: &ReplyView<'_>) -> ReplyVerdict {
        let Some(listed) = reply.in_flight.listed(reply.header.response_to) else { return ReplyVerdict::Forward };
        if !self.in_force().is_some_and(|in_force| hides_something(in_force, listed)) {
            return ReplyVerdict::Forward;
        }
        let length = reply.header.length as usize;
        if length > HELD_BYTES_MAX {
            return ReplyVerdict::HoldApart;
        }
        let Some(message) = reply.message.get(..length) else { return ReplyVerdict::NeedMore };
        let mut message = message.to_vec();
        match self.filter_reply(&mut message, listed) {
            Ok(filtered) => {
                message.truncate(filtered);
                ReplyVerdict::Rewrite(message)
            }
            Err(reason) => ReplyVerdict::Close(reason),
        }
    }

    /// Removes from a complete reply what the client may not see, and returns the new length of the message.
    pub(in crate::relay) fn filter_reply(&mut self, message: &mut [u8], listed: &Listed) -> Result<usize, EndReason> {
        let Some(in_force) = self.in_force().filter(|in_force| hides_something(in_force, listed)) else {
            return Ok(message.len());
        };
        listing::filter(message, listed, &in_force.view)
            .map_err(|_| EndReason::UnreadableReply("a list that cannot be parsed"))
    }

    /// The client's share of the memory for replies that are held; `None` without a policy.
    pub(in crate::relay) fn reply_account(&mut self) -> Option<Account> {
        self.in_force()?;
        let SessionMapping { hold_budget, caller, .. } = self.source.as_ref()?.session_mapping()?;
        Some(hold_budget.replies(&caller))
    }

    /// Decides about a stream of replies whose message boundaries are lost: any of them could be a list.
    pub(in crate::relay) fn inspect_unframed_reply(&mut self) -> ReplyVerdict {
        match self.in_force() {
            Some(in_force) if in_force.denies_unclear() => {
                ReplyVerdict::Close(EndReason::UnreadableReply("an impossible message length"))
            }
            _ => ReplyVerdict::Forward,
        }
    }

    /// The policy in force. A request that has begun is still judged by the policy that [`PolicyFilter::refresh`] took.
    pub(super) fn in_force(&mut self) -> Option<&EffectivePolicy> {
        let version = self.source.as_ref()?.version();
        if version == self.version {
            return self.effective.as_ref();
        }
        if self.newer.as_ref().is_none_or(|newer| newer.0 != version) {
            self.newer = Some(Box::new((version, self.source.as_ref()?.effective_policy())));
        }
        self.newer.as_ref()?.1.as_ref()
    }
}

/// Whether a reply may show more than the client may see.
fn hides_something(in_force: &EffectivePolicy, listed: &Listed) -> bool {
    !in_force.view.sees_everything(listed.listing, &listed.database)
}
