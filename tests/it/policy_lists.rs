//! Lists of collections and databases under rules for single collections: a caller sees what it may do anything with,
//! with real drivers and in every form of the reply. No reply may contain the canary, which is in the names, options
//! and views of everything else.

use std::collections::BTreeSet;
use std::fs;

use bson::{Document, doc};
use serde_json::{Value, json};

use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::process;
use crate::kit::raw::{Connection, body_section, op_msg, op_msg_with_checksum};
use crate::policy_mesh::SCRIPT_TIMEOUT;

/// No command of these tests contains this text.
const CANARY: &str = "Kp3CanaryZw8";
const CALLER: &str = "cluster.local/ns/shop/sa/cart";

/// The caller may read three collections, and insert into another one.
const SOME: &str = "
    { commands = ['@read', '@write'], databases = ['shop'], collections = ['orders', 'few', 'window'] },
    { commands = ['insert'], databases = ['shop'], collections = ['log'] },
";
/// The caller may do everything.
const EVERYTHING: &str = "{}";

/// What the caller sees under [`SOME`].
const SHOWN: [&str; 4] = ["few", "log", "orders", "window"];

struct Scene {
    mongod: Mongod,
    gateway: Gateway,
    options: GatewayOptions,
}

impl Scene {
    fn new(allowed: &str) -> Option<Self> {
        let mongod = Mongod::start(MongodOptions::default())?;
        fill(&mongod);
        let options = GatewayOptions {
            listener: format!("principal = '{CALLER}'\n"),
            tables: rules(allowed),
            ..GatewayOptions::to(&mongod)
        };
        Some(Self { gateway: Gateway::start(&options), options, mongod })
    }

    fn connect(&self) -> Connection {
        self.gateway.connect().unwrap()
    }

    /// Replaces the rules, and waits until they are in force.
    fn reload(&self, allowed: &str, count: f64) {
        let options = GatewayOptions { tables: rules(allowed), ..self.options.clone() };
        fs::write(self.gateway.configuration_file(), options.configuration()).unwrap();
        let is = |counted: f64| (counted - count).abs() < 0.5;
        self.gateway.await_metric("mongate_reloads_total", &[("outcome", "ok")], is);
    }

    fn uri(&self) -> String {
        format!("{}/?directConnection=true", self.gateway.uri())
    }
}

fn rules(allowed: &str) -> String {
    format!(
        "[[policy.rule]]\nname = 'some'\naction = 'allow'\nfrom = [{{ principals = ['{CALLER}'] }}]\nto = [{allowed}]\n"
    )
}

