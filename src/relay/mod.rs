//! Forwards bytes between one client and one upstream connection: one task per connection moves both directions.
//!
//! ```text
//! pump ──> requests (framing) ── RequestView ──> filter/: 1 tokens, 2 policy, 3 handshake
//!              ▲                                          │
//!              └── Verdict: NeedMore, Forward, Rewrite, Reply, Close
//! ```
//!
//! The relay owns both sockets and the TLS session with upstream. The filters decide what becomes of each request, and
//! `requests` carries that out; replies take the same way back through `replies`. `context` keeps the ledger of both.
//! `migration/` moves a client to another upstream connection.
//!
//! Requests and replies stay as they are, except for eight changes: a hello loses what mongod may not read; a reply to
//! hello names members as the client knows them, and says whether the client's token is accepted; the first reply of a
//! stream that was restarted on another upstream connection gets the `responseTo` that the client waits for; requests
//! on a shared connection have other ids there, which replies lose again; under a policy session ids are mapped, mongod
//! may stream replies only to a hello, and lists of collections and databases show what the client may see. The gateway
//! replies only to requests of which nothing has gone upstream.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::identity::token::ValidToken;
use crate::lifecycle::drain::{DrainWatch, Stage};
use crate::lifecycle::lease::LeaseState;
use crate::lifecycle::renewal::RenewalWatch;
use crate::telemetry::metrics::ListenerMetrics;
use crate::wire::error_reply::CommandError;

mod client_half;
mod clock;
mod connection_stats;
mod context;
mod cursors;
mod end;
mod filter;
mod framing;
mod held_message;
mod held_reply;
mod hold_budget;
mod in_flight;
mod judged_command;
mod limits;
mod listed;
mod migration;
mod monitoring;
mod open_state;
mod pump;
mod replies;
mod request_ids;
mod requests;
mod scratch;
mod sharing;
mod sockets;
mod token_session;
mod turn_budget;
mod upstream_half;
mod upstream_side;

pub use connection_stats::ConnectionStats;
pub use cursors::{CursorBook, CursorCaller};
pub use end::{EndReason, RelayEnd, Side};
pub use filter::chain::Filters;
pub use filter::handshake::{Authentication, HandshakeFilter};
pub use filter::naming::Naming;
pub use filter::policy::PolicyFilter;
pub use filter::policy_source::{
    EffectivePolicy, Finding, PolicySource, SessionMapping, counter_index, counter_labels,
};
pub use filter::token::TokenFilter;
pub use hold_budget::HoldBudget;
pub use limits::Limits;
pub use sharing::SharingRules;
pub use token_session::{SessionAnswer, SessionCommand, SessionStep, TokenDemand, TokenSession};
pub use upstream_side::UpstreamSide;

use clock::Clock;
use context::ConnectionState;
use end::End;

use open_state::OpenState;

use migration::schedule::{MigrationFacts, MigrationStep, UpstreamMigration};
use pump::Pump;
use request_ids::RequestIds;
use sharing::{Condition, Demand, Sharing};

/// Why [`Relay::run`] returned.
#[derive(Debug)]
pub enum RelayEvent<U> {
    /// The conversation is over.
    Ended(RelayEnd),
    /// The certificate set of the upstream connection was replaced, and it is this connection's turn to move. Offer
    /// another upstream connection, or postpone; the conversation goes on meanwhile.
    Renew,
    /// The upstream connection that was offered is in use.
    Moved,
    /// The client has authenticated with a token, [`Relay::token`]: [`Relay::serve_as`] its principal, or
    /// [`Relay::go_on`] if it is served as that already. Or it is about to authenticate to mongod itself, if
    /// [`Relay::is_separating`]: [`Relay::serve_unauthenticated`].
    Authenticated,
    /// The client has sent a request that needs an upstream connection of the pool: [`Relay::attach`] one, or
    /// [`Relay::refuse`]. The conversation goes on meanwhile.
    NeedsUpstream,
    /// The client can do without its upstream connection, which can serve another one.
    GivesBack(Box<UpstreamSide<U>>),
    /// The client will not give its upstream connection back: it has sent something that binds it to this one.
    KeepsUpstream,
    /// The upstream connection has ended while the client could do without it.
    UpstreamLost,
}

