//! Clients that share upstream connections, one after the other: drivers notice nothing, mongod has few connections,
//! and nothing that belongs to one client ever reaches another one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bson::{Bson, Document, doc};

use crate::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, body_section, op_msg, op_query};
use crate::kit::waiting::until;
use crate::rust_script::Outcome;
use crate::slow;

/// A flag of `OP_MSG`: the client expects no reply.
const MORE_TO_COME: u32 = 2;

const IN_USE: &str = "mongate_pool_connections";

/// Runs a driver's script with a URI and a database.
type Script = fn(&str, &str) -> Option<Outcome>;

fn with_pool(mongod: &Mongod, pool: &str) -> Gateway {
    Gateway::start(&GatewayOptions { upstream: format!("warm_connections = 0\n{pool}"), ..GatewayOptions::to(mongod) })
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

/// A client that has introduced itself as `application`.
fn client(gateway: &Gateway, application: &str) -> Connection {
    let mut connection = Connection::plain(gateway.address()).unwrap();
    let driver = doc! { "name": "kit", "version": "1" };
    let client = doc! { "application": { "name": application }, "driver": driver, "os": { "type": "Linux" } };
    let hello = connection.run(&doc! { "hello": 1, "client": client, "$db": "admin" }).unwrap();
    assert!(hello.get_bool("isWritablePrimary").unwrap(), "{hello}");
    connection
}

/// The connections that mongod has accepted since its start.
fn accepted(mongod: &Mongod) -> i64 {
    let status = mongod.run(&doc! { "serverStatus": 1, "$db": "admin" }).unwrap();
    let total = status.get_document("connections").unwrap().get("totalCreated").unwrap();
    total.as_i64().or_else(|| total.as_i32().map(i64::from)).unwrap()
}

/// The upstream connections of the pool, parked or in use.
fn shared(gateway: &Gateway) -> f64 {
    gateway.metric(IN_USE, &[("state", "idle")]) + gateway.metric(IN_USE, &[("state", "in_use")])
}

#[test]
fn drivers_see_no_difference_with_shared_connections() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let limited: [&str; 3] = ["concurrent", "exhaust", "gridfs"];
    let scripts: [(&str, Script, &[&str]); 3] = [
        ("python", drivers::python, &[]),
        ("node", drivers::node, &["exhaust"]),
        ("mongosh", drivers::mongosh, &limited),
    ];
    for mode in ["session", "request"] {
        for (name, script, left_out) in scripts {
            let gateway = with_pool(&mongod, &format!("pool.mode = {mode:?}\npool.max_connections = 16\n"));
            drivers::compare_through(&gateway, name, script, "directConnection=true", left_out);
            assert!(shared(&gateway) < 16.5);
            assert!(gateway.metric("mongate_pool_connections", &[]) > 0.5, "{name} in mode {mode} used no pool");
        }
    }
}

#[test]
fn clients_that_come_and_go_cost_mongod_no_connection() {
    // Its own: the clients of other tests would be counted.
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    for mode in ["session", "request"] {
        let gateway = with_pool(&mongod, &format!("pool.mode = {mode:?}\n"));
        // The first client has the connection made. The hello of a client needs none.
        let first = |gateway: &Gateway| client(gateway, "php").run(&ping()).unwrap();
        first(&gateway);
        until("the connection is parked", || (gateway.metric(IN_USE, &[("state", "idle")]) > 0.5).then_some(()));
        let before = accepted(&mongod);
        for _ in 0..50 {
            let mut client = client(&gateway, "php");
            client.run(&ping()).unwrap();
            drop(client);
            until("the connection is parked again", || {
                (gateway.metric(IN_USE, &[("state", "idle")]) > 0.5).then_some(())
            });
        }
        // Health checks and this test connect too, but far less often.
        let more = accepted(&mongod) - before;
        assert!(more < 25, "{mode}: 50 clients cost mongod {more} connections");
        assert!(gateway.metric("mongate_pool_reuses_total", &[]) > 49.5);
    }
}

#[test]
fn a_hundred_clients_live_on_four_upstream_connections() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"request\"\npool.max_connections = 4\n");
    let mut clients: Vec<_> = (0..100).map(|_| client(&gateway, "crowd")).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.run(&ping()).unwrap();
        }
    }
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || client.run(&ping()).unwrap());
        }
    });
    let used = shared(&gateway);
    assert!((0.5..4.5).contains(&used), "{used} upstream connections");
}

