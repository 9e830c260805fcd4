//! Name lookup. The last addresses stay in use while the resolver fails or does not answer: the servers may be up.
//!
//! The system's resolver does not say how long its answer is valid. Every connection asks it, and uses the last answer
//! only if there is no new one.
//!
//! A question takes a thread, and nothing can stop it. Their number is limited: a hostile server can list members that
//! no resolver knows, and files are read on the same kind of threads.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::failure::ConnectFailure;
use crate::config::HostPort;
use crate::lifecycle::descriptors;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};

/// Addresses of one name that are tried. With more, none would have enough time.
const ADDRESSES_MAX: usize = 16;

/// How long a connection waits for the resolver if it knows addresses already. An answer from the cache of a resolver
/// in the same data centre takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);

const LOOKUP_FAILED: &str = "name lookup failed; the last known addresses stay in use";

/// Questions of all upstreams that are with the resolver at the same time: far fewer than the 512 threads for blocking
/// work that a runtime has.
const QUESTIONS_MAX: usize = 64;

/// The same for one upstream and credential. A set that names many unknown servers leaves the rest to the others.
const QUESTIONS_OF_ONE_MAX: usize = 8;

static ALL_PLACES: Semaphore = Semaphore::const_new(QUESTIONS_MAX);

/// The questions of one upstream and credential that may be with the resolver. Waiting askers take turns in the order
/// of their arrival. Clones share the places.
#[derive(Debug, Clone)]
pub(super) struct LookupPlaces(Arc<Semaphore>);

impl Default for LookupPlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(QUESTIONS_OF_ONE_MAX)))
    }
}

impl LookupPlaces {
    /// Waits for a place. Cancel safe.
    async fn take(&self) -> io::Result<LookupPlace> {
        let own = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let of_all = ALL_PLACES.acquire().await.map_err(io::Error::other)?;
        Ok(LookupPlace { _own: own, _of_all: of_all })
    }
}

/// Held while a question is with the resolver.
struct LookupPlace {
    _own: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'static>,
}

/// Looks up the addresses of one server. Clones share what is known.
#[derive(Debug, Clone, Default)]
pub(super) struct NameLookup {
    known: Arc<Known>,
    places: LookupPlaces,
}

struct Known {
    state: Mutex<State>,
    /// Held while a question is with the resolver: one at a time is enough.
    turn: Arc<tokio::sync::Mutex<()>>,
    failures: LogThrottle,
}

