//! Certificate reload under live traffic: the gateway follows its files, and mongod sees the new certificate at once.
//!
//! mongod authenticates an X.509 client as the subject of the certificate on the connection. So a client that
//! authenticates through the gateway gets the subject of the gateway's current client certificate back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::kit::certificates::{Issued, Pki, SignedBy, Usage, Validity, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, client_config, shown_certificate};
use crate::kit::secret::{Content, Secret};
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

/// Longest time from the change of a file to connections with the new certificate. It takes a fraction of a second on
/// an idle machine, and more while other tests run. Without a file system event it would take up to a minute.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn certificate_reload_under_load_fails_no_operation() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let [first, second, third] = ["load-1", "load-2", "load-3"].map(|name| known_client(&mongod, name));
    let content = |client: &Issued| Content::of(&mongod.pki, client);
    let secret = Secret::of_kubernetes(&content(&first)).unwrap();
    let mut options = options(&mongod, &secret);
    options.upstream = "certificate_recycle_after = '4s'\n".to_owned();
    let gateway = Gateway::start(&options);
    let load = Load::start(&gateway, 32);
    // This connection has a gateway of its own, so that the metric shows when it is moved. It must not authenticate
    // before that: a connection that has authenticated is not moved.
    let own = "pool.mode = 'off'\n";
    let quiet = Gateway::start(&GatewayOptions { upstream: options.upstream.clone() + own, ..options.clone() });
    let mut idle = quiet.connect().unwrap();
    idle.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    load.await_operations(500);
    assert_eq!(name_of(&gateway), subject("load-1"));

    secret.turn("..1", &content(&second)).unwrap();
    await_name(&gateway, "load-2");
    // Half of the load keeps its connections. None of these clients may notice that its upstream connection is
    // replaced.
    let await_moved = |gateway: &Gateway, count: f64| {
        let is_reached = |moved| moved > count - 0.5;
        gateway.await_metric("mongate_upstream_recycled_total", &[("how", "moved")], is_reached);
    };
    await_moved(&gateway, 16.0);
    await_moved(&quiet, 1.0);
    assert_eq!(name_on(&mut idle), subject("load-2"));
    load.await_operations(500);
    secret.turn("..2", &content(&third)).unwrap();
    await_name(&gateway, "load-3");
    load.await_operations(500);

    // The gateway gets the new CA certificate first; then mongod gets a certificate from that CA.
    let mut both = content(&third);
    both.authorities += &fs::read_to_string(mongod.pki.stranger_ca_file()).unwrap();
    secret.turn("..3", &both).unwrap();
    let renewed =
        |event: &Value| event["message"] == "certificate reloaded" && event["changed"] == "CA certificates 1 -> 2";
    gateway.wait_for_log(LOG_TIMEOUT, renewed).unwrap();
    let server = mongod.pki.issue("server", &Wanted { issuer: SignedBy::Stranger, ..Wanted::server() }).unwrap();
    mongod.renew(&server).unwrap();
    load.await_operations(500);
    assert_eq!(name_of(&gateway), subject("load-3"));

    let (operations, failures) = load.end();
    assert!(failures.is_empty(), "{} of {operations} operations failed: {failures:?}", failures.len());
    assert_eq!(reloads(&gateway), (3, 0));
}

