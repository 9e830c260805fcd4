//! Clients and gateways that leave: the time between the signal and the drain, and clients that close their side.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bson::doc;
use serde_json::Value;
use socket2::SockRef;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{body_section, op_msg};
use crate::kit::waiting::until;

const END_TIMEOUT: Duration = Duration::from_secs(30);

fn ping() -> bson::Document {
    doc! { "ping": 1, "$db": "admin" }
}

#[test]
fn a_gateway_with_a_delay_is_not_ready_and_serves_on() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let tables = "[shutdown]\ndelay = '3s'\n".to_owned();
    let mut gateway = Gateway::start(&GatewayOptions { tables, ..GatewayOptions::to(&mongod) });
    gateway.terminate().unwrap();
    until("the gateway is not ready", || (gateway.get("/readyz").unwrap().status == 503).then_some(()));
    gateway.connect().unwrap().run(&ping()).unwrap();
    assert!(gateway.wait(END_TIMEOUT).unwrap().success());
}

#[test]
fn a_gateway_that_waits_for_clients_ends_when_the_last_one_has_left() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let tables = "[shutdown]\nwait_for_clients = true\n".to_owned();
    let mut gateway = Gateway::start(&GatewayOptions { tables, ..GatewayOptions::to(&mongod) });
    let mut client = gateway.connect().unwrap();
    client.run(&ping()).unwrap();
    gateway.terminate().unwrap();
    until("the gateway is not ready", || (gateway.get("/readyz").unwrap().status == 503).then_some(()));
    client.run(&ping()).unwrap();
    gateway.connect().unwrap().run(&ping()).unwrap();
    assert!(!gateway.has_ended().unwrap());
    drop(client);
    assert!(gateway.wait(END_TIMEOUT).unwrap().success());
}

#[test]
fn a_client_that_has_closed_its_side_gives_its_place_back_while_mongod_is_silent() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let listener = "half_close_timeout = '1s'\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, ..GatewayOptions::to(&mongod) });
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(&op_msg(1, 0, &[body_section(&ping())])).unwrap();
    gateway.await_metric("mongate_commands_total", &[("command", "ping")], |count| count >= 1.0);
    mongod.freeze().unwrap();
    // The signal takes a moment: a mongod that still runs would answer.
    let status = format!("/proc/{}/status", mongod.process_id().unwrap());
    let is_stopped = || std::fs::read_to_string(&status).ok()?.contains("State:\tT").then_some(());
    until("mongod is stopped", is_stopped);
    client.write_all(&op_msg(2, 0, &[body_section(&ping())])).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    gateway.await_metric("mongate_connections_active", &[], |count| count < 1.0);
    let closed = gateway.wait_for_log(END_TIMEOUT, |event| event["reason"] == "half_close_timeout").unwrap();
    assert_eq!(closed["unanswered"], 1, "{closed}");
    mongod.thaw().unwrap();
}

/// A client that is not read does not show its end: it stands behind bytes that wait for mongod.
#[test]
fn clients_that_leave_while_they_are_not_read_give_their_places_back() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let listener = "half_close_timeout = '1s'\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, ..GatewayOptions::to(&mongod) });
    let mut clients = [(); 2].map(|()| TcpStream::connect(gateway.address()).unwrap());
    for client in &mut clients {
        client.write_all(&op_msg(1, 0, &[body_section(&ping())])).unwrap();
    }
    gateway.await_metric("mongate_commands_total", &[("command", "ping")], |count| count >= 2.0);
    mongod.freeze().unwrap();
    let [mut in_order, mut by_reset] = clients;
    // More requests than may be in flight: the gateway does not read the last ones, which its kernel has accepted.
    in_order.write_all(&op_msg(2, 0, &[body_section(&ping())]).repeat(5_000)).unwrap();
    let insert = doc! { "insert": "c", "documents": [{ "filler": "x".repeat(1_000_000) }], "$db": "left" };
    let insert = op_msg(2, 0, &[body_section(&insert)]);
    by_reset.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // The buffers of two connections fill up: a write that waits for a second has found them full.
    while by_reset.write_all(&insert).is_ok() {}
    in_order.shutdown(Shutdown::Write).unwrap();
    SockRef::from(&by_reset).set_linger(Some(Duration::ZERO)).unwrap();
    drop(by_reset);
    gateway.await_metric("mongate_connections_active", &[], |count| count < 1.0);
    for reason in ["half_close_timeout", "connection reset"] {
        let has_reason = |event: &Value| event["reason"].as_str().is_some_and(|it| it.contains(reason));
        gateway.wait_for_log(END_TIMEOUT, has_reason).unwrap();
    }
    mongod.thaw().unwrap();
}
