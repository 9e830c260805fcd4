//! Hot reload of the policy: the next command of every open connection follows the new policy. An invalid configuration
//! changes nothing at runtime and prevents the start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bson::{Document, doc};
use serde_json::{Value, json};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::Connection;
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

/// A way to replace the contents of a file.
type Put = fn(&Path, &str);

/// A gateway and the options of its configuration file.
struct Scene {
    gateway: Gateway,
    options: GatewayOptions,
}

fn options(mongod: &Mongod, policy: &str) -> GatewayOptions {
    let listener = "principal = 'cluster.local/ns/shop/sa/cart'\n".to_owned();
    GatewayOptions { listener, tables: policy.to_owned(), ..GatewayOptions::to(mongod) }
}

impl Scene {
    fn new(mongod: &Mongod, policy: &str) -> Self {
        let options = options(mongod, policy);
        Self { gateway: Gateway::start(&options), options }
    }

    /// Returns the configuration with another policy.
    fn with(&self, policy: &str) -> String {
        GatewayOptions { tables: policy.to_owned(), ..self.options.clone() }.configuration()
    }

    fn put(&self, put: Put, policy: &str) {
        put(&self.gateway.configuration_file(), &self.with(policy));
    }

    fn status(&self) -> Value {
        let status: Value = serde_json::from_str(&self.gateway.get("/status").unwrap().body).unwrap();
        status["policy"].clone()
    }

    #[track_caller]
    fn reloads(&self, outcome: &str, count: f64) {
        let is = |counted: f64| (counted - count).abs() < 0.5;
        self.gateway.await_metric("mongate_reloads_total", &[("what", "policy"), ("outcome", outcome)], is);
    }

    fn told(&self, message: &str) -> usize {
        self.gateway.log().iter().filter(|event| event["message"] == message).count()
    }
}

#[test]
fn open_connections_follow_the_policy_for_every_way_of_changing_the_file() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let scene = Scene::new(&mongod, &deny("orders"));
    let mut connections = [scene.gateway.connect().unwrap(), scene.gateway.connect().unwrap()];
    check(&mut connections, "orders");
    let ways: [(&str, Put); 6] = [
        ("menu", rename_over),
        ("orders", write_in_place),
        ("menu", by_pieces),
        ("orders", remove_and_write),
        ("menu", swap_link),
        ("orders", swap_link),
    ];
    for (reloads, (denied, put)) in (1_u32..).zip(ways) {
        let before = scene.status()["fingerprint"].clone();
        scene.put(put, &deny(denied));
        scene.reloads("ok", f64::from(reloads));
        check(&mut connections, denied);
        let status = scene.status();
        assert_ne!(status["fingerprint"], before, "{status}");
        assert_eq!((&status["in_force"], &status["rules"]), (&true.into(), &1.into()), "{status}");
    }
    // SIGHUP reloads the file, which matters without file notifications. An unchanged file changes nothing.
    scene.put(rename_over, &deny("menu"));
    scene.gateway.signal(libc::SIGHUP).unwrap();
    scene.reloads("ok", 7.0);
    check(&mut connections, "menu");
    until("SIGHUP without a change is logged", || {
        scene.gateway.signal(libc::SIGHUP).unwrap();
        (scene.told("policy unchanged") > 0).then_some(())
    });
    scene.reloads("ok", 7.0);
    assert_eq!(scene.told("policy in force"), 8, "at the start, and for each change");
    scene.reloads("failed", 0.0);
}

#[test]
fn a_policy_can_be_added_and_removed_while_connections_are_open() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let scene = Scene::new(&mongod, "");
    let mut connections = [scene.gateway.connect().unwrap(), scene.gateway.connect().unwrap()];
    check(&mut connections, "neither");
    assert_eq!(scene.status()["in_force"], false);
    scene.put(rename_over, &deny("orders"));
    scene.reloads("ok", 1.0);
    check(&mut connections, "orders");
    // The same rules as a dry run: no command is denied.
    scene.put(rename_over, &format!("[policy]\nenforcement = 'dry-run'\n{}", deny("orders")));
    scene.reloads("ok", 2.0);
    check(&mut connections, "neither");
    assert_eq!(scene.status()["enforced"], false);
    scene.put(rename_over, "");
    scene.reloads("ok", 3.0);
    check(&mut connections, "neither");
    let status = scene.status();
    assert_eq!((&status["in_force"], &status["rules"]), (&false.into(), &Value::Null), "{status}");
    // The dry run and the removal are both logged, the latter only where the policy could deny commands before.
    let warned = |message: &str| {
        let those = scene.gateway.log().into_iter().filter(|event| event["message"] == message);
        those.map(|event| event["level"].clone()).collect::<Vec<_>>()
    };
    let await_warning = |message: &str| until(message, || (warned(message) == ["WARN"]).then_some(()));
    await_warning("policy no longer enforced; every command is allowed");
    assert_eq!(warned("policy removed; every command is allowed"), Vec::<Value>::new());
    scene.put(rename_over, &deny("orders"));
    scene.reloads("ok", 4.0);
    scene.put(rename_over, "");
    scene.reloads("ok", 5.0);
    await_warning("policy removed; every command is allowed");
}

