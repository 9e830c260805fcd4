//! What clients and operators see of a policy: the error of a denied command, its place among the replies, metrics,
//! logs and dry runs.

use bson::{Document, doc};
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{self, Connection, MORE_TO_COME, Received, body_section, op_msg, sequence_section};
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;
use crate::slow;

const SLEEP: &str = "cluster.local/ns/full/sa/sleep";
/// Part of the values of denied commands, never of a name.
const SECRET: &str = "Zk4SecretWq9";
/// A deny rule and an allow rule.
const RULES: &str = "
    [[policy.rule]]
    name = 'full-sleep-may-not-read'
    action = 'deny'
    from = [{ principals = ['cluster.local/ns/full/sa/sleep'] }]
    to = [{ commands = ['find', 'findAndModify', 'aggregate'], databases = ['refused'], collections = ['orders'] }]

    [[policy.rule]]
    name = 'everything-else'
    action = 'allow'
    to = [{ databases = ['refused', 'admin'] }]
";

/// A gateway whose clients all have one principal, with this policy.
fn start(mongod: &Mongod, policy: &str) -> Gateway {
    Gateway::start(&options(mongod, policy))
}

fn options(mongod: &Mongod, policy: &str) -> GatewayOptions {
    let listener = format!("principal = '{SLEEP}'\n");
    GatewayOptions { listener, tables: policy.to_owned(), log_level: Some("trace"), ..GatewayOptions::to(mongod) }
}

#[test]
fn a_denied_client_reads_what_was_denied_and_why() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = start(&mongod, &format!("[policy]\ndeny_javascript = true\n{RULES}"));
    let by_rule = "denied by rule \"full-sleep-may-not-read\"";
    let joined = doc! { "aggregate": "menu", "pipeline": [{ "$unionWith": "orders" }], "cursor": {}, "$db": "refused" };
    let in_element = doc! { "a": { "$not": { "$elemMatch": { "$where": SECRET } } } };
    let rows = [
        (find("orders"), "refused", "find", by_rule),
        (doc! { "findandmodify": "orders", "remove": true, "$db": "refused" }, "refused", "findAndModify", by_rule),
        (joined, "refused", "aggregate", by_rule),
        (doc! { "explain": find("orders"), "$db": "refused" }, "refused", "find", by_rule),
        (doc! { "find": "orders", "$db": "other" }, "other", "find", "no allow rule matches"),
        (doc! { "dropDatabase": 1, "$db": "other" }, "other", "dropDatabase", "no allow rule matches"),
        (
            doc! { "find": "menu", "filter": in_element, "$db": "refused" },
            "refused",
            "find",
            "the command runs JavaScript, and deny_javascript is set",
        ),
        (
            doc! { format!("{SECRET}?"): "x", "$db": "refused" },
            "refused",
            "(unknown)",
            "the policy cannot judge this command: the command is unknown",
        ),
        (
            doc! { "newThing": SECRET, "$db": "refused" },
            "refused",
            "newThing",
            "the policy cannot judge this command: the command \"newThing\" is unknown",
        ),
        (
            doc! { "find": 7, "$db": "refused" },
            "refused",
            "find",
            "the policy cannot judge this command: the name of a collection is not valid",
        ),
    ];
    let mut connection = gateway.connect().unwrap();
    for (id, (command, database, name, why)) in (1..).zip(rows) {
        connection.send(&op_msg(id, 0, &[body_section(&command)])).unwrap();
        let reply = connection.reply().unwrap();
        let said = format!("mongate: not authorized on {database} to execute command {name}: {why}");
        assert_eq!(reply.document, refusal(&said));
        assert_eq!((reply.op_code, reply.response_to, reply.flags), (raw::OP_MSG, id, 0));
        connection.run(&ping()).unwrap();
    }
    // A command in an OP_QUERY is judged like any other, and gets an OP_REPLY.
    for wrapped in
        [doc! { "buildInfo": 1 }, doc! { "$query": { "buildInfo": 1 }, "$readPreference": { "mode": "nearest" } }]
    {
        connection.send(&raw::op_query(97, "admin.$cmd", -1, &wrapped)).unwrap();
        let reply = connection.reply().unwrap();
        assert_eq!((reply.op_code, reply.response_to, reply.code()), (raw::OP_REPLY, 97, None));
        assert!(reply.document.contains_key("version"), "{}", reply.document);
    }
    connection.send(&raw::op_query(99, "refused.$cmd", -1, &doc! { "find": "orders" })).unwrap();
    let reply = connection.reply().unwrap();
    assert_eq!((reply.op_code, reply.response_to, reply.code()), (raw::OP_REPLY, 99, Some(13)));
    assert!(reply.document.get_str("errmsg").unwrap().contains(by_rule), "{}", reply.document);
    connection.send(&raw::op_query(98, "refused.orders", -1, &doc! { "n": 1 })).unwrap();
    let reply = connection.reply().unwrap();
    assert_eq!((reply.op_code, reply.response_to, reply.code()), (raw::OP_REPLY, 98, Some(13)));
    let message = reply.document.get_str("errmsg").unwrap();
    assert!(message.contains("update the driver to a version that sends OP_MSG"), "{message}");
    connection.run(&ping()).unwrap();
}

