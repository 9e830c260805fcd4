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
    let problems = Policy::compile(&config(&rules), std::time::SystemTime::now()).unwrap_err();
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
        let problems = Policy::compile(&config(&rules), std::time::SystemTime::now()).unwrap_err();
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

/// All warnings except those about what a `deny` rule leaves open or denies as well.
fn warnings(rules: &str) -> Vec<String> {
    let is_other =
        |warning: &String| !["also denies every caller", "stays open"].iter().any(|text| warning.contains(text));
    all_warnings(rules).into_iter().filter(is_other).collect()
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
    let orders = "commands = [\"@read\"], collections = [\"shop.orders\"]";
    check(&one("deny", &format!("databases = [\"shop\"], {orders}")), &[qualified]);
    check(&(one("deny", orders) + &rule("b", "deny", "to = [{ databases = [\"shop\"] }]")), &[qualified]);
    check(&one("deny", &format!("databases = [\"other\"], {orders}")), &[]);
    check(
        &one("deny", "commands = [\"@read\"], databases = [\"shop\"], collections = [\"shop.*\"]"),
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
fn a_collection_that_may_have_its_database_in_front_has_a_warning() {
    let check = |keys: &str, expected: Option<&str>| {
        let found = all_warnings(&rule("r", "deny", &format!("to = [{{ commands = [\"@read\"], {keys} }}]")));
        match expected {
            None => assert!(found.is_empty(), "{keys}: {found:?}"),
            Some(expected) => assert_eq!(found, [expected], "{keys}"),
        }
    };
    check(
        "collections = [\"shop.orders\"]",
        Some(
            "policy.rule[1].to[1].collections has \"shop.orders\", which is compared with names of collections, \
             without the database; if \"shop\" is a database, write databases = [\"shop\"] and collections = \
             [\"orders\"], otherwise add databases",
        ),
    );
    check(
        "not_collections = [\"shop.*\"]",
        Some(
            "policy.rule[1].to[1].collections has \"shop.*\", which is compared with names of collections, without the \
             database; if \"shop\" is a database, write databases = [\"shop\"] and collections = [\"*\"], otherwise \
             add databases",
        ),
    );
    check("collections = [\"orders\"]", None);
    check("collections = [\"*.orders\"]", None);
    check("databases = [\"other\"], collections = [\"shop.orders\"]", None);
    for usual in ["fs.files", "fs.chunks", "photos.files", "system.profile", "system.*", "enxcol_.orders.esc"] {
        check(&format!("collections = [\"{usual}\"]"), None);
    }
    check("collections = [\"carts\", \"carts.*\", \"carts.items\"]", None);
}

#[test]
fn a_deny_of_some_reads_has_a_warning_that_says_what_stays_open() {
    const OPEN: &str = "policy.rule[1].to[1].commands names only some of the commands that show this data; the rest \
                        stays open because there is no allow rule: ";
    const BY_RULE: &str = "policy.rule[1].to[1].commands names only some of the commands that show this data; the rest \
                           stays open where another rule allows it: ";
    let check = |rules: &str, expected: Option<(&str, &str)>| {
        let found = all_warnings(rules);
        match expected {
            None => assert!(found.is_empty(), "{rules}: {found:?}"),
            Some((start, open)) => {
                assert_eq!(found, [format!("{start}{open}; write \"@read\" to deny all of it")], "{rules}");
            }
        }
    };
    let one = |commands: &str| format!("to = [{{ commands = {commands}, databases = [\"shop\"] }}]");
    let windows = "change streams, reads of system.profile and of the oplog, currentOp, getLog";
    let without_find = format!("aggregate, count, distinct, findAndModify, mapReduce, {windows}");
    let find = rule("d", "deny", &one("[\"find\", \"getMore\"]"));
    check(&find, Some((OPEN, &without_find)));
    check(
        &rule("d", "deny", &one("[\"find\", \"aggregate\", \"count\", \"distinct\", \"mapReduce\", \"@write\"]")),
        Some((OPEN, "currentOp, getLog")),
    );
    check(
        &rule("d", "deny", &one("[\"aggregate\"]")),
        Some((
            OPEN,
            "count, distinct, find, findAndModify, mapReduce, reads of system.profile and of the oplog, currentOp, \
             getLog",
        )),
    );
    check(&rule("d", "deny", &one("[\"@read\"]")), None);
    check(&rule("d", "deny", &one("[\"find\", \"*\"]")), None);
    check(&rule("d", "deny", &one("[\"drop\"]")), None);
    // These are about a command, not about data.
    check(&rule("d", "deny", "to = [{ commands = [\"aggregate\", \"mapReduce\"] }]"), None);
    check(&rule("d", "deny", &format!("dry_run = true\n{}", one("[\"find\"]"))), None);
    // Another rule denies the rest.
    check(&(find.clone() + &rule("e", "deny", "to = [{ commands = [\"@read\"], databases = [\"s*\"] }]")), None);
    // With allow rules, only what they allow stays open.
    let of = |who: &str| format!("from = [{{ principals = [\"{who}\"] }}]\n");
    let allow = |commands: &str| rule("a", "allow", &format!("to = [{{ commands = [\"{commands}\"] }}]"));
    check(&(find.clone() + &allow("@read")), Some((BY_RULE, &without_find)));
    check(&(find.clone() + &allow("currentOp")), None);
    check(&(find.clone() + &allow("@admin")), Some((BY_RULE, &without_find)));
    check(&(find.clone() + &allow("insert")), None);
    let of_a = rule("d", "deny", &format!("{}{}", of("a"), one("[\"find\"]")));
    let others = |who: &str| rule("a", "allow", &of(who)) + &rule("b", "allow", &of("c"));
    check(&(of_a.clone() + &others("b")), None);
    check(&(of_a + &others("a")), Some((BY_RULE, &without_find)));
}

#[test]
fn a_single_allow_rule_that_denies_the_rest_has_a_warning() {
    let check = |allow: &str, others: &str, expected: Option<&str>| {
        let found = all_warnings(&(rule("a", "allow", allow) + others));
        match expected {
            None => assert!(found.is_empty(), "{allow} {others}: {found:?}"),
            Some(expected) => {
                assert!(found.len() == 1 && found[0].starts_with(expected), "{allow} {others}: {found:?}");
            }
        }
    };
    let callers = "policy.rule[1].action is the only allow rule, so all other callers are denied every command";
    let rest = "policy.rule[1].action is the only allow rule, so everything that it does not match is denied to every \
                caller";
    let of_cart = "from = [{ principals = [\"cart\"] }]";
    let reports = "to = [{ databases = [\"reports\"] }]";
    let drops = rule("d", "deny", "to = [{ commands = [\"drop\"] }]");
    let orders =
        rule("e", "deny", "to = [{ commands = [\"@read\"], databases = [\"shop\"], collections = [\"orders\"] }]");
    check(of_cart, &drops, Some(callers));
    check("from = [{ namespaces = [\"shop\"] }]", &orders, Some(callers));
    check(reports, &orders, Some(rest));
    check(reports, &(drops.clone() + &orders), Some(rest));
    // A deny rule that takes something out of the allow list is what an allow list is for.
    check("to = [{ databases = [\"shop\"] }]", &orders, None);
    check(reports, &drops, None);
    check("", &orders, None);
    // Without a deny rule, the operator wants an allow list.
    check(of_cart, "", None);
    check(reports, "", None);
    check(of_cart, &rule("d", "deny", "dry_run = true"), None);
    check(of_cart, &(drops + &rule("b", "allow", "from = [{ principals = [\"reports\"] }]")), None);
}

#[test]
fn many_rules_are_searched_for_pitfalls_in_reasonable_time() {
    let start = std::time::Instant::now();
    let entry = |n: usize| format!("to = [{{ commands = [\"find\"], databases = [\"d{n}\"] }}]");
    let allow = |n: usize| rule(&format!("a{n}"), "allow", &format!("to = [{{ databases = [\"d{n}\"] }}]"));
    let rules: String = (0..300).map(|n| rule(&format!("r{n}"), "deny", &entry(n)) + &allow(n)).collect();
    let open = all_warnings(&rules).iter().filter(|warning| warning.contains("stays open")).count();
    assert_eq!(open, 300);
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
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
