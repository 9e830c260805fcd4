//! Certificates from the SPIFFE Workload API: pushed updates, a lost agent, an agent without a certificate for the
//! gateway, and unusable certificates.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use serde_json::Value;

use crate::kit::certificates::{Issued, SignedBy, Validity, Wanted};
use crate::kit::gateway;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::Connection;
use crate::kit::scratch;
use crate::kit::waiting::until;
use crate::kit::workload_api::{Answer, Set, WorkloadApi};
use crate::reports::LOG_TIMEOUT;

const ID: &str = "spiffe://kit.test/ns/shop/sa/orders";
/// mongod's error code for a user that already exists.
const USER_EXISTS: i32 = 51003;
const TAKEN: &str = "certificate received from the SPIFFE Workload API";

#[test]
fn new_connections_use_a_pushed_certificate_and_old_connections_continue() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let api = WorkloadApi::start(Answer::Set(set(&mongod, "pushed-1"))).unwrap();
    let gateway = start(&mongod, api.socket(), "");
    let mut old = gateway.connect().unwrap();
    assert_eq!(user_of(&mongod, &mut old, "pushed-1"), "CN=pushed-1,OU=clients,O=mongate kit");

    let days = Validity::For(Duration::from_hours(24));
    let renewed = svid(&mongod, &Wanted { validity: days, ..wanted("pushed-2") });
    api.answer(Answer::Set(Set::of(&mongod.pki, ID, &renewed)));
    wait_taken(&gateway, "pushed-2");
    let mut new = gateway.connect().unwrap();
    assert_eq!(user_of(&mongod, &mut new, "pushed-2"), "CN=pushed-2,OU=clients,O=mongate kit");
    old.run(&ping()).unwrap();

    let expiry = gateway.metric("mongate_certificate_expiry_timestamp_seconds", &[("role", "upstream_client")]);
    let tomorrow = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() + 86_400.0;
    assert!((expiry - tomorrow).abs() < 600.0, "the gauge shows the new expiry: {expiry}");
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    let shown = &status["upstreams"][0]["certificates"]["client"][0];
    assert_eq!(shown["subject"], "CN=pushed-2,OU=clients,O=mongate kit");
    assert_eq!(shown["uris"][0], ID);
    assert_eq!(api.asked(), 1, "one call, on which the agent pushes");
}

#[test]
fn certificates_stay_in_use_without_the_agent_and_the_gateway_reconnects() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("agent").unwrap();
    let socket = directory.path().join("agent.sock");
    let api = WorkloadApi::start_at(&socket, Answer::Set(set(&mongod, "lost-1"))).unwrap();
    let gateway = start(&mongod, &socket, "");
    wait_taken(&gateway, "lost-1");

    // The agent ends the stream cleanly, as during its upgrade, and then sends the same certificates again.
    api.end_streams();
    until("the gateway calls again", || (api.asked() == 2).then_some(()));
    drop(api);
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| says(event, "SPIFFE Workload API unavailable"));
    let logged = logged.unwrap();
    assert_eq!((&logged["level"], &logged["in_use"]), (&"WARN".into(), &"the last certificates".into()), "{logged}");
    gateway.connect().unwrap().run(&ping()).unwrap();
    assert_eq!(gateway.get("/readyz").unwrap().status, 200);
    assert_eq!(taken(&gateway), 1, "unchanged certificates are not taken again");

    let _api = WorkloadApi::start_at(&socket, Answer::Set(set(&mongod, "lost-2"))).unwrap();
    wait_taken(&gateway, "lost-2");
    let mut new = gateway.connect().unwrap();
    assert_eq!(user_of(&mongod, &mut new, "lost-2"), "CN=lost-2,OU=clients,O=mongate kit");
}

#[test]
fn the_gateway_starts_before_the_agent() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("agent").unwrap();
    let socket = directory.path().join("agent.sock");
    let gateway = start(&mongod, &socket, "");
    let sentence = format!(
        "there is no client certificate for {} yet: the SPIFFE Workload API at unix:{} cannot be reached: the socket \
         does not exist",
        mongod.address(),
        socket.display()
    );
    assert_eq!(refusal(&gateway), (6, format!("mongate: {sentence}")));
    let ready = gateway.get("/readyz").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains(&sentence), "{}", ready.body);
    let counted = [("outcome", "no_certificate")];
    gateway.await_metric("mongate_upstream_handshakes_total", &counted, |value| value >= 1.0);
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "no_certificate").unwrap();
    assert!(logged["remedy"].as_str().unwrap().contains("check that the agent runs"), "{logged}");

    let _api = WorkloadApi::start_at(&socket, Answer::Set(set(&mongod, "late"))).unwrap();
    until_ready(&gateway);
    gateway.connect().unwrap().run(&ping()).unwrap();
}

