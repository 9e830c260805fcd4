//! Tests of the problems, the warnings and the fingerprint of a policy.

use super::*;

fn rule(name: &str, action: &str, lines: &str) -> String {
    format!("[[policy.rule]]\nname = \"{name}\"\naction = \"{action}\"\n{lines}\n")
}

#[test]
fn all_unknown_commands_are_reported_at_once() {
    let rules =
        rule("a", "deny", "to = [{ commands = [\"find\"] }, { commands = [\"fnid\"], not_commands = [\"@raed\"] }]")
            + &rule("b", "allow", "to = [{ commands = [\"*\", \"qq*\"] }]");
    let problems = Policy::compile(&config(&rules)).unwrap_err();
    let reported: Vec<String> =
        problems.iter().map(|problem| format!("{}: {}", problem.key, problem.sentence)).collect();
    assert_eq!(
        reported,
        [
            "policy.rule[1].to[2].commands: has \"fnid\", which is not a command; did you mean \"find\"?",
            "policy.rule[1].to[2].not_commands: has \"@raed\", which is not a class; did you mean \"@read\"?",
            "policy.rule[2].to[1].commands: has \"qq*\", which matches no command",
        ]
    );
}

#[test]
fn a_known_command_is_not_in_the_table_and_has_a_class() {
    let check = |known: &str, expected: &str| {
        let rules = format!("[policy]\ndeny_javascript = true\nknown_commands = {{ {known} }}\n");
        let problems = Policy::compile(&config(&rules)).unwrap_err();
        let told: Vec<String> = problems.iter().map(|one| format!("{}: {}", one.key, one.sentence)).collect();
        assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
    };
    check("find = \"@read\"", "policy.known_commands.find: is known already");
    check("\"$lookup\" = \"@read\"", "policy.known_commands.$lookup: is known already");
    check("\"$listCatalog\" = \"@read\"", "policy.known_commands.$listCatalog: is known already");
    check("_thing = \"@read\"", "policy.known_commands._thing: is a name that MongoDB servers reserve");
    check(
        "thing = \"@raed\"",
        "policy.known_commands.thing: is \"@raed\", which is not a class of commands; did you mean",
    );
    check("thing = \"@session\"", "policy.known_commands.thing: is \"@session\", which is not a class of commands");
    check(
        "thing = \"find\"",
        "policy.known_commands.thing: is \"find\", which is not a class of commands; choose from",
    );
}

/// All warnings except the one about every `deny` of some collections.
fn warnings(rules: &str) -> Vec<String> {
    all_warnings(rules).into_iter().filter(|warning| !warning.contains("also denies every caller")).collect()
}

fn all_warnings(rules: &str) -> Vec<String> {
    let warnings = policy(rules).warnings();
    warnings.into_iter().map(|warning| format!("{} {}", warning.key, warning.sentence)).collect()
}

