//! The policy changes while cursors, streams of replies and commands are open.

use super::policy::{find, read_denial, scene_with_policy};
use super::sessions::{EXHAUST, body, message};
use super::*;
use crate::config::Enforcement;

fn get_more(id: i32, of: &str, cursor: i64) -> Vec<u8> {
    request(id, &doc! { "getMore": cursor, "collection": of, "$db": "shop" })
}

/// A reply that has an open cursor, or 0.
fn opened(id: i32, response_to: i32, cursor: i64) -> Vec<u8> {
    let body = rawdoc! { "cursor": { "firstBatch": [], "id": cursor, "ns": "shop.any" }, "ok": 1.0 };
    op_msg::encode(id, response_to, &body)
}

/// The namespace of a cursor does not tell what it reads: what its command reaches does.
#[tokio::test]
async fn a_cursor_is_judged_again_by_a_policy_that_has_not_judged_its_command() {
    let union = |id: i32, with: &str| {
        let pipeline = [doc! { "$unionWith": with }];
        request(id, &doc! { "aggregate": "orders", "pipeline": pipeline, "cursor": {}, "$db": "shop" })
    };
    let watch = |id: i32| {
        let pipeline = [doc! { "$changeStream": {} }];
        request(id, &doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {}, "$db": "shop" })
    };
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.set(Enforcement::Enforce, None);
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        for (id, command) in [(1, union(1, "menu")), (2, union(2, "secret")), (3, watch(3))] {
            client.write_all(&command).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, command);
            upstream.write_all(&opened(90 + id, id, 70 + i64::from(id))).await.unwrap();
            read_message(&mut client).await;
        }
        // The policy changes after this command was judged, and before it is answered.
        let slow = union(4, "secret");
        client.write_all(&slow).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, slow);
        policy.change(Enforcement::Enforce, Some("secret"));
        client.write_all(&find(5, "orders")).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, find(5, "orders"));
        upstream.write_all(&[opened(94, 4, 74), reply(95, 5)].concat()).await.unwrap();
        read_message(&mut client).await;
        read_message(&mut client).await;
        for (id, of, cursor) in [(6, "orders", 72), (7, "$cmd.aggregate", 73), (8, "orders", 74)] {
            client.write_all(&get_more(id, of, cursor)).await.unwrap();
            let denial = read_denial(&mut client, id).await;
            let sentence = "mongate: not authorized on shop to execute command getMore: denied by rule \"no-secrets\"";
            assert_eq!(denial.get_str("errmsg").unwrap(), sentence);
        }
        // What it reaches is allowed by the new policy too. One that is denied is not lost for a policy that allows it.
        for (id, cursor, denied) in [(9, 71, "secret"), (10, 71, "menu"), (11, 72, "menu"), (12, 71, "orders")] {
            policy.change(Enforcement::Enforce, Some(denied));
            client.write_all(&get_more(id, "orders", cursor)).await.unwrap();
            if matches!(id, 10 | 12) {
                read_denial(&mut client, id).await;
            } else {
                assert_eq!(read_message(&mut upstream).await, get_more(id, "orders", cursor));
                upstream.write_all(&opened(90 + id, id, cursor)).await.unwrap();
                read_message(&mut client).await;
            }
        }
        // A dry run only says what it would deny. Without a search for JavaScript, what has none is not known.
        policy.change(Enforcement::DryRun, Some("secret"));
        client.write_all(&get_more(13, "orders", 72)).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, get_more(13, "orders", 72));
        assert!(policy.logged.lock().unwrap().iter().any(|line| line.starts_with("would_deny no-secrets getMore")));
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_no_policy_has_judged_ends_when_a_policy_comes_into_force() {
    for asks_meanwhile in [false, true] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        policy.begin_without();
        let (end, _kept_open) = play(scene, |mut client, mut upstream, _drain| async move {
            let get_more = doc! { "getMore": 7_i64, "collection": "orders", "$db": "shop" };
            client.write_all(&message(&[body(&get_more)], EXHAUST)).await.unwrap();
            read_message(&mut upstream).await;
            for (id, response_to) in [(90, 1), (91, 90)] {
                upstream.write_all(&with_flags(reply(id, response_to), 2)).await.unwrap();
                read_message(&mut client).await;
            }
            // Another policy that is none.
            policy.remove();
            upstream.write_all(&with_flags(reply(92, 91), 2)).await.unwrap();
            read_message(&mut client).await;
            policy.set(Enforcement::Enforce, Some("secret"));
            if asks_meanwhile {
                let ping = request(2, &doc! { "ping": 1, "$db": "admin" });
                client.write_all(&ping).await.unwrap();
                assert_eq!(read_message(&mut upstream).await, ping);
            }
            upstream.write_all(&with_flags(reply(93, 92), 2)).await.unwrap();
            upstream.flush().await.unwrap();
            assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "not a byte of the next frame");
            upstream
        })
        .await;
        is(&end, Side::Gateway, "a policy that does not allow the open cursor came into force before the next reply");
    }
}

/// A monitor's stream does not show what a policy decides about.
#[tokio::test]
async fn a_monitors_stream_goes_on_when_a_policy_comes_into_force() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.remove();
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let hello = doc! { "hello": 1, "maxAwaitTimeMS": 10_000, "$db": "admin" };
        client.write_all(&with_flags(request(1, &hello), EXHAUST)).await.unwrap();
        read_message(&mut upstream).await;
        for (id, response_to) in [(90, 1), (91, 90), (92, 91)] {
            upstream.write_all(&with_flags(reply(id, response_to), 2)).await.unwrap();
            read_message(&mut client).await;
            policy.set(Enforcement::Enforce, Some("secret"));
        }
    })
    .await;
    assert_eq!(end.reason.to_string(), "closed");
}

