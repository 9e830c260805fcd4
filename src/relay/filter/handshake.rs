//! The second filter: rewrites hello, and answers authentications where the gateway authenticates.
//!
//! A hello always loses its `compression` field. Where the client may authenticate and the gateway does not act as a
//! load balancer, everything else goes upstream as it is. Otherwise the filter is strict: no request goes upstream
//! before its command is known, because it could be a hello or an authentication. Other requests are forwarded as soon
//! as their name is known.

use crate::relay::end::EndReason;
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::filter::naming::Naming;
use crate::relay::filter::verdict::{Hold, Verdict};
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::limits::HELD_BYTES_MAX;
use crate::wire::header::OpCode;
use crate::wire::hello;
use crate::wire::hello::Withheld;
use crate::wire::request::RequestFacts;
use crate::wire::sasl;
use crate::wire::sasl::SaslUser;

/// The handshake filter of one connection.
#[derive(Debug, Default)]
pub struct HandshakeFilter {
    naming: Naming,
    authentication: Authentication,
    /// Whether the client has said in a hello that it expects a load balancer.
    expects_load_balancer: bool,
    /// Whether the upstream connection has had the `client` document of the client's hello.
    is_introduced: bool,
    /// Whether the current request loses its authentication, although the client may authenticate.
    withholds_authentication: bool,
}

/// Who authenticates to mongod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authentication {
    /// The client may.
    #[default]
    Clients,
    /// The gateway has, when it made the connection. The client cannot.
    Gateway,
}

impl HandshakeFilter {
    /// A filter for a client that has sent nothing yet.
    pub fn new(naming: Naming, authentication: Authentication) -> Self {
        Self { naming, authentication, ..Self::default() }
    }

    /// Sets who authenticates to mongod from now on.
    pub(in crate::relay) fn set_authentication(&mut self, authentication: Authentication) {
        self.authentication = authentication;
    }

    /// Sets whether the current request loses its authentication, although the client may authenticate.
    pub(in crate::relay) fn withhold_authentication(&mut self, withholds: bool) {
        self.withholds_authentication = withholds;
    }

    /// Sets whether the upstream connection has had the `client` document of the client's hello.
    pub(in crate::relay) fn set_introduced(&mut self, is_introduced: bool) {
        self.is_introduced = is_introduced;
    }

    /// Whether the client has said to mongod, not to the gateway, that it expects a load balancer.
    pub(in crate::relay) fn passes_load_balancing(&self) -> bool {
        self.expects_load_balancer && !self.naming.is_load_balanced()
    }

    /// Whether the client has said in a hello that it expects a load balancer.
    pub(in crate::relay) fn expects_load_balancer(&self) -> bool {
        self.expects_load_balancer
    }

    pub(in crate::relay) fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Who authenticates to mongod, as far as the current request is concerned.
    pub(in crate::relay) fn authentication(&self) -> Authentication {
        if self.withholds_authentication { Authentication::Gateway } else { self.authentication }
    }

    /// Decides about a request of which nothing has gone upstream.
    pub(in crate::relay) fn inspect(&mut self, request: &RequestView<'_>) -> Verdict {
        if self.is_strict()
            && let Some(verdict) = self.restrict(request)
        {
            return verdict;
        }
        if request.extent == Extent::Final || self.forwards_at_once(request) {
            return Verdict::Forward;
        }
        if !request.is_whole() {
            return Verdict::NeedMore(Hold::InInput);
        }
        self.release(request)
    }

    /// Decides about a stream whose message boundaries are lost.
    pub(in crate::relay) fn inspect_unframed(&self) -> Verdict {
        if self.is_strict() {
            return Verdict::close(EndReason::Undetermined("an impossible message length"));
        }
        Verdict::Forward
    }

    /// Whether the filter will rewrite or answer a request when all of it has arrived, for which it has to be in the
    /// input. A restricted request that is too long for the input is answered at once.
    pub(in crate::relay) fn needs_input(&self, request: &RequestView<'_>) -> bool {
        let has_room = request.facts.is_named() && request.length() <= HELD_BYTES_MAX;
        request.is_hello() || (has_room && self.restricted_kind(request.facts).is_some())
    }

    /// Whether the replies to a request may name members that the client knows by other names.
    pub(in crate::relay) fn rewrites_replies_to(&self, facts: &RequestFacts) -> bool {
        self.naming.rewrites_hello() && matches!(Kind::of(facts), Kind::Hello | Kind::Unknown)
    }

    /// The user that a request names when it begins an authentication between the client and mongod. All of the request
    /// has arrived.
    pub(in crate::relay) fn user_in(&self, request: &RequestView<'_>) -> Option<SaslUser> {
        let begins =
            self.begins_authentication(request.facts) || (request.facts.speculates() && !self.gateway_authenticates());
        if begins { sasl::user_of(request.command()?) } else { None }
    }

