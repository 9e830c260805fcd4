//! The relay where the client knows members by other names.

use arc_swap::ArcSwap;

use super::*;
use crate::lifecycle::renewal::Renewal;
use crate::topology::{Candidate, MemberMap, MemberName, Slot, Slots, Standing};
use crate::wire::error_reply;

const HERE: &str = "gateway:9";

/// A replica set of two: mongo-a has the gateway address `gateway:<port>`, and mongo-b, which replies, has none.
fn map(port: u16) -> Arc<MemberMap> {
    let a: MemberName = "mongo-a:1".parse().unwrap();
    let slot = Slot { advertised: format!("gateway:{port}").into(), reserved_for: Some(a.clone()) };
    let a = Candidate { name: a, standing: Standing::Readable, serves_clients: true };
    Arc::new(Slots::new([slot]).assign(&[a]).map)
}

async fn scene_with_naming(naming: Naming) -> Scene {
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let (side, upstream) = upstream(0).await;
    let handshake = HandshakeFilter::new(naming, Authentication::Clients);
    let relay = Relay::new(
        gateway_client,
        side,
        OFF,
        stats(),
        Filters { tokens: None, policy: PolicyFilter::off(), handshake },
    );
    Scene { client, upstream, relay, drain: Drain::new() }
}

fn named() -> (Naming, Arc<ArcSwap<MemberMap>>) {
    let names = Arc::new(ArcSwap::new(map(1)));
    (Naming::Members { names: Arc::clone(&names), here: HERE.into() }, names)
}

async fn named_scene() -> Scene {
    scene_with_naming(named().0).await
}

fn original() -> Document {
    doc! { "hosts": ["mongo-a:1", "mongo-b:2"], "setName": "rs0", "primary": "mongo-a:1", "me": "mongo-b:2", "ok": 1.0 }
}

fn rewritten(port: u16) -> Document {
    let a = format!("gateway:{port}");
    doc! { "hosts": [a.as_str(), HERE], "setName": "rs0", "primary": &a, "me": HERE, "ok": 1.0 }
}

fn reply_with(id: i32, response_to: i32, body: &Document) -> Vec<u8> {
    op_msg::encode(id, response_to, &bson::RawDocumentBuf::try_from(body).unwrap())
}

fn with_checksum(message: &[u8], flags: u32) -> Vec<u8> {
    let mut message = with_flags([message, &[0; 4]].concat(), flags | 1);
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    let (inside, checksum) = message.split_last_chunk_mut::<4>().unwrap();
    *checksum = crc32c::crc32c(inside).to_le_bytes();
    message
}

fn query(id: i32, body: &Document) -> Vec<u8> {
    let body = bson::serialize_to_vec(body).unwrap();
    let rest = [&[0; 4][..], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &body].concat();
    let length = u32::try_from(HEADER_BYTES + rest.len()).unwrap();
    [&Header { length, request_id: id, response_to: 0, op_code: OpCode::QUERY }.to_bytes(), rest.as_slice()].concat()
}

/// An `OP_REPLY` to the query with this id.
fn op_reply(response_to: i32, body: &Document) -> Vec<u8> {
    let request = Header { length: 16, request_id: response_to, response_to: 0, op_code: OpCode::QUERY };
    error_reply::reply(&request, &bson::RawDocumentBuf::try_from(body).unwrap())
}

/// Writes in pieces, which the relay reads one by one.
async fn write_cut(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cut: usize) {
    for piece in bytes.chunks(cut) {
        to.write_all(piece).await.unwrap();
        to.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Writes `sent`, which goes upstream as `forwarded`. mongod replies `replied`, which the client reads as `read`.
async fn check(sent: &[u8], forwarded: &[u8], replied: &[u8], read: &[u8]) {
    for cut in [1, 15, 17, 100_000] {
        let (end, ()) = Box::pin(play(named_scene().await, |mut client, mut upstream, _drain| async move {
            write_cut(&mut client, sent, cut).await;
            let mut arrived = vec![0; forwarded.len()];
            upstream.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, forwarded);
            let mut arrived = vec![0; read.len()];
            let ((), all) = tokio::join!(write_cut(&mut upstream, replied, cut), client.read_exact(&mut arrived));
            all.unwrap();
            assert_eq!(arrived, read, "in pieces of {cut}");
            client.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "nothing else arrives");
        }))
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((end.to_client_bytes, end.unanswered), (replied.len() as u64, 0));
    }
}

async fn check_same(sent: &[u8], replied: &[u8], read: &[u8]) {
    check(sent, sent, replied, read).await;
}