#[test]
fn every_way_of_replacing_files_causes_a_reload() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let clients = ["way-0", "way-1", "way-2", "way-3", "way-4", "way-5"].map(|name| known_client(&mongod, name));
    let content = |index: usize| Content::of(&mongod.pki, &clients[index]);
    let secret = Secret::plain(&content(0)).unwrap();
    let gateway = start(&mongod, &secret);
    await_name(&gateway, "way-0");

    secret.rename_over(&content(1)).unwrap();
    await_name(&gateway, "way-1");
    secret.write_in_place(&content(2)).unwrap();
    await_name(&gateway, "way-2");
    for file in [secret.certificate_file(), secret.key_file()] {
        fs::remove_file(file).unwrap();
    }
    secret.write_in_place(&content(3)).unwrap();
    await_name(&gateway, "way-3");
    // The directory itself is replaced.
    let aside = secret.path().with_extension("aside");
    fs::rename(secret.path(), &aside).unwrap();
    fs::create_dir(secret.path()).unwrap();
    secret.write_in_place(&content(4)).unwrap();
    fs::remove_dir_all(aside).unwrap();
    await_name(&gateway, "way-4");
    secret.rename_over(&content(5)).unwrap();
    await_name(&gateway, "way-5");
    assert_eq!(reloads(&gateway), (5, 0));
    assert_eq!(gateway.log().into_iter().find(is_failure), None);
}

#[test]
fn the_reload_waits_for_the_second_file_of_a_pair() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second] = ["half-1", "half-2"].map(|name| known_client(&mongod, name));
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let gateway = start(&mongod, &secret);
    await_name(&gateway, "half-1");
    fs::write(secret.certificate_file(), &second.certificate_pem).unwrap();
    until("the incomplete pair is noticed", || (reload(&gateway)["pending"] == true).then_some(()));
    assert_eq!(name_of(&gateway), subject("half-1"));
    assert_eq!(readyz(&gateway).0, 200);
    fs::write(secret.key_file(), &second.key_pem).unwrap();
    await_name(&gateway, "half-2");
    assert_eq!(reload(&gateway)["pending"], false);
    assert_eq!(reloads(&gateway), (1, 0));
    assert_eq!(gateway.log().into_iter().find(is_failure), None);
}

#[test]
fn unusable_files_leave_the_previous_certificate_set_in_use() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second, third] = ["good-1", "good-2", "good-3"].map(|name| known_client(&mongod, name));
    let expired =
        mongod.pki.issue("good-expired", &Wanted { validity: Validity::Expired, ..Wanted::default() }).unwrap();
    let good = Content::of(&mongod.pki, &first);
    let secret = Secret::plain(&good).unwrap();
    let gateway = start(&mongod, &secret);
    let load = Load::start(&gateway, 4);
    await_name(&gateway, "good-1");

    let certificate = secret.certificate_file();
    let garbage = |text: &str| fs::write(&certificate, text).unwrap();
    check_failure(&gateway, "the file contains no certificate", || garbage("garbage"));
    repair(&gateway, || garbage(&good.certificate));
    check_failure(&gateway, "the private key does not belong to the certificate", || {
        fs::write(secret.key_file(), &third.key_pem).unwrap();
    });
    repair(&gateway, || fs::write(secret.key_file(), &good.key).unwrap());
    check_failure(&gateway, "the file does not exist", || fs::remove_file(&certificate).unwrap());
    load.await_operations(200);
    assert_eq!(name_of(&gateway), subject("good-1"));
    // A new valid certificate ends the failure as well.
    secret.rename_over(&Content::of(&mongod.pki, &second)).unwrap();
    await_name(&gateway, "good-2");
    await_ready(&gateway);

    check_failure(&gateway, "the new certificate expired on 2021-01-01 00:00:00 UTC", || {
        secret.rename_over(&Content::of(&mongod.pki, &expired)).unwrap();
    });
    assert_eq!(name_of(&gateway), subject("good-2"));
    assert_eq!(reloads(&gateway), (1, 4));
    let logged = gateway.log().into_iter().filter(is_failure).count();
    assert_eq!(logged, 4, "each failure is logged once");
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn sighup_reloads_at_once_and_always_logs_the_result() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second] = ["hup-1", "hup-2"].map(|name| known_client(&mongod, name));
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let gateway = start(&mongod, &secret);
    await_name(&gateway, "hup-1");
    let mut answered = 0;
    let mut send_sighup = |renewed: u64, unchanged: u64, failed: u64| {
        gateway.signal(libc::SIGHUP).unwrap();
        let answers = until("the result of SIGHUP is logged", || {
            let answers: Vec<_> = gateway.log().into_iter().filter(|event| event["signal"] == "SIGHUP").collect();
            (answers.len() > answered).then_some(answers)
        });
        answered += 1;
        let answer = &answers[answered - 1];
        assert_eq!(answers.len(), answered);
        assert_eq!(answer["message"], "certificate reload finished");
        let counts = [&answer["renewed"], &answer["unchanged"], &answer["failed"]];
        assert_eq!(counts, [renewed, unchanged, failed].map(Value::from).each_ref(), "{answer}");
    };
    send_sighup(0, 1, 0);
    fs::write(secret.certificate_file(), "garbage").unwrap();
    send_sighup(0, 0, 1);
    send_sighup(0, 0, 1);
    assert_eq!(name_of(&gateway), subject("hup-1"));
    fs::write(secret.certificate_file(), &second.certificate_pem).unwrap();
    fs::write(secret.key_file(), &second.key_pem).unwrap();
    await_name(&gateway, "hup-2");
    send_sighup(0, 1, 0);
    assert_eq!(reloads(&gateway).0, 1);
}

