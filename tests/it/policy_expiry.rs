//! Rules that expire: at that moment, open connections and cursors follow, and the log, the metrics and `/status` say
//! so. `mongate check` and `mongate policy` say what is to come.

use std::fs;
use std::time::{Duration, SystemTime};

use bson::{Document, doc};
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::kit::raw::Connection;
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

const DATABASE: &str = "expiring";

/// How far ahead a rule expires: long enough for a reload on a busy machine.
const AHEAD: Duration = Duration::from_secs(12);

/// The rules of a team, and an entry for a person during an incident.
fn break_glass(lines: &str) -> String {
    format!(
        "[[policy.rule]]\nname = 'team'\naction = 'allow'\nto = [{{ collections = ['menu'] }}]\n\
         [[policy.rule]]\nname = 'break-glass'\naction = 'allow'\n{lines}to = [{{ databases = ['{DATABASE}'] }}]\n"
    )
}

fn expires(at: SystemTime) -> String {
    format!("expires = {}\nreason = 'incident 4711'\n", humantime::format_rfc3339(at))
}

fn find(collection: &str) -> Document {
    doc! { "find": collection, "batchSize": 1, "$db": DATABASE }
}

fn code(connection: &mut Connection, command: &Document) -> Option<i32> {
    connection.command(command).unwrap().get_i32("code").ok()
}

fn logged(gateway: &Gateway, message: &str, rule: &str) -> Value {
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == message && event["rule"] == rule).unwrap()
}

fn policy_status(gateway: &Gateway) -> Value {
    gateway.status().unwrap()["policy"].clone()
}

#[test]
fn an_allow_rule_ends_for_open_connections_and_cursors() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let documents: Vec<_> = (0..200).map(|n| doc! { "n": n }).collect();
    mongod.run(&doc! { "insert": "orders", "documents": &documents, "$db": DATABASE }).unwrap();
    let options = |lines: &str| GatewayOptions { tables: break_glass(lines), ..GatewayOptions::to(&mongod) };
    let gateway = Gateway::start(&options(""));
    let mut connection = gateway.connect().unwrap();
    let reply = connection.run(&find("orders")).unwrap();
    let cursor = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
    let more = doc! { "getMore": cursor, "collection": "orders", "batchSize": 1, "$db": DATABASE };
    connection.run(&more).unwrap();
    assert_eq!(policy_status(&gateway)["expiring"], Value::Array(Vec::new()));
    assert!(!gateway.metrics().iter().any(|sample| sample.name.starts_with("mongate_policy_next_expiry")));

    let at = SystemTime::now() + AHEAD;
    let aside = gateway.configuration_file().with_extension("new");
    fs::write(&aside, options(&expires(at)).configuration()).unwrap();
    fs::rename(aside, gateway.configuration_file()).unwrap();
    let soon = logged(&gateway, "policy rule expires soon", "break-glass");
    assert_eq!(
        (&soon["level"], &soon["action"], &soon["reason"]),
        (&"WARN".into(), &"allow".into(), &"incident 4711".into())
    );
    let status = policy_status(&gateway);
    let rule = &status["expiring"][0];
    assert_eq!(
        (&rule["rule"], &rule["reason"], &rule["expired"]),
        (&"break-glass".into(), &"incident 4711".into(), &false.into())
    );
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    gateway.await_metric("mongate_policy_next_expiry_timestamp_seconds", &[], |value| (value - seconds).abs() < 1.5);
    assert_eq!(code(&mut connection, &more), None, "not yet");

    // The connection asks all the time, and the clock is read after the answer.
    let ended = until("the rule ends", || (code(&mut connection, &more) == Some(13)).then(SystemTime::now));
    assert!(ended >= at, "too early");
    assert_eq!(code(&mut connection, &find("orders")), Some(13));
    assert_eq!(code(&mut connection, &find("menu")), None, "the other rule still applies");
    assert_eq!(code(&mut gateway.connect().unwrap(), &find("orders")), Some(13));
    let expired = logged(&gateway, "policy rule expired", "break-glass");
    assert_eq!((&expired["action"], &expired["reason"]), (&"allow".into(), &"incident 4711".into()));
    assert_eq!(expired["expires"], soon["expires"]);
    let after = policy_status(&gateway);
    assert_eq!((&after["rules"], &after["expired_rules"]), (&2.into(), &1.into()), "{after}");
    assert_eq!(after["expiring"][0]["expired"], true, "{after}");
    assert_ne!(after["fingerprint"], status["fingerprint"]);
    let in_force =
        gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "policy in force" && event["expired"] == 1);
    assert_eq!(in_force.unwrap()["fingerprint"], after["fingerprint"]);
    let metrics = gateway.metrics();
    assert!(!metrics.iter().any(|sample| sample.name.starts_with("mongate_policy_next_expiry")), "none is left");
}

