//! Connections that the gateway rejects, and the reasons that it gives: connection limit, TLS on a plaintext port,
//! HTTP, and bytes of another protocol. Also health checks that connect and send nothing, which are not an error.

use std::io::Write;
use std::net::TcpStream;

use bson::{Document, doc};
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::http;
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, Received, body_section, op_msg};
use crate::kit::waiting::until;
use crate::reports;
use crate::reports::{LOG_TIMEOUT, is_at_least_one, is_zero};

/// First bytes of another protocol, and how the log describes them.
struct Row {
    sends: &'static [u8],
    /// Part of the field `reason` of the log line.
    reason: &'static str,
    /// Part of the field `remedy`.
    remedy: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_above_max_connections_gets_an_error_until_another_client_leaves() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway =
        Gateway::start(&GatewayOptions { listener: "max_connections = 2\n".to_owned(), ..GatewayOptions::to(&mongod) });
    let mut first = answered_connection(&gateway);
    let mut second = answered_connection(&gateway);

    let mut third = gateway.connect().unwrap();
    let refusal = third.command(&ping()).unwrap();
    assert_eq!((refusal.get_i32("code").unwrap(), refusal.get_str("codeName").unwrap()), (6, "HostUnreachable"));
    assert!(refusal.get_str("errmsg").unwrap().contains("max_connections"), "{refusal}");
    assert!(matches!(third.receive().unwrap(), Received::Closed(rest) if rest.is_empty()));

    let uri = reports::uri(&gateway);
    let rust = reports::of_rust(&ping(), &uri).await;
    let python = reports::of_pymongo(&ping(), std::slice::from_ref(&uri)).unwrap_or_default();
    for reported in python.iter().chain([&rust]) {
        let says = "listener test has all of its 2 connections in use (max_connections)";
        assert!(reported.message.contains(says), "{}", reported.message);
        assert!(reported.seconds < reports::ANSWER_SECONDS_MAX, "waited {} s", reported.seconds);
    }
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["outcome"] == "rejected").unwrap();
    assert_eq!((&logged["level"], &logged["message"]), (&"WARN".into(), &"connection rejected".into()));
    check_says(&logged, "max_connections reached", "listener.test.max_connections");
    assert!(outcome(&gateway, "rejected") > 2.5, "the raw connection and each driver");

    first.run(&ping()).unwrap();
    second.run(&ping()).unwrap();
    drop(first);
    until("a connection permit is free", || gateway.connect().unwrap().run(&ping()).ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_uses_tls_on_a_plaintext_port_is_reported() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let uri = format!("{}&tls=true&tlsInsecure=true", reports::uri(&gateway));
    let rust = reports::of_rust(&ping(), &uri).await;
    assert!(rust.message.to_lowercase().contains("handshakefailure"), "{}", rust.message);
    if let Some(python) = reports::of_pymongo(&ping(), &[uri]) {
        assert!(python[0].message.to_lowercase().contains("handshake failure"), "{}", python[0].message);
        assert!(python[0].seconds < reports::ANSWER_SECONDS_MAX, "waited {} s", python[0].seconds);
    }
    assert!(rust.seconds < reports::ANSWER_SECONDS_MAX, "waited {} s", rust.seconds);
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["outcome"] == "protocol_error").unwrap();
    assert_eq!(logged["level"], "WARN");
    check_says(&logged, "TLS on a plaintext port", "tls=true");
    assert!(outcome(&gateway, "protocol_error") > 1.5, "both drivers");
}

#[test]
fn http_gets_an_http_reply_and_is_reported() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let answer = http::get(gateway.address(), "/metrics").unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("MongoDB wire protocol, not HTTP"), "{}", answer.body);
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["outcome"] == "protocol_error").unwrap();
    assert_eq!(logged["level"], "WARN");
    check_says(&logged, "HTTP", "administration port");
    gateway.await_metric("mongate_connections_total", &[("outcome", "protocol_error")], is_at_least_one);
}

#[test]
fn another_protocol_is_reported_and_its_connection_closed() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let rows = [
        Row { sends: b"SSH-2.0-OpenSSH_9.2p1\r\n", reason: "not the MongoDB wire protocol", remedy: "only MongoDB" },
        Row { sends: &[0; 64], reason: "not the MongoDB wire protocol", remedy: "only MongoDB" },
        Row { sends: &[0xFF; 4096], reason: "not the MongoDB wire protocol", remedy: "only MongoDB" },
        Row { sends: &[58, 0, 0], reason: "an incomplete first message", remedy: "only MongoDB" },
    ];
    for row in &rows {
        let gateway = Gateway::to(&mongod);
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(row.sends).unwrap();
        drop(stream);
        let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["outcome"] == "protocol_error").unwrap();
        assert_eq!(logged["level"], "WARN");
        check_says(&logged, row.reason, row.remedy);
        gateway.connect().unwrap().run(&ping()).unwrap();
        assert!(!is_zero(outcome(&gateway, "protocol_error")));
    }
}

#[test]
fn a_health_check_without_data_opens_no_upstream_connection_and_is_not_logged() {
    const PROBES: u32 = 50;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    for level in ["info", "debug"] {
        // Without spare connections, so that only a client or the background check can cause a handshake.
        let upstream = "warm_connections = 0\n".to_owned();
        let options = GatewayOptions { log_level: Some(level), upstream, ..GatewayOptions::to(&mongod) };
        let gateway = Gateway::start(&options);
        until("the gateway is ready", || (gateway.get("/readyz").unwrap().status == 200).then_some(()));
        let handshakes = || gateway.metric("mongate_upstream_handshakes_total", &[]);
        let (before, lines) = (handshakes(), gateway.log().len());
        for _ in 0..PROBES {
            drop(TcpStream::connect(gateway.address()).unwrap());
        }
        let all = |count: f64| (count - f64::from(PROBES)).abs() < 0.5;
        let labels = [("listener", "test"), ("outcome", "probe")];
        gateway.await_metric("mongate_connections_total", &labels, all);
        // The background check may have made one handshake in the meantime.
        assert!(handshakes() < before + 1.5, "health checks caused upstream handshakes");
        let logged: Vec<_> = gateway.log().split_off(lines);
        assert!(logged.iter().all(|event| event["level"] == "DEBUG"), "{logged:?}");
        assert_eq!(logged.iter().filter(|event| event["outcome"] == "probe").count() > 0, level == "debug");
        gateway.connect().unwrap().run(&ping()).unwrap();
    }
}

/// Opens a connection and waits for a reply, so that it certainly holds a connection permit.
fn answered_connection(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().unwrap();
    connection.send(&op_msg(1, 0, &[body_section(&ping())])).unwrap();
    assert_eq!(connection.reply().unwrap().code(), None);
    connection
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

fn outcome(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("mongate_connections_total", &[("listener", "test"), ("outcome", outcome)])
}

fn check_says(event: &Value, reason: &str, remedy: &str) {
    assert!(event["reason"].as_str().unwrap().contains(reason), "{event}");
    assert!(event["remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{event}");
    assert!(event["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{event}");
}
