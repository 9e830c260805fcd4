//! Which lists a caller may ask for, and what it may see of them.

use std::collections::HashMap;
use std::sync::LazyLock;

use bson::{RawDocumentBuf, doc, rawdoc};
use proptest::collection::vec;
use proptest::prelude::*;

use super::naive;
use super::*;
use crate::command::table::CollectionAt;
use crate::command::{Listing, ReadOptions, Request, collection_accesses, read};
use crate::config::{RuleConfig, ToConfig};

fn rule(name: &str, action: &str, to: &str) -> String {
    format!("[[policy.rule]]\nname = \"{name}\"\naction = \"{action}\"\nto = [{to}]\n")
}

/// The decision on a body: `unfiltered`, `filtered` or `denied`, and the label of what decided.
fn decision(rules: &str, body: &RawDocumentBuf) -> String {
    let policy = policy(rules);
    let view = policy.view(&caller(None));
    let meaning = read(&Request { body, database: None, sequences: &[] }, view.read_options()).unwrap();
    let judgement = view.judge(&meaning);
    let is_filtered = meaning.listing.is_some_and(|listing| !view.sees_everything(listing, meaning.database));
    let effect = match (judgement.effect, is_filtered) {
        (Effect::Deny, _) => "denied",
        (Effect::Allow, true) => "filtered",
        (Effect::Allow, false) => "unfiltered",
    };
    let would = judgement.notes.iter().any(|(note, _)| *note == Note::WouldDeny);
    format!("{effect} {}{}", policy.label(judgement.grounds), if would { ", would deny" } else { "" })
}

fn collections(database: &str) -> RawDocumentBuf {
    rawdoc! { "listCollections": 1, "$db": database }
}

fn databases() -> RawDocumentBuf {
    rawdoc! { "listDatabases": 1, "$db": "admin" }
}

const ORDERS: &str = r#"{ commands = ["@read"], databases = ["shop"], collections = ["orders"] }"#;
const SECRET: &str = r#"{ databases = ["shop"], collections = ["secret"] }"#;

#[test]
fn a_list_passes_where_the_caller_may_do_anything_and_is_filtered_unless_it_may_read_everything() {
    let check = |rules: &str, in_shop: &str, in_vault: &str, of_databases: &str| {
        let bodies = [collections("shop"), collections("vault"), databases()];
        let found = bodies.map(|body| decision(rules, &body));
        assert_eq!(found, [in_shop, in_vault, of_databases], "{rules}");
    };
    let none = "denied (no allow rule)";
    check(&rule("a", "allow", ORDERS), "filtered a", none, "filtered a");
    check(&rule("a", "allow", "{ databases = [\"shop\"] }"), "unfiltered a", none, "filtered a");
    check(&rule("a", "allow", "{ commands = [\"@read\"] }"), "unfiltered a", "unfiltered a", "unfiltered a");
    // Any command counts, also one by its name.
    check(&rule("a", "allow", "{ commands = [\"insert\"], databases = [\"shop\"] }"), "filtered a", none, "filtered a");
    let drop = "{ commands = [\"drop\"], databases = [\"*\"], collections = [\"tmp-*\"] }";
    check(&rule("a", "allow", drop), "filtered a", "filtered a", "filtered a");
    // A command on the database counts, and shows no collection.
    let stats = "{ commands = [\"dbStats\"], databases = [\"vault\"] }";
    check(&rule("a", "allow", stats), none, "filtered a", "filtered a");
    let lists = "{ commands = [\"listCollections\", \"listDatabases\"] }";
    check(&rule("a", "allow", lists), "unfiltered a", "unfiltered a", "unfiltered a");
}

#[test]
fn a_deny_rule_hides_and_denies_only_if_it_names_the_command_or_covers_everything() {
    let check = |to: &str, in_shop: &str, in_vault: &str, of_databases: &str| {
        let rules = rule("d", "deny", to);
        let bodies = [collections("shop"), collections("vault"), databases()];
        let found = bodies.map(|body| decision(&rules, &body));
        assert_eq!(found, [in_shop, in_vault, of_databases], "{to}");
    };
    let (all, some) = ("unfiltered (no rule)", "filtered (no rule)");
    check(SECRET, some, all, some);
    check("{ collections = [\"secret\"] }", some, some, some);
    check("{ databases = [\"shop\"] }", "denied d", all, some);
    check("{ databases = [\"shop\"], not_collections = [\"orders\"] }", some, all, some);
    check("{ commands = [\"@read\"], databases = [\"shop\"] }", "denied d", all, some);
    check("{ commands = [\"@read\"] }", "denied d", "denied d", "denied d");
    check("{ commands = [\"@write\"] }", all, all, all);
    check("{ commands = [\"drop\"], collections = [\"secret\"] }", all, all, all);
    check("{ commands = [\"listCollections\"] }", "denied d", "denied d", all);
    check("{ commands = [\"listCollections\"], databases = [\"shop\"] }", "denied d", all, all);
    check("{ commands = [\"list*\"], collections = [\"secret\"] }", "denied d", "denied d", "denied d");
    check("{ commands = [\"listDatabases\"], databases = [\"shop\"] }", all, all, "denied d");
    check("{}", "denied d", "denied d", "denied d");
}

