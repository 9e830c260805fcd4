//! The relay between a scripted client and a scripted mongod, over in-memory pipes and real TLS.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc, rawdoc};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, server};

use super::*;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::renewal::Renewal;
use crate::telemetry::metrics::ListenerMetrics;
use crate::tls::TlsStream;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::op_msg;

mod buffering_client;
mod gateway_authentication;
mod holding;
mod lists;
mod member_names;
mod migration;
mod policy;
mod reloads;
mod sessions;
mod sharing;
mod stored_documents;
mod turns;
mod versions;

/// Bytes that a pipe holds before its writer has to wait, as a small socket buffer does.
const PIPE_BYTES: usize = 16 * 1024;

struct Scene {
    client: DuplexStream,
    upstream: server::TlsStream<DuplexStream>,
    relay: Relay<DuplexStream, DuplexStream>,
    drain: Drain,
}

const NOT_UNDERSTOOD: &str = "closed after a message that is not valid in the MongoDB wire protocol";

const OFF: Limits = Limits { idle_timeout: None, max_lifetime: None, lifetime_grace: None, half_close_timeout: None };

async fn scene(limits: Limits) -> Scene {
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let (side, upstream) = upstream(0).await;
    let relay = Relay::new(
        gateway_client,
        side,
        limits,
        stats(),
        Filters { tokens: None, policy: PolicyFilter::off(), handshake: HandshakeFilter::default() },
    );
    Scene { client, upstream, relay, drain: Drain::new() }
}

fn stats() -> ConnectionStats {
    ConnectionStats::new(Arc::new(ListenerMetrics::new("test")))
}

/// The relay's side of an upstream connection, and the server's side.
async fn upstream(generation: u64) -> (UpstreamSide<DuplexStream>, server::TlsStream<DuplexStream>) {
    upstream_behind(generation, PIPE_BYTES).await
}

/// The same, with a pipe that holds `pipe_bytes`.
async fn upstream_behind(
    generation: u64,
    pipe_bytes: usize,
) -> (UpstreamSide<DuplexStream>, server::TlsStream<DuplexStream>) {
    let (gateway_socket, server_socket) = tokio::io::duplex(pipe_bytes);
    let (config, acceptor) = tls_pair();
    let name = ServerName::try_from("localhost").unwrap();
    let (client, server) =
        tokio::join!(TlsStream::connect(config, name, gateway_socket), acceptor.accept(server_socket));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // A connection is proven before the relay gets it, so that nothing of the handshake is under way.
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    client.read_u8().await.unwrap();
    let (socket, session) = client.into_parts();
    (UpstreamSide { socket, session, generation }, server)
}

fn tls_pair() -> (Arc<rustls::ClientConfig>, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (Arc::new(client), TlsAcceptor::from(Arc::new(server)))
}

fn request(id: i32, body: &Document) -> Vec<u8> {
    op_msg::encode(id, 0, &bson::RawDocumentBuf::try_from(body).unwrap())
}

fn reply(id: i32, response_to: i32) -> Vec<u8> {
    op_msg::encode(id, response_to, &rawdoc! { "ok": 1.0 })
}

fn with_flags(mut message: Vec<u8>, flags: u32) -> Vec<u8> {
    message[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&flags.to_le_bytes());
    message
}

async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut head = [0; HEADER_BYTES];
    from.read_exact(&mut head).await.unwrap();
    let header = Header::parse(head).unwrap();
    let mut message = head.to_vec();
    message.resize(header.length as usize, 0);
    from.read_exact(&mut message[HEADER_BYTES..]).await.unwrap();
    message
}

/// Runs the relay together with `script`, which acts as client and mongod. Returns the relay's end and the script's
/// result.
async fn play<F: Future<Output = T>, T>(
    scene: Scene,
    script: impl FnOnce(DuplexStream, server::TlsStream<DuplexStream>, Drain) -> F,
) -> (RelayEnd, T) {
    let Scene { client, upstream, mut relay, drain } = scene;
    let watch = drain.watch();
    let renewal = Renewal::new(Duration::from_mins(10)).watch();
    let relayed = async {
        match relay.run(Vec::new(), &watch, &renewal).await {
            RelayEvent::Ended(end) => end,
            event => unreachable!("no certificate set is replaced: {event:?}"),
        }
    };
    tokio::join!(relayed, script(client, upstream, drain))
}

/// Checks the side that has ended the conversation, and the reason up to its first colon.
#[track_caller]
fn is(end: &RelayEnd, by: Side, reason: &str) {
    assert_eq!((end.ended_by, end.reason.to_string().split(':').next().unwrap()), (by, reason), "{end:?}");
}

