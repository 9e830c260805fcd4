//! Name lookup. The last addresses stay in use while the resolver fails or does not answer: the servers may be up.
//!
//! The system's resolver does not say how long its answer is valid. Every connection asks it, and uses the last answer
//! only if there is no new one.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::failure::ConnectFailure;
use crate::config::HostPort;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};

/// Addresses of one name that are tried. With more, none would have enough time.
const ADDRESSES_MAX: usize = 16;

/// How long a connection waits for the resolver if it knows addresses already. An answer from the cache of a resolver
/// in the same data centre takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

const LOOKUP_FAILED: &str = "name lookup failed; the last known addresses stay in use";

/// Looks up the addresses of one server. Clones share what is known.
#[derive(Debug, Clone, Default)]
pub(super) struct NameLookup(Arc<Known>);

struct Known {
    state: Mutex<State>,
    failures: LogThrottle,
}

impl Default for Known {
    fn default() -> Self {
        Self { state: Mutex::default(), failures: LogThrottle::new(LogSubject::Process) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The last answer; empty before the first.
    addresses: Vec<SocketAddr>,
    /// Whether a question is with the resolver, on a thread of its own, which nothing can stop.
    is_asking: bool,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.locked().fmt(f)
    }
}

impl Known {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameLookup {
    /// The addresses of the host, without duplicates, in the order of the resolver; never empty.
    ///
    /// Fails only if there was no answer yet. Dropping the future does not stop the question: its answer is kept.
    pub(super) async fn addresses(&self, server: &HostPort) -> Result<Vec<SocketAddr>, ConnectFailure> {
        if let Ok(address) = server.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, server.port)]);
        }
        let known = {
            let mut state = self.0.locked();
            // While the resolver does not answer, one question at a time is enough.
            if state.is_asking && !state.addresses.is_empty() {
                return Ok(state.addresses.clone());
            }
            state.is_asking = true;
            state.addresses.clone()
        };
        let answer = self.ask(server.clone());
        if known.is_empty() {
            return answer.await.map_err(|cause| ConnectFailure::NotResolvable { cause });
        }
        match timeout(PATIENCE, answer).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Ok(self.fall_back(server, known, &error)),
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer");
                Ok(self.fall_back(server, known, &error))
            }
        }
    }

    /// Asks the system's resolver, and keeps its answer.
    async fn ask(&self, server: HostPort) -> io::Result<Vec<SocketAddr>> {
        let lookup = self.clone();
        let question = tokio::task::spawn_blocking(move || {
            let answer = (server.host.as_str(), server.port).to_socket_addrs().and_then(distinct);
            let mut state = lookup.0.locked();
            state.is_asking = false;
            if let Ok(addresses) = &answer {
                state.addresses.clone_from(addresses);
            }
            answer
        });
        question.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    fn fall_back(&self, server: &HostPort, known: Vec<SocketAddr>, error: &io::Error) -> Vec<SocketAddr> {
        let decision = self.0.failures.note(LOOKUP_FAILED, &server.host, LineBudget::Failures);
        if let LogDecision::Log { suppressed } = decision {
            tracing::warn!(
                host = server.host,
                %error,
                remedy = "check the resolver (/etc/resolv.conf) and the name",
                suppressed,
                "{LOOKUP_FAILED}"
            );
        }
        known
    }
}

fn distinct(found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for address in found {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str) -> HostPort {
        HostPort { host: host.to_owned(), port: 27017 }
    }

    #[tokio::test]
    async fn the_last_addresses_are_used_while_the_resolver_has_none() {
        let lookup = NameLookup::default();
        // RFC 6761 reserves the name: no resolver has an address for it.
        let unknown = server("mongod.invalid");
        assert!(lookup.addresses(&unknown).await.is_err());
        let known = vec!["192.0.2.7:27017".parse().unwrap()];
        lookup.0.locked().addresses.clone_from(&known);
        assert_eq!(lookup.addresses(&unknown).await.unwrap(), known);
        let found = lookup.addresses(&server("localhost")).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()) && !found.is_empty());
        // The newer answer replaces the older.
        assert_eq!(lookup.addresses(&unknown).await.unwrap(), found);
    }

    #[tokio::test]
    async fn a_question_that_is_not_answered_is_not_asked_again() {
        let lookup = NameLookup::default();
        let known = vec!["192.0.2.7:27017".parse().unwrap()];
        *lookup.0.locked() = State { addresses: known.clone(), is_asking: true };
        assert_eq!(lookup.addresses(&server("localhost")).await.unwrap(), known);
    }

    #[test]
    fn addresses_are_distinct_and_limited() {
        let all = (0..40_u8).map(|n| SocketAddr::from(([192, 0, 2, n / 2], 27017)));
        assert_eq!(distinct(all).unwrap().len(), ADDRESSES_MAX);
        assert!(distinct(std::iter::empty()).is_err());
    }
}
