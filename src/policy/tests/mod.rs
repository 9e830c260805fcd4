//! Tests of the whole policy: rules as operators write them, callers, commands, and the expected judgements.

mod certain;
mod decisions;
mod expiry;
mod findings;
mod listings;
mod naive;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::command::table::{self, Class};
use crate::command::{Exposes, Meaning, Reach, Resource, Unclear};
use crate::config::{Action, Config, Enforcement, PolicyConfig};
use crate::identity::Principal;

use super::*;

/// The configuration around the rules of the cases. Its clients can have any principal.
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
    Policy::compile(&config(rules), std::time::SystemTime::now()).unwrap()
}

/// A caller with this principal and no address.
fn caller(principal: Option<&Principal>) -> CallerFacts<'_> {
    CallerFacts { principal, source: None, listener: "orders" }
}

/// A principal as the cases write it; `-` is an unauthenticated caller.
fn principal(text: &str) -> Option<Principal> {
    (text != "-").then(|| Principal::configured(text))
}

/// A resource as the cases write it: `shop.orders`, `shop` (the database as such), `shop.*` (all of its collections),
/// `*` (the whole server), `-` (no namespace), `shop.system.profile>` (exposes its database), `local.oplog.rs>>`
/// (exposes the server), `shop.system.js=` (exposes only itself).
fn resource(text: &str) -> Resource<'_> {
    match text {
        "-" => return Resource::NoNamespace,
        "*" => return Resource::WholeServer,
        _ => {}
    }
    let Some((database, collection)) = text.split_once('.') else { return Resource::Database(text) };
    if collection == "*" {
        return Resource::WholeDatabase(database);
    }
    let exposing = |collection, exposes| Resource::SystemCollection { database, collection, exposes };
    if let Some(collection) = collection.strip_suffix('=') {
        return exposing(collection, Exposes::Itself);
    }
    match (collection.strip_suffix(">>"), collection.strip_suffix('>')) {
        (Some(collection), _) => exposing(collection, Exposes::Server),
        (None, Some(collection)) => exposing(collection, Exposes::Database),
        (None, None) => Resource::Collection { database, collection },
    }
}

/// A command as the cases write it: `find shop.orders`, `aggregate shop.a, @write other.b`; with `explain`,
/// `javascript` or `essential` before the name (a command of the handshake is always essential), and `~` before an
/// incidental reach.
fn meaning<'a>(text: &'a str) -> Meaning<'a> {
    let (explained, text) = text.strip_prefix("explain ").map_or((false, text), |rest| (true, rest));
    let (javascript, text) = text.strip_prefix("javascript ").map_or((false, text), |rest| (true, rest));
    let (essential, text) = text.strip_prefix("essential ").map_or((false, text), |rest| (true, rest));
    let (name, resources) = text.split_once(' ').unwrap();
    let command = table::find(name.as_bytes()).unwrap();
    let reach = |text: &'a str| {
        let (incidental, text) = text.strip_prefix('~').map_or((false, text), |rest| (true, rest));
        let (class, text) = match str::split_once(text, ' ') {
            Some(("@read", rest)) => (Class::Read, rest),
            Some(("@write", rest)) => (Class::Write, rest),
            Some(("@ddl", rest)) => (Class::Ddl, rest),
            Some(("@session", rest)) => (Class::Session, rest),
            Some((other, _)) => panic!("{other}"),
            None => (command.class, text),
        };
        Reach { resource: resource(text), class, incidental }
    };
    Meaning {
        command,
        explained,
        database: "shop",
        reaches: resources.split(", ").map(reach).collect(),
        javascript,
        essential: essential || matches!(command.class, Class::Handshake | Class::Auth),
        listing: None,
        cursors: SmallVec::new(),
        sessions: SmallVec::new(),
    }
}

const PAGE: &str = include_str!("../../../docs/policy.md");

#[test]
fn the_examples_of_the_page_are_policies_without_warnings() {
    let blocks: Vec<&str> = PAGE.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(blocks.len() >= 4);
    for block in blocks {
        // At a time when no rule of the page has expired.
        let policy = Policy::compile(&config(block), std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(policy.warnings(), [], "{block}");
    }
}

#[test]
fn the_page_lists_every_class_with_its_commands() {
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
fn the_page_shows_the_error_messages_and_the_labels_of_metrics() {
    let rules = "[[policy.rule]]\nname = \"full-sleep-may-not-read\"\naction = \"deny\"\n";
    let policy = policy(rules);
    for grounds in [Grounds::Rule(RuleId(0)), Grounds::NoAllowRule, Grounds::JavaScript] {
        let sentence = Sentence {
            policy: &policy,
            grounds,
            database: Some("shop"),
            command: Some("find"),
            unclear: None,
            name: None,
            code: ErrorCode::UNAUTHORIZED,
        };
        assert!(PAGE.contains(&format!("\n{sentence}\n")), "{sentence}");
    }
    for grounds in Grounds::WITHOUT_RULE {
        assert!(PAGE.contains(&format!("\n| `{}` | ", policy.label(grounds))), "{grounds:?}");
    }
}
