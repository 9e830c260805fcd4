//! The relay where members have other names towards the client.

use arc_swap::ArcSwap;

use super::*;
use crate::lifecycle::renewal::Renewal;
use crate::topology::{MemberMap, MemberName, Slot, Slots};
use crate::wire::error_reply;

const HERE: &str = "gateway:9";

/// A set of two, of which mongo-a is at `gateway:<port>`, and mongo-b has no address.
fn map(port: u16) -> Arc<MemberMap> {
    let a: MemberName = "mongo-a:1".parse().unwrap();
    let slot = Slot { advertised: format!("gateway:{port}").into(), reserved_for: Some(a.clone()) };
    Arc::new(Slots::new([slot]).assign(&[a]).map)
}

async fn scene_under(naming: Naming) -> Scene {
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let (side, upstream) = upstream(0).await;
    let handshake = HandshakeFilter::new(naming, Authentication::Clients);
    let relay = Relay::new(gateway_client, side, OFF, stats(), PolicyFilter::off(), handshake);
    Scene { client, upstream, relay, drain: Drain::new() }
}

fn named() -> (Naming, Arc<ArcSwap<MemberMap>>) {
    let names = Arc::new(ArcSwap::new(map(1)));
    (Naming::Members { names: Arc::clone(&names), here: HERE.into() }, names)
}

async fn named_scene() -> Scene {
    scene_under(named().0).await
}

fn real() -> Document {
    doc! { "hosts": ["mongo-a:1", "mongo-b:2"], "setName": "rs0", "primary": "mongo-a:1", "me": "mongo-b:2", "ok": 1.0 }
}

fn told(port: u16) -> Document {
    let a = format!("gateway:{port}");
    doc! { "hosts": [&a], "setName": "rs0", "primary": &a, "me": HERE, "ok": 1.0 }
}

fn answer(id: i32, response_to: i32, body: &Document) -> Vec<u8> {
    op_msg::encode(id, response_to, &bson::RawDocumentBuf::try_from(body).unwrap())
}

fn sealed(message: &[u8], flags: u32) -> Vec<u8> {
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

/// Writes in pieces, each of which the relay reads by itself.
async fn write_cut(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], cut: usize) {
    for piece in bytes.chunks(cut) {
        to.write_all(piece).await.unwrap();
        to.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Sends `asked`, which goes upstream as `passed`; answers with `answered`, which the client reads as `read`.
async fn check(asked: &[u8], passed: &[u8], answered: &[u8], read: &[u8]) {
    for cut in [1, 15, 17, 100_000] {
        let (end, ()) = Box::pin(play(named_scene().await, |mut client, mut upstream, _drain| async move {
            write_cut(&mut client, asked, cut).await;
            let mut arrived = vec![0; passed.len()];
            upstream.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, passed);
            let mut arrived = vec![0; read.len()];
            let ((), all) = tokio::join!(write_cut(&mut upstream, answered, cut), client.read_exact(&mut arrived));
            all.unwrap();
            assert_eq!(arrived, read, "in pieces of {cut}");
            client.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "and nothing else");
        }))
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((end.to_client_bytes, end.unanswered), (answered.len() as u64, 0));
    }
}

async fn check_same(asked: &[u8], answered: &[u8], read: &[u8]) {
    check(asked, asked, answered, read).await;
}

#[tokio::test]
async fn every_hello_is_answered_with_gateway_addresses() {
    for name in ["hello", "isMaster", "ismaster"] {
        for database in ["admin", "test"] {
            let asked = request(5, &doc! { name: "x", "$db": database });
            check_same(&asked, &answer(90, 5, &real()), &answer(90, 5, &told(1))).await;
        }
        for asked in [query(5, &doc! { name: 1 }), query(5, &doc! { "$query": { name: 1 } })] {
            check_same(&asked, &op_reply(5, &real()), &op_reply(5, &told(1))).await;
        }
        let long = doc! { name: 1, "client": { "x": "y".repeat(600) } };
        check_same(&query(5, &doc! { "query": long }), &op_reply(5, &real()), &op_reply(5, &told(1))).await;
    }
    let asked = sealed(&request(5, &doc! { "hello": 1, "$db": "admin" }), 0);
    check_same(&asked, &sealed(&answer(90, 5, &real()), 0), &sealed(&answer(90, 5, &told(1)), 0)).await;
}

#[tokio::test]
async fn what_answers_something_else_stays_to_the_byte() {
    let documents = doc! { "cursor": { "id": 0_i64, "firstBatch": [real()], "ns": "s.c" }, "ok": 1.0 };
    for body in [documents, real()] {
        let asked = request(5, &doc! { "find": "hello", "$db": "s" });
        check_same(&asked, &answer(90, 5, &body), &answer(90, 5, &body)).await;
    }
    // Errors and mongos name nobody.
    for body in [doc! { "ok": 0.0, "code": 13 }, doc! { "msg": "isdbgrid", "ok": 1.0 }] {
        let asked = request(5, &doc! { "hello": 1, "$db": "admin" });
        check_same(&asked, &answer(90, 5, &body), &answer(90, 5, &body)).await;
    }
}

