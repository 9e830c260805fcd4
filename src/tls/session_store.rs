//! The TLS sessions of an upstream that may be resumed.
//!
//! A resumed session shows no certificate, and its server hands out tickets for further sessions at any time. Without
//! an end, a server whose certificate expires or is revoked would never have to show it again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::handshake_record::RequestedNames;

/// Sessions kept for resumption. All are sessions with one upstream; TLS 1.3 uses each ticket once.
const SESSIONS_MAX: usize = 256;

/// The configuration of new connections, with the sessions that they may resume.
///
/// After `interval`, new connections get a copy without sessions. A ticket that an older connection receives later goes
/// to the sessions of its own copy, which no new connection reads.
#[derive(Debug)]
pub(super) struct ResumableConfig {
    interval: Duration,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    since: Instant,
    config: Arc<ClientConfig>,
    /// What the server of the sessions requested when they began: a resumed session does not show it.
    requested: Option<RequestedNames>,
}

impl ResumableConfig {
    /// Starts without sessions.
    pub(super) fn new(config: ClientConfig, interval: Duration) -> Self {
        let current = Current { since: Instant::now(), config: without_sessions(config), requested: None };
        Self { interval, current: Mutex::new(current) }
    }

    /// The configuration for a new connection.
    pub(super) fn current(&self) -> Arc<ClientConfig> {
        let mut current = self.lock();
        if current.since.elapsed() >= self.interval {
            current.since = Instant::now();
            current.config = without_sessions(ClientConfig::clone(&current.config));
        }
        Arc::clone(&current.config)
    }

    /// The certificate request of the last full handshake, which began the newest sessions.
    pub(super) fn requested(&self) -> Option<RequestedNames> {
        self.lock().requested.clone()
    }

    /// Keeps the certificate request of a full handshake.
    pub(super) fn set_requested(&self, requested: Option<RequestedNames>) {
        self.lock().requested = requested;
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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
