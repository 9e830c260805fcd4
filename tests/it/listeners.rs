//! Listener addresses: every kind of address, unusable addresses, and a process without free file descriptors.

use std::fs;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::provision;
use crate::kit::raw::{body_section, op_msg};
use crate::kit::scratch;
use crate::kit::waiting::{until, until_steady};
use crate::reports;
use crate::reports::LOG_TIMEOUT;

const END_TIMEOUT: Duration = Duration::from_secs(20);
const EXIT_CANNOT_START: Option<i32> = Some(1);
const EXIT_CONFIGURATION: Option<i32> = Some(78);

#[tokio::test(flavor = "multi_thread")]
async fn drivers_connect_over_ipv4() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    check_reached(&Gateway::to(&mongod), "127.0.0.1:").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_connect_over_ipv6() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).map_err(anyhow::Error::from);
    let Some(_) = provision::or_skip("IPv6", ipv6) else { return };
    check_reached(&start(&mongod, "[::1]:0", ""), "[::1]:").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_connect_over_a_unix_socket_that_has_its_mode_and_is_removed_at_exit() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("socket").unwrap();
    for (configured, mode) in [("", 0o700), ("socket_permissions = \"0666\"\n", 0o666)] {
        let path = directory.path().join("mongodb-27017.sock");
        let mut gateway = start(&mongod, &unix(&path), configured);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
        check_reached(&gateway, "unix").await;
        gateway.terminate().unwrap();
        assert_eq!(gateway.wait(END_TIMEOUT).unwrap().code(), Some(0));
        assert!(!path.exists(), "the socket file still exists after the gateway has exited");
    }
}

#[test]
fn the_socket_file_of_a_killed_gateway_is_replaced() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("socket").unwrap();
    let path = directory.path().join("s.sock");
    drop(start(&mongod, &unix(&path), ""));
    assert!(path.exists(), "a killed process leaves its socket file");
    let gateway = start(&mongod, &unix(&path), "");
    gateway.connect().unwrap().run(&ping()).unwrap();
}

#[test]
fn an_address_in_use_is_left_alone_and_named() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("socket").unwrap();
    let path = directory.path().join("s.sock");
    let first = start(&mongod, &unix(&path), "");
    let remedy = "another process listens on";
    check_in_vain(&mongod, &unix(&path), EXIT_CANNOT_START, &["listener.test.address", remedy, path.to_str().unwrap()]);
    first.connect().unwrap().run(&ping()).unwrap();
    drop(first);

    // A socket of another program that is in use, and a file that is not a socket.
    let other = directory.path().join("other.sock");
    let in_use = UnixListener::bind(&other).unwrap();
    check_in_vain(&mongod, &unix(&other), EXIT_CANNOT_START, &["listener.test.address", remedy]);
    drop(in_use);
    let precious = directory.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    check_in_vain(&mongod, &unix(&precious), EXIT_CANNOT_START, &["is not a socket", "choose another path"]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let says = ["listener.test.address", &address, "another process listens there: stop it"];
    check_in_vain(&mongod, &address, EXIT_CANNOT_START, &says);
    let missing = unix(&directory.path().join("missing/s.sock"));
    check_in_vain(&mongod, &missing, EXIT_CANNOT_START, &["listener.test.address", "create it first"]);
}

#[test]
fn plaintext_beyond_loopback_must_be_allowed() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let says = ["listener.test", "allow_remote_plaintext"];
    check_in_vain(&mongod, "0.0.0.0:0", EXIT_CONFIGURATION, &says);
    check_in_vain(&mongod, "[::]:0", EXIT_CONFIGURATION, &says);
    let gateway = start(&mongod, "0.0.0.0:0", "allow_remote_plaintext = true\n");
    let port = gateway.address().rsplit_once(':').unwrap().1;
    TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
}

