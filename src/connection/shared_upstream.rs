//! The upstream connections of one client that are made when a request needs one: those of a pool, which are given
//! back, or one of its own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::ending::HOST_UNREACHABLE;
use crate::cluster::{AcquireError, DialError, Lease, Leased, MemberPool, PoolKey};
use crate::identity::Principal;
use crate::listener::ClientStream;
use crate::relay::{Dismissal, Needed, Refusal, Relay, UpstreamSide};
use crate::upstream::{ClientEndpoints, ConnectionFacts, MongoUser, ProvenConnection};
use crate::wire::error_reply::CommandError;
use crate::wire::hello;

/// Tells a driver that the server is busy, and that it may try again after a pause.
const OVERLOADED: (i32, &str) = (462, "IngressRequestRateLimitExceeded");
const OVERLOADED_LABELS: [&str; 2] = ["SystemOverloadedError", "RetryableError"];

/// Tells a driver that nothing of a write has happened.
const NOT_SENT_LABELS: [&str; 1] = ["RetryableWriteError"];

/// The upstream connections of one client, one after the other.
pub(super) struct SharedUpstream {
    /// Which caller this is, for the order in which callers get connections.
    caller: u64,
    held: Option<Held>,
    /// The user of the first upstream connection that it got, and of all others.
    user: Option<Arc<MongoUser>>,
    /// The address of the server that it was last connected to.
    address: Option<SocketAddr>,
    /// How often it got an upstream connection.
    used: u64,
    /// The number of those that it had as another user.
    used_before: u64,
    /// Why it got none, if it never got any.
    failure: Option<DialError>,
    /// Whether the gateway authenticates no user on them.
    is_unauthenticated: bool,
}

/// The upstream connection that the relay uses.
struct Held {
    /// `None` for a connection of its own, which never goes back.
    lease: Option<Lease>,
    facts: ConnectionFacts,
    /// Resolves when the pool asks for it; `None` for a connection of its own.
    recall: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// An upstream connection for the request that waits.
pub(super) struct Acquired {
    connection: ProvenConnection,
    /// Of a connection of the pool; `None` for one of the client's own.
    lease: Option<Lease>,
    /// Whether mongod has taken the client's hello on it.
    is_introduced: bool,
    /// Whether the client has waited for its turn.
    has_waited: bool,
}

impl SharedUpstream {
    /// For a client with this identity, or else this address.
    pub(super) fn new(principal: Option<&Principal>, source: Option<IpAddr>) -> Self {
        let caller = match principal {
            Some(principal) => caller_number(principal),
            None => caller_number(&source),
        };
        Self {
            caller,
            held: None,
            user: None,
            address: None,
            used: 0,
            used_before: 0,
            failure: None,
            is_unauthenticated: false,
        }
    }

    /// The same for a client that authenticates to mongod itself: its upstream connections are its own, and the gateway
    /// authenticates no user on them.
    pub(super) fn unauthenticated(principal: Option<&Principal>, source: Option<IpAddr>) -> Self {
        Self { is_unauthenticated: true, ..Self::new(principal, source) }
    }

    /// The address of the server that the client was last connected to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The user of its upstream connections.
    pub(super) fn user(&self) -> Option<&Arc<MongoUser>> {
        self.user.as_ref()
    }

    /// How often it got an upstream connection.
    pub(super) fn used(&self) -> u64 {
        self.used_before + self.used
    }

    /// Why the client got no upstream connection, if it never got any.
    pub(super) fn take_failure(&mut self) -> Option<DialError> {
        self.failure.take()
    }

    /// Gets a connection for the request that waits. Cancel safe.
    pub(super) fn acquire(
        &self,
        pool: &Arc<MemberPool>,
        endpoints: Option<&ClientEndpoints>,
        needed: Needed<'_>,
    ) -> impl Future<Output = Result<Box<Acquired>, AcquireError>> + Send + 'static {
        let (pool, endpoints, caller) = (Arc::clone(pool), endpoints.copied(), self.caller);
        let is_unauthenticated = self.is_unauthenticated;
        let reuse = if is_unauthenticated { None } else { pool.reuse.clone() };
        let (mut hello, shared) = match (needed, reuse) {
            (Needed::Shared { hello, load_balanced }, Some(reuse)) => {
                let client = hello::client_of(hello).unwrap_or_default().into();
                (hello.to_vec(), Some((reuse, PoolKey { client, load_balanced })))
            }
            (Needed::Own { hello } | Needed::Shared { hello, .. }, _) => (hello.to_vec(), None),
        };
        async move {
            if let Some((reuse, key)) = shared {
                match pool.acquire(&reuse, &key, &hello, caller).await {
                    Ok(Leased { connection, lease, has_waited }) => {
                        let lease = Some(lease);
                        return Ok(Box::new(Acquired { connection, lease, is_introduced: true, has_waited }));
                    }
                    // If the hello is what waits, mongod answers it itself.
                    Err(AcquireError::Rejected) => hello.clear(),
                    Err(error) => return Err(error),
                }
            }
            let (connection, is_introduced) = if is_unauthenticated {
                pool.own_unauthenticated(&hello, endpoints.as_ref()).await?
            } else {
                pool.own(&hello, endpoints.as_ref()).await?
            };
            Ok(Box::new(Acquired { connection, lease: None, is_introduced, has_waited: false }))
        }
    }

