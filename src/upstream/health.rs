//! What is known about an upstream right now: what readiness reads and whoever connects writes.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::probe::ServerFacts;

/// State of one upstream, shared by workers, the background probe and the administration port.
///
/// Locked for a few assignments, and never while a message passes.
#[derive(Debug, Default)]
pub struct UpstreamHealth {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    succeeded: Option<Instant>,
    failed: Option<(Instant, String)>,
    server: Option<(SocketAddr, ServerFacts)>,
}

/// The state of an upstream at one moment; ages, not dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// Age of the last success.
    pub succeeded: Option<Duration>,
    /// Age of the last failure, and its sentence.
    pub failed: Option<(Duration, String)>,
    /// What mongod last said about itself, and at which of its addresses.
    pub server: Option<(SocketAddr, ServerFacts)>,
}

impl UpstreamHealth {
    /// A proven connection was made; `server`, and the address that it answered at, is known if it was asked.
    pub fn record_ok(&self, server: Option<(SocketAddr, ServerFacts)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.succeeded = Some(Instant::now());
        if server.is_some() {
            state.server = server;
        }
    }

    /// A connection could not be made.
    pub fn record_failure(&self, sentence: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = Some((Instant::now(), sentence));
    }

    /// A copy of the state.
    pub fn snapshot(&self) -> HealthSnapshot {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        HealthSnapshot {
            succeeded: state.succeeded.map(|at| at.elapsed()),
            failed: state.failed.as_ref().map(|(at, sentence)| (at.elapsed(), sentence.clone())),
            server: state.server.clone(),
        }
    }
}

impl HealthSnapshot {
    /// What is wrong, if anything is: nothing succeeded yet, the last attempt failed, or the last success is older than
    /// `age_max`.
    pub fn complaint(&self, age_max: Duration) -> Option<String> {
        match (self.succeeded, &self.failed) {
            (None, None) => Some("no connection was tried yet".to_owned()),
            (None, Some((_, sentence))) => Some(sentence.clone()),
            (Some(success), Some((failure, sentence))) if *failure < success => Some(sentence.clone()),
            (Some(success), _) if success > age_max => {
                let age = humantime::format_duration(Duration::from_secs(success.as_secs()));
                Some(format!("the last connection succeeded {age} ago"))
            }
            (Some(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn the_latest_attempt_decides() {
        let health = UpstreamHealth::default();
        let complaint = || health.snapshot().complaint(LIMIT);
        assert_eq!(complaint().as_deref(), Some("no connection was tried yet"));
        health.record_failure("refused".to_owned());
        assert_eq!(complaint().as_deref(), Some("refused"));
        tokio::time::advance(Duration::from_secs(1)).await;
        health.record_ok(None);
        assert_eq!(complaint(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        health.record_failure("killed".to_owned());
        assert_eq!(complaint().as_deref(), Some("killed"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_success_is_none() {
        let health = UpstreamHealth::default();
        health.record_ok(None);
        tokio::time::advance(Duration::from_secs(31)).await;
        let complaint = health.snapshot().complaint(LIMIT);
        assert_eq!(complaint.as_deref(), Some("the last connection succeeded 31s ago"));
    }
}
