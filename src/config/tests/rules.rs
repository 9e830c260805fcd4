//! `[policy]`: what is accepted, what is rejected with which message, and the warnings.

use super::*;

/// A listener whose clients have principals.
fn strict() -> String {
    MINIMAL.to_owned() + "mode = \"strict\"\ntls.certificate_file = \"gateway.pem\"\ntls.ca_file = \"mesh.pem\"\n"
}

const RULE: &str = "[[policy.rule]]\nname = \"r\"\naction = \"deny\"\n";

/// Checks that a deny rule with `lines` in its table has exactly one problem, which contains `expected`.
fn check_rule(lines: &str, expected: &str) {
    check_one(&format!("{}{RULE}{lines}\n", strict()), expected);
}

fn values(any: &[&str]) -> Values {
    Values { any: Some(any.iter().map(|&text| text.to_owned()).collect()), not: None }
}

#[test]
fn there_is_a_policy_only_with_a_rule_or_without_javascript() {
    let check = |text: &str, environment: &[(&str, &str)], expected: bool| {
        let config = parse(&format!("{MINIMAL}{text}"), environment).unwrap();
        assert_eq!(config.policy.is_some(), expected, "{text}");
    };
    check("", &[], false);
    check("[policy]\n", &[], false);
    check("[policy]\nenforcement = \"dry-run\"\ndeny_javascript = false\nrule = []\n", &[], false);
    check("[policy]\ndeny_javascript = true\n", &[], true);
    check("", &[("MONGATE_POLICY__DENY_JAVASCRIPT", "true")], true);
    check("", &[("MONGATE_POLICY__ENFORCEMENT", "dry-run")], false);
    check(RULE, &[], true);
}

#[test]
fn all_keys_of_a_rule_are_read() {
    let text = format!(
        "{}[policy]\nenforcement = \"dry-run\"\n\
         [[policy.rule]]\nname = \"Reads.1_a-b\"\naction = \"allow\"\ndry_run = true\n\
         from = [{{ principals = [\"spiffe://td/ns/a/*\", \"*\", \"CN=x,O=y\"], not_namespaces = [\"*-test\"] }}, \
         {{ sources = [\"10.0.0.0/8\"], not_sources = [\"10.1.0.1\"], listeners = [\"ord*\"] }}]\n\
         to = [{{ commands = [\"find\", \"@read\", \"*\"], databases = [] }}]\n\
         [[policy.rule]]\nname = \"none\"\naction = \"audit\"\nfrom = []\n\
         [[policy.rule.to]]\ncollections = [\"a.b*\"]\n",
        strict()
    );
    let policy = parse(&text, &[]).unwrap().policy.unwrap();
    assert_eq!((policy.enforcement, policy.deny_javascript), (Enforcement::DryRun, false));
    let first = RuleConfig {
        name: "Reads.1_a-b".to_owned(),
        action: Action::Allow,
        dry_run: true,
        expires: None,
        reason: None,
        from: Some(vec![
            FromConfig {
                principals: values(&["td/ns/a/*", "*", "CN=x,O=y"]),
                namespaces: Values { any: None, not: values(&["*-test"]).any },
                ..FromConfig::default()
            },
            FromConfig {
                sources: Some(vec!["10.0.0.0/8".parse().unwrap()]),
                not_sources: Some(vec!["10.1.0.1/32".parse().unwrap()]),
                listeners: values(&["ord*"]),
                ..FromConfig::default()
            },
        ]),
        to: Some(vec![ToConfig {
            commands: values(&["find", "@read", "*"]),
            databases: values(&[]),
            ..ToConfig::default()
        }]),
    };
    let second = RuleConfig {
        name: "none".to_owned(),
        action: Action::Audit,
        dry_run: false,
        expires: None,
        reason: None,
        from: Some(Vec::new()),
        to: Some(vec![ToConfig { collections: values(&["a.b*"]), ..ToConfig::default() }]),
    };
    assert_eq!(policy.rules, [first, second]);
    let enforced = parse(&text, &[("MONGATE_POLICY__ENFORCEMENT", "enforce")]).unwrap().policy.unwrap();
    assert_eq!((enforced.enforcement, enforced.rules.len()), (Enforcement::Enforce, 2));
}

