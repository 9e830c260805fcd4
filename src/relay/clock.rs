//! The time limits of one connection, and the timer that wakes its task for them.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::relay::end::EndReason;
use crate::relay::limits::Limits;

/// The timer is set this far ahead where no limit is due and only events wake the task.
const LATER: Duration = Duration::from_hours(24);

/// How often the gateway looks whether a client that it does not read is still there.
const LEFT_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How old a connection is, and when bytes have moved on it last.
pub(super) struct Clock {
    limits: Limits,
    opened: Instant,
    /// The number of bytes that had moved, and when that number was new.
    last_moved: (u64, Instant),
    /// When the client was first seen to have closed its side.
    half_closed: Option<Instant>,
    /// When to look next whether a client that is not read is still there.
    next_left_check: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Starts now.
    pub(super) fn start(limits: Limits) -> Self {
        let opened = Instant::now();
        let nearest = [limits.idle_timeout, limits.max_lifetime].into_iter().flatten().min();
        let timer = nearest.map(|after| Box::pin(tokio::time::sleep(after)));
        Self { limits, opened, last_moved: (0, opened), half_closed: None, next_left_check: None, timer }
    }

    /// Whether a timer has to be kept going.
    pub(super) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Takes note of the number of bytes that have moved until now.
    pub(super) fn note_moved(&mut self, bytes: u64, now: Instant) {
        if bytes != self.last_moved.0 {
            self.last_moved = (bytes, now);
        }
    }

    /// When bytes have moved last.
    pub(super) fn last_moved(&self) -> Instant {
        self.last_moved.1
    }

    /// Takes note of whether the client has closed its side.
    pub(super) fn note_half_closed(&mut self, is_half_closed: bool, now: Instant) {
        if is_half_closed {
            self.half_closed.get_or_insert(now);
        }
    }

    /// Takes note of whether the client is not read. Returns whether to look now if it is still there.
    pub(super) fn note_unread(&mut self, is_unread: bool, now: Instant) -> bool {
        if !is_unread {
            self.next_left_check = None;
            return false;
        }
        let is_due = self.next_left_check.is_some_and(|due| due <= now);
        if is_due || self.next_left_check.is_none() {
            self.next_left_check = Some(now + LEFT_CHECK_INTERVAL);
        }
        is_due
    }

    /// The limit that a connection has reached even if a command is in flight.
    pub(super) fn hard_limit_reached(&self, now: Instant) -> Option<EndReason> {
        if self.half_close_due().is_some_and(|due| due <= now) {
            return Some(EndReason::HalfClosed);
        }
        self.lifetime_end().is_some_and(|due| due <= now).then_some(EndReason::LifetimeCut)
    }

    /// The limit that a connection without a command in flight has reached.
    pub(super) fn limit_reached(&self, now: Instant) -> Option<EndReason> {
        if self.lifetime_due().is_some_and(|due| due <= now) {
            return Some(EndReason::Lifetime);
        }
        self.idle_due().is_some_and(|due| due <= now).then_some(EndReason::Idle)
    }

    /// Has the timer wake this task when the next limit, or the first of `others`, is due.
    ///
    /// A limit that is due already waits for a command in flight, whose reply wakes the task.
    pub(super) fn wake_at_next(
        &mut self,
        others: impl IntoIterator<Item = Option<Instant>>,
        now: Instant,
        cx: &mut Context<'_>,
    ) {
        let own =
            [self.idle_due(), self.lifetime_due(), self.lifetime_end(), self.half_close_due(), self.next_left_check];
        let due = own.into_iter().chain(others).flatten().filter(|due| *due > now);
        let next = due.min().unwrap_or(now + LATER);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
        if next < timer.deadline() {
            timer.as_mut().reset(next);
        }
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(next);
        }
    }

    fn idle_due(&self) -> Option<Instant> {
        self.limits.idle_timeout.map(|limit| self.last_moved.1 + limit)
    }

    fn half_close_due(&self) -> Option<Instant> {
        Some(self.half_closed? + self.limits.half_close_timeout?)
    }

    fn lifetime_end(&self) -> Option<Instant> {
        Some(self.lifetime_due()? + self.limits.lifetime_grace?)
    }

    fn lifetime_due(&self) -> Option<Instant> {
        self.limits.max_lifetime.map(|limit| self.opened + limit)
    }
}