#[test]
fn a_client_waits_for_the_first_reply_of_the_agent() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let api = WorkloadApi::start(Answer::Silence).unwrap();
    let gateway = start(&mongod, api.socket(), "connect_timeout = \"20s\"");
    let mut client = gateway.connect().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.run(&ping()));
        until("the gateway has called", || (api.asked() == 1).then_some(()));
        api.answer(Answer::Set(set(&mongod, "awaited")));
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_client_waits_for_a_silent_agent_no_longer_than_connect_timeout() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let api = WorkloadApi::start(Answer::Silence).unwrap();
    let gateway = start(&mongod, api.socket(), "connect_timeout = \"300ms\"");
    gateway.wait_for_log(LOG_TIMEOUT, |event| says(event, "SPIFFE Workload API unavailable")).unwrap();
    let (code, sentence) = refusal(&gateway);
    assert_eq!(code, 6);
    assert!(sentence.ends_with("did not answer within 300ms"), "{sentence}");
}

#[test]
fn clients_get_an_error_until_the_agent_knows_the_gateway() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let api = WorkloadApi::start(Answer::Denied).unwrap();
    let gateway = start(&mongod, api.socket(), "");
    let (code, sentence) = refusal(&gateway);
    assert_eq!(code, 6);
    assert!(sentence.ends_with("has no certificate for this process: no identity issued"), "{sentence}");
    let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["reason"] == "no_certificate").unwrap();
    assert!(logged["remedy"].as_str().unwrap().contains("spire-server entry create"), "{logged}");

    api.answer(Answer::Set(set(&mongod, "registered")));
    until_ready(&gateway);
    gateway.connect().unwrap().run(&ping()).unwrap();

    // When the registration entry is deleted, the last certificate stays in use until it expires.
    api.answer(Answer::Denied);
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["in_use"] == "the last certificates").unwrap();
    gateway.connect().unwrap().run(&ping()).unwrap();
}

#[test]
fn unusable_certificates_leave_the_last_set_in_use() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let good = set(&mongod, "kept-1");
    let api = WorkloadApi::start(Answer::Set(good.clone())).unwrap();
    let gateway = start(&mongod, api.socket(), "");
    wait_taken(&gateway, "kept-1");
    until_ready(&gateway);
    let damaged = |damage: fn(&mut Set)| {
        let mut set = good.clone();
        damage(&mut set);
        set
    };
    let mut other_key = good.clone();
    other_key.svids[0].key = set(&mongod, "kept-2").svids.remove(0).key;
    let sets = [
        (other_key, "private key"),
        (damaged(|set| set.svids[0].chain = b"garbage".to_vec()), "failed parsing X.509 certificate"),
        (damaged(|set| set.svids[0].bundle.clear()), "missing required field: X509SVID.bundle"),
        (damaged(|set| set.svids.clear()), "missing required field: X509SVIDResponse.svids"),
    ];
    for (count, (set, reason)) in (1..).zip(sets) {
        api.answer(Answer::Set(set));
        gateway.await_metric("mongate_reloads_total", &[("outcome", "failed")], |value| value >= f64::from(count));
        let status = gateway.get("/status").unwrap().body;
        assert!(status.contains(reason), "{reason} is not in {status}");
        let ready = gateway.get("/readyz").unwrap();
        assert_eq!(ready.status, 200, "{}", ready.body);
        assert!(ready.body.contains(reason), "{reason} is not in {}", ready.body);
        let mut new = gateway.connect().unwrap();
        assert_eq!(user_of(&mongod, &mut new, "kept-1"), "CN=kept-1,OU=clients,O=mongate kit");
    }
    api.answer(Answer::Set(set(&mongod, "kept-3")));
    wait_taken(&gateway, "kept-3");
    assert!(!gateway.get("/readyz").unwrap().body.contains("cannot be used"));
    assert_eq!(api.asked(), 1, "all sets came on one call");
}

#[test]
fn mongod_is_verified_with_the_trust_bundle_or_with_ca_file() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut foreign = set(&mongod, "foreign");
    foreign.svids[0].bundle = foreign_ca(&mongod);
    let api = WorkloadApi::start(Answer::Set(foreign)).unwrap();
    let gateway = start(&mongod, api.socket(), "");
    let (code, sentence) = refusal(&gateway);
    assert_eq!(code, 141, "{sentence}");
    assert!(sentence.contains("which is not among the trust anchors"), "{sentence}");
    drop(gateway);

    // A ca_file replaces the trust bundle, and is reloaded like every other file.
    let directory = scratch::directory("ca_file").unwrap();
    let ca_file = directory.path().join("ca.pem");
    fs::copy(mongod.pki.stranger_ca_file(), &ca_file).unwrap();
    let mut options = options(&mongod, api.socket(), "");
    writeln!(options.upstream_tls, "ca_file = '{}'", ca_file.display()).unwrap();
    let gateway = Gateway::start(&options);
    assert_eq!(refusal(&gateway).0, 141);
    fs::copy(mongod.pki.ca_file(), &ca_file).unwrap();
    until_ready(&gateway);
    gateway.connect().unwrap().run(&ping()).unwrap();
    assert_eq!(api.asked(), 2, "one call per gateway");
}