#[tokio::test]
async fn a_request_and_its_reply_arrive_byte_for_byte() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
        let sent = request(5, &doc! { "find": "orders", "$db": "shop" });
        client.write_all(&sent).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, sent);
        upstream.write_all(&reply(90, 5)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 5));
    })
    .await;
    is(&end, Side::Client, "closed");
    assert_eq!((end.commands, end.errors, end.unanswered), (1, 0, 0));
}

#[tokio::test]
async fn large_messages_are_forwarded_both_ways_through_small_pipes() {
    let big = "x".repeat(5_000_000);
    let (end, ()) = Box::pin(play(scene(OFF).await, |client, upstream, _drain| async move {
        let sent = request(5, &doc! { "insert": "orders", "documents": [{ "t": &big }], "$db": "shop" });
        let replied = op_msg::encode(90, 5, &rawdoc! { "cursor": { "firstBatch": [big.as_str()] }, "ok": 1.0 });
        let (mut client_reads, mut client_writes) = tokio::io::split(client);
        let (sent_copy, replied_copy) = (sent.clone(), replied.clone());
        let talk = async move {
            client_writes.write_all(&sent).await.unwrap();
            client_writes
        };
        let serve = async move {
            let mut upstream = upstream;
            assert!(read_message(&mut upstream).await == sent_copy);
            upstream.write_all(&replied).await.unwrap();
            upstream.flush().await.unwrap();
            upstream
        };
        let listen = async move {
            assert!(read_message(&mut client_reads).await == replied_copy);
            client_reads
        };
        let _keep = tokio::join!(talk, serve, listen);
    }))
    .await;
    assert_eq!((end.commands, end.unanswered), (1, 0));
}

#[tokio::test]
async fn an_upstream_that_closes_after_an_invalid_message_is_not_at_fault() {
    let good = request(5, &doc! { "ping": 1, "$db": "admin" });
    let unknown = [&good[..12], &4711_i32.to_le_bytes(), &good[16..]].concat();
    let broken = [with_flags(good.clone(), 4), unknown, vec![0; 20]];
    for (message, reason) in broken.iter().map(|broken| (broken, NOT_UNDERSTOOD)).chain([(&good, "interrupted")]) {
        let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
            client.write_all(message).await.unwrap();
            upstream.read_exact(&mut vec![0; message.len()]).await.unwrap();
            drop(upstream);
            assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        })
        .await;
        is(&end, Side::Upstream, reason);
        assert_eq!(end.is_protocol_error(), reason == NOT_UNDERSTOOD);
    }
}

#[tokio::test]
async fn a_hello_in_pieces_of_any_size_loses_its_compression() {
    for cut in [1, 17, 40, 1000] {
        let (_, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
            let hello = request(5, &doc! { "hello": 1, "compression": ["zstd", "zlib"], "$db": "admin" });
            for piece in hello.chunks(cut) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(read_message(&mut upstream).await, request(5, &doc! { "hello": 1, "$db": "admin" }));
        })
        .await;
    }
}

#[tokio::test]
async fn an_unacknowledged_request_gets_no_reply_and_the_next_one_gets_its_own() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
        let insert = with_flags(request(1, &doc! { "insert": "c", "documents": [{}], "$db": "s" }), 2);
        let ping = request(2, &doc! { "ping": 1, "$db": "admin" });
        client.write_all(&[insert.clone(), ping.clone()].concat()).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, insert);
        assert_eq!(read_message(&mut upstream).await, ping);
        upstream.write_all(&reply(90, 2)).await.unwrap();
        read_message(&mut client).await;
    })
    .await;
    assert_eq!((end.commands, end.unanswered), (2, 0));
}

#[tokio::test]
async fn a_stream_of_replies_counts_once_and_does_not_delay_a_drain() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, drain| async move {
        let hello = with_flags(request(500, &doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "$db": "admin" }), 1 << 16);
        client.write_all(&hello).await.unwrap();
        read_message(&mut upstream).await;
        for (id, response_to) in [(450, 500), (451, 450), (452, 451)] {
            upstream.write_all(&with_flags(reply(id, response_to), 2)).await.unwrap();
            read_message(&mut client).await;
        }
        drain.begin();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "drained");
    assert_eq!(end.commands, 1);
}

#[tokio::test]
async fn a_drain_waits_for_the_command_in_flight() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, drain| async move {
        let insert = request(1, &doc! { "insert": "c", "documents": [{ "text": "x".repeat(1000) }], "$db": "s" });
        let (first, second) = insert.split_at(500);
        client.write_all(first).await.unwrap();
        let mut arrived = vec![0; 400];
        upstream.read_exact(&mut arrived).await.unwrap();
        drain.begin();
        client.write_all(second).await.unwrap();
        arrived.resize(insert.len(), 0);
        upstream.read_exact(&mut arrived[400..]).await.unwrap();
        assert_eq!(arrived, insert);
        upstream.write_all(&reply(90, 1)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 1));
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "drained");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_request_of_which_nothing_has_gone_upstream() {
    for begun in [3, 18] {
        let (end, _kept_open) = play(scene(OFF).await, |mut client, upstream, drain| async move {
            client.write_all(&request(1, &doc! { "hello": 1, "$db": "s" })[..begun]).await.unwrap();
            tokio::task::yield_now().await;
            drain.begin();
            assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
            (client, upstream)
        })
        .await;
        is(&end, Side::Gateway, "drained");
    }
}

