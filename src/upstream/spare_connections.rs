//! Spare connections of one upstream: proven, never used by a client, ready for the next one.
//!
//! They belong to no runtime while they wait, so that any worker can take one. Whoever fills the shelf is somebody else;
//! it only says how many are missing.

use std::collections::VecDeque;
use std::io;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::peak_demand::PeakDemand;
use super::{HandshakeFacts, MongoUser, ProvenConnection};
use crate::tls::{Records, TlsSession};

/// The oldest that a spare gets: below the 350 s after which load balancers of the large clouds forget a silent
/// connection.
const AGE_MAX: Duration = Duration::from_mins(4);

/// The spares of one upstream, shared by all workers. Locked for a few assignments.
#[derive(Debug)]
pub struct SpareConnections {
    least: usize,
    most: usize,
    state: Mutex<State>,
    /// Wakes whoever fills the shelf.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Oldest first.
    spares: VecDeque<Spare>,
    demand: PeakDemand,
}

/// A connection that waits.
#[derive(Debug)]
struct Spare {
    socket: TcpStream,
    session: TlsSession,
    address: SocketAddr,
    handshake: HandshakeFacts,
    generation: u64,
    user: Option<Arc<MongoUser>>,
    made: Instant,
}

impl SpareConnections {
    /// Holds at least `least` spares, and up to `most` where they are asked for; `least` 0 holds none at all.
    pub fn new(least: usize, most: usize) -> Self {
        let state = State { spares: VecDeque::new(), demand: PeakDemand::new(Instant::now()) };
        Self { least, most: most.max(least), state: Mutex::new(state), changed: Notify::new() }
    }

    /// Whether there are to be spares.
    pub fn is_on(&self) -> bool {
        self.least > 0
    }

    /// The oldest spare that is still good, registered with the runtime of the calling worker; what is not good is
    /// closed. Counts as demand either way.
    ///
    /// The oldest, so that as few as possible come of age unused; the limit of age keeps it from being too old.
    pub fn take(&self, generation: u64) -> Option<ProvenConnection> {
        if !self.is_on() {
            return None;
        }
        let now = Instant::now();
        self.locked().demand.note(now);
        self.changed.notify_one();
        loop {
            let spare = self.locked().spares.pop_front()?;
            if !spare.is_good(generation, now) {
                spare.close();
            } else if let Ok(link) = spare.register() {
                return Some(link);
            }
        }
    }

    /// Takes a fresh connection in; fails when the system does not let go of the socket.
    pub fn put(&self, link: ProvenConnection) -> io::Result<()> {
        let ProvenConnection { socket, session, address, handshake, generation, user } = link;
        let made = Instant::now();
        let spare = Spare { socket: socket.into_std()?, session, address, handshake, generation, user, made };
        self.locked().spares.push_back(spare);
        Ok(())
    }

    /// Closes what is too old, of another generation, or closed by mongod, and returns how many of the last there were.
    pub fn sweep(&self, generation: u64) -> usize {
        let (now, count) = (Instant::now(), self.locked().spares.len());
        let mut lost = 0;
        // One at a time, so that a client that comes meanwhile finds the others.
        for _ in 0..count {
            let Some(spare) = self.locked().spares.pop_front() else { break };
            if spare.is_good(generation, now) {
                self.locked().spares.push_back(spare);
            } else {
                lost += usize::from(!spare.is_silent());
                spare.close();
            }
        }
        lost
    }

    /// How many are missing now.
    pub fn missing(&self) -> usize {
        let (ready, target) = self.level();
        target.saturating_sub(ready)
    }

    /// How many there are, and how many there should be: as many as were asked for in the busiest second of the last
    /// minute, within the bounds.
    pub fn level(&self) -> (usize, usize) {
        let mut state = self.locked();
        let target = if self.is_on() { state.demand.peak(Instant::now()).clamp(self.least, self.most) } else { 0 };
        (state.spares.len(), target)
    }

    /// Resolves when one was taken, or [`wake`](Self::wake) was called, since the last time. Cancel safe; for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has whoever fills the shelf look at it.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Closes all of them.
    pub fn clear(&self) {
        let spares = std::mem::take(&mut self.locked().spares);
        spares.into_iter().for_each(Spare::close);
    }

