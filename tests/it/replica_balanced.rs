//! A whole set behind one address, for clients that take it for a load balancer; and one member as it is.

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

/// A script takes a few seconds; a busy machine may need many.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(3);
/// Each other one than `primary`, which is the default.
const PREFERENCES: [&str; 4] = ["primaryPreferred", "secondary", "secondaryPreferred", "nearest"];
/// What the scripts print.
pub const EXPECTED: [&str; 5] = [
    r#"{"servers":["LoadBalancer"],"step":"topology"}"#,
    r#"{"count":100,"step":"insert"}"#,
    r#"{"step":"cursors","sums":[[4950,4950,4950,4950],[4950,4950,4950,4950],[4950,4950,4950,4950],[4950,4950,4950,4950]]}"#,
    r#"{"after":2,"inside":2,"outside":0,"step":"transaction"}"#,
    r#"{"ids":[0,1,2],"step":"change_stream"}"#,
];

#[test]
fn drivers_take_the_set_for_a_load_balancer() {
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

/// A driver that is not told would take a part for the whole: it hears what to do about it, whichever words it begins with.
#[test]
fn who_does_not_know_of_the_load_balancer_is_told() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    let hello = doc! { "hello": 1, "$db": "admin" };
    let first_words = [
        op_msg(5, 0, &[body_section(&hello)]),
        op_msg(5, 0, &[body_section(&doc! { "isMaster": 1, "loadBalanced": false, "$db": "admin" })]),
        op_query(5, "admin.$cmd", -1, &doc! { "ismaster": 1, "helloOk": true }),
    ];
    for words in first_words {
        let mut connection = gateway.connect().unwrap();
        connection.send(&words).unwrap();
        let told = connection.reply().unwrap().document;
        assert!(told.get_str("errmsg").unwrap().contains("loadBalanced=true"), "{told}");
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
fn a_read_preference_says_which_members_are_used() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    await_parts(&gateway);
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

/// What the gateway says in the members' place: nothing of them, and for each another name.
#[test]
fn replies_name_a_service_and_no_member() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&balanced(&set));
    await_parts(&gateway);
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
    let names: BTreeSet<_> = by_member.iter().map(|(_, name)| name).collect();
    assert_eq!((members.len(), names.len()), (3, 3), "{by_member:?}");
    // The name of a member is its name for as long as the gateway runs.
    assert!(services("test").is_subset(&by_member));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_follow_the_primary_and_old_ones_go() {
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
    // It was on a member that is primary no longer, and had nothing to wait for.
    assert!(matches!(idle.receive().unwrap(), Received::Closed(bytes) if bytes.is_empty()));
    // As the documentation has it: a write may meet one more of these connections, and no write may meet the next.
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

/// One member, and nothing of what it says is changed.
#[test]
fn direct_is_one_member_as_it_is() {
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

/// The listener `test` for the primary, one named after each other preference, and one that is direct.
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

/// Waits until the gateway knows what each of the three members is.
fn await_parts(gateway: &Gateway) {
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

/// A connection that has begun as a driver's does.
fn greet(gateway: &Gateway, listener: &str) -> Connection {
    let mut connection = connect(gateway, listener);
    connection.run(&doc! { "hello": 1, "loadBalanced": true, "$db": "admin" }).unwrap();
    connection
}

/// The member at the other end, by its real name.
fn member_of(connection: &mut Connection) -> String {
    let status = connection.run(&doc! { "serverStatus": 1, "$db": "admin" }).unwrap();
    status.get_document("repl").unwrap().get_str("me").unwrap().to_owned()
}

/// Runs a script of `tests/drivers` and returns what it prints.
pub fn run(name: &str, mut command: Command, arguments: &[&str]) -> String {
    command.arg(drivers::scripts().join(name)).args(arguments);
    process::run(name, command, SCRIPT_TIMEOUT).unwrap()
}