/// What the server has to know before an upstream connection serves the request that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed<'a> {
    /// A connection of the pool that has answered this hello, which is empty where the client has sent none.
    Shared {
        /// A complete message.
        hello: &'a [u8],
        /// Whether the client has said that it expects a load balancer.
        load_balanced: bool,
    },
    /// A connection that serves this client only, and has answered this hello. If it is empty, none was sent there yet.
    Own {
        /// A complete message.
        hello: &'a [u8],
    },
}

/// When and why a client has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dismissal {
    /// As soon as no command is in flight, because new connections go to another member.
    Elsewhere,
    /// As soon as no command is in flight, because the client is not accepted any longer.
    WhenIdle,
    /// At once, because the client is not accepted any longer.
    AtOnce,
    /// As soon as no command is in flight, because memory is nearly used up.
    Overload,
    /// At once, because the client has gone.
    Gone,
    /// As soon as the client has its reply, because no upstream connection can be had for a request.
    NoUpstream,
}

/// One conversation between a client and a server.
pub struct Relay<C, U> {
    pump: Pump<C, U>,
    clock: Clock,
    /// The generation of the certificate set that the upstream connection was made with.
    generation: u64,
    migration: Option<Box<UpstreamMigration<U>>>,
    dismissal: Option<Dismissal>,
    /// The reply to the requests that wait for an upstream connection.
    refusal: Option<Box<Refusal>>,
    closed_by_client: fn(&C) -> Option<Shutdown>,
}

/// Why the requests that wait for an upstream connection get none.
#[derive(Debug)]
pub struct Refusal {
    /// What the client reads.
    pub error: CommandError,
    /// What a driver may do then.
    pub labels: &'static [&'static str],
    /// Whether the conversation ends with it.
    pub is_final: bool,
}

/// The generation of a connection without an upstream connection: no certificate set is newer.
const NO_GENERATION: u64 = u64::MAX;

/// Why a call of [`Relay::run`] ends.
enum Due {
    End(End),
    Renew,
    Moved,
    Authenticated,
    Need,
    GiveBack,
    Keep,
    Lost,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Relay<C, U> {
    /// Joins `client` and `upstream`.
    ///
    /// Neither side may have bytes waiting outside its socket, except the `first_bytes` that [`Relay::run`] takes.
    pub fn new(client: C, upstream: UpstreamSide<U>, limits: Limits, stats: ConnectionStats, filters: Filters) -> Self {
        let UpstreamSide { socket, session, generation } = upstream;
        let connection = ConnectionState::new(stats, filters);
        Self::with(Pump::new(client, socket, session, connection), limits, generation)
    }

    /// Serves `client` with upstream connections of a pool. It has none at the beginning.
    pub fn sharing(client: C, rules: SharingRules, limits: Limits, stats: ConnectionStats, filters: Filters) -> Self {
        let shared_ids = Some(RequestIds::random());
        let connection = ConnectionState { shared_ids, ..ConnectionState::new(stats, filters) };
        Self::with(Pump::sharing(client, Sharing::new(rules), connection), limits, NO_GENERATION)
    }

    fn with(pump: Pump<C, U>, limits: Limits, generation: u64) -> Self {
        Self {
            pump,
            clock: Clock::start(limits),
            generation,
            migration: None,
            dismissal: None,
            refusal: None,
            closed_by_client: |_| None,
        }
    }

    /// Sets the function that finds out, without reading, what the client has closed of its socket. The relay calls it
    /// every five seconds while it does not read from the client.
    pub fn look_for_clients_that_left(&mut self, closed_by_client: fn(&C) -> Option<Shutdown>) {
        self.closed_by_client = closed_by_client;
    }

    /// Runs the conversation until it ends or its owner has to do something for it.
    ///
    /// `first_bytes` have been read from the client already, and are freed at once. Only the first call has any. Cancel
    /// safe after that. When the relay is dropped, both sockets close at once.
    pub async fn run(&mut self, mut first_bytes: Vec<u8>, drain: &DrainWatch, renewal: &RenewalWatch) -> RelayEvent<U> {
        if !first_bytes.is_empty() {
            let begun = poll_fn(|cx| Poll::Ready(self.pump.begin(&mut first_bytes, cx))).await;
            drop(first_bytes);
            if let Err(end) = begun {
                return RelayEvent::Ended(self.finish(end).await);
            }
        }
        match self.next_event(drain, renewal).await {
            Due::End(end) => RelayEvent::Ended(self.finish(end).await),
            Due::Renew => RelayEvent::Renew,
            Due::Moved => RelayEvent::Moved,
            Due::Authenticated => RelayEvent::Authenticated,
            Due::Need => RelayEvent::NeedsUpstream,
            Due::Keep => RelayEvent::KeepsUpstream,
            Due::Lost => {
                self.detach();
                RelayEvent::UpstreamLost
            }
            Due::GiveBack => {
                self.detach().map_or(RelayEvent::UpstreamLost, |upstream| RelayEvent::GivesBack(Box::new(upstream)))
            }
        }
    }

    /// What the request that waits for an upstream connection needs.
    pub fn needed(&self) -> Needed<'_> {
        match self.pump.introduction() {
            Some(hello) => {
                Needed::Shared { hello, load_balanced: self.pump.connection.filters.handshake.expects_load_balancer() }
            }
            None => Needed::Own { hello: self.pump.first_hello() },
        }
    }

