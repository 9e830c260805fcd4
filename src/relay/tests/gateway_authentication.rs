//! The relay where the gateway authenticates: a client's own authentication gets local replies.

use super::*;
use crate::config::Enforcement;
use crate::relay::tests::policy::scene_with_filters;

const MESSAGE: &str = "the gateway authenticates; remove the credentials from the URI";

fn handshake() -> HandshakeFilter {
    HandshakeFilter::new(Naming::Kept, Authentication::Gateway)
}

async fn authenticated_scene() -> Scene {
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let (side, upstream) = upstream(0).await;
    let relay = Relay::new(
        gateway_client,
        side,
        OFF,
        stats(),
        Filters { tokens: None, policy: PolicyFilter::off(), handshake: handshake() },
    );
    Scene { client, upstream, relay, drain: Drain::new() }
}

fn message(op_code: i32, id: i32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
    [&Header { length, request_id: id, response_to: 0, op_code: OpCode(op_code) }.to_bytes(), body].concat()
}

fn bytes_of(body: &Document) -> Vec<u8> {
    bson::serialize_to_vec(body).unwrap()
}

fn query(namespace: &str, body: &Document) -> Vec<u8> {
    let head = [&[0; 4][..], namespace.as_bytes(), &[0], &[0; 4], &(-1_i32).to_le_bytes()].concat();
    message(2004, 5, &[head, bytes_of(body)].concat())
}

fn sequence(identifier: &str, bytes: usize) -> Vec<u8> {
    let documents = bytes_of(&doc! { "x": "y".repeat(bytes) });
    let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).unwrap();
    [&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], &documents].concat()
}

fn sections(parts: &[&[u8]]) -> Vec<u8> {
    message(2013, 5, &[&[0; 4][..], &parts.concat()].concat())
}

fn body(document: &Document) -> Vec<u8> {
    [vec![0], bytes_of(document)].concat()
}

/// Reads a local reply, which has the form of its request.
async fn read_local_reply(client: &mut (impl AsyncRead + Unpin), response_to: i32) -> Document {
    let message = read_message(client).await;
    let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
    assert_eq!(header.response_to, response_to);
    let head = if header.op_code == OpCode::REPLY { 20 } else { 5 };
    bson::deserialize_from_slice(&message[HEADER_BYTES + head..]).unwrap()
}

