//! A pool in front of a server: which client gets which connection, and which connections no client gets again.

use std::sync::atomic::{AtomicUsize, Ordering};

use bson::{RawDocumentBuf, rawdoc};
use futures::FutureExt as _;
use tokio::sync::Notify;

use super::super::pool_upkeep;
use super::super::upstream::Upstream;
use super::*;
use crate::config::{EndpointConfig, Mechanism, PoolMode, UpstreamConfig};
use crate::lifecycle::drain::Drain;
use crate::lifecycle::tasks::Tasks;
use crate::telemetry::metrics::UpstreamMetrics;
use crate::tls::UpstreamTls;
use crate::tls::test_pki::upstream_of;
use crate::upstream::test_server::{Behaviour, TestServer, TestUpstream};
use crate::upstream::{REASONS, Users};

/// An upstream with a pool, and its server.
struct Scene {
    endpoint: EndpointConfig,
    upstream: Upstream,
    pool: Arc<MemberPool>,
    server: TestServer,
}

impl Scene {
    async fn new(max_connections: usize, behaviour: Behaviour, change: fn(&mut UpstreamConfig)) -> Self {
        let (endpoint, server) = TestUpstream { behaviour, ..TestUpstream::new() }.listen().await;
        let mut section = upstream_of(&endpoint);
        section.pool.mode = PoolMode::Request;
        section.pool.max_connections = max_connections;
        change(&mut section);
        let upstream = Upstream::new(&section, UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let pool = Arc::clone(&upstream.membership().members[0].member.pools[0]);
        Self { endpoint, upstream, pool, server }
    }

    async fn of_mongod(max_connections: usize) -> Self {
        Self::new(max_connections, Behaviour::Mongod, |_| {}).await
    }

    fn reuse(&self) -> &Arc<ReusePool> {
        self.pool.reuse.as_ref().unwrap()
    }

    async fn acquire(&self, client: u8) -> Result<Leased, AcquireError> {
        self.acquire_with(&message("hello"), client).await
    }

    async fn acquire_with(&self, hello: &[u8], client: u8) -> Result<Leased, AcquireError> {
        self.pool.acquire(self.reuse(), &key(client), hello, 0).await
    }

    async fn leased(&self, client: u8) -> Leased {
        self.acquire(client).await.unwrap()
    }

    fn counts(&self) -> (usize, usize, usize) {
        let counts = self.reuse().counts();
        (counts.idle, counts.in_use, counts.waiting)
    }
}

fn key(client: u8) -> PoolKey {
    PoolKey { client: Arc::new([client]), load_balanced: false }
}

fn message(command: &str) -> Vec<u8> {
    let body = bson::doc! { command: 1, "$db": "admin" };
    crate::wire::op_msg::encode(77, 0, &RawDocumentBuf::try_from(&body).unwrap())
}

fn port(leased: &Leased) -> u16 {
    leased.connection.socket.local_addr().unwrap().port()
}

fn give_back(leased: Leased) -> u16 {
    let port = port(&leased);
    leased.lease.give_back(leased.connection);
    port
}

/// Lets the other futures of this task run until `is_met`.
async fn until(mut is_met: impl FnMut() -> bool) {
    while !is_met() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_given_back_serves_the_next_client_with_the_same_key() {
    let scene = Scene::of_mongod(4).await;
    let keeper = scene.reuse().keep();
    let clients = async {
        let (first, other) = (scene.leased(1).await, scene.leased(1).await);
        assert_ne!(port(&first), port(&other));
        assert_eq!(scene.counts(), (0, 2, 0));
        let (_, last) = (give_back(first), give_back(other));
        assert_eq!(scene.counts(), (2, 0, 0));
        let mut again = scene.leased(1).await;
        assert_eq!(port(&again), last, "the one that was used last");
        again.connection.replay_hello(&message("hello")).await.unwrap();
        let another = scene.leased(2).await;
        assert_eq!(scene.counts(), (1, 2, 0));
        drop((again, another));
        assert_eq!(scene.counts(), (1, 0, 0));
    };
    scene.server.during(Box::pin(clients)).await;
    drop(keeper);
}

#[tokio::test]
async fn at_the_limit_a_parked_connection_with_another_key_gives_way() {
    let scene = Scene::of_mongod(1).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let first = give_back(scene.leased(1).await);
        let other = scene.leased(2).await;
        assert_ne!(port(&other), first);
        assert_eq!(scene.counts(), (0, 1, 0));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_hello_that_mongod_rejects_and_a_failed_connection_leave_their_place() {
    let scene = Scene::of_mongod(1).await;
    let unknown = message("unknown");
    let rejected = scene.server.during(Box::pin(scene.acquire_with(&unknown, 1))).await;
    assert!(matches!(rejected, Err(AcquireError::Rejected)));
    assert_eq!(scene.counts(), (0, 0, 0));
    // An empty hello is not replayed.
    assert!(scene.server.during(Box::pin(scene.acquire_with(b"", 1))).await.is_ok());

    let scene = Scene::new(1, Behaviour::CloseAfterHandshake, |_| {}).await;
    let failed = scene.server.during(Box::pin(scene.acquire(1))).await;
    let Err(AcquireError::Connect(error)) = failed else { panic!("no connection") };
    assert_eq!((error.cause.reason(), scene.counts()), ("client_certificate_refused", (0, 0, 0)));
}

#[tokio::test]
async fn a_client_waits_for_the_connection_that_another_one_gives_back() {
    let scene = Scene::of_mongod(1).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let leased = scene.leased(1).await;
        let (handle, recalled) = (leased.lease.handle(), leased.lease.recalled());
        let first = port(&leased);
        handle.set_idle(true);
        let (next, _) = tokio::join!(biased; scene.leased(1), async {
            assert_eq!(scene.counts(), (0, 1, 1));
            assert!(handle.is_wanted());
            recalled.await;
            give_back(leased)
        });
        assert_eq!((port(&next), scene.counts()), (first, (0, 1, 0)));
        // One with another key gets a new connection in its place, also when the old one is lost.
        let (other, ()) = tokio::join!(biased; scene.leased(2), async { drop(next) });
        assert_ne!(port(&other), first);
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_client_that_waits_too_long_or_leaves_loses_no_place() {
    let scene = Scene::of_mongod(1).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let leased = scene.leased(1).await;
        let first = port(&leased);
        let mut leaves = Box::pin(scene.acquire(1));
        let mut leaves_with_its_turn = Box::pin(scene.acquire(1));
        let mut stays = Box::pin(scene.acquire(1));
        for waiter in [&mut leaves, &mut leaves_with_its_turn, &mut stays] {
            assert!(waiter.now_or_never().is_none());
        }
        drop(leaves);
        assert_eq!(scene.counts(), (0, 1, 2));
        give_back(leased);
        drop(leaves_with_its_turn);
        let served = stays.await.unwrap();
        assert_eq!((port(&served), scene.counts()), (first, (0, 1, 0)));

        tokio::time::pause();
        let began = Instant::now();
        assert!(matches!(scene.acquire(1).await, Err(AcquireError::TimedOut)));
        assert_eq!(began.elapsed().as_secs(), scene.reuse().config().wait_timeout.as_secs());
        assert_eq!(scene.counts(), (0, 1, 0));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_connection_that_is_being_made_leaves_its_place_when_its_client_does() {
    let scene = Scene::new(1, Behaviour::Silent, |_| {}).await;
    let mut acquired = Box::pin(scene.acquire(1));
    assert!((&mut acquired).now_or_never().is_none());
    assert_eq!(scene.counts(), (0, 1, 0));
    drop(acquired);
    assert_eq!(scene.counts(), (0, 0, 0));
}

#[tokio::test]
async fn a_connection_of_a_replaced_certificate_set_is_not_handed_out() {
    let scene = Scene::of_mongod(4).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let (parked, held) = (scene.leased(1).await, scene.leased(1).await);
        let old = give_back(parked);
        scene.upstream.renew(0, UpstreamTls::load(&scene.endpoint).unwrap());
        // mongod may reject the new set: until it has carried a connection, the old one is good.
        let parked = scene.leased(1).await;
        assert_eq!((port(&parked), parked.connection.generation), (old, 0));
        give_back(parked);
        assert!(scene.pool.has_unproven_certificates());
        drop(scene.pool.dial(None).await.unwrap());
        assert!(!scene.pool.has_unproven_certificates());

        give_back(held);
        assert_eq!(scene.counts(), (1, 0, 0), "it is closed when it is given back");
        assert_eq!((scene.reuse().sweep(), scene.counts()), (0, (0, 0, 0)), "and a parked one soon");
        let new = scene.leased(1).await;
        assert_eq!(new.connection.generation, 1);
        give_back(new);
        assert_eq!(scene.counts(), (1, 0, 0));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_connection_that_mongod_closed_is_not_handed_out() {
    let scene = Scene::of_mongod(2).await;
    let _keeper = scene.reuse().keep();
    let park_two = async {
        let (first, second) = (scene.leased(1).await, scene.leased(1).await);
        [give_back(first), give_back(second)]
    };
    let ports = scene.server.during(Box::pin(park_two)).await;
    // The server has closed both.
    let mut lost = 0;
    until(|| {
        lost += scene.reuse().sweep();
        lost == 2
    })
    .await;
    assert_eq!(scene.counts(), (0, 0, 0));
    let clients = async {
        let leased = scene.leased(1).await;
        assert!(!ports.contains(&port(&leased)));
        port(&leased)
    };
    scene.server.during(Box::pin(clients)).await;

    // The same without a sweep in between.
    let park_one = async { give_back(scene.leased(1).await) };
    let closed = scene.server.during(Box::pin(park_one)).await;
    let leased = scene.server.during(Box::pin(scene.leased(1))).await;
    assert_eq!((port(&leased) == closed, scene.counts()), (false, (0, 1, 0)));
}

#[tokio::test]
async fn bytes_that_no_client_asked_for_never_reach_another_client() {
    let unasked = Arc::new(Notify::new());
    let scene = Scene::new(4, Behaviour::Unasked(Arc::clone(&unasked)), |_| {}).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        // They arrive while the connection is parked, and nothing sweeps.
        let parked = give_back(scene.leased(1).await);
        until(|| {
            unasked.notify_waiters();
            scene.reuse().has_noise()
        })
        .await;
        let next = scene.leased(1).await;
        assert_ne!(port(&next), parked);
        assert_eq!(scene.counts(), (0, 1, 0));

        // They arrive before it is given back.
        until(|| {
            unasked.notify_waiters();
            next.connection.socket.peek(&mut [0]).now_or_never().is_some()
        })
        .await;
        give_back(next);
        assert_eq!(scene.counts(), (0, 0, 0));

        // A sweep finds them too.
        give_back(scene.leased(1).await);
        until(|| {
            unasked.notify_waiters();
            scene.reuse().sweep();
            scene.counts() == (0, 0, 0)
        })
        .await;
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_part_of_a_tls_record_is_noise_too() {
    let scene = Scene::of_mongod(1).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let Leased { connection, lease, .. } = scene.leased(1).await;
        let (socket, mut session, facts) = connection.into_parts();
        // The relay has read the beginning of a record.
        session.open(&mut [23, 3, 3], |_| {}, &mut crate::tls::Records::default()).unwrap();
        lease.give_back(ProvenConnection::from_parts(socket, session, facts));
        assert_eq!(scene.counts(), (0, 0, 0));

        let Leased { connection, lease, .. } = scene.leased(1).await;
        let (socket, mut session, facts) = connection.into_parts();
        session.close(&mut crate::tls::Records::default());
        lease.give_back(ProvenConnection::from_parts(socket, session, facts));
        assert_eq!(scene.counts(), (0, 0, 0));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn connections_from_before_a_timeout_are_proven_again() {
    static PINGS: AtomicUsize = AtomicUsize::new(0);
    let behaviour = Behaviour::Replies(|command| {
        let is_fourth = command == "ping" && PINGS.fetch_add(1, Ordering::Relaxed) == 3;
        is_fourth.then(|| rawdoc! { "ok": 0.0, "errmsg": "shutting down", "code": 91 })
    });
    let scene = Scene::new(4, behaviour, |_| {}).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        let (first, second) = (scene.leased(1).await, scene.leased(1).await);
        let old = [give_back(first), give_back(second)];
        scene.reuse().suspect();
        let proven = scene.leased(1).await;
        assert_eq!(port(&proven), old[1]);
        give_back(proven);
        scene.reuse().suspect();
        // The proof of this one fails, and the other one is not tried.
        let new = scene.leased(1).await;
        assert!(!old.contains(&port(&new)));
        assert_eq!((scene.counts(), PINGS.load(Ordering::Relaxed)), ((0, 1, 0), 5));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_connection_that_was_parked_for_minutes_is_proven_again() {
    static PINGS: AtomicUsize = AtomicUsize::new(0);
    let behaviour = Behaviour::Replies(|command| {
        PINGS.fetch_add(usize::from(command == "ping"), Ordering::Relaxed);
        None
    });
    let scene = Scene::new(4, behaviour, |_| {}).await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        for (minutes, pings) in [(0, 1), (3, 1), (5, 2)] {
            give_back(scene.leased(1).await);
            tokio::time::pause();
            tokio::time::advance(std::time::Duration::from_mins(minutes)).await;
            tokio::time::resume();
            let leased = scene.leased(1).await;
            assert_eq!(PINGS.load(Ordering::Relaxed), pings, "after {minutes} minutes");
            give_back(leased);
        }
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_connection_without_a_user_serves_no_other_client_where_the_gateway_authenticates() {
    let scene = Scene::new(4, Behaviour::Mongod, |section| {
        section.authentication = Some(Mechanism::MongodbX509);
    })
    .await;
    let _keeper = scene.reuse().keep();
    scene.pool.connector.expect_users(Users::None);
    let clients = async {
        give_back(scene.leased(1).await);
        assert_eq!(scene.counts(), (0, 0, 0));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn the_upkeep_closes_connections_in_time_and_asks_idle_clients_for_theirs() {
    let scene = Scene::of_mongod(4).await;
    let (tasks, drain) = (Tasks::new(), Drain::new());
    pool_upkeep::start(&scene.pool, &tasks, &drain.watch(), std::future::pending());
    let clients = async {
        let held = scene.leased(1).await;
        held.lease.handle().set_idle(true);
        give_back(scene.leased(1).await);
        assert_eq!(scene.counts(), (1, 1, 0));
        tokio::time::pause();
        let began = Instant::now();
        held.lease.recalled().await;
        let timeout = scene.reuse().config().idle_timeout;
        assert!(began.elapsed() + std::time::Duration::from_secs(1) >= timeout, "{:?}", began.elapsed());
        while scene.counts().0 > 0 {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        tokio::time::resume();
        give_back(held);
        assert_eq!(scene.counts(), (1, 0, 0));

        // The drain closes all of them, and those that are given back later.
        let leased = scene.leased(2).await;
        drain.begin();
        tasks.close();
        tasks.wait().await;
        assert_eq!(scene.counts(), (0, 1, 0));
        give_back(leased);
        assert_eq!(scene.counts(), (0, 0, 0));
        // A client in the middle of its work can go on.
        assert!(scene.acquire(1).await.is_ok());
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn the_upkeep_proves_a_new_certificate_set() {
    let scene = Scene::of_mongod(4).await;
    let (tasks, drain) = (Tasks::new(), Drain::new());
    let clients = async {
        pool_upkeep::start(&scene.pool, &tasks, &drain.watch(), std::future::pending());
        give_back(scene.leased(1).await);
        scene.upstream.renew(0, UpstreamTls::load(&scene.endpoint).unwrap());
        until(|| !scene.pool.has_unproven_certificates()).await;
        until(|| scene.counts() == (0, 0, 0)).await;
    };
    scene.server.during(Box::pin(clients)).await;
    drain.begin();
}

#[tokio::test]
async fn spare_connections_fill_only_the_room_of_the_pool() {
    let scene = Scene::new(3, Behaviour::Mongod, |section| {
        (section.warm_connections, section.warm_connections_max) = (2, 2);
    })
    .await;
    let _keeper = scene.reuse().keep();
    let clients = async {
        assert_eq!(scene.pool.missing_spares(), 2);
        assert!(scene.pool.make_spare().await);
        let first = scene.leased(1).await;
        assert_eq!((scene.pool.spares.level().0, scene.pool.missing_spares()), (0, 2), "it was the spare one");
        let second = scene.leased(1).await;
        assert_eq!(scene.pool.missing_spares(), 1);
        let third = scene.leased(1).await;
        assert_eq!(scene.pool.missing_spares(), 0);
        drop((first, second, third));
    };
    scene.server.during(Box::pin(clients)).await;
}

#[tokio::test]
async fn a_pool_that_is_off_does_not_exist() {
    let scene = Scene::new(1, Behaviour::Mongod, |section| section.pool.mode = PoolMode::Off).await;
    assert!(scene.pool.reuse.is_none() && scene.upstream.membership().members[0].member.pool_counts().is_none());
}

/// Clients on several threads, some of which leave while they wait or connect. Each one sees the reply to its own
/// request, and the limit holds at every moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_on_several_threads_share_the_connections() {
    const CLIENTS: u8 = 24;
    let scene = Arc::new(Scene::of_mongod(3).await);
    let _keeper = scene.reuse().keep();
    let (tasks, served) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    for number in 0..CLIENTS {
        let (scene, served) = (Arc::clone(&scene), Arc::clone(&served));
        tasks.spawn("client", async move {
            for round in 0..10_u64 {
                let hello = crate::wire::op_msg::encode(i32::from(number), 0, &rawdoc! { "hello": 1, "$db": "admin" });
                let key = key(number % 2);
                let acquired = scene.pool.acquire(scene.reuse(), &key, &hello, u64::from(number % 5));
                let patience = std::time::Duration::from_micros(200 * u64::from(number % 4) * round);
                let acquired = if number < 4 { timeout(patience, acquired).await.ok() } else { Some(acquired.await) };
                let (idle, in_use, _) = scene.counts();
                assert!(idle + in_use <= 3);
                let Some(leased) = acquired else { continue };
                let mut leased = leased.unwrap();
                leased.connection.replay_hello(&hello).await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
                give_back(leased);
            }
        });
    }
    tasks.close();
    scene.server.during(Box::pin(tasks.wait())).await;
    assert_eq!(tasks.panics(), 0);
    assert!(served.load(Ordering::Relaxed) >= usize::from(CLIENTS - 4) * 10);
    let (_, in_use, waiting) = scene.counts();
    assert_eq!((in_use, waiting), (0, 0));
}
