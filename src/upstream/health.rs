//! The health of one upstream server: written by connection attempts, and read by the readiness probe and `/status`.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::probe::ServerFacts;

/// The health of one upstream server, shared by workers, the health check and the administration port.
///
/// Locked for a few assignments, and never while a message is forwarded.
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

/// The health of an upstream server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// Time since the last successful attempt to connect.
    pub succeeded: Option<Duration>,
    /// Time since the last failed attempt, and its error.
    pub failed: Option<(Duration, String)>,
    /// The last known facts about the server, and the address that answered.
    pub server: Option<(SocketAddr, ServerFacts)>,
}

impl UpstreamHealth {
    /// Records a proven connection. `server` is the address and the facts about the server, if they were requested.
    pub fn record_ok(&self, server: Option<(SocketAddr, ServerFacts)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.succeeded = Some(Instant::now());
        if server.is_some() {
            state.server = server;
        }
    }

    /// Records a failed attempt to connect.
    pub fn record_failure(&self, sentence: String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed = Some((Instant::now(), sentence));
    }

    /// The health at this moment.
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
    /// Why the server is not healthy: no attempt succeeded yet, the last attempt failed, or the last success is older
    /// than `age_max`. `None` if it is healthy.
    pub fn complaint(&self, age_max: Duration) -> Option<String> {
        match (self.succeeded, &self.failed) {
            (None, None) => Some("no connection was attempted yet".to_owned()),
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
        assert_eq!(complaint().as_deref(), Some("no connection was attempted yet"));
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
    async fn an_old_success_does_not_count() {
        let health = UpstreamHealth::default();
        health.record_ok(None);
        tokio::time::advance(Duration::from_secs(31)).await;
        let complaint = health.snapshot().complaint(LIMIT);
        assert_eq!(complaint.as_deref(), Some("the last connection succeeded 31s ago"));
    }
}
