//! The relay with a policy in force that denies one collection, `shop.secret`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::config::{Action, Enforcement, PolicyConfig, RuleConfig, ToConfig, Values};
use crate::policy::{CallerFacts, Policy, SessionOwner};
use crate::relay::cursors::tests::{caller, find as judged_find};
use crate::telemetry::policy_metrics::PolicyMetrics;

/// The policy of a test, which may change while the test runs.
#[derive(Default)]
pub(super) struct TestPolicy {
    version: AtomicU64,
    effective: Mutex<Option<EffectivePolicy>>,
    mapping: Mutex<Option<SessionMapping>>,
    pub(super) logged: Mutex<Vec<String>>,
}

struct TestPolicySource(Arc<TestPolicy>);

impl PolicySource for TestPolicySource {
    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    fn effective_policy(&self) -> Option<EffectivePolicy> {
        self.0.effective.lock().unwrap().clone()
    }

    fn session_mapping(&self) -> Option<SessionMapping> {
        self.0.mapping.lock().unwrap().clone()
    }

    fn log_finding(&self, finding: &Finding<'_>) {
        let Finding { rule, decision, command, namespace, count, .. } = finding;
        let command = command.unwrap_or("?");
        self.0.logged.lock().unwrap().push(format!("{} {rule} {command} {namespace} {count}", decision.label()));
    }
}

impl TestPolicy {
    /// Puts another policy in force that knows the same cursors.
    pub(super) fn change(&self, enforcement: Enforcement, denied: Option<&str>) {
        let cursors = Arc::clone(&self.effective.lock().unwrap().as_ref().unwrap().cursors);
        self.set(enforcement, denied);
        self.effective.lock().unwrap().as_mut().unwrap().cursors = cursors;
    }

    /// There was never a policy.
    pub(super) fn begin_without(&self) {
        self.remove();
        *self.mapping.lock().unwrap() = None;
    }

    pub(super) fn hold_budget(&self) -> HoldBudget {
        self.mapping.lock().unwrap().as_ref().unwrap().hold_budget.clone()
    }

