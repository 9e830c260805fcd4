//! A reader of standard error that stops reading: no client waits for it, and the process can be stopped.

use std::time::Duration;

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::waiting::until;

/// At level `debug`, each command is a line of more than 100 bytes. These fill the pipe (64 KiB) and the queue
/// (4096 lines).
const COMMANDS: usize = 6_000;

const LOG_TIMEOUT: Duration = Duration::from_secs(30);

/// A gateway whose log is not read, and which has more lines than the pipe and its queue can hold.
fn gateway_with_a_full_log(mongod: &Mongod) -> Gateway {
    let gateway = Gateway::start(&GatewayOptions { log_level: Some("debug"), ..GatewayOptions::to(mongod) });
    gateway.read_log(false);
    let mut client = gateway.connect().unwrap();
    for _ in 0..COMMANDS {
        client.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    }
    gateway
}

#[test]
fn a_stopped_reader_of_the_log_delays_no_client_and_learns_how_many_lines_are_missing() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = gateway_with_a_full_log(&mongod);
    let dropped = gateway.await_metric("mongate_log_lines_dropped_total", &[], |count| count > 0.0);
    // New connections are served too.
    gateway.connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);

    gateway.read_log(true);
    let event = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "log lines dropped").unwrap();
    assert_eq!(event["level"], "WARN");
    assert!(event["count"].as_f64().unwrap() >= dropped, "{event} {dropped}");
}

#[test]
fn a_stopped_reader_of_the_log_does_not_keep_the_process_from_ending() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut gateway = gateway_with_a_full_log(&mongod);
    gateway.terminate().unwrap();
    until("the gateway ends", || gateway.has_ended().unwrap().then_some(()));
}