#[test]
fn a_client_that_writes_without_acknowledgement_lets_others_go_on() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let pool = "pool.mode = \"request\"\npool.max_connections = 1\n";
    let gateway = with_pool(&mongod, pool);
    let mut writer = client(&gateway, "writer");
    let mut other = client(&gateway, "other");
    for round in 1..=10 {
        for number in 0..20 {
            let insert = doc! { "insert": "unacknowledged", "documents": [{ "round": round, "number": number }] };
            let insert = insert.into_iter().chain(doc! { "writeConcern": { "w": 0 }, "$db": "pool" }).collect();
            writer.send(&op_msg(number, MORE_TO_COME, &[body_section(&insert)])).unwrap();
        }
        // It needs the connection of the writer, which has had no reply.
        other.run(&ping()).unwrap();
        let count = doc! { "count": "unacknowledged", "$db": "pool" };
        // A write is not overtaken by the next request of its client, which needs the connection back.
        assert_eq!(writer.run(&count).unwrap().get_i32("n").unwrap(), 20 * round);
    }
    assert!(shared(&gateway) < 1.5);
}

#[test]
fn a_request_that_waits_too_long_gets_an_error_that_drivers_retry() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "pool_full");
    let pool = "pool.mode = \"request\"\npool.max_connections = 1\npool.wait_timeout = \"300ms\"\n";
    let gateway = with_pool(&mongod, pool);
    let mut waiting = client(&gateway, "a");
    waiting.run(&ping()).unwrap();
    let mut busy = TcpStream::connect(gateway.address()).unwrap();
    busy.write_all(&op_msg(1, 0, &[body_section(&slow::find("pool_full", 120_000))])).unwrap();
    slow::await_running(&mongod, "pool_full", 1);
    let refused = waiting.command(&ping()).unwrap();
    assert_eq!(refused.get_i32("code").unwrap(), 462, "{refused}");
    let labels = refused.get_array("errorLabels").unwrap();
    assert!(labels.contains(&"SystemOverloadedError".into()) && labels.contains(&"RetryableError".into()), "{refused}");
    // A request that is so long that it waits in part is read to its end.
    let filler = "x".repeat(1_000_000);
    let long = doc! { "insert": "refused", "documents": vec![doc! { "filler": filler }; 3], "$db": "pool_full" };
    let refused = waiting.command(&long).unwrap();
    assert_eq!(refused.get_i32("code").unwrap(), 462, "{refused}");
    drop(busy);
    // The operation of a client that has left ends, and its connection with it.
    until("mongod ends the operation", || (slow::running(&mongod, "pool_full") == 0).then_some(()));
    until("the client that was refused goes on", || waiting.run(&ping()).ok());
    let count = doc! { "count": "refused", "$db": "pool_full" };
    assert_eq!(waiting.run(&count).unwrap().get_i32("n").unwrap(), 0, "a refused write has reached mongod");
}

/// The application names that begin like this of all connections of mongod.
fn applications(mongod: &Mongod, prefix: &str) -> Vec<String> {
    let all = doc! { "$currentOp": { "allUsers": true, "idleConnections": true } };
    let pipeline = vec![all, doc! { "$match": { "appName": { "$regex": format!("^{prefix}") } } }];
    let reply = mongod.run(&doc! { "aggregate": 1, "pipeline": pipeline, "cursor": {}, "$db": "admin" }).unwrap();
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let mut names: Vec<_> =
        batch.iter().map(|it| it.as_document().unwrap().get_str("appName").unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_client_that_authenticates_itself_has_a_connection_of_its_own_with_its_application_name() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"request\"\npool.max_connections = 1\n");
    let mut authenticating = client(&gateway, "own-app");
    let payload = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"n,,n=own,r=abcdefgh".to_vec() };
    let start = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload, "$db": "admin" };
    // There is no such user. It is the connection's own from the first message of an authentication on.
    authenticating.command(&start).unwrap();
    // The hello may have gone to mongod on a connection of the pool, if the gateway had just started. That one gives
    // way.
    client(&gateway, "another-app").run(&ping()).unwrap();
    until("its own connection is left", || (applications(&mongod, "own-app") == ["own-app"]).then_some(()));
    assert!(shared(&gateway) < 1.5, "it does not count in the pool");
    authenticating.run(&ping()).unwrap();
    drop(authenticating);
    until("the connection is closed with its client", || applications(&mongod, "own-app").is_empty().then_some(()));
}

