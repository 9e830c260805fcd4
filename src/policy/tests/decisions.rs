//! Tables of rules, a caller and commands, with the expected judgement of each command.

use super::*;

/// A judgement as the cases write it: `-` (allowed without a rule), `allow LABEL` or `deny LABEL`; then `audit LABEL`
/// or `would LABEL` for each note.
fn text(policy: &Policy, judgement: &Judgement) -> String {
    let grounds = |grounds: Grounds| policy.label(grounds).to_owned();
    let mut text = match (judgement.effect, judgement.grounds) {
        (Effect::Allow, Grounds::NoRule) => "-".to_owned(),
        (Effect::Allow, why) => format!("allow {}", grounds(why)),
        (Effect::Deny, why) => format!("deny {}", grounds(why)),
    };
    for (note, why) in &judgement.notes {
        text += if *note == Note::Audit { ", audit " } else { ", would " };
        text += &grounds(*why);
    }
    text
}

fn check_as(who: &str, rules: &str, cases: &[(&str, &str)]) {
    let policy = policy(rules);
    let who = principal(who);
    let view = policy.view(&caller(who.as_ref()));
    for (command, expected) in cases {
        assert_eq!(text(&policy, &view.judge(&meaning(command))), *expected, "{command} under {rules}");
    }
}

fn check(rules: &str, cases: &[(&str, &str)]) {
    check_as("cluster.local/ns/shop/sa/cart", rules, cases);
}

/// A rule of `action`, named `r`, whose `to` has one entry with these keys.
fn rule(action: &str, to: &str) -> String {
    named("r", action, &format!("to = [{{ {to} }}]"))
}

fn named(name: &str, action: &str, lines: &str) -> String {
    format!("[[policy.rule]]\nname = \"{name}\"\naction = \"{action}\"\n{lines}\n")
}

const NONE: &str = "deny (no allow rule)";

#[test]
fn deny_rules_come_first_and_an_allow_rule_is_needed_if_there_is_any() {
    let deny = named("d", "deny", "to = [{ collections = [\"orders\"] }]");
    let allow = named("a", "allow", "to = [{ databases = [\"shop\"] }]");
    let audit = named("l", "audit", "to = [{ commands = [\"@read\"] }]");
    let cases = [("find shop.orders", "deny d"), ("find shop.carts", "-"), ("find vault.x", "-")];
    check(&deny, &cases);
    let cases = [("find shop.orders", "allow a"), ("find shop.carts", "allow a"), ("find vault.x", NONE)];
    check(&allow, &cases);
    let cases = [("find shop.orders", "deny d"), ("find shop.carts", "allow a"), ("find vault.x", NONE)];
    check(&format!("{allow}{deny}"), &cases);
    let cases = [("find shop.orders", "-, audit l"), ("insert shop.orders", "-")];
    check(&audit, &cases);
    let cases = [
        ("find shop.orders", "deny d, audit l"),
        ("insert shop.carts", "allow a"),
        ("find v.x", "deny (no allow rule), audit l"),
    ];
    check(&format!("{allow}{deny}{audit}"), &cases);
    // An allow rule for other callers means default deny for this one.
    let others = named("a", "allow", "from = [{ principals = [\"other\"] }]");
    check(&others, &[("find shop.orders", NONE), ("ping admin", "allow (handshake)")]);
}

#[test]
fn every_resource_is_judged_and_the_strictest_result_counts() {
    let rules = named("d", "deny", "to = [{ databases = [\"vault\"] }]")
        + &named("a", "allow", "to = [{ commands = [\"@read\"], databases = [\"shop\"] }]");
    let policy = policy(&rules);
    let view = policy.view(&caller(None));
    let check = |command: &str, expected: &str, reach: Option<usize>| {
        let judgement = view.judge(&meaning(command));
        assert_eq!((text(&policy, &judgement).as_str(), judgement.reach), (expected, reach), "{command}");
    };
    check("aggregate shop.a, shop.b", "allow a", Some(0));
    check("aggregate shop.a, other.b", NONE, Some(1));
    check("aggregate other.a, shop.b, vault.c, vault.d", "deny d", Some(2));
    check("aggregate shop.a, @write shop.b", NONE, Some(1));
    check("aggregate shop.a, @write vault.b", "deny d", Some(1));
}

