//! Every decision of the places, and that no order of events breaks their limit or loses a turn.

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

fn key(client: u8) -> PoolKey {
    PoolKey { client: Arc::new([client]), load_balanced: false }
}

/// Places with a keeper, for clients that can be asked for their connections.
fn places(limit: usize) -> Places<u32> {
    let mut places = Places::new(limit, PARKED_MAX, true);
    places.add_keeper();
    places
}

fn parked(connection: u32, client: u8) -> Parked<u32> {
    Parked { connection, key: key(client), since: Instant::now() }
}

/// The place of a client that need not wait, and the connection that gave way.
fn placed(places: &mut Places<u32>, client: u8) -> (Turn<u32>, Option<u32>) {
    match places.reserve(&key(client), 0) {
        Reserved::Turn { turn, evicted } => (turn, evicted),
        Reserved::Wait { .. } => panic!("there is a place"),
    }
}

fn waiting(places: &mut Places<u32>, client: u8, caller: u64) -> (WaiterId, Arc<Notify>) {
    match places.reserve(&key(client), caller) {
        Reserved::Turn { .. } => panic!("there is no place"),
        Reserved::Wait { id, wake } => (id, wake),
    }
}

/// Parks a new connection.
fn park(places: &mut Places<u32>, connection: u32, client: u8) {
    let (turn, _) = placed(places, client);
    assert_eq!(places.free(turn.place, Some(parked(connection, client))), None);
}

fn connection_of(turn: &Turn<u32>) -> Option<u32> {
    turn.parked.as_ref().map(|parked| parked.connection)
}

#[test]
fn the_connection_with_the_same_key_that_was_used_last_is_taken() {
    let mut places = places(4);
    let turns = [1, 1, 2].map(|client| placed(&mut places, client).0);
    for (turn, (connection, client)) in turns.iter().zip([(10, 1), (11, 1), (20, 2)]) {
        assert_eq!(places.free(turn.place, Some(parked(connection, client))), None);
    }
    let taken: Vec<_> = (0..3).map(|_| connection_of(&placed(&mut places, 1).0)).collect();
    assert_eq!(taken, [Some(11), Some(10), None]);
    let balanced = PoolKey { load_balanced: true, ..key(2) };
    assert!(places.take(&balanced).is_none(), "a load-balanced client needs another connection");
    assert_eq!(places.counts(), (1, 3, 0));
}

#[test]
fn a_crowd_that_has_gone_leaves_a_bounded_number_of_connections() {
    let mut places = places(1000);
    let turns: Vec<_> = (0..300).map(|_| placed(&mut places, 1).0).collect();
    let closed: Vec<_> =
        turns.iter().zip(0..).filter_map(|(turn, id)| places.free(turn.place, Some(parked(id, 1)))).collect();
    assert_eq!(places.counts(), (PARKED_MAX, 0, 0));
    assert_eq!([None, Some(1 << 20), Some(4096), Some(1024), Some(8)].map(parked_max), [256, 256, 256, 64, 0]);
    assert_eq!(closed, (0..300 - u32::try_from(PARKED_MAX).unwrap()).collect::<Vec<_>>(), "the oldest are closed");
}

#[test]
fn at_the_limit_the_connection_that_was_parked_longest_gives_way() {
    let mut places = places(2);
    let turns = [1, 2].map(|client| placed(&mut places, client).0);
    for (turn, client) in turns.iter().zip([1, 2]) {
        places.free(turn.place, Some(parked(u32::from(client) * 10, client)));
    }
    let (turn, evicted) = placed(&mut places, 3);
    assert_eq!((connection_of(&turn), evicted, places.counts()), (None, Some(10), (1, 1, 0)));
}

#[test]
fn a_connection_goes_to_the_client_whose_turn_it_is() {
    let mut places = places(1);
    let (holder, _) = placed(&mut places, 1);
    let (same, wake) = waiting(&mut places, 1, 5);
    let (other, _) = waiting(&mut places, 2, 5);
    assert!(places.claim(same).is_none() && wake.notified().now_or_never().is_none());

    assert_eq!(places.free(holder.place, Some(parked(10, 1))), None);
    assert!(wake.notified().now_or_never().is_some());
    let turn = places.claim(same).unwrap();
    assert_eq!((connection_of(&turn), places.counts()), (Some(10), (0, 1, 1)));
    assert!(places.claim(other).is_none());

    // A connection with another key is closed, and its place is the turn.
    assert_eq!(places.free(turn.place, Some(parked(10, 1))), Some(10));
    let turn = places.claim(other).unwrap();
    assert_eq!((connection_of(&turn), places.counts()), (None, (0, 1, 0)));
    // A client that holds no connection any longer leaves its place.
    assert_eq!((places.free(turn.place, None), places.counts()), (None, (0, 0, 0)));
}

