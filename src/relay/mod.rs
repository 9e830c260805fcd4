//! Where bytes flow: one client, one upstream connection, one task that moves both directions.
//!
//! The relay owns both sockets and the TLS state. It takes no decisions about who may do what, but has its guard ask the
//! policy; makes up no replies to what has gone upstream; and changes nothing but the hello and, where its terms say so,
//! the names of members in replies to one; and, where a monitor's stream of replies begins anew on another connection, the
//! number that says what its first reply answers.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::lifecycle::drain::{DrainWatch, Stage};
use crate::lifecycle::renewal::RenewalWatch;
use crate::tls::TlsSession;

mod cursors;
mod desk;
mod end;
mod exchange;
mod guard;
mod holding;
mod holds;
mod leaving;
mod own_answers;
mod pump;
mod record;
mod replies;
mod requests;
mod scratch;
mod sockets;
mod terms;

pub use cursors::CursorBook;
pub use end::{EndReason, RelayEnd, Side};
pub use guard::{EffectivePolicy, Finding, PolicyFilter, PolicySource, place_of};
pub use holding::HoldBudget;
pub use record::ConnectionStats;
pub use terms::{Authentication, HandshakeFilter, Naming};

use desk::ConnectionState;
use exchange::InFlight;
use leaving::{Facts, Step, UpstreamMigration};
use pump::{End, Pump};

/// When a connection ends although both sides would go on; `None` is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Nothing moved, and no command in flight, for so long.
    pub idle_timeout: Option<Duration>,
    /// This old, and no command in flight.
    pub max_lifetime: Option<Duration>,
}

/// Where no limit lies ahead any more, only events wake the task; the timer is set this far off.
const LATER: Duration = Duration::from_hours(24);

/// Why [`Relay::run`] returned.
#[derive(Debug)]
pub enum Turn {
    /// The conversation is over.
    Ended(RelayEnd),
    /// The certificate set of the upstream connection is no longer in use, and it is this connection's turn to change:
    /// offer another one, or postpone it; the conversation goes on meanwhile.
    Renew,
    /// The upstream connection that was offered is in use.
    Moved,
}

/// An upstream connection: mongod says nothing on it before it is asked.
pub struct UpstreamSide<U> {
    /// Where the TLS records go.
    pub socket: U,
    /// The finished session; nothing of it waits to be read or sent.
    pub session: TlsSession,
    /// Of the certificate set that it was made with.
    pub generation: u64,
}

/// One conversation, ready to be carried.
pub struct Relay<C, U> {
    pump: Pump<C, U>,
    opened: Instant,
    limits: Limits,
    last_moved: (u64, Instant),
    timer: Option<Pin<Box<Sleep>>>,
    /// Of the certificate set that the upstream connection was made with.
    generation: u64,
    leaving: Option<Box<UpstreamMigration<U>>>,
    dismissal: Option<Dismissal>,
}

/// When a client has to go, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dismissal {
    /// As soon as no command is in flight: connections that are made now go to another member.
    Elsewhere,
    /// As soon as no command is in flight: it is not accepted any more.
    WhenIdle,
    /// Whatever is in flight: it is not accepted any more.
    AtOnce,
}

