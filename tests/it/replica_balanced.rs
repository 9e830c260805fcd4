//! Listeners with `topology = "load_balanced"`, which present a whole replica set at one address, and with
//! `topology = "direct"`, which show one member unchanged.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use serde_json::Value;

use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::process;
use crate::kit::raw::{Connection, Received, body_section, op_msg, op_query};
use crate::kit::replica_set::{ReplicaSet, SetOptions};
use crate::kit::waiting;

/// A script takes a few seconds; a busy machine may need many more.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(3);
/// Read preferences other than `primary`, which is the default.
const PREFERENCES: [&str; 4] = ["primaryPreferred", "secondary", "secondaryPreferred", "nearest"];
/// Expected output of the scripts.
pub const EXPECTED: [&str; 5] = [
    r#"{"servers":["LoadBalancer"],"step":"topology"}"#,
    r#"{"count":100,"step":"insert"}"#,
    r#"{"step":"cursors","sums":[[4950,4950,4950,4950],[4950,4950,4950,4950],[4950,4950,4950,4950],[4950,4950,4950,4950]]}"#,
    r#"{"after":2,"inside":2,"outside":0,"step":"transaction"}"#,
    r#"{"ids":[0,1,2],"step":"change_stream"}"#,
];

#[test]
fn drivers_use_the_set_in_load_balanced_mode() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    let uri = format!("{}/?loadBalanced=true", gateway.uri());
    for (name, command) in [("balanced.py", drivers::python()), ("balanced.mjs", drivers::node())] {
        let Some(command) = command else { continue };
        let output = run(name, command, &[&uri, &name.replace('.', "_")]);
        assert_eq!(output.lines().collect::<Vec<_>>(), EXPECTED, "{name}");
    }
    set.assert_no_strangers();
}

/// A driver without `loadBalanced=true` would take one member for the whole set. Every form of its first hello gets an
/// error with the remedy.
#[test]
fn a_driver_without_load_balanced_true_gets_an_error() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    let hello = doc! { "hello": 1, "$db": "admin" };
    let first_requests = [
        op_msg(5, 0, &[body_section(&hello)]),
        op_msg(5, 0, &[body_section(&doc! { "isMaster": 1, "loadBalanced": false, "$db": "admin" })]),
        op_query(5, "admin.$cmd", -1, &doc! { "ismaster": 1, "helloOk": true }),
    ];
    for request in first_requests {
        let mut connection = gateway.connect().unwrap();
        connection.send(&request).unwrap();
        let reply = connection.reply().unwrap().document;
        assert!(reply.get_str("errmsg").unwrap().contains("loadBalanced=true"), "{reply}");
    }
    let Some(command) = drivers::python() else { return };
    let uri = |parameters| format!("{}/?serverSelectionTimeoutMS=2000{parameters}", gateway.uri());
    let output = run("report.py", command, &[r#"{"ping": 1, "$db": "admin"}"#, &uri(""), &uri("&replicaSet=rs0")]);
    for line in output.lines() {
        let report: Value = serde_json::from_str(line).unwrap();
        assert_eq!(report["kind"], "ServerSelectionTimeoutError", "{report}");
        assert!(report["message"].as_str().unwrap().contains("loadBalanced=true; add it to the URI"), "{report}");
    }
}

#[test]
fn the_read_preference_selects_the_members() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    await_roles(&gateway);
    let primary = BTreeSet::from([set.primary()]);
    let all: BTreeSet<_> = set.members().into_iter().collect();
    let secondaries: BTreeSet<_> = all.difference(&primary).cloned().collect();
    for (listener, expected) in [
        ("test", &primary),
        ("primaryPreferred", &primary),
        ("secondary", &secondaries),
        ("secondaryPreferred", &secondaries),
        ("nearest", &all),
    ] {
        let used = (0..9).map(|_| member_of(&mut greet(&gateway, listener)));
        assert_eq!(used.collect::<BTreeSet<_>>(), *expected, "{listener}");
    }
}

