//! Transparent interception: drivers connect to the members' own addresses, and the iptables rule of
//! `docs/interception.md` redirects them to the gateway.
//!
//! Each test runs in a network namespace, where the members have the host names and the port that the page uses.

use std::time::Duration;

use bson::{Document, doc};
use serde_json::Value;

use crate::drivers;
use crate::kit::drivers as programs;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod_binary;
use crate::kit::namespace;
use crate::kit::namespace::Namespace;
use crate::kit::raw::{Connection, body_section, op_msg};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::kit::waiting::until;
use crate::rust_script::Outcome;

const LOG_TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough that no election happens unless a test asks for one.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The listener address of the page.
const LISTENER: &str = "127.0.0.1:15017";
const HOSTS: [(&str, &[&str]); 3] = [
    ("mongo-0.mongo", &["10.217.0.1", "fd00:217::1"]),
    ("mongo-1.mongo", &["10.217.0.2"]),
    ("mongo-2.mongo", &["10.217.0.3"]),
];

#[test]
fn pymongo_reaches_every_member_by_its_own_host_name() {
    if programs::python().is_none() || !has_mongod() {
        return;
    }
    namespace::inside("intercept::pymongo_reaches_every_member_by_its_own_host_name", |namespace| {
        let set = start_set(namespace);
        let gateway = start_gateway(&set, "");
        redirect(namespace, &rule());
        let uri = "mongodb://mongo-0.mongo:27017/?replicaSet=rs0";
        let outcome = python(uri, "intercepted");
        assert_eq!(outcome.lines, drivers::expected_lines(&[]));
        // The gateway rewrites no hello reply: clients can use the members' own names.
        let mut hosts = Vec::new();
        for (host, _) in HOSTS {
            let hello = connect(&format!("{host}:27017")).unwrap().run(&hello()).unwrap();
            assert_eq!(hello.get_str("me").unwrap(), format!("{host}:27017"), "another member answered");
            hosts = hello.get_array("hosts").unwrap().clone();
        }
        assert_eq!(hosts, ["mongo-0.mongo:27017", "mongo-1.mongo:27017", "mongo-2.mongo:27017"].map(Into::into));
        // All plaintext connections went to the gateway; only the gateway's own reached the members.
        set.assert_no_strangers();

        // The driver also follows an election.
        let primary = set.step_down().unwrap();
        gateway.await_primary(&primary);
        let outcome = python(uri, "intercepted_again");
        assert_eq!(outcome.lines, drivers::expected_lines(&[]));
    });
}

#[test]
fn each_original_address_leads_to_its_member_over_ipv4_and_ipv6() {
    if !has_mongod() {
        return;
    }
    namespace::inside("intercept::each_original_address_leads_to_its_member_over_ipv4_and_ipv6", |namespace| {
        let set = start_set(namespace);
        let second =
            "[listener.six]\naddress = \"[::1]:15017\"\nupstream = \"test\"\nintercept = true\nprincipal = \"CN=six\"";
        let gateway = start_gateway(&set, second);
        redirect(namespace, &rule());
        redirect(namespace, &rule().replace("iptables", "ip6tables"));

        // mongod does not listen on this address. The gateway connects to another address of the same member.
        let six = connect("[fd00:217::1]:27017").unwrap().run(&hello()).unwrap();
        assert_eq!(six.get_str("me").unwrap(), "mongo-0.mongo:27017");
        let closed = gateway.wait_for_log(LOG_TIMEOUT, |event| event["listener"] == "six" && is_closed(event)).unwrap();
        assert_eq!((&closed["outcome"], &closed["principal"]), (&"completed".into(), &"CN=six".into()));

        // No member has this address, but the rule redirects every connection to the port.
        namespace.sh("ip address add 10.217.0.9/32 dev lo").unwrap();
        check_refused("10.217.0.9:27017", "mongate: no member of upstream test has the address 10.217.0.9:27017");
        let refused = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "connection rejected").unwrap();
        assert_eq!(
            (&refused["reason"], &refused["original"]),
            (&"no_member_at_original_address".into(), &"10.217.0.9:27017".into())
        );
        // A client that connects directly has no original address.
        for listener in [LISTENER, "[::1]:15017"] {
            check_refused(listener, "mongate: this address accepts only redirected connections to upstream test");
        }
        let refused = |event: &Value| event["reason"] == "not_redirected";
        let refused = gateway.wait_for_log(LOG_TIMEOUT, refused).unwrap();
        assert!(refused["remedy"].as_str().unwrap().contains("let clients connect to the server itself"), "{refused}");

        // A member that moves is reachable at its new address.
        let moved: Vec<_> = HOSTS.iter().filter(|(host, _)| *host != "mongo-2.mongo").copied().collect();
        namespace.hosts(&[&moved[..], &[("mongo-2.mongo", &["10.217.0.3", "10.217.0.9"])]].concat()).unwrap();
        until("the new address is known", || {
            let hello = connect("10.217.0.9:27017").ok()?.run(&hello()).ok()?;
            assert_eq!(hello.get_str("me").unwrap(), "mongo-2.mongo:27017");
            Some(())
        });
        set.assert_no_strangers();
    });
}

