//! The policy as a whole: rules as operators write them, callers, commands, and what is to come of them.

mod decisions;
mod findings;
mod naive;

use std::path::Path;

use crate::command::table::{self, Class};
use crate::command::{Meaning, Place, Reach, Shows};
use crate::config::Config;

use super::*;

/// What the rules of the cases stand below; clients may be anybody.
const GATEWAY: &str = r#"
[upstream.orders]
address = "mongo:27017"
tls.certificate_file = "client.pem"
tls.ca_file = "ca.pem"
[listener.orders]
address = "127.0.0.1:27017"
upstream = "orders"
mode = "strict"
tls.certificate_file = "gateway.pem"
tls.ca_file = "mesh.pem"
[listener.other]
address = "127.0.0.1:27018"
upstream = "orders"
"#;

fn config(rules: &str) -> PolicyConfig {
    let config = Config::parse(&format!("{GATEWAY}{rules}"), Path::new("config.toml"), []);
    config.unwrap_or_else(|error| panic!("{error}\nin\n{rules}")).policy.unwrap()
}

fn policy(rules: &str) -> Policy {
    Policy::compile(&config(rules)).unwrap()
}

/// A client as the cases write it: its principal, or `-`.
fn caller(principal: Option<&Principal>) -> CallerFacts<'_> {
    CallerFacts { principal, source: None, listener: "orders" }
}

fn principal(text: &str) -> Option<Principal> {
    (text != "-").then(|| Principal::configured(text))
}

/// A place as the cases write it: `shop.orders`, `shop` (the database alone), `shop.*` (all of it), `*` (the server),
/// `-` (nowhere), `shop.system.profile>` (a window onto its database), `local.oplog.rs>>` (onto the server).
fn place(text: &str) -> Place<'_> {
    match text {
        "-" => return Place::Nowhere,
        "*" => return Place::WholeServer,
        _ => {}
    }
    let Some((database, collection)) = text.split_once('.') else { return Place::Database(text) };
    if collection == "*" {
        return Place::WholeDatabase(database);
    }
    let window = |collection, shows| Place::Window { database, collection, shows };
    match (collection.strip_suffix(">>"), collection.strip_suffix('>')) {
        (Some(collection), _) => window(collection, Shows::Server),
        (None, Some(collection)) => window(collection, Shows::Database),
        (None, None) => Place::Collection { database, collection },
    }
}

/// A command as the cases write it: `find shop.orders`, `aggregate shop.a, @write other.b`; before the name `explain` and
/// `javascript`.
fn meaning(text: &str) -> Meaning<'_> {
    let (explained, text) = text.strip_prefix("explain ").map_or((false, text), |rest| (true, rest));
    let (javascript, text) = text.strip_prefix("javascript ").map_or((false, text), |rest| (true, rest));
    let (name, places) = text.split_once(' ').unwrap();
    let command = table::find(name.as_bytes()).unwrap();
    let reach = |text| {
        let (class, text) = match str::split_once(text, ' ') {
            Some(("@read", rest)) => (Class::Read, rest),
            Some(("@write", rest)) => (Class::Write, rest),
            Some(("@ddl", rest)) => (Class::Ddl, rest),
            Some((other, _)) => panic!("{other}"),
            None => (command.class, text),
        };
        Reach { place: place(text), class }
    };
    Meaning {
        command,
        explained,
        database: "shop",
        reaches: places.split(", ").map(reach).collect(),
        javascript,
        cursors: SmallVec::new(),
        sessions: SmallVec::new(),
    }
}

const PAGE: &str = include_str!("../../docs/policy.md");

#[test]
fn the_examples_of_the_page_are_policies_without_doubts() {
    let blocks: Vec<&str> = PAGE.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(blocks.len() >= 4);
    for block in blocks {
        assert_eq!(policy(block).warnings(), [], "{block}");
    }
}

#[test]
fn the_page_has_every_class_with_its_commands() {
    let classes = [
        ("@read", Class::Read),
        ("@write", Class::Write),
        ("@ddl", Class::Ddl),
        ("@session", Class::Session),
        ("@admin-read", Class::AdminRead),
        ("@admin", Class::Admin),
        ("@user-admin", Class::UserAdmin),
    ];
    for (word, class) in classes {
        let (_, row) = PAGE.split_once(&format!("| `{word}` | ")).unwrap();
        let row = row.lines().next().unwrap().trim_end_matches(" |").split(';').next().unwrap();
        let shown: Vec<&str> = row.split(", ").map(|name| name.trim_matches('`')).collect();
        let commands = table::all().iter().filter(|command| command.class == class);
        assert_eq!(shown, commands.map(|command| command.name).collect::<Vec<_>>(), "{word}");
    }
}

#[test]
fn the_page_shows_what_refused_clients_read_and_what_metrics_have() {
    let rules = "[[policy.rule]]\nname = \"full-sleep-may-not-read\"\naction = \"deny\"\n";
    let policy = policy(rules);
    for grounds in [Grounds::Rule(RuleId(0)), Grounds::NoAllowRule, Grounds::JavaScript] {
        let sentence =
            Sentence { policy: &policy, grounds, database: Some("shop"), command: Some("find"), unclear: None };
        assert!(PAGE.contains(&format!("\n{sentence}\n")), "{sentence}");
    }
    for grounds in Grounds::BESIDE_RULES {
        assert!(PAGE.contains(&format!("\n| `{}` | ", policy.label(grounds))), "{grounds:?}");
    }
}
