//! Callers of one gateway are one user to mongod. With a policy they cannot use each other's sessions and cursors.

use std::fs;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, body_section, op_msg_with_checksum, sequence_section};

const CART: &str = "cluster.local/ns/shop/sa/cart";
const THIEF: &str = "cluster.local/ns/shop/sa/thief";
const NO_SUCH_TRANSACTION: i32 = 251;

pub fn policy(database: &str) -> String {
    format!(
        "\n[[policy.rule]]\nname = 'private'\naction = 'deny'\nfrom = [{{ principals = ['{THIEF}'] }}]\n\
         to = [{{ databases = ['{database}'], collections = ['secret'] }}]\n"
    )
}

/// Two listeners with a principal each, and two without.
pub struct Scene {
    gateway: Gateway,
    options: GatewayOptions,
}

impl Scene {
    pub fn new(mongod: &Mongod, policy: &str) -> Self {
        let listener = |name: &str, principal: &str| {
            format!("[listener.{name}]\naddress = '127.0.0.1:0'\nupstream = 'test'\n{principal}")
        };
        let others = [
            listener("thief", &format!("principal = '{THIEF}'\n")),
            listener("one", ""),
            listener("other", ""),
            policy.to_owned(),
        ];
        let listener = format!("principal = '{CART}'\n");
        let options = GatewayOptions { listener, tables: others.concat(), ..GatewayOptions::to(mongod) };
        Self { gateway: Gateway::start(&options), options }
    }

    pub fn connect(&self, listener: &str) -> Connection {
        Connection::plain(&self.gateway.address_of(listener).unwrap()).unwrap()
    }

    /// Puts another policy in force.
    pub fn reload(&self, before: &str, after: &str, reloads: f64) {
        let tables = self.options.tables.replace(before, "") + after;
        let text = GatewayOptions { tables, ..self.options.clone() }.configuration();
        let aside = self.gateway.configuration_file().with_extension("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.gateway.configuration_file()).unwrap();
        let ok = [("outcome", "ok")];
        self.gateway.await_metric("mongate_reloads_total", &ok, |counted| (counted - reloads).abs() < 0.5);
    }
}

fn uuid(n: u8) -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![n; 16] }
}

/// `command` in session `n`, as statement of its transaction or retryable write `number`.
fn within(n: u8, number: i64, command: &Document) -> Document {
    let mut command = command.clone();
    command.extend(doc! { "lsid": { "id": uuid(n) }, "txnNumber": number });
    command
}

fn in_transaction(n: u8, number: i64, command: &Document) -> Document {
    let mut command = within(n, number, command);
    command.insert("autocommit", false);
    command
}

pub fn code(reply: &Document) -> Option<i32> {
    reply.get_i32("code").ok()
}

fn count(mongod: &Mongod, database: &str, collection: &str) -> i32 {
    mongod.run(&doc! { "count": collection, "$db": database }).unwrap().get_i32("n").unwrap()
}

#[test]
fn the_result_of_a_retryable_write_is_given_to_its_caller_only() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    for (database, is_shown) in [("sessions_kept", false), ("sessions_shown", true)] {
        let rules = if is_shown { String::new() } else { policy(database) };
        let scene = Scene::new(&mongod, &rules);
        let [mut cart, mut thief] = ["test", "thief"].map(|listener| scene.connect(listener));
        cart.run(&doc! { "insert": "secret", "documents": [{ "_id": 1, "t": "canary" }], "$db": database }).unwrap();
        cart.run(&doc! { "insert": "open", "documents": [{ "_id": 1, "t": "public" }], "$db": database }).unwrap();
        let modify = |collection: &str| {
            let update = doc! { "$set": { "t": "new" } };
            doc! { "findAndModify": collection, "query": { "_id": 1 }, "update": update, "$db": database }
        };
        let found = cart.run(&within(11, 5, &modify("secret"))).unwrap();
        assert_eq!(found.get_document("value").unwrap().get_str("t").unwrap(), "canary");
        // The caller itself gets the same result again, through another connection too.
        let again = scene.connect("test").run(&within(11, 5, &modify("secret"))).unwrap();
        assert_eq!(again.get("value"), found.get("value"));
        let stolen = thief.run(&within(11, 5, &modify("open"))).unwrap();
        let seen = stolen.get_document("value").unwrap().get_str("t").unwrap();
        assert_eq!(seen, if is_shown { "canary" } else { "public" }, "{stolen}");
    }
}