impl Default for Known {
    fn default() -> Self {
        Self { state: Mutex::default(), turn: Arc::default(), failures: LogThrottle::new(LogSubject::Process) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The last addresses; empty before the first.
    addresses: Vec<SocketAddr>,
    /// How many questions have been answered, with or without an address.
    answers: u64,
    /// Why the last answer has no address.
    error: Option<(io::ErrorKind, String)>,
}

impl State {
    fn record(&mut self, answer: &io::Result<Vec<SocketAddr>>) {
        self.answers += 1;
        self.error = answer.as_ref().err().map(|error| (error.kind(), error.to_string()));
        if let Ok(addresses) = answer {
            self.addresses.clone_from(addresses);
        }
    }

    fn last_answer(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.error {
            Some((kind, sentence)) => Err(io::Error::new(*kind, sentence.clone())),
            None => Ok(self.addresses.clone()),
        }
    }
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
    /// Its questions take `places`.
    pub(super) fn new(places: LookupPlaces) -> Self {
        Self { known: Arc::default(), places }
    }

    /// The addresses of the host, without duplicates, in the order of the resolver; never empty.
    ///
    /// Fails only if there was no answer yet. Dropping the future does not stop a question that is with the resolver:
    /// its answer is kept. A question that still waits for a place is dropped too.
    pub(super) async fn addresses(&self, server: &HostPort) -> Result<Vec<SocketAddr>, ConnectFailure> {
        if let Ok(address) = server.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, server.port)]);
        }
        let known = self.known.locked().addresses.clone();
        if known.is_empty() {
            return self.first_answer(server).await.map_err(|cause| ConnectFailure::NotResolvable { cause });
        }
        let Ok(turn) = Arc::clone(&self.known.turn).try_lock_owned() else { return Ok(known) };
        match timeout(PATIENCE, self.ask(server, turn)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Ok(self.fall_back(server, known, &error)),
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer");
                Ok(self.fall_back(server, known, &error))
            }
        }
    }

    /// The answer to the question that is with the resolver, or to a new one.
    async fn first_answer(&self, server: &HostPort) -> io::Result<Vec<SocketAddr>> {
        let before = self.known.locked().answers;
        let turn = Arc::clone(&self.known.turn).lock_owned().await;
        {
            let state = self.known.locked();
            if state.answers != before {
                return state.last_answer();
            }
        }
        self.ask(server, turn).await
    }

    /// Asks the system's resolver, and keeps its answer.
    async fn ask(&self, server: &HostPort, turn: OwnedMutexGuard<()>) -> io::Result<Vec<SocketAddr>> {
        let place = self.places.take().await?;
        // The resolver opens sockets.
        if !descriptors::has_room() {
            return Err(Errno::MFILE.into());
        }
        let (known, server) = (Arc::clone(&self.known), server.clone());
        let question = tokio::task::spawn_blocking(move || {
            let answer = (server.host.as_str(), server.port).to_socket_addrs().and_then(distinct);
            known.locked().record(&answer);
            drop((turn, place));
            answer
        });
        question.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    fn fall_back(&self, server: &HostPort, known: Vec<SocketAddr>, error: &io::Error) -> Vec<SocketAddr> {
        let decision = self.known.failures.note(LOOKUP_FAILED, &server.host, LineBudget::Failures);
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
        lookup.known.locked().addresses.clone_from(&known);
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
        lookup.known.locked().addresses.clone_from(&known);
        let turn = Arc::clone(&lookup.known.turn).lock_owned().await;
        assert_eq!(lookup.addresses(&server("localhost")).await.unwrap(), known);
        drop(turn);
        assert_ne!(lookup.addresses(&server("localhost")).await.unwrap(), known);
    }

    #[tokio::test]
    async fn all_askers_of_an_unknown_name_share_one_question() {
        let lookup = NameLookup::default();
        let turn = Arc::clone(&lookup.known.turn).lock_owned().await;
        let localhost = server("localhost");
        let answer = async {
            lookup.known.locked().record(&Err(io::Error::other("no such name")));
            drop(turn);
        };
        // The resolver would have an address: the askers use the answer to the question before theirs.
        let (first, second, ()) = tokio::join!(lookup.addresses(&localhost), lookup.addresses(&localhost), answer);
        for failed in [first, second] {
            let Err(ConnectFailure::NotResolvable { cause }) = failed else { panic!("{failed:?}") };
            assert_eq!(cause.to_string(), "no such name");
        }
        assert_eq!(lookup.known.locked().answers, 1);
        assert!(lookup.addresses(&localhost).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_wait_for_a_place_and_are_not_begun_without_an_asker() {
        let (places, others) = (LookupPlaces::default(), LookupPlaces::default());
        let mut taken = Vec::new();
        for _ in 0..QUESTIONS_OF_ONE_MAX {
            taken.push(places.take().await.unwrap());
        }
        let (lookup, localhost) = (NameLookup::new(places), server("localhost"));
        assert!(timeout(Duration::from_mins(1), lookup.addresses(&localhost)).await.is_err());
        assert!(NameLookup::new(others).addresses(&localhost).await.is_ok());
        taken.pop();
        assert_eq!(lookup.known.locked().answers, 0);
        assert!(lookup.addresses(&localhost).await.is_ok());
        assert_eq!(lookup.known.locked().answers, 1);
    }

    #[test]
    fn addresses_are_distinct_and_limited() {
        let all = (0..40_u8).map(|n| SocketAddr::from(([192, 0, 2, n / 2], 27017)));
        assert_eq!(distinct(all).unwrap().len(), ADDRESSES_MAX);
        assert!(distinct(std::iter::empty()).is_err());
    }
}