/// A `getMore` may wait for data that is written after the policy has changed.
#[tokio::test]
async fn a_reply_to_a_get_more_that_waits_is_not_forwarded_when_the_policy_denies_its_cursor_meanwhile() {
    let cases = [
        (Some((Enforcement::Enforce, "orders")), true),
        (Some((Enforcement::Enforce, "menu")), false),
        (Some((Enforcement::DryRun, "orders")), false),
        (None, false),
    ];
    for (case, is_denied) in cases {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, _kept_open) = play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&find(1, "orders")).await.unwrap();
            read_message(&mut upstream).await;
            upstream.write_all(&opened(90, 1, 7)).await.unwrap();
            read_message(&mut client).await;
            client.write_all(&get_more(2, "orders", 7)).await.unwrap();
            read_message(&mut upstream).await;
            match case {
                Some((enforcement, denied)) => policy.change(enforcement, Some(denied)),
                None => policy.remove(),
            }
            upstream.write_all(&opened(91, 2, 7)).await.unwrap();
            upstream.flush().await.unwrap();
            if is_denied {
                assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "{case:?}");
                return Some((client, upstream));
            }
            assert_eq!(read_message(&mut client).await, opened(91, 2, 7), "{case:?}");
            None
        })
        .await;
        let expected = if is_denied { Side::Gateway } else { Side::Client };
        assert_eq!(end.ended_by, expected, "{case:?}: {end:?}");
    }
}

/// A dry run ends nothing. The first policy that is enforced knows no cursor that was opened before.
#[tokio::test]
async fn a_get_more_that_was_sent_without_a_policy_is_not_answered_under_one() {
    for enforcement in [Enforcement::DryRun, Enforcement::Enforce] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        policy.begin_without();
        let (end, _kept_open) = play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&[get_more(1, "orders", 7), find(2, "orders")].concat()).await.unwrap();
            read_message(&mut upstream).await;
            read_message(&mut upstream).await;
            policy.set(enforcement, Some("secret"));
            upstream.write_all(&[opened(90, 1, 7), opened(91, 2, 0)].concat()).await.unwrap();
            upstream.flush().await.unwrap();
            if enforcement == Enforcement::Enforce {
                assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
                return Some((client, upstream));
            }
            assert_eq!(read_message(&mut client).await, opened(90, 1, 7));
            assert_eq!(read_message(&mut client).await, opened(91, 2, 0));
            None
        })
        .await;
        assert_eq!(end.ended_by == Side::Gateway, enforcement == Enforcement::Enforce, "{end:?}");
    }
}

/// A mongod before 5.1 streams `OP_REPLY` messages to an `OP_QUERY` with the exhaust flag.
#[tokio::test]
async fn a_legacy_stream_of_replies_ends_when_a_policy_comes_into_force() {
    let frame = |id: i32, response_to: i32| {
        let header = Header { length: 36, request_id: id, response_to, op_code: OpCode::REPLY };
        [&header.to_bytes()[..], &[0; 4], &7_i64.to_le_bytes(), &[0; 8]].concat()
    };
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.begin_without();
    let (end, _kept_open) = play(scene, |mut client, mut upstream, _drain| async move {
        let query = [&64_i32.to_le_bytes()[..], b"shop.secret\0", &[0; 8], &[5, 0, 0, 0, 0]].concat();
        let length = u32::try_from(HEADER_BYTES + query.len()).unwrap();
        let header = Header { length, request_id: 1, response_to: 0, op_code: OpCode::QUERY };
        client.write_all(&[&header.to_bytes()[..], &query].concat()).await.unwrap();
        read_message(&mut upstream).await;
        for (id, response_to) in [(90, 1), (91, 90)] {
            upstream.write_all(&frame(id, response_to)).await.unwrap();
            assert_eq!(read_message(&mut client).await, frame(id, response_to));
        }
        policy.set(Enforcement::Enforce, Some("secret"));
        upstream.write_all(&frame(92, 91)).await.unwrap();
        upstream.flush().await.unwrap();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        (client, upstream)
    })
    .await;
    assert_eq!(end.ended_by, Side::Gateway, "{end:?}");
}

#[tokio::test]
async fn a_cursor_that_is_killed_is_forgotten() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        for id in [1, 2] {
            client.write_all(&find(id, "orders")).await.unwrap();
            read_message(&mut upstream).await;
            upstream.write_all(&opened(90, id, 70 + i64::from(id))).await.unwrap();
            read_message(&mut client).await;
        }
        let kill = request(3, &doc! { "killCursors": "orders", "cursors": [71_i64, 99_i64], "$db": "shop" });
        client.write_all(&kill).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, kill);
        upstream.write_all(&reply(91, 3)).await.unwrap();
        read_message(&mut client).await;
        client.write_all(&get_more(4, "orders", 71)).await.unwrap();
        let error = read_message(&mut client).await;
        let error = bson::deserialize_from_slice::<Document>(&error[HEADER_BYTES + 5..]).unwrap();
        assert_eq!(error.get_i32("code").unwrap(), 43, "{error}");
        client.write_all(&get_more(5, "orders", 72)).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, get_more(5, "orders", 72));
    })
    .await;
}
