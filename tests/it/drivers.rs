//! Unmodified drivers: a script gives the same results over TLS to mongod and in plaintext through the gateway. The
//! gateway counts exactly the commands that the driver reports.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;

use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, Role};
use crate::kit::process;
use crate::kit::scratch;
use crate::rust_script;
use crate::rust_script::Outcome;

/// A script takes a few seconds; a busy machine needs longer.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(3);
/// Steps that need a replica set.
const REPLICA_SET_STEPS: [&str; 2] = ["change_stream", "transaction"];

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_driver_sees_no_difference() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let gateway = Gateway::to(&mongod);
    let direct = rust_script::run(&mongod.uri().unwrap(), "rust_direct").await.unwrap();
    let through = rust_script::run(&format!("{}/?directConnection=true", gateway.uri()), "rust_gateway").await.unwrap();
    check(&direct, &through, &["exhaust"]);
    check_counted(&gateway, &through);
}

#[test]
fn pymongo_sees_no_difference() {
    compare("python", python, "directConnection=true", &[]);
}

#[test]
fn the_node_driver_sees_no_difference_even_when_it_asks_for_compression() {
    compare("node", node, "directConnection=true&compressors=zlib", &["exhaust"]);
}

#[test]
fn mongosh_sees_no_difference() {
    compare("mongosh", mongosh, "directConnection=true", &["concurrent", "exhaust", "gridfs"]);
}

/// The purpose of the gateway: an unmodified application with the URI `mongodb://127.0.0.1:PORT` uses a mongod that
/// requires mutual TLS, and the gateway counts each of its commands by name.
#[test]
fn pymongo_needs_nothing_but_the_address() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    assert_eq!(gateway.uri(), format!("mongodb://{}", gateway.address()));
    let Some(outcome) = python(&gateway.uri(), "python_plain") else { return };
    for command in ["insert", "find", "getMore", "update", "delete", "aggregate", "endSessions"] {
        assert!(outcome.commands.contains_key(command), "the script sent no {command}");
    }
    check_steps(&outcome, &REPLICA_SET_STEPS);
    check_counted(&gateway, &outcome);
}

#[test]
fn pymongo_reaches_a_unix_socket() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("socket").unwrap();
    let socket = format!("unix:{}", directory.path().join("mongodb-27017.sock").display());
    let gateway = Gateway::start(&GatewayOptions { listener_address: Some(socket), ..GatewayOptions::to(&mongod) });
    let Some(outcome) = python(&gateway.uri(), "python_unix") else { return };
    check_steps(&outcome, &REPLICA_SET_STEPS);
    check_counted(&gateway, &outcome);
}

#[tokio::test]
async fn a_driver_retries_a_write_when_its_connection_is_lost() {
    let test_commands = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let options = MongodOptions { role: Role::ReplicaSet, arguments: test_commands, ..MongodOptions::default() };
    let Some(mongod) = Mongod::start(options) else { return };
    let gateway = Gateway::to(&mongod);
    // After a shutdown error a driver waits for its next heartbeat, with and without a gateway.
    let parameters = "directConnection=true&heartbeatFrequencyMS=500";
    let client = Client::with_uri_str(format!("{}/?{parameters}", gateway.uri())).await.unwrap();
    let collection = client.database("retry").collection::<Document>("c");
    collection.insert_one(doc! { "_id": 0 }).await.unwrap();
    for (command, closes) in [("insert", true), ("find", true), ("insert", false)] {
        // On the next such command mongod closes the connection, or replies with a shutdown error.
        let failure = if closes {
            doc! { "failCommands": [command], "closeConnection": true }
        } else {
            doc! { "failCommands": [command], "errorCode": 11_600, "errorLabels": ["RetryableWriteError"] }
        };
        let point =
            doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": failure, "$db": "admin" };
        mongod.run(&point).unwrap();
        if command == "find" {
            assert!(collection.find_one(doc! { "_id": 0 }).await.unwrap().is_some());
        } else {
            collection.insert_one(doc! { "closes": closes }).await.unwrap();
        }
    }
    // Each write took effect once, although the driver sent it twice.
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 3);
}

/// Runs a script directly and through a gateway in front of a replica set with one member.
fn compare(name: &str, script: fn(&str, &str) -> Option<Outcome>, parameters: &str, left_out: &[&str]) {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    compare_through(&Gateway::to(&mongod), name, script, parameters, left_out);
}