#[test]
fn a_gateway_without_descriptors_logs_it_once_and_accepts_again_when_some_are_free() {
    /// Descriptors for clients.
    const FREE: u64 = 40;
    const CLIENTS: u64 = FREE + 16;
    /// Long enough for several attempts to accept.
    const A_WHILE: Duration = Duration::from_millis(700);
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let options = GatewayOptions {
        log_level: Some("debug"),
        // With a spare connection the gateway could serve one more client.
        upstream: "warm_connections = 0\npool.mode = 'off'\n".to_owned(),
        ..GatewayOptions::to(&mongod)
    };
    let gateway = Gateway::start(&options);
    let mut served = gateway.connect().unwrap();
    served.run(&ping()).unwrap();
    // At start the gateway would lower `max_connections` to what the limit allows.
    lower_descriptor_limit(&gateway, gateway.descriptors().unwrap() as u64 + FREE);

    let mut silent: Vec<_> = (0..CLIENTS).map(|_| gateway.connect().unwrap()).collect();
    let out = |event: &Value| event["message"].as_str().unwrap_or_default().starts_with("cannot accept connections");
    let logged = gateway.wait_for_log(LOG_TIMEOUT, out).unwrap();
    assert_eq!((&logged["level"], &logged["listener"]), (&"ERROR".into(), &"test".into()));
    assert!(logged["remedy"].as_str().unwrap().contains("ulimit -n"), "{logged}");
    let (before, started) = (gateway.processor_time().unwrap(), Instant::now());
    until_steady("the gateway logs nothing more", A_WHILE, || gateway.log().len());
    let busy = gateway.processor_time().unwrap().saturating_sub(before);
    assert!(busy < started.elapsed() / 3, "failed attempts to accept used {busy:?} of processor time");
    served.run(&ping()).unwrap();
    // The number can exceed the limit: the gateway may inherit descriptors with higher numbers from this process. A
    // descriptor that a read of a file has just given back is taken at the next attempt to accept.
    let all = until_steady("the gateway uses all its descriptors", A_WHILE, || gateway.descriptors().unwrap());

    // An accepted client that sends a command needs a descriptor for its upstream connection.
    silent[0].send(&op_msg(1, 0, &[body_section(&ping())])).unwrap();
    let refusal = silent[0].reply().unwrap().document;
    assert_eq!(refusal.get_i32("code").unwrap(), 6, "{refusal}");
    assert!(refusal.get_str("errmsg").unwrap().contains("oo many open files"), "{refusal}");
    let failed = |event: &Value| event["message"] == "upstream connection failed";
    let logged = gateway.wait_for_log(LOG_TIMEOUT, failed).unwrap();
    assert!(logged["remedy"].as_str().unwrap().contains("ulimit -n"), "{logged}");

    // Descriptors become free and run out again several times. The gateway does not log each time.
    for gone in 1..=5 {
        silent.remove(1);
        let probes = || gateway.log().iter().filter(|event| event["outcome"] == "probe").count();
        until("the client has disconnected", || (probes() >= gone).then_some(()));
        until("the next client takes the free descriptor", || (gateway.descriptors().unwrap() >= all).then_some(()));
    }
    silent.clear();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "accepting connections again").unwrap();
    gateway.connect().unwrap().run(&ping()).unwrap();
    until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));
    let told = gateway.log().iter().filter(|event| out(event)).count() as u64;
    assert!(told <= 1 + started.elapsed().as_secs() / 10, "logged {told} times in {:?}", started.elapsed());
}

/// Sets the limit of open files of a running gateway, as if other files of the process had used them up.
fn lower_descriptor_limit(gateway: &Gateway, limit: u64) {
    let pid = Pid::from_raw(gateway.process_id().try_into().unwrap());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
}

/// Both drivers run a command, and the log shows the client's address.
async fn check_reached(gateway: &Gateway, client: &str) {
    let uri = reports::uri(gateway);
    let rust = reports::of_rust(&ping(), &uri).await;
    let python = reports::of_pymongo(&ping(), &[uri]).unwrap_or_default();
    assert!(python.iter().chain([&rust]).all(|reported| reported.kind.is_empty()), "{rust:?} {python:?}");
    let closed = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "connection closed").unwrap();
    assert!(closed["client"].as_str().unwrap().starts_with(client), "{closed}");
    assert_eq!(closed["outcome"], "completed", "{closed}");
}

fn check_in_vain(mongod: &Mongod, address: &str, code: Option<i32>, says: &[&str]) {
    let options = GatewayOptions { listener_address: Some(address.to_owned()), ..GatewayOptions::to(mongod) };
    let (exit, wrote) = Gateway::start_in_vain(&options).unwrap();
    assert_eq!(exit, code, "{wrote}");
    assert!(says.iter().all(|part| wrote.contains(part)), "{address}: {wrote}");
}

fn start(mongod: &Mongod, address: &str, listener: &str) -> Gateway {
    let mut options = GatewayOptions { listener_address: Some(address.to_owned()), ..GatewayOptions::to(mongod) };
    listener.clone_into(&mut options.listener);
    Gateway::start(&options)
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
