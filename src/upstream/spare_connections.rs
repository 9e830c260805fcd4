//! Spare connections of one upstream server: proven, never used by a client, and ready for the next client.
//!
//! A spare connection belongs to no runtime, so that any worker can take it. This pool does not make connections: its
//! keeper does, and asks it how many are missing.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::parked_connection::ParkedConnection;
use super::peak_demand::PeakDemand;
use super::proven_connection::ProvenConnection;

/// The age at which a spare connection is closed. Load balancers of the large clouds drop silent connections after 350
/// s.
const AGE_MAX: Duration = Duration::from_mins(4);

/// The age from which the end of a spare connection is not the fault of the server's state: a server that accepts a
/// connection and closes it soon after is about to stop, overloaded, or not what it seems.
const SETTLED_AGE: Duration = Duration::from_secs(5);

/// The connections that a sweep has found closed by mongod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// All of them.
    pub lost: usize,
    /// Those that mongod closed within seconds of their making.
    pub young: usize,
}

/// The spare connections of one upstream server, shared by all workers. Locked for a few assignments.
#[derive(Debug)]
pub struct SpareConnections {
    least: usize,
    most: usize,
    state: Mutex<State>,
    /// Wakes the keeper.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Oldest first.
    spares: VecDeque<Spare>,
    demand: PeakDemand,
    /// The server did not answer at this time: spare connections that are older may be dead.
    suspected: Option<Instant>,
}

/// A spare connection that was taken.
#[derive(Debug)]
pub struct TakenSpare {
    /// The connection.
    pub connection: ProvenConnection,
    /// Whether the server did not answer since the connection was made: it has to be proven again.
    pub is_suspect: bool,
}

/// One spare connection.
#[derive(Debug)]
struct Spare {
    connection: ParkedConnection,
    made: Instant,
}

impl SpareConnections {
    /// Makes an empty pool that is meant to hold at least `least` and at most `most` connections. With `least` 0 the
    /// pool is off and holds none.
    pub fn new(least: usize, most: usize) -> Self {
        let state = State { spares: VecDeque::new(), demand: PeakDemand::new(Instant::now()), suspected: None };
        Self { least, most: most.max(least), state: Mutex::new(state), changed: Notify::new() }
    }

    /// Whether the pool holds spare connections.
    pub fn is_on(&self) -> bool {
        self.least > 0
    }

    /// Takes the oldest usable connection, registered with the runtime of the calling worker. Closes connections that
    /// are not usable. Counts as demand even if there is none.
    ///
    /// Taking the oldest keeps the number of connections low that reach their maximum age unused.
    pub fn take(&self, generation: u64) -> Option<TakenSpare> {
        if !self.is_on() {
            return None;
        }
        let now = Instant::now();
        self.locked().demand.record(now);
        self.changed.notify_one();
        loop {
            let (spare, suspected) = {
                let mut state = self.locked();
                (state.spares.pop_front()?, state.suspected)
            };
            let is_suspect = suspected.is_some_and(|at| spare.made <= at);
            if !spare.is_usable(generation, now) {
                spare.connection.close();
            } else if let Ok(connection) = spare.connection.register() {
                return Some(TakenSpare { connection, is_suspect });
            }
        }
    }

    /// The server has not answered in time: every spare connection of now has to be proven again before it is used.
    pub fn suspect(&self) {
        self.locked().suspected = Some(Instant::now());
    }

    /// Closes the spare connections that have to be proven again.
    pub fn close_suspects(&self) {
        let suspects: VecDeque<Spare> = {
            let mut state = self.locked();
            let Some(suspected) = state.suspected else { return };
            let (suspects, others) =
                std::mem::take(&mut state.spares).into_iter().partition(|spare: &Spare| spare.made <= suspected);
            state.spares = others;
            suspects
        };
        close(suspects);
    }

