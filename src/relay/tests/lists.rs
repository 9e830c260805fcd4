//! The relay with a policy in force that hides `shop.secret`, and replies that list it.

use super::policy::{find, insert, read_denial, scene_with_policy};
use super::*;
use crate::config::Enforcement;
use crate::wire::error_reply;

fn list(id: i32) -> Vec<u8> {
    request(id, &doc! { "listCollections": 1, "$db": "shop" })
}

/// A list of `secret`, `orders` and many others, of about `bytes` bytes.
fn document(cursor: i64, bytes: usize, with_secret: bool) -> Document {
    let mut names = vec!["orders".to_owned()];
    if with_secret {
        names.insert(0, "secret".to_owned());
    }
    names.extend((0..bytes / 50).map(|n| format!("collection-{n:0>8}")));
    let batch: Vec<_> = names.iter().map(|name| doc! { "name": name, "type": "collection" }).collect();
    doc! { "cursor": { "id": cursor, "ns": "shop.$cmd.listCollections", "firstBatch": batch }, "ok": 1.0 }
}

fn encoded(id: i32, response_to: i32, body: &Document) -> Vec<u8> {
    op_msg::encode(id, response_to, &bson::RawDocumentBuf::try_from(body).unwrap())
}

/// The reply of mongod, and what the client reads in its place.
fn listed(id: i32, response_to: i32, bytes: usize) -> (Vec<u8>, Vec<u8>) {
    [true, false].map(|with_secret| encoded(id, response_to, &document(0, bytes, with_secret))).into()
}

const LONG: usize = 300_000;

#[tokio::test]
async fn a_list_is_filtered_in_its_place_between_other_replies_in_pieces_of_any_size() {
    for (cut, bytes) in [(1, 500), (7, 500), (16, 500), (100, 40_000), (100_000, 500), (5000, LONG), (100_000, LONG)] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        let budget = policy.hold_budget();
        let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
            let asked = [find(1, "orders"), list(2), find(3, "secret"), find(4, "orders")];
            client.write_all(&asked.concat()).await.unwrap();
            for id in [0, 1, 3] {
                assert_eq!(read_message(&mut upstream).await, asked[id]);
            }
            let (sent, read) = listed(92, 2, bytes);
            let replies = [reply(91, 1), sent, reply(94, 4)].concat();
            let writing = async {
                for piece in replies.chunks(cut) {
                    upstream.write_all(piece).await.unwrap();
                    upstream.flush().await.unwrap();
                }
            };
            let reading = async {
                assert_eq!(read_message(&mut client).await, reply(91, 1));
                assert!(read_message(&mut client).await == read);
                read_denial(&mut client, 3).await;
                assert_eq!(read_message(&mut client).await, reply(94, 4));
            };
            tokio::join!(writing, reading);
        }))
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((end.commands, end.denied, end.errors, end.unanswered), (3, 1, 0, 0));
        drop(budget.take_everything_for_replies());
    }
}

#[tokio::test]
async fn a_client_that_may_see_everything_reads_the_reply_as_it_arrives() {
    for (enforcement, database) in [(Enforcement::Enforce, "vault"), (Enforcement::DryRun, "shop")] {
        let (scene, _policy) = scene_with_policy(enforcement).await;
        play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&request(1, &doc! { "listCollections": 1, "$db": database })).await.unwrap();
            read_message(&mut upstream).await;
            let (sent, _) = listed(90, 1, 5000);
            upstream.write_all(&sent[..4000]).await.unwrap();
            upstream.flush().await.unwrap();
            let mut begun = vec![0; 4000];
            client.read_exact(&mut begun).await.unwrap();
            assert!(begun == sent[..4000]);
            upstream.write_all(&sent[4000..]).await.unwrap();
            upstream.flush().await.unwrap();
            let mut rest = vec![0; sent.len() - 4000];
            client.read_exact(&mut rest).await.unwrap();
            assert!(rest == sent[4000..]);
        })
        .await;
    }
}

