//! `mongate policy` on the command line: exit codes, output, and every command of docs/policy-tools.md.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::kit::gateway;
use crate::kit::process::Process;
use crate::kit::scratch;

const PAGE: &str = include_str!("../../docs/policy-tools.md");

/// No command here waits for a peer, so this is ample.
const TIMEOUT: Duration = Duration::from_secs(30);

const CART: &str = "--principal cluster.local/ns/shop/sa/cart";
const SLEEP: &str = "--principal cluster.local/ns/full/sa/sleep";

/// A directory with the files of the page.
struct Files(TempDir);

/// The result of a shell command.
struct Output {
    exit: Option<i32>,
    out: String,
    all: String,
}

impl Files {
    fn new() -> Self {
        let desk = Self(scratch::directory("policy-tools").unwrap());
        for name in ["config.toml", "cases.toml", "mesh.yaml"] {
            desk.put(name, file_of_page(name));
        }
        desk
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    /// Runs a shell command in the directory, where `mongate` is the binary under test.
    fn shell(&self, line: &str) -> Output {
        let binary = std::path::absolute(gateway::binary().unwrap()).unwrap();
        let ours = format!("mongate() {{ {} \"$@\"; }}\n", quoted(&binary.display().to_string()));
        let mut command = Command::new("sh");
        command.args(["-c", &(ours + line)]).current_dir(self.0.path());
        let mut process = Process::start("sh", command).unwrap();
        let status = process.wait(TIMEOUT).unwrap();
        let all = process.lines().into_iter().map(|line| line.text + "\n").collect();
        Output { exit: status.code(), out: process.stdout(), all }
    }

    fn check(&self, line: &str, exit: i32, says: &[&str]) -> Output {
        let said = self.shell(line);
        assert_eq!(said.exit, Some(exit), "{line}\n{}", said.all);
        for part in says {
            assert!(said.all.contains(part), "{line}: {part:?} is missing in\n{}", said.all);
        }
        said
    }
}

/// The code block that follows the file's name on the page.
fn file_of_page(name: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("`{name}`:\n\n```")).expect("the page has the file");
    let (_, block) = rest.split_once('\n').unwrap();
    block.split_once("```").unwrap().0
}

#[test]
fn the_page_shows_the_real_output() {
    let desk = Files::new();
    let blocks = PAGE.split("```console\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0);
    let mut count = 0;
    for block in blocks {
        let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        // Prints each command before it runs, and passes on the exit code of the previous command.
        let shown =
            |line: &str| format!("printf '%s\\n' {}\n(exit $code)\n{line}\ncode=$?\n", quoted(&format!("$ {line}")));
        let said = desk.shell(&lines.iter().map(|line| shown(line)).collect::<Vec<_>>().concat());
        let shown: Vec<&str> = block.lines().map(str::trim_end).collect();
        let printed: Vec<&str> = said.out.lines().map(str::trim_end).collect();
        assert_eq!(printed, shown, "docs/policy-tools.md differs from the output\n{}", said.out);
        count += lines.len();
    }
    assert!(count >= 6, "the page has commands");
}

fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', "'\\''"))
}