#[test]
fn the_first_rule_that_decides_is_named() {
    let rules = named("first", "deny", "to = [{ databases = [\"s*\"], not_collections = [\"a\"] }]")
        + &named("second", "deny", "to = [{ databases = [\"shop\"] }]")
        + &named("third", "deny", "to = [{ collections = [\"a\", \"b\"] }]");
    check(&rules, &[("find shop.b", "deny first"), ("find shop.a", "deny second"), ("find x.a", "deny third")]);
}

#[test]
fn commands_are_names_patterns_and_classes() {
    let decide = |words: &str, denied: &[&str], passed: &[&str]| {
        let rules = rule("deny", words);
        for (commands, expected) in [(denied, "deny r"), (passed, "-")] {
            check(&rules, &commands.iter().map(|command| (*command, expected)).collect::<Vec<_>>());
        }
    };
    decide("commands = [\"find\"]", &["find s.a"], &["findAndModify s.a", "count s.a"]);
    decide("commands = [\"find*\"]", &["find s.a", "findAndModify s.a"], &["count s.a"]);
    decide("commands = [\"findandmodify\"]", &["findAndModify s.a"], &["find s.a"]);
    decide("commands = [\"aggregate\"]", &["aggregate s.a", "aggregate s.a, @write s.b"], &["find s.a"]);
    decide("commands = [\"@write\"]", &["insert s.a", "aggregate s.a, @write s.b"], &["aggregate s.a", "drop s.a"]);
    decide("commands = [\"@ddl\"]", &["drop s.a", "create s.a, @read s.b"], &["insert s.a"]);
    decide("commands = [\"@session\"]", &["endSessions -", "commitTransaction -"], &["find s.a"]);
    decide("commands = [\"@admin-read\"]", &["serverStatus admin"], &["currentOp *", "usersInfo s"]);
    decide("commands = [\"@admin\"]", &["currentOp *"], &["serverStatus admin", "usersInfo s"]);
    decide("commands = [\"@user-admin\"]", &["usersInfo s"], &["currentOp *"]);
    decide("commands = [\"@cluster\"]", &["replSetGetStatus admin"], &["currentOp *"]);
    decide("commands = [\"@javascript\"]", &["javascript find s.a"], &["find s.a"]);
    decide("commands = [\"*\"]", &["find s.a", "shutdown admin", "eval s", "commitTransaction -"], &[]);
    decide("not_commands = [\"@read\"]", &["insert s.a", "aggregate s.a, @write s.b"], &["find s.a"]);
    decide("commands = [\"@read\"], not_commands = [\"count\"]", &["find s.a"], &["count s.a"]);
    decide("commands = []", &[], &["find s.a"]);
    decide("not_commands = [\"*\"]", &[], &["find s.a"]);
}

#[test]
fn an_explained_command_is_judged_as_itself_and_as_explain() {
    check(&rule("deny", "commands = [\"find\"]"), &[("explain find s.a", "deny r"), ("explain count s.a", "-")]);
    check(&rule("deny", "commands = [\"explain\"]"), &[("explain find s.a", "deny r"), ("find s.a", "-")]);
    check(&rule("deny", "commands = [\"@read\"]"), &[("explain find s.a", "deny r"), ("explain update s.a", "-")]);
    let not_explain = rule("deny", "not_commands = [\"explain\"]");
    check(&not_explain, &[("explain find s.a", "deny r")]);
    check(&rule("allow", "commands = [\"find\"]"), &[("explain find s.a", "allow r"), ("explain count s.a", NONE)]);
    check(&rule("allow", "commands = [\"explain\"]"), &[("explain find s.a", NONE)]);
    let without = rule("allow", "commands = [\"@read\"], not_commands = [\"explain\"]");
    check(&without, &[("explain find s.a", NONE), ("find s.a", "allow r")]);
    // An explained ping does not belong to the handshake.
    check(&rule("allow", "commands = [\"find\"]"), &[("explain ping admin", NONE)]);
}

/// For each resource: whether an `allow` entry with these keys allows it, and whether a `deny` entry denies it.
fn check_resources(keys: &str, cases: &[(&str, bool, bool)]) {
    for (resource, allowed, denied) in cases {
        let command = format!("aggregate {resource}");
        check(&rule("allow", keys), &[(&command, if *allowed { "allow r" } else { NONE })]);
        check(&rule("deny", keys), &[(&command, if *denied { "deny r" } else { "-" })]);
    }
}

