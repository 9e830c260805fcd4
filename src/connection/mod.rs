//! The story of one connection: who arrives is heard, let in, led to an upstream, carried, and written down.

mod caller;
mod carrying;
mod destination;
mod door;
mod ending;
mod line;
mod policing;
mod present;
mod redirected;
mod refusal;
mod roster;
mod route;
mod upstream;
mod welcome;

use std::sync::Arc;

use socket2::Socket;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Mechanism;
use crate::listener;
use crate::listener::{Admittance, Arrival, ClientAddress, ClientSocket, ClientStream, ConnectionPermit};
use crate::relay::{Authentication, ConnectionStats, HandshakeFilter, Naming, PolicyFilter, Relay, Side};
use crate::upstream::{MongoUser, ProvenConnection};
use crate::wire::error_reply::CommandError;

pub use destination::{MemberSelector, SlotMap};
pub use door::Admission;
pub use line::{MemberHealth, MemberPool};
pub use policing::{Loaded, Policing, PolicyInForce};
pub use present::{Largest, Present};
pub use redirected::AddressBook;
pub use roster::{MemberStatus, Membership, Usability};
pub use route::{ListedPrincipal, Route};
pub use upstream::{Credential, Member, Upstream};

use caller::Caller;
use carrying::RelaySession;
use destination::{Ingress, Selection};
use door::Admitted;
use ending::{Carried, Ending, UpstreamUnavailable};
use policing::CallerPolicySource;
use welcome::Revalidation;

/// Serves one client from its arrival to its end, and writes one line about it.
///
/// Never fails: whatever happens is the connection's outcome. When dropped, both sockets close at once.
pub async fn serve(arrival: Arrival, route: Arc<Route>) {
    let mut open = route.metrics.open_connection();
    let (mut caller, started) = (Caller::new(arrival.address), Instant::now());
    let ending = run(arrival, &route, &mut caller).await;
    open.set_outcome(ending.outcome());
    ending.log(&route, &caller, started.elapsed());
}

/// The story itself.
async fn run(arrival: Arrival, route: &Arc<Route>, caller: &mut Caller) -> Ending {
    // In a box of its own, here and below: what is needed before bytes flow is gone then, and a connection lives for hours.
    let Established { mut relay, first_bytes, mut course, welcome, place } =
        match Box::pin(begin(arrival, route, caller)).await {
            Ok(begun) => begun,
            Err(ending) => return ending,
        };
    let end = carrying::carry(&mut relay, first_bytes, &mut course, welcome).await;
    if end.ended_by == Side::Upstream && !end.is_protocol_error() {
        course.line.note_loss(course.address, &end);
    }
    if !end.final_reply.is_empty() {
        Box::pin(listener::final_reply(relay.client(), &end.final_reply)).await;
    }
    drop(place);
    Ending::Carried(Carried { upstream: course.address, user: course.user, end })
}

/// A conversation that can be carried.
struct Established<'a> {
    relay: Box<Relay<ClientStream, TcpStream>>,
    /// What the client has said already.
    first_bytes: Vec<u8>,
    course: RelaySession<'a>,
    welcome: Revalidation,
    place: ConnectionPermit,
}

/// Everything before bytes flow. Who is not carried is answered, as far as there is an answer.
async fn begin<'a>(arrival: Arrival, route: &'a Arc<Route>, caller: &mut Caller) -> Result<Established<'a>, Ending> {
    let Arrival { socket, address, slot, original, standing } = arrival;
    let welcome = Revalidation::new(&route.door);
    let Admitted { mut client, header, first_bytes } = read_opening(socket, address, route, caller).await?;
    let refuse = async |client: &mut ClientStream, error: &CommandError| {
        listener::refuse(client, &header, first_bytes.len(), error).await;
    };
    let place = match standing {
        Admittance::Seated(place) => place,
        Admittance::Full(_place) => {
            refuse(&mut client, &full(route)).await;
            return Err(Ending::Full);
        }
    };
    let (way, upstream, user) =
        match connect_upstream(Ingress { slot, original: original.as_deref().copied() }, route, caller).await {
            Ok(led) => led,
            Err(lost) => {
                refuse(&mut client, &lost.command_error(route.upstream.name())).await;
                return Err(Ending::NoUpstream(lost));
            }
        };
    let Selection { line, naming } = way;
    let course = RelaySession { route, line, address: upstream.address, user };
    let relay = join(client, upstream, naming, route, caller);
    Ok(Established { relay, first_bytes, course, welcome, place })
}

/// A way, the connection at its end, and the user that this has, if the gateway authenticates.
type Led = (Selection, ProvenConnection, Option<Arc<MongoUser>>);

/// Finds the member that a client is put on, and a connection to it.
async fn connect_upstream(entrance: Ingress, route: &Route, caller: &Caller) -> Result<Led, UpstreamUnavailable> {
    let deadline = Instant::now() + route.upstream.config().connect_timeout;
    let who = caller.who().map(|who| &who.principal);
    let way = route
        .destination
        .way(entrance, &route.upstream, who, deadline)
        .await
        .map_err(UpstreamUnavailable::SelectError)?;
    let link = way.line.connect().await.map_err(UpstreamUnavailable::Unreachable)?;
    let user = link.user.clone();
    Ok((way, link, user))
}

/// Hears a client out to its first message, and lets it in if it may.
async fn read_opening(
    socket: Socket,
    address: ClientAddress,
    route: &Route,
    caller: &mut Caller,
) -> Result<Admitted, Ending> {
    let socket = ClientSocket::register(socket, address, route.tcp_keepalive).map_err(Ending::Unusable)?;
    let heard = tokio::select! {
        // What has been said counts, even when the drain begins in the same moment.
        biased;
        heard = listener::read_opening(socket, address, &route.door.proxy, route.door.server_config()) => heard,
        () = route.drain.draining() => return Err(Ending::Draining),
    };
    door::admit(heard, route, caller).await
}

/// Both sides joined, in a box of its own: it is all that a connection keeps for the hours that it lives.
fn join(
    client: ClientStream,
    upstream: ProvenConnection,
    naming: Naming,
    route: &Arc<Route>,
    caller: &Caller,
) -> Box<Relay<ClientStream, TcpStream>> {
    let record = ConnectionStats::new(Arc::clone(route.metrics_of(caller.who().map(|who| &who.principal))));
    let constable = CallerPolicySource {
        route: Arc::clone(route),
        client: caller.address(),
        who: caller.who().cloned(),
        source: caller.source(),
    };
    let guard = PolicyFilter::new(Box::new(constable));
    let authentication = match route.upstream.config().authentication {
        Some(Mechanism::MongodbX509) => Authentication::Gateway,
        None => Authentication::Clients,
    };
    let terms = HandshakeFilter { naming, authentication, limits: route.limits };
    Box::new(Relay::new(client, carrying::side(upstream), record, guard, terms))
}

fn full(route: &Route) -> CommandError {
    let Route { listener, places, .. } = route;
    CommandError {
        code: 6,
        code_name: "HostUnreachable",
        message: format!("mongate: listener {listener} has all of its {places} connections in use (max_connections)"),
    }
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
        assert!((1_000..3_200).contains(&relay), "{relay} bytes of relay for every open connection");
    }
}
