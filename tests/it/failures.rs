//! The upstream connection fails: the driver's message names the cause, the log adds a remedy, a metric counts the
//! failure, and no client waits longer than necessary.

use std::thread;
use std::time::{Duration, Instant};

use bson::doc;
use serde_json::Value;

use crate::kit::certificates::{SignedBy, Usage, Validity, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, Transport};
use crate::kit::ports::Refusing;
use crate::kit::raw::{OP_REPLY, Received, body_section, op_msg, op_query};
use crate::kit::waiting::until;
use crate::reports;
use crate::reports::{LOG_TIMEOUT, Reported, is_at_least_one, is_zero};
use crate::slow;

const HOST_UNREACHABLE: (i32, &str) = (6, "HostUnreachable");
const TLS_FAILED: (i32, &str) = (141, "SSLHandshakeFailed");
/// Longer than any failure here may take: the default `connect_timeout` plus the delay of a busy machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// One cause of a failed upstream connection.
struct Row {
    name: &'static str,
    options: GatewayOptions,
    /// Code and name of the command error that the client receives.
    code: (i32, &'static str),
    /// Parts of the message that the driver and the log show.
    says: Vec<String>,
    /// The label in the metric and the `reason` field in the log.
    reason: &'static str,
    /// Part of the remedy, which only the log shows.
    remedy: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upstream_connection_is_explained_to_the_driver_the_log_and_the_metrics() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let Some(plain) = Mongod::start(MongodOptions { transport: Transport::Plain, ..MongodOptions::default() }) else {
        return;
    };
    let expired = mongod_with_an_expired_certificate();
    let refusing = Refusing::new().unwrap();
    check(vec![
        port_without_listener(&mongod, &refusing),
        unresolvable_name(&mongod),
        other_ca(&mongod),
        other_name(&mongod),
        expired_certificate(&expired),
        client_certificate(
            "the client certificate is signed by another CA",
            &mongod,
            &Wanted { issuer: SignedBy::Stranger, ..Wanted::default() },
            "the gateway's certificate was issued by CN=kit stranger",
        ),
        client_certificate(
            "the client certificate is for servers",
            &mongod,
            &Wanted { usage: Usage::Server, ..Wanted::default() },
            "issue it with extendedKeyUsage clientAuth",
        ),
        client_certificate(
            "the client certificate has expired",
            &mongod,
            &Wanted { validity: Validity::Expired, ..Wanted::default() },
            "the certificate expired on 2021-01-01",
        ),
        mongod_without_tls(&mongod, &plain),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongod_that_does_not_respond_delays_clients_by_connect_timeout_only() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let options =
        GatewayOptions { upstream: "connect_timeout = \"500ms\"\n".to_owned(), ..GatewayOptions::to(&mongod) };
    mongod.freeze().unwrap();
    check(vec![Row {
        name: "mongod does not respond",
        options: options.clone(),
        code: HOST_UNREACHABLE,
        says: vec!["the TLS handshake with".to_owned(), mongod.address(), "did not finish within 500ms".to_owned()],
        reason: "timed_out",
        remedy: "accepts connections and does not answer",
    }])
    .await;
    // The same gateway serves clients again as soon as mongod responds.
    let gateway = Gateway::start(&options);
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "timed_out").unwrap();
    assert_eq!(gateway.get("/readyz").unwrap().status, 503);
    mongod.thaw().unwrap();
    until("clients are served again", || gateway.connect().ok()?.run(&doc! { "ping": 1, "$db": "admin" }).ok());
    until("the gateway is ready", || (gateway.get("/readyz").unwrap().status == 200).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongod_killed_during_a_command_is_a_network_error_without_an_invented_reply() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    slow::prepare(&mongod, "killed");
    let gateway = Gateway::to(&mongod);
    let uri = reports::uri(&gateway);
    let slow = slow::find("killed", 60_000);
    let mut raw = gateway.connect().unwrap();
    raw.send(&op_msg(1, 0, &[body_section(&slow)])).unwrap();
    let python = thread::spawn({
        let (slow, uri) = (slow.clone(), uri.clone());
        move || reports::of_pymongo(&slow, &[uri])
    });
    let killing = tokio::task::spawn_blocking(move || {
        until("all three commands run", || {
            (slow::running(&mongod, "killed") == 3 || python.is_finished()).then_some(())
        });
        mongod.kill();
        (mongod, python.join().unwrap())
    });
    let (rust, killed) = tokio::join!(reports::of_rust(&slow, &uri), killing);
    let (mut mongod, python) = killed.unwrap();

    assert!(matches!(raw.receive().unwrap(), Received::Closed(left) if left.is_empty()));
    assert!(rust.kind.starts_with("Io("), "{rust:?}");
    assert!(python.is_none_or(|reported| reported[0].kind == "AutoReconnect"));
    let lost = |event: &Value| event["outcome"] == "upstream_failed" && event["unanswered"] == 1;
    let logged = gateway.wait_for_log(LOG_TIMEOUT, lost).unwrap();
    assert_eq!(
        (&logged["message"], &logged["ended_by"]),
        (&"connection closed".into(), &"upstream".into()),
        "{logged}"
    );
    let told = |event: &Value| event["message"] == "upstream connection lost during a command";
    let logged = gateway.wait_for_log(LOG_TIMEOUT, told).unwrap();
    assert_eq!((&logged["level"], &logged["upstream"]), (&"WARN".into(), &"test".into()));
    assert!(logged["remedy"].as_str().unwrap().contains("mongod's log"), "{logged}");
    assert_eq!(gateway.log().iter().filter(|event| told(event)).count(), 1, "logged once, not once per connection");
    let counted = gateway.metric("mongate_connections_total", &[("outcome", "upstream_failed")]);
    assert!(is_at_least_one(counted));
    assert!(is_zero(gateway.metric("mongate_commands_total", &[("command", "find")])), "no find was answered");

    let refused = gateway.connect().unwrap().command(&ping()).unwrap();
    assert!(refused.get_str("errmsg").unwrap().contains("connection refused"), "{refused}");
    mongod.restart().unwrap();
    // While a server fails, clients read the last failure for up to a second.
    until("clients are served again", || gateway.connect().ok()?.run(&ping()).ok());
}

fn port_without_listener(mongod: &Mongod, refusing: &Refusing) -> Row {
    let address = refusing.address();
    Row {
        name: "no process listens on the port",
        options: GatewayOptions { upstream_address: address.clone(), ..GatewayOptions::to(mongod) },
        code: HOST_UNREACHABLE,
        says: vec![format!("{address} cannot be reached: connection refused")],
        reason: "unreachable",
        remedy: "check that mongod runs and listens there",
    }
}

fn unresolvable_name(mongod: &Mongod) -> Row {
    // The resolver gives up early, in case this machine's name server does not respond.
    let environment = vec![("RES_OPTIONS".to_owned(), "timeout:1 attempts:1".to_owned())];
    let upstream_address = "no-such-host.invalid:27017".to_owned();
    Row {
        name: "the host name cannot be resolved",
        options: GatewayOptions { upstream_address, environment, ..GatewayOptions::to(mongod) },
        code: HOST_UNREACHABLE,
        says: vec!["the name no-such-host.invalid cannot be resolved".to_owned()],
        reason: "not_resolvable",
        remedy: "upstream.test.address",
    }
}

fn other_ca(mongod: &Mongod) -> Row {
    let mut options = GatewayOptions::to(mongod);
    let stranger = mongod.pki.stranger_ca_file();
    options.upstream_tls =
        options.upstream_tls.replace(mongod.pki.ca_file().to_str().unwrap(), stranger.to_str().unwrap());
    Row {
        name: "mongod's certificate is from an unknown CA",
        options,
        code: TLS_FAILED,
        says: vec![format!("the certificate of {} was rejected", mongod.address()), "CN=kit authority".to_owned()],
        reason: "server_certificate_unknown_issuer",
        remedy: "add the CA certificate that signed it to upstream.test.tls.ca_file",
    }
}

fn other_name(mongod: &Mongod) -> Row {
    let mut options = GatewayOptions::to(mongod);
    options.upstream_tls.push_str("server_name = \"mongo.example\"\n");
    Row {
        name: "mongod's certificate has other names",
        options,
        code: TLS_FAILED,
        says: vec!["it is for localhost, 127.0.0.1".to_owned(), "not for mongo.example".to_owned()],
        reason: "server_certificate_name_mismatch",
        remedy: "set upstream.test.tls.server_name to one of its names",
    }
}

fn expired_certificate(mongod: &Mongod) -> Row {
    Row {
        name: "mongod's certificate has expired",
        options: GatewayOptions::to(mongod),
        code: TLS_FAILED,
        says: vec!["it expired on 20".to_owned(), "CN=mongod".to_owned()],
        reason: "server_certificate_expired",
        remedy: "renew mongod's certificate",
    }
}

fn client_certificate(name: &'static str, mongod: &Mongod, wanted: &Wanted, remedy: &'static str) -> Row {
    let mut options = GatewayOptions::to(mongod);
    let stem = name.replace(' ', "-");
    options.credentials(&mongod.pki, &mongod.pki.issue(&stem, wanted).unwrap());
    Row {
        name,
        options,
        code: TLS_FAILED,
        says: vec!["rejected the gateway's client certificate (subject CN=client,OU=".to_owned()],
        reason: "client_certificate_refused",
        remedy,
    }
}

fn mongod_without_tls(mongod: &Mongod, plain: &Mongod) -> Row {
    Row {
        name: "mongod does not use TLS",
        options: GatewayOptions { upstream_address: plain.address(), ..GatewayOptions::to(mongod) },
        code: TLS_FAILED,
        says: vec![format!("{} does not speak TLS", plain.address())],
        reason: "not_tls",
        remedy: "net.tls.mode requireTLS",
    }
}

/// mongod refuses to start with an expired certificate, so it starts with one that expires soon.
fn mongod_with_an_expired_certificate() -> Mongod {
    // On a busy machine mongod may start too slowly for a short lifetime, so the next attempt uses a longer one.
    let lives = [4, 8, 16, 32].map(Duration::from_secs);
    let started = lives.into_iter().find_map(|life| {
        let certificate = Wanted { validity: Validity::For(life), ..Wanted::server() };
        Mongod::try_start(MongodOptions { certificate, ..MongodOptions::default() }).ok()
    });
    let mongod = started.expect("mongod starts while its certificate is valid");
    until("mongod's certificate has expired", || mongod.connect().and_then(|mut c| c.run(&ping())).err());
    mongod
}

async fn check(rows: Vec<Row>) {
    let gateways: Vec<_> = rows.iter().map(|row| Gateway::start(&row.options)).collect();
    let uris: Vec<_> = gateways.iter().map(reports::uri).collect();
    for (row, gateway) in rows.iter().zip(&gateways) {
        check_bytes(row, gateway);
    }
    let ping = ping();
    let rust = futures::future::join_all(uris.iter().map(|uri| reports::of_rust(&ping, uri))).await;
    let python = reports::of_pymongo(&ping, &uris).unwrap_or_default();
    for (index, (row, gateway)) in rows.iter().zip(&gateways).enumerate() {
        check_driver(row, "the Rust driver", &rust[index]);
        if let Some(python) = python.get(index) {
            check_driver(row, "PyMongo", python);
        }
        check_log(row, gateway);
        check_metrics(row, gateway);
    }
}

fn ping() -> bson::Document {
    doc! { "ping": 1, "$db": "admin" }
}

/// The first request gets a reply of its own message type, and then the connection closes.
fn check_bytes(row: &Row, gateway: &Gateway) {
    let started = Instant::now();
    let mut connection = gateway.connect().unwrap();
    let document = connection.command(&ping()).unwrap_or_else(|error| panic!("{}: {error:#}", row.name));
    let (code, code_name) = row.code;
    let refusal = doc! { "ok": 0.0, "code": code, "codeName": code_name };
    assert!(refusal.iter().all(|(key, value)| document.get(key) == Some(value)), "{}: {document}", row.name);
    assert_end(&mut connection, row.name);

    let mut connection = gateway.connect().unwrap();
    connection.send(&op_query(7, "admin.$cmd", -1, &doc! { "isMaster": 1 })).unwrap();
    let reply = connection.reply().unwrap();
    assert_eq!((reply.op_code, reply.response_to, reply.code()), (OP_REPLY, 7, Some(row.code.0)), "{}", row.name);
    assert_end(&mut connection, row.name);
    assert!(started.elapsed() < ANSWER_TIME_MAX, "{}: replied after {:?}", row.name, started.elapsed());
}

fn assert_end(connection: &mut crate::kit::raw::Connection, name: &str) {
    let received = connection.receive().unwrap();
    assert!(matches!(&received, Received::Closed(rest) if rest.is_empty()), "{name}: {received:?}");
}

fn check_driver(row: &Row, driver: &str, reported: &Reported) {
    let Reported { message, seconds, .. } = reported;
    for part in &row.says {
        assert!(message.contains(part), "{}: {part:?} is not in the message of {driver}: {message}", row.name);
    }
    assert!(message.contains(row.code.1), "{}: {driver} reports {message}", row.name);
    assert!(!message.contains(".pem"), "{}: {driver} shows a path: {message}", row.name);
    assert!(*seconds < reports::ANSWER_SECONDS_MAX, "{}: {driver} waited {seconds} s", row.name);
}

fn check_log(row: &Row, gateway: &Gateway) {
    let failure = gateway
        .wait_for_log(LOG_TIMEOUT, |event| event["message"] == "upstream connection failed")
        .unwrap_or_else(|error| panic!("{}: {error:#}", row.name));
    assert_eq!((&failure["level"], &failure["reason"]), (&"WARN".into(), &row.reason.into()), "{failure}");
    assert_eq!(failure["upstream"], "test");
    let (error, remedy) = (failure["error"].as_str().unwrap(), failure["remedy"].as_str().unwrap());
    assert!(row.says.iter().all(|part| error.contains(part)), "{}: the log says {error}", row.name);
    assert!(remedy.contains(row.remedy), "{}: the remedy is {remedy}", row.name);
    let client = gateway.wait_for_log(LOG_TIMEOUT, |event| event["outcome"] == "upstream_failed").unwrap();
    assert_eq!((&client["level"], &client["reason"]), (&"INFO".into(), &row.reason.into()), "{client}");
}

fn check_metrics(row: &Row, gateway: &Gateway) {
    let handshakes = |outcome| gateway.metric("mongate_upstream_handshakes_total", &[("outcome", outcome)]);
    assert!(is_at_least_one(handshakes(row.reason)), "{}: no handshake failed with {}", row.name, row.reason);
    assert!(is_zero(handshakes("ok")), "{}: a handshake succeeded", row.name);
    let outcome = |outcome| gateway.metric("mongate_connections_total", &[("listener", "test"), ("outcome", outcome)]);
    assert!(is_at_least_one(outcome("upstream_failed")), "{}: no connection was counted", row.name);
    assert!(is_zero(outcome("completed")), "{}: a connection was counted as completed", row.name);
    let ready = gateway.get("/readyz").unwrap();
    assert_eq!(ready.status, 503, "{}", row.name);
    assert!(row.says.iter().all(|part| ready.body.contains(part)), "{}: {}", row.name, ready.body);
}