#[test]
fn a_listener_reloads_its_files_and_crl() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let pki = Pki::new().unwrap();
    let [first, second] = ["listener-1", "listener-2"].map(|name| pki.issue(name, &Wanted::server()).unwrap());
    let [cart, till] =
        ["cart", "till"].map(|name| pki.issue(name, &Wanted { common_name: name, ..Wanted::default() }).unwrap());
    let secret = Secret::plain(&Content::of(&pki, &first)).unwrap();
    let crl = pki.revoke("listener", &[]).unwrap();
    let tables = format!("[listener.test.tls]\n{}crl_file = '{}'\n", secret.configuration(), crl.display());
    let listener = "mode = 'strict'\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, tables, ..GatewayOptions::to(&mongod) });
    let config = client_config(&pki, Some(&cart), &[&TLS12, &TLS13]).unwrap();
    let connect = || Connection::tls_with(gateway.address(), &[], Arc::clone(&config));
    let ping = doc! { "ping": 1, "$db": "admin" };
    let mut old = connect().unwrap();
    old.run(&ping).unwrap();
    let other = client_config(&pki, Some(&till), &[&TLS12, &TLS13]).unwrap();
    let mut other = Connection::tls_with(gateway.address(), &[], other).unwrap();
    other.run(&ping).unwrap();
    assert_eq!(shown_certificate(gateway.address(), &config).unwrap(), first.der().0);

    let begun = Instant::now();
    secret.rename_over(&Content::of(&pki, &second)).unwrap();
    let is_second = || (shown_certificate(gateway.address(), &config).unwrap() == second.der().0).then_some(());
    until("the listener shows the new certificate", is_second);
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    connect().unwrap().run(&ping).unwrap();
    old.run(&ping).unwrap();

    pki.revoke("listener", &[&cart]).unwrap();
    until("a new connection with the revoked certificate is rejected", || {
        connect().unwrap().run(&ping).is_err().then_some(())
    });
    until("the open connection with the revoked certificate is closed", || old.run(&ping).is_err().then_some(()));
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "client certificate no longer accepted").unwrap();
    other.run(&ping).unwrap();
    let renewed = |event: &Value| event["message"] == "certificate reloaded" && event["listener"] == "test";
    let changed: Vec<_> = gateway.log().into_iter().filter(renewed).map(|event| event["changed"].to_string()).collect();
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(changed[1].contains("revocation lists: "), "{changed:?}");
    let shown = listener_of(&gateway);
    assert_eq!(shown["certificates"]["revocation_lists"][0]["revoked"], 1, "{shown}");
    assert_eq!(shown["certificates"]["server"][0]["subject"], "CN=mongod,OU=servers,O=mongate kit", "{shown}");
    for role in ["listener", "listener_ca"] {
        let labels = [("role", role), ("name", "test")];
        assert!(gateway.metric("mongate_certificate_expiry_timestamp_seconds", &labels) > 3.7e9, "{role}");
    }

    fs::write(secret.key_file(), "garbage").unwrap();
    gateway.signal(libc::SIGHUP).unwrap();
    let failed = |event: &Value| is_failure(event) && event["listener"] == "test";
    gateway.wait_for_log(LOG_TIMEOUT, failed).unwrap();
    until("/readyz reports the failure", || {
        readyz(&gateway).1.contains("\nWARN   listener test: certificate reload failed").then_some(())
    });
    assert!(listener_of(&gateway)["reload"]["problem"].as_str().is_some_and(|text| text.contains("private key")));
    assert_eq!(shown_certificate(gateway.address(), &config).unwrap(), second.der().0);
    other.run(&ping).unwrap();
}

