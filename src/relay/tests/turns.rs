//! What one connection moves before the other connections of its worker run.

use std::cell::Cell;

use super::policy::{TestPolicy, find, insert, policy_filter, read_denial};
use super::*;
use crate::config::Enforcement;
use crate::relay::scratch::READ_BYTES;
use crate::relay::turn_budget::MESSAGES_OF_ONE_TURN;

/// Larger than everything that a test sends, so that no side waits for the other.
const WIDE_PIPE_BYTES: usize = 16 * 1024 * 1024;

/// What a turn may read: its budget, and one read that began within it.
const TURN_BYTES_MAX: u64 = (256 * 1024 + READ_BYTES) as u64;

const COUNT: i32 = 200;
const TOTAL: u64 = 200;

type Pumped = Pump<DuplexStream, DuplexStream>;

/// Makes the message of this id.
type Message = fn(i32) -> Vec<u8>;

/// Counts what has moved.
type Counter = fn(&Pumped) -> u64;

async fn wide_scene() -> (Scene, Arc<TestPolicy>) {
    let (filter, policy) = policy_filter(Enforcement::Enforce);
    let (client, gateway_client) = tokio::io::duplex(WIDE_PIPE_BYTES);
    let (side, upstream) = upstream_behind(0, WIDE_PIPE_BYTES).await;
    let filters = Filters { tokens: None, policy: filter, handshake: HandshakeFilter::default() };
    let relay = Relay::new(gateway_client, side, OFF, stats(), filters);
    (Scene { client, upstream, relay, drain: Drain::new() }, policy)
}

