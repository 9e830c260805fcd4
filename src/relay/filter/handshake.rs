//! What a relay keeps to, beside moving bytes: its limits, what members are called towards the client, and whose affair
//! the authentication is.
//!
//! Without names of its own and with clients that authenticate themselves, all passes as it comes. Otherwise nothing goes
//! upstream of which it is not known what it is, as it could be a hello or an authentication; that costs the common
//! message a look at its name.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::relay::filter::local_reply;
use crate::relay::filter::local_reply::OwnAnswer;
use crate::relay::filter::view::RequestView;
use crate::relay::limits::{HELD_BYTES_MAX, Limits};
use crate::topology;
use crate::topology::{MemberMap, Unreadable};
use crate::wire::header::{Header, OpCode};
use crate::wire::hello;
use crate::wire::hello::Withheld;
use crate::wire::request::RequestFacts;
use crate::wire::sasl;
use crate::wire::sasl::SaslUser;

/// The terms of one connection.
#[derive(Debug, Clone, Default)]
pub struct HandshakeFilter {
    /// When it ends although both sides would go on.
    pub limits: Limits,
    /// What members are called.
    pub naming: Naming,
    /// Who authenticates.
    pub authentication: Authentication,
}

/// What the members of the set are called towards the client.
#[derive(Debug, Clone, Default)]
pub enum Naming {
    /// What mongod calls them.
    #[default]
    Kept,
    /// By their gateway addresses.
    Members {
        /// Who has which; looked up anew for every reply.
        names: Arc<ArcSwap<MemberMap>>,
        /// The address that the client has come to: what a member without one calls itself.
        here: Arc<str>,
    },
    /// Not at all: the client takes the gateway for a load balancer.
    LoadBalanced {
        /// Which mongod it is connected to.
        service_id: [u8; 12],
    },
}

/// Who authenticates towards mongod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authentication {
    /// The client, as it likes.
    #[default]
    Clients,
    /// The gateway has, before the client came; the client cannot.
    Gateway,
}

/// What becomes of a request as far as the terms are concerned.
pub(in crate::relay) enum Fate {
    /// It may go upstream; a hello when it is whole.
    Pass,
    /// It cannot be said before more of it is here.
    Wait,
    /// It does not go upstream.
    Answer(OwnAnswer),
}

impl HandshakeFilter {
    /// Whether replies to hello are to be changed.
    pub(in crate::relay) fn renames(&self) -> bool {
        !matches!(self.naming, Naming::Kept)
    }

    /// Whether nothing may go upstream of which it is not known what it is.
    pub(in crate::relay) fn are_strict(&self) -> bool {
        self.authentication == Authentication::Gateway || matches!(self.naming, Naming::LoadBalanced { .. })
    }

    pub(in crate::relay) fn gateway_authenticates(&self) -> bool {
        self.authentication == Authentication::Gateway
    }

    /// What mongod is not to read in a hello.
    pub(in crate::relay) fn withheld(&self) -> Withheld {
        Withheld {
            authentication: self.gateway_authenticates(),
            load_balancing: matches!(self.naming, Naming::LoadBalanced { .. }),
        }
    }

    /// A reply to hello as the client is to read it; `None` where it stays as it is.
    pub(in crate::relay) fn rename(&self, reply: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        match &self.naming {
            Naming::Kept => Ok(None),
            Naming::Members { names, here } => {
                topology::rewrite(reply, &topology::Naming::Members { map: &names.load(), here })
            }
            Naming::LoadBalanced { service_id } => {
                topology::rewrite(reply, &topology::Naming::LoadBalanced { service_id: *service_id })
            }
        }
    }

    /// Whether a message of this kind may be looked at further.
    pub(in crate::relay) fn takes(&self, header: &Header) -> bool {
        !self.are_strict() || matches!(header.op_code, OpCode::MSG | OpCode::QUERY)
    }

    /// Whether it begins an authentication that is the client's affair and mongod's.
    pub(in crate::relay) fn begins_authentication(&self, facts: &RequestFacts) -> bool {
        !self.gateway_authenticates() && facts.command().is_some_and(sasl::begins)
    }

    /// Whom a complete request names that begins such a one.
    pub(in crate::relay) fn named_in(&self, seen: &RequestView<'_>) -> Option<SaslUser> {
        let begins =
            self.begins_authentication(seen.facts) || (seen.facts.speculates() && !self.gateway_authenticates());
        if begins { sasl::user_of(seen.command()?) } else { None }
    }

    /// Looks at a request of which nothing has gone upstream; `greeted` tells whether a hello before it has said that the
    /// client expects a load balancer.
    pub(in crate::relay) fn look(&self, seen: &RequestView<'_>, greeted: bool) -> Fate {
        let RequestView { message, header, scan, facts } = *seen;
        let Some(otherwise) = self.holds_back(facts) else { return Fate::Pass };
        let is_whole = scan.left() == 0;
        let kind = Kind::of(facts);
        if kind == Kind::Undetermined {
            let will_stay_so = is_whole || scan.is_malformed() || message.len() > HELD_BYTES_MAX;
            return if will_stay_so { Fate::Answer(otherwise()) } else { Fate::Wait };
        }
        // None of these commands has a document sequence.
        let has_sequence = facts.has_odd_sequence() || facts.sequences().next().is_some();
        if scan.is_malformed() || has_sequence || header.length as usize > HELD_BYTES_MAX {
            return Fate::Answer(otherwise());
        }
        if !is_whole {
            return Fate::Wait;
        }
        match kind {
            Kind::Authentication => Fate::Answer(local_reply::to_authentication(seen)),
            _ if self.withheld().load_balancing && !greeted && !facts.load_balanced() => {
                Fate::Answer(local_reply::load_balanced_only())
            }
            _ => Fate::Pass,
        }
    }

    /// Whether a request may not go upstream as it is; what it is answered with where nothing better can be said.
    pub(in crate::relay) fn holds_back(&self, facts: &RequestFacts) -> Option<fn() -> OwnAnswer> {
        if !self.are_strict() {
            return None;
        }
        match Kind::of(facts) {
            Kind::Hello => Some(local_reply::unreadable_hello),
            Kind::Authentication if self.gateway_authenticates() => Some(local_reply::no_credentials),
            Kind::Undetermined => Some(local_reply::undetermined),
            Kind::Authentication | Kind::Other => None,
        }
    }
}

/// What a request is, as far as the terms differ about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello,
    Authentication,
    Other,
    /// Not known, or not yet.
    Undetermined,
}

impl Kind {
    fn of(facts: &RequestFacts) -> Self {
        match facts.command() {
            Some(command) if hello::is_hello(command) => Self::Hello,
            Some(b"authenticate" | b"saslStart" | b"saslContinue" | b"getnonce" | b"logout") => Self::Authentication,
            // A wrapper that was not opened: whatever mongod finds in it.
            Some(b"$query" | b"query") if facts.is_query() => Self::Undetermined,
            _ if !facts.is_named() => Self::Undetermined,
            _ => Self::Other,
        }
    }
}

/// Whether the reply to a request may name members.
pub(in crate::relay) fn may_name_members(facts: &RequestFacts) -> bool {
    matches!(Kind::of(facts), Kind::Hello | Kind::Undetermined)
}
