//! The TLS sessions of an upstream that may be resumed.
//!
//! A resumed session shows no certificate, and its server hands out tickets for further sessions. Without an end, a
//! server whose certificate expires or is revoked would never have to show it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Keeps sessions in memory, and forgets all of them at regular intervals.
#[derive(Debug)]
pub(super) struct SessionStore {
    capacity: usize,
    interval: Duration,
    current: Mutex<(Instant, Arc<ClientSessionMemoryCache>)>,
}

impl SessionStore {
    /// Keeps up to `capacity` sessions, for at most `interval`.
    pub(super) fn new(capacity: usize, interval: Duration) -> Self {
        let sessions = Arc::new(ClientSessionMemoryCache::new(capacity));
        Self { capacity, interval, current: Mutex::new((Instant::now(), sessions)) }
    }

    fn sessions(&self) -> Arc<ClientSessionMemoryCache> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() >= self.interval {
            *current = (Instant::now(), Arc::new(ClientSessionMemoryCache::new(self.capacity)));
        }
        Arc::clone(&current.1)
    }
}

impl ClientSessionStore for SessionStore {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.sessions().set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions().kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions().set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions().tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.sessions().remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions().insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions().take_tls13_ticket(server_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_forgotten_after_the_interval() {
        let name = ServerName::try_from("mongo.example").unwrap();
        for (interval, expected) in [(Duration::from_hours(1), Some(NamedGroup::X25519)), (Duration::ZERO, None)] {
            let store = SessionStore::new(8, interval);
            store.set_kx_hint(name.clone(), NamedGroup::X25519);
            assert_eq!(store.kx_hint(&name), expected, "{interval:?}");
        }
    }
}