#[test]
fn an_invalid_file_leaves_the_last_valid_policy_in_force() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let scene = Scene::new(&mongod, &deny("orders"));
    let mut connections = [scene.gateway.connect().unwrap(), scene.gateway.connect().unwrap()];
    let good = scene.status()["fingerprint"].clone();
    let no_command = deny("menu").replace("'find'", "'fnid'");
    let bad = [
        ("x = [".to_owned(), "TOML"),
        (scene.with("[[policy.rule]]\nname = 'r'\naction = 'refuse'\n"), "policy.rule[1].action"),
        (scene.with(&no_command), "policy.rule[1].to[1].commands"),
        (scene.with(&format!("{}\n[no_such_table]\n", deny("menu"))), "no_such_table"),
    ];
    for (failures, (text, says)) in (1_u32..).zip(bad) {
        rename_over(&scene.gateway.configuration_file(), &text);
        scene.reloads("failed", f64::from(failures));
        check(&mut connections, "orders");
        let status = scene.status();
        assert_eq!(status["fingerprint"], good, "{status}");
        let problem = status["reload"]["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains(says), "{says} is not in {problem}");
        let logged = |event: &Value| {
            event["level"] == "ERROR"
                && event["error"].as_str().is_some_and(|error| error.contains(says))
                && event["remedy"].is_string()
        };
        scene.gateway.wait_for_log(LOG_TIMEOUT, logged).unwrap();
        let ready = scene.gateway.get("/readyz").unwrap();
        // The gateway is ready, with its current policy.
        assert_eq!(ready.status, 200, "{}", ready.body);
        assert!(ready.body.contains("WARN   policy: 1 rule in force; reload failed: "), "{}", ready.body);
    }
    scene.reloads("ok", 0.0);
    // The previous file clears the problem without a reload; a new file clears it with a reload.
    scene.put(rename_over, &deny("orders"));
    until("the problem is cleared", || scene.status()["reload"]["problem"].is_null().then_some(()));
    check(&mut connections, "orders");
    rename_over(&scene.gateway.configuration_file(), "x = [");
    scene.reloads("failed", 5.0);
    scene.put(rename_over, &deny("menu"));
    scene.reloads("ok", 1.0);
    check(&mut connections, "menu");
    let ready = scene.gateway.get("/readyz").unwrap().body;
    assert!(ready.contains("ok     policy: 1 rule in force\n"), "{ready}");
    assert!(scene.status()["reload"]["last_failure"]["error"].is_string(), "/status still shows the last failure");
}

#[test]
fn changes_outside_of_the_policy_are_logged_and_need_a_restart() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut scene = Scene::new(&mongod, &deny("orders"));
    let mut connections = [scene.gateway.connect().unwrap(), scene.gateway.connect().unwrap()];
    scene.options.listener += "max_connections = 1\n";
    scene.put(rename_over, &deny("orders"));
    let told = "configuration changes outside of [policy] need a restart";
    let line = scene.gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == told).unwrap();
    assert_eq!(line["level"], "WARN");
    assert!(line["remedy"].as_str().unwrap().contains("restart"), "{line}");
    assert_eq!(line["keys"], "listener.test.max_connections", "{line}");
    assert_eq!(scene.gateway.status().unwrap()["config_pending_restart"], json!(["listener.test.max_connections"]));
    scene.gateway.await_metric("mongate_config_pending_restart", &[], |count| (0.5..1.5).contains(&count));
    // A third client connects although max_connections is 1 in the file, and the policy is unchanged.
    scene.gateway.connect().unwrap().run(&ping()).unwrap();
    check(&mut connections, "orders");
    scene.reloads("ok", 0.0);
    // When the policy changes too, only the policy is reloaded.
    scene.put(rename_over, &deny("menu"));
    scene.reloads("ok", 1.0);
    check(&mut connections, "menu");
    scene.gateway.connect().unwrap().run(&ping()).unwrap();

    scene.options.listener = scene.options.listener.replace("max_connections = 1\n", "");
    scene.put(rename_over, &deny("menu"));
    let told = "configuration file again as in use; no restart needed";
    scene.gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == told).unwrap();
    assert_eq!(scene.gateway.status().unwrap()["config_pending_restart"], json!([]));
}

