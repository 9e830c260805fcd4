//! The TLS sessions of an upstream that may be resumed.
//!
//! A resumed session shows no certificate, and its server hands out tickets for further sessions at any time. Without
//! an end, a server whose certificate expires or is revoked would never have to show it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;

/// Sessions kept for resumption. All are sessions with one upstream; TLS 1.3 uses each ticket once.
const SESSIONS_MAX: usize = 256;

/// The configuration of new connections, with the sessions that they may resume.
///
/// After `interval`, new connections get a copy without sessions. A ticket that an older connection receives later goes
/// to the sessions of its own copy, which no new connection reads.
#[derive(Debug)]
pub(super) struct ResumableConfig {
    interval: Duration,
    current: Mutex<(Instant, Arc<ClientConfig>)>,
}

impl ResumableConfig {
    /// Starts without sessions.
    pub(super) fn new(config: ClientConfig, interval: Duration) -> Self {
        Self { interval, current: Mutex::new((Instant::now(), without_sessions(config))) }
    }

    /// The configuration for a new connection.
    pub(super) fn current(&self) -> Arc<ClientConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() >= self.interval {
            *current = (Instant::now(), without_sessions(ClientConfig::clone(&current.1)));
        }
        Arc::clone(&current.1)
    }
}

fn without_sessions(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;

    use super::*;

    #[test]
    fn connections_share_their_sessions_until_the_interval_is_over() {
        let config = || ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        for (interval, is_same) in [(Duration::from_hours(1), true), (Duration::ZERO, false)] {
            let config = ResumableConfig::new(config(), interval);
            assert_eq!(Arc::ptr_eq(&config.current(), &config.current()), is_same, "{interval:?}");
        }
    }
}