#[test]
fn a_transaction_can_be_continued_and_ended_by_its_caller_only() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    for (database, is_open) in [("transactions_kept", false), ("transactions_open", true)] {
        let rules = if is_open { String::new() } else { policy(database) };
        let scene = Scene::new(&mongod, &rules);
        let [mut cart, mut thief] = ["test", "thief"].map(|listener| scene.connect(listener));
        for collection in ["secret", "open"] {
            cart.run(&doc! { "create": collection, "$db": database }).unwrap();
        }
        let insert = |collection: &str, id: i32| {
            doc! { "insert": collection, "documents": [{ "_id": id }], "$db": database }
        };
        let mut begin = in_transaction(12, 7, &insert("secret", 1));
        begin.insert("startTransaction", true);
        cart.run(&begin).unwrap();
        let joined = thief.command(&in_transaction(12, 7, &insert("open", 2))).unwrap();
        assert_eq!(code(&joined), (!is_open).then_some(NO_SUCH_TRANSACTION), "{joined}");
        if is_open {
            thief.run(&in_transaction(12, 7, &doc! { "abortTransaction": 1, "$db": "admin" })).unwrap();
            continue;
        }
        for end in ["commitTransaction", "abortTransaction"] {
            let ended = thief.command(&in_transaction(12, 7, &doc! { end: 1, "$db": "admin" })).unwrap();
            assert_eq!(code(&ended), Some(NO_SUCH_TRANSACTION), "{ended}");
        }
        // Neither the end of the session nor a higher number ends the other's transaction.
        let sessions = [doc! { "id": uuid(12) }];
        for end in ["killSessions", "endSessions", "refreshSessions"] {
            thief.run(&doc! { end: &sessions[..], "$db": "admin" }).unwrap();
        }
        thief.run(&within(12, 8, &insert("open", 3))).unwrap();
        // mongod checks the checksums, and reads several sections in any order.
        let body = body_section(&in_transaction(12, 7, &doc! { "insert": "secret", "$db": database }));
        let more = |id: i32| sequence_section("documents", &[doc! { "_id": id, "t": "x".repeat(100_000) }]);
        let whole = body_section(&in_transaction(12, 7, &insert("secret", 4)));
        for sections in [vec![whole], vec![body.clone(), more(5)], vec![more(6), body.clone()]] {
            cart.send(&op_msg_with_checksum(1, 0, &sections)).unwrap();
            let reply = cart.reply().unwrap();
            assert_eq!((reply.code(), reply.document.get_i32("n").ok()), (None, Some(1)), "{}", reply.document);
        }
        cart.run(&in_transaction(12, 7, &doc! { "commitTransaction": 1, "$db": "admin" })).unwrap();
        assert_eq!((count(&mongod, database, "secret"), count(&mongod, database, "open")), (4, 1));
    }
}

#[test]
fn a_retryable_write_is_executed_once_also_after_a_restart_of_the_gateway() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let rules = policy("retries");
    let insert = within(13, 3, &doc! { "insert": "orders", "documents": [{ "t": 1 }], "$db": "retries" });
    for _ in 0..2 {
        let scene = Scene::new(&mongod, &rules);
        for _ in 0..2 {
            let reply = scene.connect("test").run(&insert).unwrap();
            assert_eq!(reply.get_i32("n").unwrap(), 1, "{reply}");
        }
    }
    assert_eq!(count(&mongod, "retries", "orders"), 1);
    let scene = Scene::new(&mongod, &rules);
    let mut cart = scene.connect("test");
    let known = |id: &Bson| {
        let pipeline = [doc! { "$listLocalSessions": { "allUsers": true } }];
        let listed = mongod
            .run(&doc! { "aggregate": 1, "pipeline": pipeline, "cursor": { "batchSize": 1000 }, "$db": "config" })
            .unwrap();
        let batch = listed.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        batch.iter().any(|session| session.as_document().unwrap().get_document("_id").unwrap().get("id") == Some(id))
    };
    let text = "0d0d0d0d-0d0d-0d0d-0d0d-0d0d0d0d0d0d";
    let (exit, out, _) = run_to_end(&["policy", "session-id", "--principal", CART, text]).unwrap();
    let there: Vec<u8> = {
        let digits = out.trim().replace('-', "");
        (0..32).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    assert_eq!((exit, out.trim().len()), (Some(0), 36));
    let there = Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: there });
    cart.run(&within(13, 4, &doc! { "insert": "orders", "documents": [{ "t": 1 }], "$db": "retries" })).unwrap();
    assert!(known(&there) && !known(&Bson::Binary(uuid(13))));
    cart.run(&doc! { "endSessions": [{ "id": uuid(13) }], "$db": "admin" }).unwrap();
}

/// The connections of a driver share its sessions, old connections and new ones.
#[test]
fn a_transaction_goes_on_on_any_connection_when_the_policy_is_removed() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let (database, rules) = ("sessions_removed", policy("sessions_removed"));
    let scene = Scene::new(&mongod, &rules);
    let mut old = scene.connect("test");
    old.run(&doc! { "create": "orders", "$db": database }).unwrap();
    let insert = |id: i32| doc! { "insert": "orders", "documents": [{ "_id": id }], "$db": database };
    let mut begin = in_transaction(14, 1, &insert(1));
    begin.insert("startTransaction", true);
    old.run(&begin).unwrap();
    scene.reload(&rules, "", 1.0);
    scene.connect("test").run(&in_transaction(14, 1, &insert(2))).unwrap();
    old.run(&in_transaction(14, 1, &insert(3))).unwrap();
    scene.connect("test").run(&in_transaction(14, 1, &doc! { "commitTransaction": 1, "$db": "admin" })).unwrap();
    assert_eq!(count(&mongod, database, "orders"), 3);
}

#[test]
fn callers_without_a_principal_do_not_share_cursors_across_listeners() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let scene = Scene::new(&mongod, &policy("cursors_apart"));
    let [mut one, mut other] = ["one", "other"].map(|listener| scene.connect(listener));
    let documents: Vec<_> = (0..10).map(|n| doc! { "n": n }).collect();
    one.run(&doc! { "insert": "orders", "documents": documents, "$db": "cursors_apart" }).unwrap();
    let found = one.run(&doc! { "find": "orders", "batchSize": 1, "$db": "cursors_apart" }).unwrap();
    let cursor = found.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": cursor, "collection": "orders", "batchSize": 1, "$db": "cursors_apart" };
    assert_eq!(code(&other.command(&more).unwrap()), Some(13));
    scene.connect("one").run(&more).unwrap();
}