#[tokio::test]
async fn requests_that_are_pipelined_are_told_apart() {
    let find = |id| request(id, &doc! { "find": "c", "$db": "s" });
    let hello = |id| request(id, &doc! { "hello": 1, "$db": "s" });
    let asked = [find(5), hello(6), find(7), hello(8)].concat();
    let long = doc! { "hosts": ["mongo-a:1"], "me": "x".repeat(40_000), "ok": 1.0 };
    let answered =
        [answer(90, 5, &real()), answer(91, 6, &real()), answer(92, 7, &long), answer(93, 8, &real())].concat();
    let read =
        [answer(90, 5, &real()), answer(91, 6, &told(1)), answer(92, 7, &long), answer(93, 8, &told(1))].concat();
    check_same(&asked, &answered, &read).await;
    // The same id twice: mongod answers in turn.
    let asked = [find(5), hello(5)].concat();
    let answered = [answer(90, 5, &real()), answer(91, 5, &real())].concat();
    check_same(&asked, &answered, &[answer(90, 5, &real()), answer(91, 5, &told(1))].concat()).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_told_is_answered_as_a_hello_is() {
    // Before its command, a document sequence with an identifier that is too long to be read.
    let size: i32 = 4 + 1501;
    let sequence = [&[1][..], &size.to_le_bytes(), &[b'x'; 1500], &[0]].concat();
    let hello = bson::serialize_to_vec(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let body = [&[0; 4][..], &sequence, &[0], &hello].concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    let header = Header { length, request_id: 5, response_to: 0, op_code: OpCode::MSG };
    let asked = [&header.to_bytes(), body.as_slice()].concat();
    check_same(&asked, &answer(90, 5, &real()), &answer(90, 5, &told(1))).await;
    // A wrapper of a type that is not opened.
    let asked = query(5, &doc! { "$query": ["x"] });
    check_same(&asked, &op_reply(5, &real()), &op_reply(5, &told(1))).await;
}

#[tokio::test]
async fn every_frame_of_a_stream_is_renamed_by_the_names_of_its_moment() {
    for cut in [1, 100_000] {
        let (naming, names) = named();
        let (end, ()) = Box::pin(play(scene_under(naming).await, |mut client, mut upstream, drain| async move {
            let asked = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "$db": "admin" };
            let hello = with_flags(request(500, &asked), 1 << 16);
            client.write_all(&hello).await.unwrap();
            read_message(&mut upstream).await;
            for (id, response_to, port) in [(450, 500, 1), (451, 450, 2), (452, 451, 3)] {
                names.store(map(port));
                let frame = with_flags(answer(id, response_to, &real()), 2);
                write_cut(&mut upstream, &frame, cut).await;
                assert_eq!(read_message(&mut client).await, with_flags(answer(id, response_to, &told(port)), 2));
            }
            // Two at once, by the same names.
            let two = |body: &Document| {
                [answer(453, 452, body), answer(454, 453, body)].map(|frame| with_flags(frame, 2)).concat()
            };
            write_cut(&mut upstream, &two(&real()), cut).await;
            let mut arrived = vec![0; two(&told(3)).len()];
            client.read_exact(&mut arrived).await.unwrap();
            assert_eq!(arrived, two(&told(3)));
            // Half a frame is nothing to wait for.
            upstream.write_all(&with_flags(answer(455, 454, &real()), 2)[..40]).await.unwrap();
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
async fn a_reply_that_cannot_be_read_ends_the_conversation_before_a_name_gets_out() {
    let good = sealed(&answer(90, 5, &real()), 0);
    let mut wrong_checksum = good.clone();
    *wrong_checksum.last_mut().unwrap() ^= 1;
    let oversize = answer(90, 5, &doc! { "me": "mongo-a:1", "x": "y".repeat(33_000), "ok": 1.0 });
    let odd = answer(90, 5, &doc! { "hosts": "mongo-a:1", "ok": 1.0 });
    let strange = [&good[..12], &2012_i32.to_le_bytes(), &good[16..]].concat();
    let unbounded = [&[1, 0, 0, 0], &good[4..]].concat();
    let nobodys = answer(90, 4711, &doc! { "hosts": "mongo-a:1", "ok": 1.0 });
    let whole_find = answer(89, 4, &real());
    for hostile in [wrong_checksum, oversize, odd, strange, unbounded, nobodys, with_flags(good, 4)] {
        for cut in [1, 100_000] {
            let (hostile, whole_find) = (&hostile, &whole_find);
            let (end, ()) = Box::pin(play(named_scene().await, |mut client, mut upstream, _drain| async move {
                client.write_all(&request(4, &doc! { "find": "c", "$db": "s" })).await.unwrap();
                client.write_all(&request(5, &doc! { "hello": 1, "$db": "s" })).await.unwrap();
                read_message(&mut upstream).await;
                read_message(&mut upstream).await;
                let sent = [&whole_find[..], hostile].concat();
                let mut arrived = Vec::new();
                // The relay may have ended before all is written.
                tokio::select! {
                    read = client.read_to_end(&mut arrived) => drop(read.unwrap()),
                    () = async { write_cut(&mut upstream, &sent, cut).await; std::future::pending().await } => {}
                }
                assert!(arrived == **whole_find, "what came before it, and nothing of it");
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
async fn an_upstream_that_goes_in_the_middle_of_a_hello_interrupts_and_nothing_of_it_gets_out() {
    let (end, ()) = play(named_scene().await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(5, &doc! { "hello": 1, "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        let reply = answer(90, 5, &real());
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
async fn a_client_of_a_load_balancer_gets_a_service_and_no_names() {
    for cut in [1, 100_000] {
        let (end, ()) = Box::pin(play(scene_under(balanced()).await, |mut client, mut upstream, _drain| async move {
            let hello = doc! { "hello": 1, "loadBalanced": true, "compression": ["zstd"], "$db": "admin" };
            write_cut(&mut client, &request(5, &hello), cut).await;
            let plain = request(5, &doc! { "hello": 1, "$db": "admin" });
            assert_eq!(read_message(&mut upstream).await, plain);
            write_cut(&mut upstream, &answer(90, 5, &real()), cut).await;
            let service = bson::oid::ObjectId::from_bytes(SERVICE);
            let told = doc! { "setName": "rs0", "ok": 1.0, "serviceId": service };
            assert_eq!(read_message(&mut client).await, answer(90, 5, &told));
            // It has said so once.
            client.write_all(&plain).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, plain);
            upstream.write_all(&answer(91, 5, &real())).await.unwrap();
            assert_eq!(read_message(&mut client).await, answer(91, 5, &told));
        }))
        .await;
        is(&end, Side::Client, "closed");
    }
}

#[tokio::test]
async fn a_client_that_does_not_know_of_the_load_balancer_is_told() {
    let (end, ()) = Box::pin(play(scene_under(balanced()).await, |mut client, mut upstream, _drain| async move {
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
        // Nothing of all that went upstream; the connection is of use still.
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
async fn a_stream_that_goes_on_elsewhere_is_renamed_and_answers_what_the_client_waits_for() {
    let (naming, names) = named();
    let Scene { mut client, upstream: mut old, mut relay, drain } = scene_under(naming).await;
    let renewal = Renewal::new(Duration::from_secs(10));
    let (side, mut new) = upstream(1).await;
    let mut side = Some(side);
    let topology = doc! { "processId": bson::oid::ObjectId::from_bytes([7; 12]), "counter": 6_i64 };
    let waits = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "topologyVersion": topology, "$db": "admin" };
    let frame = |id, response_to, body: &Document| with_flags(answer(id, response_to, body), 2);
    let script = async {
        client.write_all(&request(1, &doc! { "hello": 1, "$db": "admin" })).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&answer(449, 1, &real())).await.unwrap();
        assert_eq!(read_message(&mut client).await, answer(449, 1, &told(1)));
        client.write_all(&with_flags(request(500, &waits), 1 << 16)).await.unwrap();
        read_message(&mut old).await;
        old.write_all(&frame(450, 500, &real())).await.unwrap();
        assert_eq!(read_message(&mut client).await, frame(450, 500, &told(1)));
        renewal.begin(1);
        read_message(&mut new).await;
        names.store(map(2));
        write_cut(&mut new, &[frame(90, 500, &real()), frame(91, 90, &real())].concat(), 1).await;
        assert_eq!(read_message(&mut client).await, frame(90, 450, &told(2)));
        assert_eq!(read_message(&mut client).await, frame(91, 90, &told(2)));
        drop((client, new));
    };
    let (drain, watch) = (drain.watch(), renewal.watch());
    let carried = async {
        loop {
            match relay.run(Vec::new(), &drain, &watch).await {
                Turn::Renew => relay.offer(side.take().unwrap()),
                Turn::Moved => {}
                Turn::Ended(end) => return end,
            }
        }
    };
    let (end, ()) = tokio::join!(carried, script);
    assert!(end.is_orderly(), "{end:?}");
    assert_eq!(end.commands, 2);
}
