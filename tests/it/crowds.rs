//! Many clients, or hostile ones, when something is scarce: places for handshakes, memory, descriptors, a server
//! that is down, valid certificates.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bson::doc;
use serde_json::Value;

use crate::kit::certificates::{First, Pki, Validity, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::mongod_binary;
use crate::kit::namespace;
use crate::kit::provision;
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::kit::scratch;
use crate::kit::waiting::until;
use crate::reports::{LOG_TIMEOUT, is_at_least_one};
use crate::slow;

/// Nearly the 16 KiB that a `ClientHello` may have.
const HELLO_BYTES: usize = 15_000;
/// Memory that each of these clients may take, in KiB: its bytes, buffers that were grown for them, and its task.
const CLIENT_KIB_MAX: u64 = 40;

/// A gateway with TLS towards its clients, and the CA of both. `keys` are further lines of `[listener.test.tls]`.
fn with_tls(mongod: &Mongod, keys: &str) -> (Gateway, Pki) {
    let pki = Pki::new().unwrap();
    let server = pki.issue("gateway", &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
    let options = GatewayOptions {
        listener: "mode = 'strict'\n".to_owned(),
        tables: format!(
            "[listener.test.tls]\ncertificate_file = '{}'\nca_file = '{}'\n{keys}",
            server.display(),
            pki.ca_file().display()
        ),
        upstream: "warm_connections = 0\n".to_owned(),
        ..GatewayOptions::to(mongod)
    };
    (Gateway::start(&options), pki)
}

/// The beginning of a `ClientHello` that announces this many bytes, and `sent` bytes of it, in one record.
fn hello(announced: usize, sent: usize) -> Vec<u8> {
    let [.., high, middle, low] = announced.to_be_bytes();
    let message = [&[1, high, middle, low, 3, 3][..], &vec![7; sent]].concat();
    let [.., record_high, record_low] = (announced + 4).min(16_384).to_be_bytes();
    [&[22, 3, 1, record_high, record_low][..], &message].concat()
}

fn open(gateway: &Gateway, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn unfinished_client_hellos_cost_little_memory_and_do_not_keep_others_out() {
    const CLIENTS: usize = 1_000;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let (gateway, pki) = with_tls(&mongod, "");
    let client = pki.issue("client", &Wanted::default()).unwrap();
    let served = || Connection::tls(gateway.address(), &pki, &client).unwrap().run(&doc! { "ping": 1, "$db": "admin" });
    served().unwrap();
    let before = gateway.memory_kib().unwrap();
    let unfinished: Vec<_> = (0..CLIENTS).map(|_| open(&gateway, &hello(HELLO_BYTES, HELLO_BYTES - 100))).collect();
    gateway.await_metric("mongate_connections_active", &[], |count| count > 999.0);
    served().unwrap();
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    assert!(grown < CLIENT_KIB_MAX * CLIENTS as u64, "{grown} KiB for {CLIENTS} unfinished handshakes");
    drop(unfinished);
    gateway.await_metric("mongate_connections_active", &[], |count| count < 0.5);
    served().unwrap();
    until("memory is returned to the system", || {
        let kept = gateway.memory_kib().unwrap().saturating_sub(before);
        (kept < grown / 3).then_some(())
    });
}

#[test]
fn a_client_hello_that_announces_too_much_is_refused_before_it_arrives() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let (gateway, _pki) = with_tls(&mongod, "");
    let mut client = open(&gateway, &hello(60_000, 10));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first_chunk(), Some(&[0x15, 3, 3, 0, 2, 2]), "a TLS alert: {answer:?}");
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == "too_long").unwrap();
    assert!(logged["reason"].as_str().unwrap().contains("16384 bytes") && logged["remedy"].is_string(), "{logged}");
    let labels = [("listener", "test"), ("outcome", "too_long")];
    gateway.await_metric("mongate_client_handshakes_total", &labels, is_at_least_one);
}

#[test]
fn silent_clients_do_not_keep_the_places_of_others() {
    const CLIENTS: usize = 60;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // 16 places, the fewest that a listener has.
    let listener = "max_connections = 40\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, ..GatewayOptions::to(&mongod) });
    let mut served = gateway.connect().unwrap();
    served.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    let silent: Vec<_> = (0..CLIENTS).map(|_| gateway.connect().unwrap()).collect();
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == "displaced").unwrap();
    assert!(logged["reason"].as_str().unwrap().contains("all 16 places"), "{logged}");
    // They come from one address, so that each keeps its place for five seconds. This client waits for its turn.
    let mut late = gateway.connect().unwrap();
    late.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    served.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    let active = gateway.metric("mongate_connections_active", &[]);
    assert!(active < 16.0 + 2.5, "{active} connections are open");
    drop(silent);
}

