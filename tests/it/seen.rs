//! What the gateway shows to operators: the administration port and one log line per connection. Neither ever contains
//! a part of a document.

use std::io::{Read, Write};
use std::net::TcpStream;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::http;
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{self, OP_MSG, Received, body_section, op_msg, sequence_section};
use crate::kit::waiting::until;
use crate::reports;
use crate::reports::LOG_TIMEOUT;

/// Secret that the tests put into documents, filters, comments and every other place where a client can send one. It is
/// not part of any name.
const CANARY: &str = "Xq7CanaryWv3";

#[test]
fn the_administration_port_shows_listeners_upstreams_and_metrics() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let open: Vec<_> = (0..3)
        .map(|_| {
            let mut connection = gateway.connect().unwrap();
            connection.run(&ping()).unwrap();
            connection
        })
        .collect();
    assert_eq!(gateway.get("/livez").unwrap().body, "ok\n");
    // One successful connection makes the upstream ready; only the background check finds out that it is a standalone.
    until("the gateway is ready and knows the kind of server", || {
        let answer = gateway.get("/readyz").unwrap();
        (answer.status == 200 && answer.body.contains("standalone")).then_some(())
    });
    let ready = gateway.get("/readyz").unwrap().body;
    let upstream = format!("upstream test: standalone at {}", mongod.address());
    assert_eq!(ready, format!("ready\nok     serving\nok     {upstream}\nok     policy: none in force\n"));
    assert_eq!(gateway.get("/no-such-page").unwrap().status, 404);

    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    assert_eq!((&status["version"], &status["ready"]), (&env!("CARGO_PKG_VERSION").into(), &true.into()), "{status}");
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["upstream"]), (&"test".into(), &"test".into()), "{status}");
    assert_eq!((&listener["address"], &listener["connections"]), (&gateway.address().into(), &3.into()), "{status}");
    let upstream = &status["upstreams"][0];
    assert_eq!((&upstream["address"], &upstream["problem"]), (&mongod.address().into(), &Value::Null), "{status}");
    assert_eq!(upstream["server"]["role"], "standalone", "{status}");
    let certificates = &upstream["certificates"];
    assert_eq!(certificates["client"][0]["subject"], "CN=client,OU=clients,O=mongate kit", "{status}");
    assert_eq!(certificates["client"][0]["not_after"], "2090-01-01T00:00:00Z", "{status}");
    assert_eq!(certificates["ca"][0]["subject"], "CN=kit authority,OU=authorities,O=mongate kit", "{status}");

    check_metrics(&gateway);
    drop(open);
    gateway.await_metric("mongate_connections_active", &[("listener", "test")], |count| count < 0.5);
}

#[test]
fn readiness_follows_the_state_of_mongod() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    // With a pool an idle client does not notice that its upstream connection ends.
    let own = "pool.mode = 'off'\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { upstream: own, ..GatewayOptions::to(&mongod) });
    let status = |wanted| {
        until(&format!("/readyz answers {wanted}"), || {
            let answer = gateway.get("/readyz").unwrap();
            (answer.status == wanted).then_some(answer.body)
        })
    };
    status(200);
    let mut client = gateway.connect().unwrap();
    client.run(&ping()).unwrap();
    mongod.stop().unwrap();
    let sentence = format!("{} cannot be reached: connection refused", mongod.address());
    status(503);
    gateway.await_metric("mongate_ready", &[], |value| value < 0.5);
    gateway.await_metric("mongate_ready_condition", &[("condition", "upstream test")], |value| value < 0.5);
    assert!(gateway.metric("mongate_ready_condition", &[("condition", "serving")]) > 0.5);
    // A check may still get a reply from a mongod that is shutting down.
    let gone = format!("not ready\nok     serving\nFAILED upstream test: {sentence}\nok     policy: none in force\n");
    until("/readyz reports that mongod is unreachable", || {
        (gateway.get("/readyz").unwrap().body == gone).then_some(())
    });
    let shown: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    assert_eq!((&shown["ready"], &shown["upstreams"][0]["problem"]), (&false.into(), &sentence.into()), "{shown}");
    assert!(matches!(client.receive().unwrap(), Received::Closed(left) if left.is_empty()));
    assert_eq!(gateway.get("/livez").unwrap().status, 200, "a restart would not help");
    mongod.restart().unwrap();
    status(200);
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "upstream recovered").unwrap();
}