#[test]
fn an_invalid_policy_prevents_the_start() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let rule = |lines: &str| format!("[[policy.rule]]\nname = 'r'\n{lines}\n");
    let deny = |to: &str| rule(&format!("action = 'deny'\nto = [{{ {to} }}]"));
    let rows = [
        (rule("action = 'refuse'"), "policy.rule[1].action"),
        (rule(""), "policy.rule[1].action"),
        ("[[policy.rule]]\naction = 'deny'\n".to_owned(), "policy.rule[1].name"),
        ([rule("action = 'deny'"), rule("action = 'allow'")].concat(), "policy.rule[2].name"),
        (deny("commands = ['fnid']"), "policy.rule[1].to[1].commands"),
        (deny("commands = ['@raed']"), "policy.rule[1].to[1].commands"),
        (deny("comands = ['find']"), "policy.rule[1].to[1].comands"),
        (rule("action = 'deny'\nfrom = [{ listeners = ['tset'] }]"), "policy.rule[1].from[1].listeners"),
        ("[policy]\nenforcement = 'perhaps'\n".to_owned(), "policy.enforcement"),
    ];
    for (policy, key) in rows {
        let (code, wrote) = Gateway::start_in_vain(&options(&mongod, &policy)).unwrap();
        assert_eq!(code, Some(78), "{policy}: {wrote}");
        assert!(wrote.contains(key), "{key} is not in: {wrote}");
    }
    let by_principal = rule("action = 'deny'\nfrom = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]");
    let without_principal = GatewayOptions { listener: String::new(), ..options(&mongod, &by_principal) };
    let (code, wrote) = Gateway::start_in_vain(&without_principal).unwrap();
    assert_eq!(code, Some(78), "{wrote}");
    assert!(wrote.contains("policy.rule[1].from[1].principals"), "{wrote}");
}

/// One rule that denies one collection.
fn deny(collection: &str) -> String {
    format!(
        "[[policy.rule]]\nname = 'not-{collection}'\naction = 'deny'\n\
         to = [{{ commands = ['find'], databases = ['reload'], collections = ['{collection}'] }}]\n"
    )
}

/// Checks with the next command of each connection that only this collection is denied.
fn check(connections: &mut [Connection], denied: &str) {
    for connection in connections {
        for collection in ["orders", "menu"] {
            let reply = connection.command(&doc! { "find": collection, "$db": "reload" }).unwrap();
            let why = format!("rule \"not-{collection}\"");
            assert_eq!(reply.get_i32("code").ok(), (denied == collection).then_some(13), "{denied}: {reply}");
            assert!(denied != collection || reply.get_str("errmsg").unwrap().contains(&why), "{reply}");
        }
    }
}

fn rename_over(file: &Path, text: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, file).unwrap();
}

fn write_in_place(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
}

/// Writes like a slow editor: the first part alone is a valid file without any rule.
fn by_pieces(file: &Path, text: &str) {
    let (beginning, _) = text.split_once("[[policy.rule]]").unwrap();
    fs::write(file, beginning).unwrap();
    fs::write(file, text).unwrap();
}

fn remove_and_write(file: &Path, text: &str) {
    fs::remove_file(file).unwrap();
    fs::write(file, text).unwrap();
}

/// Writes like the kubelet: a new symbolic link to a new file is renamed over the old link.
fn swap_link(file: &Path, text: &str) {
    let (target, aside) = (file.with_extension(text.len().to_string()), file.with_extension("link"));
    fs::write(&target, text).unwrap();
    symlink(&target, &aside).unwrap();
    fs::rename(aside, file).unwrap();
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
