//! Drivers under an allow list: the whole driver script runs in the databases that a principal may use, as if no gateway
//! stood there.

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

/// The script provokes errors with these; an allow list refuses what nobody knows, and cursors that nobody was given.
const ERRORS_OF_MONGOD: &str =
    r#"{"command":59,"cursor":43,"duplicate":11000,"operator":2,"stage":40324,"step":"errors"}"#;
const ERRORS_UNDER_POLICY: &str =
    r#"{"command":13,"cursor":43,"duplicate":11000,"operator":2,"stage":13,"step":"errors"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_driver_runs_its_script_without_a_refusal() {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let gateway = allowing(&mongod, "policy_rust");
    let outcome = rust_script::run(&uri(&gateway), "policy_rust").await.unwrap();
    check(&gateway, &outcome, &["exhaust"], &[]);
}

#[test]
fn pymongo_runs_its_script_without_a_refusal() {
    run("policy_python", python, &[], &[]);
}

#[test]
fn the_node_driver_runs_its_script_without_a_refusal() {
    run("policy_node", node, &["exhaust"], &[]);
}

#[test]
fn mongosh_runs_its_script_without_a_refusal_of_it() {
    // What the shell asks on its own account when it starts; it lives without the answers.
    run("policy_mongosh", mongosh, &["concurrent", "exhaust", "gridfs"], &SHELLS_OWN);
}

/// A connection of mongosh begins with questions that an allow list of databases does not answer.
const SHELLS_OWN: [(&str, &str); 3] = [("aggregate", "2"), ("atlasVersion", "1"), ("getParameter", "2")];

#[test]
fn mongosh_starts_reads_and_is_told_no_under_a_policy_that_lets_it_read() {
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
    let insert = report.insert.expect("the insert was refused");
    assert_eq!((insert.code, insert.code_name.as_deref()), (Some(13), Some("Unauthorized")), "{output}");
    assert_eq!(mongod.run(&doc! { "count": "kept", "$db": name }).unwrap().get_i32("n").unwrap(), 0);
}

fn run(name: &str, script: fn(&str, &str) -> Option<Outcome>, left_out: &[&str], own: &[(&str, &str)]) {
    let Some(mongod) = Mongod::shared_replica_set() else { return };
    let gateway = allowing(&mongod, name);
    let Some(outcome) = script(&uri(&gateway), name) else { return };
    check(&gateway, &outcome, left_out, own);
}

/// Everything in the two databases that the script uses, and the list of databases, which it compares.
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

/// The script gave what it always gives, and nothing was refused but what it gets wrong on purpose.
fn check(gateway: &Gateway, outcome: &Outcome, left_out: &[&str], own: &[(&str, &str)]) {
    let as_ever = |line: String| if line == ERRORS_OF_MONGOD { ERRORS_UNDER_POLICY.to_owned() } else { line };
    let expected: Vec<_> = expected_lines(left_out).into_iter().map(as_ever).collect();
    assert_eq!(outcome.lines, expected);
    let denied = |sample: &&Sample| {
        sample.name == "mongate_commands_total" && sample.label("outcome") == "denied" && sample.value > 0.5
    };
    let samples = gateway.metrics();
    let refused: BTreeMap<_, _> =
        samples.iter().filter(denied).map(|sample| (sample.label("command"), sample.value.to_string())).collect();
    // The later ones replace the earlier.
    let on_purpose = [("other", "1"), ("aggregate", "1"), ("getMore", "1")];
    let expected: BTreeMap<_, _> =
        on_purpose.iter().chain(own).map(|(command, count)| (*command, (*count).to_owned())).collect();
    assert_eq!(refused, expected, "refused were: {:?}", refusals(gateway));
}

fn refusals(gateway: &Gateway) -> Vec<Value> {
    gateway.log().into_iter().filter(|event| event["message"] == "command denied").collect()
}
