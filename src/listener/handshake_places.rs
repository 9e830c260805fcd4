//! The places of clients that have not sent their first message yet: a listener has a limited number, and no client can
//! keep one that another client needs.
//!
//! A client costs a connection permit and some memory before it has shown anything. Without this limit, silent clients
//! could keep all permits of a listener.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::client_stream::ClientAddress;

/// Fewest and most places of a listener. A place takes up to 80 KiB: a listener stays below 80 MiB.
const PLACES: (usize, usize) = (16, 1024);

/// How long a client keeps its place at least, unless its source has more than a quarter of the places and another
/// source needs one. A handshake takes milliseconds. This time also includes the processor time of the gateway: on a
/// slow machine, it needs seconds for as many TLS handshakes as there are places.
const TIME_MIN: Duration = Duration::from_secs(5);

/// The places of one listener. Clones share them.
#[derive(Debug, Clone)]
pub struct HandshakePlaces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Most clients that may wait for a place.
    waiting_max: usize,
    state: Mutex<State>,
    /// Held by the client that has waited longest. Only this client looks for a place, so that a release or a timer
    /// wakes one task and not all that wait. The lock is fair, and a client that is dropped passes it on.
    turn: tokio::sync::Mutex<()>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    taken: HashMap<u64, Taken>,
    /// The places of each source. The smallest id is the oldest place.
    sources: HashMap<Source, BTreeSet<u64>>,
    /// Number of clients that wait for a place, and how many of them are from each source.
    waiting: usize,
    waiting_from: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Taken {
    source: Source,
    since: Instant,
    /// Dropping it tells the client's task that the place is lost.
    _signal: oneshot::Sender<()>,
}

/// The client that loses its place next.
struct NextToLeave {
    id: u64,
    /// When the client has had its place for [`TIME_MIN`].
    due: Instant,
    /// Whether the client has to leave at once, because its source has more than its share.
    is_unfair: bool,
}

/// Where clients come from: an IPv4 address, or a network of 64 bits, which one IPv6 host can use as it likes. `None`
/// for unix domain sockets.
type Source = Option<IpAddr>;

/// What a client gets when it connects.
#[derive(Debug)]
pub enum HandshakeEntry {
    /// A place.
    Place(HandshakePlace),
    /// The right to wait for a place.
    Waiting(WaitingClient),
}

/// The place of one client; released when dropped.
#[derive(Debug)]
pub struct HandshakePlace {
    places: Arc<Shared>,
    id: u64,
    lost: oneshot::Receiver<()>,
}

/// The right of one client to wait for a place; given back when dropped.
#[derive(Debug)]
pub struct WaitingClient {
    places: Arc<Shared>,
    source: Source,
}

impl HandshakePlaces {
    /// The places of a listener with `max_connections` permits: a quarter of them, 16 at least and 1,024 at most.
    ///
    /// As many clients may wait for a place, but never more than a quarter of the permits, which waiting clients hold.
    /// One source may have three quarters of them wait.
    pub fn new(max_connections: usize) -> Self {
        let max = (max_connections / 4).clamp(PLACES.0, PLACES.1);
        let waiting_max = (max_connections / 4).clamp(1, max);
        let (state, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Shared { max, waiting_max, state, turn, released: Notify::new() }))
    }

    /// A place for a client that has just connected, or the right to wait for one. `None` if too many clients wait
    /// already.
    ///
    /// If all places are taken, the oldest client of the source with the most places loses its place: at once if that
    /// is another source with more than a quarter of the places, or else when it has had its place for five seconds.
    /// Clients that wait come first, unless another source has more than a quarter of the places.
    pub fn arrive(&self, address: ClientAddress) -> Option<HandshakeEntry> {
        let source = source_of(address);
        let mut state = self.0.locked();
        let ahead = state.waiting;
        if state.make_room(source, self.0.max, ahead).is_ok() {
            return Some(HandshakeEntry::Place(self.0.take(&mut state, source)));
        }
        let waiting_from_source = state.waiting_from.get(&source).copied().unwrap_or_default();
        let source_max = (self.0.waiting_max * 3).div_ceil(4);
        if state.waiting >= self.0.waiting_max || waiting_from_source >= source_max {
            return None;
        }
        state.waiting += 1;
        *state.waiting_from.entry(source).or_default() += 1;
        Some(HandshakeEntry::Waiting(WaitingClient { places: Arc::clone(&self.0), source }))
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

    fn take(self: &Arc<Self>, state: &mut State, source: Source) -> HandshakePlace {
        let (signal, lost) = oneshot::channel();
        state.last_id += 1;
        let id = state.last_id;
        state.taken.insert(id, Taken { source, since: Instant::now(), _signal: signal });
        state.sources.entry(source).or_default().insert(id);
        HandshakePlace { places: Arc::clone(self), id, lost }
    }
}

