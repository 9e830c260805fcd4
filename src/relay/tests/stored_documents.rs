//! The relay with a policy in force, and documents with a duplicate field in document sequences.

use super::policy::{TestPolicy, scene_with_filters};
use super::*;
use crate::command::Unclear;
use crate::config::Enforcement;

async fn scene_of(enforcement: Enforcement) -> (Scene, Arc<TestPolicy>) {
    scene_with_filters(enforcement, HandshakeFilter::default()).await
}

fn good(bytes: usize) -> Vec<u8> {
    bson::serialize_to_vec(&doc! { "t": 1, "text": "x".repeat(bytes), "value": { "a": [1, { "b": 1 }] } }).unwrap()
}

fn bad() -> Vec<u8> {
    rawdoc! { "t": 1, "value": { "a": 1, "b": 2, "a": 3 } }.into_bytes()
}

/// An insert with these documents in a document sequence.
fn insert(id: i32, documents: &[Vec<u8>]) -> Vec<u8> {
    sequence_of(request(id, &doc! { "insert": "orders", "$db": "shop" }), "documents", documents)
}

fn sequence_of(mut message: Vec<u8>, identifier: &str, documents: &[Vec<u8>]) -> Vec<u8> {
    let documents = documents.concat();
    let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).unwrap();
    message.extend([&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], &documents].concat());
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

fn error_in(message: &[u8]) -> (i32, Document) {
    let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
    (header.response_to, bson::deserialize_from_slice(&message[HEADER_BYTES + 5..]).unwrap())
}

/// A document with as many fields.
fn wide(fields: usize) -> Vec<u8> {
    let document: Document = (0..fields).map(|at| (format!("{at:x}"), bson::Bson::Null)).collect();
    bson::serialize_to_vec(&document).unwrap()
}