#[test]
fn the_expiry_of_a_rule_is_a_date_and_time_with_an_offset() {
    const WRONG: &str =
        "must be a date and a time with the offset from UTC, without quotes, as in 2026-12-01T18:00:00Z";
    let read =
        |lines: &str| parse(&format!("{}{RULE}{lines}\n", strict()), &[]).unwrap().policy.unwrap().rules.remove(0);
    let six = humantime::parse_rfc3339("2026-12-01T18:00:00Z").unwrap();
    for text in
        ["2026-12-01T18:00:00Z", "2026-12-01 19:30:00+01:30", "2026-12-01t12:00:00-06:00", "2026-12-01T18:00:00.0z"]
    {
        assert_eq!(read(&format!("expires = {text}")).expires, Some(six), "{text}");
    }
    let rule = read("reason = \"incident 4711\"");
    assert_eq!((rule.expires, rule.reason.as_deref()), (None, Some("incident 4711")));

    let check = |value: &str, shown: &str, expected: &str| {
        check_rule(
            &format!("expires = {value}"),
            &format!("policy.rule[1].expires = {shown} (config.toml): {expected}"),
        );
    };
    check("2026-12-01T18:00:00", "2026-12-01T18:00:00", "has no offset from UTC; it must be a date and a time");
    check("2026-12-01", "2026-12-01", "has no offset from UTC");
    check("18:00:00", "18:00:00", "has no offset from UTC");
    check("\"2026-12-01T18:00:00Z\"", "\"2026-12-01T18:00:00Z\"", WRONG);
    check("1796148000", "1796148000", WRONG);
    check("\"2h\"", "\"2h\"", WRONG);
    check("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z", WRONG);
    check("1970-01-01T00:00:00+01:00", "1970-01-01T00:00:00+01:00", WRONG);
    check_rule("reason = \"\"", "policy.rule[1].reason = \"\" (config.toml): is empty");
    check_rule("reason = \"a\\u001b[31m\"", "must be one line without control characters");
    check_rule(&format!("reason = \"{}\"", "x".repeat(513)), "has 513 bytes; at most 512 are allowed");
}