fn fill(mongod: &Mongod) {
    let series = doc! { "timeField": "time", "metaField": CANARY };
    let match_canary = || vec![doc! { "$match": { "text": CANARY } }];
    let other = format!("other-{CANARY}");
    let mut connection = mongod.connect().unwrap();
    for command in [
        doc! { "insert": "orders", "documents": [{ "_id": 1 }], "$db": "shop" },
        doc! { "create": "log", "validator": { "text": { "$ne": CANARY } }, "$db": "shop" },
        doc! { "create": "secret", "validator": { "text": { "$ne": CANARY } }, "$db": "shop" },
        doc! { "create": CANARY, "$db": "shop" },
        doc! { "create": "few", "viewOn": "orders", "pipeline": [{ "$limit": 2 }], "$db": "shop" },
        doc! { "create": "window", "viewOn": "secret", "pipeline": match_canary(), "$db": "shop" },
        doc! { "create": "orders-of-others", "viewOn": "orders", "pipeline": match_canary(), "$db": "shop" },
        doc! { "create": "series", "timeseries": series, "$db": "shop" },
        doc! { "insert": "c", "documents": [{ "text": CANARY }], "$db": other },
    ] {
        connection.run(&command).unwrap();
    }
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

fn batch_of(reply: &Document) -> Vec<Document> {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch")).unwrap();
    batch.iter().map(|entry| entry.as_document().unwrap().clone()).collect()
}

fn names_of(entries: &[Document]) -> Vec<&str> {
    let mut names: Vec<_> = entries.iter().map(|entry| entry.get_str("name").unwrap()).collect();
    names.sort_unstable();
    names
}

/// Lists that pass. Each of them has the canary where everything is allowed.
fn lists() -> Vec<Document> {
    let name = |pattern: &str| doc! { "name": { "$regex": pattern } };
    let collections = vec![
        doc! {},
        doc! { "nameOnly": true },
        doc! { "nameOnly": true, "authorizedCollections": true },
        doc! { "filter": {}, "cursor": { "batchSize": 1000 } },
        doc! { "filter": name("[^x]"), "cursor": {} },
        doc! { "filter": { "$or": [name("^K"), { "type": "view" }] }, "nameOnly": true },
        doc! { "filter": { "info.readOnly": false }, "comment": "x" },
    ];
    let databases = vec![
        doc! {},
        doc! { "nameOnly": true },
        doc! { "filter": { "name": { "$regex": "." } }, "authorizedDatabases": true },
        doc! { "filter": { "sizeOnDisk": { "$gt": 0 }, "empty": false } },
    ];
    let of = |command: &'static str, database: &'static str| {
        move |arguments: Document| {
            let mut body = doc! { command: 1 };
            body.extend(arguments);
            body.insert("$db", database);
            body
        }
    };
    let collections = collections.into_iter().map(of("listCollections", "shop"));
    collections.chain(databases.into_iter().map(of("listDatabases", "admin"))).collect()
}

/// Lists that are denied, because they tell more than their reply shows.
fn telling_lists() -> Vec<Document> {
    let convert = || doc! { "$expr": { "$toInt": "$name" } };
    let list = |filter: Document| doc! { "listCollections": 1, "filter": filter, "$db": "shop" };
    let mut batched = list(doc! { "name": "secret" });
    batched.insert("cursor", doc! { "batchSize": 1 });
    vec![
        list(convert()),
        list(doc! { "$and": [{ "type": "collection" }, convert()] }),
        list(doc! { "options.viewOn": "secret" }),
        list(doc! { "options.pipeline.0.$match.text": { "$regex": "^K" } }),
        batched,
        doc! { "listDatabases": 1, "filter": convert(), "$db": "admin" },
    ]
}

#[test]
fn a_caller_of_single_collections_sees_them_and_nothing_else() {
    let Some(scene) = Scene::new(SOME) else { return };
    let mut connection = scene.connect();
    for list in lists() {
        let plain = op_msg(1, 0, &[body_section(&list)]);
        for bytes in [plain, op_msg_with_checksum(1, 0, &[body_section(&list)])] {
            connection.send(&bytes).unwrap();
            let reply = connection.reply().unwrap();
            assert!(!holds_canary(&reply.bytes), "{list}: {}", reply.document);
            assert!(reply.code().is_none(), "{list}: {}", reply.document);
        }
    }
    for list in telling_lists() {
        let reply = connection.command(&list).unwrap();
        assert_eq!(reply.get_i32("code").ok(), Some(13), "{list}: {reply}");
        assert!(!reply.to_string().contains(CANARY), "{list}: {reply}");
    }
    let entries = batch_of(&connection.run(&doc! { "listCollections": 1, "$db": "shop" }).unwrap());
    assert_eq!(names_of(&entries), SHOWN);
    let entry = |name: &str| entries.iter().find(|entry| entry.get_str("name").unwrap() == name).unwrap();
    let pipeline = vec![doc! { "$limit": 2 }];
    assert_eq!(entry("few").get_document("options").unwrap(), &doc! { "viewOn": "orders", "pipeline": pipeline });
    assert_eq!(entry("window").get_document("options").unwrap(), &doc! {}, "it reads a collection that is denied");
    assert_eq!(entry("log").get_document("options").unwrap(), &doc! {}, "the caller may not read it");
    assert!(entry("orders").get_document("info").unwrap().contains_key("uuid"));
    assert_eq!(entry("orders").get_document("idIndex").unwrap().get_str("name").unwrap(), "_id_");

    let databases = connection.run(&doc! { "listDatabases": 1, "$db": "admin" }).unwrap();
    let shown: Vec<_> = databases.get_array("databases").unwrap().iter().filter_map(|one| one.as_document()).collect();
    assert_eq!(shown.iter().map(|one| one.get_str("name").unwrap()).collect::<Vec<_>>(), ["shop"]);
    let size = shown[0].get_i64("sizeOnDisk").unwrap();
    let sums = ["totalSize", "totalSizeMb"].map(|name| databases.get_i64(name).unwrap());
    assert_eq!(sums, [size, size >> 20]);
    // A database in which the caller may do nothing, and what tells of a whole database.
    for command in [doc! { "listCollections": 1, "$db": "vault" }, doc! { "dbStats": 1, "$db": "shop" }] {
        let reply = connection.command(&command).unwrap();
        assert_eq!(reply.get_i32("code").ok(), Some(13), "{reply}");
    }
    let ok = scene.gateway.metric("mongate_commands_total", &[("command", "listCollections"), ("outcome", "ok")]);
    assert!(ok > 1.0, "{ok}");
}

#[test]
fn a_caller_that_may_do_everything_sees_everything_in_the_same_lists() {
    let Some(scene) = Scene::new(EVERYTHING) else { return };
    let mut connection = scene.connect();
    // The errors of the others quote a name, or their replies have a part of a view.
    for list in lists() {
        let reply = connection.run(&list).unwrap();
        assert!(reply.to_string().contains(CANARY), "{list}: {reply}");
    }
    let told: Vec<bool> = telling_lists()
        .iter()
        .map(|list| {
            let reply = connection.command(list).unwrap();
            assert_ne!(reply.get_i32("code").ok(), Some(13), "{list}: {reply}");
            !reply.contains_key("cursor") || !batch_of(&reply).is_empty()
        })
        .collect();
    assert_eq!(told, [true; 6]);
}

/// Reads the rest of a list on other connections, and returns all names.
fn read_on(scene: &Scene, opened: &Document) -> Vec<String> {
    let mut names = Vec::new();
    let mut reply = opened.clone();
    loop {
        assert!(!reply.to_string().contains(CANARY), "{reply}");
        names.extend(names_of(&batch_of(&reply)).into_iter().map(str::to_owned));
        let id = reply.get_document("cursor").unwrap().get_i64("id").unwrap();
        if id == 0 {
            names.sort_unstable();
            return names;
        }
        reply = scene.connect().run(&next(id, 2)).unwrap();
    }
}

fn next(id: i64, size: i32) -> Document {
    doc! { "getMore": id, "collection": "$cmd.listCollections", "batchSize": size, "$db": "shop" }
}

fn list_with(size: i32) -> Document {
    doc! { "listCollections": 1, "cursor": { "batchSize": size }, "$db": "shop" }
}

fn cursor_of(reply: &Document) -> i64 {
    reply.get_document("cursor").unwrap().get_i64("id").unwrap()
}

#[test]
fn the_batches_of_a_list_are_filtered_on_every_connection_and_by_the_policy_in_force() {
    let Some(scene) = Scene::new(SOME) else { return };
    let mut connection = scene.connect();
    for size in [0, 1, 2, 5] {
        let opened = connection.run(&list_with(size)).unwrap();
        assert_ne!(cursor_of(&opened), 0, "the list goes on: {opened}");
        assert_eq!(read_on(&scene, &opened), SHOWN, "batches of {size}");
    }
    // The cursor of a list has the namespace of a list.
    let opened = cursor_of(&connection.run(&list_with(1)).unwrap());
    let disguised = doc! { "getMore": opened, "collection": "orders", "$db": "shop" };
    assert_eq!(connection.command(&disguised).unwrap().get_i32("code").ok(), Some(13));
    let elsewhere = doc! { "getMore": opened, "collection": "$cmd.listCollections", "$db": "vault" };
    assert!(connection.command(&elsewhere).unwrap().get_i32("code").is_ok());

    let opened = [0; 2].map(|size| connection.run(&list_with(size)).unwrap());
    scene.reload("{ commands = ['@read'], databases = ['shop'], collections = ['few'] }", 1.0);
    assert_eq!(read_on(&scene, &opened[0]), ["few"]);
    scene.reload("{ commands = ['@read'], databases = ['menu'] }", 2.0);
    let reply = connection.command(&next(cursor_of(&opened[1]), 2)).unwrap();
    assert_eq!(reply.get_i32("code").ok(), Some(13), "{reply}");
    // What was hidden when the list was opened is shown where it is allowed now.
    scene.reload(SOME, 3.0);
    let opened = connection.run(&list_with(0)).unwrap();
    scene.reload(EVERYTHING, 4.0);
    let reply = connection.run(&next(cursor_of(&opened), 1000)).unwrap();
    assert!(reply.to_string().contains(CANARY), "{reply}");
}

#[test]
fn a_list_of_thousands_of_collections_is_filtered() {
    let Some(scene) = Scene::new(SOME) else { return };
    let mut direct = scene.mongod.connect().unwrap();
    // A view needs no file.
    for number in 0..2000 {
        let view = doc! { "create": format!("{CANARY}-{number}"), "viewOn": "orders", "pipeline": [], "$db": "shop" };
        direct.run(&view).unwrap();
    }
    let mut connection = scene.connect();
    for list in [doc! { "listCollections": 1, "$db": "shop" }, list_with(1500)] {
        let reply = connection.run(&list).unwrap();
        assert_eq!(read_on(&scene, &reply), SHOWN);
    }
}

/// Checks what `PyMongo` lists.
fn check_pymongo(scene: &Scene, is_restricted: bool) {
    let Some(mut command) = drivers::python() else { return };
    command.arg(drivers::scripts().join("lists.py")).args([&scene.uri(), "shop"]);
    let output = process::run("lists.py", command, SCRIPT_TIMEOUT).unwrap();
    let report: Value = serde_json::from_str(output.trim()).unwrap();
    assert_eq!(output.contains(CANARY), !is_restricted, "{report}");
    assert_eq!((&report["one"], &report["exists"]), (&json!(["orders"]), &json!(true)));
    assert_eq!(report["names"], report["batches"]);
    assert_eq!(report["databases"], report["sizes"]);
    if is_restricted {
        assert_eq!((&report["names"], &report["none"]), (&json!(SHOWN), &json!([])));
        assert_eq!((&report["views"], &report["databases"]), (&json!(["few", "window"]), &json!(["shop"])));
        let expected = json!({
            "few": ["view", { "viewOn": "orders", "pipeline": [{ "$limit": 2 }] }],
            "log": ["collection", {}],
            "orders": ["collection", {}],
            "window": ["view", {}],
        });
        assert_eq!(report["details"], expected);
    } else {
        assert_eq!(report["none"], json!(["secret"]));
    }
}

#[test]
fn pymongo_lists_what_its_caller_may_see() {
    // Restricted, and as a control unrestricted.
    for allowed in [SOME, EVERYTHING] {
        let Some(scene) = Scene::new(allowed) else { return };
        check_pymongo(&scene, allowed == SOME);
    }
}

/// The caller may do with `orders` what an object mapper does, and make its indexes.
const MAPPED: &str = "
    { commands = ['@read', '@write', 'createIndexes'], databases = ['shop'], collections = ['orders'] },
";

#[test]
fn mongoengine_works_with_the_collection_of_its_caller() {
    // Restricted, and as a control unrestricted.
    for allowed in [MAPPED, EVERYTHING] {
        let Some(scene) = Scene::new(allowed) else { return };
        let Some(mut command) = drivers::python() else { return };
        command.arg(drivers::scripts().join("engine.py")).args([&scene.uri(), "shop"]);
        let output = process::run("engine.py", command, SCRIPT_TIMEOUT).unwrap();
        let is_restricted = allowed == MAPPED;
        assert_eq!(output.contains(CANARY), !is_restricted, "{output}");
        let report: Value = serde_json::from_str(output.trim()).unwrap();
        assert_eq!((&report["shown"], &report["counted"]), (&json!([{ "count": 3 }]), &json!(1)));
        assert_eq!((&report["indexes"], &report["left"]), (&json!(["_id_", "name_1"]), &json!(0)));
        assert_eq!(report["secret"], if is_restricted { json!(13) } else { Value::Null });
        if is_restricted {
            assert_eq!((&report["collections"], &report["databases"]), (&json!(["orders"]), &json!(["shop"])));
        }
    }
}

#[test]
fn mongosh_shows_what_its_caller_may_see() {
    for allowed in [SOME, EVERYTHING] {
        let Some(scene) = Scene::new(allowed) else { return };
        let mut first_words = BTreeSet::new();
        // mongosh prints the result of its last expression only.
        for asked in ["show collections", "show dbs"] {
            let Some(mut shell) = drivers::mongosh() else { return };
            shell.args(["--quiet", "--norc", &scene.uri().replace("/?", "/shop?"), "--eval", asked]);
            let output = process::run("mongosh", shell, SCRIPT_TIMEOUT).unwrap();
            assert_eq!(output.contains(CANARY), allowed == EVERYTHING, "{output}");
            first_words.extend(output.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
        }
        let shown = SHOWN.iter().chain(&["shop"]).map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        if allowed == SOME {
            assert_eq!(first_words, shown);
        } else {
            assert!(first_words.is_superset(&shown), "{first_words:?}");
        }
    }
}