    /// Has no policy in force.
    pub(super) fn remove(&self) {
        *self.effective.lock().unwrap() = None;
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn set(&self, enforcement: Enforcement, denied: Option<&str>) {
        let one = |value: &str| Values { any: Some(vec![value.to_owned()]), not: None };
        let rule = |collection: &str| RuleConfig {
            name: "no-secrets".to_owned(),
            action: Action::Deny,
            dry_run: false,
            expires: None,
            reason: None,
            from: None,
            to: Some(vec![ToConfig { collections: one(collection), databases: one("shop"), ..ToConfig::default() }]),
        };
        self.set_rules(enforcement, denied.map(rule).into_iter().collect());
    }

    /// Puts these rules in force.
    pub(super) fn set_rules(&self, enforcement: Enforcement, rules: Vec<RuleConfig>) {
        let config = PolicyConfig {
            enforcement,
            deny_javascript: false,
            known_commands: std::collections::BTreeMap::new(),
            rules,
        };
        let policy = Arc::new(Policy::compile(&config, std::time::SystemTime::now()).unwrap());
        let view = Arc::new(policy.view(&CallerFacts { principal: None, source: None, listener: "test" }));
        let metrics = Arc::new(PolicyMetrics::new("test", []));
        let (cursors, caller) = (Arc::default(), caller(""));
        *self.effective.lock().unwrap() = Some(EffectivePolicy { policy, view, metrics, cursors, caller });
        let (owner, hold_budget, caller) = (SessionOwner::listener("test"), HoldBudget::default(), "test".into());
        self.mapping.lock().unwrap().get_or_insert(SessionMapping { owner, hold_budget, caller });
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The findings so far, for example `deny no-secrets find shop.secret 1`.
    pub(super) fn logged(&self) -> Vec<String> {
        self.logged.lock().unwrap().clone()
    }
}

pub(super) async fn scene_with_policy(enforcement: Enforcement) -> (Scene, Arc<TestPolicy>) {
    scene_with_filters(enforcement, HandshakeFilter::default()).await
}

/// The filter of a connection, and its policy.
pub(super) fn policy_filter(enforcement: Enforcement) -> (PolicyFilter, Arc<TestPolicy>) {
    let policy = Arc::new(TestPolicy::default());
    policy.set(enforcement, Some("secret"));
    (PolicyFilter::new(Box::new(TestPolicySource(Arc::clone(&policy)))), policy)
}

pub(super) async fn scene_with_filters(
    enforcement: Enforcement,
    handshake: HandshakeFilter,
) -> (Scene, Arc<TestPolicy>) {
    let (filter, policy) = policy_filter(enforcement);
    let (client, gateway_client) = tokio::io::duplex(PIPE_BYTES);
    let (side, upstream) = upstream(0).await;
    let relay = Relay::new(gateway_client, side, OFF, stats(), Filters { tokens: None, policy: filter, handshake });
    (Scene { client, upstream, relay, drain: Drain::new() }, policy)
}

pub(super) fn find(id: i32, collection: &str) -> Vec<u8> {
    request(id, &doc! { "find": collection, "$db": "shop" })
}

pub(super) fn insert(id: i32, collection: &str, bytes: usize) -> Vec<u8> {
    request(id, &doc! { "insert": collection, "documents": [{ "t": "x".repeat(bytes) }], "$db": "shop" })
}

fn with_response_to(mut message: Vec<u8>, response_to: i32) -> Vec<u8> {
    message[8..12].copy_from_slice(&response_to.to_le_bytes());
    message
}

/// Reads the local reply to `response_to`, which the policy has denied.
pub(super) async fn read_denial(client: &mut (impl AsyncRead + Unpin), response_to: i32) -> Document {
    let message = read_message(client).await;
    let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
    assert_eq!((header.response_to, header.op_code), (response_to, OpCode::MSG));
    let document = bson::deserialize_from_slice::<Document>(&message[HEADER_BYTES + 5..]).unwrap();
    assert_eq!(document.get_i32("code").unwrap(), 13, "{document}");
    document
}

#[tokio::test]
async fn a_denied_command_is_answered_and_the_next_one_is_forwarded_in_pieces_of_any_size() {
    for cut in [1, 7, 16, 21, 40, 100_000] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            let sent = [find(1, "secret"), find(2, "orders"), find(3, "secret")].concat();
            for piece in sent.chunks(cut) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            let denial = read_denial(&mut client, 1).await;
            let sentence = "mongate: not authorized on shop to execute command find: denied by rule \"no-secrets\"";
            assert_eq!(denial.get_str("errmsg").unwrap(), sentence);
            assert_eq!(read_message(&mut upstream).await, find(2, "orders"));
            upstream.write_all(&reply(90, 2)).await.unwrap();
            assert_eq!(read_message(&mut client).await, reply(90, 2));
            read_denial(&mut client, 3).await;
        })
        .await;
        is(&end, Side::Client, "closed");
        assert_eq!((end.commands, end.denied), (1, 2));
        let logged = policy.logged.lock().unwrap().clone();
        assert_eq!(logged, ["deny no-secrets find shop.secret 1", "deny no-secrets ?  2"]);
    }
}

#[tokio::test]
async fn a_local_reply_comes_behind_the_replies_to_earlier_requests() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let sent = [find(1, "orders"), find(2, "secret"), find(3, "orders"), find(4, "secret"), find(5, "orders")];
        client.write_all(&sent.concat()).await.unwrap();
        for id in [1, 3, 5] {
            assert_eq!(read_message(&mut upstream).await, find(id, "orders"));
        }
        let replies = [reply(91, 1), reply(92, 3), reply(93, 5)].concat();
        // A local reply never comes in the middle of a reply.
        let (first, second) = replies.split_at(20);
        upstream.write_all(first).await.unwrap();
        upstream.flush().await.unwrap();
        tokio::task::yield_now().await;
        upstream.write_all(second).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(91, 1));
        read_denial(&mut client, 2).await;
        assert_eq!(read_message(&mut client).await, reply(92, 3));
        read_denial(&mut client, 4).await;
        assert_eq!(read_message(&mut client).await, reply(93, 5));
    })
    .await;
}

