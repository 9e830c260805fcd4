//! What the process is told from outside, by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalEvent {
    /// Finish what is in flight, then end: the first SIGTERM or SIGINT.
    Drain,
    /// End now: every further one.
    Stop,
    /// Read again what has changed: SIGHUP. Does not count among the others.
    Reload,
}

/// The signals of the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    next_event: SignalEvent,
}

impl Signals {
    /// Takes the signals over, for the rest of the process's life: none of them ends it by itself any more.
    ///
    /// Needs a tokio runtime with I/O. Fails only if the system refuses the handlers.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            next_event: SignalEvent::Drain,
        })
    }

    /// Waits for the next signal that asks for something. Cancel safe.
    pub async fn next(&mut self) -> SignalEvent {
        // No order among them: each branch only receives, so none can lose a signal.
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => return SignalEvent::Reload,
        };
        let event = std::mem::replace(&mut self.next_event, SignalEvent::Stop);
        if event == SignalEvent::Drain {
            tracing::info!(signal = name, "draining; a second signal stops at once");
        } else {
            tracing::warn!(signal = name, "stopping at once");
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks the system's shell, as sending a signal from Rust needs unsafe code.
    fn send(signal: &str) {
        let kill = format!("kill -{signal} {}", std::process::id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    #[tokio::test]
    async fn the_first_signal_drains_the_second_stops_and_hangup_does_neither() {
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