#[test]
fn a_connection_has_one_complete_log_line() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    let client = stream.local_addr().unwrap().to_string();
    let commands = [doc! { "hello": 1, "$db": "admin" }, ping(), doc! { "noSuchCommand": 1, "$db": "admin" }];
    let (mut sent, mut received) = (0, 0);
    for command in &commands {
        let message = op_msg(1, 0, &[body_section(command)]);
        stream.write_all(&message).unwrap();
        sent += message.len();
        received += read_message(&mut stream);
    }
    // This request has no reply, but it counts as a command.
    let silent = op_msg(2, raw::MORE_TO_COME, &[body_section(&ping())]);
    stream.write_all(&silent).unwrap();
    sent += silent.len();
    drop(stream);

    let line = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "connection closed").unwrap();
    let expected = serde_json::json!({
        "level": "INFO", "listener": "test", "client": client, "upstream": mongod.address(), "outcome": "completed",
        "ended_by": "client", "reason": "closed", "commands": 4, "errors": 1, "unanswered": 0,
        "to_upstream_bytes": sent, "to_client_bytes": received,
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field} of {line}");
    }
    assert!(line["duration_ms"].is_u64(), "{line}");
    assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let counted = |direction| gateway.metric("mongate_bytes_total", &[("direction", direction)]).to_bits();
    assert_eq!(counted("to_upstream"), f64::from(u32::try_from(sent).unwrap()).to_bits());
    assert_eq!(counted("to_client"), f64::from(u32::try_from(received).unwrap()).to_bits());
    let of_client = gateway.log().iter().filter(|event| event["client"] == client.as_str()).count();
    assert_eq!(of_client, 1, "exactly one log line per connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_document_is_logged_or_shown() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    for level in ["debug", "trace"] {
        let gateway = Gateway::start(&GatewayOptions { log_level: Some(level), ..GatewayOptions::to(&mongod) });
        driver_with_secrets(&reports::uri(&gateway), level).await;
        bytes_with_secrets(&gateway);
        assert!(http::get(gateway.address(), &format!("/{CANARY}")).unwrap().status == 400);
        for path in ["/metrics", "/status", "/readyz"] {
            assert!(!gateway.get(path).unwrap().body.contains(CANARY), "{path} shows the secret");
        }
        let closed = until("all connections are closed", || {
            let log = gateway.log();
            (gateway.metric("mongate_connections_active", &[]) < 0.5).then_some(log)
        });
        let commands = closed.iter().filter(|event| event["message"] == "command").count();
        assert!(commands > 10, "only {commands} commands are in the log, so that this test would prove nothing");
        for event in &closed {
            assert!(!event.to_string().contains(CANARY), "{event}");
        }
    }
}

async fn driver_with_secrets(uri: &str, name: &str) {
    let client = Client::with_uri_str(uri).await.unwrap();
    let collection = client.database("seen").collection::<Document>(name);
    let secret = doc! { "_id": CANARY, CANARY: CANARY, "deep": { CANARY: [CANARY] } };
    collection.insert_one(&secret).await.unwrap();
    // mongod's error quotes the key.
    let twice = collection.insert_one(&secret).await.unwrap_err();
    assert!(twice.to_string().contains(CANARY), "{twice}");
    collection.find_one(doc! { "_id": CANARY }).comment(bson::Bson::from(CANARY)).await.unwrap().unwrap();
    collection.find_one(doc! { "$where": CANARY }).await.unwrap_err();
    collection.update_one(doc! { "_id": CANARY }, doc! { "$set": { CANARY: 1 } }).await.unwrap();
    collection.aggregate([doc! { "$match": { CANARY: CANARY } }, doc! { "$limit": 1 }]).await.unwrap();
    collection.aggregate([doc! { format!("${CANARY}"): CANARY }]).await.unwrap_err();
    collection.distinct(CANARY, doc! { CANARY: CANARY }).await.unwrap();
    let admin = client.database("admin");
    admin.run_command(doc! { CANARY: CANARY }).await.unwrap_err();
    admin.run_command(doc! { "saslStart": 1, "mechanism": CANARY, "payload": CANARY }).await.unwrap_err();
    admin.run_command(doc! { "explain": { "find": "c", "filter": { CANARY: CANARY } } }).await.unwrap();
    collection.delete_one(doc! { "_id": CANARY }).await.unwrap();
    client.shutdown().immediate(true).await;
}