#[tokio::test]
async fn a_denied_request_that_expects_no_reply_gets_none() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let silent = with_flags(insert(1, "secret", 100_000), 2);
        let ping = request(2, &doc! { "ping": 1, "$db": "admin" });
        let writing = async {
            client.write_all(&[silent, ping.clone()].concat()).await.unwrap();
            client
        };
        let (mut client, arrived) = tokio::join!(writing, read_message(&mut upstream));
        assert_eq!(arrived, ping);
        upstream.write_all(&reply(90, 2)).await.unwrap();
        assert_eq!(read_message(&mut client).await, reply(90, 2));
    })
    .await;
    assert_eq!((end.commands, end.denied, end.unanswered), (1, 1, 0));
    assert_eq!(*policy.logged.lock().unwrap(), ["deny no-secrets insert shop.secret 1"]);
}

/// The order of the sections of a message must not matter, nor its length.
#[tokio::test]
async fn a_long_message_is_held_until_it_is_judged_and_is_forwarded_or_dropped_as_a_whole() {
    let sequence = |bytes: usize| {
        let document = bson::serialize_to_vec(&doc! { "t": "x".repeat(bytes) }).unwrap();
        let size = i32::try_from(4 + 10 + document.len()).unwrap();
        [&[1][..], &size.to_le_bytes(), b"documents\0", &document].concat()
    };
    let body = |collection: &str| {
        [vec![0], bson::serialize_to_vec(&doc! { "insert": collection, "$db": "shop" }).unwrap()].concat()
    };
    let message = |sections: &[Vec<u8>]| {
        let payload = [&[0; 4][..], &sections.concat()].concat();
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        [&Header { length, request_id: 1, response_to: 0, op_code: OpCode::MSG }.to_bytes()[..], &payload].concat()
    };
    let all = |collection: &str| {
        [
            insert(1, collection, 70_000),
            insert(1, collection, 300_000),
            message(&[body(collection), sequence(300_000)]),
            message(&[sequence(300_000), body(collection)]),
            message(&[sequence(100), body(collection)]),
        ]
    };
    for (allowed, denied) in all("orders").into_iter().zip(all("secret")) {
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
            let sent = [denied, allowed.clone()].concat();
            let writing = async {
                let (mut reads, mut writes) = tokio::io::split(client);
                let ((), denial) =
                    tokio::join!(async { writes.write_all(&sent).await.unwrap() }, read_denial(&mut reads, 1));
                assert!(denial.get_str("errmsg").unwrap().contains("no-secrets"), "{denial}");
                reads.unsplit(writes)
            };
            let (client_again, arrived) = tokio::join!(writing, read_message(&mut upstream));
            assert!(arrived == allowed);
            client = {
                upstream.write_all(&reply(90, 1)).await.unwrap();
                client_again
            };
            assert_eq!(read_message(&mut client).await, reply(90, 1));
        }))
        .await;
        assert_eq!((end.commands, end.denied), (1, 1));
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_judged_does_not_reach_upstream() {
    let good = find(1, "orders");
    let not_bson = {
        let mut message = good.clone();
        let last = message.len() - 1;
        message[last] = 1;
        message
    };
    let unknown_flag = with_flags(good.clone(), 1 << 17);
    for message in [not_bson, unknown_flag] {
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            client.write_all(&[message, find(2, "orders")].concat()).await.unwrap();
            let denial = read_denial(&mut client, 1).await;
            assert!(denial.get_str("errmsg").unwrap().contains("cannot judge this command"), "{denial}");
            assert_eq!(read_message(&mut upstream).await, find(2, "orders"));
        })
        .await;
        assert_eq!(end.denied, 1);
    }
    let legacy = [&good[..12], &2002_i32.to_le_bytes(), &good[16..]].concat();
    for message in [legacy, with_response_to(good.clone(), 7), vec![0; 20]] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        let (end, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
            client.write_all(&message).await.unwrap();
            assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
            (client, upstream)
        })
        .await;
        assert!(matches!(end.reason, EndReason::Unjudged(_)) && end.is_protocol_error(), "{end:?}");
        assert_eq!(*policy.logged.lock().unwrap(), ["deny (not understood) ?  1"]);
    }
}

