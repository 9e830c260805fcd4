//! Members from DNS seed lists (SRV and TXT records). The tests run their own name server on port 53 of a network
//! namespace.

use bson::{Document, doc};
use serde_json::Value;

use crate::drivers;
use crate::kit::certificates::First;
use crate::kit::drivers as programs;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod_binary;
use crate::kit::name_server::NameServer;
use crate::kit::namespace;
use crate::kit::namespace::Namespace;
use crate::kit::provision;
use crate::kit::raw::{body_section, op_msg};
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::kit::waiting::until;
use crate::reports;

const NAME: &str = "cluster.example.test";
const HOSTS: [(&str, &[&str]); 3] = [
    ("mongo-0.example.test", &["10.217.1.1"]),
    ("mongo-1.example.test", &["10.217.1.2"]),
    ("mongo-2.example.test", &["10.217.1.3"]),
];
const SERVICES: [(&str, u16); 3] =
    [("mongo-0.example.test", 27017), ("Mongo-1.Example.Test", 27017), ("mongo-2.example.test", 27017)];
/// `EX_UNAVAILABLE`: `mongate check` cannot use an upstream.
const EXIT_UNAVAILABLE: Option<i32> = Some(69);

#[test]
fn members_come_from_the_same_dns_records_that_drivers_use() {
    if programs::python().is_none() || !has_mongod() {
        return;
    }
    namespace::inside("srv::members_come_from_the_same_dns_records_that_drivers_use", |namespace| {
        let (dns, set) = start(namespace);
        dns.set_services(NAME, 300, &SERVICES);
        dns.set_texts(NAME, &["authSource=admin&replicaSet=rs0"]);
        // A driver accepts the same records.
        let client = set.client.combined(First::Certificate).unwrap();
        let files = format!("tlsCAFile={}&tlsCertificateKeyFile={}", set.pki.ca_file().display(), client.display());
        let direct = format!("mongodb+srv://{NAME}/?{files}");
        let reported = reports::of_pymongo(&ping(), &[direct]).unwrap();
        assert_eq!(reported[0].kind, "", "{reported:?}");

        let gateway = Gateway::start(&options(&set));
        gateway.await_members(&set.members());
        assert_eq!(gateway.status().unwrap()["upstreams"][0]["set"]["name"], "rs0");
        let outcome = drivers::python(&gateway.set_uri("rs0"), "from_dns").unwrap();
        assert_eq!(outcome.lines, drivers::expected_lines(&[]));
        set.assert_no_strangers();

        let (code, report) = options(&set).check(&[]).unwrap();
        assert_eq!(code, Some(0), "{report}");
        assert!(report.contains("mongo-1.example.test:27017"), "{report}");
        assert!(dns.questions() >= 4, "SRV and TXT, for the gateway and for `mongate check`");
    });
}

#[test]
fn invalid_dns_records_give_no_members_until_they_are_corrected() {
    if !has_mongod() {
        return;
    }
    namespace::inside("srv::invalid_dns_records_give_no_members_until_they_are_corrected", |namespace| {
        let (dns, set) = start(namespace);
        dns.set_services(NAME, 300, &[SERVICES[0], ("mongo-1.evil.test", 27017)]);
        let gateway = Gateway::start(&options(&set));
        let sentence = "an SRV record at _mongodb._tcp.cluster.example.test names mongo-1.evil.test, which is not \
                        within example.test";
        let problem = || gateway.status().ok()?["upstreams"][0]["set"]["problem"].as_str().map(str::to_owned);
        assert_eq!(until("/status shows the problem", problem), sentence);
        let warned = |event: &Value| event["message"] == "seed list lookup failed";
        let warned = gateway.wait_for_log(reports::LOG_TIMEOUT, warned).unwrap();
        assert!(warned["remedy"].as_str().unwrap().contains("upstream.test.members"), "{warned}");
        let ready = gateway.get("/readyz").unwrap();
        assert!(ready.status == 503 && ready.body.contains(sentence), "{}", ready.body);
        assert_eq!(refusal(&gateway).get_i32("code").unwrap(), 6);

        // `mongate check` reports each kind of invalid record.
        let check = |says: &str| {
            let (code, report) = options(&set).check(&[]).unwrap();
            assert_eq!(code, EXIT_UNAVAILABLE, "{report}");
            assert!(report.contains(says), "{says}: {report}");
        };
        check("which is not within example.test");
        dns.set_services(NAME, 300, &[]);
        check("there is no SRV record at _mongodb._tcp.cluster.example.test");
        dns.set_services(NAME, 300, &SERVICES);
        dns.set_texts(NAME, &["replicaSet=rs0", "replicaSet=rs1"]);
        check("there are 2 TXT records at cluster.example.test; only one is allowed");
        dns.set_texts(NAME, &["replicaSet=rs0&tls=false"]);
        check("the TXT record at cluster.example.test contains the option tls, which is not allowed there");
        namespace.name_server(Some("127.0.0.2")).unwrap();
        check("the SRV records at _mongodb._tcp.cluster.example.test");
        namespace.name_server(None).unwrap();
        check("cannot be looked up: this host has no name server configured");
        namespace.name_server(Some("127.0.0.1")).unwrap();

        // The corrected records take effect without a restart.
        dns.set_texts(NAME, &["replicaSet=rs0"]);
        gateway.await_members(&set.members());
        until("the gateway is ready", || (gateway.get("/readyz").ok()?.status == 200).then_some(()));
        gateway.connect().unwrap().run(&ping()).unwrap();
        assert!(gateway.status().unwrap()["upstreams"][0]["set"]["problem"].is_null());
    });
}

fn has_mongod() -> bool {
    provision::or_skip("a real mongod", mongod_binary::locate()).is_some()
}

/// Starts a set with names in the domain, and a name server without records.
fn start(namespace: &Namespace) -> (NameServer, ReplicaSet) {
    namespace.hosts(&HOSTS).unwrap();
    namespace.name_server(Some("127.0.0.1")).unwrap();
    let dns = NameServer::start("127.0.0.1:53").unwrap();
    let members = HOSTS.iter().map(|(host, _)| MemberOptions::at(host)).collect();
    (dns, ReplicaSet::start(SetOptions { members, ..SetOptions::default() }).unwrap())
}

fn options(set: &ReplicaSet) -> GatewayOptions {
    let upstream = format!("srv = {NAME:?}\nconnect_timeout = \"2s\"\n");
    GatewayOptions { upstream_members: Vec::new(), upstream, ..GatewayOptions::to_set(set) }
}

fn refusal(gateway: &Gateway) -> Document {
    let mut connection = gateway.connect().unwrap();
    connection.send(&op_msg(1, 0, &[body_section(&ping())])).unwrap();
    connection.reply().unwrap().document
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