#[test]
fn mongod_itself_answers_a_hello_that_it_rejects() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"request\"\n");
    let long = doc! { "application": { "name": "x".repeat(600) }, "driver": { "name": "kit", "version": "1" } };
    for metadata in [long, doc! {}, doc! { "driver": 1 }] {
        let hello = doc! { "hello": 1, "client": metadata, "$db": "admin" };
        let directly = mongod.connect().unwrap().command(&hello).unwrap();
        let through = Connection::plain(gateway.address()).unwrap().command(&hello).unwrap();
        assert_eq!(through.get("code"), directly.get("code"), "{through} instead of {directly}");
        assert_eq!(through.get("errmsg"), directly.get("errmsg"));
    }
}

/// A hello request, and whether the gateway answers it itself.
struct Question {
    hello: Document,
    is_query: bool,
    is_local: bool,
}

/// Hello requests to a member whose own hello reply is `now`.
fn questions(now: &Document) -> Vec<Question> {
    let asks = |hello: Document, is_local| Question { hello, is_query: false, is_local };
    let queries = |hello: Document| Question { hello, is_query: true, is_local: true };
    let with = |mut hello: Document, more: Document| {
        hello.extend(more);
        hello
    };
    let client = doc! { "driver": { "name": "kit", "version": "1" }, "os": { "type": "Linux" } };
    let version = now.get_document("topologyVersion").unwrap();
    let mut other_version = version.clone();
    other_version.insert("processId", bson::oid::ObjectId::from_bytes([1; 12]));
    let mut questions = Vec::new();
    for name in ["hello", "isMaster", "ismaster"] {
        let hello = || doc! { name: 1 };
        questions.extend([
            asks(hello(), true),
            asks(with(hello(), doc! { "helloOk": true }), true),
            asks(with(hello(), doc! { "helloOk": true, "client": client.clone() }), true),
            asks(with(hello(), doc! { "compression": ["zstd", "zlib"] }), true),
            asks(with(hello(), doc! { "compression": [] }), true),
            asks(with(hello(), doc! { "topologyVersion": version.clone(), "maxAwaitTimeMS": 20_i64 }), true),
            asks(with(hello(), doc! { "topologyVersion": other_version.clone(), "maxAwaitTimeMS": 600_000 }), true),
            asks(with(hello(), doc! { "topologyVersion": version.clone() }), false),
            asks(with(hello(), doc! { "maxAwaitTimeMS": 20 }), false),
            asks(with(hello(), doc! { "saslSupportedMechs": "admin.unknown" }), false),
            asks(with(hello(), doc! { "speculativeAuthenticate": speculative() }), false),
            asks(with(hello(), doc! { "loadBalanced": false }), true),
            asks(with(hello(), doc! { "loadBalanced": true }), false),
            asks(with(hello(), doc! { "unknown": 1 }), false),
        ]);
    }
    questions.extend([
        asks(doc! { "hello": 1, "apiVersion": "1" }, true),
        asks(doc! { "hello": 1, "apiVersion": "1", "apiStrict": true }, true),
        asks(doc! { "isMaster": 1, "apiVersion": "1", "apiStrict": true }, false),
        queries(doc! { "isMaster": 1 }),
        queries(doc! { "ismaster": 1, "helloOk": true, "client": client }),
    ]);
    questions
}

/// The first message of SCRAM, of a user that does not exist.
fn speculative() -> Document {
    let payload =
        bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: b"n,,n=stranger,r=abcdefgh".to_vec() };
    doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": payload, "db": "admin" }
}

fn answer(mut connection: Connection, question: &Question) -> Document {
    if question.is_query {
        connection.send(&op_query(1, "admin.$cmd", -1, &question.hello)).unwrap();
        return connection.reply().unwrap().document;
    }
    let mut hello = question.hello.clone();
    hello.insert("$db", "admin");
    connection.command(&hello).unwrap()
}