#[tokio::test]
async fn a_message_whose_end_contradicts_its_beginning_is_cut_short() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let body = bson::serialize_to_vec(&doc! { "insert": "orders", "$db": "shop" }).unwrap();
        let body = [vec![0], body].concat();
        // It is too long to be held to its end.
        let foreign = sequence("filter", &doc! { "t": "x".repeat(20_000) });
        let length = u32::try_from(HEADER_BYTES + 4 + body.len() + foreign.len()).unwrap();
        let header = Header { length, request_id: 1, response_to: 0, op_code: OpCode::MSG };
        let begun = [&header.to_bytes()[..], &[0; 4], &body].concat();
        client.write_all(&begun).await.unwrap();
        upstream.read_exact(&mut vec![0; begun.len()]).await.unwrap();
        client.write_all(&foreign[..40]).await.unwrap();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(upstream.read(&mut [0; 16]).await.unwrap(), 0);
    })
    .await;
    assert!(matches!(end.reason, EndReason::Unjudged(_)), "{end:?}");
}

#[tokio::test]
async fn a_dry_run_forwards_and_logs_everything() {
    let (scene, policy) = scene_with_policy(Enforcement::DryRun).await;
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let sent = [find(1, "secret"), with_flags(find(2, "orders"), 1 << 17), with_response_to(find(3, "orders"), 7)];
        for message in sent {
            client.write_all(&message).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, message);
        }
        client.write_all(&[0; 20]).await.unwrap();
        upstream.read_exact(&mut [0; 20]).await.unwrap();
    })
    .await;
    assert_eq!((end.unanswered, end.denied), (3, 0));
    let logged = policy.logged.lock().unwrap().clone();
    let expected = ["would_deny no-secrets find shop.secret 1", "would_deny (not understood) find shop 1"];
    assert_eq!(logged[..2], expected);
    assert_eq!(logged[2..], ["would_deny (not understood) ?  3"]);
}

#[tokio::test]
async fn a_new_policy_applies_from_the_next_message_on() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&find(1, "secret")).await.unwrap();
        read_denial(&mut client, 1).await;
        policy.set(Enforcement::Enforce, Some("orders"));
        client.write_all(&[find(2, "orders"), find(3, "secret")].concat()).await.unwrap();
        read_denial(&mut client, 2).await;
        assert_eq!(read_message(&mut upstream).await, find(3, "secret"));
        policy.remove();
        client.write_all(&find(4, "orders")).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, find(4, "orders"));
    })
    .await;
}

/// The first rule of one policy is not the first rule of the next.
#[tokio::test]
async fn findings_of_a_new_policy_are_logged_again() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let logged = Arc::clone(&policy);
    let (_, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
        client.write_all(&[find(1, "secret"), find(2, "secret")].concat()).await.unwrap();
        read_denial(&mut client, 1).await;
        read_denial(&mut client, 2).await;
        policy.set(Enforcement::Enforce, Some("orders"));
        client.write_all(&find(3, "orders")).await.unwrap();
        read_denial(&mut client, 3).await;
        upstream
    })
    .await;
    let logged = logged.logged.lock().unwrap().clone();
    let before = ["deny no-secrets find shop.secret 1", "deny no-secrets ?  2"];
    assert_eq!(logged, [before[0], before[1], "deny no-secrets find shop.orders 1"]);
}

/// A message that has begun under one policy is judged by the next.
#[tokio::test]
async fn a_new_policy_applies_to_a_message_of_which_nothing_has_gone_upstream() {
    for (begun, denied_before) in [(16, None), (30, None), (16, Some("orders")), (16_010, Some("orders"))] {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        policy.set(Enforcement::Enforce, denied_before);
        if denied_before.is_none() {
            *policy.effective.lock().unwrap() = None;
        }
        let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            let message = insert(1, "secret", if begun > 16_000 { 20_000 } else { 10 });
            client.write_all(&message[..begun]).await.unwrap();
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            policy.set(Enforcement::Enforce, Some("secret"));
            client.write_all(&[&message[begun..], &find(2, "orders")].concat()).await.unwrap();
            read_denial(&mut client, 1).await;
            assert_eq!(read_message(&mut upstream).await, find(2, "orders"));
        })
        .await;
    }
}

