//! What the relay changes in requests under a policy: the ids of sessions, and the flag that allows a stream of
//! replies.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson};

use super::policy::scene_with_policy;
use super::*;
use crate::config::Enforcement;
use crate::policy::SessionOwner;

pub(super) const EXHAUST: u32 = 1 << 16;

/// The id of a session as the client calls it, and as it is in mongod.
fn ids(n: u8) -> [[u8; 16]; 2] {
    [[n; 16], SessionOwner::listener("test").id_in_mongod(&[n; 16])]
}

fn session(id: [u8; 16]) -> Bson {
    doc! { "id": Binary { subtype: BinarySubtype::Uuid, bytes: id.to_vec() } }.into()
}

/// The same message as the client sends it and as mongod has to receive it: `make` gets the ids of two sessions.
fn both(make: impl Fn(Bson, Bson) -> Vec<u8>) -> [Vec<u8>; 2] {
    let ([a, mapped_a], [b, mapped_b]) = (ids(1), ids(2));
    [make(session(a), session(b)), make(session(mapped_a), session(mapped_b))]
}

pub(super) fn message(sections: &[Vec<u8>], flags: u32) -> Vec<u8> {
    let checksum_bytes = if flags & 1 == 0 { 0 } else { 4 };
    let payload = [&flags.to_le_bytes()[..], &sections.concat(), &[0; 4][..checksum_bytes]].concat();
    let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
    let header = Header { length, request_id: 1, response_to: 0, op_code: OpCode::MSG };
    let mut message = [&header.to_bytes()[..], &payload].concat();
    if checksum_bytes > 0 {
        let covered = message.len() - 4;
        let checksum = crc32c::crc32c(&message[..covered]);
        message[covered..].copy_from_slice(&checksum.to_le_bytes());
    }
    message
}

pub(super) fn body(document: &Document) -> Vec<u8> {
    [vec![0], bson::serialize_to_vec(document).unwrap()].concat()
}

fn documents(bytes: usize) -> Vec<u8> {
    let document = bson::serialize_to_vec(&doc! { "t": "x".repeat(bytes) }).unwrap();
    let size = i32::try_from(4 + 10 + document.len()).unwrap();
    [&[1][..], &size.to_le_bytes(), b"documents\0", &document].concat()
}

fn query(command: &Document) -> Vec<u8> {
    let document = bson::serialize_to_vec(command).unwrap();
    let payload = [&[0; 4][..], b"shop.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &document].concat();
    let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
    let header = Header { length, request_id: 1, response_to: 0, op_code: OpCode::QUERY };
    [&header.to_bytes()[..], &payload].concat()
}

/// Messages of every form that name sessions.
fn all() -> Vec<[Vec<u8>; 2]> {
    let mut all = Vec::new();
    for flags in [0, 1] {
        let insert = |id: Bson| body(&doc! { "insert": "orders", "lsid": id, "txnNumber": 1_i64, "$db": "shop" });
        for bytes in [10, 20_000, 70_000, 300_000] {
            all.push(both(|a, _| message(&[insert(a), documents(bytes)], flags)));
            all.push(both(|a, _| message(&[documents(bytes), insert(a)], flags)));
            let within = |a: Bson| {
                let documents = [doc! { "t": "x".repeat(bytes), "lsid": 1 }];
                body(&doc! { "insert": "orders", "documents": documents, "lsid": a, "$db": "shop" })
            };
            all.push(both(|a, _| message(&[within(a)], flags)));
        }
        for name in ["endSessions", "refreshSessions", "killSessions"] {
            all.push(both(|a, b| message(&[body(&doc! { name: [&a, &b], "lsid": b, "$db": "admin" })], flags)));
        }
        let explained = |a: Bson, b: Bson| {
            doc! { "explain": { "find": "orders", "lsid": a }, "verbosity": "queryPlanner", "lsid": b, "$db": "shop" }
        };
        all.push(both(|a, b| message(&[body(&explained(a, b))], flags)));
        all.push(both(|a, _| message(&[body(&doc! { "hello": 1, "lsid": a, "$db": "admin" })], flags)));
        all.push(both(|a, b| {
            // A value that only looks like a session.
            let filter = doc! { "lsid": { "id": 1 }, "other": b.as_document().is_none() };
            message(&[body(&doc! { "find": "orders", "filter": filter, "lsid": a, "$db": "shop" })], flags)
        }));
    }
    all.push(both(|a, _| query(&doc! { "find": "orders", "lsid": a })));
    all.push(both(|a, b| query(&doc! { "$query": { "endSessions": [a, b] }, "$readPreference": {} })));
    all.push(both(|a, _| query(&doc! { "insert": "orders", "documents": [{ "t": "x".repeat(100_000) }], "lsid": a })));
    all
}

/// Checks that what the client sends in pieces arrives at mongod as it has to.
async fn check(scene: Scene, cut: usize, [sent, expected]: [Vec<u8>; 2]) {
    let (_, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        let writing = async {
            for piece in sent.chunks(cut) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        };
        let (client, arrived) = tokio::join!(writing, read_message(&mut upstream));
        let same = arrived.iter().zip(&expected).take_while(|(one, other)| one == other).count();
        assert!(arrived == expected, "{cut}, {} bytes, the first {same} are right", sent.len());
        // The request is not answered.
        drop((client, upstream));
    }))
    .await;
}