/// A hello reply has no member names. It has a `serviceId`, which differs from member to member.
#[test]
fn replies_have_a_service_id_and_no_member_names() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    await_roles(&gateway);
    let services = |listener: &str| {
        let one = |_| {
            let mut connection = connect(&gateway, listener);
            let hello = connection.run(&doc! { "hello": 1, "loadBalanced": true, "$db": "admin" }).unwrap();
            for field in ["hosts", "passives", "arbiters", "primary", "me"] {
                assert!(!hello.contains_key(field), "{hello}");
            }
            (member_of(&mut connection), hello.get_object_id("serviceId").unwrap())
        };
        (0..6).map(one).collect::<BTreeSet<_>>()
    };
    let by_member = services("nearest");
    let members: BTreeSet<_> = by_member.iter().map(|(member, _)| member).collect();
    let ids: BTreeSet<_> = by_member.iter().map(|(_, id)| id).collect();
    assert_eq!((members.len(), ids.len()), (3, 3), "{by_member:?}");
    // A member keeps its id while the gateway runs.
    assert!(services("test").is_subset(&by_member));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_go_to_the_new_primary_and_old_ones_close() {
    let Some(set) = ReplicaSet::start(SetOptions::default()) else { return };
    let gateway = Gateway::start(&balanced(&set));
    let uri = format!("{}/?loadBalanced=true&w=majority", gateway.uri());
    let client = Client::with_uri_str(uri).await.unwrap();
    let collection = client.database("moves").collection::<Document>("c");
    collection.insert_one(doc! { "_id": 0 }).await.unwrap();
    let mut idle = greet(&gateway, "test");
    let before = set.primary();
    assert_eq!(member_of(&mut idle), before);
    let after = set.step_down().unwrap();
    gateway.await_primary(&after);
    assert_eq!(member_of(&mut greet(&gateway, "test")), after);
    // It is on a member that is no longer the primary, and waits for no reply: the gateway closes it.
    assert!(matches!(idle.receive().unwrap(), Received::Closed(bytes) if bytes.is_empty()));
    // As documented: one write may use another such connection and fail. The next write must not.
    let mut failures = 0;
    for id in 1..50 {
        while let Err(error) = collection.insert_one(doc! { "_id": id }).await {
            failures += 1;
            assert!(failures < 3, "{error}");
            if error.to_string().contains("E11000") {
                break;
            }
        }
    }
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 50);
    set.assert_no_strangers();
}

#[test]
fn a_direct_listener_shows_one_member_unchanged() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    let first = set.members().remove(0);
    let mut direct = connect(&gateway, "direct");
    let hello = direct.run(&doc! { "hello": 1, "$db": "admin" }).unwrap();
    let own = set.run(&first, &doc! { "hello": 1, "$db": "admin" }).unwrap();
    for field in ["me", "hosts", "primary", "setName"] {
        assert_eq!(hello.get(field), own.get(field), "{field}");
    }
    let Some(command) = drivers::python() else { return };
    let address = gateway.address_of("direct").unwrap();
    let uri = format!("mongodb://{address}/?directConnection=true&readPreference=secondaryPreferred");
    let output = run("report.py", command, &[r#"{"count": "c", "$db": "direct"}"#, &uri]);
    let report: Value = serde_json::from_str(output.trim()).unwrap();
    assert_eq!(report["kind"], "", "{report}");
    set.assert_no_strangers();
}

/// The listener `test` for the primary, one listener per other read preference with its name, and one with
/// `topology = "direct"`.
fn balanced(set: &ReplicaSet) -> GatewayOptions {
    let listener = "topology = \"load_balanced\"\n".to_owned();
    let mut options = GatewayOptions { listener, ..GatewayOptions::to_set(set) };
    for preference in PREFERENCES {
        let head = format!("[listener.{}]\naddress = \"127.0.0.1:0\"\nupstream = \"test\"", preference.to_lowercase());
        writeln!(options.tables, "{head}\ntopology = \"load_balanced\"\nread_preference = \"{preference}\"").unwrap();
    }
    options.tables += "[listener.direct]\naddress = \"127.0.0.1:0\"\nupstream = \"test\"\ntopology = \"direct\"\n";
    options
}

/// Waits until the gateway knows the role of each of the three members.
fn await_roles(gateway: &Gateway) {
    waiting::until("the gateway knows a primary and two secondaries", || {
        let status = gateway.status().ok()?;
        let members = status["upstreams"][0]["set"]["members"].as_array()?;
        let count = |state: &str| members.iter().filter(|member| member["state"] == state).count();
        (count("primary") == 1 && count("secondary") == 2).then_some(())
    });
}

fn connect(gateway: &Gateway, listener: &str) -> Connection {
    Connection::plain(&gateway.address_of(&listener.to_lowercase()).unwrap()).unwrap()
}

/// Opens a connection and sends hello, as a driver does.
fn greet(gateway: &Gateway, listener: &str) -> Connection {
    let mut connection = connect(gateway, listener);
    connection.run(&doc! { "hello": 1, "loadBalanced": true, "$db": "admin" }).unwrap();
    connection
}

/// Returns the real name of the member that this connection uses.
fn member_of(connection: &mut Connection) -> String {
    let status = connection.run(&doc! { "serverStatus": 1, "$db": "admin" }).unwrap();
    status.get_document("repl").unwrap().get_str("me").unwrap().to_owned()
}

/// Runs a script of `tests/drivers` and returns what it prints.
pub fn run(name: &str, mut command: Command, arguments: &[&str]) -> String {
    command.arg(drivers::scripts().join(name)).args(arguments);
    process::run(name, command, SCRIPT_TIMEOUT).unwrap()
}