#[test]
fn a_denied_insert_with_more_to_come_gets_no_reply_and_the_next_ping_gets_its_own() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = start(&mongod, RULES);
    let body = body_section(&doc! { "insert": "c", "$db": "silent" });
    let documents = sequence_section("documents", &[doc! { "text": SECRET }]);
    let mut connection = gateway.connect().unwrap();
    for sections in [[body.clone(), documents.clone()], [documents, body]] {
        for id in [10, 20, 30] {
            connection.send(&op_msg(id, MORE_TO_COME, &sections)).unwrap();
            connection.send(&op_msg(id + 1, 0, &[body_section(&ping())])).unwrap();
            let reply = connection.reply().unwrap();
            assert_eq!((reply.response_to, reply.code()), (id + 1, None), "{}", reply.document);
        }
    }
    assert_eq!(count(&mongod, "silent"), 0);
    check_decisions(&gateway, &[("(no allow rule)", "deny", 6.0)]);
    drop(connection);
    assert_eq!(closed(&gateway)["denied"], 6);
}

#[test]
fn an_error_waits_for_the_replies_before_it() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "refused_slow");
    let gateway = start(
        &mongod,
        &format!(
            "{RULES}\n[[policy.rule]]\nname = 'slow'\naction = 'allow'\nto = [{{ databases = ['refused_slow'] }}]\n"
        ),
    );
    let mut connection = gateway.connect().unwrap();
    let asked = [
        (1, slow::find("refused_slow", 500)),
        (2, find("orders")),
        (3, ping()),
        (4, find("orders")),
        (5, find("menu")),
    ];
    let messages: Vec<_> = asked.iter().map(|(id, command)| op_msg(*id, 0, &[body_section(command)])).collect();
    connection.send(&messages.concat()).unwrap();
    let answered: Vec<_> = asked.iter().map(|_| connection.reply().unwrap()).collect();
    let answered: Vec<_> = answered.iter().map(|reply| (reply.response_to, reply.code())).collect();
    assert_eq!(answered, [(1, None), (2, Some(13)), (3, None), (4, Some(13)), (5, None)]);
}

#[test]
fn denied_commands_are_counted_by_rule_and_logged_once_without_values() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = start(&mongod, RULES);
    for connections in 1..=2 {
        let mut connection = gateway.connect().unwrap();
        for _ in 0..5 {
            assert_denied(&mut connection, &find("orders"));
            assert_denied(
                &mut connection,
                &doc! { "insert": "c", "documents": [{ SECRET: SECRET }], "comment": SECRET, "$db": "other" },
            );
        }
        // A plain name is shown, and this one is not plain.
        assert_denied(&mut connection, &doc! { format!("{SECRET}?"): SECRET, "$db": "refused" });
        assert_denied(
            &mut connection,
            &doc! { "find": "orders", "filter": { SECRET: 1 }, SECRET: SECRET, "$db": "refused" },
        );
        let pipeline = [doc! { format!("${SECRET}?"): SECRET }];
        assert_denied(
            &mut connection,
            &doc! { "aggregate": "menu", "pipeline": pipeline, "cursor": {}, "$db": "refused" },
        );
        connection.run(&find("menu")).unwrap();
        drop(connection);
        until("the connection is logged", || {
            let lines = gateway.log().iter().filter(|event| event["message"] == "connection closed").count();
            (lines == connections).then_some(())
        });
    }
    check_decisions(
        &gateway,
        &[
            ("full-sleep-may-not-read", "deny", 12.0),
            ("(no allow rule)", "deny", 10.0),
            ("(not understood)", "deny", 4.0),
            ("everything-else", "allow", 2.0),
        ],
    );
    let denied = [("listener", "test"), ("command", "find"), ("outcome", "denied")];
    assert!((gateway.metric("mongate_commands_total", &denied) - 12.0).abs() < 0.5);

    let log = gateway.log();
    assert!(!log.iter().any(|event| event.to_string().contains(SECRET)), "the log contains a value");
    let told = |rule: &str, message: &str| {
        log.iter().filter(|event| event["rule"] == rule && event["message"] == message).cloned().collect::<Vec<_>>()
    };
    for (rule, command, namespace, count) in
        [("full-sleep-may-not-read", "find", "refused.orders", 6), ("(no allow rule)", "insert", "other.c", 5)]
    {
        let first = told(rule, "command denied");
        assert_eq!(first.len(), 2, "logged once per connection: {first:?}");
        for line in first {
            let expected = ("WARN", SLEEP, "test", command, namespace);
            let seen = ["level", "principal", "listener", "command", "namespace"]
                .map(|field| line[field].as_str().unwrap_or_default());
            assert_eq!(seen, [expected.0, expected.1, expected.2, expected.3, expected.4], "{line}");
        }
        let last = told(rule, "total decisions of the rule on this connection");
        assert_eq!(last.iter().map(|line| line["count"].as_u64()).collect::<Vec<_>>(), [Some(count); 2], "{last:?}");
    }
    assert_eq!(told("(not understood)", "command denied").len(), 2);
}