    /// A list of connections is whole after a panic too.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    fn is_good(&self, generation: u64, now: Instant) -> bool {
        self.generation == generation && now.saturating_duration_since(self.made) < AGE_MAX && self.is_silent()
    }

    /// Whether the connection is open and brings nothing: mongod says nothing that was not asked for.
    fn is_silent(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn register(self) -> io::Result<ProvenConnection> {
        let Self { socket, session, address, handshake, generation, user, .. } = self;
        let socket = tokio::net::TcpStream::from_std(socket)?;
        Ok(ProvenConnection { socket, session, address, handshake, generation, user })
    }

    /// With a goodbye, as far as the socket takes it.
    fn close(mut self) {
        let mut goodbye = Records::default();
        self.session.close(&mut goodbye);
        let _ = self.socket.write(goodbye.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Connector;
    use super::super::test_server::TestUpstream;
    use super::*;

    async fn link(connector: &Connector) -> ProvenConnection {
        ProvenConnection::new(connector.connect().await.unwrap())
    }

    #[tokio::test]
    async fn the_oldest_comes_first_and_is_still_in_use() {
        let (connector, server) = TestUpstream::new().start().await;
        server
            .during(Box::pin(async {
                let shelf = SpareConnections::new(2, 16);
                let mut ports = Vec::new();
                for _ in 0..2 {
                    let link = link(&connector).await;
                    ports.push(link.socket.local_addr().unwrap());
                    shelf.put(link).unwrap();
                }
                for port in ports {
                    let mut link = shelf.take(0).unwrap();
                    assert_eq!(link.socket.local_addr().unwrap(), port);
                    link.replay_hello(&hello("hello")).await.unwrap();
                }
                assert!(shelf.take(0).is_none());
            }))
            .await;
    }

    #[tokio::test]
    async fn what_mongod_closed_is_skipped_and_swept() {
        let (gone_connector, gone) = TestUpstream::new().start().await;
        let (connector, server) = TestUpstream::new().start().await;
        let closed = [gone.during(link(&gone_connector)).await, gone.during(link(&gone_connector)).await];
        server
            .during(Box::pin(async {
                let shelf = SpareConnections::new(2, 16);
                let [first, second] = closed;
                first.socket.readable().await.unwrap();
                second.socket.readable().await.unwrap();
                shelf.put(first).unwrap();
                shelf.put(link(&connector).await).unwrap();
                assert!(shelf.take(0).is_some());
                assert_eq!(shelf.level().0, 0);

                shelf.put(second).unwrap();
                shelf.put(link(&connector).await).unwrap();
                assert_eq!((shelf.sweep(0), shelf.level().0), (1, 1));
            }))
            .await;
    }

    #[tokio::test]
    async fn what_is_of_another_set_or_too_old_is_closed() {
        let (connector, server) = TestUpstream::new().start().await;
        server
            .during(Box::pin(async {
                let shelf = SpareConnections::new(2, 16);
                shelf.put(link(&connector).await).unwrap();
                assert_eq!((shelf.sweep(0), shelf.level().0), (0, 1));
                assert_eq!((shelf.sweep(1), shelf.level().0), (0, 0));
                shelf.put(link(&connector).await).unwrap();
                assert!(shelf.take(1).is_none());

                shelf.put(link(&connector).await).unwrap();
                tokio::time::pause();
                tokio::time::advance(AGE_MAX.saturating_sub(Duration::from_secs(1))).await;
                assert_eq!((shelf.sweep(0), shelf.level().0), (0, 1));
                tokio::time::advance(Duration::from_secs(2)).await;
                assert!(shelf.take(0).is_none());
            }))
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_target_follows_the_demand_within_its_bounds() {
        let shelf = SpareConnections::new(2, 5);
        assert_eq!((shelf.level(), shelf.missing()), ((0, 2), 2));
        let ask = |times: usize| {
            for _ in 0..times {
                assert!(shelf.take(0).is_none());
            }
        };
        for (times, target) in [(1, 2), (2, 3), (40, 5)] {
            ask(times);
            assert_eq!(shelf.level().1, target);
        }
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(shelf.level().1, 2);
    }

    #[tokio::test]
    async fn a_shelf_that_is_off_wants_nothing() {
        let shelf = SpareConnections::new(0, 16);
        assert!(!shelf.is_on() && shelf.take(0).is_none());
        assert_eq!((shelf.level(), shelf.missing()), ((0, 0), 0));
    }

    fn hello(command: &str) -> Vec<u8> {
        let body = bson::doc! { command: 1, "$db": "admin" };
        crate::wire::op_msg::encode(77, 0, &bson::RawDocumentBuf::try_from(&body).unwrap())
    }

    #[tokio::test]
    async fn a_hello_that_is_not_taken_is_told_apart_from_a_connection_that_broke() {
        use super::super::HelloReplayError;
        let (connector, server) = TestUpstream::new().start().await;
        let broken = server
            .during(Box::pin(async {
                let mut other = link(&connector).await;
                let refused = other.replay_hello(&hello("unknown")).await;
                assert!(matches!(refused, Err(HelloReplayError::Refused)), "{refused:?}");
                let nonsense = link(&connector).await.replay_hello(b"x").await;
                assert!(matches!(nonsense, Err(HelloReplayError::Refused)), "{nonsense:?}");
                link(&connector).await
            }))
            .await;
        let mut broken = broken;
        let broke = broken.replay_hello(&hello("hello")).await;
        assert!(matches!(broke, Err(HelloReplayError::Broken(_))), "{broke:?}");
    }
}
