//! The relay of a client: made from its listener's rules, its identity and its upstream connection.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::caller_info::CallerInfo;
use super::caller_policy::{CallerPolicySource, ListenerPolicy};
use super::relay_session;
use super::route::Route;
use crate::cluster::{Member, MemberPool, MemberSelector, Selection};
use crate::config::{Mechanism, PoolMode};
use crate::identity::Principal;
use crate::listener::ClientStream;
use crate::relay::{
    Authentication, ConnectionStats, Filters, HandshakeFilter, Naming, PolicyFilter, Relay, SharingRules,
};
use crate::upstream::ProvenConnection;

/// The member names that the client may see.
pub(super) fn naming(selector: &MemberSelector, slot: usize, member: &Member) -> Naming {
    match selector {
        MemberSelector::Direct(_) | MemberSelector::Intercepted(_) => Naming::Kept,
        MemberSelector::Members(slots) => {
            Naming::Members { names: Arc::clone(slots.names()), here: slots.advertised(slot) }
        }
        MemberSelector::LoadBalanced(_) => Naming::LoadBalanced { service_id: member.service_id },
    }
}

/// Joins both sides. The box is nearly all that a connection keeps while it is open.
pub(super) fn join(
    client: ClientStream,
    link: ProvenConnection,
    naming: Naming,
    route: &Arc<Route>,
    caller: &CallerInfo,
) -> Box<Relay<ClientStream, TcpStream>> {
    let (stats, filters) = parts(naming, route, caller);
    let relay = Relay::new(client, relay_session::upstream_side(link), route.limits, stats, filters);
    watched(relay)
}

/// Serves a client with upstream connections that are made when a request needs one.
pub(super) fn share(
    client: ClientStream,
    Selection { member, pool }: &Selection,
    naming: Naming,
    route: &Arc<Route>,
    caller: &CallerInfo,
) -> Box<Relay<ClientStream, TcpStream>> {
    let (stats, filters) = parts(naming, route, caller);
    watched(Relay::sharing(client, sharing_rules(member, pool, route), route.limits, stats, filters))
}

/// How a client uses the upstream connections of its pool.
pub(super) fn sharing_rules(member: &Member, pool: &MemberPool, route: &Route) -> SharingRules {
    SharingRules {
        hello: Arc::clone(&member.hello),
        refuses_user: Arc::clone(pool.connector.refuses_user()),
        gives_way: route.upstream.config().pool.mode == PoolMode::Request,
    }
}

fn watched(mut relay: Relay<ClientStream, TcpStream>) -> Box<Relay<ClientStream, TcpStream>> {
    relay.look_for_clients_that_left(ClientStream::closed_by_client);
    Box::new(relay)
}

/// What a client's messages go through.
fn parts(naming: Naming, route: &Arc<Route>, caller: &CallerInfo) -> (ConnectionStats, Filters) {
    let stats = ConnectionStats::new(Arc::clone(route.metrics_of(principal(caller))));
    let requires_tokens = route.tokens.as_ref().is_some_and(|tokens| tokens.is_required);
    let authentication = match route.upstream.config().authentication {
        None if !requires_tokens => Authentication::Clients,
        Some(Mechanism::MongodbX509) | None => Authentication::Gateway,
    };
    let filters = Filters {
        tokens: route.tokens.as_ref().map(|tokens| tokens.filter(caller.identity().map(|identity| &**identity))),
        policy: policy_filter(&route.policy, caller),
        handshake: HandshakeFilter::new(naming, authentication),
    };
    (stats, filters)
}

/// Asks the policy about the requests of `caller`.
pub(super) fn policy_filter(policy: &Arc<ListenerPolicy>, caller: &CallerInfo) -> PolicyFilter {
    PolicyFilter::new(Box::new(CallerPolicySource {
        policy: Arc::clone(policy),
        client: caller.address(),
        identity: caller.identity().cloned(),
        source: caller.source(),
    }))
}

pub(super) fn principal(caller: &CallerInfo) -> Option<&Principal> {
    caller.identity().map(|identity| &identity.principal)
}