#[tokio::test]
async fn a_drain_waits_until_an_unacknowledged_write_has_left() {
    let insert =
        |text: &str| with_flags(request(1, &doc! { "insert": "c", "documents": [{ "t": text }], "$db": "s" }), 2);
    // The relay reads it at once. Its TLS records are slightly longer than the pipe to upstream.
    let insert = insert(&"x".repeat(PIPE_BYTES - insert("").len()));
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, drain| async move {
        client.write_all(&insert).await.unwrap();
        tokio::task::yield_now().await;
        drain.begin();
        tokio::task::yield_now().await;
        assert_eq!(read_message(&mut upstream).await, insert);
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "drained");
    assert_eq!(end.commands, 1);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_command_in_flight() {
    let (end, _kept_open) = play(scene(OFF).await, |mut client, mut upstream, drain| async move {
        client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        drain.begin();
        drain.stop();
        (client, upstream)
    })
    .await;
    is(&end, Side::Gateway, "stopped");
    assert_eq!(end.unanswered, 1);
}

#[tokio::test]
async fn replies_reach_a_client_that_has_closed_its_side() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        client.shutdown().await.unwrap();
        read_message(&mut upstream).await;
        assert_eq!(upstream.read(&mut [0; 1]).await.unwrap(), 0, "mongod sees the close at once");
        upstream.write_all(&reply(90, 1)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 1));
        drop(upstream);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Client, "closed");
}

#[tokio::test]
async fn an_upstream_that_closes_between_messages_is_in_order_and_in_a_message_it_is_not() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(1, &doc! { "ping": 1, "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
        // mongod closes without close_notify.
        drop(upstream);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Upstream, "closed");

    for cut in [0, 3, 16, 25] {
        let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
            client.write_all(&request(1, &doc! { "ping": 1, "$db": "s" })).await.unwrap();
            read_message(&mut upstream).await;
            upstream.write_all(&reply(90, 1)[..cut]).await.unwrap();
            upstream.flush().await.unwrap();
            drop(upstream);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert!(rest.len() <= cut, "the gateway adds nothing");
        })
        .await;
        is(&end, Side::Upstream, "interrupted");
    }
}

#[tokio::test]
async fn op_compressed_is_answered_with_an_error() {
    let (end, _kept_open) = play(scene(OFF).await, |mut client, upstream, _drain| async move {
        let header = Header { length: 40, request_id: 8, response_to: 0, op_code: OpCode::COMPRESSED };
        client.write_all(&[&header.to_bytes()[..], &[0; 24]].concat()).await.unwrap();
        (client, upstream)
    })
    .await;
    is(&end, Side::Client, "sent OP_COMPRESSED, which was not negotiated");
    let answer = Header::parse(*end.final_reply.first_chunk().unwrap()).unwrap();
    assert_eq!((answer.response_to, answer.length as usize), (8, end.final_reply.len()));
    assert!(String::from_utf8_lossy(&end.final_reply).contains("ProtocolError"));
}

