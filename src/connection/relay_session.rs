//! The relay of one connection, and the replacement of its upstream connection after a certificate reload.

use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

use super::messages::UPSTREAM_CONNECTION_REPLACED;
use super::revalidation::Revalidation;
use super::route::Route;
use super::shared_upstream::{Acquired, SharedUpstream};
use crate::cluster::{AcquireError, DialError, Member, MemberPool, MemberSelector, NoReplacement};
use crate::lifecycle::overload::ClosingRounds;
use crate::listener::ClientStream;
use crate::relay::{Dismissal, EndReason, Relay, RelayEnd, RelayEvent, UpstreamSide};
use crate::telemetry::metrics::Recycling;
use crate::upstream::{ClientEndpoints, MongoUser, ProvenConnection};

/// A future that few connections ever need, and then on the heap.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a relayed connection depends on, apart from its relay.
pub(super) struct RelaySession<'a> {
    /// The route of its listener.
    pub(super) route: &'a Route,
    /// The index of the listener's address that the client connected to.
    pub(super) slot: usize,
    /// The member that it uses, where its principal becomes known later.
    pub(super) member: Option<Arc<Member>>,
    /// Makes its upstream connections.
    pub(super) pool: Arc<MemberPool>,
    /// Its own upstream connection, or those of a pool.
    pub(super) server: ServerSide,
    /// The addresses of the client that every server receives. `None` if `send_proxy` is off, or if they are unknown.
    /// Boxed, because most connections have none.
    pub(super) endpoints: Option<Box<ClientEndpoints>>,
    /// Verifies the client's certificate again, on a TLS listener.
    pub(super) revalidation: Option<Revalidation<'a>>,
    /// Closes it while it is idle, when memory is nearly used up.
    pub(super) closing: ClosingRounds,
}

/// An upstream connection that the relay has asked for.
enum NextLink {
    /// One that replaces a connection of a previous certificate set.
    Replacement(Result<Box<ProvenConnection>, NoReplacement>),
    /// One of the pool.
    Acquired(Result<Box<Acquired>, AcquireError>),
}

/// The server's side of a relayed connection.
pub(super) enum ServerSide {
    /// An upstream connection of its own.
    Own {
        /// The address of the server, also after the upstream connection was replaced.
        address: SocketAddr,
        /// The MongoDB user, if the gateway authenticated the connection. It never changes.
        user: Option<Arc<MongoUser>>,
    },
    /// Connections that are made when a request needs one, of a pool or its own.
    Shared(Box<SharedUpstream>),
}

impl ServerSide {
    /// The address of the server; `None` if the client has needed none.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Own { address, .. } => Some(*address),
            Self::Shared(shared) => shared.address(),
        }
    }

    /// The MongoDB user, if the gateway authenticated a connection.
    pub(super) fn user(&self) -> Option<&Arc<MongoUser>> {
        match self {
            Self::Own { user, .. } => user.as_ref(),
            Self::Shared(shared) => shared.user(),
        }
    }

    /// How many upstream connections of the pool the client has used; `None` with a connection of its own.
    pub(super) fn shared_connections(&self) -> Option<u64> {
        match self {
            Self::Own { .. } => None,
            Self::Shared(shared) => Some(shared.used()),
        }
    }

    /// Why the client got no upstream connection of the pool, if it never got any.
    pub(super) fn take_failure(&mut self) -> Option<DialError> {
        match self {
            Self::Own { .. } => None,
            Self::Shared(shared) => shared.take_failure(),
        }
    }

    /// Resolves when the pool asks for the present connection. Cancel safe.
    fn poll_recalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Own { .. } => Poll::Pending,
            Self::Shared(shared) => shared.poll_recalled(cx),
        }
    }
}