#[test]
fn check_shows_the_agents_certificate_or_why_there_is_none() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let api = WorkloadApi::start(Answer::Set(set(&mongod, "checked"))).unwrap();
    let (code, text) = check(&options(&mongod, api.socket(), ""));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("CN=checked,OU=clients,O=mongate kit, issued by CN=kit authority"), "{text}");
    assert!(text.contains(&format!("names {ID}")), "{text}");
    assert!(text.contains("answered: mongod accepts the client certificate"), "{text}");

    api.answer(Answer::Denied);
    let (code, text) = check(&options(&mongod, api.socket(), ""));
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("has no certificate for this process: no identity issued"), "{text}");
    assert!(text.contains("-> register this process"), "{text}");

    let absent = api.socket().with_file_name("absent.sock");
    let (code, text) = check(&options(&mongod, &absent, ""));
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("cannot be reached: the socket does not exist"), "{text}");
}

fn options(mongod: &Mongod, socket: &Path, upstream: &str) -> GatewayOptions {
    GatewayOptions {
        upstream_address: mongod.address(),
        upstream: format!("{upstream}\n"),
        upstream_tls: format!("spiffe_socket = 'unix:{}'\n", socket.display()),
        ..GatewayOptions::default()
    }
}

fn start(mongod: &Mongod, socket: &Path, upstream: &str) -> Gateway {
    Gateway::start(&options(mongod, socket, upstream))
}

fn check(options: &GatewayOptions) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), options.configuration()).unwrap();
    let (code, _, all) = gateway::run_to_end(&["check", "--config", file.path().to_str().unwrap()]).unwrap();
    (code, all)
}

fn wanted(common_name: &'static str) -> Wanted {
    Wanted { common_name, names: vec![ID], ..Wanted::default() }
}

fn svid(mongod: &Mongod, wanted: &Wanted) -> Issued {
    mongod.pki.issue(wanted.common_name, wanted).unwrap()
}

fn set(mongod: &Mongod, common_name: &'static str) -> Set {
    Set::of(&mongod.pki, ID, &svid(mongod, &wanted(common_name)))
}

/// Returns a CA certificate that has issued no certificate of mongod.
fn foreign_ca(mongod: &Mongod) -> Vec<u8> {
    let stranger = Wanted { issuer: SignedBy::Itself, ..wanted("stranger") };
    svid(mongod, &stranger).der().0.to_vec()
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

fn says(event: &Value, message: &str) -> bool {
    event["message"] == message
}

fn until_ready(gateway: &Gateway) {
    until("the gateway is ready", || (gateway.get("/readyz").unwrap().status == 200).then_some(()));
}

fn taken(gateway: &Gateway) -> usize {
    gateway.log().iter().filter(|event| says(event, TAKEN)).count()
}

fn wait_taken(gateway: &Gateway, common_name: &str) {
    let subject = format!("CN={common_name},");
    let accept = |event: &Value| says(event, TAKEN) && event["subject"].as_str().unwrap().starts_with(&subject);
    gateway.wait_for_log(LOG_TIMEOUT, accept).unwrap();
}

/// Returns code and message of the error that a client gets.
fn refusal(gateway: &Gateway) -> (i32, String) {
    let refused = gateway.connect().unwrap().command(&ping()).unwrap();
    (refused.get_i32("code").unwrap(), refused.get_str("errmsg").unwrap().to_owned())
}

/// Returns the user that mongod sees on this connection; creates the user first. mongod authenticates the subject of
/// the gateway's client certificate.
fn user_of(mongod: &Arc<Mongod>, connection: &mut Connection, common_name: &str) -> String {
    let user = format!("CN={common_name},OU=clients,O=mongate kit");
    let create = doc! { "createUser": &user, "roles": [], "$db": "$external" };
    let created = mongod.connect().unwrap().command(&create).unwrap();
    let exists = created.get_i32("code").is_ok_and(|code| code == USER_EXISTS);
    assert!(exists || created.get_f64("ok").is_ok_and(|ok| ok > 0.0), "{created}");
    let authenticate = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" };
    connection.run(&authenticate).unwrap().get_str("user").unwrap().to_owned()
}
