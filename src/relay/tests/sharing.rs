//! Clients that use upstream connections of a pool, one after the other.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use bson::RawDocumentBuf;

use super::*;
use crate::lifecycle::lease::LeaseState;
use crate::topology::KnownHello;
use crate::wire::error_reply::CommandError;

/// As the pool makes it.
struct Lease(Arc<LeaseState>);

impl Default for Lease {
    fn default() -> Self {
        Self(Arc::new(LeaseState::new(&Arc::default())))
    }
}

type Server = server::TlsStream<DuplexStream>;

/// What the owner of a relay has seen and decides.
#[derive(Default)]
struct Owner {
    /// Upstream connections for the next requests that need one; without one the request is refused.
    ready: RefCell<Vec<UpstreamSide<DuplexStream>>>,
    /// Upstream connections that were given back.
    returned: RefCell<Vec<UpstreamSide<DuplexStream>>>,
    needed: Cell<u32>,
    lost: Cell<u32>,
    kept: Cell<u32>,
    lease: Lease,
    refusal_is_final: bool,
}

impl Owner {
    fn with(ready: impl IntoIterator<Item = UpstreamSide<DuplexStream>>) -> Self {
        Self { ready: RefCell::new(ready.into_iter().collect()), ..Self::default() }
    }

    async fn run(&self, relay: &mut Relay<DuplexStream, DuplexStream>, drain: &Drain, renewal: &Renewal) -> RelayEnd {
        let (drain, renewal) = (drain.watch(), renewal.watch());
        loop {
            match relay.run(Vec::new(), &drain, &renewal).await {
                RelayEvent::Ended(end) => {
                    self.returned.borrow_mut().extend(relay.take_reusable());
                    return end;
                }
                RelayEvent::NeedsUpstream => {
                    self.needed.set(self.needed.get() + 1);
                    let is_introduced = matches!(relay.needed(), Needed::Shared { .. });
                    let ready = self.ready.borrow_mut().pop();
                    match ready {
                        Some(side) => {
                            let lease = is_introduced.then(|| Arc::clone(&self.lease.0));
                            relay.attach(side, lease, is_introduced);
                        }
                        None => relay.refuse(busy(self.refusal_is_final)),
                    }
                }
                RelayEvent::GivesBack(side) => self.ready.borrow_mut().push(*side),
                RelayEvent::KeepsUpstream => self.kept.set(self.kept.get() + 1),
                RelayEvent::UpstreamLost => self.lost.set(self.lost.get() + 1),
                event => unreachable!("a shared connection does not move: {event:?}"),
            }
        }
    }
}

fn busy(is_final: bool) -> Refusal {
    let message = "mongate: busy".to_owned();
    let error = CommandError { code: 462, code_name: "IngressRequestRateLimitExceeded", message };
    Refusal { error, labels: &["RetryableError"], is_final }
}

fn shared(rules: SharingRules) -> (DuplexStream, Relay<DuplexStream, DuplexStream>) {
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let filters = Filters { tokens: None, policy: PolicyFilter::off(), handshake: HandshakeFilter::default() };
    (client, Relay::sharing(gateway_client, rules, OFF, stats(), filters))
}

fn rules() -> SharingRules {
    SharingRules { hello: Arc::default(), refuses_user: Arc::default(), gives_way: true }
}

/// Runs one client of a pool beside `script`.
async fn play_shared<F: Future<Output = T>, T>(
    owner: &Owner,
    rules: SharingRules,
    script: impl FnOnce(DuplexStream) -> F,
) -> (RelayEnd, T) {
    let (client, mut relay) = shared(rules);
    let (drain, renewal) = (Drain::new(), Renewal::new(Duration::from_mins(10)));
    tokio::join!(owner.run(&mut relay, &drain, &renewal), script(client))
}

fn ping(id: i32) -> Vec<u8> {
    request(id, &doc! { "ping": 1, "$db": "admin" })
}

/// Reads a request that the client has sent, and returns its id, which alone may differ from the client's.
async fn receive(server: &mut Server, sent: &[u8]) -> i32 {
    let message = read_message(server).await;
    let id = Header::parse(*message.first_chunk().unwrap()).unwrap().request_id;
    let mut expected = sent.to_vec();
    expected[4..8].copy_from_slice(&id.to_le_bytes());
    assert_eq!(message, expected);
    id
}