#[test]
fn a_dry_run_filters_nothing_and_notes_what_would_be_denied() {
    let dry = "[policy]\nenforcement = \"dry-run\"\n";
    let check = |rules: &str, in_shop: &str, in_vault: &str| {
        let found = [collections("shop"), collections("vault")].map(|body| decision(rules, &body));
        assert_eq!(found, [in_shop, in_vault], "{rules}");
    };
    let would = "unfiltered (no rule), would deny";
    check(&format!("{dry}{}", rule("a", "allow", ORDERS)), "unfiltered a", would);
    check(&format!("{dry}{}", rule("d", "deny", SECRET)), "unfiltered (no rule)", "unfiltered (no rule)");
    let tried = |to: &str| format!("{}dry_run = true\n", rule("t", "deny", to)) + &rule("a", "allow", ORDERS);
    check(&tried(ORDERS), "filtered a, would deny", "denied (no allow rule)");
    check(&tried(SECRET), "filtered a", "denied (no allow rule)");
    check(&tried("{ commands = [\"listCollections\"] }"), "filtered a, would deny", "denied (no allow rule)");
}

#[test]
fn a_list_with_arguments_that_tell_more_than_its_reply_is_judged_as_a_read_of_everything() {
    let check = |body: &RawDocumentBuf, expected: &str| {
        assert_eq!(decision(&rule("a", "allow", ORDERS), body), expected, "{body:?}");
        assert_eq!(decision(&rule("a", "allow", "{ commands = [\"@read\"] }"), body), "unfiltered a", "{body:?}");
    };
    let filtered = |filter: RawDocumentBuf| rawdoc! { "listCollections": 1, "filter": filter, "$db": "shop" };
    let none = "denied (no allow rule)";
    let name = || rawdoc! { "name": { "$regex": "^a" } };
    for harmless in [
        rawdoc! {},
        name(),
        rawdoc! { "name": "orders", "type": { "$in": ["collection", "view"] }, "$comment": "x" },
        rawdoc! { "$or": [name(), { "$and": [name(), { "info.readOnly": false }] }], "$nor": [{ "idIndex.v": 2 }] },
    ] {
        check(&filtered(harmless), "filtered a");
    }
    for telling in [
        rawdoc! { "options.viewOn": "secret" },
        rawdoc! { "options": {} },
        rawdoc! { "$expr": { "$toInt": "$name" } },
        rawdoc! { "$and": [name(), { "$expr": { "$toInt": "$name" } }] },
        rawdoc! { "$or": [5] },
        rawdoc! { "$jsonSchema": {} },
        rawdoc! { "$where": "1" },
        rawdoc! { "": 1 },
    ] {
        check(&filtered(telling), none);
    }
    // How full a batch is tells whether a hidden collection matches the filter.
    let batched = |filter: RawDocumentBuf, cursor: RawDocumentBuf| {
        rawdoc! { "listCollections": 1, "filter": filter, "cursor": cursor, "$db": "shop" }
    };
    check(&batched(name(), rawdoc! {}), "filtered a");
    check(&batched(rawdoc! {}, rawdoc! { "batchSize": 0 }), "filtered a");
    check(&batched(name(), rawdoc! { "batchSize": 1 }), none);
    check(&rawdoc! { "listCollections": 1, "filter": 5, "$db": "shop" }, none);
    let of_databases = |filter: RawDocumentBuf| rawdoc! { "listDatabases": 1, "filter": filter, "$db": "admin" };
    check(&of_databases(rawdoc! { "name": "shop", "sizeOnDisk": { "$gt": 1 }, "empty": false }), "filtered a");
    check(&of_databases(rawdoc! { "$expr": { "$toInt": "$name" } }), none);
    check(&of_databases(rawdoc! { "shards.a": 1 }), none);
    let mut deep = name();
    for _ in 0..20 {
        deep = rawdoc! { "$and": [deep] };
    }
    check(&filtered(deep), none);
}

