//! Measures the time that a policy adds to a message: parsing the command, and deciding it with one rule and with
//! 10,000.
//!
//! The rules differ from each other, and three of four match the caller. "judge" is the decision alone, which must not
//! become slower with more rules. "message" is everything that is done for one command.

use std::hint::black_box;

use bson::{Document, RawDocument, RawDocumentBuf, doc};
use criterion::{Criterion, criterion_group, criterion_main};
use smallvec::SmallVec;

use mongate::command::table::{self, Class};
use mongate::command::{self, Meaning, Reach, ReadOptions, Request, Resource};
use mongate::config::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig, Values};
use mongate::identity::Principal;
use mongate::policy::{CallerFacts, Grounds, Judgement, Policy, View};

const CALLER: &str = "cluster.local/ns/shop/sa/cart";

fn values<const N: usize>(texts: [String; N]) -> Values {
    Values { any: Some(texts.into()), not: None }
}

/// Returns rule `n` of many. The rules are as varied as those of a large installation.
fn rule(n: usize) -> RuleConfig {
    let principals = match n % 4 {
        0 => [format!("cluster.local/ns/other/sa/client-{n}")],
        1 => [CALLER.to_owned()],
        2 => ["cluster.local/ns/shop/*".to_owned()],
        _ => ["*".to_owned()],
    };
    let collections = match n % 7 {
        0 => values([format!("logs-{n}.*")]),
        1 => values([format!("*.archive-{n}")]),
        _ => values([format!("c-{n}"), format!("d-{n}")]),
    };
    let (action, commands) = match n % 3 {
        0 => (Action::Deny, ["@write".to_owned()]),
        1 => (Action::Deny, ["*".to_owned()]),
        _ => (Action::Allow, ["@read".to_owned()]),
    };
    RuleConfig {
        name: format!("rule-{n}"),
        action,
        dry_run: false,
        expires: None,
        reason: None,
        from: Some(vec![FromConfig { principals: values(principals), ..FromConfig::default() }]),
        to: Some(vec![ToConfig {
            commands: values(commands),
            databases: values([format!("db-{}", n % 50)]),
            collections,
        }]),
    }
}

/// Returns a policy with `count` rules. The last one allows the benchmarked commands, so that none of the others ends
/// the search.
fn rules(count: usize) -> PolicyConfig {
    let shop = ToConfig { databases: values(["shop".to_owned(), "db-7".to_owned()]), ..ToConfig::default() };
    let last = RuleConfig {
        name: "shop".to_owned(),
        action: Action::Allow,
        dry_run: false,
        expires: None,
        reason: None,
        from: Some(vec![FromConfig { principals: values([CALLER.to_owned()]), ..FromConfig::default() }]),
        to: Some(vec![shop]),
    };
    let rules = (1..count).map(rule).chain([last]).collect();
    PolicyConfig {
        enforcement: Enforcement::Enforce,
        deny_javascript: false,
        known_commands: std::collections::BTreeMap::new(),
        rules,
    }
}

fn compile(config: &PolicyConfig) -> Policy {
    Policy::compile(config, std::time::SystemTime::now()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn view(policy: &Policy) -> View {
    let principal = Principal::configured(CALLER);
    policy.view(&CallerFacts { principal: Some(&principal), source: None, listener: "orders" })
}

/// Adds the fields that drivers append to a command.
fn with_session(mut body: Document) -> RawDocumentBuf {
    let id = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] };
    body.insert("lsid", doc! { "id": id });
    body.insert("$clusterTime", doc! { "clusterTime": bson::Timestamp { time: 1, increment: 1 } });
    body.insert("$db", "shop");
    RawDocumentBuf::try_from(&body).expect("a document of literals")
}