#[test]
fn the_exit_code_of_explain_matches_its_verdict() {
    let desk = Files::new();
    let find = "--command find --database shop --collection orders";
    let check = |arguments: &str, exit: i32, says: &[&str]| {
        desk.check(&format!("mongate policy explain {arguments}"), exit, says)
    };
    check(&format!("{CART} {find}"), 0, &["verdict: allowed: rule \"everybody-in-the-shop-reads\" allows it"]);
    let list = |filter: &str| {
        format!("{CART} --body {}", quoted(&format!(r#"{{"listDatabases": 1, "filter": {filter}, "$db": "admin"}}"#)))
    };
    let part = "verdict: allowed: rule \"everybody-in-the-shop-reads\" allows part of it; the reply is filtered";
    check(&list(r#"{"name": "shop"}"#), 0, &[part]);
    check(&list(r#"{"$expr": {"$toInt": "$name"}}"#), 77, &["note: the reply cannot be filtered, because"]);
    check(
        &format!("{CART} --command listCollections --database shop"),
        0,
        &["everybody-in-the-shop-reads\" allows it\n"],
    );
    check(&format!("{CART} --command listCollections --database vault"), 77, &["no allow rule matches"]);
    let denied = "mongate: not authorized on shop to execute command find: denied by rule \"sleep-may-not-read\"";
    check(&format!("{SLEEP} {find}"), 77, &["verdict: denied: rule \"sleep-may-not-read\" denies it", denied]);
    check(&format!("--nobody {find}"), 77, &["there are allow rules, and none matches", "no allow rule matches"]);
    check(&format!("--principal CN=x,O=Acme {find}"), 77, &["caller   CN=x,O=Acme"]);
    let foreign = "the gateway rejects certificates of the trust domain other";
    check(&format!("--principal spiffe://other/ns/shop/sa/cart {find}"), 0, &[foreign]);
    // Aliases are resolved, and handshake commands are allowed.
    check(&format!("{CART} --command findandmodify --database shop --collection carts"), 0, &["findAndModify"]);
    check("--nobody --command ping --database admin", 0, &["it belongs to the handshake"]);
    check("--nobody --command nonsense --database shop", 77, &["the policy cannot judge this command"]);
    check(&format!("{CART} --command getMore --database shop --collection orders"), 0, &["note: the cursor must also"]);
    // Bodies.
    let body = |json: &str| format!("{CART} --body {}", quoted(json));
    check(&body(r#"{"find": "orders", "$db": "shop"}"#), 0, &["reaches  shop.orders  @read"]);
    check(&(body(r#"{"find": "orders"}"#) + " --database shop"), 0, &["on shop"]);
    let twice = body(r#"{"find": "orders", "find": "orders", "$db": "shop"}"#);
    check(&twice, 77, &["the policy cannot judge this command: a key occurs twice"]);
    check(&body(r#"{"update": "carts", "updates": [], "$db": "shop"}"#), 0, &["\"cart-writes-carts\" allows it"]);
    check(&body(r#"{"find": "orders""#), 65, &["the body is not JSON"]);
    check(&body("[]"), 65, &["the body is a list"]);
    check(&body(r#"{"find": {"$oid": "x"}, "$db": "shop"}"#), 65, &["the body's find cannot be read"]);
    desk.check(&format!("mongate policy explain {CART} --body - < /dev/null"), 65, &["the body is not JSON"]);
    // Missing and contradictory arguments.
    check(find, 2, &["--principal"]);
    check(&format!("--principal '' {find}"), 2, &["--principal"]);
    check(&format!("{CART} --nobody {find}"), 2, &["--nobody"]);
    check(CART, 2, &["--command", "--database"]);
    check(&format!("{CART} --command find --database shop"), 2, &["find needs a collection, or a body"]);
    check(&format!("{CART} --command renameCollection --database admin --collection x"), 2, &["give its body"]);
    check(&format!("{CART} --command ping --database admin --collection x"), 2, &["does not take a collection"]);
    check(&body(r#"{"find": "orders"}"#), 2, &["the body has no $db"]);
    check(&(body(r#"{"find": "orders", "$db": "shop"}"#) + " --database other"), 2, &["the body has another $db"]);
    check(&(body(r#"{"find": "orders", "$db": "shop"}"#) + " --collection other"), 2, &["names \"orders\""]);
    check(&(body(r#"{"find": "orders", "$db": "shop"}"#) + " --command insert"), 2, &["the body has \"find\""]);
    check(&format!("{CART} {find} --listener other"), 2, &["there is no listener \"other\"; name one of \"orders\""]);
    check(&format!("{CART} {find} --config none.toml"), 78, &["none.toml"]);
}

#[test]
fn explain_considers_listeners_sources_and_dry_runs() {
    let desk = Files::new();
    let (head, _) = file_of_page("config.toml").split_once("[[policy.rule]]").unwrap();
    let second = "[listener.second]\naddress = '127.0.0.1:27018'\nupstream = 'orders'\n";
    let find = "mongate policy explain --nobody --command find --database shop --collection orders --config";
    let rule = |from: &str| format!("[[policy.rule]]\nname = 'r'\naction = 'deny'\nfrom = [{from}]\n");
    desk.put("listeners.toml", &format!("{head}{second}{}", rule("{ listeners = ['second'] }")));
    desk.check(&format!("{find} listeners.toml"), 2, &["the listener; name one of \"orders\", \"second\""]);
    desk.check(&format!("{find} listeners.toml --listener orders"), 0, &["does not match: from.listeners"]);
    desk.check(&format!("{find} listeners.toml --listener second"), 77, &["verdict: denied"]);
    desk.put("sources.toml", &format!("{head}{second}{}", rule("{ sources = ['10.0.0.0/8'] }")));
    desk.check(&format!("{find} sources.toml"), 0, &["note: no source was given", "match: from.sources"]);
    desk.check(&format!("{find} sources.toml --source 10.1.2.3"), 77, &["unauthenticated, from 10.1.2.3"]);
    desk.check(&format!("{find} sources.toml --source host"), 2, &["--source"]);
    let dry = "[policy]\nenforcement = 'dry-run'\n";
    desk.put("dry.toml", &format!("{head}{dry}{}", rule("{ sources = ['10.0.0.0/8'] }")));
    let would = "verdict: allowed (dry run; it would be denied): rule \"r\" denies it";
    desk.check(
        &format!("{find} dry.toml --source 10.1.2.3"),
        0,
        &[would, "a client would read: mongate: not authorized"],
    );
    desk.put("none.toml", head);
    desk.check(&format!("{find} none.toml"), 0, &["verdict: allowed: there is no policy"]);
    desk.put("wrong.toml", &format!("{head}{}to = [{{ commands = ['fnd'] }}]\n", rule("{}")));
    for tool in [format!("{find} wrong.toml"), "mongate policy test cases.toml --config wrong.toml".to_owned()] {
        desk.check(&tool, 78, &["policy.rule[1].to[1].commands", "fnd"]);
    }
}

#[test]
fn explain_prints_json() {
    let desk = Files::new();
    let body =
        r#"{"aggregate": "orders", "pipeline": [{"$out": {"db": "vault", "coll": "x"}}], "cursor": {}, "$db": "shop"}"#;
    let said = desk.check(&format!("mongate policy explain {CART} --json --body {}", quoted(body)), 77, &[]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["decision"], "deny");
    assert_eq!(json["rule"], Value::Null);
    assert_eq!(json["command"]["name"], "aggregate");
    assert_eq!(json["reaches"][1]["place"], "vault.x");
    assert_eq!(json["reaches"][1]["class"], "@write");
    assert_eq!(json["rules"][0]["excludes_caller_by"], "principals");
    assert_eq!(json["rules"][1]["places"][0]["matches"], true);
    assert!(
        json["errmsg"].as_str().unwrap().starts_with("mongate: not authorized on shop to execute command aggregate")
    );
}

#[test]
fn policy_test_checks_each_case_of_a_table() {
    let desk = Files::new();
    let case = |more: &str| format!("[[case]]\nname = 'c'\nexpect = 'allow'\n{more}\n");
    let good = "nobody = true\ncommand = 'ping'\ndatabase = 'admin'";
    let check = |table: &str, exit: i32, says: &[&str]| {
        desk.put("table.toml", table);
        desk.check("mongate policy test table.toml", exit, says)
    };
    check(&case(good), 0, &["1 passed, 0 failed"]);
    check(&case(good).repeat(3), 0, &["3 passed, 0 failed"]);
    let deny = case(good).replace("'allow'", "'deny'");
    check(&(deny.clone() + &case(good)), 1, &["FAILED  c", "expected deny", "got      allow", "1 passed, 1 failed"]);
    check(&case(&format!("{good}\nrule = 'no-such'")), 1, &["the policy has no rule \"no-such\""]);
    check(&case(&format!("{good}\nrul = 'x'")), 65, &["line 7", "unknown field `rul`"]);
    check(&case(good).replace("'allow'", "'perhaps'"), 65, &["line 3", "perhaps"]);
    check("case = 1", 65, &["line 1"]);
    check("", 65, &["the file has no [[case]]"]);
    check(&case("command = 'ping'"), 65, &["case[1] \"c\": has no caller"]);
    check(&case("nobody = true\nprincipal = 'x'"), 65, &["remove one of them"]);
    check(&case("nobody = true\ncommand = 'ping'"), 65, &["case[1] \"c\": ping needs a database"]);
    check(&case("nobody = true\nbody = '{'"), 65, &["case[1] \"c\": the body is not JSON"]);
    check(&case("nobody = true\nbody = 1"), 65, &["body is a number"]);
    check(
        &case("nobody = true\nbody = { ping = 1, a = 2026-01-31, '$db' = 'a' }"),
        65,
        &["the body's a is a TOML date"],
    );
    check(&case("nobody = true\nsource = 'x'"), 65, &["source", "IP address"]);
    desk.check("mongate policy test none.toml", 65, &["cannot read none.toml"]);
    desk.check("mongate policy test cases.toml --config none.toml", 78, &["none.toml"]);
    desk.check("mongate policy test - < cases.toml", 1, &["3 passed, 1 failed"]);
    let said = desk.check("mongate policy test cases.toml --json", 1, &[]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["passed"], &json["failed"]), (&3.into(), &1.into()));
    assert_eq!(json["cases"][0]["got"], "deny by rule \"sleep-may-not-read\"");
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(0), "{json}");
    // A doubtful rule is reported, and does not make a case fail.
    let rule = "\n[[policy.rule]]\nname = 'doubtful'\naction = 'deny'\n\
                to = [{ commands = ['@read'], collections = ['cellar.wine'] }]\n";
    desk.put("doubtful.toml", &format!("{}{rule}", file_of_page("config.toml")));
    let warning = ".to[1].collections has \"cellar.wine\", which is compared with names of collections";
    desk.check(
        "mongate policy test cases.toml --config doubtful.toml",
        1,
        &["warning policy.rule[", warning, "3 passed"],
    );
    let said = desk.check("mongate policy test cases.toml --config doubtful.toml --json", 1, &[]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert!(json["warnings"][0].as_str().is_some_and(|text| text.contains(warning)), "{json}");
}

#[test]
fn an_imported_policy_is_valid_configuration() {
    let desk = Files::new();
    let (head, _) = file_of_page("config.toml").split_once("[[policy.rule]]").unwrap();
    desk.put("head.toml", head);
    desk.check(
        "mongate policy import --istio mesh.yaml --out policy.toml && cat head.toml policy.toml > all.toml",
        0,
        &[],
    );
    let find = "mongate policy explain --config all.toml --command find --database shop --collection orders";
    desk.check(&format!("{find} {CART}"), 0, &["rule \"mongo.mongo.1\" allows it"]);
    desk.check(&format!("{find} {SLEEP}"), 77, &["none matches"]);
    desk.check("mongate policy import --istio mesh.yaml --out policy.toml", 1, &["cannot write policy.toml: "]);
    desk.check("mongate policy import --istio - < mesh.yaml", 0, &["Imported from standard input"]);
    let for_other_port = ["spec.rules[1] is not for port 9216: left out.", "mongo.mongo.2"];
    desk.check("mongate policy import --istio mesh.yaml --port 9216", 0, &for_other_port);
    let refused =
        "sed 's/action: ALLOW/action: CUSTOM/' mesh.yaml > custom.yaml; mongate policy import --istio custom.yaml";
    let said =
        desk.check(refused, 65, &["document 1, AuthorizationPolicy mongo in namespace mongo: spec.action is CUSTOM"]);
    assert_eq!(said.out, "", "a policy is not imported in part");
    desk.check(&format!("{refused} --out custom.toml; test ! -e custom.toml"), 0, &[]);
    desk.check("echo '{' | mongate policy import --istio -", 65, &["is not YAML"]);
    desk.check("mongate policy import --istio none.yaml", 65, &["cannot read none.yaml"]);
    desk.check("mongate policy import", 2, &["--istio"]);
}

#[test]
fn session_id_prints_the_id_in_mongod_for_a_principal_or_a_listener() {
    let desk = Files::new();
    let print = |caller: &str, id: &str| desk.check(&format!("mongate policy session-id {caller} {id}"), 0, &[]).out;
    let id = "07070707-0707-0707-0707-070707070707";
    assert_eq!(print("--principal cart", id), "0d9dbd97-4e8b-e2ae-b3ef-4a43a24b78db\n");
    assert_eq!(print("--principal cart", &id.replace('-', "")), print("--principal cart", id));
    assert_eq!(print("--principal spiffe://a.b/c", id), print("--principal a.b/c", id));
    assert_ne!(print("--listener cart", id), print("--principal cart", id));
    for (arguments, exit, says) in [
        (format!("--principal cart {id}0"), 65, "is not a session id; give 32 hexadecimal digits"),
        (id.to_owned(), 2, "--principal"),
        (format!("--principal cart --listener cart {id}"), 2, "cannot be used with"),
        (format!("--listener '' {id}"), 2, "--listener"),
        ("--principal cart".to_owned(), 2, "<ID>"),
    ] {
        desk.check(&format!("mongate policy session-id {arguments}"), exit, &[says]);
    }
}

#[test]
fn check_includes_the_policy() {
    let desk = Files::new();
    let (head, _) = file_of_page("config.toml").split_once("[[policy.rule]]").unwrap();
    let policy = |more: &str| format!("{head}[[policy.rule]]\nname = 'r'\naction = 'deny'\n{more}\n");
    desk.put("wrong.toml", &policy("to = [{ commands = ['fnd'] }]"));
    let said = desk.check("mongate check --offline --json --config wrong.toml", 78, &[]);
    let json: Value = serde_json::from_str(&said.out).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let of_policy: Vec<_> = findings.iter().filter(|finding| !finding["policy"].is_null()).collect();
    assert_eq!(of_policy.len(), 1, "{}", said.out);
    assert_eq!((&of_policy[0]["severity"], &of_policy[0]["kind"]), (&"error".into(), &"configuration".into()));
    desk.check("mongate check --offline --config wrong.toml", 78, &["policy, enforce", "error   compiled", "commands"]);
    desk.check(
        "mongate check --offline",
        78,
        &["ok      compiled                3 rules: 1 deny, 2 allow", "fingerprint"],
    );
    let foreign = "from = [{ principals = ['other.example/ns/a/sa/b'] }]";
    desk.put("doubtful.toml", &policy(foreign).replace("[[policy", "[policy]\nenforcement = 'dry-run'\n[[policy"));
    let says = [
        "policy, dry-run",
        "warning compiled",
        "policy.rule[1].from[1].principals has",
        "policy.enforcement is \"dry-run\"",
    ];
    desk.check("mongate check --offline --config doubtful.toml", 78, &says);
}