#[test]
fn a_client_that_gives_up_passes_its_turn_on_with_the_connection() {
    let mut places = places(1);
    let (holder, _) = placed(&mut places, 1);
    let [first, second, third] = [(); 3].map(|()| waiting(&mut places, 1, 5).0);
    // It waits still.
    assert_eq!((places.give_up(second), places.counts()), (None, (0, 1, 2)));
    // It has its turn and has not noticed.
    assert_eq!(places.free(holder.place, Some(parked(10, 1))), None);
    assert_eq!(places.give_up(first), None);
    assert_eq!(places.claim(third).as_ref().and_then(connection_of), Some(10));
    assert_eq!((places.give_up(first), places.give_up(second), places.counts()), (None, None, (0, 1, 0)));
}

#[test]
fn the_last_client_that_gives_up_leaves_a_parked_connection() {
    let mut places = places(1);
    let (holder, _) = placed(&mut places, 1);
    let (waiter, _) = waiting(&mut places, 1, 5);
    places.free(holder.place, Some(parked(10, 1)));
    assert_eq!((places.give_up(waiter), places.counts()), (None, (1, 0, 0)));
}

#[test]
fn callers_have_their_turns_in_turn() {
    let mut places = places(1);
    let (mut turn, _) = placed(&mut places, 1);
    let greedy: Vec<_> = (0..100).map(|_| waiting(&mut places, 1, 1).0).collect();
    let (modest, _) = waiting(&mut places, 1, 2);
    let mut next = |id: WaiterId| {
        assert_eq!(places.free(turn.place, Some(parked(10, 1))), None);
        turn = places.claim(id).unwrap();
    };
    next(greedy[0]);
    next(modest);
    next(greedy[1]);
}

#[tokio::test(start_paused = true)]
async fn the_client_that_has_been_idle_longest_is_asked_for_its_connection() {
    let mut places = places(3);
    let turns = [1, 2, 3].map(|client| placed(&mut places, client).0);
    let [first, second, busy] = turns.each_ref().map(|turn| &turn.lease);
    second.set_idle(true);
    tokio::time::advance(Duration::from_secs(1)).await;
    first.set_idle(true);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!first.is_wanted() && !busy.is_wanted());

    let is_asked = |lease: &LeaseState| lease.idle_time().is_none();
    let (waiter, _) = waiting(&mut places, 4, 0);
    assert!(is_asked(second) && !is_asked(first), "the longest idle one alone");
    assert!(busy.is_wanted(), "a busy one gives way at its next boundary");
    let _other = waiting(&mut places, 4, 0);
    assert!(is_asked(first), "the next client asks another one");

    assert_eq!(places.free(turns[1].place, Some(parked(20, 2))), Some(20));
    assert_eq!(places.free(turns[0].place, None), None);
    assert!(places.claim(waiter).is_some() && !busy.is_wanted());
}