#[test]
fn with_few_descriptors_fewer_clients_are_accepted_and_the_probes_are_answered() {
    const CLIENTS: usize = 300;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&GatewayOptions { descriptors_max: Some(100), ..GatewayOptions::to(&mongod) });
    let message = "open file limit too low; max_connections is lowered";
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == message).unwrap();
    let numbers = ["limit", "wanted", "configured", "max_connections"].map(|field| logged[field].as_u64().unwrap());
    assert_eq!(numbers, [100, 20_256, 10_000, 25], "{logged}");
    assert!(logged["remedy"].as_str().unwrap().contains("ulimit -n"), "{logged}");
    assert_eq!(gateway.status().unwrap()["listeners"][0]["max_connections"], 25);
    until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));

    let silent: Vec<_> = (0..CLIENTS).map(|_| gateway.connect().unwrap()).collect();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == "displaced").unwrap();
    for _ in 0..20 {
        assert_eq!(gateway.get("/livez").unwrap().status, 200);
        let ready = gateway.get("/readyz").unwrap();
        assert_eq!(ready.status, 200, "{}", ready.body);
    }
    drop(silent);
    gateway.connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
}

#[test]
fn near_the_memory_limit_new_clients_are_refused_and_idle_ones_closed() {
    if provision::or_skip("a real mongod", mongod_binary::locate()).is_none() {
        return;
    }
    namespace::inside("crowds::near_the_memory_limit_new_clients_are_refused_and_idle_ones_closed", |namespace| {
        let ping = doc! { "ping": 1, "$db": "admin" };
        let Some(mongod) = Mongod::shared_standalone() else { return };
        let cgroup = scratch::directory("cgroup").unwrap();
        let set = |used: u32| {
            let file = cgroup.path().join("memory.current");
            fs::write(&file, format!("{}\n", used * 1_000_000)).unwrap();
        };
        fs::write(cgroup.path().join("memory.max"), "100000000\n").unwrap();
        fs::write(cgroup.path().join("memory.stat"), "anon 1\ninactive_file 10000000\n").unwrap();
        set(30);
        namespace.sh(&format!("mount --bind {} /sys/fs/cgroup", cgroup.path().display())).unwrap();

        let gateway = Gateway::to(&mongod);
        until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));
        let mut idle = gateway.connect().unwrap();
        idle.run(&ping).unwrap();
        let mut busy = gateway.connect().unwrap();
        busy.run(&ping).unwrap();
        set(101);
        gateway.await_metric("mongate_overloaded", &[], is_at_least_one);
        let mut late = gateway.connect().unwrap();
        late.send(&op_msg(1, 0, &[body_section(&ping)])).unwrap();
        let refusal = late.reply().unwrap().document;
        assert_eq!(refusal.get_i32("code").unwrap(), 6, "{refusal}");
        assert!(refusal.get_str("errmsg").unwrap().contains("memory"), "{refusal}");
        idle.run(&ping).unwrap();
        let report = gateway.get("/readyz").unwrap();
        assert!(report.status == 503 && report.body.contains("FAILED memory: 91 % of"), "{}", report.body);
        assert!(gateway.metric("mongate_overload_connections_total", &[("action", "closed")]) < 0.5);

        // A command in flight keeps a connection.
        slow::prepare(&mongod, "crowds");
        busy.send(&op_msg(2, 0, &[body_section(&slow::find("crowds", 6_000))])).unwrap();
        set(107);
        gateway.await_metric("mongate_overload_connections_total", &[("action", "closed")], is_at_least_one);
        assert!(idle.run(&ping).is_err(), "the idle connection was closed");
        let reply = busy.reply().unwrap().document;
        assert!(reply.contains_key("cursor"), "{reply}");

        set(40);
        gateway.await_metric("mongate_overloaded", &[], |value| value < 0.5);
        gateway.connect().unwrap().run(&ping).unwrap();
        let over = |event: &Value| event["message"].as_str().unwrap_or_default().starts_with("memory is free");
        let logged = gateway.wait_for_log(LOG_TIMEOUT, over).unwrap();
        assert!(logged["refused"].as_u64().unwrap() >= 1 && logged["closed"].as_u64().unwrap() >= 1, "{logged}");
    });
}