/// One turn of the connection; panics where the conversation ends.
async fn one_turn(pump: &mut Pumped) {
    // The runtime limits what a task does between two waits, too.
    tokio::task::yield_now().await;
    poll_fn(|cx| {
        assert!(pump.poll_end(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Runs turns until `done` counts `total`, and checks what each of them moves.
async fn check_turns(name: &str, pump: &mut Pumped, total: u64, done: Counter) {
    let bytes = |pump: &Pumped| pump.connection.stats.to_upstream_bytes + pump.connection.stats.to_client_bytes;
    let mut turns = 0;
    while done(pump) < total {
        let before = (done(pump), bytes(pump));
        one_turn(pump).await;
        turns += 1;
        assert!(done(pump) - before.0 <= MESSAGES_OF_ONE_TURN as u64, "{name}: {} to {}", before.0, done(pump));
        assert!(bytes(pump) - before.1 <= TURN_BYTES_MAX, "{name}: {} to {}", before.1, bytes(pump));
        assert!(turns < 1000, "{name}: nothing moves after {}", done(pump));
    }
    assert!(turns >= total / MESSAGES_OF_ONE_TURN as u64, "{name}: {turns} turns");
}

#[tokio::test]
async fn a_turn_takes_a_limited_number_of_requests_whichever_way_they_go() {
    let silent = |message| with_flags(message, 2);
    let denied: Counter = |pump| pump.connection.stats.denied;
    let in_flight: Counter = |pump| pump.connection.in_flight.len() as u64;
    let cases: [(&str, Message, Counter); 6] = [
        ("denied", |id| find(id, "secret"), denied),
        ("denied, the rest is dropped", |id| insert(id, "secret", 20_000), denied),
        ("forwarded", |id| find(id, "orders"), in_flight),
        ("held apart", |id| insert(id, "orders", 20_000), in_flight),
        ("forwarded in pieces", |id| sequence_insert(id, 20_000), in_flight),
        ("without a reply", |id| find(id, "orders"), |pump| pump.connection.stats.commands),
    ];
    for (name, message, done) in cases {
        let (mut scene, _policy) = wide_scene().await;
        let is_silent = name == "without a reply";
        let messages = (1..=COUNT).map(message).map(|message| if is_silent { silent(message) } else { message });
        scene.client.write_all(&messages.collect::<Vec<_>>().concat()).await.unwrap();
        check_turns(name, &mut scene.relay.pump, TOTAL, done).await;
    }
}

/// An insert whose documents are in a sequence, so that only its body is judged.
fn sequence_insert(id: i32, bytes: usize) -> Vec<u8> {
    let document = bson::serialize_to_vec(&doc! { "t": "x".repeat(bytes) }).unwrap();
    let size = i32::try_from(4 + 10 + document.len()).unwrap();
    let mut message = request(id, &doc! { "insert": "orders", "$db": "shop" });
    message.extend([&[1][..], &size.to_le_bytes(), b"documents\0", &document].concat());
    let length = i32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

#[tokio::test]
async fn a_turn_takes_a_limited_number_of_replies_whether_they_are_forwarded_or_filtered() {
    let list = |id| request(id, &doc! { "listCollections": 1, "$db": "shop" });
    let listed = |id| {
        let cursor = doc! { "id": 0_i64, "ns": "shop.$cmd.listCollections", "firstBatch": [{ "name": "secret" }] };
        let body = bson::RawDocumentBuf::try_from(&doc! { "cursor": cursor, "ok": 1.0 }).unwrap();
        op_msg::encode(10_000 + id, id, &body)
    };
    let cases: [(&str, Message, Message); 2] =
        [("forwarded", |id| find(id, "orders"), |id| reply(10_000 + id, id)), ("filtered", list, listed)];
    for (name, asked, answered) in cases {
        let (mut scene, _policy) = wide_scene().await;
        scene.client.write_all(&(1..=COUNT).map(asked).collect::<Vec<_>>().concat()).await.unwrap();
        let pump = &mut scene.relay.pump;
        check_turns(name, pump, TOTAL, |pump| pump.connection.in_flight.len() as u64).await;
        scene.upstream.write_all(&(1..=COUNT).map(answered).collect::<Vec<_>>().concat()).await.unwrap();
        scene.upstream.flush().await.unwrap();
        check_turns(name, pump, TOTAL, |pump| TOTAL - pump.connection.in_flight.len() as u64).await;
        for id in 1..=COUNT {
            let header = Header::parse(*read_message(&mut scene.client).await.first_chunk().unwrap()).unwrap();
            assert_eq!(header.response_to, id, "{name}");
        }
    }
}

#[tokio::test]
async fn a_turn_ends_after_a_number_of_bytes_in_either_direction() {
    let (mut scene, _policy) = wide_scene().await;
    let pump = &mut scene.relay.pump;
    let long = 5_000_000;
    scene.client.write_all(&sequence_insert(1, long)).await.unwrap();
    check_turns("request", pump, 1, |pump| pump.connection.in_flight.len() as u64).await;
    let answer = op_msg::encode(90, 1, &rawdoc! { "text": "x".repeat(long), "ok": 1.0 });
    scene.upstream.write_all(&answer).await.unwrap();
    scene.upstream.flush().await.unwrap();
    check_turns("reply", pump, 1, |pump| pump.connection.stats.commands).await;
}

#[tokio::test]
async fn a_client_that_never_stops_sending_does_not_hold_back_its_own_replies() {
    let (mut scene, _policy) = wide_scene().await;
    let pump = &mut scene.relay.pump;
    scene.client.write_all(&find(1, "orders")).await.unwrap();
    one_turn(pump).await;
    scene.client.write_all(&(2..COUNT).flat_map(|id| find(id, "secret")).collect::<Vec<_>>()).await.unwrap();
    scene.upstream.write_all(&reply(90, 1)).await.unwrap();
    scene.upstream.flush().await.unwrap();
    one_turn(pump).await;
    assert!(pump.requests.is_interrupted());
    assert_eq!(pump.connection.stats.commands, 1);
}

/// The neighbour's command takes a number of turns that does not grow with what the other client has sent.
#[tokio::test]
async fn the_neighbour_of_a_client_that_pipelines_denied_commands_gets_its_reply_within_a_few_turns() {
    let ((mut scene, _policy), (mut neighbour, _other_policy)) = tokio::join!(wide_scene(), wide_scene());
    let flood: Vec<_> = (0..20_000).flat_map(|id| find(id, "secret")).collect();
    scene.client.write_all(&flood).await.unwrap();
    let (turns, denied) = (Cell::new(0), Cell::new(0));
    let attacker = poll_fn(|cx| {
        let polled = scene.relay.pump.poll_end(cx);
        turns.set(turns.get() + 1);
        denied.set(scene.relay.pump.connection.stats.denied);
        polled
    });
    let other = poll_fn(|cx| neighbour.relay.pump.poll_end(cx));
    let script = async {
        neighbour.client.write_all(&find(1, "orders")).await.unwrap();
        read_message(&mut neighbour.upstream).await;
        neighbour.upstream.write_all(&reply(90, 1)).await.unwrap();
        neighbour.upstream.flush().await.unwrap();
        read_message(&mut neighbour.client).await;
    };
    tokio::select! {
        biased;
        end = attacker => unreachable!("{end:?}"),
        end = other => unreachable!("{end:?}"),
        () = script => {}
    }
    assert!(turns.get() > 1 && turns.get() < 20, "{} turns", turns.get());
    assert!(denied.get() > 0 && denied.get() <= 20 * MESSAGES_OF_ONE_TURN as u64, "{} denied", denied.get());
}

#[tokio::test]
async fn requests_that_wait_for_the_next_turn_are_read_after_the_client_has_closed_its_side() {
    let (scene, _policy) = wide_scene().await;
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let sent = (1..=COUNT).flat_map(|id| [find(id, "secret"), find(1000 + id, "orders")].concat());
        client.write_all(&sent.collect::<Vec<_>>()).await.unwrap();
        client.shutdown().await.unwrap();
        let replies = (1..=COUNT).flat_map(|id| reply(5000 + id, 1000 + id)).collect::<Vec<_>>();
        for id in 1..=COUNT {
            assert_eq!(read_message(&mut upstream).await, find(1000 + id, "orders"));
        }
        assert_eq!(upstream.read(&mut [0; 1]).await.unwrap(), 0);
        upstream.write_all(&replies).await.unwrap();
        upstream.flush().await.unwrap();
        for id in 1..=COUNT {
            read_denial(&mut client, id).await;
            assert_eq!(read_message(&mut client).await, reply(5000 + id, 1000 + id));
        }
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Client, "closed");
    assert_eq!((end.commands, end.denied, end.unanswered), (TOTAL, TOTAL, 0));
}

#[tokio::test]
async fn replies_that_wait_for_the_next_turn_reach_the_client_after_upstream_has_closed() {
    let (scene, _policy) = wide_scene().await;
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&(1..=COUNT).flat_map(|id| find(id, "orders")).collect::<Vec<_>>()).await.unwrap();
        for _ in 1..=COUNT {
            read_message(&mut upstream).await;
        }
        upstream.write_all(&(1..=COUNT).flat_map(|id| reply(5000 + id, id)).collect::<Vec<_>>()).await.unwrap();
        upstream.shutdown().await.unwrap();
        for id in 1..=COUNT {
            assert_eq!(read_message(&mut client).await, reply(5000 + id, id));
        }
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Upstream, "closed");
    assert_eq!((end.commands, end.unanswered), (TOTAL, 0));
}

#[tokio::test]
async fn a_drain_waits_for_requests_that_have_arrived_and_wait_for_the_next_turn() {
    let (mut scene, _policy) = wide_scene().await;
    scene.client.write_all(&(1..=COUNT).flat_map(|id| find(id, "secret")).collect::<Vec<_>>()).await.unwrap();
    scene.drain.begin();
    let (end, ()) = play(scene, |mut client, upstream, _drain| async move {
        for id in 1..=COUNT {
            read_denial(&mut client, id).await;
        }
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        drop(upstream);
    })
    .await;
    is(&end, Side::Gateway, "drained");
    assert_eq!(end.denied, TOTAL);
}