/// The benchmarked commands, and the collections that they access.
fn commands() -> [(&'static str, RawDocumentBuf, Meaning<'static>); 3] {
    let find = doc! { "find": "orders", "filter": { "customer": 5, "state": "open" }, "limit": 10 };
    let many: Vec<Document> = (0..1_000).map(|n| doc! { "_id": n, "text": "x".repeat(200) }).collect();
    let mut stages: Vec<Document> = (0..8).map(|n| doc! { "$match": { "a": n } }).collect();
    stages.push(doc! { "$lookup": { "from": "customers", "localField": "c", "foreignField": "_id", "as": "c" } });
    stages.push(doc! { "$unionWith": "archive" });
    let aggregate = doc! { "aggregate": "orders", "pipeline": stages, "cursor": {} };
    [
        ("find", with_session(find), meaning("find", &["orders"])),
        (
            "insert of 1,000 documents",
            with_session(doc! { "insert": "orders", "documents": many }),
            meaning("insert", &["orders"]),
        ),
        ("aggregate of 10 stages", with_session(aggregate), meaning("aggregate", &["orders", "customers", "archive"])),
    ]
}

fn meaning<'a>(name: &str, collections: &[&'a str]) -> Meaning<'a> {
    let command = table::find(name.as_bytes()).expect("a command of the table");
    let reach = |collection: &&'a str| Reach {
        resource: Resource::Collection { database: "shop", collection },
        class: command.class,
        incidental: false,
    };
    Meaning {
        command,
        explained: false,
        database: "shop",
        reaches: collections.iter().map(reach).collect(),
        javascript: false,
        essential: false,
        listing: None,
        cursors: SmallVec::new(),
        sessions: SmallVec::new(),
    }
}

fn read_and_judge(view: &View, body: &RawDocument) -> Judgement {
    let request = Request { body, database: None, sequences: &[] };
    match command::read(&request, view.read_options()) {
        Ok(meaning) => view.judge(&meaning),
        Err(_) => view.deny(Grounds::Unclear),
    }
}

fn messages(criterion: &mut Criterion) {
    for (name, body, meaning) in commands() {
        let mut group = criterion.benchmark_group(name);
        let request = Request { body: &body, database: None, sequences: &[] };
        group.bench_function("read", |bencher| {
            bencher.iter(|| command::read(black_box(&request), ReadOptions::default()).is_ok());
        });
        for count in [1, 10_000] {
            let policy = compile(&rules(count));
            let view = view(&policy);
            group.bench_function(format!("judge, {count} rules"), |bencher| {
                bencher.iter(|| view.judge(black_box(&meaning)));
            });
            group.bench_function(format!("message, {count} rules"), |bencher| {
                bencher.iter(|| read_and_judge(&view, black_box(&body)));
            });
        }
        group.finish();
    }
}

/// A command that accesses as many collections as possible, in a database for which many rules exist. No rule denies
/// one, because a denial would end the search.
fn hostile(criterion: &mut Criterion) {
    let names: Vec<String> = (0..1_000).map(|n| format!("places-{n}")).collect();
    let resource = |collection| Resource::Collection { database: "db-7", collection };
    let mut meaning = meaning("aggregate", &[]);
    meaning.reaches =
        names.iter().map(|name| Reach { resource: resource(name), class: Class::Read, incidental: false }).collect();
    let mut group = criterion.benchmark_group("aggregate that reaches 1,000 places");
    for count in [1, 10_000] {
        let policy = compile(&rules(count));
        let view = view(&policy);
        group.bench_function(format!("judge, {count} rules"), |bencher| {
            bencher.iter(|| view.judge(black_box(&meaning)));
        });
    }
    group.finish();
}

/// Work that is rare: at a reload, at a new connection, at the first command of a kind.
fn rare(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10,000 rules");
    group.sample_size(10);
    let config = rules(10_000);
    group.bench_function("compile", |bencher| bencher.iter(|| compile(black_box(&config))));
    let policy = compile(&config);
    let meaning = meaning("find", &["orders"]);
    group.bench_function("view, the first of its kind, and its first find", |bencher| {
        bencher.iter(|| view(&policy).judge(black_box(&meaning)));
    });
    let _kept = view(&policy);
    group.bench_function("view, another of its kind", |bencher| bencher.iter(|| view(&policy)));
    group.finish();
}

criterion_group!(benches, messages, hostile, rare);
criterion_main!(benches);