/// Runs a script directly and through this gateway, which is in front of the shared replica set.
pub fn compare_through(
    gateway: &Gateway,
    name: &str,
    script: fn(&str, &str) -> Option<Outcome>,
    parameters: &str,
    left_out: &[&str],
) {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let direct = format!("{}&{parameters}", mongod.uri().unwrap().replace("directConnection=true&", ""));
    let Some(direct) = script(&direct, &format!("{name}_direct")) else { return };
    let through = format!("{}/?{parameters}", gateway.uri());
    let Some(through) = script(&through, &format!("{name}_gateway")) else { return };
    check(&direct, &through, left_out);
    check_counted(gateway, &through);
    let silent = [("command", "insert"), ("outcome", "unacknowledged")];
    assert!(is_count(gateway.metric("mongate_commands_total", &silent), 101));
}

/// Runs this driver's script in a database. Returns `None` if the driver is not installed.
pub fn python(uri: &str, database: &str) -> Option<Outcome> {
    python_with(uri, database, |command| command)
}

/// As [`python`], with the command line changed by `wrap`.
pub fn python_with(uri: &str, database: &str, wrap: impl FnOnce(Command) -> Command) -> Option<Outcome> {
    let mut command = drivers::python()?;
    command.arg(drivers::scripts().join("script.py")).args([uri, database]);
    Some(outcome_of("script.py", wrap(command)))
}

/// Runs this driver's script in a database. Returns `None` if the driver is not installed.
pub fn node(uri: &str, database: &str) -> Option<Outcome> {
    let mut command = drivers::node()?;
    command.arg(drivers::scripts().join("script.mjs")).args([uri, database]);
    Some(outcome_of("script.mjs", command))
}

/// Runs this driver's script in a database. Returns `None` if the driver is not installed.
pub fn mongosh(uri: &str, database: &str) -> Option<Outcome> {
    let mut command = drivers::mongosh()?;
    command.env("URI", uri).env("DATABASE", database).args(["--quiet", "--norc", uri, "--file"]);
    command.arg(drivers::scripts().join("script.mongosh.js"));
    Some(outcome_of("script.mongosh.js", command))
}

fn outcome_of(name: &str, command: Command) -> Outcome {
    let output = process::run(name, command, SCRIPT_TIMEOUT).unwrap();
    let mut outcome = Outcome::default();
    for line in output.lines() {
        if step_of(line) == "commands" {
            let mut counts: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            counts.remove("step");
            outcome.commands = counts.into_iter().map(|(name, count)| (name, count.as_u64().unwrap())).collect();
        } else {
            outcome.lines.push(line.to_owned());
        }
    }
    outcome
}

fn check(direct: &Outcome, through: &Outcome, left_out: &[&str]) {
    assert_eq!(direct.lines, through.lines, "the results through the gateway differ");
    check_steps(through, left_out);
}

/// Every step ran, except those that this driver or this mongod leaves out.
fn check_steps(outcome: &Outcome, left_out: &[&str]) {
    assert_eq!(outcome.lines, expected_lines(left_out));
}

/// The expected lines of the script, without the steps in `left_out`.
pub fn expected_lines(left_out: &[&str]) -> Vec<String> {
    let expected = fs::read_to_string(drivers::scripts().join("expected.jsonl")).unwrap();
    expected.lines().filter(|line| !left_out.contains(&step_of(line).as_str())).map(str::to_owned).collect()
}

#[track_caller]
fn check_counted(gateway: &Gateway, outcome: &Outcome) {
    for (command, count) in &outcome.commands {
        let label = match command.as_str() {
            // Monitoring connections send hello too, and the driver does not report those.
            "hello" => continue,
            "noSuchCommand" => "other",
            known => known,
        };
        let labels = [("listener", "test"), ("command", label)];
        gateway.await_metric("mongate_commands_total", &labels, |counted| is_count(counted, *count));
    }
    if outcome.commands.contains_key("noSuchCommand") {
        let refused = [("command", "other"), ("outcome", "error")];
        assert!(is_count(gateway.metric("mongate_commands_total", &refused), 1));
        let not_found = [("listener", "test"), ("code_name", "CursorNotFound")];
        assert!(is_count(gateway.metric("mongate_command_errors_total", &not_found), 1));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test are small")]
fn is_count(value: f64, count: u64) -> bool {
    (value - count as f64).abs() < 0.5
}

fn step_of(line: &str) -> String {
    let facts: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not a step: {line}"));
    facts["step"].as_str().unwrap().to_owned()
}