    /// Gives the relay the connection that was acquired for it, or answers the request with the reason why there is
    /// none.
    pub(super) fn settle(
        &mut self,
        relay: &mut Relay<ClientStream, TcpStream>,
        acquired: Result<Box<Acquired>, AcquireError>,
    ) {
        let Acquired { connection, lease, is_introduced, has_waited } = match acquired {
            Ok(acquired) => *acquired,
            Err(error) => {
                relay.refuse(refusal(&error));
                if let (AcquireError::Connect(failure), 0) = (error, self.used()) {
                    self.failure = Some(failure);
                }
                return;
            }
        };
        if relay.client_has_left(has_waited) {
            if let Some(lease) = lease {
                lease.give_back(connection);
            }
            return relay.dismiss(Dismissal::Gone);
        }
        let name_of = |user: &Option<Arc<MongoUser>>| user.as_ref().map(|user| user.name.clone());
        if self.used > 0 && name_of(&self.user) != name_of(&connection.user) {
            // Cursors and sessions belong to the previous user. The client must notice that its user has changed.
            let message = "mongate: the MongoDB user of the gateway has changed; connect again".to_owned();
            let (code, code_name) = HOST_UNREACHABLE;
            let error = CommandError { code, code_name, message };
            return relay.refuse(Refusal { error, labels: &NOT_SENT_LABELS, is_final: true });
        }
        let (socket, session, facts) = connection.into_parts();
        let generation = facts.generation;
        (self.user, self.address) = (facts.user.clone(), Some(facts.address));
        self.used += 1;
        let handle = lease.as_ref().map(Lease::handle);
        let recall = lease.as_ref().map(|lease| Box::pin(lease.recalled()) as _);
        self.held = Some(Held { lease, facts, recall });
        relay.attach(UpstreamSide { socket, session, generation }, handle, is_introduced);
    }

    /// Counts what the same client has had before, as another user.
    pub(super) fn count_also(&mut self, before: &Self) {
        self.used_before = before.used();
    }

    /// The client keeps its connection until it leaves, which does not count in the pool any longer.
    pub(super) fn keep(&mut self) {
        if let Some(held) = &mut self.held {
            (held.recall, held.lease) = (None, None);
        }
    }

    /// Gives a connection back to the pool.
    pub(super) fn give_back(&mut self, upstream: UpstreamSide<TcpStream>) {
        let UpstreamSide { socket, session, generation: _ } = upstream;
        if let Some(Held { lease: Some(lease), facts, .. }) = self.held.take() {
            lease.give_back(ProvenConnection::from_parts(socket, session, facts));
        }
    }

    /// The present connection has ended.
    pub(super) fn lost(&mut self) {
        self.held = None;
    }

    /// Resolves each time that the pool asks for the connection while the client is idle. Cancel safe.
    pub(super) fn poll_recalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Held { lease: Some(lease), recall: Some(recall), .. }) = &mut self.held else { return Poll::Pending };
        ready!(recall.as_mut().poll(cx));
        // The client may have sent a request first; the pool may ask again when it is idle again.
        *recall = Box::pin(lease.recalled());
        Poll::Ready(())
    }
}

/// What the request that waits is answered, where there is no connection for it.
fn refusal(error: &AcquireError) -> Refusal {
    let ((code, code_name), labels, is_final): (_, &[&str], _) = match error {
        AcquireError::Connect(failure) => (failure.cause.client_code(), &NOT_SENT_LABELS, true),
        AcquireError::Rejected => (HOST_UNREACHABLE, &NOT_SENT_LABELS, true),
        AcquireError::TimedOut => (OVERLOADED, &OVERLOADED_LABELS, false),
    };
    let error = CommandError { code, code_name, message: format!("mongate: {error}") };
    Refusal { error, labels, is_final }
}

fn caller_number(caller: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    caller.hash(&mut hasher);
    hasher.finish()
}
