//! Tells the service manager about the process: ready, reloading, stopping, what works, and that the threads run.
//!
//! The process is reported as ready when its listeners are open, also while MongoDB cannot be reached: a unit that
//! waits for MongoDB would be ended and started again and again, and clients would be refused instead of reading the
//! reason.
//! The status text says what is missing.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::worker::Dispatcher;
use crate::lifecycle::drain::{DrainWatch, Stage};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::reload::ReloadRequest;
use crate::lifecycle::service_manager::ServiceManager;
use crate::lifecycle::tasks::Tasks;

/// How often the status text is compared with the one that was sent last.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// How often a status text is sent that differs only in numbers, such as the age of a failure. Each message wakes
/// everything that watches the unit.
const NUMBERS_INTERVAL: Duration = Duration::from_secs(30);

/// How long a reload is reported as running. Files on a network file system may not be readable for longer; they are
/// used whenever they have been read.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Added to the longest shutdown, so that the process is ended only if it hangs.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Sends all messages to the service manager. Clones are the same reporter. Without a service manager, it only passes
/// on reloads.
#[derive(Clone)]
pub(super) struct ServiceReport(Arc<State>);

struct State {
    manager: ServiceManager,
    readiness: Readiness,
    reloads: Vec<ReloadRequest>,
    reload_requested: Notify,
    drain: DrainWatch,
}

impl ServiceReport {
    pub(super) fn new(
        manager: ServiceManager,
        readiness: Readiness,
        reloads: Vec<ReloadRequest>,
        drain: DrainWatch,
    ) -> Self {
        Self(Arc::new(State { manager, readiness, reloads, reload_requested: Notify::new(), drain }))
    }

    /// Reports that the gateway accepts clients, and starts the tasks that report from then on. They end when the drain
    /// is over.
    pub(super) async fn started(&self, own: &Tasks, workers: Dispatcher) {
        let status = self.0.readiness.report().summary();
        self.0.manager.notify(&[NotifyState::Ready, NotifyState::Status(&status)]).await;
        let (report, drain) = (self.clone(), self.0.drain.clone());
        own.spawn("service status", async move {
            tokio::select! {
                () = report.follow(status) => {}
                () = drain.stopped() => {}
            }
        });
        let Some(limit) = self.0.manager.watchdog_limit() else { return };
        let (report, drain, watched) = (self.clone(), self.0.drain.clone(), own.clone());
        own.spawn("service watchdog", async move {
            tokio::select! {
                () = report.watchdog(limit, workers, &watched) => {}
                () = drain.stopped() => {}
            }
        });
    }

    /// Requests a reload of all files. Returns at once.
    pub(super) fn reload(&self) {
        self.0.reload_requested.notify_one();
    }

    /// Requests a reload of all files, and waits until all of them have been read or cannot be read in time. Returns
    /// whether all have. The service manager learns nothing of it: it did not ask. Cancel safe.
    pub(super) async fn reload_and_wait(&self) -> bool {
        let state = &self.0;
        state.reloads.iter().for_each(ReloadRequest::send);
        let answered = async {
            for reload in &state.reloads {
                reload.answered().await;
            }
        };
        tokio::select! {
            () = answered => true,
            () = sleep(RELOAD_TIME_MAX) => false,
            () = state.drain.draining() => false,
        }
    }

    /// Reports that the shutdown begins, and that it may take `longest`: the service manager then waits for that time,
    /// also if its own limit is shorter.
    pub(super) async fn stopping(&self, longest: Duration) {
        let time = longest.saturating_add(STOP_MARGIN).as_micros();
        // The variant for this has 32 bits, which is 71 minutes.
        let extension = format!("EXTEND_TIMEOUT_USEC={}", u64::try_from(time).unwrap_or(u64::MAX - 1));
        self.0.manager.notify(&[NotifyState::Stopping, NotifyState::Custom(&extension)]).await;
    }

    /// Sends the status text when it changes, and reloads on request.
    async fn follow(&self, mut sent: String) {
        let state = &self.0;
        let mut sent_at = Instant::now();
        let mut ticks = interval(STATUS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = state.reload_requested.notified() => {
                    self.reload_now().await;
                    continue;
                }
                _ = ticks.tick(), if state.manager.is_present() => {}
            }
            let status = state.readiness.report().summary();
            if status != sent && (differ_in_words(&status, &sent) || sent_at.elapsed() >= NUMBERS_INTERVAL) {
                state.manager.notify(&[NotifyState::Status(&status)]).await;
                (sent, sent_at) = (status, Instant::now());
            }
        }
    }

    /// Reads all files again, and reports the reload from its begin to its end.
    async fn reload_now(&self) {
        let state = &self.0;
        loop {
            // Since systemd 253 this time has to be part of the message. For each request, because `systemctl reload`
            // waits for a message that is newer than its own signal.
            let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
            state.manager.notify(&[NotifyState::Reloading, now]).await;
            state.reloads.iter().for_each(ReloadRequest::send);
            let answered = async {
                for reload in &state.reloads {
                    reload.answered().await;
                }
            };
            tokio::select! {
                () = answered => break,
                // Must not wait for the previous one, which may hang.
                () = state.reload_requested.notified() => {}
                () = sleep(RELOAD_TIME_MAX) => break,
                () = state.drain.draining() => break,
            }
        }
        // A process that is shutting down is not ready again.
        if state.drain.stage() == Stage::Serving {
            state.manager.notify(&[NotifyState::Ready]).await;
        }
    }

    /// Sends a sign of life twice within `limit`, as long as every worker answers and no task of the gateway itself has
    /// panicked: without it, a listener would accept no client, or a file would never be read again. This runs on the
    /// main thread, so a sign of life shows that this one makes progress too.
    async fn watchdog(&self, limit: Duration, workers: Dispatcher, own: &Tasks) {
        let mut ticks = interval(limit / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if own.panics() == 0 && workers.all_answer().await {
                self.0.manager.notify(&[NotifyState::Watchdog]).await;
            }
        }
    }
}

/// Whether the texts differ in more than their numbers.
fn differ_in_words(a: &str, b: &str) -> bool {
    let without_digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    without_digits(a) != without_digits(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_no_news_and_a_word_is() {
        assert!(!differ_in_words("the last connection succeeded 9s ago", "the last connection succeeded 31s ago"));
        assert!(differ_in_words("the last connection succeeded 9s ago", "the last connection failed 9s ago"));
        assert!(differ_in_words("ready", ""));
    }
}
