//! How the gateway stops and closes connections: signals, the drain under load, `idle_timeout` and `max_lifetime`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use serde_json::Value;
use tokio::sync::Notify;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, Received, body_section, op_msg};
use crate::kit::waiting::until;
use crate::reports;
use crate::reports::LOG_TIMEOUT;
use crate::slow;

/// Time for an immediate stop on a busy machine; well below the default `drain_timeout`.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the writers to start, for the drain, and for the writers to give up.
const LOAD_TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_loses_no_acknowledged_write_and_interrupts_no_command() {
    const WRITERS: usize = 24;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "drain_slow");
    let gateway = Gateway::to(&mongod);
    let client = Client::with_uri_str(format!("{}&maxPoolSize={WRITERS}", reports::uri(&gateway))).await.unwrap();
    let collection = client.database("drain").collection::<Document>("c");
    let (written, enough) = (Mutex::new(BTreeSet::new()), Notify::new());
    let writers = (0..WRITERS).map(async |writer| {
        for number in 0.. {
            let id = format!("{writer}-{number}");
            if collection.insert_one(doc! { "_id": &id }).await.is_err() {
                return;
            }
            let mut written = written.lock().unwrap();
            written.insert(id);
            if written.len() == 20 * WRITERS {
                enough.notify_one();
            }
        }
    });
    let ending = async {
        enough.notified().await;
        let mongod = Arc::clone(&mongod);
        tokio::task::spawn_blocking(move || drain_with_slow_commands(gateway, &mongod)).await.unwrap()
    };
    let (_, gateway) =
        tokio::time::timeout(LOAD_TIMEOUT, async { tokio::join!(futures::future::join_all(writers), ending) })
            .await
            .unwrap();

    let written = written.into_inner().unwrap();
    let direct = Client::with_uri_str(mongod.uri().unwrap()).await.unwrap();
    let found = direct.database("drain").collection::<Document>("c").find(doc! {}).await.unwrap();
    let found: Vec<Document> = found.try_collect().await.unwrap();
    let found: BTreeSet<_> = found.iter().map(|document| document.get_str("_id").unwrap().to_owned()).collect();
    // An unacknowledged document would be a command that ran and whose reply was lost.
    assert_eq!(found.len(), written.len(), "documents in mongod and acknowledged writes differ");
    assert_eq!(found, written);
    let log = gateway.log();
    let used = log.iter().filter(|event| event["message"] == "connection closed" && event["commands"] != 0);
    for event in used {
        assert!(["drained", "closed"].contains(&event["reason"].as_str().unwrap()), "{event}");
    }
}

/// Sends SIGTERM while slow commands run and other connections are idle, and checks each connection until the gateway
/// has exited.
fn drain_with_slow_commands(mut gateway: Gateway, mongod: &Mongod) -> Gateway {
    const SLOW: usize = 6;
    let mut slow: Vec<_> = (0..SLOW).map(|_| gateway.connect().unwrap()).collect();
    for connection in &mut slow {
        send(connection, &slow::find("drain_slow", 8_000));
    }
    let mut idle: Vec<_> = (0..4).map(|_| gateway.connect().unwrap()).collect();
    idle.iter_mut().skip(2).for_each(|connection| _ = connection.run(&ping()).unwrap());
    slow::await_running(mongod, "drain_slow", SLOW);
    gateway.terminate().unwrap();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "draining").unwrap();

    idle.iter_mut().for_each(assert_closed);
    // Idle connections close before the slow commands finish.
    slow::await_running(mongod, "drain_slow", SLOW);
    let ready = gateway.get("/readyz").unwrap();
    assert!(ready.status == 503 && ready.body.contains("draining"), "{}", ready.body);
    assert_eq!(gateway.get("/livez").unwrap().status, 200);
    until("new connections are rejected", || gateway.connect().err());
    for connection in &mut slow {
        let reply = connection.reply().unwrap().document;
        assert_eq!(reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap().len(), 1, "{reply}");
        assert_closed(connection);
    }
    assert_eq!(gateway.wait(END_TIMEOUT).unwrap().code(), Some(0));
    gateway
}

#[test]
fn drain_timeout_closes_connections_whose_commands_take_too_long() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "drain_timeout");
    let options = GatewayOptions { top: "drain_timeout = \"500ms\"\n".to_owned(), ..GatewayOptions::to(&mongod) };
    let mut gateway = Gateway::start(&options);
    let mut connection = gateway.connect().unwrap();
    send(&mut connection, &slow::find("drain_timeout", 60_000));
    slow::await_running(&mongod, "drain_timeout", 1);
    let started = Instant::now();
    gateway.terminate().unwrap();
    assert_closed(&mut connection);
    assert!(started.elapsed() >= Duration::from_millis(500), "closed after {:?}", started.elapsed());
    assert_eq!(gateway.wait(END_TIMEOUT).unwrap().code(), Some(1), "a command was cut off");
    let cut = |event: &Value| event["message"] == "drain timeout reached; open connections are closed";
    let logged = gateway.wait_for_log(LOG_TIMEOUT, cut).unwrap();
    assert_eq!((&logged["level"], &logged["connections"]), (&"WARN".into(), &1.into()), "{logged}");
    let closed = gateway.wait_for_log(LOG_TIMEOUT, |event| event["unanswered"] == 1).unwrap();
    assert_eq!((&closed["ended_by"], &closed["reason"]), (&"gateway".into(), &"stopped".into()), "{closed}");
    slow::await_running(&mongod, "drain_timeout", 0);
}

