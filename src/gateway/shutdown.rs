//! The end of the process: a delay in which the gateway still serves, the drain, and the close of what is left.

use std::time::Duration;

use super::messages::{DRAIN_ABORTED, DRAIN_TIMEOUT, DRAINING, LEAVING, STOPPED};
use crate::config::{Config, ShutdownConfig};
use crate::lifecycle::drain::{Drain, Stage};
use crate::lifecycle::signals::SignalEvent;
use crate::lifecycle::tasks::Tasks;

/// Time to close all connections after the drain.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// The time limits of the shutdown.
pub(super) struct Shutdown {
    config: ShutdownConfig,
    drain_timeout: Duration,
}

impl Shutdown {
    pub(super) fn new(config: &Config) -> Self {
        Self { config: config.shutdown, drain_timeout: config.drain_timeout }
    }

    /// How long [`run`](Self::run) takes at most.
    pub(super) fn longest(&self) -> Duration {
        let ShutdownConfig { delay, wait_for_clients } = self.config;
        let wait = if wait_for_clients { self.drain_timeout } else { Duration::ZERO };
        delay.saturating_add(wait).saturating_add(self.drain_timeout).saturating_add(STOP_DEADLINE)
    }

    /// Shuts down, from the first signal to the end of all tasks. [`SignalEvent::Stop`] ends every wait. Returns the
    /// number of connections that were closed with a command in flight.
    pub(super) async fn run(
        self,
        drain: &Drain,
        connections: &Tasks,
        own: &Tasks,
        next_event: &mut impl AsyncFnMut() -> SignalEvent,
    ) -> usize {
        // From here on, the wait for connections ends when there are none.
        connections.close();
        if drain.watch().stage() < Stage::Draining {
            self.serve_on(drain, connections, next_event).await;
        }
        drain.begin();
        let timeout = humantime::format_duration(self.drain_timeout);
        tracing::info!(connections = connections.len(), %timeout, "{DRAINING}");
        tokio::select! {
            // If all connections have ended, none was cut off.
            biased;
            () = connections.wait() => {}
            () = stop_event(drain, next_event) => tracing::warn!(connections = connections.len(), "{DRAIN_ABORTED}"),
            () = tokio::time::sleep(self.drain_timeout) => {
                tracing::warn!(connections = connections.len(), "{DRAIN_TIMEOUT}");
            }
        }
        drain.stop();
        own.close();
        let _ = tokio::time::timeout(STOP_DEADLINE, async { tokio::join!(connections.wait(), own.wait()) }).await;
        let interrupted = drain.interrupted();
        tracing::info!(interrupted, "{STOPPED}");
        interrupted
    }

    /// Serves as before, for `delay` and then until the last client has left. The process is not ready meanwhile.
    async fn serve_on(&self, drain: &Drain, connections: &Tasks, next_event: &mut impl AsyncFnMut() -> SignalEvent) {
        let ShutdownConfig { delay, wait_for_clients } = self.config;
        if delay.is_zero() && !wait_for_clients {
            return;
        }
        drain.leave();
        let shown = humantime::format_duration(delay);
        tracing::info!(delay = %shown, wait_for_clients, connections = connections.len(), "{LEAVING}");
        let clients_left = async {
            tokio::time::sleep(delay).await;
            if wait_for_clients {
                let _ = tokio::time::timeout(self.drain_timeout, connections.wait()).await;
            }
        };
        tokio::select! {
            () = clients_left => {}
            () = stop_event(drain, next_event) => drain.stop(),
        }
    }
}

/// Waits for the signal that stops immediately. Resolves at once if it has come.
async fn stop_event(drain: &Drain, next_event: &mut impl AsyncFnMut() -> SignalEvent) {
    while drain.watch().stage() < Stage::Stopped {
        if next_event().await == SignalEvent::Stop {
            return;
        }
    }
}