#[test]
fn invalid_rules_are_problems() {
    let check_start =
        |rule: &str, expected: &str| check_one(&format!("{}[[policy.rule]]\n{rule}\n", strict()), expected);
    check_start("action = \"deny\"", "policy.rule[1].name (config.toml): is missing; set a name");
    check_start("name = \"r\"", "policy.rule[1].action (config.toml): is missing; set what the rule does");
    check_start("name = \"a b\"\naction = \"deny\"", "name = \"a b\" (config.toml): must be a name of letters");
    check_start("name = \"\"\naction = \"deny\"", "is empty");
    check_start("name = \"(no rule)\"\naction = \"deny\"", "must be a name of letters");
    check_start(&format!("name = \"{}\"\naction = \"deny\"", "x".repeat(129)), "has 129 bytes; at most 128");
    check_start("name = \"r\"\naction = \"refuse\"", "must be \"deny\", \"allow\" or \"audit\"");
    check_start("name = \"r\"\naction = \"denyy\"", "did you mean \"deny\"?");
    check_rule("dry_run = \"true\"", "policy.rule[1].dry_run = \"true\" (config.toml): must be true or false");
    check_rule("dryrun = true", "policy.rule[1].dryrun (config.toml): is not a known key; did you mean dry_run?");
    check_rule(
        "principals = []",
        "it belongs in [metrics] or in [[upstream.NAME.credential]] or in [[policy.rule.from]]",
    );
    check_rule("qqq = []", "the keys of [[policy.rule]] are name, action");
    check_rule("from = {}", "policy.rule[1].from = { a table } (config.toml): must be a list of tables, as in from");
    check_rule("to = [\"find\"]", "policy.rule[1].to[1] = \"find\" (config.toml): must be a list of tables, as in to");
    check_rule(
        "from = [{ principal = [\"a/b\"] }]",
        "from[1].principal (config.toml): is not a known key; did you mean",
    );
    check_rule(
        "from = [{}, { commands = [] }]",
        "from[2].commands (config.toml): is not a known key; it belongs in [[",
    );
    check_rule("to = [{ commands = \"find\" }]", "to[1].commands = \"find\" (config.toml): must be a list of strings");
    check_rule("to = [{ databases = [\"\"] }]", "must be a list of strings in quotes, each a database");
    check_rule("to = [{ databases = [1] }]", "must be a list of strings in quotes");
    check_rule("to = [{ databases = [\"a*b\"] }]", "has \"a*b\"; a \"*\" is allowed once: at the end");
    check_rule("to = [{ databases = [\"*a*\"] }]", "has \"*a*\"; a \"*\" is allowed once");
    check_rule("to = [{ collections = [\"**\"] }]", "has \"**\"; a \"*\" is allowed once");
    check_rule("to = [{ databases = [\"shop.orders\"] }]", "the name of a database has no dot");
    check_rule("to = [{ not_collections = [\"a\\u0000\"] }]", "has \"a\\0\", which can never match");
    check_rule("from = [{ principals = [\"cluster.local/ns/*/sa/x\"] }]", "is allowed once");
    check_rule("from = [{ principals = [\"spiffe://*\"] }]", "has no trust domain; write \"TRUST-DOMAIN/*\"");
    check_rule("from = [{ sources = [\"10.0.0.1/8\"] }]", "the network is \"10.0.0.0/8\"");
    check_rule("from = [{ listeners = [\"order\"] }]", "which is not a listener; did you mean \"orders\"?");
    check_rule("from = [{ not_listeners = [\"stock\"] }]", "which is not a listener; choose from \"orders\"");
    check_rule(RULE, "policy.rule[2].name = \"r\" (config.toml): is also the name of policy.rule[1]");
    check_one(&format!("{MINIMAL}[policy]\nrule = {{}}\n"), "begin with a line [[policy.rule]]");
    check_one(&format!("{MINIMAL}[policy]\nknown_commands = []\n"), "must be a table of names and classes");
    check_one(
        &format!("{MINIMAL}[policy]\nknown_commands = {{ \"a b\" = \"@admin\" }}\n"),
        "is not the name of a command",
    );
    check_one(&format!("{MINIMAL}[policy]\nknown_commands = {{ a = 1 }}\n"), "must be a string in quotes: a class");
    check_one(&format!("{MINIMAL}[policy]\nenforcement = \"off\"\n"), "must be \"enforce\" or \"dry-run\"");
    check_one(&format!("{MINIMAL}[policy]\nenforce = true\n"), "did you mean enforcement?");
    check_one(&format!("{MINIMAL}[policy.rule]\nname = \"r\"\n"), "begin with a line [[policy.rule]]");
    check_one(&format!("policy = 1\n{MINIMAL}"), "begins with the line [policy]");
}

#[test]
fn all_problems_of_a_policy_are_reported_at_once() {
    let text = format!(
        "{}{RULE}from = [{{ principals = [\"a*b\"], listeners = [\"x\"] }}]\n\
         to = [{{ databases = [\"a.b\"] }}, 7]\n{RULE}",
        strict()
    );
    let problems = problems(&text, &[]);
    let keys: Vec<&str> = problems.iter().map(|problem| problem.split(' ').next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "policy.rule[1].from[1].listeners",
            "policy.rule[1].from[1].principals",
            "policy.rule[1].to[1].databases",
            "policy.rule[1].to[2]",
            "policy.rule[2].name",
        ]
    );
}

#[test]
fn environment_variables_cannot_set_rules() {
    let check = |variable: &str, expected: &str| {
        let problems = problems(MINIMAL, &[(variable, "deny")]);
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
    };
    check("MONGATE_POLICY__RULE", "environment variables cannot set them");
    check("MONGATE_POLICY__RULE__NAME", "is not a known key");
    check("MONGATE_POLICY__ENFORCMENT", "did you mean MONGATE_POLICY__ENFORCEMENT?");
    check("MONGATE_POLICY", "is a table; set its keys individually, as in MONGATE_POLICY__ENFORCEMENT");
}

