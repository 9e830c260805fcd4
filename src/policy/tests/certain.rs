//! A denial before the body has arrived is one that the whole body gets, too.

use bson::{Bson, Document, RawDocumentBuf, doc};
use proptest::collection::vec;
use proptest::prelude::*;

use super::naive::{any_caller, any_rules};
use super::*;
use crate::command::tests::generator;
use crate::command::{self, Request};

/// Names that the random rules have.
fn renamed(mut body: Document) -> Document {
    let (first, value) = body.iter().next().map(|(first, value)| (first.clone(), value.clone())).unwrap();
    match value.as_str() {
        Some("orders") => drop(body.insert(first, "x")),
        Some("items") => drop(body.insert(first, "xy")),
        _ => {}
    }
    match body.get_str("$db") {
        Ok("shop") => drop(body.insert("$db", "a")),
        Ok("vault") => drop(body.insert("$db", "ab")),
        _ => {}
    }
    body
}

/// Checks that the view denies `body`, if it denies the command before it knows the body. Returns whether it does.
fn check(view: &View, body: &Document) -> bool {
    let (name, value) = body.iter().next().unwrap();
    let options = view.read_options();
    let raw = RawDocumentBuf::try_from(body).unwrap();
    let judgement = command::read(&Request { body: &raw, database: None, sequences: &[] }, options)
        .map_or_else(|_| view.deny(Grounds::Unclear), |meaning| view.judge(&meaning));
    let early = match command::named(name.as_bytes(), options) {
        Ok(command) => view.certain_denial(command, value.as_str()),
        Err(_) => Some(view.deny(Grounds::Unclear)).filter(|judgement| judgement.effect == Effect::Deny),
    };
    if early.is_some() {
        assert_eq!(judgement.effect, Effect::Deny, "{body}: {early:?}, {judgement:?}");
    }
    early.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_is_denied_before_its_body_is_known_is_denied_with_it(
        rules in any_rules(6),
        dry_run: bool,
        (principal, source, listener) in any_caller(),
        bodies in vec(generator::command(), 1..6),
    ) {
        let enforcement = if dry_run { Enforcement::DryRun } else { Enforcement::Enforce };
        let known_commands = [("newCommand".to_owned(), "@read".to_owned())].into();
        let config = PolicyConfig { enforcement, deny_javascript: false, known_commands, rules };
        let policy = Policy::compile(&config, std::time::SystemTime::now()).unwrap();
        let view = policy.view(&CallerFacts { principal: principal.as_ref(), source, listener });
        for body in bodies {
            let name = body.keys().next().unwrap().clone();
            check(&view, &renamed(body.clone()));
            // The same name with other bodies, and unknown commands.
            for other in [doc! { &name: "x", "$db": "a" }, doc! { &name: 1, "$db": "b" }] {
                check(&view, &other);
            }
            for unknown in ["newCommand", "noSuchCommand", "_internal", "explain"] {
                check(&view, &doc! { unknown: 1, "$db": "a" });
            }
        }
    }
}

/// Every command that no rule allows is denied early, except those that need no rule.
#[test]
fn a_caller_without_rights_is_denied_before_its_bodies_arrive() {
    let rules = r#"
[[policy.rule]]
name = "orders"
action = "allow"
from = [{ principals = ["td/ns/shop/sa/orders"] }]
[[policy.rule]]
name = "reader"
action = "allow"
from = [{ principals = ["td/ns/shop/sa/reader"] }]
to = [{ commands = ["@read"], databases = ["shop"], collections = ["x*"] }]
"#;
    let policy = policy(rules);
    let asked = [
        ("insert", "x", "dd-"),
        ("update", "x", "dd-"),
        ("bulkWrite", "x", "dd-"),
        ("createIndexes", "x", "dd-"),
        ("dropDatabase", "x", "dd-"),
        ("find", "xy", "d--"),
        ("find", "y", "dd-"),
        ("aggregate", "y", "d--"),
        ("serverStatus", "y", "d--"),
        ("getMore", "y", "---"),
        ("explain", "y", "---"),
        ("listCollections", "y", "---"),
        ("hello", "y", "---"),
        ("endSessions", "y", "---"),
    ];
    for (name, first, expected) in asked {
        let command = table::find(name.as_bytes()).unwrap();
        let denies = |text: &str| {
            let principal = principal(text);
            policy.view(&caller(principal.as_ref())).certain_denial(command, Some(first))
        };
        let callers = ["td/ns/shop/sa/other", "td/ns/shop/sa/reader", "td/ns/shop/sa/orders"];
        let found: String = callers.map(|text| if denies(text).is_some() { 'd' } else { '-' }).iter().collect();
        assert_eq!(found, expected, "{name} {first}");
        let grounds = denies(callers[0]).map(|judgement| judgement.grounds);
        assert!(grounds.is_none_or(|grounds| grounds == Grounds::NoAllowRule), "{name}: {grounds:?}");
    }
}

#[test]
fn a_rule_that_denies_every_form_is_found_early_and_audits_are_noted() {
    let check = |to: &str, audit: &str, expected: Option<(u32, usize)>| {
        let rules = format!(
            "[[policy.rule]]\nname = \"no\"\naction = \"deny\"\nto = [{to}]\n\
             [[policy.rule]]\nname = \"seen\"\naction = \"audit\"\nto = [{audit}]\n"
        );
        let denial = policy(&rules).view(&caller(None)).certain_denial(table::find(b"insert").unwrap(), Some("x"));
        let found = denial.map(|denial| match denial.grounds {
            Grounds::Rule(RuleId(id)) => (id, denial.notes.len()),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{to} {audit}");
    };
    check(r#"{ commands = ["@write"] }"#, r#"{ commands = ["insert"] }"#, Some((0, 1)));
    check(r#"{ commands = ["insert"], collections = ["x"] }"#, r#"{ commands = ["find"] }"#, Some((0, 0)));
    check("{}", r#"{ databases = ["a"] }"#, Some((0, 0)));
    check(r#"{ databases = ["a"] }"#, "{}", None);
    check(r#"{ collections = ["y"] }"#, "{}", None);
    check(r#"{ not_collections = ["y"] }"#, "{}", Some((0, 1)));
    check(r#"{ not_databases = ["y"] }"#, "{}", None);
    check(r#"{ not_commands = ["@javascript"] }"#, "{}", None);
    check(r#"{ commands = ["@read"] }"#, "{}", None);
}

#[test]
fn the_names_of_commands_are_read_as_bodies_are() {
    let view = policy("[[policy.rule]]\nname = \"a\"\naction = \"allow\"\n").view(&caller(None));
    for name in ["find", "findandmodify", "_internal", "clusterFind", "foo", "eval", "explain"] {
        let raw = RawDocumentBuf::try_from(&doc! { name: Bson::Null, "$db": "a" }).unwrap();
        let whole = command::read(&Request { body: &raw, database: None, sequences: &[] }, view.read_options());
        match command::named(name.as_bytes(), view.read_options()) {
            Ok(_) => assert!(!matches!(whole, Err(Unclear::UnknownCommand | Unclear::Internal(_))), "{name}"),
            Err(unclear) => assert_eq!(whole.unwrap_err(), unclear, "{name}"),
        }
    }
}
