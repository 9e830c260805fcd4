//! What changes when a client has authenticated with a token, or is about to authenticate to mongod itself where others
//! use tokens.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::caller_info::CallerInfo;
use super::principals::TokenFacts;
use super::relay_session::{RelaySession, ServerSide};
use super::relays::{policy_filter, principal, sharing_rules};
use super::shared_upstream::SharedUpstream;
use crate::identity::token::ValidToken;
use crate::identity::{Identified, PrincipalSource};
use crate::listener::ClientStream;
use crate::relay::{Dismissal, Relay, SharingRules, UpstreamSide};

/// Has the connection go on with what the client has shown.
///
/// With its first token it becomes that of the token's principal: with the policy, the metrics and the upstream
/// connections of this principal. A client that authenticates to mongod itself gets other upstream connections too. The
/// upstream connection that served it before closes, or goes back to its pool.
pub(super) fn take_token(
    relay: &mut Relay<ClientStream, TcpStream>,
    session: &mut RelaySession<'_>,
    caller: &mut CallerInfo,
) {
    if relay.is_separating() {
        return separate(relay, session, caller);
    }
    let Some(ValidToken { principal, issuer, valid_until, .. }) = relay.token().cloned() else { return relay.go_on() };
    let identity = Identified { principal, source: PrincipalSource::Token };
    if caller.identity().is_some_and(|known| **known == identity) {
        relay.go_on();
    } else if !become_principal(identity, relay, session, caller) {
        return relay.dismiss(Dismissal::AtOnce);
    }
    caller.set_token(TokenFacts { issuer, valid_until });
}

/// Has the connection go on with upstream connections on which the gateway has authenticated no user, because the
/// client does that itself. They are its own, and those of the credential that it had before.
fn separate(relay: &mut Relay<ClientStream, TcpStream>, session: &mut RelaySession<'_>, caller: &CallerInfo) {
    let Some(member) = &session.member else { return relay.dismiss(Dismissal::AtOnce) };
    // Whether the member takes the user of the gateway does not matter.
    let rules = SharingRules { refuses_user: Arc::default(), ..sharing_rules(member, &session.pool, session.route) };
    let next = SharedUpstream::unauthenticated(principal(caller), caller.source());
    let upstream = relay.serve_unauthenticated(rules);
    change_server(session, next, upstream);
}

/// The client uses `next` from now on, and no longer `upstream`, which another client may have.
fn change_server(session: &mut RelaySession<'_>, next: SharedUpstream, upstream: Option<UpstreamSide<TcpStream>>) {
    let before = std::mem::replace(&mut session.server, ServerSide::Shared(Box::new(next)));
    let (ServerSide::Shared(mut before), ServerSide::Shared(next)) = (before, &mut session.server) else { return };
    next.count_also(&before);
    if let Some(upstream) = upstream {
        before.give_back(upstream);
    }
}

/// Returns whether there are upstream connections for this principal.
fn become_principal(
    identity: Identified,
    relay: &mut Relay<ClientStream, TcpStream>,
    session: &mut RelaySession<'_>,
    caller: &mut CallerInfo,
) -> bool {
    let (route, Some(member)) = (session.route, &session.member) else { return false };
    // Never fall back to the pool of another credential: that may have more rights.
    let Some(pool) = member.pools.get(route.upstream.credential_of(Some(&identity.principal))) else { return false };
    let (pool, rules) = (Arc::clone(pool), sharing_rules(member, pool, route));
    let metrics = Arc::clone(route.metrics_of(Some(&identity.principal)));
    let next = SharedUpstream::new(Some(&identity.principal), caller.source());
    caller.set_identity(identity, route.admission.connected());
    let upstream = relay.serve_as(policy_filter(&route.policy, caller), metrics, rules);
    change_server(session, next, upstream);
    session.pool = pool;
    true
}