#[test]
fn a_rule_with_principals_requires_clients_with_a_principal() {
    const NO_PRINCIPALS: &str = "no client has one in this configuration";
    for key in ["principals", "not_principals", "namespaces", "not_namespaces"] {
        let rule = format!("{RULE}from = [{{ {key} = [\"a/b\"] }}]\n");
        check_one(&format!("{MINIMAL}{rule}"), NO_PRINCIPALS);
        check_one(&format!("{MINIMAL}{rule}"), &format!("policy.rule[1].from[1].{key}"));
        let sources = [
            "mode = \"permissive\"\ntls.certificate_file = \"a\"\ntls.ca_file = \"b\"\n",
            "proxy_protocol = \"optional\"\nproxy_trusted = [\"::1\"]\n",
            "principal = \"a/b\"\n",
            "[[identity]]\nprincipal = \"a/b\"\nuids = [1]\n",
        ];
        for source in sources {
            parse(&format!("{MINIMAL}{source}{rule}"), &[]).unwrap();
        }
    }
    parse(&format!("{MINIMAL}{RULE}from = [{{ sources = [\"::1\"], listeners = [\"orders\"] }}]\n"), &[]).unwrap();
    // If a listener has a problem, only that problem is reported.
    let text = MINIMAL.replace("127.0.0.1:27017", "127.0.0.1") + RULE + "from = [{ principals = [\"a/b\"] }]\n";
    check_one(&text, "has no port");
}

#[test]
fn a_rule_that_the_configuration_makes_ineffective_has_a_warning() {
    let check = |text: &str, expected: &[(&str, &str)]| {
        let warnings = parse(text, &[]).unwrap().warnings();
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, (key, sentence)) in warnings.iter().zip(expected) {
            assert_eq!(warning.key, format!("policy.rule[1].from[1].{key}"));
            assert!(warning.sentence.contains(sentence), "{warning:?}");
        }
    };
    let rule = |from: &str| format!("{RULE}from = [{{ {from} }}]\n");
    let named = format!("{MINIMAL}principal = \"td/x\"\n[[identity]]\nprincipal = \"td/y\"\nuids = [1]\n");
    check(&format!("{named}{}", rule("principals = [\"td/x\", \"td/y\", \"td/z*\", \"*\"]")), &[]);
    check(
        &format!("{named}{}", rule("principals = [\"td/z\"]")),
        &[("principals", "has \"td/z\", which can never match")],
    );
    check(
        &format!("{named}{}", rule("not_principals = [\"td/z\", \"CN=x\"]")),
        &[("not_principals", "has \"td/z\""), ("not_principals", "has \"CN=x\"")],
    );
    let of_namespace = named.replace("td/x", "td/ns/shop/sa/cart");
    check(&format!("{of_namespace}{}", rule("namespaces = [\"shop\", \"x*\"]")), &[]);
    let expected = [("namespaces", "has \"carts\", which can never match")];
    check(&format!("{of_namespace}{}", rule("namespaces = [\"carts\"]")), &expected);
    check(&format!("{}{}", strict(), rule("namespaces = [\"carts\"]")), &[]);
    let domain = format!("trust_domain = \"td\"\ntrust_domain_aliases = [\"old\"]\n{}", strict());
    check(&format!("{domain}{}", rule("principals = [\"td/x\", \"old/x\", \"CN=a/b\", \"x\", \"other/*\"]")), &[]);
    check(
        &format!("{domain}{}", rule("principals = [\"other/x\"]")),
        &[("principals", "the trust domain \"other\" is neither trust_domain nor one of trust_domain_aliases")],
    );
    check(&format!("{}{}", strict(), rule("principals = [\"other/x\"]")), &[]);
    // A client that is denied in one trust domain is not denied under an alias of it.
    let half = [("principals", "has \"td/x\" but not \"old/x\", which is the same client")];
    check(&format!("{domain}{}", rule("principals = [\"td/x\"]")), &half);
    check(&format!("{domain}{}", rule("principals = [\"old/x\", \"t*\"]")), &[]);
    check(&format!("{domain}{}", rule("principals = [\"*/x\"], not_principals = [\"td/y\"]")), &[]);
    let allow = |from: &str| rule(from).replace("deny", "allow");
    check(&format!("{domain}{}", allow("principals = [\"td/x\"]")), &[]);
    let half = [("not_principals", "or write \"*/x\"")];
    check(&format!("{domain}{}", allow("not_principals = [\"old/x\"]")), &half);
    check(
        &format!("{MINIMAL}{}", rule("listeners = [\"ord*\", \"*x\"]")),
        &[("listeners", "has \"*x\", which matches no listener")],
    );
}
