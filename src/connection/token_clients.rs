//! What changes when a client has authenticated with a token.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::caller_info::CallerInfo;
use super::principals::TokenFacts;
use super::relay_session::{RelaySession, ServerSide};
use super::relays::{policy_filter, sharing_rules};
use super::shared_upstream::SharedUpstream;
use crate::identity::token::ValidToken;
use crate::identity::{Identified, PrincipalSource};
use crate::listener::ClientStream;
use crate::relay::{Dismissal, Relay};

/// Has the connection go on with the token that the client has shown. With the first one it becomes that of the token's
/// principal: with the policy, the metrics and the upstream connections of this principal. The upstream connection that
/// served it before closes, or goes back to its pool.
pub(super) fn take_token(
    relay: &mut Relay<ClientStream, TcpStream>,
    session: &mut RelaySession<'_>,
    caller: &mut CallerInfo,
) {
    let Some(ValidToken { principal, issuer, valid_until, .. }) = relay.token().cloned() else { return relay.go_on() };
    let identity = Identified { principal, source: PrincipalSource::Token };
    if caller.identity().is_some_and(|known| **known == identity) {
        relay.go_on();
    } else if !become_principal(identity, relay, session, caller) {
        return relay.dismiss(Dismissal::AtOnce);
    }
    caller.set_token(TokenFacts { issuer, valid_until });
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
    let before = std::mem::replace(&mut session.server, ServerSide::Shared(Box::new(next)));
    if let (ServerSide::Shared(mut before), Some(upstream)) = (before, upstream) {
        before.give_back(upstream);
    }
    session.pool = pool;
    true
}