#[test]
fn a_dry_run_allows_everything_and_logs_what_it_would_deny() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let whole = format!("[policy]\nenforcement = 'dry-run'\n{RULES}");
    let one = RULES.replace("action = 'deny'", "action = 'deny'\n    dry_run = true");
    mongod.run(&doc! { "insert": "orders", "documents": [{ "n": 1 }], "$db": "refused" }).unwrap();
    for (policy, all_pass) in [(whole, true), (one, false)] {
        let gateway = start(&mongod, &policy);
        let mut connection = gateway.connect().unwrap();
        for _ in 0..3 {
            let found = connection.run(&find("orders")).unwrap();
            assert!(!found.get_document("cursor").unwrap().get_array("firstBatch").unwrap().is_empty());
        }
        let other = connection.command(&doc! { "find": "c", "$db": "other" }).unwrap();
        assert_eq!(other.contains_key("errmsg"), !all_pass, "{other}");
        let unknown = connection.command(&doc! { "noSuchCommand": 1, "$db": "refused" }).unwrap();
        assert_eq!(unknown.get_i32("code").unwrap(), if all_pass { 59 } else { 13 }, "{unknown}");
        let decision = if all_pass { "would_deny" } else { "deny" };
        check_decisions(
            &gateway,
            &[
                ("full-sleep-may-not-read", "would_deny", 3.0),
                ("(no allow rule)", decision, 1.0),
                ("(not understood)", decision, 1.0),
            ],
        );
        let would =
            |event: &Value| event["message"] == "command would be denied" && event["rule"] == "full-sleep-may-not-read";
        let line = gateway.wait_for_log(LOG_TIMEOUT, would).unwrap();
        let seen = ["level", "principal", "command", "namespace"].map(|field| line[field].as_str().unwrap_or_default());
        assert_eq!(seen, ["WARN", SLEEP, "find", "refused.orders"], "{line}");
        assert_eq!(gateway.log().iter().filter(|event| would(event)).count(), 1, "logged once");
    }
}

#[test]
fn requests_that_no_policy_can_evaluate_are_forwarded_in_a_dry_run() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = start(&mongod, &format!("[policy]\nenforcement = 'dry-run'\n{RULES}"));
    let mut connection = gateway.connect().unwrap();
    connection
        .send(&raw::message(raw::OP_GET_MORE, 7, &[&[0; 4][..], b"test.c\0", &[0; 4], &[1; 8]].concat()))
        .unwrap();
    assert_eq!(connection.reply().unwrap().code(), Some(5_739_101), "mongod's own answer");
    connection.send(&raw::op_query(8, "admin.$cmd", -1, &doc! { "ping": 1 })).unwrap();
    assert_eq!(connection.reply().unwrap().code(), Some(352), "mongod's own answer");
    check_decisions(&gateway, &[("(not understood)", "would_deny", 1.0), ("(not understood)", "deny", 0.0)]);
    // An enforced policy closes the connection.
    let gateway = start(&mongod, RULES);
    let mut connection = gateway.connect().unwrap();
    connection.run(&ping()).unwrap();
    connection.send(&raw::message(raw::OP_GET_MORE, 7, &[0; 32])).unwrap();
    assert!(matches!(connection.receive().unwrap(), Received::Closed(_)));
    let line = closed(&gateway);
    assert_eq!(line["outcome"], "protocol_error", "{line}");
    assert!(line["reason"].as_str().unwrap().contains("OP_GET_MORE, which the policy cannot judge"), "{line}");
}

