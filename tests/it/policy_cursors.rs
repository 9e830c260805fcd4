//! Neither cursors nor streams of replies outlive the policy that allowed them.

use bson::{Document, doc};

use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, EXHAUST_ALLOWED, MORE_TO_COME, Received, body_section, op_msg};
use crate::kit::waiting::until;
use crate::policy_sessions::{Scene, code, policy};

/// A policy that denies nothing.
const AUDIT: &str = "\n[[policy.rule]]\nname = 'seen'\naction = 'audit'\nto = [{ commands = ['drop'] }]\n";

#[test]
fn a_cursor_and_a_stream_of_replies_are_judged_by_the_policy_in_force() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let database = "cursors_reloaded";
    let documents: Vec<_> = (0..200).map(|n| doc! { "n": n }).collect();
    for collection in ["orders", "secret"] {
        mongod.run(&doc! { "insert": collection, "documents": &documents, "$db": database }).unwrap();
    }
    let open = |connection: &mut Connection| {
        let pipeline = [doc! { "$unionWith": "secret" }];
        let cursor = doc! { "batchSize": 1 };
        let reply = connection
            .run(&doc! { "aggregate": "orders", "pipeline": pipeline, "cursor": cursor, "$db": database })
            .unwrap();
        reply.get_document("cursor").unwrap().get_i64("id").unwrap()
    };
    let more = |cursor: i64| doc! { "getMore": cursor, "collection": "orders", "batchSize": 1, "$db": database };
    let streamed = |cursor: i64| op_msg(1, EXHAUST_ALLOWED, &[body_section(&more(cursor))]);

    let scene = Scene::new(&mongod, AUDIT);
    let mut thief = scene.connect("thief");
    let cursor = open(&mut thief);
    thief.run(&more(cursor)).unwrap();
    thief.send(&streamed(cursor)).unwrap();
    assert_eq!(thief.reply().unwrap().flags & MORE_TO_COME, 0, "one reply only");
    thief.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    scene.reload(AUDIT, &policy(database), 1.0);
    let denied = thief.command(&more(cursor)).unwrap();
    assert_eq!(code(&denied), Some(13), "{denied}");
    assert!(denied.get_str("errmsg").unwrap().contains("rule \"private\""), "{denied}");
    assert!(denied.contains_key("operationTime") && denied.contains_key("$clusterTime"), "{denied}");
    assert_eq!(code(&thief.command(&doc! { "find": "secret", "$db": database }).unwrap()), Some(13));

    // Without a policy mongod streams, until a policy comes into force.
    let scene = Scene::new(&mongod, "");
    let mut thief = scene.connect("thief");
    let cursor = open(&mut thief);
    let mut slow = scene.connect("thief");
    slow.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    let watch = doc! { "aggregate": 1, "pipeline": [{ "$changeStream": {} }], "cursor": {}, "$db": database };
    let watched = slow.run(&watch).unwrap().get_document("cursor").unwrap().get_i64("id").unwrap();
    let await_more = doc! { "getMore": watched, "collection": "$cmd.aggregate", "maxTimeMS": 100, "$db": database };
    slow.send(&op_msg(1, EXHAUST_ALLOWED, &[body_section(&await_more)])).unwrap();
    assert_ne!(slow.reply().unwrap().flags & MORE_TO_COME, 0);
    scene.reload("", &policy(database), 1.0);
    until("the stream ends", || matches!(slow.receive().unwrap(), Received::Closed(_)).then_some(()));
    assert_eq!(code(&thief.command(&more(cursor)).unwrap()), Some(43), "no policy has judged its command");
}

fn cursor_of(reply: &Document) -> i64 {
    reply.get_document("cursor").unwrap().get_i64("id").unwrap()
}

