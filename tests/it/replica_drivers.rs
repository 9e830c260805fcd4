//! Unmodified drivers in front of a real replica set: they see the members in their real roles, and connect only to the
//! gateway, never to a member.

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

/// A script takes a few seconds; a busy machine may need many more.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(3);

/// Through the gateway to three members, the script prints the same lines as over a direct connection (`drivers.rs`).
#[test]
fn pymongo_works_the_same_with_a_replica_set() {
    check_with_set("python_set", &[], drivers::python);
}

#[test]
fn the_node_driver_works_the_same_with_a_replica_set() {
    check_with_set("node_set", &["exhaust"], drivers::node);
}

#[test]
fn mongosh_works_the_same_with_a_replica_set() {
    check_with_set("mongosh_set", &["concurrent", "exhaust", "gridfs"], drivers::mongosh);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_driver_works_the_same_with_a_replica_set() {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let outcome = rust_script::run(&gateway.set_uri(set.name()), "rust_set").await.unwrap();
    assert_eq!(outcome.lines, drivers::expected_lines(&["exhaust"]));
    set.assert_no_strangers();
}

/// Each driver must see primary, secondaries, tags, passive and hidden members and the arbiter as they are, with and
/// without the set's name in the URI. The Rust driver also connects directly, to prove that the expected lines describe
/// the set and not the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn drivers_see_the_members_in_their_roles() {
    let Some(set) = ReplicaSet::start(set_with_every_kind_of_member()) else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    // A hello reply does not list hidden members.
    let shown: Vec<_> = set.members().into_iter().filter(|member| *member != set.members()[3]).collect();
    let by_member = gateway.await_members(&shown);
    // Without the set's name, Node and other drivers cannot start from an arbiter, which may be the first by name.
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
    // mongosh treats a URI with one address and without the set's name as directConnection=true.
    check_members("mongosh", mongosh_members(&gateway.set_uri(set.name()), "mongosh_named"), Some(&addresses));
    set.assert_no_strangers();
}

/// The other tests rely on this check: a driver that receives the members' real names connects to them, and
/// `strangers` reports it.
#[test]
fn a_driver_that_bypasses_the_gateway_is_detected() {
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

fn check_with_set(database: &str, left_out: &[&str], script: fn(&str, &str) -> Option<Outcome>) {
    let Some(set) = ReplicaSet::shared() else { return };
    let gateway = Gateway::start(&GatewayOptions::to_set(&set));
    let Some(outcome) = script(&gateway.set_uri(set.name()), database) else { return };
    assert_eq!(outcome.lines, drivers::expected_lines(left_out));
    set.assert_no_strangers();
}

fn set_with_every_kind_of_member() -> SetOptions {
    let tags = |zone| vec![("zone", zone)];
    let members = vec![
        MemberOptions { tags: tags("north"), ..MemberOptions::default() },
        // Passive, so that in every run the first member is the primary and this one a secondary.
        MemberOptions { tags: tags("south"), ..MemberOptions::passive() },
        MemberOptions { tags: tags("far"), ..MemberOptions::passive() },
        MemberOptions { tags: tags("dark"), ..MemberOptions::hidden() },
        MemberOptions::arbiter(),
    ];
    // Long enough that a busy machine does not cause an election.
    SetOptions { members, election_timeout: Duration::from_secs(5), ..SetOptions::default() }
}

/// Compares what a driver reports with the expected lines, and its known addresses with the gateway's `addresses`.
fn check_members(driver: &str, lines: Option<Vec<String>>, addresses: Option<&BTreeSet<String>>) {
    let Some(mut lines) = lines else { return };
    let last: Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
    let expected = fs::read_to_string(programs::scripts().join("members.jsonl")).unwrap();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{driver}");
    if let Some(addresses) = addresses {
        let known: BTreeSet<String> = serde_json::from_value(last["all"].clone()).unwrap();
        assert_eq!(known, *addresses, "{driver}");
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