/// What upstream gets until its connection ends, while the client sends as much of `message` as the relay reads.
async fn arrived_while_sending(
    client: &mut DuplexStream,
    message: &[u8],
    cut: usize,
    mut upstream: impl AsyncRead + Unpin,
) -> Vec<u8> {
    let sending = async {
        for piece in message.chunks(cut) {
            client.write_all(piece).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let mut arrived = Vec::new();
    // A connection that is cut short may have no close_notify.
    tokio::select! {
        () = sending => {}
        _ = upstream.read_to_end(&mut arrived) => {}
    }
    arrived
}

#[tokio::test]
async fn a_short_insert_with_a_duplicate_field_is_answered_and_the_next_one_is_forwarded() {
    let sent = [insert(1, &[good(10), bad()]), insert(2, &[good(10), good(20)])];
    for cut in [1, 7, 40, 90, 100_000] {
        let (scene, _policy) = scene_of(Enforcement::Enforce).await;
        let (end, ()) = play(scene, |mut client, mut upstream, _drain| {
            let sent = sent.clone();
            async move {
                for piece in sent.concat().chunks(cut) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let (id, error) = error_in(&read_message(&mut client).await);
                assert_eq!((id, error.get_i32("code").unwrap()), (1, 13), "{error}");
                let sentence = error.get_str("errmsg").unwrap();
                assert!(sentence.contains("a document has the same field twice"), "{sentence}");
                assert_eq!(read_message(&mut upstream).await, sent[1]);
            }
        })
        .await;
        assert_eq!(end.denied, 1);
    }
}

#[tokio::test]
async fn a_long_insert_is_cut_short_at_a_duplicate_field_and_the_client_gets_the_error() {
    let before: Vec<_> = (0..40).map(|at| good(1000 * at)).collect();
    let message = insert(7, &[before, vec![bad(), good(40_000)]].concat());
    for (flags, is_answered) in [(0, true), (2, false)] {
        for cut in [977, 16 * 1024, 64 * 1024] {
            let (scene, _policy) = scene_of(Enforcement::Enforce).await;
            let message = with_flags(message.clone(), flags);
            let (end, ()) = play(scene, |mut client, upstream, _drain| {
                let message = message.clone();
                async move {
                    let arrived = arrived_while_sending(&mut client, &message, cut, upstream).await;
                    assert!(arrived.len() < message.len() - 40_000 && message.starts_with(&arrived));
                }
            })
            .await;
            assert!(matches!(end.reason, EndReason::RefusedDocument(Unclear::DuplicateField)), "{end:?}");
            assert_eq!(!end.final_reply.is_empty(), is_answered);
            if is_answered {
                let (id, error) = error_in(&end.final_reply);
                assert_eq!((id, error.get_i32("code").unwrap()), (7, 13), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn documents_without_a_duplicate_field_are_forwarded_in_pieces_of_any_size() {
    let documents: Vec<_> = (0..30).map(|at| good(100 * at)).chain([wide(3000)]).collect();
    let filters = rawdoc! { "q": { "a": 1, "a": 2 }, "u": { "$set": { "b": { "c": 1, "c": 2 } } } };
    let update = request(2, &doc! { "update": "orders", "$db": "shop" });
    let sent = [insert(1, &documents), sequence_of(update, "updates", &[filters.into_bytes()])];
    for cut in [11, 1000, 16 * 1024] {
        let (scene, _policy) = scene_of(Enforcement::Enforce).await;
        let (_, ()) = play(scene, |mut client, mut upstream, _drain| {
            let sent = sent.clone();
            async move {
                for message in sent {
                    let writing = async {
                        for piece in message.chunks(cut) {
                            client.write_all(piece).await.unwrap();
                        }
                    };
                    let ((), arrived) = tokio::join!(writing, read_message(&mut upstream));
                    assert!(arrived == message);
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_dry_run_forwards_a_duplicate_field_and_reports_it_once() {
    for message in [insert(1, &[bad()]), insert(1, &[good(300_000), bad(), good(300_000)])] {
        let (scene, policy) = scene_of(Enforcement::DryRun).await;
        let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            let (written, arrived) = tokio::join!(client.write_all(&message), read_message(&mut upstream));
            written.unwrap();
            assert!(arrived == message);
        })
        .await;
        assert_eq!(policy.logged(), ["would_deny (not understood) insert shop 1"]);
    }
}

#[tokio::test]
async fn an_update_of_buckets_with_a_duplicate_field_is_refused() {
    let statement = rawdoc! { "q": { "a": 1, "a": 2 }, "u": { "$set": { "control.min": { "c": 1, "c": 2 } } } };
    let update = |body: &Document| sequence_of(request(1, body), "updates", &[statement.clone().into_bytes()]);
    let raw = update(&doc! { "update": "orders", "rawData": true, "$db": "shop" });
    let buckets = update(&doc! { "update": "system.buckets.orders", "$db": "shop" });
    for message in [raw, buckets] {
        let (scene, _policy) = scene_of(Enforcement::Enforce).await;
        let (_, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
            client.write_all(&message).await.unwrap();
            let (_, error) = error_in(&read_message(&mut client).await);
            assert!(error.get_str("errmsg").unwrap().contains("twice"), "{error}");
            upstream
        })
        .await;
    }
}

#[tokio::test]
async fn a_sequence_that_ends_in_the_middle_of_a_document_is_refused() {
    let mut torn = good(10);
    torn.pop();
    for before in [0, 300_000] {
        let message = insert(1, &[good(before), torn.clone()]);
        let (scene, _policy) = scene_of(Enforcement::Enforce).await;
        let (end, ()) = play(scene, |mut client, upstream, _drain| async move {
            if before > 0 {
                let arrived = arrived_while_sending(&mut client, &message, 10_000, upstream).await;
                assert!(arrived.len() < message.len());
            } else {
                client.write_all(&message).await.unwrap();
                let (_, error) = error_in(&read_message(&mut client).await);
                assert!(error.get_str("errmsg").unwrap().contains("not valid BSON"), "{error}");
                drop(upstream);
            }
        })
        .await;
        assert_eq!(end.denied, u64::from(before == 0));
    }
}

#[tokio::test]
async fn the_names_of_a_very_wide_document_count_against_the_hold_budget() {
    let message = insert(1, &[wide(20_000)]);
    let (scene, policy) = scene_of(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| {
        let message = message.clone();
        async move {
            let (written, arrived) = tokio::join!(client.write_all(&message), read_message(&mut upstream));
            written.unwrap();
            assert!(arrived == message);
            drop(budget.take_everything());
        }
    })
    .await;
    let (scene, policy) = scene_of(Enforcement::Enforce).await;
    let everything = policy.hold_budget().take_everything();
    let (end, ()) = play(scene, |mut client, upstream, _drain| async move {
        let arrived = arrived_while_sending(&mut client, &message, 10_000, upstream).await;
        assert!(arrived.len() < message.len());
    })
    .await;
    drop(everything);
    assert!(matches!(end.reason, EndReason::RefusedDocument(Unclear::TooManyFields)), "{end:?}");
}