#[test]
fn a_client_whose_certificate_ends_is_closed_when_it_is_idle_unless_a_key_keeps_it() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let ping = doc! { "ping": 1, "$db": "admin" };
    let (closing, closing_pki) = with_tls(&mongod, "");
    let (keeping, keeping_pki) = with_tls(&mongod, "close_expired_clients = false\n");
    let short = Wanted { validity: Validity::For(Duration::from_secs(5)), ..Wanted::default() };
    let connect = |gateway: &Gateway, pki: &Pki, wanted: &Wanted| {
        let client = pki.issue("client", wanted).unwrap();
        let mut connection = Connection::tls(gateway.address(), pki, &client).unwrap();
        connection.run(&ping).unwrap();
        connection
    };
    let mut kept = connect(&keeping, &keeping_pki, &short);
    let mut long = connect(&closing, &closing_pki, &Wanted::default());
    let mut ended = connect(&closing, &closing_pki, &short);
    slow::prepare(&mongod, "crowds_expiry");
    let mut busy = connect(&closing, &closing_pki, &short);
    busy.send(&op_msg(2, 0, &[body_section(&slow::find("crowds_expiry", 9_000))])).unwrap();

    let is_closed = |event: &Value| event["reason"] == "client certificate no longer accepted";
    closing.wait_for_log(LOG_TIMEOUT, is_closed).unwrap();
    assert!(ended.run(&ping).is_err());
    long.run(&ping).unwrap();
    let reply = busy.reply().unwrap().document;
    assert!(reply.contains_key("cursor"), "a command in flight finishes: {reply}");
    until("the busy client is closed too", || busy.run(&ping).is_err().then_some(()));
    kept.run(&ping).unwrap();
}

#[test]
fn a_server_that_is_down_is_dialled_by_few_clients_and_all_of_them_are_answered() {
    const CLIENTS: usize = 200;
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    let upstream = "warm_connections = 0\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { upstream, ..GatewayOptions::to(&mongod) });
    let address = mongod.address();
    let ping = doc! { "ping": 1, "$db": "admin" };
    let up = [("upstream", "test"), ("member", address.as_str())];
    gateway.await_metric("mongate_upstream_up", &up, is_at_least_one);
    gateway.await_metric("mongate_listener_ready", &[("listener", "test")], is_at_least_one);

    mongod.kill();
    let dials = || gateway.metric("mongate_upstream_handshakes_total", &[]);
    let (before, started) = (dials(), Instant::now());
    for _ in 0..CLIENTS {
        let mut client = gateway.connect().unwrap();
        client.send(&op_msg(1, 0, &[body_section(&ping)])).unwrap();
        let refusal = client.reply().unwrap().document;
        assert_eq!(refusal.get_i32("code").unwrap(), 6, "{refusal}");
    }
    // The health check dials once a second, and so does the breaker.
    let allowed = 10.0 + 3.0 * started.elapsed().as_secs_f64();
    let dialled = dials() - before;
    assert!(dialled <= allowed, "{dialled} attempts for {CLIENTS} clients, {allowed} allowed");
    gateway.await_metric("mongate_upstream_up", &up, |value| value < 0.5);
    gateway.await_metric("mongate_listener_ready", &[("listener", "test")], |value| value < 0.5);

    mongod.restart().unwrap();
    gateway.await_metric("mongate_upstream_up", &up, is_at_least_one);
    gateway.connect().unwrap().run(&ping).unwrap();
}

#[test]
fn a_listener_whose_clients_may_do_nothing_is_not_ready() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let tables = "[[policy.rule]]\nname = 'others'\naction = 'allow'\nfrom = [{ not_listeners = ['test'] }]\n";
    let gateway = Gateway::start(&GatewayOptions { tables: tables.to_owned(), ..GatewayOptions::to(&mongod) });
    let report = gateway.get("/readyz?listener=test").unwrap();
    assert_eq!(report.status, 503, "{}", report.body);
    assert!(report.body.contains("FAILED listener test: the policy denies every command"), "{}", report.body);
}