#[test]
fn a_second_sigterm_or_sigint_stops_the_gateway_at_once() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "second_signal");
    for [first, second] in [[libc::SIGTERM, libc::SIGTERM], [libc::SIGINT, libc::SIGINT], [libc::SIGINT, libc::SIGTERM]]
    {
        let mut gateway = Gateway::to(&mongod);
        let mut connection = gateway.connect().unwrap();
        send(&mut connection, &slow::find("second_signal", 60_000));
        slow::await_running(&mongod, "second_signal", 1);
        gateway.signal(first).unwrap();
        gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "draining").unwrap();
        gateway.signal(second).unwrap();
        assert_eq!(gateway.wait(END_TIMEOUT).unwrap().code(), Some(1), "a command was cut off");
        assert_closed(&mut connection);
        gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "stopping immediately").unwrap();
        let stopped = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "stopped").unwrap();
        assert_eq!(stopped["interrupted"], 1, "{stopped}");
        slow::await_running(&mongod, "second_signal", 0);
    }
}

#[test]
fn sighup_closes_no_connection_and_sigint_drains() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut gateway = Gateway::to(&mongod);
    let mut connection = gateway.connect().unwrap();
    connection.run(&ping()).unwrap();
    gateway.signal(libc::SIGHUP).unwrap();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["signal"] == "SIGHUP").unwrap();
    connection.run(&ping()).unwrap();
    gateway.connect().unwrap().run(&ping()).unwrap();
    gateway.signal(libc::SIGINT).unwrap();
    assert_closed(&mut connection);
    assert_eq!(gateway.wait(END_TIMEOUT).unwrap().code(), Some(0));
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["signal"] == "SIGINT").unwrap();
}

#[test]
fn idle_timeout_closes_idle_connections_but_none_that_waits_for_a_reply() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "idle_timeout");
    let gateway = with_limit(&mongod, "idle_timeout");
    let (mut idle, mut waiting) = (gateway.connect().unwrap(), gateway.connect().unwrap());
    idle.run(&ping()).unwrap();
    let started = Instant::now();
    send(&mut waiting, &slow::find("idle_timeout", 1_800));
    assert_closed(&mut idle);
    assert!(started.elapsed() >= Duration::from_millis(900), "closed after {:?}", started.elapsed());
    waiting.reply().unwrap();
    // From here on this connection is idle too.
    assert_closed(&mut waiting);
    assert_closed_by(&gateway, "idle_timeout");
}

#[test]
fn max_lifetime_closes_between_two_commands() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "max_lifetime");
    let gateway = with_limit(&mongod, "max_lifetime");
    let (mut busy, mut waiting) = (gateway.connect().unwrap(), gateway.connect().unwrap());
    let started = Instant::now();
    send(&mut waiting, &slow::find("max_lifetime", 1_800));
    until("the busy connection is closed", || busy.command(&ping()).err());
    assert!(started.elapsed() >= Duration::from_secs(1), "closed after {:?}", started.elapsed());
    waiting.reply().unwrap();
    assert_closed(&mut waiting);
    assert_closed_by(&gateway, "max_lifetime");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_does_not_notice_max_lifetime() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = with_limit(&mongod, "max_lifetime");
    let client = Client::with_uri_str(reports::uri(&gateway)).await.unwrap();
    let collection = client.database("age").collection::<Document>("c");
    let expired = || gateway.log().iter().filter(|event| event["reason"] == "max_lifetime").count();
    let started = Instant::now();
    // Each second one monitoring connection and one pooled connection expire.
    while expired() < 4 {
        collection.find_one(doc! {}).await.unwrap();
        assert!(started.elapsed() < END_TIMEOUT, "no connection reaches max_lifetime");
    }
}

/// A gateway with this limit at its minimum, one second.
fn with_limit(mongod: &Mongod, key: &str) -> Gateway {
    Gateway::start(&GatewayOptions { listener: format!("{key} = \"1s\"\n"), ..GatewayOptions::to(mongod) })
}

/// The gateway closed both connections of the test for this reason, with no command left unanswered.
fn assert_closed_by(gateway: &Gateway, reason: &str) {
    let closed = until("both connections are in the log", || {
        let log = gateway.log();
        let closed: Vec<_> = log.into_iter().filter(|event| event["message"] == "connection closed").collect();
        (closed.len() == 2).then_some(closed)
    });
    for event in closed {
        assert_eq!((&event["ended_by"], &event["reason"]), (&"gateway".into(), &reason.into()), "{event}");
        assert_eq!((&event["outcome"], &event["unanswered"]), (&"completed".into(), &0.into()), "{event}");
    }
}

fn send(connection: &mut Connection, command: &Document) {
    connection.send(&op_msg(1, 0, &[body_section(command)])).unwrap();
}

fn assert_closed(connection: &mut Connection) {
    let received = connection.receive().unwrap();
    assert!(matches!(&received, Received::Closed(left) if left.is_empty()), "{received:?}");
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
