//! A policy where it is the only guard: behind a mongod without authorisation, a caller who may use nothing but `shop`
//! tries every way around, and never gets a byte of the rest.
//!
//! The rest holds one text, the canary: in documents, in a view, in names of a database, of collections and of an index,
//! in what mongod writes down of commands, and in an operation that is open all the time.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, Role};
use crate::kit::raw::{Connection, Received, Reply, body_section, op_msg};
use crate::policy_rows::{self, Elsewhere, Leads, ROW, Row, Verdict};

/// Never a part of what a row sends.
const CANARY: &str = "Vq7CanaryHt2";
/// Request id of the pings after each row.
const PING: i32 = 78;
const OWNER: &str = "cluster.local/ns/vault/sa/owner";
const SHOP: &str = "cluster.local/ns/shop/sa/cart";

/// What the caller of the listener `test` may do.
const SHOP_ONLY: &str = "
    [[policy.rule]]
    name = 'shop'
    action = 'allow'
    from = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]
    to = [{ commands = ['@read', '@write', '@ddl', '@session'], databases = ['shop'] }]

    [[policy.rule]]
    name = 'private-is-private'
    action = 'deny'
    from = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]
    to = [{ databases = ['shop'], collections = ['private', 'Vq7CanaryHt2'] }]
";
/// The same where nothing is forbidden.
const EVERYTHING: &str = "
    [[policy.rule]]
    name = 'everything'
    action = 'allow'
    from = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]
";

