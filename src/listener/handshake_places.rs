//! The places of clients that have not sent their first message yet: a listener has a limited number, and no client can
//! keep one that another client needs.
//!
//! A client costs a connection permit and some memory before it has shown anything. Without this limit, silent clients
//! could keep all permits of a listener.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::client_stream::ClientAddress;

/// Fewest and most places of a listener. A place takes up to 80 KiB: a listener stays below 80 MiB.
const PLACES: (usize, usize) = (16, 1024);

/// How long a client keeps its place at least, unless its source has more than a quarter of the places and another
/// source needs one. A handshake takes milliseconds, and on a busy machine some hundred of them.
const TIME_MIN: Duration = Duration::from_secs(2);

/// The places of one listener. Clones share them.
#[derive(Debug, Clone)]
pub struct HandshakePlaces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    /// By id, so the oldest comes first.
    taken: BTreeMap<u64, Taken>,
    /// How many each source has.
    sources: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    since: Instant,
    /// Dropping it tells the client's task that the place is lost.
    _signal: oneshot::Sender<()>,
}

/// Where clients come from: an IPv4 address, or a network of 64 bits, which one IPv6 host can use as it likes. `None`
/// for unix domain sockets.
type Source = Option<IpAddr>;

/// The place of one client; released when dropped.
#[derive(Debug)]
pub struct HandshakePlace {
    places: Arc<Shared>,
    id: u64,
    lost: oneshot::Receiver<()>,
}

impl HandshakePlaces {
    /// The places of a listener with `max_connections` permits: a quarter of them, 16 at least and 1,024 at most.
    pub fn new(max_connections: usize) -> Self {
        let max = (max_connections / 4).clamp(PLACES.0, PLACES.1);
        Self(Arc::new(Shared { max, state: Mutex::default(), released: Notify::new() }))
    }

    /// Takes a place for a client that has just connected.
    ///
    /// If all are taken, the oldest client of the source with the most places loses its place: at once if that is
    /// another source with more than a quarter of the places, or else when it has had its place for two seconds. Until
    /// then, this waits. Cancel safe.
    pub async fn enter(&self, address: ClientAddress) -> HandshakePlace {
        let source = source_of(address);
        loop {
            match self.try_enter(source) {
                Ok(place) => return place,
                // Whatever happens first: the place that is due next is looked for again.
                Err(due) => drop(timeout_at(due, self.0.released.notified()).await),
            }
        }
    }

    fn try_enter(&self, source: Source) -> Result<HandshakePlace, Instant> {
        let mut state = self.0.locked();
        if state.taken.len() >= self.0.max
            && let Some((id, due)) = state.next_to_leave(source, self.0.max / 4)
        {
            if due > Instant::now() {
                return Err(due);
            }
            state.remove(id);
        }
        let (signal, lost) = oneshot::channel();
        state.last_id += 1;
        let id = state.last_id;
        state.taken.insert(id, Taken { source, since: Instant::now(), _signal: signal });
        *state.sources.entry(source).or_default() += 1;
        Ok(HandshakePlace { places: Arc::clone(&self.0), id, lost })
    }

    /// Number of places in all.
    pub fn max(&self) -> usize {
        self.0.max
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The oldest client of the source with the most places, and when it may be made to leave for a client of `source`.
    fn next_to_leave(&self, source: Source, share: usize) -> Option<(u64, Instant)> {
        let (largest, count) = self.sources.iter().max_by_key(|(_, count)| **count)?;
        let (id, oldest) = self.taken.iter().find(|(_, taken)| taken.source == *largest)?;
        let is_unfair = *largest != source && *count > share;
        Some((*id, if is_unfair { oldest.since } else { oldest.since + TIME_MIN }))
    }

    fn remove(&mut self, id: u64) {
        let Some(taken) = self.taken.remove(&id) else { return };
        if let Some(count) = self.sources.get_mut(&taken.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&taken.source);
            }
        }
    }
}

impl HandshakePlace {
    /// Resolves when another client has got this place. Cancel safe; not to be called again after it has resolved.
    pub async fn lost(&mut self) {
        let _ = (&mut self.lost).await;
    }

    /// Number of places of the listener.
    pub fn max(&self) -> usize {
        self.places.max
    }
}

impl Drop for HandshakePlace {
    fn drop(&mut self) {
        self.places.locked().remove(self.id);
        self.places.released.notify_one();
    }
}

fn source_of(address: ClientAddress) -> Source {
    match address {
        ClientAddress::Unix => None,
        ClientAddress::Tcp(address) => Some(match address.ip() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn at(ip: &str) -> ClientAddress {
        ClientAddress::Tcp((ip.parse::<IpAddr>().unwrap(), 4000).into())
    }

    fn is_lost(place: &mut HandshakePlace) -> bool {
        place.lost().now_or_never().is_some()
    }

    async fn fill(places: &HandshakePlaces, address: ClientAddress, count: usize) -> Vec<HandshakePlace> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(places.enter(address).await);
        }
        taken
    }

    #[test]
    fn a_quarter_of_the_permits_but_neither_too_few_nor_too_many() {
        for (permits, expected) in [(1, 16), (100, 25), (10_000, 1024)] {
            assert_eq!(HandshakePlaces::new(permits).max(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_with_more_than_its_share_gives_way_at_once_to_another_one() {
        let places = HandshakePlaces::new(1);
        let mut attacker = fill(&places, at("10.0.0.1"), 14).await;
        let mut others = fill(&places, at("10.0.0.2"), 2).await;
        let started = Instant::now();
        let newcomers = [places.enter(at("10.0.0.3")).await, places.enter(at("10.0.0.2")).await];
        assert_eq!(started.elapsed(), Duration::ZERO);
        let lost: Vec<bool> = attacker.iter_mut().map(is_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 2);
        assert!(lost[0] && lost[1], "the oldest ones");
        assert!(!others.iter_mut().any(is_lost));
        drop((attacker, others, newcomers));
        assert!(places.0.locked().taken.is_empty() && places.0.locked().sources.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_one_source_wait_until_the_oldest_of_them_has_had_its_time() {
        for address in [at("10.0.0.1"), ClientAddress::Unix] {
            let places = HandshakePlaces::new(1);
            let mut silent = fill(&places, address, 16).await;
            let started = Instant::now();
            let _next = places.enter(address).await;
            assert_eq!(started.elapsed(), TIME_MIN);
            assert!(is_lost(&mut silent[0]) && !is_lost(&mut silent[1]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_released_is_taken_at_once() {
        let places = HandshakePlaces::new(1);
        let mut taken = fill(&places, at("10.0.0.1"), 16).await;
        let started = Instant::now();
        let (_next, ()) = tokio::join!(places.enter(at("10.0.0.1")), async { drop(taken.pop()) });
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(!taken.iter_mut().any(is_lost));
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_with_few_places_each_wait_for_the_oldest() {
        let places = HandshakePlaces::new(1);
        let mut taken = Vec::new();
        for host in 1..=16 {
            taken.push(places.enter(at(&format!("10.0.0.{host}"))).await);
        }
        let started = Instant::now();
        let _next = places.enter(at("10.0.1.1")).await;
        assert_eq!(started.elapsed(), TIME_MIN);
    }

    #[test]
    fn the_hosts_of_an_ipv6_network_are_one_source() {
        assert_eq!(source_of(at("2001:db8::1")), source_of(at("2001:db8::ffff:2")));
        assert_ne!(source_of(at("2001:db8::1")), source_of(at("2001:db8:0:1::1")));
    }
}
