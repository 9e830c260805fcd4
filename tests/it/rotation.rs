//! Renewed certificates under live traffic: the gateway follows its files, and mongod sees the new ones at once.
//!
//! mongod is asked who a connection is: with X.509 it authenticates whoever the certificate names, so a client that
//! authenticates through the gateway gets the gateway's own name back.

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

/// From the change of a file to connections with the new certificate: a fraction of a second on a quiet machine, and some
/// more on one that runs other tests. Without an event it would be up to a minute.
const AT_ONCE: Duration = Duration::from_secs(3);

#[test]
fn rotation_under_load_fails_no_operation() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let [first, second, third] = ["load-1", "load-2", "load-3"].map(|name| known_client(&mongod, name));
    let content = |client: &Issued| Content::of(&mongod.pki, client);
    let secret = Secret::of_kubernetes(&content(&first)).unwrap();
    let mut options = options(&mongod, &secret);
    options.upstream = "certificate_recycle_after = '4s'\n".to_owned();
    let gateway = Gateway::start(&options);
    let load = Load::start(&gateway, 32);
    // Of a gateway of its own, whose count says when it is moved: it may not be asked before, as who has authenticated
    // himself stays where he is.
    let quiet = Gateway::start(&options);
    let mut idle = quiet.connect().unwrap();
    idle.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    load.await_operations(500);
    assert_eq!(name_of(&gateway), subject("load-1"));

    secret.turn("..1", &content(&second)).unwrap();
    await_name(&gateway, "load-2");
    // Half of the load keeps its connections, and none may notice that what is beneath it was exchanged.
    let await_moved = |gateway: &Gateway, count: f64| {
        let is_there = |moved| moved > count - 0.5;
        gateway.await_metric("mongate_upstream_recycled_total", &[("how", "moved")], is_there);
    };
    await_moved(&gateway, 16.0);
    await_moved(&quiet, 1.0);
    assert_eq!(name_on(&mut idle), subject("load-2"));
    load.await_operations(500);
    secret.turn("..2", &content(&third)).unwrap();
    await_name(&gateway, "load-3");
    load.await_operations(500);

    // The new authority first, then mongod with a certificate of it.
    let mut both = content(&third);
    both.authorities += &fs::read_to_string(mongod.pki.stranger_ca_file()).unwrap();
    secret.turn("..3", &both).unwrap();
    let renewed =
        |event: &Value| event["message"] == "certificates renewed" && event["changed"] == "authorities 1 -> 2";
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
fn every_way_of_renewing_files_counts() {
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
    // The directory itself.
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
fn a_half_written_pair_is_waited_for() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second] = ["half-1", "half-2"].map(|name| known_client(&mongod, name));
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let gateway = start(&mongod, &secret);
    await_name(&gateway, "half-1");
    fs::write(secret.certificate_file(), &second.certificate_pem).unwrap();
    until("the half is noticed", || (reload(&gateway)["pending"] == true).then_some(()));
    assert_eq!(name_of(&gateway), subject("half-1"));
    assert_eq!(readyz(&gateway).0, 200);
    fs::write(secret.key_file(), &second.key_pem).unwrap();
    await_name(&gateway, "half-2");
    assert_eq!(reload(&gateway)["pending"], false);
    assert_eq!(reloads(&gateway), (1, 0));
    assert_eq!(gateway.log().into_iter().find(is_failure), None);
}

