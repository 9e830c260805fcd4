//! Clients that share upstream connections, one after the other: drivers notice nothing, mongod has few connections,
//! and nothing that belongs to one client ever reaches another one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bson::{Document, doc};

use crate::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::kit::waiting::until;
use crate::rust_script::Outcome;
use crate::slow;

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
    drop(busy);
    // The operation of a client that has left ends, and its connection with it.
    until("mongod ends the operation", || (slow::running(&mongod, "pool_full") == 0).then_some(()));
    until("the client that was refused goes on", || waiting.run(&ping()).ok());
}

#[test]
fn mongod_shows_the_application_of_each_connection() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_pool(&mongod, "pool.mode = \"session\"\n");
    for application in ["pool-app-one", "pool-app-two", "pool-app-one"] {
        client(&gateway, application).run(&ping()).unwrap();
        until("the connection is parked", || (gateway.metric(IN_USE, &[("state", "in_use")]) < 0.5).then_some(()));
    }
    let all = doc! { "$currentOp": { "allUsers": true, "idleConnections": true } };
    let pipeline = [all, doc! { "$match": { "appName": { "$regex": "^pool-app" } } }];
    let cursor = doc! { "aggregate": 1, "pipeline": pipeline.to_vec(), "cursor": {}, "$db": "admin" };
    let reply = mongod.run(&cursor).unwrap();
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let mut names: Vec<_> = batch.iter().map(|it| it.as_document().unwrap().get_str("appName").unwrap()).collect();
    names.sort_unstable();
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