#[test]
fn an_allow_must_cover_a_whole_resource_and_a_deny_must_overlap_with_it() {
    const RESOURCES: [&str; 8] =
        ["-", "shop", "shop.orders", "shop.*", "*", "shop.system.profile>", "local.oplog.rs>>", "vault.x"];
    let check = |keys: &str, allowed: [u8; 8], denied: [u8; 8]| {
        let cases: Vec<_> = (0..8).map(|at| (RESOURCES[at], allowed[at] == 1, denied[at] == 1)).collect();
        check_resources(keys, &cases);
    };
    check("", [1; 8], [1; 8]);
    check("databases = [\"*\"]", [1; 8], [1; 8]);
    // A command without a collection does not match a deny with `collections`.
    check("collections = [\"*\"]", [1; 8], [1, 0, 1, 1, 1, 1, 1, 1]);
    check("databases = [\"shop\"]", [1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]);
    check("databases = [\"sh*\", \"x\"]", [1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]);
    check("databases = [\"*op\"]", [1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]);
    check("not_databases = [\"vault\"]", [1, 1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]);
    check("not_databases = [\"*\"]", [1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]);
    check("collections = [\"orders\"]", [1, 0, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0]);
    let of_shop = "databases = [\"shop\"], collections = [\"orders\"]";
    check(of_shop, [1, 0, 1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0]);
    check("databases = [\"shop\"], collections = [\"*\"]", [1, 1, 1, 1, 0, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1, 0]);
    check("not_collections = [\"orders\"]", [1, 1, 0, 0, 0, 0, 0, 1], [1, 1, 0, 1, 1, 1, 1, 1]);
    check("not_collections = [\"*\"]", [1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]);
    check("databases = []", [0; 8], [0; 8]);
    check("collections = []", [0; 8], [0; 8]);
}

#[test]
fn a_system_collection_is_allowed_with_everything_that_it_exposes_or_by_its_name() {
    let check_exposing = |keys: &str, on_database: bool, on_server: bool| {
        let expected = |allowed| if allowed { "allow r" } else { NONE };
        let cases = [("find s.system.profile>", expected(on_database)), ("find local.oplog.rs>>", expected(on_server))];
        check(&rule("allow", keys), &cases);
    };
    check_exposing("databases = [\"s\", \"local\"]", true, false);
    check_exposing("databases = [\"s\", \"local\"], collections = [\"x*\"]", false, false);
    check_exposing("collections = [\"system.profile\", \"oplog.rs\"]", true, false);
    check_exposing("databases = [\"*\"], collections = [\"system.profile\", \"oplog.rs\"]", true, false);
    check_exposing("databases = [\"s\", \"local\"], collections = [\"system.profile\", \"oplog.rs\"]", true, true);
    check_exposing("databases = [\"s\", \"lo*\"], collections = [\"system.*\", \"oplog*\"]", true, true);
    check_exposing("databases = [\"s\", \"local\"], collections = [\"sys*\", \"*s\", \"*profile\"]", false, false);
    check_exposing("databases = [\"s\", \"local\"], not_collections = [\"x\"]", false, false);
    check_exposing(
        "databases = [\"s\", \"local\"], collections = [\"*\", \"oplog.rs\"], not_collections = [\"x\"]",
        false,
        true,
    );
    check_exposing("databases = [\"s\"], collections = [\"system.*\"], not_collections = [\"*profile\"]", false, false);
    check_exposing("not_databases = [\"x\"]", true, false);
    check_exposing("commands = [\"find\"]", true, true);
}