#[test]
fn what_cannot_be_used_leaves_the_last_good_set_in_use() {
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
    heal(&gateway, || garbage(&good.certificate));
    check_failure(&gateway, "the private key does not belong to the certificate", || {
        fs::write(secret.key_file(), &third.key_pem).unwrap();
    });
    heal(&gateway, || fs::write(secret.key_file(), &good.key).unwrap());
    check_failure(&gateway, "the file does not exist", || fs::remove_file(&certificate).unwrap());
    load.await_operations(200);
    assert_eq!(name_of(&gateway), subject("good-1"));
    // Healed by something new.
    secret.rename_over(&Content::of(&mongod.pki, &second)).unwrap();
    await_name(&gateway, "good-2");
    await_ready(&gateway);

    check_failure(&gateway, "the new certificate expired on 2021-01-01 00:00:00 UTC", || {
        secret.rename_over(&Content::of(&mongod.pki, &expired)).unwrap();
    });
    assert_eq!(name_of(&gateway), subject("good-2"));
    assert_eq!(reloads(&gateway), (1, 4));
    let told = gateway.log().into_iter().filter(is_failure).count();
    assert_eq!(told, 4, "each of them once");
    let (_, failures) = load.end();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn sighup_reads_at_once_and_always_answers() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second] = ["hup-1", "hup-2"].map(|name| known_client(&mongod, name));
    let secret = Secret::plain(&Content::of(&mongod.pki, &first)).unwrap();
    let gateway = start(&mongod, &secret);
    await_name(&gateway, "hup-1");
    let mut answered = 0;
    let mut hang_up = |renewed: u64, unchanged: u64, failed: u64| {
        gateway.signal(libc::SIGHUP).unwrap();
        let answers = until("SIGHUP is answered", || {
            let answers: Vec<_> = gateway.log().into_iter().filter(|event| event["signal"] == "SIGHUP").collect();
            (answers.len() > answered).then_some(answers)
        });
        answered += 1;
        let answer = &answers[answered - 1];
        assert_eq!(answers.len(), answered);
        assert_eq!(answer["message"], "certificate files read again");
        let counts = [&answer["renewed"], &answer["unchanged"], &answer["failed"]];
        assert_eq!(counts, [renewed, unchanged, failed].map(Value::from).each_ref(), "{answer}");
    };
    hang_up(0, 1, 0);
    fs::write(secret.certificate_file(), "garbage").unwrap();
    hang_up(0, 0, 1);
    hang_up(0, 0, 1);
    assert_eq!(name_of(&gateway), subject("hup-1"));
    fs::write(secret.certificate_file(), &second.certificate_pem).unwrap();
    fs::write(secret.key_file(), &second.key_pem).unwrap();
    await_name(&gateway, "hup-2");
    hang_up(0, 1, 0);
    assert_eq!(reloads(&gateway).0, 1);
}

#[test]
fn a_listener_follows_its_files_too() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let pki = Pki::new().unwrap();
    let [first, second] = ["door-1", "door-2"].map(|name| pki.issue(name, &Wanted::server()).unwrap());
    let [cart, till] =
        ["cart", "till"].map(|name| pki.issue(name, &Wanted { common_name: name, ..Wanted::default() }).unwrap());
    let secret = Secret::plain(&Content::of(&pki, &first)).unwrap();
    let list = pki.revoke("door", &[]).unwrap();
    let tables = format!("[listener.test.tls]\n{}crl_file = '{}'\n", secret.configuration(), list.display());
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
    until("clients are shown the new certificate", is_second);
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    connect().unwrap().run(&ping).unwrap();
    old.run(&ping).unwrap();

    pki.revoke("door", &[&cart]).unwrap();
    until("the client is refused", || connect().unwrap().run(&ping).is_err().then_some(()));
    until("the client that is in is dismissed", || old.run(&ping).is_err().then_some(()));
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "client certificate no longer accepted").unwrap();
    other.run(&ping).unwrap();
    let renewed = |event: &Value| event["message"] == "certificates renewed" && event["listener"] == "test";
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
    until("readiness tells of it", || {
        readyz(&gateway).1.contains("\nWARN   listener test: certificates not").then_some(())
    });
    assert!(listener_of(&gateway)["reload"]["problem"].as_str().is_some_and(|text| text.contains("private key")));
    assert_eq!(shown_certificate(gateway.address(), &config).unwrap(), second.der().0);
    other.run(&ping).unwrap();
}

#[test]
fn a_certificate_with_the_organization_of_mongods_is_warned_of() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // The kit gives servers, and what may be both, an OU of their own.
    let wanted = Wanted { usage: Usage::Both, common_name: "member", ..Wanted::default() };
    let member = mongod.pki.issue("rotation-member", &wanted).unwrap();
    let secret = Secret::plain(&Content::of(&mongod.pki, &member)).unwrap();
    let gateway = start(&mongod, &secret);
    let warned = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("a member of its cluster"));
    let warning = gateway.wait_for_log(LOG_TIMEOUT, warned).unwrap();
    assert_eq!(warning["level"], "WARN");
    assert_eq!(warning["subject"], "CN=member,OU=servers,O=mongate kit");
}