#[tokio::test(start_paused = true)]
async fn without_recalls_no_client_is_asked() {
    let mut places: Places<u32> = Places::new(1, PARKED_MAX, false);
    let (turn, _) = placed(&mut places, 1);
    turn.lease.set_idle(true);
    tokio::time::advance(Duration::from_secs(1)).await;
    let _waiter = waiting(&mut places, 1, 0);
    assert!(!turn.lease.is_wanted() && turn.lease.recalled().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_idle_for_too_long_is_asked_too() {
    let mut places = places(2);
    let turns = [1, 2].map(|client| placed(&mut places, client).0);
    turns[0].lease.set_idle(true);
    tokio::time::advance(Duration::from_secs(59)).await;
    places.recall_idle(Duration::from_mins(1));
    assert!(!turns[0].lease.is_wanted());
    tokio::time::advance(Duration::from_secs(1)).await;
    places.recall_idle(Duration::from_mins(1));
    assert!(turns[0].lease.is_wanted() && !turns[1].lease.is_wanted());
}

#[tokio::test(start_paused = true)]
async fn connections_are_removed_by_age_suspicion_and_state() {
    let mut places = places(9);
    let mut times = Vec::new();
    for connection in 0..7 {
        times.push(Instant::now());
        let (turn, _) = placed(&mut places, 9);
        let since = Instant::now();
        places.free(turn.place, Some(Parked { connection, key: key(u8::try_from(connection).unwrap()), since }));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let numbers = |parked: Vec<Parked<u32>>| parked.iter().map(|parked| parked.connection).collect::<Vec<_>>();
    assert_eq!(numbers(places.take_expired(times[0])), [0]);
    // 1 to 6 are left. 1 did not answer.
    assert_eq!(numbers(places.take_untrusted(times[1])), [1]);
    places.suspect(times[3]);
    let suspects: Vec<_> = places.parked.iter().map(|parked| places.is_suspect(parked)).collect();
    assert_eq!(suspects, [true, true, false, false, false]);
    assert_eq!(numbers(places.take_untrusted(times[2])), [2, 3]);
    assert_eq!(numbers(places.take_unusable(0, 1, |parked| parked.connection != 5)), [0; 0]);
    assert_eq!(numbers(places.take_unusable(1, 64, |parked| parked.connection != 5)), [5]);
    assert_eq!(places.counts(), (2, 0, 0));
}

#[test]
fn connections_are_parked_only_while_there_is_a_keeper() {
    let mut places: Places<u32> = Places::new(2, PARKED_MAX, true);
    let (turn, _) = placed(&mut places, 1);
    assert_eq!(places.free(turn.place, Some(parked(10, 1))), Some(10));
    // A member that comes back has a second keeper before the first one has ended.
    places.add_keeper();
    places.add_keeper();
    park(&mut places, 11, 1);
    assert!(places.remove_keeper().is_empty());
    assert_eq!(places.remove_keeper().len(), 1);
    let (turn, _) = placed(&mut places, 1);
    assert_eq!(places.free(turn.place, Some(parked(12, 1))), Some(12));
}

/// A client of the model.
#[derive(Debug)]
enum Client {
    Waits { id: WaiterId, client: u8 },
    Holds { place: u64, client: u8, connection: Option<u32> },
}

/// Places with clients and connections around them.
struct Model {
    places: Places<u32>,
    clients: Vec<Client>,
    /// The open connections.
    open: std::collections::BTreeSet<u32>,
    next: u32,
}

impl Model {
    fn close(&mut self, connection: impl IntoIterator<Item = u32>) {
        for connection in connection {
            assert!(self.open.remove(&connection), "{connection} is closed twice");
        }
    }

    fn holds(&self, turn: &Turn<u32>, client: u8) -> Client {
        let is_shared = |it: u32| {
            self.clients
                .iter()
                .any(|other| matches!(other, Client::Holds { connection, .. } if *connection == Some(it)))
        };
        if let Some(parked) = &turn.parked {
            assert_eq!(parked.key, key(client), "a connection of another key");
            let is_free = self.open.contains(&parked.connection) && !is_shared(parked.connection);
            assert!(is_free, "a connection that is closed, or that another client has");
        }
        Client::Holds { place: turn.place, client, connection: connection_of(turn) }
    }

    fn step(&mut self, operation: u8, which: u8, client: u8) {
        let at = usize::from(which) % self.clients.len().max(1);
        if operation < 4 || self.clients.is_empty() {
            let client = client % 3;
            let reserved = self.places.reserve(&key(client), u64::from(which % 3));
            let added = match reserved {
                Reserved::Turn { turn, evicted } => {
                    self.close(evicted);
                    self.holds(&turn, client)
                }
                Reserved::Wait { id, .. } => Client::Waits { id, client },
            };
            self.clients.push(added);
            return;
        }
        match (operation, self.clients.remove(at)) {
            // It looks whether it is its turn.
            (4..=6, Client::Waits { id, client }) => {
                let turn = self.places.claim(id);
                let same = turn.map_or(Client::Waits { id, client }, |turn| self.holds(&turn, client));
                self.clients.insert(at, same);
            }
            (_, Client::Waits { id, .. }) => {
                let useless = self.places.give_up(id);
                self.close(useless);
            }
            // It makes its connection.
            (4..=5, Client::Holds { place, client, connection }) => {
                let connection = connection.or_else(|| {
                    self.next += 1;
                    self.open.insert(self.next);
                    Some(self.next)
                });
                self.clients.insert(at, Client::Holds { place, client, connection });
            }
            (6..=7, Client::Holds { place, client, connection }) => {
                let useless = self.places.free(place, connection.map(|connection| parked(connection, client)));
                self.close(useless);
            }
            (_, Client::Holds { place, connection, .. }) => {
                self.close(connection);
                assert_eq!(self.places.free(place, None), None);
            }
        }
        if operation == 9 {
            let unusable = self.places.take_unusable(0, 1, |_| false);
            self.close(unusable.into_iter().map(|parked| parked.connection));
        }
    }

    fn check(&self) {
        let (idle, held, waiting) = self.places.counts();
        assert!(idle + held <= self.places.limit && self.open.len() <= self.places.limit);
        assert!(waiting == 0 || (idle == 0 && held == self.places.limit), "a client waits in vain");
        let waits = self.clients.iter().filter(|client| matches!(client, Client::Waits { .. })).count();
        assert_eq!(waits, waiting + self.places.granted.len(), "a client is lost");
        assert_eq!(held, self.clients.len() - waits + self.places.granted.len(), "a place is lost");
    }
}

proptest! {
    #[test]
    fn no_order_of_events_exceeds_the_limit_or_loses_a_turn(
        limit in 1usize..5,
        steps in proptest::collection::vec((0u8..10, any::<u8>(), any::<u8>()), 0..300),
    ) {
        let open = std::collections::BTreeSet::new();
        let mut model = Model { places: places(limit), clients: Vec::new(), open, next: 0 };
        for (operation, which, client) in steps {
            model.step(operation, which, client);
            model.check();
        }
        // All clients leave.
        while !model.clients.is_empty() {
            model.step(8, 0, 0);
            model.check();
        }
        let idle = model.places.counts().0;
        prop_assert_eq!((model.places.counts(), model.open.len()), ((idle, 0, 0), idle));
    }
}