#[test]
fn a_client_certificate_that_looks_like_a_cluster_member_causes_a_warning() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // The kit gives a certificate for both usages the same organisation and OU as mongod's own certificate.
    let wanted = Wanted { usage: Usage::Both, common_name: "member", ..Wanted::default() };
    let member = mongod.pki.issue("rotation-member", &wanted).unwrap();
    let secret = Secret::plain(&Content::of(&mongod.pki, &member)).unwrap();
    let gateway = start(&mongod, &secret);
    let warned = |event: &Value| event["message"] == "client certificate may be taken for a cluster member";
    let warning = gateway.wait_for_log(LOG_TIMEOUT, warned).unwrap();
    assert_eq!(warning["level"], "WARN");
    assert_eq!(warning["subject"], "CN=member,OU=servers,O=mongate kit");
}

/// Runs an insert and a find repeatedly on several connections. Every second one reconnects after ten rounds.
struct Load {
    stop: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(gateway: &Gateway, connections: usize) -> Self {
        let (stop, operations) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
        let threads = (0..connections).map(|index| {
            let (address, stop, operations) =
                (gateway.address().to_owned(), Arc::clone(&stop), Arc::clone(&operations));
            thread::spawn(move || {
                let mut failures = Vec::new();
                let mut connection = None;
                for round in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if index % 2 == 0 && round % 10 == 0 {
                        connection = None;
                    }
                    match operate(&mut connection, &address, &format!("{index}-{round}")) {
                        Ok(()) => drop(operations.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("{error:#}")),
                    }
                    if failures.len() > 10 {
                        break;
                    }
                }
                failures
            })
        });
        Self { threads: threads.collect(), stop, operations }
    }

    /// Waits until `count` more operations have succeeded.
    fn await_operations(&self, count: u64) {
        let wanted = self.operations.load(Ordering::Relaxed) + count;
        until("the load makes progress", || (self.operations.load(Ordering::Relaxed) >= wanted).then_some(()));
    }

    /// Stops the load; returns the number of successful operations, and the errors of the others.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.operations.load(Ordering::Relaxed), failures)
    }
}

fn operate(connection: &mut Option<Connection>, address: &str, id: &str) -> anyhow::Result<()> {
    let connection = if let Some(connection) = connection {
        connection
    } else {
        let connection = connection.insert(Connection::plain(address)?);
        // Drivers start with a hello.
        connection.run(&doc! { "hello": 1, "$db": "admin" })?;
        connection
    };
    connection.run(&doc! { "insert": "load", "documents": [{ "name": id }], "$db": "rotation" })?;
    let found = connection.run(&doc! { "find": "load", "limit": 1, "$db": "rotation" })?;
    anyhow::ensure!(found.get_document("cursor").is_ok(), "{found}");
    Ok(())
}

fn start(mongod: &Mongod, secret: &Secret) -> Gateway {
    Gateway::start(&options(mongod, secret))
}

fn options(mongod: &Mongod, secret: &Secret) -> GatewayOptions {
    GatewayOptions { upstream_tls: secret.configuration(), ..GatewayOptions::to(mongod) }
}

