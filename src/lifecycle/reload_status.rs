//! The results of the reloads of one certificate set or policy, for the readiness probe and `/status`.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::time::Instant;

/// The results of the reloads so far. Locked for a few assignments.
#[derive(Default)]
pub struct ReloadStatus {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    succeeded: Option<Instant>,
    failed: Option<(Instant, String)>,
    /// The files cannot be used, and the failure has been logged.
    is_failing: bool,
    /// The files cannot be used as they are, and may be incomplete.
    is_pending: bool,
}

impl ReloadStatus {
    /// Why the files cannot be used. `None` while they may be incomplete.
    pub fn problem(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.as_ref().filter(|_| state.is_failing).map(|(_, sentence)| sentence.clone())
    }

    /// Whether the files cannot be used as they are, and may be incomplete.
    pub fn is_pending(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_pending
    }

    /// For `/status`.
    pub fn to_json(&self) -> Value {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "pending": state.is_pending,
            "problem": state.failed.as_ref().filter(|_| state.is_failing).map(|(_, sentence)| sentence),
            "last_success_seconds_ago": state.succeeded.map(|at| at.elapsed().as_secs()),
            "last_failure": state.failed.as_ref().map(|(at, sentence)| json!({
                "seconds_ago": at.elapsed().as_secs(),
                "error": sentence,
            })),
        })
    }

    /// New contents of the files are in use.
    pub fn record_success(&self) {
        self.change(|state| {
            *state = State { succeeded: Some(Instant::now()), failed: state.failed.take(), ..State::default() };
        });
    }

    /// The files contain what is in use.
    pub fn record_unchanged(&self) {
        self.change(|state| (state.is_failing, state.is_pending) = (false, false));
    }

    /// The files cannot be used, but may be incomplete.
    pub fn record_pending(&self) {
        self.change(|state| state.is_pending = true);
    }

    /// The files cannot be used.
    pub fn record_failure(&self, sentence: &str) {
        self.change(|state| {
            state.failed = Some((Instant::now(), sentence.to_owned()));
            (state.is_failing, state.is_pending) = (true, false);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_still_shown_after_a_success() {
        let status = ReloadStatus::default();
        let is = |problem: Option<&str>, json: Value| {
            assert_eq!(status.problem().as_deref(), problem);
            assert_eq!(status.to_json(), json);
        };
        is(None, json!({"pending": false, "problem": null, "last_success_seconds_ago": null, "last_failure": null}));
        status.record_pending();
        is(None, json!({"pending": true, "problem": null, "last_success_seconds_ago": null, "last_failure": null}));
        status.record_failure("no key");
        let failure = json!({"seconds_ago": 0, "error": "no key"});
        is(
            Some("no key"),
            json!({"pending": false, "problem": "no key", "last_success_seconds_ago": null, "last_failure": failure}),
        );
        status.record_success();
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        let failure = json!({"seconds_ago": 3, "error": "no key"});
        is(None, json!({"pending": false, "problem": null, "last_success_seconds_ago": 3, "last_failure": failure}));
    }
}