#[test]
fn the_handshake_passes_unless_a_deny_rule_names_it() {
    let all = [
        "hello",
        "isMaster",
        "ping",
        "buildInfo",
        "connectionStatus",
        "atlasVersion",
        "listCommands",
        "whatsmyuri",
        "isdbgrid",
        "essential endSessions",
        "essential getLog",
        "essential getParameter",
        "essential hostInfo",
        "saslStart",
        "saslContinue",
        "authenticate",
        "getnonce",
        "logout",
    ];
    let nothing = rule("allow", "commands = [\"insert\"], databases = [\"none\"]");
    let everything = named("d", "deny", "") + &named("e", "deny", "to = [{ commands = [\"*\"], databases = [\"*\"] }]");
    for name in all {
        let command = format!("{name} admin");
        check(&nothing, &[(&command, "allow (handshake)")]);
        check(&everything, &[(&command, "allow (handshake)")]);
        let name = name.trim_start_matches("essential ");
        check(&rule("deny", &format!("commands = [\"*\", \"{name}\"]")), &[(&command, "deny r")]);
        check(&rule("audit", &format!("commands = [\"{name}\"]")), &[(&command, "allow (handshake), audit r")]);
    }
    check(&named("l", "audit", ""), &[("ping admin", "allow (handshake)"), ("find s.a", "-, audit l")]);
    for name in ["endSessions", "refreshSessions", "killSessions", "commitTransaction", "abortTransaction"] {
        let command = format!("essential {name} @session -");
        check(&nothing, &[(&command, "allow (handshake)")]);
        check(&everything, &[(&command, "allow (handshake)")]);
        check(&rule("deny", &format!("commands = [\"{name}\"]")), &[(&command, "deny r")]);
        check(&rule("deny", "commands = [\"@session\"]"), &[(&command, "deny r")]);
    }
    check(&rule("deny", "commands = [\"@admin\"]"), &[("essential killSessions @session -", "allow (handshake)")]);
    check(&rule("deny", "commands = [\"p*\"]"), &[("ping admin", "deny r")]);
    check(&rule("deny", "commands = [\"p*\"], not_commands = [\"ping\"]"), &[("ping admin", "allow (handshake)")]);
    check(&nothing, &[("getLog *", NONE), ("startSession -", NONE), ("getParameter admin", NONE)]);
    check_as(
        "-",
        &named("d", "deny", "from = [{ principals = [\"x\"] }]\nto = [{ commands = [\"ping\"] }]"),
        &[("ping admin", "allow (handshake)")],
    );
}

#[test]
fn an_incidental_reach_needs_no_allow_and_can_be_denied() {
    let log = "getLog *, ~@read *";
    check(&rule("allow", "commands = [\"@admin-read\"]"), &[(log, "allow r")]);
    check(&rule("allow", "commands = [\"@read\"]"), &[(log, NONE)]);
    check(&rule("deny", "commands = [\"@read\"], databases = [\"vault\"]"), &[(log, "deny r")]);
    check(&rule("deny", "commands = [\"@read\"], collections = [\"x\"]"), &[(log, "deny r")]);
    check(&rule("deny", "commands = [\"find\"], databases = [\"vault\"]"), &[(log, "-")]);
    check(&rule("deny", "commands = [\"@write\"], databases = [\"vault\"]"), &[(log, "-")]);
    let rules = rule("allow", "commands = [\"@admin\"]") + &named("d", "deny", "to = [{ commands = [\"@read\"] }]");
    check(&rules, &[("splitVector a.b, ~@read a.b", "deny d")]);
    check(&rule("audit", "commands = [\"@read\"]"), &[(log, "-, audit r")]);
    let dry = "dry_run = true\nto = [{ commands = [\"@admin-read\"] }]";
    check(&named("dry", "allow", dry), &[(log, "-")]);
}

#[test]
fn stored_functions_are_allowed_with_their_database_or_by_their_name() {
    let find = "find s.orders, @read s.system.js=";
    let allow = |keys: &str, expected: &str| check(&rule("allow", keys), &[(find, expected)]);
    allow("databases = [\"s\"]", "allow r");
    allow("databases = [\"s\"], collections = [\"*\"]", "allow r");
    allow("collections = [\"orders\", \"system.js\"]", "allow r");
    allow("collections = [\"orders\", \"*s\", \"s*\"]", NONE);
    allow("collections = [\"orders\"]", NONE);
    allow("not_collections = [\"x\"]", NONE);
    let deny = |keys: &str, expected: &str| check(&rule("deny", keys), &[(find, expected)]);
    deny("commands = [\"@read\"], collections = [\"secret\"]", "-");
    deny("commands = [\"@read\"], collections = [\"system.*\"]", "deny r");
    deny("commands = [\"@read\"], databases = [\"s\"], not_collections = [\"orders\"]", "deny r");
}

#[test]
fn stored_functions_are_searched_for_only_if_they_can_change_the_effect() {
    let check = |rules: &str, expected: bool| {
        assert_eq!(policy(rules).view(&caller(None)).read_options().stored_functions, expected, "{rules}");
    };
    check(&rule("deny", "commands = [\"@read\"], collections = [\"orders\"]"), false);
    check(&rule("deny", "commands = [\"@write\"]"), false);
    check(&rule("deny", "commands = [\"@read\"], databases = [\"vault\"]"), true);
    check(&rule("deny", "commands = [\"find\"]"), true);
    check(&rule("audit", ""), true);
    check(&rule("allow", "collections = [\"orders\"]"), true);
    check(&rule("allow", "commands = [\"@read\"]"), true);
    check(&named("a", "allow", ""), false);
    check(&named("a", "allow", "dry_run = true"), true);
    check(&named("a", "allow", "from = [{ principals = [\"x\"] }]"), true);
    check("[policy]\ndeny_javascript = true\n", false);
}