/// A hello reply without what differs from one reply of mongod to the next: only its BSON type stays.
fn lasting(mut reply: Document) -> Document {
    fn types(value: &mut Bson) {
        match value {
            Bson::Document(fields) => fields.iter_mut().for_each(|(_, field)| types(field)),
            value => *value = Bson::String(format!("{:?}", value.element_type())),
        }
    }
    for name in ["localTime", "connectionId", "lastWrite", "$clusterTime", "operationTime"] {
        if let Some(value) = reply.get_mut(name) {
            types(value);
        }
    }
    reply
}

#[test]
fn a_hello_reply_of_the_gateway_is_that_of_mongod() {
    let (Some(standalone), Some(member)) = (Mongod::shared_standalone(), Mongod::shared_replica_set()) else { return };
    for mongod in [standalone, member] {
        let gateway = with_pool(&mongod, "pool.mode = \"session\"\n");
        let uses = || gateway.metric("mongate_pool_reuses_total", &[]) + shared(&gateway);
        let hello = Question { hello: doc! { "hello": 1 }, is_query: false, is_local: true };
        let now = until("the gateway knows the member's hello", || {
            let before = uses();
            let reply = answer(Connection::plain(gateway.address()).unwrap(), &hello);
            ((uses() - before).abs() < 0.5).then_some(reply)
        });
        for question in questions(&now) {
            let mut expected = lasting(answer(mongod.connect().unwrap(), &question));
            // The gateway agrees on no compression.
            expected.remove("compression");
            let before = uses();
            let reply = lasting(answer(Connection::plain(gateway.address()).unwrap(), &question));
            let sent: Vec<_> = expected.iter().collect();
            assert_eq!(reply.iter().collect::<Vec<_>>(), sent, "{}", question.hello);
            if question.is_local {
                assert!((uses() - before).abs() < 0.5, "mongod answered {}", question.hello);
            }
        }
    }
}

#[test]
fn mongod_shows_the_application_of_each_connection() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"session\"\n");
    for application in ["pool-app-one", "pool-app-two", "pool-app-one"] {
        client(&gateway, application).run(&ping()).unwrap();
        until("the connection is parked", || (gateway.metric(IN_USE, &[("state", "in_use")]) < 0.5).then_some(()));
    }
    let names = applications(&mongod, "pool-app");
    assert_eq!(names, ["pool-app-one", "pool-app-two"], "the third client used the connection of the first");
}

#[test]
fn nothing_of_one_client_reaches_another_one() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"request\"\npool.max_connections = 3\n");
    let is_over = AtomicBool::new(false);
    let filler = "x".repeat(20_000);
    for number in 0..8 {
        let documents: Vec<_> = (0..40).map(|i| doc! { "_id": i, "canary": number, "filler": &filler }).collect();
        let insert = doc! { "insert": format!("canary{number}"), "documents": documents, "$db": "pool" };
        mongod.run(&insert).unwrap();
    }
    thread::scope(|scope| {
        let reader = |number: i32| {
            let find = doc! { "find": format!("canary{number}"), "batchSize": 10, "$db": "pool" };
            let mut rounds = 0;
            while !is_over.load(Ordering::Relaxed) || rounds < 20 {
                let mut connection = client(&gateway, "canary");
                for _ in 0..3 {
                    let reply = connection.run(&find).unwrap();
                    let cursor = reply.get_document("cursor").unwrap();
                    let seen = cursor.get_array("firstBatch").unwrap();
                    assert_eq!(seen.len(), 10);
                    for document in seen {
                        assert_eq!(document.as_document().unwrap().get_i32("canary").unwrap(), number);
                    }
                    // The cursor may be read on another upstream connection.
                    let collection = format!("canary{number}");
                    let more =
                        doc! { "getMore": cursor.get_i64("id").unwrap(), "collection": collection, "$db": "pool" };
                    let more = connection.run(&more).unwrap();
                    assert_eq!(more.get_document("cursor").unwrap().get_array("nextBatch").unwrap().len(), 30);
                }
                // It leaves with a reply under way that no client reads.
                connection.send(&op_msg(7, 0, &[body_section(&find)])).unwrap();
                rounds += 1;
            }
        };
        let readers: Vec<_> = (0..8).map(|number| scope.spawn(move || reader(number))).collect();
        until("clients have used the connections of others", || {
            (gateway.metric("mongate_pool_reuses_total", &[]) > 300.0).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(shared(&gateway) < 3.5);
}