async fn exchange(client: &mut DuplexStream, server: &mut Server, id: i32) {
    client.write_all(&ping(id)).await.unwrap();
    let there = receive(server, &ping(id)).await;
    server.write_all(&reply(1000 + id, there)).await.unwrap();
    assert_eq!(read_message(client).await, reply(1000 + id, id));
}

#[tokio::test]
async fn an_upstream_connection_serves_one_client_after_the_other() {
    let (side, mut server) = upstream(0).await;
    let owner = Owner::with([side]);
    for id in [5, 7] {
        let (end, ()) = play_shared(&owner, rules(), |mut client| async {
            exchange(&mut client, &mut server, id).await;
            exchange(&mut client, &mut server, id + 1).await;
            drop(client);
        })
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((end.commands, end.unanswered), (2, 0));
        let mut returned = owner.returned.borrow_mut();
        assert_eq!(returned.len(), 1);
        owner.ready.borrow_mut().append(&mut returned);
    }
    assert_eq!(owner.needed.get(), 2);
}

#[tokio::test]
async fn the_gateway_answers_no_hello_while_mongod_refuses_the_user() {
    let hello = doc! { "isWritablePrimary": true, "maxWireVersion": 17, "ok": 1.0 };
    let known = KnownHello::new(RawDocumentBuf::try_from(&hello).unwrap(), std::time::Instant::now());
    let rules = rules();
    rules.hello.publish(known, KnownHello::differs_from);
    let refuses_user = Arc::clone(&rules.refuses_user);
    let owner = Owner { refusal_is_final: true, ..Owner::default() };
    let (end, ()) = play_shared(&owner, rules, |mut client| async move {
        let mut asks = async |id| {
            client.write_all(&request(id, &doc! { "hello": 1, "$db": "admin" })).await.unwrap();
            RawDocumentBuf::from_bytes(read_message(&mut client).await[21..].to_vec()).unwrap()
        };
        assert!(asks(5).await.get_bool("isWritablePrimary").unwrap());
        // The client has to read why no connection can be made.
        refuses_user.store(true, Ordering::Relaxed);
        assert_eq!(asks(6).await.get_i32("code").unwrap(), 462);
    })
    .await;
    assert_eq!((owner.needed.get(), end.commands), (1, 2));
}

/// What a client does before it leaves, and whether its upstream connection may serve another client then.
async fn check_reuse(is_reusable: bool, script: impl AsyncFnOnce(&mut DuplexStream, &mut Server)) {
    let (side, mut server) = upstream(0).await;
    let owner = Owner::with([side]);
    let (_, server) = play_shared(&owner, rules(), |mut client| async move {
        script(&mut client, &mut server).await;
        drop(client);
        if is_reusable {
            return Some(server);
        }
        // As mongod, it closes when the gateway has closed.
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        None
    })
    .await;
    assert_eq!(owner.returned.borrow().len(), usize::from(is_reusable));
    drop(server);
}