#[tokio::test]
async fn a_cursor_can_be_read_by_its_owner_only() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let get_more =
        |id: i32, cursor: i64| request(id, &doc! { "getMore": cursor, "collection": "orders", "$db": "shop" });
    let cursor = |id: i32, response_to: i32, cursor: i64| {
        let body = rawdoc! { "cursor": { "firstBatch": [], "id": cursor, "ns": "shop.orders" }, "ok": 1.0 };
        op_msg::encode(id, response_to, &body)
    };
    let (opened, ended) = (cursor(90, 1, 77), cursor(91, 2, 0));
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&find(1, "orders")).await.unwrap();
        read_message(&mut upstream).await;
        upstream.write_all(&opened).await.unwrap();
        read_message(&mut client).await;
        client.write_all(&get_more(2, 77)).await.unwrap();
        assert_eq!(read_message(&mut upstream).await, get_more(2, 77));
        upstream.write_all(&ended).await.unwrap();
        read_message(&mut client).await;
        // The first cursor is exhausted, and another caller owns the second.
        policy.effective.lock().unwrap().as_ref().unwrap().cursors.add(78, &caller("cart"), judged_find(1));
        client.write_all(&[get_more(3, 77), get_more(4, 78)].concat()).await.unwrap();
        let unknown = read_message(&mut client).await;
        let unknown = bson::deserialize_from_slice::<Document>(&unknown[HEADER_BYTES + 5..]).unwrap();
        assert_eq!(unknown.get_str("codeName").unwrap(), "CursorNotFound");
        read_denial(&mut client, 4).await;
    })
    .await;
}

/// The C driver expects them in every reply of a replica set.
#[tokio::test]
async fn a_denial_has_the_times_of_the_last_reply_that_had_any() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        client.write_all(&find(1, "secret")).await.unwrap();
        assert_eq!(read_denial(&mut client, 1).await.len(), 4);
        for id in [2, 3] {
            let time = bson::Timestamp { time: 1_700_000_000, increment: u32::try_from(id).unwrap() };
            let cluster = doc! { "clusterTime": time, "signature": { "keyId": 5_i64 } };
            let times = doc! { "$clusterTime": cluster, "operationTime": time };
            let mut body = doc! { "ok": 1.0 };
            body.extend(times.clone());
            client.write_all(&find(id, "orders")).await.unwrap();
            read_message(&mut upstream).await;
            let body = bson::RawDocumentBuf::try_from(&body).unwrap();
            upstream.write_all(&op_msg::encode(90 + id, id, &body)).await.unwrap();
            read_message(&mut client).await;
            client.write_all(&find(10, "orders")).await.unwrap();
            read_message(&mut upstream).await;
            upstream.write_all(&reply(80 + id, 10)).await.unwrap();
            read_message(&mut client).await;
            client.write_all(&find(20, "secret")).await.unwrap();
            let denial = read_denial(&mut client, 20).await;
            assert!(times.iter().all(|(key, value)| denial.get(key) == Some(value)), "{denial}");
        }
    })
    .await;
}

