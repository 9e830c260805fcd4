//! The story of one connection: its client is admitted and given a connection to a member of the upstream, its messages
//! are relayed, and one log line is written at the end.

mod admission;
mod caller_info;
mod caller_policy;
mod client_rejection;
mod connection_log;
mod ending;
mod explanation;
mod messages;
mod other_protocol;
mod policy_in_force;
mod principals;
mod relay_session;
mod revalidation;
mod route;
mod shared_upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::{Ingress, Member, MemberSelector, Selection};
use crate::config::{Mechanism, PoolMode, SendProxy};
use crate::identity::Principal;
use crate::listener;
use crate::listener::{
    Admittance, Arrival, ClientAddress, ClientSocket, ClientStream, ConnectionPermit, HandshakeEntry,
};
use crate::relay::{
    Authentication, ConnectionStats, Filters, HandshakeFilter, Naming, PolicyFilter, Relay, SharingRules, Side,
};
use crate::upstream::{ClientEndpoints, ProvenConnection};

pub use admission::Admission;
pub use caller_policy::ListenerPolicy;
pub use policy_in_force::{LoadedPolicy, PolicyInForce};
pub use principals::{ConnectedPrincipals, LargestPrincipals};
pub use route::{ListedPrincipal, Route};

use admission::Admitted;
use caller_info::CallerInfo;
use caller_policy::CallerPolicySource;
use ending::{Ending, Relayed, UpstreamUnavailable};
use relay_session::{RelaySession, ServerSide};
use revalidation::Revalidation;
use shared_upstream::SharedUpstream;

/// Serves one client from its arrival to its end, and writes one log line about it.
///
/// Never fails: every error is the ending of the connection. When dropped, it closes both sockets at once.
pub async fn serve(arrival: Arrival, route: Arc<Route>) {
    let mut open = route.admission.metrics().open_connection();
    let (mut caller, started) = (CallerInfo::new(arrival.address), Instant::now());
    let ending = run(arrival, &route, &mut caller).await;
    open.set_outcome(ending.outcome());
    connection_log::log(&ending, &route.log_context(), &caller, started.elapsed());
}

async fn run(arrival: Arrival, route: &Arc<Route>, caller: &mut CallerInfo) -> Ending {
    // The boxes here and below free memory that is only needed before messages are relayed: a connection lives for
    // hours.
    let Established { mut relay, first_bytes, mut session, permit } =
        match Box::pin(establish(arrival, route, caller)).await {
            Ok(established) => established,
            Err(ending) => return ending,
        };
    let end = relay_session::run(&mut relay, first_bytes, &mut session).await;
    if let (Side::Upstream, false, Some(address)) = (end.ended_by, end.is_protocol_error(), session.server.address()) {
        let interrupted = (!end.is_orderly()).then_some(&end.reason as _);
        session.pool.attempts.record_loss(address, interrupted);
    }
    if !end.final_reply.is_empty() {
        Box::pin(listener::final_reply(relay.client(), &end.final_reply)).await;
    }
    drop(permit);
    if let Some(failure) = session.server.take_failure() {
        return Ending::NoUpstream(UpstreamUnavailable::ConnectFailed(failure));
    }
    let (server, user) = (&session.server, session.server.user().cloned());
    Ending::Relayed(Relayed { upstream: server.address(), shared: server.shared_connections(), user, end })
}

/// A connection whose messages can be relayed.
struct Established<'a> {
    relay: Box<Relay<ClientStream, TcpStream>>,
    /// What the client has sent already.
    first_bytes: Vec<u8>,
    session: RelaySession<'a>,
    permit: ConnectionPermit,
}

/// Everything before messages are relayed. A client that cannot be served gets a reply with the reason, if possible.
async fn establish<'a>(
    arrival: Arrival,
    route: &'a Arc<Route>,
    caller: &mut CallerInfo,
) -> Result<Established<'a>, Ending> {
    let Arrival { socket, address, slot, original_destination, admittance, entry } = arrival;
    let revalidation = route.admission.server_identity().map(|identity| Revalidation::new(identity));
    let Admitted { mut client, header, first_bytes } = admit(socket, address, entry, route, caller).await?;
    // Held to the end, so that replies to rejected clients are limited too.
    let (permit, is_full) = match admittance {
        Admittance::Admitted(permit) => (permit, false),
        Admittance::LimitReached(permit) => (permit, true),
    };
    let mut endpoints = None;
    let connected = if is_full {
        Err(Ending::ConnectionLimit(route.max_connections))
    } else if route.overload.is_refusing() {
        route.overload.count_refused();
        Err(Ending::Overloaded { percent: route.overload.percent() })
    } else {
        let ingress = Ingress { slot, original: original_destination.as_deref().copied() };
        endpoints = sent_endpoints(route, caller, || ingress.original.or_else(|| client.local_address()));
        connect_upstream(ingress, route, caller, endpoints.as_deref()).await.map_err(Ending::NoUpstream)
    };
    let (selection, connected) = match connected {
        Ok(connected) => connected,
        Err(ending) => {
            admission::reply_with(&ending, &route.facts(), &mut client, &header, first_bytes.len()).await;
            return Err(ending);
        }
    };
    let naming = naming(&route.selector, slot, &selection.member);
    let (relay, server) = if let Some(link) = connected {
        let server = ServerSide::Own { address: link.address, user: link.user.clone() };
        (join(client, link, naming, route, caller), server)
    } else {
        let shared = SharedUpstream::new(principal(caller), caller.source());
        (share(client, &selection, naming, route, caller), ServerSide::Shared(Box::new(shared)))
    };
    let session = RelaySession {
        route,
        slot,
        pool: selection.pool,
        server,
        endpoints,
        revalidation,
        closing: route.overload.closing_rounds(),
    };
    Ok(Established { relay, first_bytes, session, permit })
}