#[tokio::test]
async fn a_connection_goes_back_only_where_nothing_can_reach_the_next_client() {
    check_reuse(true, async |client, server| exchange(client, server, 5).await).await;
    // A command is in flight.
    check_reuse(false, async |client, server| {
        client.write_all(&ping(5)).await.unwrap();
        read_message(server).await;
    })
    .await;
    // A part of a request has gone upstream.
    check_reuse(false, async |client, server| {
        exchange(client, server, 5).await;
        let long = request(6, &doc! { "insert": "c", "documents": [{ "t": "x".repeat(9000) }], "$db": "shop" });
        client.write_all(&long[..8000]).await.unwrap();
        server.read_exact(&mut [0; 8000]).await.unwrap();
    })
    .await;
    // An unacknowledged write may still fail, and no client would be told.
    check_reuse(false, async |client, server| {
        exchange(client, server, 5).await;
        client.write_all(&with_flags(request(6, &doc! { "insert": "c", "$db": "shop" }), 2)).await.unwrap();
        read_message(server).await;
    })
    .await;
    // The client has authenticated on it.
    check_reuse(false, async |client, server| {
        let start = request(6, &doc! { "saslStart": 1, "mechanism": "PLAIN", "payload": "", "$db": "admin" });
        client.write_all(&start).await.unwrap();
        let there = receive(server, &start).await;
        server.write_all(&reply(90, there)).await.unwrap();
        read_message(client).await;
    })
    .await;
    // A reply is only half there.
    check_reuse(false, async |client, server| {
        client.write_all(&ping(5)).await.unwrap();
        let there = receive(server, &ping(5)).await;
        server.write_all(&reply(90, there)[..20]).await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0; 20]).await.unwrap();
    })
    .await;
    // The server sends its reply twice, and a reply that no request asked for.
    for other in [0, 2] {
        check_reuse(false, async |client, server| {
            client.write_all(&ping(5)).await.unwrap();
            let there = receive(server, &ping(5)).await;
            server.write_all(&[reply(90, there), reply(91, there.wrapping_add(other))].concat()).await.unwrap();
            server.flush().await.unwrap();
            assert_eq!(read_message(client).await, reply(90, 5));
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        })
        .await;
    }
    // The server sends something while the client is idle.
    check_reuse(false, async |client, server| {
        client.write_all(&ping(5)).await.unwrap();
        let there = receive(server, &ping(5)).await;
        server.write_all(&reply(90, there)).await.unwrap();
        read_message(client).await;
        server.write_all(&reply(90, there)).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    // The server leaves one of two requests out: its reply may still come.
    check_reuse(false, async |client, server| {
        client.write_all(&[ping(5), ping(6)].concat()).await.unwrap();
        receive(server, &ping(5)).await;
        let second = receive(server, &ping(6)).await;
        server.write_all(&reply(90, second)).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    // The server goes on sending after its reply.
    check_reuse(false, async |client, server| {
        client.write_all(&ping(5)).await.unwrap();
        let there = receive(server, &ping(5)).await;
        server.write_all(&[reply(90, there), reply(91, there)[..3].to_vec()].concat()).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(read_message(client).await, reply(90, 5));
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_answers_no_request_of_this_client_is_not_forwarded() {
    // The reply of the request before once more, those of others, one with the id that only the client knows, and none.
    let foreign: [fn(i32) -> Vec<u8>; 5] =
        [|id| reply(90, id - 1), |id| reply(90, !id), |_| reply(90, 5), |_| vec![0; 16], |_| vec![0xFF; 40]];
    for foreign in foreign {
        let (side, mut server) = upstream(0).await;
        let owner = Owner::with([side]);
        let (end, ()) = play_shared(&owner, rules(), |mut client| async {
            exchange(&mut client, &mut server, 4).await;
            client.write_all(&ping(5)).await.unwrap();
            let there = receive(&mut server, &ping(5)).await;
            server.write_all(&foreign(there)).await.unwrap();
            server.flush().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(rest.is_empty(), "{rest:?}");
            drop(client);
        })
        .await;
        is(&end, Side::Upstream, "sent a reply that answers no request of this client");
        assert!(owner.returned.borrow().is_empty());
    }
}

#[tokio::test]
async fn an_idle_client_gives_its_connection_back_when_the_pool_asks_for_it() {
    for gives_way in [true, false] {
        let (side, mut server) = upstream(0).await;
        let owner = Owner::with([side]);
        let (end, ()) = play_shared(&owner, SharingRules { gives_way, ..rules() }, |mut client| async {
            exchange(&mut client, &mut server, 5).await;
            owner.lease.0.recall();
            // A part of the next command wakes the relay; its owner does so otherwise.
            client.write_all(&ping(6)[..4]).await.unwrap();
            while gives_way && owner.ready.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            client.write_all(&ping(6)[4..]).await.unwrap();
            let there = receive(&mut server, &ping(6)).await;
            server.write_all(&reply(90, there)).await.unwrap();
            assert_eq!(read_message(&mut client).await, reply(90, 6));
            drop(client);
        })
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((owner.needed.get(), end.commands), (1 + u32::from(gives_way), 2));
    }
}

#[tokio::test]
async fn a_connection_that_was_taken_for_a_hello_goes_back_at_once() {
    let (side, mut server) = upstream(0).await;
    let owner = Owner::with([side]);
    let hello = |id| request(id, &doc! { "hello": 1, "client": { "driver": {} }, "$db": "admin" });
    let stripped = |id| request(id, &doc! { "hello": 1, "$db": "admin" });
    let (end, ()) = play_shared(&owner, SharingRules { gives_way: false, ..rules() }, |mut client| async {
        // The gateway has not heard of the member yet.
        client.write_all(&hello(5)).await.unwrap();
        // The pool has introduced the client.
        let there = receive(&mut server, &stripped(5)).await;
        server.write_all(&reply(90, there)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 5));
        while owner.ready.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        exchange(&mut client, &mut server, 6).await;
        drop(client);
    })
    .await;
    is(&end, Side::Client, "closed");
    assert_eq!((owner.needed.get(), end.commands), (2, 2));
}

#[tokio::test]
async fn a_client_does_not_notice_that_its_idle_connection_ends() {
    let (first, mut old) = upstream(0).await;
    let (second, mut new) = upstream(0).await;
    let owner = Owner::with([second, first]);
    let (end, ()) = play_shared(&owner, rules(), |mut client| async {
        exchange(&mut client, &mut old, 5).await;
        drop(old);
        while owner.lost.get() == 0 {
            tokio::task::yield_now().await;
        }
        exchange(&mut client, &mut new, 6).await;
        drop(client);
    })
    .await;
    is(&end, Side::Client, "closed");
    assert_eq!((owner.needed.get(), end.commands), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_leaves_a_connection_of_a_replaced_certificate_set_when_its_turn_comes() {
    let (first, mut old) = upstream(0).await;
    let (second, mut new) = upstream(1).await;
    let owner = Owner::with([second, first]);
    let (mut client, mut relay) = shared(rules());
    let window = Duration::from_mins(10);
    let (drain, renewal) = (Drain::new(), Renewal::new(window));
    let script = async {
        exchange(&mut client, &mut old, 5).await;
        // The first turn, which comes at once, belongs to another client.
        renewal.watch().schedule();
        renewal.begin(1);
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(owner.ready.borrow().len(), 1, "not all connections may be replaced at the same moment");
        while owner.ready.borrow().len() < 2 {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(began.elapsed() < window / 2);
        // The owner closes it: its certificate set is not the current one.
        owner.ready.borrow_mut().retain(|side| side.generation == 1);
        exchange(&mut client, &mut new, 6).await;
        drop(client);
    };
    let (end, ()) = tokio::join!(owner.run(&mut relay, &drain, &renewal), script);
    is(&end, Side::Client, "closed");
    assert_eq!(end.commands, 2);
}

#[tokio::test]
async fn requests_that_get_no_connection_are_answered_and_the_client_may_go_on() {
    for is_final in [false, true] {
        let owner = Owner { refusal_is_final: is_final, ..Owner::default() };
        let (end, ()) = play_shared(&owner, rules(), |mut client| async {
            for id in [5, 6] {
                client.write_all(&[ping(id), ping(id + 10)].concat()).await.unwrap();
                for expected in [id, id + 10] {
                    let message = read_message(&mut client).await;
                    let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
                    assert_eq!(header.response_to, expected);
                    let body = bson::deserialize_from_slice::<Document>(&message[HEADER_BYTES + 5..]).unwrap();
                    assert_eq!(body.get_i32("code").unwrap(), 462);
                    assert_eq!(body.get_array("errorLabels").unwrap().len(), 1);
                }
                if is_final {
                    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
                    return;
                }
            }
            drop(client);
        })
        .await;
        let expected = if is_final { (2, 2) } else { (4, 4) };
        assert_eq!((end.commands, end.errors), expected, "{end:?}");
    }
}

/// A request of which only a part arrives at once.
fn long_request(id: i32) -> Vec<u8> {
    let documents = vec![doc! { "t": "x".repeat(300_000) }];
    let lsid = doc! { "id": bson::Uuid::new() };
    let insert = doc! { "insert": "c", "lsid": lsid, "txnNumber": 1_i64, "autocommit": false, "$db": "shop" };
    request(id, &insert.into_iter().chain(doc! { "documents": documents }).collect())
}

#[tokio::test]
async fn a_request_that_is_still_arriving_when_no_connection_can_be_had_is_read_to_its_end_and_answered() {
    for is_final in [false, true] {
        let (side, mut server) = upstream(0).await;
        let owner = Owner { refusal_is_final: is_final, ..Owner::default() };
        let (end, ()) = play_shared(&owner, rules(), |mut client| async {
            let (long, mut sent) = (long_request(6), 0);
            while owner.needed.get() == 0 {
                sent += client.write(&long[sent..long.len().min(sent + 1000)]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(&long[sent..]).await.unwrap();
            let refused = read_message(&mut client).await;
            let body = bson::deserialize_from_slice::<Document>(&refused[HEADER_BYTES + 5..]).unwrap();
            assert_eq!(body.get_i32("code").unwrap(), 462);
            let labels = body.get_array("errorLabels").unwrap();
            assert!(labels.contains(&"TransientTransactionError".into()) && labels.len() == 2, "{body}");
            if is_final {
                assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
                return;
            }
            owner.ready.borrow_mut().push(side);
            exchange(&mut client, &mut server, 7).await;
            drop(client);
        })
        .await;
        assert_eq!((end.commands, end.errors), (2 - u64::from(is_final), 1), "{end:?}");
    }
}

#[tokio::test]
async fn an_idle_client_gives_its_connection_back_when_its_unacknowledged_writes_are_done() {
    for is_interrupted in [false, true] {
        let (side, mut server) = upstream(0).await;
        let owner = Owner::with([side]);
        let write = with_flags(request(6, &doc! { "insert": "c", "$db": "shop" }), 2);
        let (end, ()) = play_shared(&owner, rules(), |mut client| async {
            exchange(&mut client, &mut server, 5).await;
            client.write_all(&write).await.unwrap();
            receive(&mut server, &write).await;
            owner.lease.0.recall();
            // Wakes the relay; its owner does so otherwise.
            client.write_all(&ping(7)[..4]).await.unwrap();
            // The gateway asks whether the write is done. The client does not see the reply.
            let asked = read_message(&mut server).await;
            let asked = Header::parse(*asked.first_chunk().unwrap()).unwrap().request_id;
            if is_interrupted {
                client.write_all(&ping(7)[4..]).await.unwrap();
                let there = receive(&mut server, &ping(7)).await;
                server.write_all(&[reply(89, asked), reply(90, there)].concat()).await.unwrap();
                assert_eq!(read_message(&mut client).await, reply(90, 7));
            } else {
                server.write_all(&reply(89, asked)).await.unwrap();
                while owner.ready.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                client.write_all(&ping(7)[4..]).await.unwrap();
                let there = receive(&mut server, &ping(7)).await;
                server.write_all(&reply(90, there)).await.unwrap();
                assert_eq!(read_message(&mut client).await, reply(90, 7));
            }
            drop(client);
        })
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((owner.needed.get(), end.commands, end.unanswered), (1 + u32::from(!is_interrupted), 3, 0));
        assert_eq!(owner.returned.borrow().len() + owner.ready.borrow().len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_authenticates_on_a_shared_connection_keeps_it_and_the_pool_learns_of_it_once() {
    let (side, mut server) = upstream(0).await;
    let owner = Owner::with([side]);
    let start = request(6, &doc! { "saslStart": 1, "mechanism": "PLAIN", "payload": "", "$db": "admin" });
    let (end, ()) = play_shared(&owner, rules(), |mut client| async {
        exchange(&mut client, &mut server, 5).await;
        client.write_all(&start).await.unwrap();
        let there = receive(&mut server, &start).await;
        server.write_all(&reply(90, there)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 6));
        owner.lease.0.recall();
        exchange(&mut client, &mut server, 7).await;
        drop(client);
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
    })
    .await;
    is(&end, Side::Client, "closed");
    assert_eq!((owner.needed.get(), owner.kept.get(), owner.returned.borrow().len()), (1, 1, 0));
}

#[tokio::test]
async fn a_client_whose_messages_have_checksums_keeps_its_connection() {
    let (side, mut server) = upstream(0).await;
    let owner = Owner::with([side]);
    let mut message = with_flags(ping(5), 1);
    let length = u32::try_from(message.len() + 4).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&crc32c::crc32c(&message).to_le_bytes());
    let (end, ()) = play_shared(&owner, rules(), |mut client| async {
        client.write_all(&message).await.unwrap();
        assert_eq!(read_message(&mut server).await, message);
        server.write_all(&reply(90, 5)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 5));
        drop(client);
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
    })
    .await;
    is(&end, Side::Client, "closed");
    assert!(owner.returned.borrow().is_empty());
}