#[test]
fn a_rule_that_does_more_or_less_than_it_seems_has_a_warning() {
    let check = |rules: &str, expected: &[&str]| {
        let warnings = all_warnings(rules);
        assert_eq!(warnings.len(), expected.len(), "{rules}: {warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected), "{rules}: {warning}");
        }
    };
    let one = |action: &str, to: &str| rule("r", action, &format!("to = [{{ {to} }}]"));
    let of_a = "from = [{ principals = [\"a\"] }]\n";
    let qualified = "policy.rule[1].to[1].collections has \"shop.orders\", but \"shop\" is a database, and the name of \
                     a collection does not include it; write \"orders\"";
    let orders = "commands = [\"find\"], collections = [\"shop.orders\"]";
    check(&one("deny", &format!("databases = [\"shop\"], {orders}")), &[qualified]);
    check(&(one("deny", orders) + &rule("b", "deny", "to = [{ databases = [\"shop\"] }]")), &[qualified]);
    check(&one("deny", &format!("databases = [\"other\"], {orders}")), &[]);
    check(
        &one("deny", "commands = [\"find\"], databases = [\"shop\"], collections = [\"shop.*\"]"),
        &["policy.rule[1].to[1].collections has \"shop.*\""],
    );
    let writes = "policy.rule[1].to[1].commands has @write, and no allow rule has @read";
    check(&one("allow", "commands = [\"@write\"], databases = [\"shop\"]"), &[writes]);
    check(&one("allow", "commands = [\"@write\", \"@read\"], databases = [\"shop\"]"), &[]);
    check(&one("allow", "commands = [\"insert\"], databases = [\"shop\"]"), &[]);
    check(&one("deny", "commands = [\"@write\"], databases = [\"shop\"]"), &[]);
    let split = "to = [{ commands = [\"@write\"], databases = [\"shop\"] }, { commands = [\"@read\"] }]";
    check(&rule("r", "allow", split), &[]);
    let apart = "to = [{ commands = [\"@write\"], databases = [\"shop\"] }, \
                 { commands = [\"@read\"], databases = [\"other\"] }]";
    check(&rule("r", "allow", apart), &[writes]);
    let exposing = "policy.rule[1].to[1].collections also denies every caller the commands that show this collection";
    check(&one("deny", "collections = [\"orders\"]"), &[exposing]);
    check(&one("deny", "commands = [\"drop\"], collections = [\"orders\"]"), &[]);
    check(&rule("r", "deny", &format!("{of_a}to = [{{ collections = [\"orders\"] }}]")), &[]);
    let deny = rule("d", "deny", "to = [{ commands = [\"drop\"] }]");
    let only = "policy.rule[1].action is the only allow rule, so all other callers are denied every command";
    check(&(rule("a", "allow", of_a) + &deny), &[only]);
    check(&(rule("a", "allow", of_a) + &deny + &rule("b", "allow", "from = [{ principals = [\"b\"] }]")), &[]);
    check(&rule("a", "allow", of_a), &[]);
}

#[test]
fn an_entry_that_can_never_match_has_a_warning() {
    let check = |lines: &str, expected: Option<&str>| {
        let found = warnings(&rule("r", "deny", lines));
        match expected {
            None => assert!(found.is_empty(), "{lines}: {found:?}"),
            Some(expected) => {
                assert!(found.len() == 1 && found[0].starts_with(expected), "{lines}: {found:?}");
            }
        }
    };
    check("from = []", Some("policy.rule[1].from is an empty list, so the rule applies to no caller"));
    check("to = []", Some("policy.rule[1].to is an empty list, so the rule matches no command"));
    check("from = [{ principals = [] }]", Some("policy.rule[1].from[1].principals is an empty list"));
    check("from = [{}, { sources = [] }]", Some("policy.rule[1].from[2].sources is an empty list"));
    let gone = "from = [{ principals = [\"td/a\", \"td/b*\"], not_principals = [\"td/*\"] }]";
    check(gone, Some("policy.rule[1].from[1].principals has only values that its not_ key excludes"));
    check("from = [{ principals = [\"td/a\", \"CN=x\"], not_principals = [\"td/*\"] }]", None);
    check("from = [{ not_principals = [\"*\"] }]", None);
    check(
        "from = [{ not_principals = [\"*\"], namespaces = [\"a\"] }]",
        Some("policy.rule[1].from[1].namespaces requires a principal"),
    );
    check("from = [{ not_listeners = [\"*\"] }]", Some("policy.rule[1].from[1].not_listeners excludes every listener"));
    let sources = "from = [{ sources = [\"10.1.0.0/16\"], not_sources = [\"10.0.0.0/8\"] }]";
    check(sources, Some("policy.rule[1].from[1].sources has only values"));
    check("to = [{ commands = [] }]", Some("policy.rule[1].to[1].commands is an empty list"));
    check("to = [{ not_commands = [\"*\"] }]", Some("policy.rule[1].to[1].not_commands excludes every command"));
    let commands = "to = [{ commands = [\"find\", \"@write\"], not_commands = [\"f*\", \"@write\"] }]";
    check(commands, Some("policy.rule[1].to[1].commands has only values"));
    check("to = [{ commands = [\"find\"], not_commands = [\"@read\"] }]", None);
    check("to = [{ collections = [] }]", Some("policy.rule[1].to[1].collections is an empty list"));
    let databases = "to = [{ commands = [\"@read\"], databases = [\"a\"], not_databases = [\"*\"] }]";
    check(databases, Some("policy.rule[1].to[1].databases has only values"));
    let databases = "to = [{ commands = [\"@read\"], not_databases = [\"*\"] }]";
    check(databases, Some("policy.rule[1].to[1].not_databases excludes every database"));
    check("to = [{ not_databases = [\"*\"] }]", None);
    let sessions = "to = [{ commands = [\"@session\", \"endSessions\"], databases = [\"a\"] }]";
    check(sessions, Some("policy.rule[1].to[1].databases has no effect"));
    check("to = [{ commands = [\"@session\", \"find\"], databases = [\"a\"] }]", None);
}