    /// Adds a new connection. Fails if the socket cannot be removed from its runtime.
    pub fn put(&self, connection: ProvenConnection) -> io::Result<()> {
        let made = Instant::now();
        let connection = ParkedConnection::new(connection)?;
        self.locked().spares.push_back(Spare { connection, made });
        Ok(())
    }

    /// Closes connections that are too old, of another generation, or closed by mongod. Returns the number of those
    /// that mongod closed.
    pub fn sweep(&self, generation: u64) -> Swept {
        let (now, count) = (Instant::now(), self.locked().spares.len());
        let mut swept = Swept::default();
        // One at a time, so that a client can take the others in the meantime.
        for _ in 0..count {
            let Some(spare) = self.locked().spares.pop_front() else { break };
            if spare.is_usable(generation, now) {
                self.locked().spares.push_back(spare);
            } else {
                if !spare.connection.is_silent() {
                    swept.lost += 1;
                    swept.young += usize::from(now.saturating_duration_since(spare.made) < SETTLED_AGE);
                }
                spare.connection.close();
            }
        }
        swept
    }

    /// The number of connections to be made now.
    pub fn missing(&self) -> usize {
        let (ready, target) = self.level();
        target.saturating_sub(ready)
    }

    /// The number of spare connections, and the target: the demand in the busiest second of the last minute, within the
    /// bounds.
    pub fn level(&self) -> (usize, usize) {
        let mut state = self.locked();
        let target = if self.is_on() { state.demand.peak(Instant::now()).clamp(self.least, self.most) } else { 0 };
        (state.spares.len(), target)
    }

    /// Resolves when a connection was requested, or [`wake`](Self::wake) was called, since the last call. Cancel safe;
    /// for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Wakes the keeper.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Closes all spare connections.
    pub fn clear(&self) {
        let spares = std::mem::take(&mut self.locked().spares);
        close(spares);
    }

    /// The state is consistent even after a panic.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    fn is_usable(&self, generation: u64, now: Instant) -> bool {
        let is_young = now.saturating_duration_since(self.made) < AGE_MAX;
        self.connection.generation() == generation && is_young && self.connection.is_silent()
    }
}