#[tokio::test]
async fn the_batches_of_a_list_are_filtered_and_its_cursor_is_for_lists_only() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    play(scene, |mut client, mut upstream, _drain| async move {
        let (client, upstream) = (&mut client, &mut upstream);
        let open = encoded(90, 1, &document(7, 0, true));
        exchange(client, upstream, &list(1), &open, &encoded(90, 1, &document(7, 0, false))).await;
        let next =
            |id, collection: &str| request(id, &doc! { "getMore": 7_i64, "collection": collection, "$db": "shop" });
        let batch = |with_secret: bool, id: i32, to: i32| {
            let names = if with_secret { vec!["secret"] } else { vec![] };
            let batch: Vec<_> = names.iter().map(|name| doc! { "name": *name, "type": "collection" }).collect();
            let cursor = doc! { "id": 7_i64, "ns": "shop.$cmd.listCollections", "nextBatch": batch };
            encoded(id, to, &doc! { "cursor": cursor, "ok": 1.0 })
        };
        // An empty batch with a cursor that goes on is no end to a driver.
        let asked = next(2, "$cmd.listCollections");
        exchange(client, upstream, &asked, &batch(true, 91, 2), &batch(false, 91, 2)).await;
        // Another namespace would give the batch another meaning here than in a server that does not compare it.
        client.write_all(&next(3, "orders")).await.unwrap();
        read_denial(client, 3).await;
        // After a reload the policy in force judges the list, and shows what it allows.
        policy.change(Enforcement::Enforce, Some("other"));
        exchange(client, upstream, &next(4, "$cmd.listCollections"), &batch(true, 92, 4), &batch(true, 92, 4)).await;
        policy.change(Enforcement::Enforce, Some("*"));
        client.write_all(&next(5, "$cmd.listCollections")).await.unwrap();
        read_denial(client, 5).await;
    })
    .await;
}

async fn write(upstream: &mut server::TlsStream<DuplexStream>, bytes: &[u8]) -> io::Result<()> {
    upstream.write_all(bytes).await?;
    upstream.flush().await
}

/// The client asks, mongod replies, and the client reads.
async fn exchange(
    client: &mut DuplexStream,
    upstream: &mut server::TlsStream<DuplexStream>,
    asked: &[u8],
    replied: &[u8],
    read: &[u8],
) {
    client.write_all(asked).await.unwrap();
    assert_eq!(read_message(upstream).await, asked);
    upstream.write_all(replied).await.unwrap();
    upstream.flush().await.unwrap();
    assert_eq!(read_message(client).await, read);
}

#[tokio::test]
async fn the_policy_in_force_when_the_reply_arrives_decides_what_it_shows() {
    for (denied, shows_secret) in [(Some("secret"), false), (Some("other"), true), (None, true)] {
        for bytes in [500, LONG] {
            let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
            policy.set(Enforcement::Enforce, Some("another"));
            Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
                client.write_all(&list(1)).await.unwrap();
                read_message(&mut upstream).await;
                match denied {
                    Some(_) => policy.set(Enforcement::Enforce, denied),
                    None => policy.remove(),
                }
                let (sent, filtered) = listed(90, 1, bytes);
                let expected = if shows_secret { &sent } else { &filtered };
                let (written, read) = tokio::join!(write(&mut upstream, &sent), read_message(&mut client));
                written.unwrap();
                assert!(read == *expected, "{denied:?} {bytes}");
            }))
            .await;
        }
    }
}

#[tokio::test]
async fn a_list_in_the_legacy_form_is_filtered() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    play(scene, |mut client, mut upstream, _drain| async move {
        let body = bson::serialize_to_vec(&doc! { "listCollections": 1 }).unwrap();
        let rest = [&[0; 4][..], b"shop.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &body].concat();
        let length = u32::try_from(HEADER_BYTES + rest.len()).unwrap();
        let header = Header { length, request_id: 1, response_to: 0, op_code: OpCode::QUERY };
        let asked = [&header.to_bytes(), rest.as_slice()].concat();
        let [sent, read] = [true, false].map(|with_secret| {
            error_reply::reply(&header, &bson::RawDocumentBuf::try_from(&document(0, 0, with_secret)).unwrap())
        });
        exchange(&mut client, &mut upstream, &asked, &sent, &read).await;
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_cannot_be_filtered_ends_the_connection_and_is_not_forwarded() {
    let unreadable = encoded(90, 1, &doc! { "ok": 1.0, "collections": ["secret"] });
    let long = encoded(90, 1, &doc! { "ok": 1.0, "collections": ["secret".repeat(50_000)] });
    // A reply to a request that the client has not sent may be the list.
    let to_another = encoded(90, 77, &doc! { "ok": 1.0, "collections": ["secret"] });
    for (reply, reason) in [
        (unreadable, "sent a list that cannot be parsed, which the policy cannot filter"),
        (long, "sent a list that cannot be parsed, which the policy cannot filter"),
        (to_another, "sent a list that cannot be parsed, which the policy cannot filter"),
        (vec![7; 40], "sent an impossible message length, which the policy cannot filter"),
    ] {
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&list(1)).await.unwrap();
            read_message(&mut upstream).await;
            let reading = async { assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0) };
            // The relay may close before it has read everything.
            let (_, ()) = tokio::join!(write(&mut upstream, &reply), reading);
        }))
        .await;
        is(&end, Side::Upstream, reason);
        assert!(!end.is_orderly() && !end.is_protocol_error());
    }
}