/// Issues a client certificate and creates the user of its subject in mongod.
fn known_client(mongod: &Mongod, common_name: &'static str) -> Issued {
    let issued = mongod.pki.issue(common_name, &Wanted { common_name, ..Wanted::default() }).unwrap();
    let user = doc! { "createUser": subject(common_name), "roles": [], "$db": "$external" };
    mongod.run(&user).unwrap();
    issued
}

fn subject(common_name: &str) -> String {
    format!("CN={common_name},OU=clients,O=mongate kit")
}

/// Returns the user that mongod sees on a new connection through the gateway.
fn name_of(gateway: &Gateway) -> String {
    name_on(&mut gateway.connect().unwrap())
}

/// Returns the user that mongod sees on this connection.
fn name_on(connection: &mut Connection) -> String {
    let authenticate = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let answer: Document = connection.run(&authenticate).unwrap();
    answer.get_str("user").unwrap().to_owned()
}

/// Waits until new connections have the certificate of `common_name`; panics if that takes longer than [`AT_ONCE`], or
/// if a later connection has another one.
fn await_name(gateway: &Gateway, common_name: &str) {
    let begun = Instant::now();
    until("mongod sees the new certificate", || (name_of(gateway) == subject(common_name)).then_some(()));
    let took = begun.elapsed();
    assert!(took < AT_ONCE, "{common_name} took {took:?}");
    for _ in 0..5 {
        assert_eq!(name_of(gateway), subject(common_name));
    }
}

/// Damages the files and checks that the failure is logged, counted and shown, and that the gateway stays ready.
fn check_failure(gateway: &Gateway, sentence: &str, damage: impl FnOnce()) {
    let (renewed, failed) = reloads(gateway);
    damage();
    let is_expected =
        |event: &Value| is_failure(event) && event["error"].as_str().is_some_and(|text| text.contains(sentence));
    let line = gateway.wait_for_log(LOG_TIMEOUT, is_expected).unwrap();
    assert_eq!((&line["level"], &line["upstream"]), (&"WARN".into(), &"test".into()), "{line}");
    assert!(line["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{line}");
    until("the failure is counted", || (reloads(gateway) == (renewed, failed + 1)).then_some(()));
    let shown = reload(gateway);
    assert!(shown["problem"].as_str().is_some_and(|text| text.contains(sentence)), "{shown}");
    assert!(shown["last_failure"]["error"].as_str().is_some_and(|text| text.contains(sentence)), "{shown}");
    let (status, text) = readyz(gateway);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\nWARN   upstream test: standalone at ") && text.contains(sentence), "{text}");
}

/// Repairs the files and waits until the gateway reports success.
fn repair(gateway: &Gateway, mend: impl FnOnce()) {
    let is_success = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("valid again"));
    let before = gateway.log().into_iter().filter(is_success).count();
    mend();
    until("the gateway reports that the files are valid again", || {
        (gateway.log().into_iter().filter(is_success).count() > before).then_some(())
    });
    await_ready(gateway);
}

fn await_ready(gateway: &Gateway) {
    until("/readyz has no warning", || {
        let (status, text) = readyz(gateway);
        (status == 200 && !text.contains("WARN")).then_some(())
    });
    assert_eq!(reload(gateway)["problem"], Value::Null);
}

fn is_failure(event: &Value) -> bool {
    event["message"].as_str().is_some_and(|text| text.starts_with("certificate reload failed"))
}

fn readyz(gateway: &Gateway) -> (u16, String) {
    let answer = gateway.get("/readyz").unwrap();
    (answer.status, answer.body)
}

fn listener_of(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    status["listeners"][0].clone()
}

fn reload(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    status["upstreams"][0]["reload"].clone()
}

/// Returns the numbers of successful and of failed reloads.
fn reloads(gateway: &Gateway) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the counter is small")]
    let count = |outcome| gateway.metric("mongate_reloads_total", &[("outcome", outcome)]) as u64;
    (count("ok"), count("failed"))
}