/// Relays until the connection ends. `first_bytes` have been read from the client already. Returns `None` when the
/// client has authenticated with a token: the session has to become that of its principal, and goes on then.
pub(super) async fn run(
    relay: &mut Relay<ClientStream, TcpStream>,
    mut first_bytes: Vec<u8>,
    session: &mut RelaySession<'_>,
) -> Option<RelayEnd> {
    let RelaySession { route, slot, member: _, pool, server, endpoints, revalidation, closing } = session;
    let endpoints: Option<&ClientEndpoints> = endpoints.as_deref();
    let renewal = pool.renewal.watch();
    let mut link: Option<Boxed<'_, NextLink>> = None;
    // On the heap, because few connections ever need it.
    let mut replacement_address: Option<Box<SocketAddr>> = None;
    if relay.client().certificates().is_none() {
        *revalidation = None;
    }
    if let Some(revalidation) = revalidation {
        revalidation.watch_expiry(relay.client());
    }
    let mut elsewhere = until_elsewhere(route, *slot, pool);
    loop {
        let event = tokio::select! {
            // Messages come first: a replacement can wait.
            biased;
            event = relay.run(std::mem::take(&mut first_bytes), &route.drain, &renewal) => event,
            next = optional(&mut link) => {
                link = None;
                match (next, &mut *server) {
                    (NextLink::Replacement(replacement), _) => {
                        if let Some(address) = offer(relay, replacement, server.user()) {
                            replacement_address = Some(Box::new(address));
                        }
                    }
                    (NextLink::Acquired(acquired), ServerSide::Shared(shared)) => shared.settle(relay, acquired),
                    (NextLink::Acquired(_), ServerSide::Own { .. }) => {}
                }
                continue;
            }
            // The relay gives it back when it can.
            () = poll_fn(|cx| server.poll_recalled(cx)) => continue,
            () = revalidation_due(revalidation) => {
                let grace = route.limits.lifetime_grace;
                if let Some(dismissal) = revalidation.as_mut().and_then(|it| it.revalidate(relay.client(), grace)) {
                    relay.dismiss(dismissal);
                }
                continue;
            }
            () = closing.round_begins() => {
                if closing.must_close(relay.is_at_rest(), relay.moved_bytes()) {
                    relay.dismiss(Dismissal::Overload);
                }
                continue;
            }
            () = optional(&mut elsewhere) => {
                relay.dismiss(Dismissal::Elsewhere);
                elsewhere = None;
                continue;
            }
        };
        match event {
            RelayEvent::Renew => {
                let hello = relay.introduction().map(<[u8]>::to_vec);
                link = hello.map(|hello| replace(pool, hello, endpoints));
            }
            RelayEvent::Moved => {
                if let (Some(replacement), ServerSide::Own { address, .. }) = (replacement_address.take(), &mut *server)
                {
                    *address = *replacement;
                    let upstream = pool.connector.upstream();
                    tracing::debug!(upstream, %address, "{UPSTREAM_CONNECTION_REPLACED}");
                }
                pool.attempts.metrics.count_recycled(Recycling::Moved);
            }
            RelayEvent::Authenticated => {
                // A client may authenticate again and again, and other clients have their turn meanwhile.
                tokio::task::yield_now().await;
                return None;
            }
            RelayEvent::NeedsUpstream => {
                if let ServerSide::Shared(shared) = &*server {
                    let acquired = shared.acquire(pool, endpoints, relay.needed());
                    link = Some(Box::pin(async move { NextLink::Acquired(acquired.await) }));
                }
            }
            RelayEvent::GivesBack(upstream) => {
                if let ServerSide::Shared(shared) = server {
                    if upstream.generation < renewal.generation() {
                        pool.attempts.metrics.count_recycled(Recycling::Moved);
                    }
                    shared.give_back(*upstream);
                }
            }
            RelayEvent::KeepsUpstream => {
                if let ServerSide::Shared(shared) = server {
                    shared.keep();
                }
            }
            RelayEvent::UpstreamLost => {
                if let ServerSide::Shared(shared) = server {
                    shared.lost();
                }
            }
            RelayEvent::Ended(end) => {
                if end.is_cut {
                    route.drain.count_interrupted();
                }
                if let (ServerSide::Shared(shared), Some(upstream)) = (&mut *server, relay.take_reusable()) {
                    shared.give_back(upstream);
                }
                if matches!(end.reason, EndReason::Recycled) {
                    pool.attempts.metrics.count_recycled(Recycling::Closed);
                }
                return Some(end);
            }
        }
    }
}

/// Offers the relay a replacement for its upstream connection, and returns the address of the replacement if the relay
/// can use it.
fn offer(
    relay: &mut Relay<ClientStream, TcpStream>,
    replacement: Result<Box<ProvenConnection>, NoReplacement>,
    user: Option<&Arc<MongoUser>>,
) -> Option<SocketAddr> {
    match replacement {
        // Cursors and sessions belong to the previous user. The client must notice that its user has changed.
        Ok(link) if name_of(link.user.as_ref()) != name_of(user) => relay.give_up_moving(),
        Ok(link) => {
            let address = link.address;
            relay.offer(upstream_side(*link));
            return Some(address);
        }
        Err(NoReplacement::NotNow) => relay.postpone(),
        Err(NoReplacement::Never) => relay.give_up_moving(),
    }
    None
}

fn name_of(user: Option<&Arc<MongoUser>>) -> Option<&str> {
    user.map(|user| user.name.as_str())
}

/// The part of an upstream connection that a relay uses.
pub(super) fn upstream_side(link: ProvenConnection) -> UpstreamSide<TcpStream> {
    let ProvenConnection { socket, session, generation, .. } = link;
    UpstreamSide { socket, session, generation }
}

fn replace<'a>(pool: &'a MemberPool, hello: Vec<u8>, endpoints: Option<&'a ClientEndpoints>) -> Boxed<'a, NextLink> {
    Box::pin(async move { NextLink::Replacement(pool.replacement(&hello, endpoints).await.map(Box::new)) })
}

/// Resolves when new connections go to another member than this one; `None` if that never happens.
fn until_elsewhere<'a>(route: &'a Route, slot: usize, pool: &'a MemberPool) -> Option<Boxed<'a, ()>> {
    match &route.selector {
        MemberSelector::LoadBalanced(preference) => {
            Some(Box::pin(route.upstream.until_not_preferred(*preference, pool)))
        }
        MemberSelector::Members(slots) => Some(Box::pin(slots.until_elsewhere(slot, pool.connector.address()))),
        MemberSelector::Direct(_) | MemberSelector::Intercepted(_) => None,
    }
}

/// Never resolves without a revalidation. Cancel safe.
async fn revalidation_due(revalidation: &mut Option<Revalidation<'_>>) {
    match revalidation {
        Some(revalidation) => revalidation.revalidation_due().await,
        None => pending().await,
    }
}

/// Waits for `future`; never resolves without one. Cancel safe: the future keeps its progress.
async fn optional<T>(future: &mut Option<Boxed<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