#[tokio::test]
async fn a_policy_that_comes_into_force_ends_a_stream_of_replies_without_boundaries() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.remove();
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&list(1)).await.unwrap();
        read_message(&mut upstream).await;
        for _ in 0..2 {
            upstream.write_all(&[7; 40]).await.unwrap();
            upstream.flush().await.unwrap();
            client.read_exact(&mut [0; 40]).await.unwrap();
        }
        policy.set(Enforcement::Enforce, Some("secret"));
        upstream.write_all(&[7; 40]).await.unwrap();
        upstream.flush().await.unwrap();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    })
    .await;
    is(&end, Side::Upstream, "sent an impossible message length, which the policy cannot filter");
}

#[tokio::test(start_paused = true)]
async fn a_long_list_waits_for_its_budget_and_requests_do_not() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    let everything = budget.take_everything_for_replies();
    let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&list(1)).await.unwrap();
        read_message(&mut upstream).await;
        let (sent, read) = listed(90, 1, LONG);
        let (mut upstream_reads, mut upstream_writes) = tokio::io::split(upstream);
        let long = insert(2, "orders", 100_000);
        let reading = async {
            // The paused clock advances when every task waits.
            let early = tokio::time::timeout(Duration::from_mins(5), client.read(&mut [0; 1])).await;
            assert!(early.is_err(), "{early:?}");
            // A request is forwarded meanwhile.
            client.write_all(&long).await.unwrap();
            assert!(read_message(&mut upstream_reads).await == long);
            drop(everything);
            assert!(read_message(&mut client).await == read);
        };
        let (written, ()) = tokio::join!(
            async {
                upstream_writes.write_all(&sent).await?;
                upstream_writes.write_all(&reply(91, 2)).await?;
                upstream_writes.flush().await
            },
            reading
        );
        written.unwrap();
        assert_eq!(read_message(&mut client).await, reply(91, 2));
    }))
    .await;
    is(&end, Side::Client, "closed");
    drop(budget.take_everything_for_replies());
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_returned_when_the_list_does_not_have_to_be_held_any_longer() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    let everything = budget.take_everything_for_replies();
    Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&list(1)).await.unwrap();
        read_message(&mut upstream).await;
        let (sent, _) = listed(90, 1, LONG);
        let reading = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            policy.remove();
            drop(everything);
            assert!(read_message(&mut client).await == sent);
        };
        let (written, ()) = tokio::join!(write(&mut upstream, &sent), reading);
        written.unwrap();
        drop(budget.take_everything_for_replies());
    }))
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_long_list_has_to_arrive_and_to_be_taken_in_time() {
    for (all_arrives, side) in [(false, Side::Upstream), (true, Side::Client)] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        let budget = policy.hold_budget();
        let started = Instant::now();
        let (end, _kept_open) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&list(1)).await.unwrap();
            read_message(&mut upstream).await;
            let (sent, _) = listed(90, 1, LONG);
            let sent = if all_arrives { &sent } else { &sent[..sent.len() - 1] };
            upstream.write_all(sent).await.unwrap();
            upstream.flush().await.unwrap();
            (client, upstream)
        }))
        .await;
        is(&end, side, "socket failed");
        // Ten seconds, and one for its mebibyte.
        assert_eq!(started.elapsed().as_secs(), 11);
        drop(budget.take_everything_for_replies());
    }
}

#[tokio::test]
async fn an_upstream_that_closes_behind_a_long_list_does_not_cut_it_short() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&list(1)).await.unwrap();
        read_message(&mut upstream).await;
        let (sent, read) = listed(90, 1, LONG);
        let writing = async {
            upstream.write_all(&sent).await.unwrap();
            upstream.shutdown().await.unwrap();
        };
        let ((), found) = tokio::join!(writing, read_message(&mut client));
        assert!(found == read);
    }))
    .await;
    is(&end, Side::Upstream, "closed");
}
