//! Drivers under an allow list: the whole driver script runs in the databases that the principal may use, with the same
//! results as without a gateway.

use std::collections::BTreeMap;

use bson::doc;
use serde_json::Value;

use crate::drivers::{expected_lines, mongosh, node, python};
use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions, Sample};
use crate::kit::mongod::Mongod;
use crate::kit::process;
use crate::policy_mesh::{Report, SCRIPT_TIMEOUT};
use crate::rust_script;
use crate::rust_script::Outcome;

/// The script provokes these errors. Under an allow list the gateway denies an unknown command and an unknown stage.
const ERRORS_OF_MONGOD: &str =
    r#"{"command":59,"cursor":43,"duplicate":11000,"operator":2,"stage":40324,"step":"errors"}"#;
const ERRORS_UNDER_POLICY: &str =
    r#"{"command":13,"cursor":43,"duplicate":11000,"operator":2,"stage":13,"step":"errors"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_driver_runs_its_script_under_an_allow_list() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let gateway = allowing(&mongod, "policy_rust");
    let outcome = rust_script::run(&uri(&gateway), "policy_rust").await.unwrap();
    check(&gateway, &outcome, &["exhaust"], &[]);
}

#[test]
fn pymongo_runs_its_script_under_an_allow_list() {
    run("policy_python", python, &[], &[]);
}

#[test]
fn the_node_driver_runs_its_script_under_an_allow_list() {
    run("policy_node", node, &["exhaust"], &[]);
}

#[test]
fn mongosh_runs_its_script_under_an_allow_list() {
    // mongosh sends these commands when it starts, and works although they are denied.
    run("policy_mongosh", mongosh, &["concurrent", "exhaust", "gridfs"], &STARTUP_COMMANDS);
}

/// Commands that mongosh sends on its own when it connects, and that an allow list of databases denies.
const STARTUP_COMMANDS: [(&str, &str); 2] = [("aggregate", "2"), ("getParameter", "1")];

#[test]
fn mongosh_reads_and_is_denied_writes_under_a_read_only_policy() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let name = "policy_shell";
    for collection in ["menu", "orders"] {
        mongod.run(&doc! { "insert": collection, "documents": [{ "n": 1 }], "$db": name }).unwrap();
    }
    let gateway = with_rules(
        &mongod,
        &format!("to = [{{ commands = ['@read'], databases = ['{name}'] }}, {{ commands = ['whatsmyuri'] }}]"),
    );
    let Some(mut shell) = drivers::mongosh() else { return };
    let uri = format!("{}&maxPoolSize=1", uri(&gateway));
    shell
        .env("DATABASE", name)
        .args(["--quiet", "--norc", &uri, "--file"])
        .arg(drivers::scripts().join("refused.mongosh.js"));
    let output = process::run("refused.mongosh.js", shell, SCRIPT_TIMEOUT).unwrap();
    let report: Report = serde_json::from_str(output.trim()).unwrap();
    assert_eq!((report.orders, report.rows, report.same), (Some(1), Some(1), Some(true)), "{output}");
    let insert = report.insert.expect("the insert was denied");
    assert_eq!((insert.code, insert.code_name.as_deref()), (Some(13), Some("Unauthorized")), "{output}");
    assert_eq!(mongod.run(&doc! { "count": "kept", "$db": name }).unwrap().get_i32("n").unwrap(), 0);
}

fn run(name: &str, script: fn(&str, &str) -> Option<Outcome>, left_out: &[&str], also_denied: &[(&str, &str)]) {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let gateway = allowing(&mongod, name);
    let Some(outcome) = script(&uri(&gateway), name) else { return };
    check(&gateway, &outcome, left_out, also_denied);
}

/// Allows everything in the two databases that the script uses, and `listDatabases`, whose reply it compares.
fn allowing(mongod: &Mongod, name: &str) -> Gateway {
    let databases =
        format!("{{ commands = ['@read', '@write', '@ddl', '@session'], databases = ['{name}', '{name}_other'] }}");
    with_rules(mongod, &format!("to = [{databases}, {{ commands = ['listDatabases'] }}]"))
}

fn with_rules(mongod: &Mongod, to: &str) -> Gateway {
    let principal = "cluster.local/ns/shop/sa/script";
    let rule = format!(
        "[[policy.rule]]\nname = 'script'\naction = 'allow'\nfrom = [{{ principals = ['{principal}'] }}]\n{to}\n"
    );
    Gateway::start(&GatewayOptions {
        listener: format!("principal = '{principal}'\n"),
        tables: rule,
        ..GatewayOptions::to(mongod)
    })
}

fn uri(gateway: &Gateway) -> String {
    format!("{}/?directConnection=true", gateway.uri())
}

/// The script gave its usual results, and the gateway denied only the errors that it provokes and `also_denied`.
fn check(gateway: &Gateway, outcome: &Outcome, left_out: &[&str], also_denied: &[(&str, &str)]) {
    let under_policy = |line: String| if line == ERRORS_OF_MONGOD { ERRORS_UNDER_POLICY.to_owned() } else { line };
    let expected: Vec<_> = expected_lines(left_out).into_iter().map(under_policy).collect();
    assert_eq!(outcome.lines, expected);
    let denied = |sample: &&Sample| {
        sample.name == "mongate_commands_total" && sample.label("outcome") == "denied" && sample.value > 0.5
    };
    let samples = gateway.metrics();
    let counted: BTreeMap<_, _> =
        samples.iter().filter(denied).map(|sample| (sample.label("command"), sample.value.to_string())).collect();
    // Entries of `also_denied` replace these.
    let provoked = [("other", "1"), ("aggregate", "1"), ("getMore", "1")];
    let expected: BTreeMap<_, _> =
        provoked.iter().chain(also_denied).map(|(command, count)| (*command, (*count).to_owned())).collect();
    assert_eq!(counted, expected, "denied commands: {:?}", refusals(gateway));
}

fn refusals(gateway: &Gateway) -> Vec<Value> {
    gateway.log().into_iter().filter(|event| event["message"] == "command denied").collect()
}
