//! Where bytes flow: one client, one upstream connection, one task that moves both directions.
//!
//! The relay owns both sockets and the TLS state. It takes no decisions about who may do what, makes up no replies once
//! bytes have gone upstream, and changes nothing but the hello.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::lifecycle::drain::{DrainWatch, Stage};

mod end;
mod exchange;
mod pump;
mod record;
mod replies;
mod requests;
mod scratch;
mod sockets;

pub use end::{EndReason, RelayEnd, Side};
pub use record::Record;

use pump::{End, Pump};

/// When a connection ends although both sides would go on; `None` is never.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Nothing moved, and no command in flight, for so long.
    pub idle_timeout: Option<Duration>,
    /// This old, and no command in flight.
    pub max_lifetime: Option<Duration>,
}

/// Where no limit lies ahead any more, only events wake the task; the timer is set this far off.
const LATER: Duration = Duration::from_hours(24);

/// One conversation, ready to be carried.
pub struct Relay<C, U> {
    pump: Pump<C, U>,
    opened: Instant,
    limits: Limits,
    last_moved: (u64, Instant),
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin, U: AsyncRead + AsyncWrite + Unpin> Relay<C, U> {
    /// Joins `client` and the finished TLS session `tls` on `socket`.
    ///
    /// Neither side may have bytes waiting outside its socket, but for `first_bytes` given to [`Relay::run`].
    pub fn new(client: C, socket: U, tls: ClientConnection, record: Record, limits: Limits) -> Self {
        let opened = Instant::now();
        let nearest = [limits.idle_timeout, limits.max_lifetime].into_iter().flatten().min();
        Self {
            pump: Pump::new(client, socket, tls, record),
            opened,
            limits,
            last_moved: (0, opened),
            timer: nearest.map(|after| Box::pin(tokio::time::sleep(after))),
        }
    }

    /// Carries the conversation until it ends, and tells how it did.
    ///
    /// `first_bytes` have been read from the client already; their memory is given back at once.
    /// When dropped, both sockets close at once.
    pub async fn run(&mut self, first_bytes: Vec<u8>, drain: &DrainWatch) -> RelayEnd {
        let (mut draining, mut stopped) = (pin!(drain.draining()), pin!(drain.stopped()));
        let mut registered = false;
        let begun = self.pump.begin(&first_bytes);
        drop(first_bytes);
        let end = match begun {
            Err(end) => end,
            Ok(()) => {
                poll_fn(|cx| {
                    // The moving of bytes comes first, so that what has arrived counts before any limit does.
                    if let Poll::Ready(end) = self.pump.poll_end(cx) {
                        return Poll::Ready(end);
                    }
                    // Once registered, each stage wakes this task; polling again would cost a lock that all share.
                    if !registered {
                        registered = true;
                        let _ = draining.as_mut().poll(cx);
                        let _ = stopped.as_mut().poll(cx);
                    }
                    self.limit_reached(drain.stage(), cx)
                })
                .await
            }
        };
        self.finish(end).await
    }

    /// The client's socket, for the words that a [`RelayEnd`] leaves to be said.
    pub fn client(&mut self) -> &mut C {
        self.pump.client()
    }

    fn limit_reached(&mut self, stage: Stage, cx: &mut Context<'_>) -> Poll<End> {
        match stage {
            Stage::Stopped => return Poll::Ready((Side::Gateway, EndReason::Stopped)),
            Stage::Draining if self.pump.is_idle() => return Poll::Ready((Side::Gateway, EndReason::Drained)),
            Stage::Draining | Stage::Serving => {}
        }
        match self.timer_reached(cx) {
            Some(reason) => Poll::Ready((Side::Gateway, reason)),
            None => Poll::Pending,
        }
    }

    /// Looks at the two time limits; costs nothing where neither is set.
    fn timer_reached(&mut self, cx: &mut Context<'_>) -> Option<EndReason> {
        let timer = self.timer.as_mut()?;
        let now = Instant::now();
        let moved = self.pump.record.to_upstream_bytes + self.pump.record.to_client_bytes;
        if moved != self.last_moved.0 {
            self.last_moved = (moved, now);
        }
        let idle_due = self.limits.idle_timeout.map(|limit| self.last_moved.1 + limit);
        let lifetime_due = self.limits.max_lifetime.map(|limit| self.opened + limit);
        if self.pump.is_idle() {
            if lifetime_due.is_some_and(|due| due <= now) {
                return Some(EndReason::Lifetime);
            }
            if idle_due.is_some_and(|due| due <= now) {
                return Some(EndReason::Idle);
            }
        }
        // What is due but kept by a command in flight is looked at again when its reply wakes this task.
        let next = [idle_due, lifetime_due].into_iter().flatten().filter(|due| *due > now).min();
        let next = next.unwrap_or(now + LATER);
        if next < timer.deadline() {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(next);
        }
        None
    }

    async fn finish(&mut self, (ended_by, reason): End) -> RelayEnd {
        let last_words = if matches!(reason, EndReason::Compressed) { self.pump.take_last_words() } else { Vec::new() };
        if !matches!(reason, EndReason::Stopped) {
            poll_fn(|cx| {
                self.pump.leave_upstream(cx);
                if last_words.is_empty() {
                    self.pump.leave_client(cx);
                }
                Poll::Ready(())
            })
            .await;
        }
        // mongod closes on what it cannot read, in order or by a reset; the fault is the client's, not its own.
        let refused = ended_by == Side::Upstream && !self.pump.client_is_understood();
        let reason = if refused { EndReason::NotUnderstood } else { reason };
        let Pump { record, exchange, .. } = &self.pump;
        RelayEnd {
            ended_by,
            reason,
            to_upstream_bytes: record.to_upstream_bytes,
            to_client_bytes: record.to_client_bytes,
            commands: record.commands,
            errors: record.errors,
            unanswered: exchange.len(),
            last_words,
        }
    }
}

#[cfg(test)]
mod tests;
