//! What is known about the renewal of one set: what readiness and `/status` read.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::time::Instant;

/// The renewal of one set so far. Locked for a few assignments.
#[derive(Default)]
pub struct ReloadRecord {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    succeeded: Option<Instant>,
    failed: Option<(Instant, String)>,
    /// The files cannot be used as they are, and the operator has been told.
    is_failing: bool,
    /// The files cannot be used as they are, and are being waited for.
    is_pending: bool,
}

impl ReloadRecord {
    /// Why the files cannot be used as they are, if they cannot and the wait is over.
    pub fn problem(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.as_ref().filter(|_| state.is_failing).map(|(_, sentence)| sentence.clone())
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

    /// A new set is in use.
    pub fn renewed(&self) {
        self.change(|state| {
            *state = State { succeeded: Some(Instant::now()), failed: state.failed.take(), ..State::default() };
        });
    }

    /// The files are those of the set in use.
    pub fn well(&self) {
        self.change(|state| (state.is_failing, state.is_pending) = (false, false));
    }

    /// The files cannot be used, which may be only for now.
    pub fn pending(&self) {
        self.change(|state| state.is_pending = true);
    }

    /// The files cannot be used.
    pub fn failed(&self, sentence: &str) {
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
    async fn a_failure_is_remembered_when_it_is_over() {
        let record = ReloadRecord::default();
        let is = |problem: Option<&str>, json: Value| {
            assert_eq!(record.problem().as_deref(), problem);
            assert_eq!(record.to_json(), json);
        };
        is(None, json!({"pending": false, "problem": null, "last_success_seconds_ago": null, "last_failure": null}));
        record.pending();
        is(None, json!({"pending": true, "problem": null, "last_success_seconds_ago": null, "last_failure": null}));
        record.failed("no key");
        let failure = json!({"seconds_ago": 0, "error": "no key"});
        is(
            Some("no key"),
            json!({"pending": false, "problem": "no key", "last_success_seconds_ago": null, "last_failure": failure}),
        );
        record.renewed();
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        let failure = json!({"seconds_ago": 3, "error": "no key"});
        is(None, json!({"pending": false, "problem": null, "last_success_seconds_ago": 3, "last_failure": failure}));
    }
}