#[test]
fn the_end_of_a_deny_rule_opens_access_and_is_logged() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let at = SystemTime::now() + AHEAD;
    let rule = format!("[[policy.rule]]\nname = 'freeze'\naction = 'deny'\n{}", expires(at));
    let gateway = Gateway::start(&GatewayOptions { tables: rule, ..GatewayOptions::to(&mongod) });
    let opens = |event: &Value| {
        event["message"] == "policy warning" && event["warning"].as_str().unwrap().contains("\"freeze\" denies nothing")
    };
    gateway.wait_for_log(LOG_TIMEOUT, opens).unwrap();
    let mut connection = gateway.connect().unwrap();
    assert_eq!(code(&mut connection, &find("orders")), Some(13), "not yet");
    let ended = until("the rule ends", || code(&mut connection, &find("orders")).is_none().then(SystemTime::now));
    assert!(ended >= at, "too early");
    logged(&gateway, "policy rule expired", "freeze");
    let message = "policy no longer enforced; every command is allowed";
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == message && event["level"] == "WARN").unwrap();
    assert_eq!(policy_status(&gateway)["enforced"], false);
}

#[test]
fn the_last_allow_rule_that_ends_opens_nothing_and_a_deny_rule_does() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let past = expires(SystemTime::now() - Duration::from_hours(1));
    let rules = |action: &str| format!("[[policy.rule]]\nname = 'only'\naction = '{action}'\n{past}");
    for (action, expected) in [("allow", Some(13)), ("deny", None)] {
        let options = GatewayOptions { tables: rules(action), ..GatewayOptions::to(&mongod) };
        let gateway = Gateway::start(&options);
        assert_eq!(code(&mut gateway.connect().unwrap(), &find("orders")), expected, "{action}");
        let warned = |event: &Value| {
            event["message"] == "policy warning"
                && event["warning"].as_str().unwrap().contains("which has passed: \"only\"")
        };
        gateway.wait_for_log(LOG_TIMEOUT, warned).unwrap();
    }
}

#[test]
fn check_and_the_policy_tools_show_expiries() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let deny = |at: &str| {
        format!(
            "[[policy.rule]]\nname = 'lock'\naction = 'deny'\nexpires = {at}\nreason = 'freeze'\n\
             to = [{{ commands = ['@write'] }}]\n"
        )
    };
    let check = |at: &str| {
        let options = GatewayOptions { tables: deny(at), ..GatewayOptions::to(&mongod) };
        options.check(&["--offline"]).unwrap()
    };
    let (exit, text) = check("2999-01-01T00:00:00Z");
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("from then on \"lock\" denies nothing"), "{text}");
    let (exit, text) = check("2020-01-01T00:00:00Z");
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("1 deny; 1 of them expired"), "{text}");
    assert!(text.contains("which has passed: \"lock\" has no effect; remove it"), "{text}");

    let gateway =
        Gateway::start(&GatewayOptions { tables: deny("2999-01-01T01:00:00+01:00"), ..GatewayOptions::to(&mongod) });
    let file = gateway.configuration_file().display().to_string();
    let explain = |more: &[&str]| {
        let question = "policy explain --nobody --command insert --database shop --collection orders --config";
        let arguments: Vec<&str> = question.split(' ').chain([&*file]).chain(more.iter().copied()).collect();
        run_to_end(&arguments).unwrap()
    };
    let (exit, text, _) = explain(&[]);
    assert_eq!(exit, Some(77), "{text}");
    for part in ["expires 2999-01-01T00:00:00Z", "reason: freeze", "note: rule \"lock\" expires 2999-01-01T00:00:00Z"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (exit, text, _) = explain(&["--at", "2999-01-01T00:00:00Z"]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("does not match: expired 2999-01-01T00:00:00Z"), "{text}");
    let (exit, _, wrong) = explain(&["--at", "tomorrow"]);
    assert_eq!(exit, Some(2), "{wrong}");
    assert!(wrong.contains("write it as in 2026-12-01T18:00:00Z"), "{wrong}");
    let (_, text, _) = explain(&["--json"]);
    let rule = &serde_json::from_str::<Value>(&text).unwrap()["rules"][0];
    assert_eq!((&rule["expires"], &rule["reason"]), (&"2999-01-01T00:00:00Z".into(), &"freeze".into()));

    let cases = gateway.directory().join("cases.toml");
    let case = "[[case]]\nname = 'frozen'\nnobody = true\ncommand = 'insert'\ndatabase = 'shop'\n\
                collection = 'orders'\nexpect = 'deny'\nrule = 'lock'\n";
    fs::write(&cases, case).unwrap();
    let run_cases =
        |at: &str| run_to_end(&["policy", "test", cases.to_str().unwrap(), "--config", &file, "--at", at]).unwrap();
    assert_eq!(run_cases("2998-01-01T00:00:00Z").0, Some(0));
    let (exit, text, _) = run_cases("2999-01-01T00:00:00Z");
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.contains("rule \"lock\" expired 2999-01-01T00:00:00Z"), "{text}");
}
