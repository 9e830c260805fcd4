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
mod relays;
mod revalidation;
mod route;
mod shared_upstream;
mod token_clients;
mod token_rules;

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cluster::{Ingress, Selection};
use crate::config::SendProxy;
use crate::listener;
use crate::listener::{
    Admittance, Arrival, ClientAddress, ClientSocket, ClientStream, ConnectionPermit, HandshakeEntry,
};
use crate::relay::{Relay, Side};
use crate::upstream::{ClientEndpoints, ProvenConnection};

pub use admission::Admission;
pub use caller_policy::ListenerPolicy;
pub use policy_in_force::{LoadedPolicy, PolicyInForce};
pub use principals::{ConnectedPrincipal, ConnectedPrincipals, LargestPrincipals, TokenFacts};
pub use route::{ListedPrincipal, Route};
pub use token_rules::TokenRules;

use admission::Admitted;
use caller_info::CallerInfo;
use ending::{Ending, Relayed, UpstreamUnavailable};
use relay_session::{RelaySession, ServerSide};
use relays::{join, naming, principal, share};
use revalidation::Revalidation;
use shared_upstream::SharedUpstream;
use token_clients::take_token;

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
    let Established { mut relay, mut first_bytes, mut session, permit } =
        match Box::pin(establish(arrival, route, caller)).await {
            Ok(established) => established,
            Err(ending) => return ending,
        };
    let end = loop {
        match relay_session::run(&mut relay, std::mem::take(&mut first_bytes), &mut session).await {
            Some(end) => break end,
            None => take_token(&mut relay, &mut session, caller),
        }
    };
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
        member: route.tokens.as_ref().map(|_| selection.member),
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

/// Selects a member for the client, and connects to it, unless its connections are made when a request needs one. Each
/// step takes at most `connect_timeout`.
async fn connect_upstream(
    ingress: Ingress,
    route: &Route,
    caller: &CallerInfo,
    endpoints: Option<&ClientEndpoints>,
) -> Result<(Selection, Option<ProvenConnection>), UpstreamUnavailable> {
    let deadline = Instant::now() + route.upstream.config().connect_timeout;
    let selection = route.selector.select(ingress, &route.upstream, principal(caller), deadline).await;
    let selection = selection.map_err(UpstreamUnavailable::NoMember)?;
    // A token is read first: it says whose connection is needed.
    if selection.pool.reuse.is_some() || route.tokens.is_some() {
        return Ok((selection, None));
    }
    let link = selection.pool.connect(endpoints).await.map_err(UpstreamUnavailable::ConnectFailed)?;
    Ok((selection, Some(link)))
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
        assert!((1_000..3_264).contains(&relay), "{relay} bytes of relay for every open connection");
    }
}
