//! Unmodified drivers and a real replica set: they stay on the gateway, see its members as they are, and never come near
//! one of them themselves.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::drivers;
use crate::kit::drivers as programs;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::process;
use crate::kit::replica_set::{MemberOptions, ReplicaSet, SetOptions};
use crate::replica_balanced;
use crate::rust_members;
use crate::rust_script;
use crate::rust_script::Outcome;

/// A script takes a few seconds; a busy machine may need many.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(3);

/// The whole script, which is compared with a direct connection elsewhere, gives the same in front of three members.
#[test]
fn a_set_makes_no_difference_to_pymongo() {
    with_set("python_set", &[], drivers::python);
}

#[test]
fn a_set_makes_no_difference_to_the_node_driver() {
    with_set("node_set", &["exhaust"], drivers::node);
}

#[test]
fn a_set_makes_no_difference_to_mongosh() {
    with_set("mongosh_set", &["concurrent", "exhaust", "gridfs"], drivers::mongosh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_makes_no_difference_to_the_rust_driver() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let outcome = rust_script::run(&gateway.set_uri(set.name()), "rust_set").await.unwrap();
    assert_eq!(outcome.lines, drivers::expected_lines(&["exhaust"]));
    set.assert_no_strangers();
}

/// Primary, secondaries, tags, passive, hidden and arbiter, as each driver sees them, with the set's name in the URI and
/// without; and the same directly, so that it is the set that is so and not the gateway that makes it so.
#[tokio::test(flavor = "multi_thread")]
async fn drivers_see_the_members_as_they_are() {
    let Some(set) = ReplicaSet::start(set_of_every_kind()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    // The hidden one is told to nobody.
    let shown: Vec<_> = set.members().into_iter().filter(|member| *member != set.members()[3]).collect();
    let by_member = gateway.await_members(&shown);
    // Without the set's name, Node and others cannot begin at an arbiter, which may well be the first by name.
    let unnamed = format!("mongodb://{}/?", by_member[&set.primary()]);
    let addresses = by_member.into_values().collect();
    let direct = set.uri().unwrap();
    check_members("rust_direct", Some(rust_members::run(&direct, "rust_direct").await.unwrap()), None);
    for (name, uri) in [("named", gateway.set_uri(set.name())), ("unnamed", unnamed)] {
        let rust = format!("rust_{name}");
        check_members(&rust, Some(rust_members::run(&uri, &rust).await.unwrap()), Some(&addresses));
        check_members(name, python_members(&uri, &format!("python_{name}")), Some(&addresses));
        check_members(name, node_members(&uri, &format!("node_{name}")), Some(&addresses));
    }
    // mongosh takes a URI of one address without a set's name as directConnection=true.
    check_members("mongosh", mongosh_members(&gateway.set_uri(set.name()), "mongosh_named"), Some(&addresses));
    set.assert_no_strangers();
}

/// What the others rely on: a driver that is told the members' names goes to them, and is seen there.
#[test]
fn a_driver_that_is_led_past_the_gateway_is_seen() {
    let one = SetOptions { members: vec![MemberOptions::default()], ..SetOptions::default() };
    let Some(set) = ReplicaSet::start(one) else { return };
    let listener = "topology = \"direct\"\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { listener, ..GatewayOptions::to_set(&set) });
    let Some(command) = programs::python() else { return };
    let uri = format!("{}&serverSelectionTimeoutMS=2000", gateway.set_uri(set.name()));
    let output = replica_balanced::run("report.py", command, &[r#"{"ping": 1, "$db": "admin"}"#, &uri]);
    assert!(output.contains("ServerSelectionTimeoutError"), "{output}");
    assert!(!set.strangers().is_empty());
}

fn with_set(database: &str, left_out: &[&str], script: fn(&str, &str) -> Option<Outcome>) {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let Some(outcome) = script(&gateway.set_uri(set.name()), database) else { return };
    assert_eq!(outcome.lines, drivers::expected_lines(left_out));
    set.assert_no_strangers();
}

fn set_of_every_kind() -> SetOptions {
    let tags = |zone| vec![("zone", zone)];
    let members = vec![
        MemberOptions { tags: tags("north"), ..MemberOptions::default() },
        // Passive, so that the first one is primary and this one a secondary in every run.
        MemberOptions { tags: tags("south"), ..MemberOptions::passive() },
        MemberOptions { tags: tags("far"), ..MemberOptions::passive() },
        MemberOptions { tags: tags("dark"), ..MemberOptions::hidden() },
        MemberOptions::arbiter(),
    ];
    // There is to be no other primary, however busy the machine is.
    SetOptions { members, election_timeout: Duration::from_secs(5), ..SetOptions::default() }
}

/// What a driver says is what there is, and it knows of no address but the gateway's.
fn check_members(who: &str, lines: Option<Vec<String>>, addresses: Option<&BTreeSet<String>>) {
    let Some(mut lines) = lines else { return };
    let last: Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
    let expected = fs::read_to_string(programs::scripts().join("members.jsonl")).unwrap();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{who}");
    if let Some(addresses) = addresses {
        let known: BTreeSet<String> = serde_json::from_value(last["all"].clone()).unwrap();
        assert_eq!(known, *addresses, "{who}");
    }
}

fn python_members(uri: &str, database: &str) -> Option<Vec<String>> {
    let mut command = programs::python()?;
    command.arg(programs::scripts().join("members.py")).args([uri, database]);
    Some(lines_of("members.py", command))
}

fn node_members(uri: &str, database: &str) -> Option<Vec<String>> {
    let mut command = programs::node()?;
    command.arg(programs::scripts().join("members.mjs")).args([uri, database]);
    Some(lines_of("members.mjs", command))
}

fn mongosh_members(uri: &str, database: &str) -> Option<Vec<String>> {
    let mut command = programs::mongosh()?;
    command.env("URI", uri).env("DATABASE", database).args(["--quiet", "--norc", uri, "--file"]);
    command.arg(programs::scripts().join("members.mongosh.js"));
    Some(lines_of("members.mongosh.js", command))
}

fn lines_of(name: &str, command: Command) -> Vec<String> {
    process::run(name, command, SCRIPT_TIMEOUT).unwrap().lines().map(str::to_owned).collect()
}