#[test]
fn javascript_is_denied_where_it_runs_but_not_where_it_is_only_stored() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = start(&mongod, "[policy]\ndeny_javascript = true\n");
    let function = doc! { "$function": { "body": "function () { return 1 }", "args": [], "lang": "js" } };
    let deep = doc! { "$expr": { "$eq": [1, { "$add": [1, &function] }] } };
    let accumulator = doc! {
        "init": "function () {}",
        "accumulate": "function () {}",
        "accumulateArgs": [],
        "merge": "function () {}",
        "lang": "js",
    };
    let lookup = doc! { "$lookup": { "from": "menu", "pipeline": [{ "$match": &deep }], "as": "found" } };
    let group = doc! { "$group": { "_id": 1, "n": { "$accumulator": accumulator } } };
    let aggregate = |stage: Document| doc! { "aggregate": "menu", "pipeline": [stage], "cursor": {}, "$db": "refused" };
    let statement = doc! { "q": { "$or": [{ "n": 1 }, { "$where": "true" }] }, "limit": 0 };
    let by_sequence = op_msg(
        1,
        0,
        &[
            body_section(&doc! { "delete": "menu", "$db": "refused" }),
            sequence_section("deletes", &[doc! { "q": { "n": 1 }, "limit": 0 }, statement.clone()]),
        ],
    );
    let sent = |command: &Document| op_msg(1, 0, &[body_section(command)]);
    let stored = doc! { "insert": "c", "documents": [{ "text": { "$where": 1 } }], "$db": "silent_javascript" };
    let rows = [
        (sent(&doc! { "find": "menu", "filter": &deep, "$db": "refused" }), true),
        (sent(&doc! { "count": "menu", "query": { "$where": "true" }, "$db": "refused" }), true),
        (sent(&aggregate(lookup)), true),
        (sent(&aggregate(group)), true),
        (sent(&doc! { "mapReduce": "menu", "map": "", "reduce": "", "out": { "inline": 1 }, "$db": "refused" }), true),
        (sent(&doc! { "explain": { "delete": "menu", "deletes": [statement] }, "$db": "refused" }), true),
        (by_sequence, true),
        (sent(&doc! { "find": "menu", "filter": { "text": "$where" }, "$db": "refused" }), false),
        (sent(&stored), false),
    ];
    let mut connection = gateway.connect().unwrap();
    for (bytes, is_denied) in rows {
        connection.send(&bytes).unwrap();
        let reply = connection.reply().unwrap();
        assert_eq!(reply.code() == Some(13), is_denied, "{}", reply.document);
    }
    check_decisions(&gateway, &[("(deny_javascript)", "deny", 7.0)]);
}

#[test]
fn an_audit_rule_counts_and_logs_but_denies_nothing() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let audit = "[[policy.rule]]\nname = 'who-reads'\naction = 'audit'\n\
                 to = [{ commands = ['@read'], databases = ['refused'] }]\n";
    let gateway = start(&mongod, &format!("{RULES}{audit}"));
    let mut connection = gateway.connect().unwrap();
    for _ in 0..3 {
        connection.run(&find("menu")).unwrap();
    }
    assert_denied(&mut connection, &find("orders"));
    check_decisions(&gateway, &[("who-reads", "audit", 4.0), ("everything-else", "allow", 3.0)]);
    let line = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "command audited").unwrap();
    assert_eq!(
        (&line["rule"], &line["level"], &line["command"]),
        (&"who-reads".into(), &"INFO".into(), &"find".into())
    );
}

fn find(collection: &str) -> Document {
    doc! { "find": collection, "$db": "refused" }
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

fn refusal(message: &str) -> Document {
    doc! { "ok": 0.0, "errmsg": message, "code": 13, "codeName": "Unauthorized" }
}

fn assert_denied(connection: &mut Connection, command: &Document) {
    let reply = connection.command(command).unwrap();
    assert_eq!(reply.get_i32("code").ok(), Some(13), "{reply}");
}

fn count(mongod: &Mongod, database: &str) -> i32 {
    mongod.run(&doc! { "count": "c", "$db": database }).unwrap().get_i32("n").unwrap()
}

/// Waits until the metric shows these decisions of the listener `test`.
#[track_caller]
fn check_decisions(gateway: &Gateway, wanted: &[(&str, &str, f64)]) {
    for (rule, decision, count) in wanted {
        let labels = [("listener", "test"), ("rule", *rule), ("decision", *decision)];
        let is = |counted: f64| (counted - count).abs() < 0.5;
        gateway.await_metric("mongate_policy_decisions_total", &labels, is);
    }
}

/// The log line of the only connection.
fn closed(gateway: &Gateway) -> Value {
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "connection closed").unwrap()
}