#[test]
fn deny_javascript_applies_to_every_caller() {
    let rules = "[policy]\ndeny_javascript = true\n";
    let cases =
        [("javascript find s.a", "deny (deny_javascript)"), ("find s.a", "-"), ("ping admin", "allow (handshake)")];
    check(rules, &cases);
    let allow = format!("{rules}{}", rule("allow", "commands = [\"@javascript\", \"find\"]"));
    check(&allow, &[("javascript find s.a", "deny (deny_javascript)"), ("find s.a", "allow r")]);
    check(
        &rule("allow", "commands = [\"*\"], not_commands = [\"@javascript\"]"),
        &[("javascript find s.a", NONE), ("find s.a", "allow r")],
    );
}

#[test]
fn commands_are_searched_for_javascript_only_if_a_rule_needs_it() {
    let check = |rules: &str, who: &str, expected: bool| {
        let who = principal(who);
        assert_eq!(policy(rules).view(&caller(who.as_ref())).read_options().javascript, expected, "{rules}");
    };
    check("[policy]\ndeny_javascript = true\n", "-", true);
    check(&rule("deny", "commands = [\"find\"]"), "-", false);
    check(&rule("deny", "commands = [\"@javascript\"]"), "-", true);
    check(&rule("allow", "not_commands = [\"@javascript\"]"), "-", true);
    let of_x = named("r", "audit", "from = [{ principals = [\"x\"] }]\nto = [{ commands = [\"@javascript\"] }]");
    check(&of_x, "-", false);
    check(&of_x, "x", true);
}

#[test]
fn a_dry_run_allows_everything_and_notes_what_it_would_deny() {
    let dry = "[policy]\nenforcement = \"dry-run\"\n";
    let rules = named("d", "deny", "to = [{ databases = [\"vault\"] }]")
        + &named("a", "allow", "to = [{ databases = [\"shop\", \"vault\"] }]");
    let cases = [
        ("find shop.a", "allow a"),
        ("find vault.a", "-, would d"),
        ("find other.a", "-, would (no allow rule)"),
        ("ping admin", "allow (handshake)"),
    ];
    check(&format!("{dry}{rules}"), &cases);
    check(&format!("{dry}deny_javascript = true\n"), &[("javascript find s.a", "-, would (deny_javascript)")]);

    let unclear = |rules: &str| {
        let policy = policy(rules);
        text(&policy, &policy.view(&caller(None)).deny(Grounds::Unclear))
    };
    assert_eq!(unclear(&rules), "deny (not understood)");
    assert_eq!(unclear(&format!("{dry}{rules}")), "-, would (not understood)");
    // No rule is enforced, so a command that cannot be understood passes too.
    assert_eq!(unclear(&named("d", "deny", "dry_run = true")), "-, would (not understood)");
    assert_eq!(unclear(&named("l", "audit", "")), "-, would (not understood)");
    assert_eq!(unclear(&(named("l", "audit", "") + &named("d", "deny", "from = []"))), "deny (not understood)");
    assert_eq!(unclear("[policy]\ndeny_javascript = true\n"), "deny (not understood)");
}