/// Without its exception the rule redirects the gateway's connections to itself. It must log this and must not loop.
#[test]
fn a_gateway_whose_own_connections_are_redirected_to_itself_logs_it_and_does_not_loop() {
    if !has_mongod() {
        return;
    }
    namespace::inside(
        "intercept::a_gateway_whose_own_connections_are_redirected_to_itself_logs_it_and_does_not_loop",
        |namespace| {
            let set = start_set(namespace);
            let every_user = rule().replace("-m owner ! --uid-owner mongate ", "");
            assert_ne!(every_user, rule());
            redirect(namespace, &every_user);
            let gateway = start_gateway(&set, "");
            let itself = |event: &Value| event["kind"] == "tls" && event["message"] == "connection rejected";
            let refused = gateway.wait_for_log(LOG_TIMEOUT, itself).unwrap();
            let remedy = refused["remedy"].as_str().unwrap();
            assert!(remedy.contains("exclude its user from the iptables rule"), "{remedy}");
            until("the gateway is not ready", || (gateway.get("/readyz").ok()?.status == 503).then_some(()));

            // One client causes a few connections, not an endless number.
            let count = || gateway.metric("mongate_connections_total", &[("listener", "test")]);
            check_refused("mongo-0.mongo:27017", "mongate: ");
            let (before, descriptors) = (count(), gateway.descriptors().unwrap());
            check_refused("mongo-0.mongo:27017", "mongate: ");
            // The gateway's monitors retry every half second, and it sometimes opens spare connections.
            assert!(count() - before < 100.0, "{before} connections, then {}", count());
            assert!(gateway.descriptors().unwrap() < descriptors + 20);

            // With the rule of the page the gateway recovers.
            namespace.sh(&every_user.replace(" -A ", " -D ")).unwrap();
            namespace.sh(&rule()).unwrap();
            until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));
            connect("mongo-0.mongo:27017").unwrap().run(&hello()).unwrap();
        },
    );
}

/// The iptables command of the page, unchanged.
fn rule() -> String {
    let page = include_str!("../../docs/interception.md");
    let lines: Vec<_> = page.lines().filter(|line| line.starts_with("iptables ")).collect();
    let [line] = lines[..] else { panic!("the page has not exactly one iptables command: {lines:?}") };
    line.to_owned()
}

/// Applies a rule. The members and this process run as root and are exempt: in production they run on other hosts.
fn redirect(namespace: &Namespace, rule: &str) {
    let program = rule.split(' ').next().unwrap();
    namespace.sh(&format!("{program} -t nat -I OUTPUT -m owner --uid-owner root -j RETURN")).unwrap();
    namespace.sh(rule).unwrap();
}

/// Runs `PyMongo`'s script as the client user.
fn python(uri: &str, database: &str) -> Outcome {
    drivers::python_with(uri, database, |command| namespace::run_as(namespace::CLIENT, &command).unwrap()).unwrap()
}

/// Connects as the client user.
fn connect(address: &str) -> anyhow::Result<Connection> {
    namespace::as_user(namespace::CLIENT, || Connection::plain(address))
}

fn has_mongod() -> bool {
    crate::kit::provision::or_skip("a real mongod", mongod_binary::locate()).is_some()
}

fn start_set(namespace: &Namespace) -> ReplicaSet {
    namespace.hosts(&HOSTS).unwrap();
    let members = HOSTS.iter().map(|(host, _)| MemberOptions::at(host)).collect();
    ReplicaSet::start(SetOptions { members, election_timeout: ELECTION_TIMEOUT, ..SetOptions::default() }).unwrap()
}

/// Starts the gateway with the listener and the user of the page.
fn start_gateway(set: &ReplicaSet, tables: &str) -> Gateway {
    let options = GatewayOptions {
        listener_address: Some(LISTENER.to_owned()),
        listener: "intercept = true\n".to_owned(),
        tables: tables.to_owned(),
        user: Some(namespace::GATEWAY),
        ..GatewayOptions::to_set(set)
    };
    Gateway::start(&options)
}

fn check_refused(address: &str, says: &str) {
    let mut connection = connect(address).unwrap();
    connection.send(&op_msg(1, 0, &[body_section(&hello())])).unwrap();
    let refusal = connection.reply().unwrap().document;
    assert_eq!(refusal.get_i32("code").unwrap(), 6, "{refusal}");
    assert!(refusal.get_str("errmsg").unwrap().starts_with(says), "{refusal}");
}

fn is_closed(event: &Value) -> bool {
    event["message"] == "connection closed"
}

fn hello() -> Document {
    doc! { "hello": 1, "$db": "admin" }
}