/// The reply comes after the policy has changed, and behind a request that the new policy has judged.
#[test]
fn a_slow_aggregate_that_a_later_policy_denies_does_not_go_on() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let database = "cursors_slow";
    for collection in ["orders", "secret"] {
        let documents: Vec<_> = (0..10).map(|n| doc! { "n": n, "in": collection }).collect();
        mongod.run(&doc! { "insert": collection, "documents": documents, "$db": database }).unwrap();
    }
    let scene = Scene::new(&mongod, AUDIT);
    let mut thief = scene.connect("thief");
    let sleeps = doc! { "$function": { "body": "function() { sleep(300); return true; }", "args": [], "lang": "js" } };
    let pipeline = [doc! { "$match": { "n": 0, "$expr": sleeps } }, doc! { "$unionWith": "secret" }];
    let slow = doc! { "aggregate": "orders", "pipeline": &pipeline[..], "cursor": { "batchSize": 1 }, "$db": database };
    thief.send(&op_msg(1, 0, &[body_section(&slow)])).unwrap();
    until("mongod runs it", || {
        let running = doc! { "currentOp": 1, "ns": format!("{database}.orders"), "$db": "admin" };
        (!mongod.run(&running).unwrap().get_array("inprog").unwrap().is_empty()).then_some(())
    });
    scene.reload(AUDIT, &policy(database), 1.0);
    thief.send(&op_msg(2, 0, &[body_section(&doc! { "ping": 1, "$db": "admin" })])).unwrap();
    let [opened, pong] = [1, 2].map(|_| thief.reply().unwrap());
    assert_eq!((opened.response_to, pong.response_to, opened.code()), (1, 2, None), "{}", opened.document);
    let more = doc! { "getMore": cursor_of(&opened.document), "collection": "orders", "$db": database };
    let denied = thief.command(&more).unwrap();
    assert_eq!(code(&denied), Some(13), "{denied}");
    // The caller that may read the collection is shown it.
    let mut cart = scene.connect("test");
    let opened = cart.run(&slow).unwrap();
    let more = doc! { "getMore": cursor_of(&opened), "collection": "orders", "$db": database };
    let seen = cart.run(&more).unwrap();
    let batch = seen.get_document("cursor").unwrap().get_array("nextBatch").unwrap();
    assert!(batch.iter().all(|one| one.as_document().unwrap().get_str("in").unwrap() == "secret"), "{seen}");
    assert_eq!(batch.len(), 10);
}

/// A change stream that waits when the policy changes is not told of what is written afterwards.
#[test]
fn a_get_more_that_waits_does_not_bring_what_is_written_after_the_policy_denies_it() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let database = "cursors_waiting";
    mongod.run(&doc! { "insert": "secret", "documents": [{ "n": 1 }], "$db": database }).unwrap();
    let scene = Scene::new(&mongod, AUDIT);
    let watch = |connection: &mut Connection| {
        let pipeline = [doc! { "$changeStream": {} }];
        let command = doc! { "aggregate": "secret", "pipeline": pipeline, "cursor": {}, "$db": database };
        let cursor = cursor_of(&connection.run(&command).unwrap());
        let more = doc! { "getMore": cursor, "collection": "secret", "maxTimeMS": 60_000, "$db": database };
        connection.send(&op_msg(7, 0, &[body_section(&more)])).unwrap();
    };
    let [mut cart, mut thief] = ["test", "thief"].map(|listener| scene.connect(listener));
    watch(&mut cart);
    watch(&mut thief);
    until("both wait", || {
        let waiting = doc! { "currentOp": 1, "op": "getmore", "ns": format!("{database}.secret"), "$db": "admin" };
        (mongod.run(&waiting).unwrap().get_array("inprog").unwrap().len() == 2).then_some(())
    });
    scene.reload(AUDIT, &policy(database), 1.0);
    mongod.run(&doc! { "insert": "secret", "documents": [{ "t": "canary" }], "$db": database }).unwrap();
    let seen = cart.reply().unwrap().document;
    assert!(seen.to_string().contains("canary"), "{seen}");
    assert!(matches!(thief.receive().unwrap(), Received::Closed(_)), "not a byte");
}