#[tokio::test]
async fn session_ids_are_mapped_in_every_message_whatever_its_form_and_however_it_is_cut() {
    for pair in all() {
        for cut in [1, 23, 4096, 1_000_000] {
            if pair[0].len() / cut < 20_000 {
                let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
                check(scene, cut, pair.clone()).await;
            }
        }
        let (scene, _policy) = scene_with_policy(Enforcement::DryRun).await;
        check(scene, 10_000, pair).await;
    }
}

#[tokio::test]
async fn a_wrong_checksum_remains_wrong_and_what_is_not_understood_is_mapped_in_a_dry_run() {
    let [mut sent, mut expected] =
        both(|a, _| message(&[body(&doc! { "find": "orders", "lsid": a, "$db": "shop" })], 1));
    for message in [&mut sent, &mut expected] {
        *message.last_mut().unwrap() ^= 1;
    }
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    check(scene, 1000, [sent, expected]).await;
    let (scene, _policy) = scene_with_policy(Enforcement::DryRun).await;
    check(scene, 1000, both(|a, _| message(&[body(&doc! { "no": 1, "lsid": a, "$db": "shop" })], 1))).await;
}

#[tokio::test]
async fn session_ids_are_mapped_from_the_first_policy_on_until_the_connection_ends() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.begin_without();
    let (_, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        let mut all = all();
        let [before, _] = all.swap_remove(0);
        client.write_all(&before).await.unwrap();
        assert!(read_message(&mut upstream).await == before);
        policy.set(Enforcement::Enforce, None);
        for (n, [sent, expected]) in all.into_iter().enumerate() {
            if n == 1 {
                policy.remove();
            }
            let (written, arrived) = tokio::join!(client.write_all(&sent), read_message(&mut upstream));
            written.unwrap();
            assert!(arrived == expected, "{n}");
        }
    }))
    .await;
}

/// A driver's connections share its sessions.
#[tokio::test]
async fn session_ids_are_mapped_on_a_new_connection_too_when_the_policy_was_removed() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.remove();
    check(scene, 1000, all().swap_remove(0)).await;
}

#[tokio::test]
async fn a_request_may_not_have_a_stream_of_replies_under_a_policy_except_a_hello() {
    let get_more = |flags| {
        let command = doc! { "getMore": 7_i64, "collection": "orders", "lsid": session(ids(1)[0]), "$db": "shop" };
        message(&[body(&command)], flags)
    };
    let mapped = |flags| {
        let command = doc! { "getMore": 7_i64, "collection": "orders", "lsid": session(ids(1)[1]), "$db": "shop" };
        message(&[body(&command)], flags)
    };
    for checksum in [0, 1] {
        // The cursor is unknown, so that only a dry run forwards it.
        let (scene, _policy) = scene_with_policy(Enforcement::DryRun).await;
        check(scene, 1000, [get_more(EXHAUST | checksum), mapped(checksum)]).await;
        let hello = message(&[body(&doc! { "hello": 1, "maxAwaitTimeMS": 10, "$db": "admin" })], EXHAUST | checksum);
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        check(scene, 1000, [hello.clone(), hello]).await;
        let find = |flags| message(&[body(&doc! { "find": "orders", "$db": "shop" })], flags | checksum);
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        check(scene, 3, [find(EXHAUST), find(0)]).await;
    }
}