/// What ends a call of [`Relay::run`], before it is told.
enum Event {
    End(End),
    Renew,
    Moved,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Relay<C, U> {
    /// Joins `client` and `upstream`.
    ///
    /// Neither side may have bytes waiting outside its socket, but for `first_bytes` given to [`Relay::run`].
    pub fn new(
        client: C,
        upstream: UpstreamSide<U>,
        record: ConnectionStats,
        guard: PolicyFilter,
        terms: HandshakeFilter,
    ) -> Self {
        let UpstreamSide { socket, session, generation } = upstream;
        let limits = terms.limits;
        let opened = Instant::now();
        let nearest = [limits.idle_timeout, limits.max_lifetime].into_iter().flatten().min();
        Self {
            pump: Pump::new(
                client,
                socket,
                session,
                ConnectionState { exchange: InFlight::default(), record, guard, terms },
            ),
            opened,
            limits,
            last_moved: (0, opened),
            timer: nearest.map(|after| Box::pin(tokio::time::sleep(after))),
            generation,
            leaving: None,
            dismissal: None,
        }
    }

    /// Carries the conversation until it ends or there is something to be done for it, and tells what.
    ///
    /// `first_bytes` have been read from the client already; their memory is given back at once. Only the first call has
    /// any. Cancel safe after that; when the relay is dropped, both sockets close at once.
    pub async fn run(&mut self, first_bytes: Vec<u8>, drain: &DrainWatch, renewal: &RenewalWatch) -> Turn {
        if !first_bytes.is_empty() {
            let begun = poll_fn(|cx| Poll::Ready(self.pump.begin(&first_bytes, cx))).await;
            drop(first_bytes);
            if let Err(end) = begun {
                return Turn::Ended(self.finish(end).await);
            }
        }
        match self.carry(drain, renewal).await {
            Event::End(end) => Turn::Ended(self.finish(end).await),
            Event::Renew => Turn::Renew,
            Event::Moved => Turn::Moved,
        }
    }

    /// The client's socket, for the words that a [`RelayEnd`] leaves to be said.
    pub fn client(&mut self) -> &mut C {
        self.pump.client()
    }

    /// The client's own hello, which the connection to be offered has to have answered; empty where the client sent none,
    /// and `None` when it is too late to change.
    pub fn introduction(&self) -> Option<&[u8]> {
        self.pump.introduction()
    }

    /// Takes an upstream connection on which mongod has answered the hello; it is used from the next moment on at which
    /// all that the client asked is answered.
    pub fn offer(&mut self, upstream: UpstreamSide<U>) {
        if let Some(leaving) = &mut self.leaving {
            leaving.offer(upstream);
        }
    }

    /// There is none for now: the old one stays in use, and [`Turn::Renew`] comes again after a pause.
    pub fn postpone(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.postpone(Instant::now());
        }
    }

    /// There will be none, as mongod does not take the client's hello a second time: the connection closes in time.
    pub fn give_up_moving(&mut self) {
        self.pump.pin();
    }

    /// The client has to go.
    pub fn dismiss(&mut self, dismissal: Dismissal) {
        self.dismissal = Some(dismissal);
    }