/// Sends `sent` in pieces, then a ping. Only the ping goes upstream. Returns the local reply to the request.
async fn reply_to(scene: Scene, sent: &[u8], cut: usize) -> (Document, RelayEnd) {
    let (end, replied) = Box::pin(play(scene, |client, mut upstream, _drain| async move {
        let ping = request(6, &doc! { "ping": 1, "$db": "admin" });
        let (mut reads, mut writes) = tokio::io::split(client);
        let talk = async {
            for piece in [sent, &ping].concat().chunks(cut) {
                writes.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let serve = async {
            assert_eq!(read_message(&mut upstream).await, ping);
            upstream.write_all(&reply(90, 6)).await.unwrap();
            upstream.flush().await.unwrap();
        };
        let listen = async {
            let replied = read_local_reply(&mut reads, 5).await;
            assert_eq!(read_message(&mut reads).await, reply(90, 6));
            replied
        };
        let ((), (), replied) = tokio::join!(talk, serve, listen);
        replied
    }))
    .await;
    is(&end, Side::Client, "closed");
    (replied, end)
}

async fn check(sent: &[u8], expected: &Document) {
    for cut in [1, 17, 100_000] {
        // Long messages are not sent a byte at a time.
        if sent.len() / cut > 2_000 {
            continue;
        }
        let (replied, end) = reply_to(authenticated_scene().await, sent, cut).await;
        for (name, value) in expected {
            assert_eq!(replied.get(name), Some(value), "{replied}");
        }
        let failed = replied.get_f64("ok").unwrap() == 0.0;
        assert_eq!((end.commands, end.errors, end.denied), (2, u64::from(failed), 0));
    }
}

fn no_credentials() -> Document {
    let errmsg = format!("mongate: {MESSAGE}");
    doc! { "ok": 0.0, "errmsg": errmsg, "code": 18, "codeName": "AuthenticationFailed" }
}

fn not_sent() -> Document {
    doc! { "ok": 0.0, "code": 17, "codeName": "ProtocolError" }
}

#[tokio::test]
async fn authentications_get_local_replies() {
    let sasl = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": "n,,n=u,r=x", "$db": "admin" };
    let more = doc! { "saslContinue": 1, "conversationId": 1, "payload": "x", "$db": "shop" };
    let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=a,O=b", "$db": "$external" };
    let unnamed = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let old = doc! { "authenticate": 1, "user": "u", "nonce": "x", "key": "y", "$db": "admin" };
    let yes = |user: &str| doc! { "dbname": "$external", "user": user, "ok": 1.0 };
    let unknown = doc! { "ok": 0.0, "code": 59, "codeName": "CommandNotFound" };
    for (command, expected) in [
        (sasl, no_credentials()),
        (more, no_credentials()),
        (old, no_credentials()),
        (x509, yes("CN=a,O=b")),
        (unnamed, yes("")),
        (doc! { "logout": 1, "$db": "admin" }, doc! { "ok": 1.0 }),
        (doc! { "getnonce": 1, "$db": "admin" }, unknown),
    ] {
        check(&request(5, &command), &expected).await;
        let mut bare = command;
        bare.remove("$db");
        for sent in [bare.clone(), doc! { "$query": bare.clone() }, doc! { "query": bare }] {
            check(&query("$external.$cmd", &sent), &expected).await;
        }
    }
}

#[tokio::test]
async fn an_authentication_of_any_shape_does_not_go_upstream() {
    let start = |bytes: usize| doc! { "saslStart": 1, "x": "y".repeat(bytes), "$db": "admin" };
    for bytes in [600, 10_000, 60_000, 70_000, 1_000_000] {
        check(&request(5, &start(bytes)), &no_credentials()).await;
        let wrapped = doc! { "$query": start(bytes) };
        check(&query("admin.$cmd", &wrapped), &no_credentials()).await;
    }
    let start = body(&start(10));
    check(&sections(&[&start, &sequence("x", 10)]), &no_credentials()).await;
    check(&sections(&[&sequence("x", 10), &start]), &no_credentials()).await;
    check(&sections(&[&start, &sequence("x", 70_000)]), &no_credentials()).await;
    check(&sections(&[&start, &start]), &no_credentials()).await;
    check(&sections(&[&start, &[9, 9]]), &no_credentials()).await;
    // The command cannot be recognised.
    check(&sections(&[&sequence("x", 200_000), &start]), &not_sent()).await;
    check(&sections(&[&sequence(&"x".repeat(2000), 1), &start]), &not_sent()).await;
    check(&sections(&[]), &not_sent()).await;
    check(&sections(&[&[0, 5, 0, 0, 0, 0]]), &not_sent()).await;
    check(&sections(&[&[0, 4, 0, 0, 0, 0]]), &not_sent()).await;
    check(&sections(&[&[2], &start[1..]]), &not_sent()).await;
    check(&with_flags(sections(&[&start]), 4), &not_sent()).await;
    let name = "n".repeat(70_000);
    check(&request(5, &doc! { &name: 1 }), &not_sent()).await;
    check(&query("admin.$cmd", &doc! { "$query": ["saslStart"] }), &not_sent()).await;
    check(&query("admin.$cmd", &doc! { "query": { "$query": { "saslStart": 1 } } }), &not_sent()).await;
    check(&query(&"x".repeat(2000), &doc! { "saslStart": 1 }), &not_sent()).await;
    check(&message(2013, 5, &[]), &not_sent()).await;
    check(&message(2013, 5, &[0, 0]), &not_sent()).await;
}

#[tokio::test]
async fn another_long_command_is_forwarded_as_it_arrives() {
    let (end, ()) = Box::pin(play(authenticated_scene().await, |client, mut upstream, _drain| async move {
        let sent = request(5, &doc! { "insert": "saslStart", "documents": [{ "t": "x".repeat(2_000_000) }] });
        let (mut reads, mut writes) = tokio::io::split(client);
        let (sent, arrived) = (sent.clone(), async { read_message(&mut upstream).await });
        let (written, arrived) = tokio::join!(writes.write_all(&sent), arrived);
        written.unwrap();
        assert!(arrived == sent);
        upstream.write_all(&reply(90, 5)).await.unwrap();
        assert_eq!(read_message(&mut reads).await, reply(90, 5));
    }))
    .await;
    is(&end, Side::Client, "closed");
}

#[tokio::test]
async fn an_authentication_that_expects_no_reply_gets_none() {
    for command in [doc! { "saslStart": 1 }, doc! { "logout": 1 }, doc! {}, doc! { "saslStart": "x".repeat(70_000) }] {
        let (end, ()) = Box::pin(play(authenticated_scene().await, |mut client, mut upstream, _drain| async move {
            let ping = request(6, &doc! { "ping": 1, "$db": "admin" });
            client.write_all(&with_flags(request(5, &command), 2)).await.unwrap();
            client.write_all(&ping).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, ping);
            upstream.write_all(&reply(90, 6)).await.unwrap();
            assert_eq!(read_message(&mut client).await, reply(90, 6));
        }))
        .await;
        assert_eq!((end.commands, end.errors, end.unanswered), (2, 0, 0));
    }
}

#[tokio::test]
async fn a_local_reply_comes_behind_the_replies_to_earlier_requests() {
    let (end, ()) = play(authenticated_scene().await, |mut client, mut upstream, _drain| async move {
        let find = request(4, &doc! { "find": "c", "$db": "s" });
        client.write_all(&[find, request(5, &doc! { "logout": 1 })].concat()).await.unwrap();
        read_message(&mut upstream).await;
        upstream.write_all(&reply(90, 4)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 4));
        assert_eq!(read_local_reply(&mut client, 5).await, doc! { "ok": 1.0 });
    })
    .await;
    assert_eq!((end.commands, end.unanswered), (2, 0));
}