#[test]
fn a_rule_with_dry_run_only_notes_what_it_would_change() {
    let dry_deny = named("dry", "deny", "dry_run = true\nto = [{ databases = [\"vault\"] }]");
    check(&dry_deny, &[("find vault.a", "-, would dry"), ("find shop.a", "-")]);
    let deny = named("d", "deny", "to = [{ collections = [\"x\"] }]");
    check(
        &format!("{dry_deny}{deny}"),
        &[("find vault.x", "deny d"), ("find vault.a", "-, would dry"), ("find shop.x", "deny d")],
    );

    // With the first allow rule as a dry run, everything that it does not match would be denied.
    let dry_allow = named("dry", "allow", "dry_run = true\nto = [{ databases = [\"shop\"] }]");
    check(
        &dry_allow,
        &[("find shop.a", "-"), ("find x.a", "-, would (no allow rule)"), ("ping admin", "allow (handshake)")],
    );
    // A further allow rule allows nothing until it is enforced.
    let allow = named("a", "allow", "to = [{ databases = [\"x\"] }]");
    check(
        &format!("{dry_allow}{allow}"),
        &[("find shop.a", NONE), ("find x.a", "allow a"), ("find shop.a, x.a", NONE)],
    );

    let policy = policy(&(dry_deny + &allow));
    let judgement = policy.view(&caller(None)).judge(&meaning("aggregate x.a, x.b"));
    assert_eq!((judgement.grounds, judgement.reach), (Grounds::Rule(RuleId(1)), Some(0)));
    let rules = named("dry", "deny", "dry_run = true\nto = [{ collections = [\"b\"] }]");
    let judgement = super::policy(&rules).view(&caller(None)).judge(&meaning("aggregate x.a, x.b"));
    assert_eq!(judgement.reach, Some(1), "the resource that would be denied");
}

#[test]
fn each_matching_audit_rule_adds_one_note() {
    let audits = |count: usize| {
        (0..count).map(|n| named(&format!("l{n}"), "audit", "to = [{}, { databases = [\"a\"] }]")).collect::<String>()
    };
    for count in [1, 2, 3, 7, 8, 9, 70] {
        let policy = policy(&audits(count));
        let judgement = policy.view(&caller(None)).judge(&meaning("aggregate a.x, a.y, b.z"));
        let mut notes = judgement.notes.to_vec();
        notes.dedup();
        assert_eq!(notes.len(), count);
        assert!(notes.iter().all(|(note, _)| *note == Note::Audit));
    }
}

#[test]
fn all_facts_about_a_caller_decide_whether_a_rule_applies() {
    const CART: &str = "cluster.local/ns/shop/sa/cart";
    let check = |from: &str, cases: &[(&str, Option<&str>, &str, bool)]| {
        let policy = policy(&named("d", "deny", &format!("from = [{from}]")));
        for (who, source, listener, expected) in cases {
            let who = principal(who);
            let source = source.map(|text| text.parse().unwrap());
            let view = policy.view(&CallerFacts { principal: who.as_ref(), source, listener });
            let judgement = view.judge(&meaning("find shop.a"));
            assert_eq!(judgement.effect == Effect::Deny, *expected, "{from} {who:?} {source:?} {listener}");
            assert_eq!(view.rules().len(), usize::from(*expected));
        }
    };
    let who = |text: &'static str, expected: bool| (text, None, "orders", expected);
    check("{}", &[who("-", true), who(CART, true)]);
    check("", &[who("-", false), who(CART, false)]);
    check(&format!("{{ principals = [\"{CART}\"] }}"), &[who(CART, true), who("x", false), who("-", false)]);
    check("{ principals = [\"spiffe://cluster.local/ns/shop/*\"] }", &[who(CART, true), who("-", false)]);
    check("{ principals = [\"*\"] }", &[who(CART, true), who("CN=x", true), who("-", false)]);
    check("{ not_principals = [\"*\"] }", &[who(CART, false), who("-", true)]);
    check("{ not_principals = [\"CN=x\"] }", &[who(CART, true), who("CN=x", false), who("-", true)]);
    check("{ principals = [] }", &[who(CART, false), who("-", false)]);
    check("{ namespaces = [\"shop\"] }", &[who(CART, true), who("CN=x", false), who("cluster.local/x", false)]);
    check("{ not_namespaces = [\"shop\"] }", &[who(CART, false), who("CN=x", true), who("-", true)]);
    check("{ namespaces = [\"*\"] }", &[who(CART, true), who("CN=x", false), who("-", false)]);
    check("{ listeners = [\"other\"] }", &[who(CART, false), ("-", None, "other", true)]);
    check("{ not_listeners = [\"o*\"] }", &[who(CART, false), ("-", None, "other", false)]);
    let from = |source: &'static str, expected: bool| ("-", Some(source), "orders", expected);
    let networks = "{ sources = [\"10.0.0.0/8\", \"fd00::/8\"], not_sources = [\"10.9.0.0/16\"] }";
    let cases = [from("10.1.0.1", true), from("::ffff:10.1.0.1", true), from("10.9.0.1", false), from("fd00::1", true)];
    check(networks, &cases);
    check(networks, &[from("11.0.0.1", false), who("-", false)]);
    check("{ sources = [\"::ffff:10.0.0.0/104\"] }", &[from("10.1.0.1", true), from("11.1.0.1", false)]);
    check("{ not_sources = [\"10.0.0.0/8\"] }", &[from("10.1.0.1", false), who("-", true)]);
    let both = format!("{{ principals = [\"{CART}\"], listeners = [\"other\"] }}, {{ sources = [\"::1\"] }}");
    check(&both, &[who(CART, false), (CART, None, "other", true), from("::1", true)]);
}