#[tokio::test]
async fn a_stream_without_message_boundaries_is_forwarded_byte_for_byte() {
    let (end, ()) = play(scene(OFF).await, |mut client, mut upstream, _drain| async move {
        let garbage = [vec![7, 0, 0, 0], vec![0xAA; 100]].concat();
        client.write_all(&garbage).await.unwrap();
        let mut arrived = vec![0; garbage.len()];
        upstream.read_exact(&mut arrived).await.unwrap();
        assert_eq!(arrived, garbage);
        upstream.write_all(&[3; 50]).await.unwrap();
        client.read_exact(&mut [0; 50]).await.unwrap();
    })
    .await;
    assert_eq!((end.to_upstream_bytes, end.to_client_bytes), (104, 50));
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_ends_an_idle_connection_and_not_one_with_a_command_in_flight() {
    let limits = Limits { idle_timeout: Some(Duration::from_mins(1)), ..OFF };
    let begin = Instant::now();
    let (end, ()) = play(scene(limits).await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        tokio::time::sleep(Duration::from_mins(5)).await;
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "idle_timeout");
    let lasted = begin.elapsed().as_secs();
    assert!((360..=361).contains(&lasted), "{lasted} s");
}

#[tokio::test(start_paused = true)]
async fn a_connection_beyond_its_lifetime_ends_when_its_command_is_answered() {
    let limits = Limits { max_lifetime: Some(Duration::from_mins(1)), ..OFF };
    let begin = Instant::now();
    let (end, ()) = play(scene(limits).await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "max_lifetime");
    assert_eq!(begin.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_connection_far_beyond_its_lifetime_ends_also_while_its_command_runs() {
    let (lifetime, grace) = (Duration::from_mins(1), Duration::from_secs(30));
    let limits = Limits { max_lifetime: Some(lifetime), lifetime_grace: Some(grace), ..OFF };
    let begin = Instant::now();
    let (end, ()) = play(scene(limits).await, |mut client, mut upstream, _drain| async move {
        client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        read_message(&mut upstream).await;
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "max_lifetime and drain_timeout");
    assert_eq!(begin.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_closed_its_side_gets_replies_until_the_half_close_timeout() {
    let limits = Limits { half_close_timeout: Some(Duration::from_secs(30)), ..OFF };
    let begin = Instant::now();
    let (end, ()) = play(scene(limits).await, |mut client, mut upstream, _drain| async move {
        let find = |id| request(id, &doc! { "find": "c", "$db": "s" });
        client.write_all(&[find(1), find(2)].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        read_message(&mut upstream).await;
        read_message(&mut upstream).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Gateway, "half_close_timeout");
    assert_eq!((begin.elapsed().as_secs(), end.unanswered), (30, 1));
}

/// A client that sends more than the gateway reads, and leaves.
async fn leave_unread(closed_by_client: fn(&DuplexStream) -> Option<Shutdown>) -> (RelayEnd, u64) {
    let limits = Limits { half_close_timeout: Some(Duration::from_secs(30)), ..OFF };
    let mut scene = scene(limits).await;
    scene.relay.look_for_clients_that_left(closed_by_client);
    let begin = Instant::now();
    let (end, _sockets) = play(scene, |mut client, upstream, _drain| async move {
        let filler = "x".repeat(PIPE_BYTES * 40);
        let insert = request(1, &doc! { "insert": "c", "documents": [{ "filler": filler }], "$db": "s" });
        let written = tokio::time::timeout(Duration::from_millis(1), client.write_all(&insert)).await;
        assert!(written.is_err(), "mongod reads nothing, so that the gateway stops reading");
        (client, upstream)
    })
    .await;
    (end, begin.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_is_not_read_is_noticed() {
    let (end, seconds) = leave_unread(|_| Some(Shutdown::Both)).await;
    is(&end, Side::Client, "socket failed");
    assert_eq!(seconds, 5);
    let (end, seconds) = leave_unread(|_| Some(Shutdown::Write)).await;
    is(&end, Side::Gateway, "half_close_timeout");
    assert_eq!(seconds, 35);
}

#[tokio::test]
async fn a_dismissed_client_gets_the_reply_that_it_waits_for_unless_it_has_to_leave_at_once() {
    for (dismissal, is_answered) in [(Dismissal::WhenIdle, true), (Dismissal::AtOnce, false)] {
        let mut scene = scene(OFF).await;
        scene.relay.dismiss(dismissal);
        scene.client.write_all(&request(1, &doc! { "find": "c", "$db": "s" })).await.unwrap();
        let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            if is_answered {
                read_message(&mut upstream).await;
                upstream.write_all(&reply(90, 1)).await.unwrap();
                upstream.flush().await.unwrap();
                read_message(&mut client).await;
            }
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        })
        .await;
        is(&end, Side::Gateway, "client certificate no longer accepted");
        assert_eq!(end.unanswered, usize::from(!is_answered));
    }
}

#[tokio::test]
async fn pipelined_requests_beyond_the_limit_wait_and_are_not_lost() {
    let (end, ()) = play(scene(OFF).await, |client, mut upstream, _drain| async move {
        let count = i32::try_from(in_flight::IN_FLIGHT_MAX).unwrap() + 500;
        let (mut reads, mut writes) = tokio::io::split(client);
        let ask = async move {
            for id in 1..=count {
                writes.write_all(&request(id, &doc! { "ping": 1, "$db": "admin" })).await.unwrap();
            }
            writes
        };
        let answer = async move {
            for id in 1..=count {
                read_message(&mut upstream).await;
                upstream.write_all(&reply(100_000 + id, id)).await.unwrap();
                upstream.flush().await.unwrap();
            }
            upstream
        };
        let listen = async move {
            for id in 1..=count {
                assert_eq!(read_message(&mut reads).await, reply(100_000 + id, id));
            }
            reads
        };
        let _keep = tokio::join!(ask, answer, listen);
    })
    .await;
    assert_eq!(end.unanswered, 0);
    assert_eq!(end.commands, in_flight::IN_FLIGHT_MAX as u64 + 500);
}