impl State {
    /// Makes sure that one of the `max` places is free for a client of `source`, while `ahead` other clients wait. If
    /// this is not possible yet, returns when to try again.
    fn make_room(&mut self, source: Source, max: usize, ahead: usize) -> Result<(), Instant> {
        if self.taken.len() + ahead < max {
            return Ok(());
        }
        let is_full = self.taken.len() >= max;
        let now = Instant::now();
        let Some(next) = self.next_to_leave(source, max / 4) else { return Err(now) };
        if !next.is_unfair && (ahead > 0 || next.due > now) {
            return Err(next.due);
        }
        if is_full {
            self.remove(next.id);
        }
        Ok(())
    }

    /// The oldest client of the source with the most places. Of sources with equally many, it is not `source`, and the
    /// one with the oldest client.
    fn next_to_leave(&self, source: Source, share: usize) -> Option<NextToLeave> {
        let key = |(of, ids): &(&Source, &BTreeSet<u64>)| (ids.len(), **of != source, Reverse(ids.first().copied()));
        let (largest, ids) = self.sources.iter().max_by_key(key)?;
        let id = *ids.first()?;
        let due = self.taken.get(&id)?.since + TIME_MIN;
        Some(NextToLeave { id, due, is_unfair: *largest != source && ids.len() > share })
    }

    /// Whether the client still had its place.
    fn remove(&mut self, id: u64) -> bool {
        let Some(taken) = self.taken.remove(&id) else { return false };
        if let Some(ids) = self.sources.get_mut(&taken.source) {
            ids.remove(&id);
            if ids.is_empty() {
                self.sources.remove(&taken.source);
            }
        }
        true
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
        let was_taken = self.places.locked().remove(self.id);
        if was_taken {
            self.places.released.notify_one();
        }
    }
}

impl WaitingClient {
    /// Waits for a place, in the order of arrival. When dropped, the client no longer waits.
    pub async fn enter(self) -> HandshakePlace {
        let places = &self.places;
        let _turn = places.turn.lock().await;
        loop {
            // In a block, so that the state is not locked while this waits.
            let due = {
                let mut state = places.locked();
                match state.make_room(self.source, places.max, 0) {
                    Ok(()) => return places.take(&mut state, self.source),
                    Err(due) => due,
                }
            };
            // After either, the place that is due next may be another one. A release before this is not lost:
            // `notify_one` is kept for the next `notified`, also when the one that it woke is dropped.
            let _ = timeout_at(due, places.released.notified()).await;
        }
    }
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        let mut state = self.places.locked();
        state.waiting -= 1;
        if let Entry::Occupied(mut of_source) = state.waiting_from.entry(self.source) {
            *of_source.get_mut() -= 1;
            if *of_source.get() == 0 {
                of_source.remove();
            }
        }
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

    /// 16 places, and as many clients may wait.
    fn sixteen() -> HandshakePlaces {
        HandshakePlaces::new(64)
    }

    fn is_lost(place: &mut HandshakePlace) -> bool {
        place.lost().now_or_never().is_some()
    }

    /// A place that the client gets without waiting.
    fn place(places: &HandshakePlaces, address: ClientAddress) -> HandshakePlace {
        match places.arrive(address) {
            Some(HandshakeEntry::Place(place)) => place,
            other => panic!("no place: {other:?}"),
        }
    }

    fn waiting(places: &HandshakePlaces, address: ClientAddress) -> WaitingClient {
        match places.arrive(address) {
            Some(HandshakeEntry::Waiting(waiting)) => waiting,
            other => panic!("does not wait: {other:?}"),
        }
    }

    fn fill(places: &HandshakePlaces, address: ClientAddress, count: usize) -> Vec<HandshakePlace> {
        (0..count).map(|_| place(places, address)).collect()
    }

    fn assert_is_empty(places: &HandshakePlaces) {
        let state = places.0.locked();
        assert!(state.taken.is_empty() && state.sources.is_empty(), "{state:?}");
        assert!(state.waiting == 0 && state.waiting_from.is_empty(), "{state:?}");
    }