#[test]
fn callers_with_the_same_rules_share_a_rule_set() {
    let policy = policy(
        &(named("a", "deny", "from = [{ namespaces = [\"shop\"] }]\nto = [{ databases = [\"x\"] }]")
            + &named("b", "audit", "")
            + &named("c", "audit", "from = [{ namespaces = [\"else\"] }]")),
    );
    let (cart, stock, other) = (principal("td/ns/shop/sa/cart"), principal("td/ns/shop/sa/stock"), principal("CN=x"));
    let view = |who: &Option<Principal>| policy.view(&caller(who.as_ref()));
    let (first, second, third) = (view(&cart), view(&stock), view(&other));
    assert!(Arc::ptr_eq(&first.rule_set, &second.rule_set));
    assert!(!Arc::ptr_eq(&first.rule_set, &third.rule_set));
    assert_eq!((first.rules(), third.rules()), (&[RuleId(0), RuleId(1)][..], &[RuleId(1)][..]));
    drop((first, second));
    let of_else = principal("td/ns/else/sa/x");
    let _new = view(&of_else);
    assert_eq!(policy.rule_sets.lock().unwrap().len(), 2, "unused rule sets are dropped");
}

#[test]
fn the_error_message_of_a_denied_command_names_command_and_reason() {
    let policy = policy(&(named("full-sleep-may-not-read", "deny", "") + &named("a", "allow", "")));
    let check = |grounds: Grounds, expected: &str| {
        let sentence = Sentence {
            policy: &policy,
            grounds,
            database: Some("shop"),
            command: Some("find"),
            unclear: None,
            name: None,
            code: ErrorCode::UNAUTHORIZED,
        };
        assert_eq!(
            sentence.to_string(),
            format!("mongate: not authorized on shop to execute command find: {expected}")
        );
    };
    check(Grounds::Rule(RuleId(0)), "denied by rule \"full-sleep-may-not-read\"");
    check(Grounds::NoAllowRule, "no allow rule matches");
    check(Grounds::JavaScript, "the command runs JavaScript, and deny_javascript is set");
    check(Grounds::Cursor, "the cursor does not belong to this client");
    check(Grounds::Unclear, "the policy cannot judge this command");
}

#[test]
fn an_unknown_command_is_not_found_where_nothing_would_deny_it() {
    let check = |rules: &str, expected: ErrorCode| {
        let view = policy(rules).view(&caller(None));
        assert_eq!(view.code_of(Unclear::UnknownCommand), expected, "{rules}");
        assert_eq!(view.code_of(Unclear::Removed("eval")), expected, "{rules}");
        let stage = if expected == ErrorCode::COMMAND_NOT_FOUND { ErrorCode::UNKNOWN_STAGE } else { expected };
        assert_eq!(view.code_of(Unclear::UnknownStage), stage, "{rules}");
        let malformed = if expected == ErrorCode::COMMAND_NOT_FOUND { ErrorCode::TYPE_MISMATCH } else { expected };
        assert_eq!(view.code_of(Unclear::Pipeline), malformed, "{rules}");
        let name = if expected == ErrorCode::COMMAND_NOT_FOUND { ErrorCode::INVALID_NAMESPACE } else { expected };
        assert_eq!(view.code_of(Unclear::CollectionName), name, "{rules}");
        assert_eq!(view.code_of(Unclear::InternalStage), ErrorCode::UNAUTHORIZED);
    };
    let drop = rule("deny", "commands = [\"drop\"], collections = [\"unused\"]");
    check(&drop, ErrorCode::COMMAND_NOT_FOUND);
    check(&(drop + &named("a", "allow", "")), ErrorCode::COMMAND_NOT_FOUND);
    check(&rule("deny", "databases = [\"vault\"]"), ErrorCode::UNAUTHORIZED);
    check(&rule("deny", "commands = [\"@read\"], databases = [\"vault\"]"), ErrorCode::UNAUTHORIZED);
    check(&rule("deny", "commands = [\"@admin\"]"), ErrorCode::UNAUTHORIZED);
    check(&rule("allow", "databases = [\"shop\"]"), ErrorCode::UNAUTHORIZED);
    check(&rule("allow", "commands = [\"@read\"]"), ErrorCode::UNAUTHORIZED);
    check("[policy]\ndeny_javascript = true\n", ErrorCode::UNAUTHORIZED);
}