#[tokio::test]
async fn replies_to_every_hello_have_gateway_addresses() {
    for name in ["hello", "isMaster", "ismaster"] {
        for database in ["admin", "test"] {
            let sent = request(5, &doc! { name: "x", "$db": database });
            check_same(&sent, &reply_with(90, 5, &original()), &reply_with(90, 5, &rewritten(1))).await;
        }
        for sent in [query(5, &doc! { name: 1 }), query(5, &doc! { "$query": { name: 1 } })] {
            check_same(&sent, &op_reply(5, &original()), &op_reply(5, &rewritten(1))).await;
        }
        let long = doc! { name: 1, "client": { "x": "y".repeat(600) } };
        check_same(&query(5, &doc! { "query": long }), &op_reply(5, &original()), &op_reply(5, &rewritten(1))).await;
    }
    let sent = with_checksum(&request(5, &doc! { "hello": 1, "$db": "admin" }), 0);
    check_same(
        &sent,
        &with_checksum(&reply_with(90, 5, &original()), 0),
        &with_checksum(&reply_with(90, 5, &rewritten(1)), 0),
    )
    .await;
}

#[tokio::test]
async fn replies_to_other_commands_are_not_changed() {
    let documents = doc! { "cursor": { "id": 0_i64, "firstBatch": [original()], "ns": "s.c" }, "ok": 1.0 };
    for body in [documents, original()] {
        let sent = request(5, &doc! { "find": "hello", "$db": "s" });
        check_same(&sent, &reply_with(90, 5, &body), &reply_with(90, 5, &body)).await;
    }
    // Errors and replies of mongos name no members.
    for body in [doc! { "ok": 0.0, "code": 13 }, doc! { "msg": "isdbgrid", "ok": 1.0 }] {
        let sent = request(5, &doc! { "hello": 1, "$db": "admin" });
        check_same(&sent, &reply_with(90, 5, &body), &reply_with(90, 5, &body)).await;
    }
}

#[tokio::test]
async fn replies_to_pipelined_requests_are_told_apart() {
    let find = |id| request(id, &doc! { "find": "c", "$db": "s" });
    let hello = |id| request(id, &doc! { "hello": 1, "$db": "s" });
    let sent = [find(5), hello(6), find(7), hello(8)].concat();
    let long = doc! { "hosts": ["mongo-a:1"], "me": "x".repeat(40_000), "ok": 1.0 };
    let replied = [
        reply_with(90, 5, &original()),
        reply_with(91, 6, &original()),
        reply_with(92, 7, &long),
        reply_with(93, 8, &original()),
    ]
    .concat();
    let read = [
        reply_with(90, 5, &original()),
        reply_with(91, 6, &rewritten(1)),
        reply_with(92, 7, &long),
        reply_with(93, 8, &rewritten(1)),
    ]
    .concat();
    check_same(&sent, &replied, &read).await;
    // Two requests have the same id: mongod replies in order.
    let sent = [find(5), hello(5)].concat();
    let replied = [reply_with(90, 5, &original()), reply_with(91, 5, &original())].concat();
    check_same(&sent, &replied, &[reply_with(90, 5, &original()), reply_with(91, 5, &rewritten(1))].concat()).await;
}