    /// Uses an upstream connection for the request that waits. `is_introduced` is whether the server has answered the
    /// client's hello on it. Without a lease it is the client's own, which never goes back.
    pub fn attach(&mut self, upstream: UpstreamSide<U>, lease: Option<Arc<LeaseState>>, is_introduced: bool) {
        let UpstreamSide { socket, session, generation } = upstream;
        self.generation = generation;
        if lease.is_none() {
            // What the client has sent belongs to this connection.
            self.pump.pin();
        }
        if self.pump.attach(socket, session, lease, is_introduced).is_err() {
            self.dismissal = Some(Dismissal::AtOnce);
        }
    }

    /// Answers the requests that wait for an upstream connection with an error, when the conversation goes on. A
    /// request of which a part is still to come is read to its end first.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusal = Some(Box::new(refusal));
    }

    /// Takes the upstream connection after the end of the conversation, if it can serve another client.
    pub fn take_reusable(&mut self) -> Option<UpstreamSide<U>> {
        if self.pump.is_reusable() { self.detach() } else { None }
    }

    /// The client's token; `None` before it has shown one, and after `logout`.
    pub fn token(&self) -> Option<&ValidToken> {
        self.pump.connection.filters.tokens.as_ref().and_then(|tokens| tokens.token())
    }

    /// Goes on with a client that has shown another token of its principal.
    pub fn go_on(&mut self) {
        if let Some(tokens) = &mut self.pump.connection.filters.tokens {
            tokens.resume();
        }
        // The owner may have given up what it was doing for a request.
        if let Some(sharing) = &mut self.pump.sharing
            && sharing.demand == Demand::Reported
        {
            sharing.demand = Demand::New;
        }
    }

    /// Goes on with a client whose principal has just become known. Its requests follow `policy`, are counted in
    /// `metrics`, and use upstream connections by `rules`. Returns the upstream connection that served it before, if
    /// that can serve another client; it is closed otherwise.
    pub fn serve_as(
        &mut self,
        policy: PolicyFilter,
        metrics: Arc<ListenerMetrics>,
        rules: SharingRules,
    ) -> Option<UpstreamSide<U>> {
        // A client with a token is no other user of mongod.
        let before = self.change_upstream(Authentication::Gateway, rules);
        let connection = &mut self.pump.connection;
        connection.filters.policy.log_totals();
        connection.filters.policy = policy;
        connection.stats.set_metrics(metrics);
        before
    }

    /// Whether the client needs upstream connections on which it can authenticate itself.
    pub fn is_separating(&self) -> bool {
        self.pump.connection.filters.tokens.as_ref().is_some_and(|tokens| tokens.is_separating())
    }

    /// Goes on with a client that authenticates to mongod itself, on upstream connections on which no user has been
    /// authenticated, by `rules`. Returns the upstream connection that served it before, as [`Relay::serve_as`] does.
    pub fn serve_unauthenticated(&mut self, rules: SharingRules) -> Option<UpstreamSide<U>> {
        self.change_upstream(Authentication::Clients, rules)
    }

    fn change_upstream(&mut self, authentication: Authentication, rules: SharingRules) -> Option<UpstreamSide<U>> {
        self.go_on();
        let before = self.take_reusable();
        if before.is_none() {
            self.detach();
        }
        let Pump { connection, sharing, .. } = &mut self.pump;
        connection.filters.handshake.set_authentication(authentication);
        // Cursors and transactions from before are those of another caller.
        connection.open_state = OpenState::default();
        if let Some(sharing) = sharing {
            sharing.set_rules(rules);
        }
        before
    }

    fn detach(&mut self) -> Option<UpstreamSide<U>> {
        let generation = std::mem::replace(&mut self.generation, NO_GENERATION);
        self.migration = None;
        let (socket, session) = self.pump.detach()?;
        Some(UpstreamSide { socket, session, generation })
    }

    /// The client's socket, for the final reply of a [`RelayEnd`].
    pub fn client(&mut self) -> &mut C {
        self.pump.client()
    }

    /// The client's own hello, which the server has to have answered on a connection that is offered; empty where the
    /// client has sent none. `None` where the client cannot move any longer.
    pub fn introduction(&self) -> Option<&[u8]> {
        self.pump.introduction()
    }

    /// Takes an upstream connection on which the server has answered the client's hello. It is used as soon as every
    /// request of the client is answered.
    pub fn offer(&mut self, upstream: UpstreamSide<U>) {
        if let Some(migration) = &mut self.migration {
            migration.offer(upstream);
        }
    }

    /// No other upstream connection can be made now: the current one stays in use, and [`RelayEvent::Renew`] comes
    /// again after a pause.
    pub fn postpone(&mut self) {
        if let Some(migration) = &mut self.migration {
            migration.postpone(Instant::now());
        }
    }

    /// The client cannot move, because the server does not take its hello a second time. Its connection closes in time.
    pub fn give_up_moving(&mut self) {
        self.pump.pin();
    }

    /// Whether the client has left, found out without reading. A client that has only closed its own side may wait for
    /// replies. After a wait it has most probably given up, because drivers do not half-close their connections.
    pub fn client_has_left(&mut self, has_waited: bool) -> bool {
        let closed = (self.closed_by_client)(self.pump.client());
        matches!(closed, Some(Shutdown::Both)) || (has_waited && closed.is_some())
    }

    /// The client has to leave.
    pub fn dismiss(&mut self, dismissal: Dismissal) {
        self.dismissal = Some(dismissal);
    }

    /// Whether the client loses nothing but time if its connection closes now: no request is in flight, and no cursor
    /// or transaction is open.
    pub fn is_at_rest(&self) -> bool {
        self.pump.is_idle() && self.pump.connection.in_flight.len() == 0 && !self.pump.has_open_state()
    }

    /// The number of bytes that the connection has moved in both directions.
    pub fn moved_bytes(&self) -> u64 {
        let stats = &self.pump.connection.stats;
        stats.to_upstream_bytes + stats.to_client_bytes
    }

    async fn next_event(&mut self, drain: &DrainWatch, renewal: &RenewalWatch) -> Due {
        let (mut draining, mut stopped) = (pin!(drain.draining()), pin!(drain.stopped()));
        let mut renewed = pin!(renewal.newer_than(self.generation));
        let mut is_registered = false;
        poll_fn(|cx| {
            if self.refusal.is_some()
                && let Err(end) = self.carry_out_refusal(cx)
            {
                return Poll::Ready(Due::End(end));
            }
            // Bytes are moved first, so that what has arrived counts before any limit does.
            if let Poll::Ready(end) = self.pump.poll_end(cx) {
                // The drain ends the gateway's monitors too.
                let is_drain = matches!(end.1, EndReason::MemberLost) && drain.stage() == Stage::Draining;
                return Poll::Ready(Due::End(if is_drain { (Side::Gateway, EndReason::Drained) } else { end }));
            }
            // Once registered, each of them wakes this task. Polling them again would take a lock that all connections
            // share.
            if !is_registered {
                is_registered = true;
                let _ = draining.as_mut().poll(cx);
                let _ = stopped.as_mut().poll(cx);
                let _ = renewed.as_mut().poll(cx);
            }
            if self.dismissal == Some(Dismissal::Gone) {
                return Poll::Ready(Due::End((Side::Client, EndReason::Closed)));
            }
            if let Some(reason) = self.has_to_leave(drain.stage()) {
                return Poll::Ready(Due::End((Side::Gateway, reason)));
            }
            if self.pump.has_authentication_behind_stream() {
                let reason = EndReason::Undetermined("a request behind a stream of replies");
                return Poll::Ready(Due::End((Side::Client, reason)));
            }
            if self.pump.needs_owner() {
                return Poll::Ready(Due::Authenticated);
            }
            if let Some(due) = self.share(cx) {
                return Poll::Ready(due);
            }
            self.poll_time(renewal, cx).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Answers the requests that wait for an upstream connection, if there is none for them.
    fn carry_out_refusal(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(refusal) = self.refusal.take() else { return Ok(()) };
        self.pump.refuse_waiting(&refusal.error, refusal.labels, cx)?;
        if refusal.is_final {
            self.dismissal = Some(Dismissal::NoUpstream);
        }
        Ok(())
    }

    /// What has to be done about the upstream connection of a pool.
    fn share(&mut self, cx: &mut Context<'_>) -> Option<Due> {
        self.pump.sharing.as_ref()?;
        let is_idle = self.pump.can_detach_when_confirmed() && self.pump.is_upstream_usable();
        let can_repeat = self.pump.introduction().is_some();
        let sharing = self.pump.sharing.as_mut()?;
        if sharing.condition == Condition::Lost {
            sharing.condition = Condition::Clean;
            return Some(Due::Lost);
        }
        if !can_repeat && sharing.must_keep() {
            return Some(Due::Keep);
        }
        // After a final refusal the conversation is about to end.
        if sharing.demand == Demand::New && self.dismissal != Some(Dismissal::NoUpstream) {
            sharing.demand = Demand::Reported;
            return Some(Due::Need);
        }
        if !sharing.must_give_back(is_idle) {
            return None;
        }
        if self.pump.can_detach() {
            return Some(Due::GiveBack);
        }
        self.pump.confirm_writes(cx).err().map(Due::End)
    }

    /// Why the client has to leave now, if it has to.
    fn has_to_leave(&self, stage: Stage) -> Option<EndReason> {
        match self.dismissal {
            Some(Dismissal::AtOnce) => return Some(EndReason::Dismissed),
            Some(Dismissal::WhenIdle) if self.pump.is_idle() => return Some(EndReason::Dismissed),
            Some(Dismissal::Elsewhere) if self.pump.is_idle() => return Some(EndReason::Outlived),
            Some(Dismissal::Overload) if self.pump.is_idle() => return Some(EndReason::Overload),
            Some(Dismissal::NoUpstream) if self.pump.client_has_everything() && self.pump.is_whole() => {
                return Some(EndReason::NoUpstream);
            }
            _ => {}
        }
        match stage {
            Stage::Stopped => Some(EndReason::Stopped),
            Stage::Draining if self.pump.is_idle() => Some(EndReason::Drained),
            Stage::Draining | Stage::Leaving | Stage::Serving => None,
        }
    }

    /// Checks the time limits and the certificate set. Costs an atomic load where there is nothing to check.
    fn poll_time(&mut self, renewal: &RenewalWatch, cx: &mut Context<'_>) -> Option<Due> {
        let is_old = renewal.generation() > self.generation;
        let hold_deadline = self.pump.hold_deadline();
        let (is_half_closed, is_unread) = (self.pump.client_has_closed(), self.pump.is_client_unread());
        let sharing_due = self.pump.sharing.as_ref().and_then(|sharing| sharing.next_due());
        if !self.clock.has_timer()
            && sharing_due.is_none()
            && !is_old
            && hold_deadline.is_none()
            && !is_half_closed
            && !is_unread
        {
            return None;
        }
        let now = Instant::now();
        if let Some(end) = self.notice_client_that_left(is_unread, now) {
            return Some(Due::End(end));
        }
        if hold_deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Due::End(self.pump.missed_hold_deadline()));
        }
        self.clock.note_moved(self.moved_bytes(), now);
        self.clock.note_half_closed(is_half_closed, now);
        if let Some(reason) = self.clock.hard_limit_reached(now) {
            return Some(Due::End((Side::Gateway, reason)));
        }
        if self.pump.is_idle()
            && let Some(reason) = self.clock.limit_reached(now)
        {
            return Some(Due::End((Side::Gateway, reason)));
        }
        let mut next_migration_step = None;
        if is_old {
            if let Some(event) = self.migrate(renewal, now, cx) {
                return Some(event);
            }
            next_migration_step =
                self.migration.as_ref().and_then(|migration| migration.next_due(&self.migration_facts(), now));
        }
        self.clock.wake_at_next([hold_deadline, next_migration_step, sharing_due], now, cx);
        None
    }

    /// Looks from time to time whether a client that is not read has left. Its end stands behind bytes that the gateway
    /// does not read, for example because mongod takes no more.
    fn notice_client_that_left(&mut self, is_unread: bool, now: Instant) -> Option<End> {
        if !self.clock.note_unread(is_unread, now) {
            return None;
        }
        match (self.closed_by_client)(self.pump.client())? {
            Shutdown::Both => Some((Side::Client, EndReason::Socket(io::ErrorKind::ConnectionReset.into()))),
            Shutdown::Read | Shutdown::Write => {
                self.clock.note_half_closed(true, now);
                None
            }
        }
    }

    /// One step away from a replaced certificate set.
    fn migrate(&mut self, renewal: &RenewalWatch, now: Instant, cx: &mut Context<'_>) -> Option<Due> {
        let facts = self.migration_facts();
        let migration = self.migration.get_or_insert_with(|| Box::new(UpstreamMigration::new(renewal.schedule())));
        match migration.step(&facts, now) {
            MigrationStep::Wait => None,
            MigrationStep::Request => match &mut self.pump.sharing {
                // The pool makes another one when a request needs it.
                Some(sharing) => {
                    sharing.goes_back = true;
                    cx.waker().wake_by_ref();
                    None
                }
                None => Some(Due::Renew),
            },
            MigrationStep::Close => Some(Due::End((Side::Gateway, EndReason::Recycled))),
            MigrationStep::Move => {
                let mut offer = migration.take_offer()?;
                // The server may have closed it while it waited; it has nothing else to send.
                if !is_silent(&mut offer.socket, cx) {
                    migration.postpone(now);
                    return None;
                }
                let UpstreamSide { socket, session, generation } = *offer;
                let replaced = self.pump.replace_upstream(socket, session, cx);
                (self.generation, self.migration) = (generation, None);
                Some(replaced.map_or_else(Due::End, |()| Due::Moved))
            }
        }
    }

    fn migration_facts(&self) -> MigrationFacts {
        MigrationFacts {
            can_move: self.pump.can_move(),
            at_boundary: self.pump.is_at_boundary(),
            is_idle: self.pump.is_idle(),
            is_whole: self.pump.is_whole(),
            has_open_state: self.pump.has_open_state(),
            last_moved: self.clock.last_moved(),
        }
    }

    async fn finish(&mut self, (ended_by, reason): End) -> RelayEnd {
        let is_cut = matches!(reason, EndReason::Stopped) && !self.pump.is_idle();
        let has_final_reply = matches!(reason, EndReason::Compressed | EndReason::RefusedDocument(_));
        let final_reply = if has_final_reply { self.pump.take_final_reply() } else { Vec::new() };
        if !matches!(reason, EndReason::Stopped) {
            poll_fn(|cx| {
                // Its owner may give it to another client.
                if !self.pump.is_reusable() {
                    self.pump.close_upstream(cx);
                }
                if final_reply.is_empty() {
                    self.pump.close_client(cx);
                }
                Poll::Ready(())
            })
            .await;
        }
        // mongod closes on a message that it cannot parse, in order or by a reset. The client is at fault then.
        let is_refused = ended_by == Side::Upstream && !self.pump.client_is_understood();
        let reason = if is_refused { EndReason::NotUnderstood } else { reason };
        let waits_for_upstream = self.pump.sharing.as_ref().is_some_and(|sharing| sharing.demand != Demand::None);
        let ConnectionState { filters, stats, in_flight, .. } = &mut self.pump.connection;
        filters.policy.log_totals();
        RelayEnd {
            ended_by,
            reason,
            to_upstream_bytes: stats.to_upstream_bytes,
            to_client_bytes: stats.to_client_bytes,
            commands: stats.commands,
            errors: stats.errors,
            denied: stats.denied,
            unanswered: in_flight.unanswered(),
            waits_for_upstream,
            is_cut,
            user: stats.user.take(),
            final_reply,
        }
    }
}

/// Whether a socket is open and has nothing to read.
fn is_silent(socket: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    Pin::new(socket).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

#[cfg(test)]
mod tests;