#[test]
fn an_error_names_the_command_or_stage_that_is_unknown() {
    let policy = policy(&rule("deny", "commands = [\"drop\"]"));
    let check = |unclear, name, code, expected: &str| {
        let (grounds, database) = (Grounds::Unclear, Some("shop"));
        let command = if unclear == Unclear::UnknownCommand { None } else { Some("aggregate") };
        let sentence = Sentence { policy: &policy, grounds, database, command, unclear: Some(unclear), name, code };
        assert_eq!(sentence.to_string(), format!("mongate: {expected}"));
    };
    let (denied, start) = (ErrorCode::UNAUTHORIZED, "not authorized on shop to execute command");
    let judge = "the policy cannot judge this command:";
    let unknown = format!("{start} foo: {judge} the command \"foo\" is unknown");
    check(Unclear::UnknownCommand, Some("foo"), denied, &unknown);
    check(Unclear::UnknownCommand, None, denied, &format!("{start} (unknown): {judge} the command is unknown"));
    let unknown = format!("{start} aggregate: {judge} the stage \"$foo\" is unknown");
    check(Unclear::UnknownStage, Some("$foo"), denied, &unknown);
    let remedy = "if the server has it, name it in the gateway's [policy] known_commands";
    let not_found = format!("no such command: 'foo'; {remedy}");
    check(Unclear::UnknownCommand, Some("foo"), ErrorCode::COMMAND_NOT_FOUND, &not_found);
    let not_found = format!("Unrecognized pipeline stage name: '$foo'; {remedy}");
    check(Unclear::UnknownStage, Some("$foo"), ErrorCode::UNKNOWN_STAGE, &not_found);
    let not_found = "cursor not found: it has ended, or it was not opened by this client on this gateway";
    let (grounds, code, database) = (Grounds::Cursor, ErrorCode::CURSOR_NOT_FOUND, Some("shop"));
    let gone =
        Sentence { policy: &policy, grounds, database, command: Some("getMore"), unclear: None, name: None, code };
    assert_eq!(gone.to_string(), format!("mongate: {not_found}"));
    let malformed = "cannot execute command aggregate on shop: the pipeline is not an array of documents with one \
                     stage each";
    check(Unclear::Pipeline, None, ErrorCode::TYPE_MISMATCH, malformed);
}

#[test]
fn a_listener_that_the_policy_denies_everything_is_found() {
    let allow = |from: &str| named("a", "allow", &format!("from = [{{ {from} }}]"));
    let deny = |lines: &str| named("d", "deny", lines);
    let dry = |rules: &str| format!("[policy]\nenforcement = \"dry-run\"\n{rules}");
    let cases = [
        (allow("listeners = [\"other\"]"), true),
        (allow("listeners = [\"orders\"]"), false),
        (allow("listeners = [\"ord*\"]"), false),
        (allow("not_listeners = [\"orders\"]"), true),
        (allow("principals = [\"cluster.local/ns/shop/sa/cart\"]"), false),
        (allow("principals = []"), true),
        (allow("sources = []"), true),
        (format!("{}to = []\n", allow("listeners = [\"orders\"]")), true),
        (format!("{}{}", allow("listeners = [\"other\"]"), named("b", "allow", "")), false),
        (format!("{}dry_run = true\n", allow("listeners = [\"other\"]")), false),
        (dry(&allow("listeners = [\"other\"]")), false),
        (deny(""), true),
        (deny("from = [{ listeners = [\"other\"] }]"), false),
        (deny("from = [{ not_sources = [\"10.0.0.0/8\"] }]"), false),
        (deny("to = [{ commands = [\"@read\"] }]"), false),
        (deny("to = [{ databases = [\"*\"] }]"), true),
        (deny("to = [{ databases = [\"shop\"] }]"), false),
        (named("l", "audit", ""), false),
    ];
    for (rules, expected) in cases {
        assert_eq!(policy(&rules).denies_everything_at("orders"), expected, "{rules}");
    }
}