#[test]
fn a_shadowed_rule_has_a_warning() {
    let check = |first: (&str, &str), second: (&str, &str), expected: Option<&str>| {
        let found = warnings(&(rule("first", first.0, first.1) + &rule("second", second.0, second.1)));
        match expected {
            None => assert!(found.is_empty(), "{first:?} {second:?}: {found:?}"),
            Some(expected) => {
                assert!(found.len() == 1 && found[0].contains(expected), "{first:?} {second:?}: {found:?}");
            }
        }
    };
    let orders = "to = [{ databases = [\"shop\"], collections = [\"orders\"] }]";
    let shop = "to = [{ databases = [\"s*\"] }]";
    check(
        ("deny", shop),
        ("deny", orders),
        Some("\"second\" has no effect: policy.rule[1], \"first\" already denies everything that it matches"),
    );
    check(("deny", orders), ("deny", shop), Some("policy.rule[1] \"first\" has no effect"));
    check(
        ("allow", shop),
        ("allow", orders),
        Some("policy.rule[2] \"second\" has no effect: policy.rule[1], \"first\" already allows everything"),
    );
    // A commit reaches no resource: the first rule does not match it, the second one does.
    check(("deny", shop), ("allow", orders), None);
    let finds = "to = [{ commands = [\"find\"], databases = [\"shop\"], collections = [\"orders\"] }]";
    check(
        ("deny", shop),
        ("allow", finds),
        Some("policy.rule[2] \"second\" allows nothing: policy.rule[1], \"first\" denies everything that it matches"),
    );
    check(("allow", shop), ("deny", orders), None);
    check(("audit", shop), ("audit", orders), None);
    check(("deny", orders), ("deny", orders), Some("policy.rule[2]"));
    check(("deny", "dry_run = true"), ("deny", orders), None);
    check(("deny", shop), ("deny", &format!("dry_run = true\n{orders}")), Some("policy.rule[2]"));
    let of = |who: &str, to: &str| format!("from = [{{ principals = [\"{who}\"] }}]\n{to}");
    check(("deny", &of("td/*", shop)), ("deny", &of("td/a", orders)), Some("policy.rule[2]"));
    check(("deny", &of("td/a", shop)), ("deny", &of("td/b", orders)), None);
    check(("deny", &of("td/a", shop)), ("deny", &of("td/a", orders)), Some("policy.rule[2]"));
    check(("deny", &of("*", shop)), ("deny", orders), None);
    let not = "to = [{ databases = [\"shop\"], not_collections = [\"carts\"] }]";
    check(("deny", not), ("deny", orders), Some("policy.rule[2]"));
    check(("deny", not), ("deny", "to = [{ databases = [\"shop\"], collections = [\"c*\"] }]"), None);
    check(("allow", "to = [{ commands = [\"@read\"] }]"), ("allow", "to = [{ commands = [\"find\"] }]"), None);
    check(
        ("deny", "to = [{ commands = [\"f*\"] }]"),
        ("deny", "to = [{ commands = [\"find\"] }]"),
        Some("policy.rule[2]"),
    );
    // The first rule does not deny commands without a collection, and the second one allows them.
    let any = "to = [{ databases = [\"shop\"], collections = [\"*\"] }]";
    check(("deny", any), ("allow", any), None);
    check(("deny", any), ("deny", any), Some("policy.rule[2]"));
    // A rule that names a command matches more than a rule that only does not exclude it.
    check(("deny", ""), ("deny", "to = [{ commands = [\"ping\"] }]"), None);
    check(("deny", "to = [{ commands = [\"*\"] }]"), ("deny", "to = [{ commands = [\"@session\"] }]"), None);
    let oplog = "to = [{ databases = [\"local\"], collections = [\"oplog.rs\"] }]";
    check(("allow", "to = [{ databases = [\"local\"] }]"), ("allow", oplog), None);
    check(("allow", "to = [{ commands = [\"*\"] }]"), ("allow", oplog), Some("policy.rule[2]"));
}