    #[test]
    fn a_quarter_of_the_permits_but_neither_too_few_nor_too_many() {
        for (permits, expected, waiting) in [(1, 16, 1), (40, 16, 10), (100, 25, 25), (10_000, 1024, 1024)] {
            let places = HandshakePlaces::new(permits);
            assert_eq!((places.max(), places.0.waiting_max), (expected, waiting));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_with_more_than_its_share_gives_way_at_once_to_another_one() {
        let places = sixteen();
        let mut attacker = fill(&places, at("10.0.0.1"), 14);
        let mut others = fill(&places, at("10.0.0.2"), 2);
        let newcomers = [place(&places, at("10.0.0.3")), place(&places, at("10.0.0.2"))];
        let lost: Vec<bool> = attacker.iter_mut().map(is_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 2);
        assert!(lost[0] && lost[1], "the oldest ones");
        assert!(!others.iter_mut().any(is_lost));
        drop((attacker, others, newcomers));
        assert_is_empty(&places);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_one_source_wait_until_the_oldest_of_them_has_had_its_time() {
        for address in [at("10.0.0.1"), ClientAddress::Unix] {
            let places = sixteen();
            let mut silent = fill(&places, address, 16);
            let started = Instant::now();
            let _next = waiting(&places, address).enter().await;
            assert_eq!(started.elapsed(), TIME_MIN);
            assert!(is_lost(&mut silent[0]) && !is_lost(&mut silent[1]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_released_goes_at_once_to_the_client_that_has_waited_longest() {
        let places = sixteen();
        let mut taken = fill(&places, at("10.0.0.1"), 16);
        let started = Instant::now();
        let mut first = Box::pin(waiting(&places, at("10.0.0.1")).enter());
        let mut second = Box::pin(waiting(&places, at("10.0.0.1")).enter());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(taken.pop());
        let newcomer = waiting(&places, at("10.0.0.1"));
        assert!((&mut second).now_or_never().is_none());
        taken.push(first.await);
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(!taken.iter_mut().any(is_lost));
        drop((taken, second, newcomer));
        assert_is_empty(&places);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_client_that_is_dropped_passes_a_released_place_on() {
        let places = sixteen();
        let mut taken = fill(&places, at("10.0.0.1"), 16);
        let started = Instant::now();
        let mut first = Box::pin(waiting(&places, at("10.0.0.1")).enter());
        let second = waiting(&places, at("10.0.0.1")).enter();
        assert!((&mut first).now_or_never().is_none());
        drop(taken.pop());
        drop(first);
        let _next = second.await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(places.0.locked().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_with_few_places_each_wait_for_the_oldest() {
        let places = sixteen();
        let mut taken: Vec<_> = (1..=16).map(|host| place(&places, at(&format!("10.0.0.{host}")))).collect();
        let started = Instant::now();
        let _next = waiting(&places, at("10.0.1.1")).enter().await;
        assert_eq!(started.elapsed(), TIME_MIN);
        assert!(is_lost(&mut taken[0]) && !taken[1..].iter_mut().any(is_lost));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_of_one_source_do_not_delay_a_client_of_another_one() {
        let places = sixteen();
        let mut silent = fill(&places, at("10.0.0.1"), 16);
        let mut queue: Vec<_> = (0..12).map(|_| Box::pin(waiting(&places, at("10.0.0.1")).enter())).collect();
        for client in &mut queue {
            assert!(client.now_or_never().is_none());
        }
        assert!(places.arrive(at("10.0.0.1")).is_none(), "too many wait");
        let _other = place(&places, at("10.0.0.2"));
        assert!(is_lost(&mut silent[0]));
        // The other client also comes first if a place is free at this moment.
        drop(silent.pop());
        let _another = place(&places, at("10.0.0.2"));
        assert!(!silent[1..].iter_mut().any(is_lost));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_clients_wait_as_there_are_places_and_one_that_leaves_makes_room() {
        let places = sixteen();
        let taken: Vec<_> = (1..=16).map(|host| place(&places, at(&format!("10.0.0.{host}")))).collect();
        let mut queue: Vec<_> = (0..12).map(|_| waiting(&places, at("10.0.0.1"))).collect();
        assert!(places.arrive(at("10.0.0.1")).is_none(), "the rest is for other sources");
        queue.extend((0..4).map(|_| waiting(&places, at("10.0.0.2"))));
        for full in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            assert!(places.arrive(at(full)).is_none(), "{full}");
        }
        drop(queue.pop());
        queue.push(waiting(&places, at("10.0.0.3")));
        assert!(places.arrive(at("10.0.0.3")).is_none());
        drop((taken, queue));
        assert_is_empty(&places);
    }

    #[test]
    fn the_hosts_of_an_ipv6_network_are_one_source() {
        assert_eq!(source_of(at("2001:db8::1")), source_of(at("2001:db8::ffff:2")));
        assert_ne!(source_of(at("2001:db8::1")), source_of(at("2001:db8:0:1::1")));
    }
}