#[tokio::test]
async fn a_reply_to_an_unknown_command_is_rewritten_like_one_to_a_hello() {
    // A document sequence precedes the command. Its identifier is too long to be read.
    let size: i32 = 4 + 1501;
    let sequence = [&[1][..], &size.to_le_bytes(), &[b'x'; 1500], &[0]].concat();
    let hello = bson::serialize_to_vec(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let body = [&[0; 4][..], &sequence, &[0], &hello].concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    let header = Header { length, request_id: 5, response_to: 0, op_code: OpCode::MSG };
    let sent = [&header.to_bytes(), body.as_slice()].concat();
    check_same(&sent, &reply_with(90, 5, &original()), &reply_with(90, 5, &rewritten(1))).await;
    // The wrapper has a type that is not opened.
    let sent = query(5, &doc! { "$query": ["x"] });
    check_same(&sent, &op_reply(5, &original()), &op_reply(5, &rewritten(1))).await;
}

#[tokio::test]
async fn every_reply_of_a_stream_is_rewritten_with_the_current_names() {
    for cut in [1, 100_000] {
        let (naming, names) = named();
        let (end, ()) = Box::pin(play(scene_with_naming(naming).await, |mut client, mut upstream, drain| async move {
            let sent = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "$db": "admin" };
            let hello = with_flags(request(500, &sent), 1 << 16);
            client.write_all(&hello).await.unwrap();
            read_message(&mut upstream).await;
            for (id, response_to, port) in [(450, 500, 1), (451, 450, 2), (452, 451, 3)] {
                names.store(map(port));
                let frame = with_flags(reply_with(id, response_to, &original()), 2);
                write_cut(&mut upstream, &frame, cut).await;
                assert_eq!(
                    read_message(&mut client).await,
                    with_flags(reply_with(id, response_to, &rewritten(port)), 2)
                );
            }
            // Two arrive at once, with the same names.
            let two = |body: &Document| {
                [reply_with(453, 452, body), reply_with(454, 453, body)].map(|frame| with_flags(frame, 2)).concat()
            };
            write_cut(&mut upstream, &two(&original()), cut).await;
            let mut arrived = vec![0; two(&rewritten(3)).len()];
            client.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, two(&rewritten(3)));
            // A drain does not wait for half a reply.
            upstream.write_all(&with_flags(reply_with(455, 454, &original()), 2)[..40]).await.unwrap();
            upstream.flush().await.unwrap();
            tokio::task::yield_now().await;
            drain.begin();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        }))
        .await;
        is(&end, Side::Gateway, "drained");
        assert_eq!(end.commands, 1);
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_parsed_ends_the_conversation_before_the_client_reads_a_name() {
    let good = with_checksum(&reply_with(90, 5, &original()), 0);
    let mut wrong_checksum = good.clone();
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let oversize = reply_with(90, 5, &doc! { "me": "mongo-a:1", "x": "y".repeat(33_000), "ok": 1.0 });
    let odd = reply_with(90, 5, &doc! { "hosts": "mongo-a:1", "ok": 1.0 });
    let strange = [&good[..12], &2012_i32.to_le_bytes(), &good[16..]].concat();
    let unbounded = [&[1, 0, 0, 0], &good[4..]].concat();
    let unexpected = reply_with(90, 4711, &doc! { "hosts": "mongo-a:1", "ok": 1.0 });
    let whole_find = reply_with(89, 4, &original());
    for hostile in [wrong_checksum, oversize, odd, strange, unbounded, unexpected, with_flags(good, 4)] {
        for cut in [1, 100_000] {
            let (hostile, whole_find) = (&hostile, &whole_find);
            let (end, ()) = Box::pin(play(named_scene().await, |mut client, mut upstream, _drain| async move {
                client.write_all(&request(4, &doc! { "find": "c", "$db": "s" })).await.unwrap();
                client.write_all(&request(5, &doc! { "hello": 1, "$db": "s" })).await.unwrap();
                read_message(&mut upstream).await;
                read_message(&mut upstream).await;
                let all = [&whole_find[..], hostile].concat();
                let mut arrived = Vec::new();
                // The relay may end before everything is written.
                tokio::select! {
                    read = client.read_to_end(&mut arrived) => drop(read.unwrap()),
                    () = async { write_cut(&mut upstream, &all, cut).await; std::future::pending().await } => {}
                }
                assert!(arrived == **whole_find, "the client reads the reply before it, and nothing of it");
            }))
            .await;
            is_prefix(&end, "answered hello with");
            assert!(!end.is_orderly() && !end.is_protocol_error());
        }
    }
}

fn is_prefix(end: &RelayEnd, reason: &str) {
    assert_eq!(end.ended_by, Side::Upstream);
    assert!(end.reason.to_string().starts_with(reason), "{end:?}");
}

#[tokio::test]
async fn an_upstream_that_closes_in_a_reply_to_hello_interrupts_and_the_client_reads_nothing_of_it() {
    let (end, ()) = play(named_scene().await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(5, &doc! { "hello": 1, "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        let reply = reply_with(90, 5, &original());
        upstream.write_all(&reply[..reply.len() - 1]).await.unwrap();
        upstream.flush().await.unwrap();
        drop(upstream);
        let mut arrived = Vec::new();
        client.read_to_end(&mut arrived).await.unwrap();
        assert!(arrived.is_empty());
    })
    .await;
    is(&end, Side::Upstream, "interrupted");
}

const SERVICE: [u8; 12] = [7; 12];

fn balanced() -> Naming {
    Naming::LoadBalanced { service_id: SERVICE }
}

#[tokio::test]
async fn a_client_in_load_balanced_mode_gets_a_service_id_and_no_names() {
    for cut in [1, 100_000] {
        let (end, ()) =
            Box::pin(play(scene_with_naming(balanced()).await, |mut client, mut upstream, _drain| async move {
                let hello = doc! { "hello": 1, "loadBalanced": true, "compression": ["zstd"], "$db": "admin" };
                write_cut(&mut client, &request(5, &hello), cut).await;
                let plain = request(5, &doc! { "hello": 1, "$db": "admin" });
                assert_eq!(read_message(&mut upstream).await, plain);
                write_cut(&mut upstream, &reply_with(90, 5, &original()), cut).await;
                let service = bson::oid::ObjectId::from_bytes(SERVICE);
                let rewritten = doc! { "setName": "rs0", "ok": 1.0, "serviceId": service };
                assert_eq!(read_message(&mut client).await, reply_with(90, 5, &rewritten));
                // It need not say so again.
                client.write_all(&plain).await.unwrap();
                assert_eq!(read_message(&mut upstream).await, plain);
                upstream.write_all(&reply_with(91, 5, &original())).await.unwrap();
                assert_eq!(read_message(&mut client).await, reply_with(91, 5, &rewritten));
            }))
            .await;
        is(&end, Side::Client, "closed");
    }
}

#[tokio::test]
async fn a_client_that_expects_no_load_balancer_gets_an_error() {
    let (end, ()) =
        Box::pin(play(scene_with_naming(balanced()).await, |mut client, mut upstream, _drain| async move {
            for id in [1, 2] {
                for hello in [doc! { "hello": 1, "$db": "admin" }, doc! { "hello": 1, "loadBalanced": false }] {
                    client.write_all(&request(id, &hello)).await.unwrap();
                    let refusal = read_message(&mut client).await;
                    let document = bson::deserialize_from_slice::<Document>(&refusal[HEADER_BYTES + 5..]).unwrap();
                    assert_eq!(document.get_i32("code").unwrap(), 20);
                    let sentence = "this listener is for loadBalanced=true; add it to the URI";
                    assert!(document.get_str("errmsg").unwrap().ends_with(sentence));
                }
                client.write_all(&query(9, &doc! { "$query": { "isMaster": 1 } })).await.unwrap();
                let refusal = read_message(&mut client).await;
                assert_eq!(Header::parse(*refusal.first_chunk().unwrap()).unwrap().op_code, OpCode::REPLY);
            }
            // None of that went upstream, and the connection can still be used.
            let ping = request(3, &doc! { "ping": 1, "$db": "admin" });
            client.write_all(&ping).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, ping);
            upstream.write_all(&reply(90, 3)).await.unwrap();
            assert_eq!(read_message(&mut client).await, reply(90, 3));
        }))
        .await;
    is(&end, Side::Client, "closed");
    assert_eq!((end.commands, end.errors, end.denied), (7, 6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_restarted_elsewhere_is_rewritten_and_answers_what_the_client_waits_for() {
    let (naming, names) = named();
    let Scene { mut client, upstream: mut old, mut relay, drain } = scene_with_naming(naming).await;
    let renewal = Renewal::new(Duration::from_secs(10));
    let (side, mut new) = upstream(1).await;
    let mut side = Some(side);
    let topology = doc! { "processId": bson::oid::ObjectId::from_bytes([7; 12]), "counter": 6_i64 };
    let waits = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "topologyVersion": topology, "$db": "admin" };
    let frame = |id, response_to, body: &Document| with_flags(reply_with(id, response_to, body), 2);
    let script = async {
        client.write_all(&request(1, &doc! { "hello": 1, "$db": "admin" })).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&reply_with(449, 1, &original())).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply_with(449, 1, &rewritten(1)));
        client.write_all(&with_flags(request(500, &waits), 1 << 16)).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&frame(450, 500, &original())).await.unwrap();
        assert_eq!(read_message(&mut client).await, frame(450, 500, &rewritten(1)));
        renewal.begin(1);
        read_message(&mut new).await;
        names.store(map(2));
        write_cut(&mut new, &[frame(90, 500, &original()), frame(91, 90, &original())].concat(), 1).await;
        assert_eq!(read_message(&mut client).await, frame(90, 450, &rewritten(2)));
        assert_eq!(read_message(&mut client).await, frame(91, 90, &rewritten(2)));
        drop((client, new));
    };
    let (drain, watch) = (drain.watch(), renewal.watch());
    let carried = async {
        loop {
            match relay.run(Vec::new(), &drain, &watch).await {
                RelayEvent::Renew => relay.offer(side.take().unwrap()),
                RelayEvent::Moved => {}
                RelayEvent::Ended(end) => return end,
                event => unreachable!("the upstream connection is not shared: {event:?}"),
            }
        }
    };
    let (end, ()) = tokio::join!(carried, script);
    assert!(end.is_orderly(), "{end:?}");
    assert_eq!(end.commands, 2);
}