#[test]
fn many_rules_are_analysed_in_reasonable_time() {
    let start = std::time::Instant::now();
    let entry = |n: usize| format!("from = [{{ principals = [\"td/a\"] }}]\nto = [{{ collections = [\"c{n}\"] }}]");
    let rules: String = (0..500).map(|n| rule(&format!("r{n}"), "deny", &entry(n))).collect();
    assert_eq!(warnings(&rules), Vec::<String>::new());
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn policies_with_different_meanings_have_different_fingerprints() {
    let first = rule("a", "deny", "to = [{ commands = [\"findandmodify\", \"find\"], databases = [\"x\", \"y\"] }]");
    let same = rule(
        "a",
        "deny",
        "dry_run = false\nto = [{ databases = [\"y\", \"x\", \"y\"], commands = [\"find\", \"findAndModify\"] }]",
    );
    let fingerprint = |rules: &str| policy(rules).fingerprint().to_owned();
    assert_eq!(fingerprint(&first), fingerprint(&same));
    assert!(fingerprint(&first).len() == 64 && fingerprint(&first).bytes().all(|byte| byte.is_ascii_hexdigit()));
    // The fingerprint is the same on every machine and in every version with the same canonical form.
    let fixed = "[policy]\ndeny_javascript = true\n";
    assert_eq!(fingerprint(fixed), "95a7b7e34b84dfa9d98476146345406879246a2c0445d10ca90de17d3fc3185a");

    let others = [
        rule("b", "deny", "to = [{ commands = [\"findandmodify\", \"find\"], databases = [\"x\", \"y\"] }]"),
        rule("a", "audit", "to = [{ commands = [\"findandmodify\", \"find\"], databases = [\"x\", \"y\"] }]"),
        rule("a", "deny", "to = [{ commands = [\"find*\"], databases = [\"x\"] }]"),
        rule("a", "deny", "to = [{ not_commands = [\"findandmodify\", \"find\"], databases = [\"x\", \"y\"] }]"),
        rule("a", "deny", "to = [{ commands = [\"findandmodify\", \"find\"], not_databases = [\"x\", \"y\"] }]"),
        rule("a", "deny", "to = [{ commands = [\"findandmodify\", \"find\"] }, { databases = [\"x\", \"y\"] }]"),
        rule("a", "deny", ""),
        rule("a", "deny", "from = []"),
        rule("a", "deny", "to = []"),
        rule("a", "deny", "from = [{}]"),
        rule("a", "deny", "from = [{ principals = [] }]"),
        rule("a", "deny", "from = [{ principals = [\"x\"] }]"),
        rule("a", "deny", "from = [{ namespaces = [\"x\"] }]"),
        rule("a", "deny", "from = [{ sources = [\"::1\"] }]"),
        rule("a", "deny", "from = [{ not_sources = [\"::1\"] }]"),
        rule("a", "deny", "dry_run = true"),
        format!("[policy]\nenforcement = \"dry-run\"\n{}", rule("a", "deny", "")),
        format!("[policy]\ndeny_javascript = true\n{}", rule("a", "deny", "")),
        format!("[policy]\nknown_commands = {{ newThing = \"@admin\" }}\n{}", rule("a", "deny", "")),
        format!("[policy]\nknown_commands = {{ newThing = \"@read\" }}\n{}", rule("a", "deny", "")),
        format!("[policy]\nknown_commands = {{ \"$newThing\" = \"@read\" }}\n{}", rule("a", "deny", "")),
    ];
    let mut seen = std::collections::BTreeSet::from([fingerprint(&first)]);
    for other in &others {
        assert!(seen.insert(fingerprint(other)), "{other}");
    }
}
