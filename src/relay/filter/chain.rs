//! The filters of one connection in their order: the one place that decides what becomes of a request.

use crate::relay::end::EndReason;
use crate::relay::filter::handshake::HandshakeFilter;
use crate::relay::filter::policy::PolicyFilter;
use crate::relay::filter::reply;
use crate::relay::filter::reply::ReplyView;
use crate::relay::filter::token::{TokenFilter, TokenVerdict};
use crate::relay::filter::verdict::{Hold, ReplyVerdict, Verdict};
use crate::relay::filter::view::RequestView;

/// The filters of one connection. Tokens come first, then the policy.
pub struct Filters {
    /// Authenticates the client by tokens, where the listener does that. Boxed, because most listeners do not.
    pub tokens: Option<Box<TokenFilter>>,
    /// Asks the policy.
    pub policy: PolicyFilter,
    /// Rewrites hellos, and answers authentications.
    pub handshake: HandshakeFilter,
}

/// Where a request stands in the chain of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Stage {
    /// The token filter decides next.
    Tokens,
    /// The policy decides next.
    Policy,
    /// The policy allows the request; the handshake filter decides next.
    Handshake,
    /// No filter objects: the request goes upstream as it arrives.
    Forwarding,
}

impl Stage {
    /// Where a request goes on when another policy comes into force.
    pub(in crate::relay) fn after_change_of_policy(self) -> Self {
        if self == Self::Tokens { self } else { Self::Policy }
    }
}

impl Filters {
    /// Decides what becomes of a request. `stage` moves on with each filter that lets the request pass. That filter is
    /// not asked again, except that the policy checks what follows the part that it has judged.
    #[inline]
    pub(in crate::relay) fn decide(&mut self, request: &RequestView<'_>, stage: &mut Stage) -> Verdict {
        match *stage {
            Stage::Tokens => self.decide_by_token(request, stage),
            Stage::Policy => match self.policy.inspect(request) {
                Verdict::Forward if self.policy.changes.is_needed() => {
                    *stage = Stage::Handshake;
                    Verdict::Patch
                }
                Verdict::Forward => self.decide_after_policy(request, stage),
                Verdict::NeedMore(_) if self.handshake.needs_input(request) => Verdict::NeedMore(Hold::InInput),
                verdict => verdict,
            },
            Stage::Handshake => match self.decide_after_policy(request, stage) {
                verdict @ (Verdict::Reply(_) | Verdict::Close(_)) => verdict,
                verdict => self.policy.inspect_rest(request).map_or(verdict, Verdict::Close),
            },
            Stage::Forwarding => self.policy.inspect_rest(request).map_or(Verdict::Forward, Verdict::Close),
        }
    }

    /// Whether the client has to show a token before it can do anything.
    pub(in crate::relay) fn awaits_token(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.awaits_token())
    }

    /// The number of tokens that were validated since the last call.
    #[inline]
    pub(in crate::relay) fn take_validations(&mut self) -> u32 {
        self.tokens.as_mut().map_or(0, |tokens| tokens.take_validations())
    }

    /// Whether nothing is read from the client for now.
    #[inline]
    pub(in crate::relay) fn is_waiting(&self) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.is_waiting())
    }

    /// Where the next request begins.
    #[inline]
    pub(in crate::relay) fn first_stage(&self) -> Stage {
        if self.tokens.is_some() { Stage::Tokens } else { Stage::Policy }
    }

    /// Decides what becomes of a stream of requests whose message boundaries are lost.
    pub(in crate::relay) fn decide_unframed(&mut self) -> Verdict {
        if self.tokens.as_ref().is_some_and(|tokens| !tokens.allows_unframed()) {
            return Verdict::close(EndReason::Undetermined("an impossible message length"));
        }
        match self.policy.inspect_unframed() {
            Verdict::Forward => self.handshake.inspect_unframed(),
            verdict => verdict,
        }
    }

    /// Decides what becomes of a reply.
    #[inline]
    pub(in crate::relay) fn decide_reply(&mut self, reply: &ReplyView<'_>) -> ReplyVerdict {
        if self.policy.denies_reply(reply) {
            return ReplyVerdict::Close(EndReason::DeniedMeanwhile);
        }
        match self.policy.inspect_reply(reply) {
            ReplyVerdict::Forward => reply::inspect(reply, self.handshake.naming(), self.tokens.is_some()),
            verdict => verdict,
        }
    }

    /// Decides what becomes of a stream of replies whose message boundaries are lost.
    pub(in crate::relay) fn decide_unframed_reply(&mut self) -> ReplyVerdict {
        match self.policy.inspect_unframed_reply() {
            ReplyVerdict::Forward => reply::inspect_unframed(self.handshake.naming()),
            verdict => verdict,
        }
    }

    fn decide_by_token(&mut self, request: &RequestView<'_>, stage: &mut Stage) -> Verdict {
        let without_authentication = match self.tokens.as_mut().map(|tokens| tokens.inspect(request)) {
            Some(TokenVerdict::Settled(verdict)) => return verdict,
            Some(TokenVerdict::Pass { without_authentication }) => without_authentication,
            None => false,
        };
        self.handshake.withhold_authentication(without_authentication);
        *stage = Stage::Policy;
        self.decide(request, stage)
    }

    #[inline]
    fn decide_after_policy(&mut self, request: &RequestView<'_>, stage: &mut Stage) -> Verdict {
        let verdict = self.handshake.inspect(request);
        *stage = if matches!(verdict, Verdict::Forward) { Stage::Forwarding } else { Stage::Handshake };
        verdict
    }
}