/// The first legacy handshakes and authentications come as `OP_QUERY`, and some drivers send every command so.
#[tokio::test]
async fn a_command_in_an_op_query_is_judged_like_any_other() {
    let query = |id: i32, namespace: &str, command: &Document| {
        let document = bson::serialize_to_vec(command).unwrap();
        let payload = [&[0; 4][..], namespace.as_bytes(), &[0; 5], &(-1_i32).to_le_bytes(), &document].concat();
        let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap();
        let header = Header { length, request_id: id, response_to: 0, op_code: OpCode::QUERY };
        [&header.to_bytes()[..], &payload].concat()
    };
    let long = "x".repeat(100_000);
    let insert = |collection: &str| doc! { "insert": collection, "documents": [{ "t": &long }] };
    let allowed = [
        ("admin.$cmd", doc! { "buildinfo": 1 }),
        ("admin.$cmd", doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": "" }),
        ("admin.$cmd", doc! { "saslContinue": 1, "conversationId": 1, "payload": "" }),
        ("admin.$cmd", doc! { "getnonce": 1 }),
        ("shop.$cmd", doc! { "find": "orders" }),
        ("shop.$cmd", doc! { "$query": { "find": "orders" }, "$readPreference": { "mode": "secondary" } }),
        ("shop.$cmd", insert("orders")),
    ];
    let denied = [
        ("shop.$cmd", doc! { "find": "secret" }, "no-secrets"),
        ("shop.$cmd", doc! { "query": { "find": "secret" }, "find": "orders" }, "no-secrets"),
        ("shop.$cmd", insert("secret"), "no-secrets"),
        ("shop.$cmd", doc! { "find": "orders", "$db": "shop" }, "is named where this kind of message does not name it"),
        ("shop.secret", doc! { "t": &long }, "update the driver to a version that sends OP_MSG"),
    ];
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (end, ()) = Box::pin(play(scene, |mut client, mut upstream, _drain| async move {
        for (namespace, command) in &allowed {
            let sent = query(1, namespace, command);
            let (written, arrived) = tokio::join!(client.write_all(&sent), read_message(&mut upstream));
            written.unwrap();
            assert!(arrived == sent, "{namespace}");
            upstream.write_all(&reply(90, 1)).await.unwrap();
            read_message(&mut client).await;
        }
        for (namespace, command, reason) in &denied {
            let sent = query(2, namespace, command);
            let (mut reads, mut writes) = tokio::io::split(client);
            let (written, message) = tokio::join!(writes.write_all(&sent), read_message(&mut reads));
            written.unwrap();
            client = reads.unsplit(writes);
            let header = Header::parse(*message.first_chunk().unwrap()).unwrap();
            assert_eq!((header.response_to, header.op_code), (2, OpCode::REPLY));
            let document = bson::deserialize_from_slice::<Document>(&message[HEADER_BYTES + 20..]).unwrap();
            assert!(document.get_str("errmsg").unwrap().contains(reason), "{document}");
        }
    }))
    .await;
    assert_eq!(end.denied, 5);
}

#[tokio::test(start_paused = true)]
async fn a_long_message_that_does_not_arrive_ends_the_connection() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let started = Instant::now();
    let (end, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
        client.write_all(&insert(1, "orders", 1_000_000)[..10_000]).await.unwrap();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        (client, upstream)
    })
    .await;
    assert!(matches!(end.reason, EndReason::TooSlow), "{end:?}");
    // Ten seconds, and one for its mebibyte.
    assert_eq!(started.elapsed().as_secs(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_long_message_waits_for_the_hold_budget() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let holding = policy.hold_budget();
    let everything = holding.take_everything();
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let long = insert(1, "orders", 100_000);
        let arriving = async {
            // The paused clock advances when every task waits.
            let early = tokio::time::timeout(Duration::from_mins(5), upstream.read(&mut [0; 1])).await;
            assert!(early.is_err(), "{early:?}");
            drop(everything);
            read_message(&mut upstream).await
        };
        let (written, arrived) = tokio::join!(client.write_all(&long), arriving);
        written.unwrap();
        assert!(arrived == long);
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
    })
    .await;
    is(&end, Side::Client, "closed");
}

/// A sequence section of one document.
fn sequence(identifier: &str, document: &Document) -> Vec<u8> {
    let document = bson::serialize_to_vec(document).unwrap();
    let size = i32::try_from(4 + identifier.len() + 1 + document.len()).unwrap();
    [&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], &document].concat()
}

/// `message` with more sections behind its body.
fn with_sections(message: &[u8], sections: &[Vec<u8>]) -> Vec<u8> {
    let mut message = [message, &sections.concat()].concat();
    let length = u32::try_from(message.len()).unwrap();
    message[..4].copy_from_slice(&length.to_le_bytes());
    message
}

/// Before the command's name has arrived, it is not known that its document sequences have to be judged too.
#[tokio::test]
async fn a_long_command_is_judged_by_its_document_sequences_in_pieces_of_any_size() {
    let body = request(1, &doc! { "bulkWrite": 1, "comment": "x".repeat(20_000), "$db": "admin" });
    let operations = |collection: &str| {
        let place = doc! { "ns": format!("shop.{collection}") };
        [sequence("ops", &doc! { "delete": 0, "filter": {} }), sequence("nsInfo", &place)]
    };
    let (denied, allowed) =
        (&with_sections(&body, &operations("secret")), &with_sections(&body, &operations("orders")));
    for cut in [16, 21, 25, 30, 37, 40, 10_000, 20_060] {
        let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
        let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            for (message, is_denied) in [(denied, true), (allowed, false)] {
                let (first, second) = message.split_at(cut);
                client.write_all(first).await.unwrap();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                client.write_all(second).await.unwrap();
                if is_denied {
                    read_denial(&mut client, 1).await;
                } else {
                    assert!(read_message(&mut upstream).await == *message, "cut at {cut}");
                }
            }
        })
        .await;
    }
}