    async fn carry(&mut self, drain: &DrainWatch, renewal: &RenewalWatch) -> Event {
        let (mut draining, mut stopped) = (pin!(drain.draining()), pin!(drain.stopped()));
        let mut renewed = pin!(renewal.newer_than(self.generation));
        let mut registered = false;
        poll_fn(|cx| {
            // The moving of bytes comes first, so that what has arrived counts before any limit does.
            if let Poll::Ready(end) = self.pump.poll_end(cx) {
                return Poll::Ready(Event::End(end));
            }
            // Once registered, each of them wakes this task; polling again would cost a lock that all share.
            if !registered {
                registered = true;
                let _ = draining.as_mut().poll(cx);
                let _ = stopped.as_mut().poll(cx);
                let _ = renewed.as_mut().poll(cx);
            }
            if let Some(reason) = self.stage_reached(drain.stage()) {
                return Poll::Ready(Event::End((Side::Gateway, reason)));
            }
            self.time_reached(renewal, cx).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn stage_reached(&self, stage: Stage) -> Option<EndReason> {
        match self.dismissal {
            Some(Dismissal::AtOnce) => return Some(EndReason::Dismissed),
            Some(Dismissal::WhenIdle) if self.pump.is_idle() => return Some(EndReason::Dismissed),
            Some(Dismissal::Elsewhere) if self.pump.is_idle() => return Some(EndReason::Outlived),
            _ => {}
        }
        match stage {
            Stage::Stopped => Some(EndReason::Stopped),
            Stage::Draining if self.pump.is_idle() => Some(EndReason::Drained),
            Stage::Draining | Stage::Serving => None,
        }
    }

    /// Looks at the time limits and at a renewal; costs an atomic load where there is neither.
    fn time_reached(&mut self, renewal: &RenewalWatch, cx: &mut Context<'_>) -> Option<Event> {
        let is_old = renewal.generation() > self.generation;
        let hold_deadline = self.pump.hold_deadline();
        if self.timer.is_none() && !is_old && hold_deadline.is_none() {
            return None;
        }
        let now = Instant::now();
        if hold_deadline.is_some_and(|due| due <= now) {
            return Some(Event::End(self.pump.held_too_long()));
        }
        let moved = self.pump.desk.record.to_upstream_bytes + self.pump.desk.record.to_client_bytes;
        if moved != self.last_moved.0 {
            self.last_moved = (moved, now);
        }
        if let Some(reason) = self.limit_reached(now) {
            return Some(Event::End((Side::Gateway, reason)));
        }
        let mut leave_look = None;
        if is_old {
            if let Some(event) = self.leave(renewal, now, cx) {
                return Some(event);
            }
            leave_look = self.leaving.as_ref().and_then(|leaving| leaving.next_look(&self.facts(), now));
        }
        // What is due but kept by a command in flight is looked at again when its reply wakes this task.
        let limits =
            [self.idle_due(), self.lifetime_due(), hold_deadline].into_iter().flatten().filter(|due| *due > now);
        let next = limits.chain(leave_look).min().unwrap_or(now + LATER);
        self.wake_at(next, cx);
        None
    }

    fn idle_due(&self) -> Option<Instant> {
        self.limits.idle_timeout.map(|limit| self.last_moved.1 + limit)
    }

    fn lifetime_due(&self) -> Option<Instant> {
        self.limits.max_lifetime.map(|limit| self.opened + limit)
    }

    fn limit_reached(&self, now: Instant) -> Option<EndReason> {
        if !self.pump.is_idle() {
            return None;
        }
        if self.lifetime_due().is_some_and(|due| due <= now) {
            return Some(EndReason::Lifetime);
        }
        self.idle_due().is_some_and(|due| due <= now).then_some(EndReason::Idle)
    }

    /// One step out of an old certificate set.
    fn leave(&mut self, renewal: &RenewalWatch, now: Instant, cx: &mut Context<'_>) -> Option<Event> {
        let facts = self.facts();
        let leaving = self.leaving.get_or_insert_with(|| Box::new(UpstreamMigration::new(renewal.schedule())));
        match leaving.step(&facts, now) {
            Step::Wait => None,
            Step::Ask => Some(Event::Renew),
            Step::Close => Some(Event::End((Side::Gateway, EndReason::Recycled))),
            Step::Move => {
                let mut offer = leaving.take_offer()?;
                // It has waited for this moment, and mongod may have closed it meanwhile; it has nothing else to say.
                if !is_silent(&mut offer.socket, cx) {
                    leaving.postpone(now);
                    return None;
                }
                let UpstreamSide { socket, session, generation } = *offer;
                let exchanged = self.pump.exchange_upstream(socket, session, cx);
                (self.generation, self.leaving) = (generation, None);
                Some(exchanged.map_or_else(Event::End, |()| Event::Moved))
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            can_move: self.pump.can_move(),
            at_boundary: self.pump.is_at_boundary(),
            is_idle: self.pump.is_idle(),
            is_whole: self.pump.is_whole(),
            holds_something: self.pump.holds_something(),
            moved: self.last_moved.1,
        }
    }

    /// Has the timer wake this task at `next` or earlier.
    fn wake_at(&mut self, next: Instant, cx: &mut Context<'_>) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if next < timer.deadline() {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(next);
        }
    }

    async fn finish(&mut self, (ended_by, reason): End) -> RelayEnd {
        let final_reply =
            if matches!(reason, EndReason::Compressed) { self.pump.take_final_reply() } else { Vec::new() };
        if !matches!(reason, EndReason::Stopped) {
            poll_fn(|cx| {
                self.pump.leave_upstream(cx);
                if final_reply.is_empty() {
                    self.pump.leave_client(cx);
                }
                Poll::Ready(())
            })
            .await;
        }
        // mongod closes on what it cannot read, in order or by a reset; the fault is the client's, not its own.
        let refused = ended_by == Side::Upstream && !self.pump.client_is_understood();
        let reason = if refused { EndReason::NotUnderstood } else { reason };
        self.pump.desk.guard.end();
        let ConnectionState { record, exchange, .. } = &mut self.pump.desk;
        RelayEnd {
            ended_by,
            reason,
            to_upstream_bytes: record.to_upstream_bytes,
            to_client_bytes: record.to_client_bytes,
            commands: record.commands,
            errors: record.errors,
            denied: record.denied,
            unanswered: exchange.len(),
            user: record.user.take(),
            final_reply,
        }
    }
}

/// Whether a socket is open and brings nothing.
fn is_silent(socket: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    Pin::new(socket).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

#[cfg(test)]
mod tests;