#[test]
fn a_get_more_of_a_list_lists_too() {
    let of = |collection: &str, id: i64| {
        let body = rawdoc! { "getMore": id, "collection": collection, "$db": "shop" };
        decision(&rule("a", "allow", ORDERS), &body)
    };
    assert_eq!(of("$cmd.listCollections", 7), "filtered (handshake)");
    assert_eq!(of("orders", 7), "unfiltered a");
}

#[test]
fn what_a_caller_may_see_is_what_it_may_do_anything_with() {
    let check = |rules: &str, database: &str, cases: &[(&str, bool, bool)]| {
        let policy = policy(rules);
        let view = policy.view(&caller(None));
        for (name, sees, reads) in cases {
            let resources = crate::command::resources_of(database, name);
            let found = (view.may_see(database, name), resources.is_some_and(|found| view.may_read(&found)));
            assert_eq!(found, (*sees, *reads), "{database}.{name} under {rules}");
        }
    };
    let rules = rule("a", "allow", ORDERS)
        + &rule("b", "allow", r#"{ commands = ["insert"], collections = ["log-*"] }"#)
        + &rule("c", "deny", r#"{ collections = ["log-secret"] }"#);
    check(
        &rules,
        "shop",
        &[
            ("orders", true, true),
            ("log-1", true, false),
            ("log-secret", false, false),
            ("carts", false, false),
            ("system.views", false, false),
            ("system.buckets.orders", false, false),
            ("$cmd", false, false),
            ("", false, false),
        ],
    );
    check(&rules, "vault", &[("orders", false, false), ("log-1", true, false)]);
    check(&rules, "no.database", &[("log-1", false, false)]);
    let with_windows = rule("a", "allow", r#"{ databases = ["shop", "local"], collections = ["orders", "system.*"] }"#);
    check(
        &with_windows,
        "shop",
        &[("orders", true, true), ("system.profile", true, true), ("system.buckets.orders", true, true)],
    );
    check(&with_windows, "shop", &[("system.buckets.carts", false, false)]);
    check(&with_windows, "local", &[("orders", true, true), ("oplog.rs", false, false)]);
    let deny = rule("d", "deny", r#"{ commands = ["@read"], collections = ["secret"] }"#)
        + &rule("e", "deny", r#"{ commands = ["drop"], collections = ["carts"] }"#)
        + &rule("f", "deny", r#"{ collections = ["gone"] }"#);
    check(&deny, "shop", &[("secret", true, false), ("carts", true, true), ("gone", false, false), ("x", true, true)]);
    let javascript = rule("a", "allow", r#"{ commands = ["@javascript"], collections = ["orders"] }"#);
    check(&javascript, "shop", &[("orders", true, true), ("carts", false, false)]);
    check(&format!("[policy]\ndeny_javascript = true\n{javascript}"), "shop", &[("orders", false, false)]);
}

/// A body for every command that can be about one collection. Each reaches as little as possible.
fn bodies_about(database: &str, collection: &str) -> Vec<RawDocumentBuf> {
    let namespace = format!("{database}.{collection}");
    let rest = |name: &str| match name {
        "aggregate" => doc! { "pipeline": [], "cursor": {} },
        "update" => doc! { "updates": [] },
        "delete" => doc! { "deletes": [] },
        "mapReduce" => doc! { "out": { "inline": 1 } },
        "renameCollection" => doc! { "to": format!("{namespace}-2") },
        "cloneCollectionAsCapped" => doc! { "toCollection": format!("{collection}-2") },
        "killCursors" => doc! { "cursors": [] },
        _ => doc! {},
    };
    let mut bodies = vec![
        doc! { "dbHash": 1, "collections": [collection] },
        doc! { "bulkWrite": 1, "ops": [], "nsInfo": [{ "ns": &*namespace }] },
        doc! { "getMore": 7_i64, "collection": collection },
        doc! { "aggregate": collection, "cursor": {}, "pipeline": [
            { "$addFields": { "x": { "$function": { "body": "1", "args": [], "lang": "js" } } } },
        ] },
    ];
    for command in table::all() {
        let value = match command.collection {
            CollectionAt::First => collection,
            CollectionAt::FirstFullNamespace => &namespace,
            CollectionAt::None | CollectionAt::Field(_) => continue,
        };
        let mut body = doc! { command.name: value };
        body.extend(rest(command.name));
        bodies.push(body);
    }
    for body in &mut bodies {
        body.insert("$db", database);
    }
    bodies.iter().map(|body| RawDocumentBuf::try_from(body).unwrap()).collect()
}

fn meaning_of(body: &RawDocumentBuf) -> Option<Meaning<'_>> {
    let options = ReadOptions { javascript: true, ..ReadOptions::default() };
    read(&Request { body, database: None, sequences: &[] }, options).ok()
}

#[test]
fn the_accesses_of_a_collection_are_what_the_commands_reach() {
    let mut expected: Vec<String> = Vec::new();
    for body in bodies_about("shop", "orders") {
        let Some(meaning) = meaning_of(&body) else { continue };
        let own = Resource::Collection { database: "shop", collection: "orders" };
        let needs_more = meaning.reaches.iter().any(|reach| {
            matches!(reach.resource, Resource::WholeDatabase(_) | Resource::WholeServer)
                || matches!(reach.resource, Resource::SystemCollection { .. } | Resource::Database(_))
        });
        if needs_more {
            continue;
        }
        let reaches = meaning.reaches.iter().filter(|reach| reach.resource == own);
        let classes: Vec<_> = reaches.map(|reach| (reach.class, reach.incidental)).collect();
        expected.push(format!("{} {classes:?} {}", meaning.command.name, meaning.javascript));
    }
    // No request can say it; a rule that names it for a collection shows that collection.
    expected.push("listCollections [(Read, false)] false".to_owned());
    expected.sort();
    expected.dedup();
    let accesses = collection_accesses();
    let mut found: Vec<String> = accesses
        .map(|access| format!("{} {:?} {}", access.command.name, access.classes.to_vec(), access.javascript))
        .collect();
    assert!(found[0].starts_with("find "), "the most frequent comes first");
    found.sort();
    found.dedup();
    assert_eq!(found, expected);
}

/// Names that stand for every name that the patterns of [`naive::any_rules`] tell apart.
const NAMES: &[&str] = &[
    "x",
    "xy",
    "xq",
    "xs",
    "xqs",
    "q",
    "qs",
    "sysq",
    "sysqs",
    "oplog.rs",
    "system.profile",
    "system.q",
    "system.qs",
    "system.buckets.x",
    "system.buckets.q",
];
const DATABASES: &[&str] = &["a", "ab", "aq", "b", "qb", "aqb", "q", "local", "loq", "loqb", "admin", "config"];

/// The commands about one collection, by database and collection. The last is a list of this collection alone, which no
/// request can ask for.
static MEANINGS: LazyLock<HashMap<(&str, &str), Vec<Meaning<'static>>>> = LazyLock::new(|| {
    let places = DATABASES.iter().flat_map(|database| NAMES.iter().map(move |name| (*database, *name)));
    let meanings = places.map(|(database, name)| {
        let bodies = &*bodies_about(database, name).leak();
        let mut meanings: Vec<_> = bodies.iter().filter_map(meaning_of).collect();
        let find = meanings.iter().find(|meaning| meaning.command.name == "find").unwrap().clone();
        meanings.push(Meaning { command: table::find(b"listCollections").unwrap(), ..find });
        ((database, name), meanings)
    });
    meanings.collect()
});

struct Naive<'c> {
    config: &'c PolicyConfig,
    caller: &'c CallerFacts<'c>,
}

impl Naive<'_> {
    fn allows(&self, meaning: &Meaning<'_>) -> bool {
        !naive::decide(self.config, false, self.caller, meaning).0
    }

    fn allows_on(&self, database: &'static str, collection: &'static str, only_reads: bool) -> bool {
        let is_read = |name| ["find", "aggregate", "count", "distinct", "listCollections"].contains(&name);
        let mut meanings = MEANINGS[&(database, collection)].iter();
        meanings.any(|meaning| (!only_reads || is_read(meaning.command.name)) && self.allows(meaning))
    }

    fn allows_in(&self, database: &'static str) -> bool {
        let whole = |name: &str, class| (name.to_owned(), class, Resource::WholeDatabase(database));
        let itself = |name: &str, class| (name.to_owned(), class, Resource::Database(database));
        let mut on_database = vec![
            whole("dropDatabase", Class::Ddl),
            whole("profile", Class::Admin),
            whole("listCollections", Class::Read),
            whole("dbHash", Class::Read),
            itself("aggregate", Class::Read),
            itself("dbStats", Class::Read),
            itself("listDatabases", Class::Read),
            itself("createUser", Class::UserAdmin),
            itself("movePrimary", Class::Cluster),
        ];
        if database == "admin" {
            on_database.push(itself("serverStatus", Class::AdminRead));
            on_database.push(itself("setParameter", Class::Admin));
            on_database.push(itself("replSetGetStatus", Class::Cluster));
            on_database.push(itself("listShards", Class::Cluster));
        }
        NAMES.iter().any(|name| self.allows_on(database, name, false))
            || on_database.into_iter().any(|(name, class, resource)| {
                let command = table::find(name.as_bytes()).unwrap();
                let reaches = SmallVec::from_iter([Reach { resource, class, incidental: false }]);
                self.allows(&Meaning { command, reaches, ..meaning("find -") })
            })
    }

    /// Whether a `deny` rule denies the whole list.
    fn denies_list(&self, listing: &Meaning<'_>) -> bool {
        let resource = &listing.reaches[0].resource;
        let entry = |to: &ToConfig| {
            let is_dead = [&to.commands, &to.databases, &to.collections]
                .iter()
                .any(|values| values.any.as_ref().is_some_and(Vec::is_empty));
            let names_it = to
                .commands
                .any
                .iter()
                .flatten()
                .any(|value| value != "*" && naive::matches_text(value, listing.command.name));
            let matches = if names_it { naive::overlaps(to, resource) } else { naive::covers(to, resource) };
            !is_dead && naive::commands(to, Action::Deny, listing, Class::Read) && matches
        };
        let everything = [ToConfig::default()];
        let is_about = |rule: &RuleConfig| {
            rule.from.as_ref().is_none_or(|all| all.iter().any(|one| naive::from(one, self.caller)))
        };
        let denying = self.config.rules.iter().filter(|rule| rule.action == Action::Deny && !rule.dry_run);
        denying.into_iter().any(|rule| is_about(rule) && rule.to.as_deref().unwrap_or(&everything).iter().any(entry))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_caller_may_see_agrees_with_a_judgement_of_every_command(
        rules in naive::any_rules(5),
        deny_javascript: bool,
        (principal, source, listener) in naive::any_caller(),
        places in vec((proptest::sample::select(DATABASES), proptest::sample::select(NAMES)), 1..6),
    ) {
        let enforcement = Enforcement::Enforce;
        let config =
            PolicyConfig { enforcement, deny_javascript, known_commands: std::collections::BTreeMap::new(), rules };
        let policy = Policy::compile(&config, std::time::SystemTime::now()).unwrap();
        let caller = CallerFacts { principal: principal.as_ref(), source, listener };
        let view = policy.view(&caller);
        let naive = Naive { config: &config, caller: &caller };
        for (database, name) in places {
            let resources = crate::command::resources_of(database, name).unwrap();
            let place = (database, name);
            prop_assert_eq!(view.may_see(database, name), naive.allows_on(database, name, false), "{:?}", place);
            prop_assert_eq!(view.may_read(&resources), naive.allows_on(database, name, true), "{} {}", database, name);
            prop_assert_eq!(view.allows_anything_in(database), naive.allows_in(database), "{}", database);
            // The names in these databases are shown to a caller that may read all of them, although they show more.
            let shows_server = ["admin", "config", "local"].contains(&database);
            if policy.enforces() && !shows_server && view.sees_everything(Listing::Collections, database) {
                prop_assert!(NAMES.iter().all(|name| naive.allows_on(database, name, true)), "{}", database);
            }
            let body = collections(database);
            let list = meaning_of(&body).unwrap();
            let passes = naive.allows(&list) || (naive.allows_in(database) && !naive.denies_list(&list));
            let expected = if passes || !policy.enforces() { Effect::Allow } else { Effect::Deny };
            prop_assert_eq!(view.judge(&list).effect, expected, "{}", database);
        }
        let body = databases();
        let list = meaning_of(&body).unwrap();
        let anywhere = || DATABASES.iter().any(|database| naive.allows_in(database));
        let passes = naive.allows(&list) || (anywhere() && !naive.denies_list(&list));
        let expected = if passes || !policy.enforces() { Effect::Allow } else { Effect::Deny };
        prop_assert_eq!(view.judge(&list).effect, expected);
    }
}