    fn is_strict(&self) -> bool {
        self.gateway_authenticates() || self.naming.is_load_balanced()
    }

    fn gateway_authenticates(&self) -> bool {
        self.authentication() == Authentication::Gateway
    }

    /// Whether a request begins an authentication between the client and mongod.
    fn begins_authentication(&self, facts: &RequestFacts) -> bool {
        !self.gateway_authenticates() && facts.command().is_some_and(sasl::begins)
    }

    /// Whether a request is forwarded as it arrives. A hello is held until it can be rewritten, and a request that
    /// begins an authentication until its user can be read.
    fn forwards_at_once(&self, request: &RequestView<'_>) -> bool {
        let RequestView { scan, facts, .. } = *request;
        let is_other = facts.is_named() && !request.is_hello() && !self.begins_authentication(facts);
        is_other || request.length() > HELD_BYTES_MAX || scan.is_malformed()
    }

    /// Releases a request that has arrived whole. A hello loses what mongod may not read.
    fn release(&mut self, request: &RequestView<'_>) -> Verdict {
        let verdict = if self.begins_authentication(request.facts) {
            Verdict::Forward
        } else {
            match hello::without(request.message, self.withheld()) {
                Ok(Some(rewritten)) => Verdict::Rewrite(rewritten),
                Err(_) if self.is_strict() => return LocalReply::unreadable_hello().into(),
                // mongod itself answers a hello that cannot be read.
                Ok(None) | Err(_) => Verdict::Forward,
            }
        };
        self.expects_load_balancer |= request.facts.load_balanced();
        verdict
    }

    /// The fields that mongod may not read in a hello.
    fn withheld(&self) -> Withheld {
        Withheld {
            authentication: self.gateway_authenticates(),
            load_balancing: self.naming.is_load_balanced(),
            client: self.is_introduced,
        }
    }

    /// What a strict filter decides about a request; `None` where the request is treated as without it.
    fn restrict(&self, request: &RequestView<'_>) -> Option<Verdict> {
        if !matches!(request.header.op_code, OpCode::MSG | OpCode::QUERY) {
            return Some(Verdict::close(EndReason::Undetermined("a message of a type that no driver sends")));
        }
        let kind = self.restricted_kind(request.facts)?;
        if request.extent == Extent::Final {
            return Some(kind.general_reply().into());
        }
        if kind == Kind::Unknown {
            let is_final = request.is_whole() || request.scan.is_malformed() || request.message.len() > HELD_BYTES_MAX;
            return Some(if is_final { kind.general_reply().into() } else { Verdict::NeedMore(Hold::InInput) });
        }
        // None of these commands takes a document sequence.
        let has_sequence = request.facts.has_odd_sequence() || request.facts.sequences().next().is_some();
        if request.scan.is_malformed() || has_sequence || request.length() > HELD_BYTES_MAX {
            return Some(kind.general_reply().into());
        }
        if !request.is_whole() {
            return Some(Verdict::NeedMore(Hold::InInput));
        }
        if kind == Kind::Authentication {
            return Some(LocalReply::to_authentication(request).into());
        }
        let is_expected = self.expects_load_balancer || request.facts.load_balanced();
        (self.naming.is_load_balanced() && !is_expected).then(|| LocalReply::load_balanced_only().into())
    }

    /// The kind of a request that a strict filter does not simply forward; `None` for any other.
    fn restricted_kind(&self, facts: &RequestFacts) -> Option<Kind> {
        let kind = Kind::of(facts);
        let is_restricted = match kind {
            Kind::Hello | Kind::Unknown => true,
            Kind::Authentication => self.gateway_authenticates(),
            Kind::Other => false,
        };
        (self.is_strict() && is_restricted).then_some(kind)
    }
}

/// What a request is to the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello,
    Authentication,
    Other,
    /// The command is not known, or not known yet.
    Unknown,
}

impl Kind {
    fn of(facts: &RequestFacts) -> Self {
        match facts.command() {
            Some(command) if hello::is_hello(command) => Self::Hello,
            Some(b"authenticate" | b"saslStart" | b"saslContinue" | b"getnonce" | b"logout") => Self::Authentication,
            // The wrapper was not opened because of its type: mongod may find any command in it.
            Some(b"$query" | b"query") if facts.is_query() => Self::Unknown,
            _ if !facts.is_named() => Self::Unknown,
            _ => Self::Other,
        }
    }

    /// The reply to a restricted request whose contents are not read.
    fn general_reply(self) -> LocalReply {
        match self {
            Self::Hello => LocalReply::unreadable_hello(),
            Self::Authentication => LocalReply::gateway_authenticates(),
            Self::Other | Self::Unknown => LocalReply::unknown_command(),
        }
    }
}
