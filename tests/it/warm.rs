//! Spare connections: a new client gets one that is ready, and the gateway replaces it.

use std::thread;

use bson::{Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::Connection;
use crate::kit::waiting::until;
use crate::slow;

/// Default of `warm_connections`.
const SPARES: f64 = 2.0;
const GAUGE: &str = "mongate_upstream_warm_connections";

#[test]
fn a_new_client_gets_a_spare_connection_which_is_then_replaced() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    // The gateway may keep more spare connections than the minimum when clients come fast.
    let enough = |count: f64| count > SPARES - 0.5;
    for _ in 0..5 {
        gateway.await_metric(GAUGE, &[], enough);
        // mongod numbers connections in the order in which it accepts them.
        let newest = number(&mut mongod.connect().unwrap());
        assert!(number(&mut gateway.connect().unwrap()) < newest, "the client's upstream connection was not a spare");
    }
}

#[test]
fn with_warm_connections_0_every_client_gets_a_new_upstream_connection() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with(&mongod, "warm_connections = 0\n");
    let newest = number(&mut mongod.connect().unwrap());
    assert!(number(&mut gateway.connect().unwrap()) > newest);
    assert!(gateway.metric(GAUGE, &[]).abs() < 0.5);
    assert_eq!(ready_and_target(&gateway), (0, 0));
}

#[test]
fn spare_connections_end_with_mongod_and_are_made_again_after_its_restart() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = Gateway::to(&mongod);
    await_spares(&gateway, SPARES);
    for kills in [true, false] {
        if kills {
            mongod.kill();
        } else {
            mongod.stop().unwrap();
        }
        await_spares(&gateway, 0.0);
        mongod.restart().unwrap();
        // The next client works, whether there are spare connections again or not.
        gateway.connect().unwrap().run(&ping()).unwrap();
        let enough = |count: f64| count > SPARES - 0.5;
        gateway.await_metric(GAUGE, &[], enough);
        let newest = number(&mut mongod.connect().unwrap());
        assert!(number(&mut gateway.connect().unwrap()) < newest);
    }
}

#[test]
fn a_client_never_gets_a_spare_connection_that_mongod_has_closed() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = with(&mongod, "warm_connections = 3\n");
    await_spares(&gateway, 3.0);
    mongod.kill();
    mongod.restart().unwrap();
    // Immediately, before the periodic check may have noticed the closed connections.
    for _ in 0..3 {
        gateway.connect().unwrap().run(&ping()).unwrap();
    }
}

#[test]
fn a_burst_of_clients_is_served_and_raises_the_number_of_spare_connections() {
    const CLIENTS: usize = 40;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // A pool would keep the connections of the burst.
    let gateway = with(&mongod, "warm_connections_max = 8\npool.mode = 'off'\n");
    await_spares(&gateway, SPARES);
    assert_eq!(ready_and_target(&gateway).1, 2);
    let other_descriptors = gateway.descriptors().unwrap() - 2;
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| gateway.connect().unwrap().run(&ping()).unwrap());
        }
    });
    let grown =
        until("the target grows with the demand", || Some(ready_and_target(&gateway).1).filter(|target| *target > 2));
    assert!(grown <= 8, "{grown} is more than warm_connections_max");
    let ready = until("there are as many spare connections as the target", || {
        let (ready, target) = ready_and_target(&gateway);
        (ready == target).then_some(usize::try_from(ready).unwrap())
    });
    until("only the spare connections are open", || {
        (gateway.descriptors().unwrap() <= other_descriptors + ready).then_some(())
    });
}

#[test]
fn a_drain_closes_spare_connections_and_does_not_wait_for_them() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "warm_drain");
    let gateway = Gateway::to(&mongod);
    await_spares(&gateway, SPARES);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| gateway.connect().unwrap().command(&slow::find("warm_drain", 3_000)));
        slow::await_running(&mongod, "warm_drain", 1);
        gateway.terminate().unwrap();
        await_spares(&gateway, 0.0);
        waiting.join().unwrap().unwrap();
    });
}

fn with(mongod: &Mongod, upstream: &str) -> Gateway {
    Gateway::start(&GatewayOptions { upstream: upstream.to_owned(), ..GatewayOptions::to(mongod) })
}

#[track_caller]
fn await_spares(gateway: &Gateway, wanted: f64) {
    let is_wanted = |count: f64| (count - wanted).abs() < 0.5;
    gateway.await_metric(GAUGE, &[], is_wanted);
}

/// Returns the numbers of ready and of wanted spare connections from `/status`.
fn ready_and_target(gateway: &Gateway) -> (u64, u64) {
    let status: serde_json::Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    let warm = &status["upstreams"][0]["warm_connections"];
    (warm["ready"].as_u64().unwrap(), warm["target"].as_u64().unwrap())
}

/// Returns mongod's number for this connection.
fn number(connection: &mut Connection) -> i64 {
    let hello = connection.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    hello.get_i32("connectionId").map(i64::from).or_else(|_| hello.get_i64("connectionId")).unwrap()
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