fn close(spares: VecDeque<Spare>) {
    for spare in spares {
        spare.connection.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::connector::Connector;
    use super::super::test_server::TestUpstream;
    use super::*;

    async fn proven(connector: &Connector) -> ProvenConnection {
        ProvenConnection::new(connector.connect(None).await.unwrap())
    }

    #[tokio::test]
    async fn the_oldest_is_taken_first_and_works() {
        let (connector, server) = TestUpstream::new().start().await;
        server
            .during(Box::pin(async {
                let spares = SpareConnections::new(2, 16);
                let mut ports = Vec::new();
                for _ in 0..2 {
                    let connection = proven(&connector).await;
                    ports.push(connection.socket.local_addr().unwrap());
                    spares.put(connection).unwrap();
                }
                for port in ports {
                    let TakenSpare { mut connection, is_suspect } = spares.take(0).unwrap();
                    assert!(!is_suspect);
                    assert_eq!(connection.socket.local_addr().unwrap(), port);
                    connection.replay_hello(&hello("hello")).await.unwrap();
                }
                assert!(spares.take(0).is_none());
            }))
            .await;
    }

    #[tokio::test]
    async fn a_connection_that_mongod_closed_is_skipped_and_swept() {
        let (gone_connector, gone) = TestUpstream::new().start().await;
        let (connector, server) = TestUpstream::new().start().await;
        let closed = [gone.during(proven(&gone_connector)).await, gone.during(proven(&gone_connector)).await];
        server
            .during(Box::pin(async {
                let spares = SpareConnections::new(2, 16);
                let [first, second] = closed;
                first.socket.readable().await.unwrap();
                second.socket.readable().await.unwrap();
                spares.put(first).unwrap();
                spares.put(proven(&connector).await).unwrap();
                assert!(spares.take(0).is_some());
                assert_eq!(spares.level().0, 0);

                spares.put(second).unwrap();
                spares.put(proven(&connector).await).unwrap();
                assert_eq!((spares.sweep(0), spares.level().0), (Swept { lost: 1, young: 1 }, 1));
            }))
            .await;
    }

    #[tokio::test]
    async fn a_connection_of_another_generation_or_age_is_closed() {
        let (connector, server) = TestUpstream::new().start().await;
        server
            .during(Box::pin(async {
                let spares = SpareConnections::new(2, 16);
                spares.put(proven(&connector).await).unwrap();
                assert_eq!((spares.sweep(0).lost, spares.level().0), (0, 1));
                assert_eq!((spares.sweep(1).lost, spares.level().0), (0, 0));
                spares.put(proven(&connector).await).unwrap();
                assert!(spares.take(1).is_none());

                spares.put(proven(&connector).await).unwrap();
                tokio::time::pause();
                tokio::time::advance(AGE_MAX.saturating_sub(Duration::from_secs(1))).await;
                assert_eq!((spares.sweep(0).lost, spares.level().0), (0, 1));
                tokio::time::advance(Duration::from_secs(2)).await;
                assert!(spares.take(0).is_none());
            }))
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_target_follows_the_demand_within_its_bounds() {
        let spares = SpareConnections::new(2, 5);
        assert_eq!((spares.level(), spares.missing()), ((0, 2), 2));
        let ask = |times: usize| {
            for _ in 0..times {
                assert!(spares.take(0).is_none());
            }
        };
        for (times, target) in [(1, 2), (2, 3), (40, 5)] {
            ask(times);
            assert_eq!(spares.level().1, target);
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(spares.level().1, 2);
    }

    #[tokio::test]
    async fn a_pool_that_is_off_needs_no_connections() {
        let spares = SpareConnections::new(0, 16);
        assert!(!spares.is_on() && spares.take(0).is_none());
        assert_eq!((spares.level(), spares.missing()), ((0, 0), 0));
    }

    fn hello(command: &str) -> Vec<u8> {
        let body = bson::doc! { command: 1, "$db": "admin" };
        crate::wire::op_msg::encode(77, 0, &bson::RawDocumentBuf::try_from(&body).unwrap())
    }

    #[tokio::test]
    async fn connections_from_before_a_timeout_are_suspect() {
        let (connector, server) = TestUpstream::new().start().await;
        server
            .during(Box::pin(async {
                let spares = SpareConnections::new(2, 16);
                for _ in 0..2 {
                    spares.put(proven(&connector).await).unwrap();
                }
                spares.suspect();
                let mut suspect = spares.take(0).unwrap();
                assert!(suspect.is_suspect);
                suspect.connection.prove_again().await.unwrap();
                spares.put(proven(&connector).await).unwrap();
                spares.close_suspects();
                assert!(spares.take(0).is_some_and(|taken| !taken.is_suspect) && spares.take(0).is_none());
            }))
            .await;
    }

    #[tokio::test]
    async fn a_rejected_hello_is_another_error_than_a_failed_connection() {
        use super::super::proven_connection::HelloReplayError;
        let (connector, server) = TestUpstream::new().start().await;
        let broken = server
            .during(Box::pin(async {
                let mut other = proven(&connector).await;
                let rejected = other.replay_hello(&hello("unknown")).await;
                assert!(matches!(rejected, Err(HelloReplayError::Rejected)), "{rejected:?}");
                let nonsense = proven(&connector).await.replay_hello(b"x").await;
                assert!(matches!(nonsense, Err(HelloReplayError::Rejected)), "{nonsense:?}");
                proven(&connector).await
            }))
            .await;
        let mut broken = broken;
        let broke = broken.replay_hello(&hello("hello")).await;
        assert!(matches!(broke, Err(HelloReplayError::Failed(_))), "{broke:?}");
    }
}