/// Waits for a place if the client has none, reads up to the header of its first message, and admits the client if it
/// may connect.
async fn admit(
    socket: Socket,
    address: ClientAddress,
    entry: HandshakeEntry,
    route: &Route,
    caller: &mut CallerInfo,
) -> Result<Admitted, Ending> {
    let admission = &route.admission;
    let socket = ClientSocket::register(socket, address, route.tcp_keepalive).map_err(Ending::SocketFailed)?;
    let mut place = match entry {
        HandshakeEntry::Place(place) => place,
        HandshakeEntry::Waiting(waiting) => tokio::select! {
            // Nothing has been read from this client, so that the drain closes it at once.
            biased;
            () = route.drain.draining() => return Err(Ending::Drained),
            place = waiting.enter() => place,
        },
    };
    let heard = tokio::select! {
        // A message that has arrived counts, even if the drain begins at the same moment.
        biased;
        heard = listener::read_opening(socket, address, admission.proxy_rules(), admission.server_config()) => heard,
        () = route.drain.draining() => return Err(Ending::Drained),
        () = place.lost() => return Err(Ending::Displaced(place.max())),
    };
    // The place is released after this, so that replies to rejected clients are limited too.
    admission.admit(heard, &route.facts(), caller).await
}

/// The addresses of the client that the server receives; `None` if it receives none, or if they are unknown.
fn sent_endpoints(
    route: &Route,
    caller: &CallerInfo,
    here: impl FnOnce() -> Option<SocketAddr>,
) -> Option<Box<ClientEndpoints>> {
    match route.upstream.config().send_proxy {
        SendProxy::Off => None,
        SendProxy::V2 => caller.endpoints(here()).map(Box::new),
    }
}

/// Selects a member for the client, and connects to it, unless the connections to it belong to a pool: they are made
/// when a request needs one. Each step takes at most `connect_timeout`.
async fn connect_upstream(
    ingress: Ingress,
    route: &Route,
    caller: &CallerInfo,
    endpoints: Option<&ClientEndpoints>,
) -> Result<(Selection, Option<ProvenConnection>), UpstreamUnavailable> {
    let deadline = Instant::now() + route.upstream.config().connect_timeout;
    let selection = route.selector.select(ingress, &route.upstream, principal(caller), deadline).await;
    let selection = selection.map_err(UpstreamUnavailable::NoMember)?;
    if selection.pool.reuse.is_some() {
        return Ok((selection, None));
    }
    let link = selection.pool.connect(endpoints).await.map_err(UpstreamUnavailable::ConnectFailed)?;
    Ok((selection, Some(link)))
}

/// The member names that the client may see.
fn naming(selector: &MemberSelector, slot: usize, member: &Member) -> Naming {
    match selector {
        MemberSelector::Direct(_) | MemberSelector::Intercepted(_) => Naming::Kept,
        MemberSelector::Members(slots) => {
            Naming::Members { names: Arc::clone(slots.names()), here: slots.advertised(slot) }
        }
        MemberSelector::LoadBalanced(_) => Naming::LoadBalanced { service_id: member.service_id },
    }
}

/// Joins both sides. The box is nearly all that a connection keeps while it is open.
fn join(
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

/// Serves a client with the pool of its member.
fn share(
    client: ClientStream,
    Selection { member, pool }: &Selection,
    naming: Naming,
    route: &Arc<Route>,
    caller: &CallerInfo,
) -> Box<Relay<ClientStream, TcpStream>> {
    let (stats, filters) = parts(naming, route, caller);
    let gives_way = route.upstream.config().pool.mode == PoolMode::Request;
    let (hello, refuses_user) = (Arc::clone(&member.hello), Arc::clone(pool.connector.refuses_user()));
    let rules = SharingRules { hello, refuses_user, gives_way };
    watched(Relay::sharing(client, rules, route.limits, stats, filters))
}

fn watched(mut relay: Relay<ClientStream, TcpStream>) -> Box<Relay<ClientStream, TcpStream>> {
    relay.look_for_clients_that_left(ClientStream::closed_by_client);
    Box::new(relay)
}

/// What a client's messages go through.
fn parts(naming: Naming, route: &Arc<Route>, caller: &CallerInfo) -> (ConnectionStats, Filters) {
    let stats = ConnectionStats::new(Arc::clone(route.metrics_of(principal(caller))));
    let policy_source = CallerPolicySource {
        policy: Arc::clone(&route.policy),
        client: caller.address(),
        identity: caller.identity().cloned(),
        source: caller.source(),
    };
    let policy_filter = PolicyFilter::new(Box::new(policy_source));
    let authentication = match route.upstream.config().authentication {
        Some(Mechanism::MongodbX509) => Authentication::Gateway,
        None => Authentication::Clients,
    };
    (stats, Filters { policy: policy_filter, handshake: HandshakeFilter::new(naming, authentication) })
}

fn principal(caller: &CallerInfo) -> Option<&Principal> {
    caller.identity().map(|identity| &identity.principal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_keeps_its_future_small() {
        let (future, relay) = (future_bytes(serve), size_of::<Relay<ClientStream, TcpStream>>());

        assert!((500..2_000).contains(&future), "{future} bytes of future for every open connection");
        assert!((1_000..3_250).contains(&relay), "{relay} bytes of relay for every open connection");
    }
}