/// Sends unusual and malformed messages with secrets, each on its own connection, and ignores the outcome.
fn bytes_with_secrets(gateway: &Gateway) {
    let body = body_section(&doc! { "insert": "c", "$db": "seen" });
    let secret = doc! { CANARY: CANARY };
    let bytes = [
        op_msg(1, 0, &[body.clone(), sequence_section(CANARY, std::slice::from_ref(&secret))]),
        op_msg(1, 0, &[body, vec![99], raw::encode(&secret)]),
        raw::message(OP_MSG, 1, CANARY.repeat(100).as_bytes()),
        raw::message(4711, 1, CANARY.as_bytes()),
        raw::op_compressed(1, OP_MSG, CANARY.as_bytes()),
        raw::op_query(1, "seen.$cmd", -1, &secret),
        CANARY.repeat(100).into_bytes(),
        CANARY.as_bytes()[..5].to_vec(),
    ];
    for bytes in bytes {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Checks that every metric family has HELP and TYPE, and that the values match what has happened.
fn check_metrics(gateway: &Gateway) {
    let text = gateway.get("/metrics").unwrap().body;
    for family in [
        "mongate_connections_active",
        "mongate_connections_total",
        "mongate_commands_total",
        "mongate_command_duration_seconds",
        "mongate_bytes_total",
        "mongate_upstream_handshakes_total",
        "mongate_upstream_handshake_duration_seconds",
        "mongate_certificate_expiry_timestamp_seconds",
        "mongate_connections_opened_total",
        "mongate_ready",
        "mongate_ready_condition",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "mongate_build_info",
    ] {
        assert!(text.contains(&format!("# HELP {family} ")), "{family} has no HELP");
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} has no TYPE");
    }
    let is = |name: &str, labels: &[(&str, &str)], wanted: f64| {
        gateway.await_metric(name, labels, |value| (value - wanted).abs() < 0.5);
    };
    let pings = [("listener", "test"), ("command", "ping")];
    is("mongate_connections_active", &[("listener", "test")], 3.0);
    is("mongate_commands_total", &[pings[0], pings[1], ("outcome", "ok")], 3.0);
    is("mongate_command_duration_seconds_count", &pings, 3.0);
    is("mongate_connections_opened_total", &[("listener", "test")], 3.0);
    is("mongate_ready", &[], 1.0);
    for condition in ["serving", "memory", "policy", "upstream test", "listener test"] {
        is("mongate_ready_condition", &[("condition", condition)], 1.0);
    }
    for what in ["certificates", "policy"] {
        is("mongate_reloads_total", &[("what", what), ("outcome", "ok")], 0.0);
    }
    check_process_metrics(gateway);
    is("mongate_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    // 2090-01-01, for the client certificate and the CA certificate.
    for role in ["upstream_client", "upstream_ca"] {
        is("mongate_certificate_expiry_timestamp_seconds", &[("role", role), ("name", "test")], 3_786_912_000.0);
    }
    let handshakes = gateway.metric("mongate_upstream_handshakes_total", &[("upstream", "test"), ("outcome", "ok")]);
    assert!(handshakes > 3.5, "three clients and the background check, but {handshakes} handshakes");
}

/// Compares the metrics of the process with what the system says about it.
fn check_process_metrics(gateway: &Gateway) {
    let value = |name: &str| gateway.metric(name, &[]);
    let descriptors = gateway.descriptors().unwrap();
    // The connection of the scrape is one of them.
    let difference = value("process_open_fds") - f64::from(u32::try_from(descriptors).unwrap());
    assert!(difference.abs() < 5.0, "{difference}");
    let memory = f64::from(u32::try_from(gateway.memory_kib().unwrap()).unwrap()) * 1024.0;
    let resident = value("process_resident_memory_bytes");
    assert!((memory / 2.0..memory * 2.0).contains(&resident), "{resident} instead of {memory}");
    let before = gateway.processor_time().unwrap().as_secs_f64();
    let used = value("process_cpu_seconds_total");
    let after = gateway.processor_time().unwrap().as_secs_f64();
    assert!((before - 0.02..=after + 0.02).contains(&used), "{used} instead of {before} to {after}");
    let started = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - value("process_start_time_seconds");
    assert!((-2.0..600.0).contains(&started), "{started}");
    assert!(value("process_threads") >= 2.0, "main thread and worker");
    assert!(value("process_max_fds") > value("process_open_fds"));
}

/// Reads one message and returns its length.
fn read_message(stream: &mut TcpStream) -> usize {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let length = usize::try_from(i32::from_le_bytes(length)).unwrap();
    stream.read_exact(&mut vec![0; length - 4]).unwrap();
    length
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