#[test]
fn nothing_of_the_vault_ever_comes_back_or_changes() {
    let Some(vault) = Vault::new(SHOP_ONLY) else { return };
    let (before, process) = (vault.snapshot(), vault.process());
    let mut wrong = Vec::new();
    for row in policy_rows::all(&vault.leads) {
        for delivery in [Delivery::Alone, Delivery::BehindPing, Delivery::InPieces] {
            if let Err(what) = vault.attempt(&row, delivery) {
                wrong.push(format!("{} ({delivery:?}): {what}", row.name));
            }
        }
        if vault.mongod.run(&ping()).is_err() {
            wrong.push(format!("{}: mongod fell over", row.name));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(vault.process(), process, "mongod is another one");
    assert_eq!(vault.snapshot(), before, "outside of what the caller may write, something has changed");
    vault.the_owner_still_reads();
}

/// A caller of one collection, who may write to it as well.
const ONE_COLLECTION: &str = "
    [[policy.rule]]
    name = 'orders'
    action = 'allow'
    from = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]
    to = [{ commands = ['@read', '@write'], databases = ['shop'], collections = ['orders'] }]
";

#[test]
fn stored_functions_are_not_for_a_caller_of_one_collection() {
    let place = || doc! { "$where": "throw new Error(stored)" };
    let map = Bson::JavaScriptCode("function () { throw new Error(stored) }".to_owned());
    let commands = [
        doc! { "find": "orders", "filter": place() },
        doc! { "find": "orders", "filter": { "$or": [{ "none": 1 }, place()] } },
        doc! { "count": "orders", "query": place() },
        doc! { "distinct": "orders", "key": "_id", "query": place() },
        doc! { "update": "orders", "updates": [{ "q": place(), "u": { "$set": { "x": 1 } } }] },
        doc! { "delete": "orders", "deletes": [{ "q": place(), "limit": 0 }] },
        doc! { "findAndModify": "orders", "query": place(), "remove": true },
        doc! { "mapReduce": "orders", "map": map.clone(), "reduce": map, "out": { "inline": 1 } },
    ];
    let bodies = commands.map(|mut command| {
        command.insert("$db", "shop");
        op_msg(ROW, 0, &[body_section(&command)])
    });
    let sequence = crate::kit::raw::sequence_section("deletes", &[doc! { "q": place(), "limit": 0 }]);
    let with_sequence = op_msg(ROW, 0, &[body_section(&doc! { "delete": "orders", "$db": "shop" }), sequence]);
    for (rules, expected) in [(ONE_COLLECTION, false), (EVERYTHING, true)] {
        let Some(vault) = Vault::new(rules) else { return };
        let stored = doc! { "_id": "stored", "value": CANARY };
        vault.mongod.run(&doc! { "insert": "system.js", "documents": [stored], "$db": "shop" }).unwrap();
        for bytes in bodies.iter().chain([&with_sequence]) {
            let seen = holds_canary(&answer(vault.gateway.connect().unwrap(), bytes));
            assert_eq!(seen, expected, "{}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn with_leave_for_everything_the_same_rows_read_it() {
    let Some(vault) = Vault::new(EVERYTHING) else { return };
    let mut wrong = Vec::new();
    for row in policy_rows::all(&vault.leads) {
        let reveals = |connection: Connection| holds_canary(&answer(connection, &row.bytes));
        let through = || reveals(vault.gateway.connect().unwrap());
        let (seen, wanted) = match row.elsewhere {
            Elsewhere::Unsent => continue,
            Elsewhere::Reads => (vec![through()], vec![true]),
            Elsewhere::MongodReads => (vec![through(), reveals(vault.mongod.connect().unwrap())], vec![false, true]),
        };
        if seen != wanted {
            wrong.push(format!("{}: through the gateway, and of mongod itself: {seen:?}, not {wanted:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{} rows prove nothing:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_statement_of_a_transaction_is_judged_and_a_cursor_is_read_from_any_connection_of_its_caller() {
    let Some(vault) = Vault::new(SHOP_ONLY) else { return };
    let mut connection = vault.gateway.connect().unwrap();
    let id = Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] };
    let within = |mut command: Document, database: &str| {
        command.extend(doc! { "lsid": { "id": id.clone() }, "txnNumber": 1_i64, "autocommit": false, "$db": database });
        command
    };
    let first = doc! { "insert": "orders", "documents": [{ "_id": 99 }], "startTransaction": true };
    connection.run(&within(first, "shop")).unwrap();
    for (command, database) in [
        (doc! { "find": "secret" }, "vault"),
        (doc! { "insert": "private", "documents": [{ "_id": 99 }] }, "shop"),
        (doc! { "aggregate": "orders", "pipeline": [{ "$unionWith": "private" }], "cursor": {} }, "shop"),
    ] {
        let refused = connection.command(&within(command, database)).unwrap();
        assert_eq!(refused.get_i32("code").ok(), Some(13), "{refused}");
    }
    // mongod has not heard of them, and the transaction goes on.
    connection.run(&within(doc! { "find": "orders" }, "shop")).unwrap();
    connection.run(&within(doc! { "commitTransaction": 1 }, "admin")).unwrap();
    let count = vault.mongod.run(&doc! { "count": "orders", "query": { "_id": 99 }, "$db": "shop" }).unwrap();
    assert_eq!(count.get_i32("n").unwrap(), 1);

    let found = connection.run(&doc! { "find": "orders", "batchSize": 1, "$db": "shop" }).unwrap();
    let cursor = found.get_document("cursor").unwrap().get_i64("id").unwrap();
    let mut other = vault.gateway.connect().unwrap();
    let more = doc! { "getMore": cursor, "collection": "orders", "batchSize": 1, "$db": "shop" };
    other.run(&more).unwrap();
    let killed = other.run(&doc! { "killCursors": "orders", "cursors": [cursor], "$db": "shop" }).unwrap();
    assert_eq!(killed.get_array("cursorsKilled").unwrap().len(), 1, "{killed}");
    assert_eq!(connection.command(&more).unwrap().get_i32("code").ok(), Some(43));
}

/// How a row arrives.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    Alone,
    /// In one piece with a ping that is not answered yet.
    BehindPing,
    /// A few bytes at a time.
    InPieces,
}

impl Delivery {
    /// A peer that closes early may do so while it is written to; what it did is read later.
    fn send(self, connection: &mut Connection, bytes: &[u8]) {
        let _ = match self {
            Self::Alone => connection.send(bytes),
            Self::BehindPing => connection.send(&[&op_msg(PING, 0, &[body_section(&ping())])[..], bytes].concat()),
            Self::InPieces => bytes.chunks(11).try_for_each(|piece| connection.send(piece)),
        };
    }
}

struct Vault {
    mongod: Mongod,
    gateway: Gateway,
    leads: Leads,
    /// Has a cursor open that names the canary.
    owner: Connection,
    /// Is in the middle of an operation that names it.
    _busy: Connection,
}

impl Vault {
    fn new(policy: &str) -> Option<Self> {
        let mongod = Mongod::start(MongodOptions { role: Role::ReplicaSet, ..MongodOptions::default() })?;
        let before = mongod.run(&ping()).unwrap().get_timestamp("operationTime").unwrap();
        fill(&mongod);
        let owner = format!("[listener.owner]\naddress = '127.0.0.1:0'\nupstream = 'test'\nprincipal = '{OWNER}'\n");
        let rule =
            format!("[[policy.rule]]\nname = 'owner'\naction = 'allow'\nfrom = [{{ principals = ['{OWNER}'] }}]\n");
        let options = GatewayOptions {
            listener: format!("principal = '{SHOP}'\n"),
            tables: [owner, rule, policy.to_owned()].concat(),
            ..GatewayOptions::to(&mongod)
        };
        let gateway = Gateway::start(&options);
        let mut owner = Connection::plain(&gateway.address_of("owner").unwrap()).unwrap();
        let cursor = |reply: Document| reply.get_document("cursor").unwrap().get_i64("id").unwrap();
        let find = doc! { "find": "secret", "batchSize": 1, "comment": CANARY, "$db": "vault" };
        let list = doc! { "listCollections": 1, "cursor": { "batchSize": 0 }, "$db": "vault" };
        let [private, named] = ["private", CANARY].map(|name| uuid(&mongod, name));
        let (cursor, listing) = (cursor(owner.run(&find).unwrap()), cursor(owner.run(&list).unwrap()));
        let mut busy = mongod.connect().unwrap();
        let slow =
            doc! { "find": "secret", "filter": { "$where": "sleep(600000)" }, "comment": CANARY, "$db": "vault" };
        busy.send(&op_msg(1, 0, &[body_section(&slow)])).unwrap();
        let leads = Leads { cursor, listing, private, named, before };
        Some(Self { mongod, gateway, leads, owner, _busy: busy })
    }

    /// Sends a row on a connection of its own, and then a ping.
    fn attempt(&self, row: &Row, delivery: Delivery) -> Result<(), String> {
        let mut connection = self.gateway.connect().unwrap();
        connection.run(&ping()).unwrap();
        delivery.send(&mut connection, &row.bytes);
        // What ends the connection may end it before that.
        if matches!(delivery, Delivery::BehindPing) && row.verdict != Verdict::Closed {
            let pong = connection.reply().map_err(|error| format!("{error:#}"))?;
            assert_eq!((pong.response_to, pong.code()), (PING, None), "{}", row.name);
        }
        let mut heard = Vec::new();
        if !matches!(row.verdict, Verdict::Silent | Verdict::Closed) {
            heard.push(connection.reply().map_err(|error| format!("{error:#}"))?);
        }
        // A connection that has ended may refuse to be written to.
        let _ = connection.send(&op_msg(PING, 0, &[body_section(&ping())]));
        let mut rest = None;
        while row.verdict == Verdict::Closed || heard.last().is_none_or(|reply| reply.response_to != PING) {
            match connection.receive().map_err(|error| format!("{error:#}"))? {
                Received::Reply(reply) => heard.push(*reply),
                Received::Closed(bytes) => {
                    rest = Some(bytes);
                    break;
                }
            }
        }
        if heard.iter().map(|reply| &reply.bytes).chain(&rest).any(|bytes| holds_canary(bytes)) {
            return Err(format!("THE CANARY came back: {heard:?}"));
        }
        let in_step = heard.last().is_some_and(|reply| reply.response_to == PING && reply.code().is_none());
        let is_as_expected = match (row.verdict, heard.as_slice()) {
            (Verdict::Refused, [answer, _]) => in_step && is_refusal(answer),
            (Verdict::NoCursor, [answer, _]) => in_step && answer.response_to == ROW && answer.code() == Some(43),
            (Verdict::Passes, [answer, _]) => in_step && answer.response_to == ROW && answer.code() != Some(13),
            (Verdict::Silent, [_]) => in_step,
            (Verdict::Closed, _) => rest.is_some(),
            _ => false,
        };
        let answers: Vec<_> = heard.iter().map(|reply| &reply.document).collect();
        if is_as_expected { Ok(()) } else { Err(format!("{:?} was due, and came: {answers:?}", row.verdict)) }
    }

    /// Everything that the caller may not write: each collection's documents, indexes and options.
    fn snapshot(&self) -> Vec<Document> {
        let all = self.mongod.run(&doc! { "listDatabases": 1, "$db": "admin" }).unwrap();
        let names =
            all.get_array("databases").unwrap().iter().map(|one| one.as_document().unwrap().get_str("name").unwrap());
        let mut seen = Vec::new();
        // What mongod keeps for itself changes all the time.
        for database in names.filter(|name| !matches!(*name, "local" | "config")) {
            for collection in first_batch(&self.mongod, &doc! { "listCollections": 1, "$db": database }) {
                let name = collection.get_str("name").unwrap().to_owned();
                let is_foreign = database != "shop" || matches!(name.as_str(), "private" | CANARY);
                if !is_foreign || name == "system.profile" {
                    continue;
                }
                seen.push(doc! { "database": database, "collection": collection });
                seen.extend(first_batch(&self.mongod, &doc! { "find": &name, "sort": { "_id": 1 }, "$db": database }));
                let indexes = self.mongod.run(&doc! { "listIndexes": &name, "$db": database });
                seen.extend(indexes.ok().map(|indexes| indexes.get_document("cursor").unwrap().clone()));
            }
        }
        seen
    }

    fn process(&self) -> Bson {
        self.mongod.run(&doc! { "serverStatus": 1, "$db": "admin" }).unwrap().remove("pid").unwrap()
    }

    /// Nobody has read or ended the owner's cursor meanwhile.
    fn the_owner_still_reads(mut self) {
        let get_more = doc! { "getMore": self.leads.cursor, "collection": "secret", "$db": "vault" };
        let next = self.owner.run(&get_more).unwrap();
        assert!(next.to_string().contains(CANARY), "{next}");
    }
}

fn is_refusal(reply: &Reply) -> bool {
    let said = reply.document.get_str("errmsg").unwrap_or_default();
    let is_of_policy = said.starts_with("mongate: not authorized on ") && said.contains(" to execute command ");
    reply.response_to == ROW && reply.code() == Some(13) && is_of_policy
}

/// All that comes back for these bytes, of the cursor that they may open too.
fn answer(mut connection: Connection, bytes: &[u8]) -> Vec<u8> {
    let _ = connection.send(bytes);
    let Ok(Received::Reply(reply)) = connection.receive() else { return Vec::new() };
    let mut all = reply.bytes;
    let cursor = reply.document.get_document("cursor").ok().filter(|_| !holds_canary(&all));
    let id = cursor.and_then(|cursor| cursor.get_i64("id").ok()).filter(|id| *id != 0);
    let place = cursor.and_then(|cursor| cursor.get_str("ns").ok()?.split_once('.'));
    if let (Some(id), Some((database, collection))) = (id, place) {
        let more = doc! { "getMore": id, "collection": collection, "$db": database };
        connection.send(&op_msg(ROW, 0, &[body_section(&more)])).unwrap();
        all.extend(connection.reply().map(|reply| reply.bytes).unwrap_or_default());
    }
    all
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

fn fill(mongod: &Mongod) {
    let secrets: Vec<_> = (1..=3).map(|number| doc! { "_id": number, "text": CANARY }).collect();
    let index = vec![doc! { "key": { "text": 1 }, "name": format!("by_{CANARY}") }];
    let profiled = doc! { "find": "secret", "comment": CANARY, "$db": "vault" };
    let series = doc! { "timeField": "time", "metaField": "text" };
    let measured = doc! { "time": bson::DateTime::now(), "text": CANARY };
    let numbers: Vec<_> = (1..=5).map(|number| doc! { "_id": number, "item": format!("item {number}") }).collect();
    let mut connection = mongod.connect().unwrap();
    for command in [
        doc! { "insert": "secret", "documents": &secrets, "$db": "vault" },
        doc! { "createIndexes": "secret", "indexes": &index, "$db": "vault" },
        doc! { "create": "view", "viewOn": "secret", "pipeline": [{ "$addFields": { "seen": CANARY } }], "$db": "vault" },
        doc! { "create": CANARY, "$db": "vault" },
        doc! { "insert": "system.js", "documents": [{ "_id": "f", "value": CANARY }], "$db": "vault" },
        doc! { "create": "series", "timeseries": series, "$db": "vault" },
        doc! { "insert": "series", "documents": [measured], "$db": "vault" },
        doc! { "insert": "c", "documents": &secrets, "$db": CANARY },
        doc! { "insert": "orders", "documents": &numbers, "$db": "shop" },
        doc! { "create": "few", "viewOn": "orders", "pipeline": [{ "$limit": 2 }], "$db": "shop" },
        doc! { "insert": "private", "documents": &secrets, "$db": "shop" },
        doc! { "createIndexes": "private", "indexes": &index, "$db": "shop" },
        doc! { "create": CANARY, "$db": "shop" },
        doc! { "profile": 2, "$db": "vault" },
        profiled,
        doc! { "profile": 0, "$db": "vault" },
    ] {
        connection.run(&command).unwrap();
    }
}

fn uuid(mongod: &Mongod, collection: &str) -> Binary {
    let command = doc! { "listCollections": 1, "filter": { "name": collection }, "$db": "shop" };
    let listed = first_batch(mongod, &command).remove(0);
    let Some(Bson::Binary(uuid)) = listed.get_document("info").unwrap().get("uuid").cloned() else {
        panic!("{listed}")
    };
    assert_eq!(uuid.subtype, BinarySubtype::Uuid);
    uuid
}

fn first_batch(mongod: &Mongod, command: &Document) -> Vec<Document> {
    let reply = mongod.run(command).unwrap();
    let batch = reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    batch.iter().map(|document| document.as_document().unwrap().clone()).collect()
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
