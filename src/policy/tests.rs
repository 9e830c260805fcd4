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
    }
}
