//! The level of the log while the process runs, and its end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::config::LogLevel;
use crate::telemetry::logs::LevelSwitch;

/// Log message of this module.
const LEVEL_BACK: &str = "log level is that of the configuration again";

/// The level in use.
#[derive(Debug)]
pub(super) struct RunningLevel {
    switch: LevelSwitch,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub(super) level: LogLevel,
    /// When the level is the configured one again.
    pub(super) until: Option<Instant>,
}

impl RunningLevel {
    pub(super) fn new(switch: LevelSwitch) -> Self {
        let level = switch.configured();
        Self { switch, state: Mutex::new(State { level, until: None }), changed: Notify::new() }
    }

    pub(super) fn configured(&self) -> LogLevel {
        self.switch.configured()
    }

    pub(super) fn state(&self) -> State {
        *self.lock()
    }

    /// Uses `level` from now on, or for `time`. `log` writes the line about it, at the more verbose of both levels.
    pub(super) fn change(&self, level: LogLevel, time: Option<Duration>, log: impl FnOnce(LogLevel)) {
        let mut state = self.lock();
        let until = time.and_then(|time| Instant::now().checked_add(time));
        self.switch_to(State { level, until }, &mut state, log);
        drop(state);
        self.changed.notify_one();
    }

    /// Changes back when it is time. Never ends.
    pub(super) async fn follow(&self) {
        loop {
            let until = self.state().until;
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => self.change_back(),
            }
        }
    }

    /// Changes back, unless a later change came first.
    fn change_back(&self) {
        let mut state = self.lock();
        if state.until.is_some_and(|until| until <= Instant::now()) {
            let configured = State { level: self.configured(), until: None };
            self.switch_to(configured, &mut state, |previous| {
                tracing::warn!(log_level = configured.level.name(), previous = previous.name(), "{LEVEL_BACK}");
            });
        }
    }

    fn switch_to(&self, new: State, state: &mut State, log: impl FnOnce(LogLevel)) {
        let previous = std::mem::replace(state, new).level;
        // Otherwise the line about a change to or from `error` would not be written.
        if new.level >= previous {
            self.switch.set(new.level);
            log(previous);
        } else {
            log(previous);
            self.switch.set(new.level);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
