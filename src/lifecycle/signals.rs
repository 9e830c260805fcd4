//! Signals: SIGTERM and SIGINT shut the process down, SIGHUP reloads.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalEvent {
    /// Graceful shutdown: finish the commands in flight, then exit. Requested by the first SIGTERM or SIGINT.
    Drain,
    /// Immediate shutdown. Requested by every further SIGTERM or SIGINT.
    Stop,
    /// Read certificates and policy again. Requested by SIGHUP, which does not count as a first or further signal.
    Reload,
}

/// Log messages of this module.
const DRAINING: &str = "draining; a second signal stops immediately";
const STOPPING: &str = "stopping immediately";

/// The signal handlers of the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    next_event: SignalEvent,
}

impl Signals {
    /// Installs the handlers for the rest of the process's life. The signals no longer end the process by default.
    ///
    /// Needs a tokio runtime with I/O. Fails only if the system rejects a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            next_event: SignalEvent::Drain,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> SignalEvent {
        // Each branch only receives, so the random order of `select!` cannot lose a signal.
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => return SignalEvent::Reload,
        };
        let event = std::mem::replace(&mut self.next_event, SignalEvent::Stop);
        if event == SignalEvent::Drain {
            tracing::info!(signal = name, "{DRAINING}");
        } else {
            tracing::warn!(signal = name, "{STOPPING}");
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends the signal with the shell's `kill`, because sending it from Rust needs unsafe code.
    fn send(signal: &str) {
        let kill = format!("kill -{signal} {}", std::process::id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_drains_the_second_stops_and_sighup_only_reloads() {
        let mut signals = Signals::install().unwrap();
        for (signal, expected) in [
            ("HUP", SignalEvent::Reload),
            ("TERM", SignalEvent::Drain),
            ("HUP", SignalEvent::Reload),
            ("INT", SignalEvent::Stop),
            ("TERM", SignalEvent::Stop),
        ] {
            send(signal);
            assert_eq!(signals.next().await, expected, "{signal}");
        }
    }
}