/// The permit of a client that sends nothing more, or reads nothing, is missing to the others.
#[tokio::test(start_paused = true)]
async fn a_hold_deadline_begins_when_the_budget_is_granted() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let holding = policy.hold_budget();
    let everything = holding.take_everything();
    let (end, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
        client.write_all(&insert(1, "orders", 1_000_000)[..10_000]).await.unwrap();
        tokio::time::sleep(Duration::from_mins(5)).await;
        drop(everything);
        let end = tokio::time::timeout(Duration::from_mins(5), client.read(&mut [0; 16])).await;
        assert_eq!(end.unwrap().unwrap(), 0);
        (client, upstream)
    })
    .await;
    assert!(matches!(end.reason, EndReason::TooSlow), "{end:?}");
    drop(holding.take_everything());
}

#[tokio::test(start_paused = true)]
async fn a_budget_permit_is_returned_when_the_policy_is_switched_off() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let holding = policy.hold_budget();
    let everything = holding.take_everything();
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let long = insert(1, "secret", 100_000);
        let arriving = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            *policy.effective.lock().unwrap() = None;
            policy.version.fetch_add(1, Ordering::Release);
            drop(everything);
            read_message(&mut upstream).await
        };
        let (written, arrived) = tokio::join!(client.write_all(&long), arriving);
        written.unwrap();
        assert!(arrived == long);
        drop(holding.take_everything());
    })
    .await;
}

/// mongod reads nothing while it sends a stream of replies, or while its last reply is not taken. A client can cause
/// both.
#[tokio::test(start_paused = true)]
async fn a_long_message_that_upstream_does_not_take_ends_the_connection() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let holding = policy.hold_budget();
    let started = Instant::now();
    let (end, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
        client.write_all(&insert(1, "orders", 1_000_000)).await.unwrap();
        let end = tokio::time::timeout(Duration::from_mins(5), client.read(&mut [0; 16])).await;
        assert_eq!(end.unwrap().unwrap(), 0);
        (client, upstream)
    })
    .await;
    is(&end, Side::Upstream, "socket failed");
    assert_eq!(started.elapsed().as_secs(), 11);
    drop(holding.take_everything());
}

/// A hello is held until it is whole: its end must not contradict its beginning either.
#[tokio::test]
async fn a_hello_whose_end_contradicts_its_beginning_ends_the_connection() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (end, _kept_open) = play(scene, |mut client, mut upstream, _drain| async move {
        let hello = request(1, &doc! { "hello": 1, "$db": "admin" });
        // It is too long to be held for the policy to its end, and short enough to be held as a hello.
        let whole = with_sections(&hello, &[sequence("documents", &doc! { "t": "x".repeat(20_000) })]);
        client.write_all(&whole[..hello.len()]).await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        client.write_all(&whole[hello.len()..hello.len() + 40]).await.unwrap();
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        assert_eq!(upstream.read(&mut [0; 16]).await.unwrap(), 0);
        (client, upstream)
    })
    .await;
    assert!(matches!(end.reason, EndReason::Unjudged(_)), "{end:?}");
}

#[tokio::test]
async fn a_local_reply_waits_for_the_end_of_a_reply_to_no_request() {
    let (scene, _policy) = scene_with_policy(Enforcement::Enforce).await;
    let (_, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let unexpected = reply(90, 77);
        let (first, rest) = unexpected.split_at(20);
        let (second, third) = rest.split_at(3);
        upstream.write_all(first).await.unwrap();
        upstream.flush().await.unwrap();
        let mut begun = vec![0; first.len()];
        client.read_exact(&mut begun).await.unwrap();
        client.write_all(&find(1, "secret")).await.unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        for piece in [second, third] {
            upstream.write_all(piece).await.unwrap();
            upstream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut end = vec![0; rest.len()];
        client.read_exact(&mut end).await.unwrap();
        assert_eq!([begun, end].concat(), unexpected);
        read_denial(&mut client, 1).await;
    })
    .await;
}