#[tokio::test]
async fn a_hello_loses_its_authentication() {
    let hello = |more: bool| {
        let mut hello = doc! { "isMaster": 1, "helloOk": true };
        if more {
            hello.extend(doc! {
                "compression": ["zlib"], "speculativeAuthenticate": { "saslStart": 1 }, "saslSupportedMechs": "a.b",
                "internalClient": { "minWireVersion": 0 }, "hostInfo": "x",
            });
        }
        hello.insert("client", doc! { "speculativeAuthenticate": 1 });
        hello
    };
    let wrap = |inner: Document| query("admin.$cmd", &doc! { "$query": inner, "$readPreference": {} });
    for (sent, passed) in [
        (request(5, &hello(true)), request(5, &hello(false))),
        (query("admin.$cmd", &hello(true)), query("admin.$cmd", &hello(false))),
        (wrap(hello(true)), wrap(hello(false))),
    ] {
        for cut in [1, 100_000] {
            let (sent, passed) = (&sent, &passed);
            let (_, ()) = Box::pin(play(authenticated_scene().await, |mut client, mut upstream, _drain| async move {
                for piece in sent.chunks(cut) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                assert_eq!(&read_message(&mut upstream).await, passed);
            }))
            .await;
        }
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_rewritten_does_not_go_upstream() {
    let hello = |bytes: usize| doc! { "hello": 1, "speculativeAuthenticate": { "x": "y".repeat(bytes) } };
    check(&request(5, &hello(66_000)), &not_sent()).await;
    check(&query("admin.$cmd", &doc! { "$query": hello(66_000) }), &not_sent()).await;
    let hello = body(&hello(10));
    check(&sections(&[&hello, &hello]), &not_sent()).await;
    check(&sections(&[&hello, &[9]]), &not_sent()).await;
    check(&sections(&[&hello, &sequence("speculativeAuthenticate", 10)]), &not_sent()).await;
    check(&sections(&[&sequence("x", 10), &hello]), &not_sent()).await;
    let mut broken = sections(&[&hello]);
    let at = broken.windows(4).position(|bytes| bytes == b"spec").unwrap() - 1;
    broken[at] = 0x55;
    check(&broken, &not_sent()).await;
    // The checksum is wrong.
    let mut unsealed = with_flags(sections(&[&hello]), 1);
    unsealed.extend_from_slice(&[0; 4]);
    let length = u32::try_from(unsealed.len()).unwrap();
    unsealed[..4].copy_from_slice(&length.to_le_bytes());
    check(&unsealed, &not_sent()).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_answered_ends_the_conversation() {
    for (sent, why) in [
        (message(2010, 5, b"admin\0saslStart\0"), "a message of a type that no driver sends"),
        (message(2005, 5, &[0; 20]), "a message of a type that no driver sends"),
        (vec![7; 20], "an impossible message length"),
    ] {
        let sent = &sent;
        let (end, ()) = Box::pin(play(authenticated_scene().await, |mut client, mut upstream, _drain| async move {
            let ping = request(4, &doc! { "ping": 1, "$db": "admin" });
            client.write_all(&[&ping[..], sent].concat()).await.unwrap();
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            let mut arrived = Vec::new();
            // The connection may have closed in the middle of a record.
            let _ = upstream.read_to_end(&mut arrived).await;
            assert!(ping.starts_with(&arrived), "none of the message went upstream");
        }))
        .await;
        assert_eq!(end.ended_by, Side::Client);
        assert!(end.reason.to_string().contains(why) && end.is_protocol_error(), "{end:?}");
    }
}

#[tokio::test]
async fn the_policy_decides_first_and_no_authentication_goes_upstream() {
    let start = |bytes: usize| doc! { "saslStart": 1, "x": "y".repeat(bytes), "$db": "admin" };
    let hello = |bytes: usize| {
        body(&doc! { "hello": 1, "speculativeAuthenticate": { "x": "y".repeat(bytes) }, "$db": "admin" })
    };
    for enforcement in [Enforcement::Enforce, Enforcement::DryRun] {
        for bytes in [10, 20_000, 60_000, 200_000] {
            for cut in [997, 100_000] {
                let scene = || async { scene_with_filters(enforcement, handshake()).await.0 };
                let (replied, _) = reply_to(scene().await, &request(5, &start(bytes)), cut).await;
                assert_eq!(replied.get_i32("code").unwrap(), 18, "{bytes} {replied}");
                let refused = |replied: &Document| matches!(replied.get_i32("code").unwrap(), 13 | 17 | 18);
                for sent in [
                    sections(&[&sequence("x", bytes), &body(&start(10))]),
                    sections(&[&sequence("x", bytes), &hello(10)]),
                    sections(&[&hello(10), &sequence("x", bytes)]),
                    query("admin.$cmd", &doc! { "$query": start(bytes) }),
                    sections(&[&[2], &bytes_of(&start(bytes))]),
                ] {
                    let (replied, _) = reply_to(scene().await, &sent, cut).await;
                    assert!(refused(&replied), "{enforcement:?} {bytes} {replied}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_authentication_was_answered_locally_can_move() {
    let mut scene = authenticated_scene().await;
    let sent = [
        request(1, &doc! { "hello": 1, "speculativeAuthenticate": { "saslStart": 1 } }),
        request(2, &doc! { "saslStart": 1 }),
        request(3, &doc! { "authenticate": 1, "mechanism": "MONGODB-X509" }),
        request(4, &doc! { "logout": 1 }),
    ];
    let (drain, renewal) = (scene.drain.watch(), Renewal::new(Duration::from_mins(10)).watch());
    let (client, upstream, relay) = (&mut scene.client, &mut scene.upstream, &mut scene.relay);
    let script = async {
        client.write_all(&sent.concat()).await.unwrap();
        assert_eq!(read_message(upstream).await, request(1, &doc! { "hello": 1 }));
        upstream.write_all(&reply(90, 1)).await.unwrap();
        upstream.flush().await.unwrap();
        for _ in 0..4 {
            read_message(client).await;
        }
    };
    tokio::select! {
        turn = relay.run(Vec::new(), &drain, &renewal) => unreachable!("{turn:?}"),
        () = script => {}
    }
    assert_eq!(relay.introduction(), Some(&request(1, &doc! { "hello": 1 })[..]));
}