/// An insert and a find, again and again, on so many connections; every other one is a new one after each ten.
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

    /// Waits for so many more.
    fn await_operations(&self, count: u64) {
        let wanted = self.operations.load(Ordering::Relaxed) + count;
        until("the load goes on", || (self.operations.load(Ordering::Relaxed) >= wanted).then_some(()));
    }

    /// How many operations there were, and what failed.
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
        // As drivers begin.
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

/// A client certificate whose subject mongod has a user for.
fn known_client(mongod: &Mongod, common_name: &'static str) -> Issued {
    let issued = mongod.pki.issue(common_name, &Wanted { common_name, ..Wanted::default() }).unwrap();
    let user = doc! { "createUser": subject(common_name), "roles": [], "$db": "$external" };
    mongod.run(&user).unwrap();
    issued
}

fn subject(common_name: &str) -> String {
    format!("CN={common_name},OU=clients,O=mongate kit")
}

/// Who a new connection through the gateway is to mongod.
fn name_of(gateway: &Gateway) -> String {
    name_on(&mut gateway.connect().unwrap())
}

/// The same of a connection that is there.
fn name_on(connection: &mut Connection) -> String {
    let authenticate = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    let answer: Document = connection.run(&authenticate).unwrap();
    answer.get_str("user").unwrap().to_owned()
}

/// At once, and for every connection from then on.
fn await_name(gateway: &Gateway, common_name: &str) {
    let begun = Instant::now();
    until("mongod sees the new certificate", || (name_of(gateway) == subject(common_name)).then_some(()));
    let took = begun.elapsed();
    assert!(took < AT_ONCE, "{common_name} took {took:?}");
    for _ in 0..5 {
        assert_eq!(name_of(gateway), subject(common_name));
    }
}

fn check_failure(gateway: &Gateway, sentence: &str, spoil: impl FnOnce()) {
    let (renewed, failed) = reloads(gateway);
    spoil();
    let said = |event: &Value| is_failure(event) && event["error"].as_str().is_some_and(|text| text.contains(sentence));
    let line = gateway.wait_for_log(LOG_TIMEOUT, said).unwrap();
    assert_eq!((&line["level"], &line["upstream"]), (&"WARN".into(), &"test".into()), "{line}");
    assert!(line["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{line}");
    until("it is counted", || (reloads(gateway) == (renewed, failed + 1)).then_some(()));
    let shown = reload(gateway);
    assert!(shown["problem"].as_str().is_some_and(|text| text.contains(sentence)), "{shown}");
    assert!(shown["last_failure"]["error"].as_str().is_some_and(|text| text.contains(sentence)), "{shown}");
    let (status, text) = readyz(gateway);
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\nWARN   upstream test: standalone at ") && text.contains(sentence), "{text}");
}

fn heal(gateway: &Gateway, mend: impl FnOnce()) {
    let said = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains("whole again"));
    let before = gateway.log().into_iter().filter(said).count();
    mend();
    until("it is healed", || (gateway.log().into_iter().filter(said).count() > before).then_some(()));
    await_ready(gateway);
}

fn await_ready(gateway: &Gateway) {
    until("there is no warning left", || {
        let (status, text) = readyz(gateway);
        (status == 200 && !text.contains("WARN")).then_some(())
    });
    assert_eq!(reload(gateway)["problem"], Value::Null);
}

fn is_failure(event: &Value) -> bool {
    event["message"].as_str().is_some_and(|text| text.starts_with("certificates not renewed"))
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

/// How many sets were renewed, and how many could not be.
fn reloads(gateway: &Gateway) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of a few")]
    let count = |outcome| gateway.metric("mongate_reloads_total", &[("outcome", outcome)]) as u64;
    (count("ok"), count("failed"))
}
