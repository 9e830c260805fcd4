//! A policy as the only access control: mongod has no authorisation, and a caller that may use only `shop` tries every
//! known way around the policy. No reply may contain denied data.
//!
//! The denied data contains one text, the canary: in documents, in a view, in the names of a database, of collections
//! and of an index, in mongod's profile of commands, and in an operation that runs all the time.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions, Role};
use crate::kit::raw::{Connection, Received, Reply, body_section, op_msg};
use crate::policy_rows::{self, IfAllowed, ROW, Row, ServerFacts, Verdict};

/// No row sends this text.
const CANARY: &str = "Vq7CanaryHt2";
/// Request id of the pings before and after a row.
const PING: i32 = 78;
const OWNER: &str = "cluster.local/ns/vault/sa/owner";
const SHOP: &str = "cluster.local/ns/shop/sa/cart";

/// The policy for the caller of the listener `test`.
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
/// A policy that allows the same caller everything.
const EVERYTHING: &str = "
    [[policy.rule]]
    name = 'everything'
    action = 'allow'
    from = [{ principals = ['cluster.local/ns/shop/sa/cart'] }]
";

#[test]
fn no_attempt_reads_or_changes_denied_data() {
    let Some(vault) = Vault::new(SHOP_ONLY) else { return };
    let (before, process) = (vault.snapshot(), vault.process());
    let mut wrong = Vec::new();
    for row in policy_rows::all(&vault.facts) {
        for delivery in [Delivery::Alone, Delivery::BehindPing, Delivery::InPieces] {
            if let Err(what) = vault.attempt(&row, delivery) {
                wrong.push(format!("{} ({delivery:?}): {what}", row.name));
            }
        }
        if vault.mongod.run(&ping()).is_err() {
            wrong.push(format!("{}: mongod does not respond", row.name));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(vault.process(), process, "mongod has restarted");
    assert_eq!(vault.snapshot(), before, "data that the caller may not write has changed");
    vault.assert_owner_cursor_is_intact();
}

/// A rule that allows its caller to read and to write one collection.
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
fn the_same_attempts_read_the_canary_when_everything_is_allowed() {
    let Some(vault) = Vault::new(EVERYTHING) else { return };
    let mut wrong = Vec::new();
    for row in policy_rows::all(&vault.facts) {
        let reveals = |connection: Connection| holds_canary(&answer(connection, &row.bytes));
        let through = || reveals(vault.gateway.connect().unwrap());
        let (seen, wanted) = match row.if_allowed {
            IfAllowed::Unsent => continue,
            IfAllowed::Reads => (vec![through()], vec![true]),
            IfAllowed::MongodReads => (vec![through(), reveals(vault.mongod.connect().unwrap())], vec![false, true]),
        };
        if seen != wanted {
            wrong.push(format!(
                "{}: canary seen through the gateway, and from mongod: {seen:?}, not {wanted:?}",
                row.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{} rows read something else than expected:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_command_of_a_transaction_is_checked_and_a_caller_may_use_its_cursor_on_any_connection() {
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
    // The denied commands did not reach mongod, so the transaction continues.
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

/// How a row is sent.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    Alone,
    /// In one write with a preceding ping, so that the ping's reply is still pending.
    BehindPing,
    /// A few bytes at a time.
    InPieces,
}

impl Delivery {
    /// Ignores write errors: the gateway may close the connection early, which the later reads show.
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
    facts: ServerFacts,
    /// Has an open cursor whose comment contains the canary.
    owner: Connection,
    /// Runs a slow operation whose comment contains the canary.
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
        let facts = ServerFacts { cursor, listing, private, named, before };
        Some(Self { mongod, gateway, facts, owner, _busy: busy })
    }

    /// Sends a row on a new connection, then a ping, and compares the replies with the expected outcome.
    fn attempt(&self, row: &Row, delivery: Delivery) -> Result<(), String> {
        let mut connection = self.gateway.connect().unwrap();
        connection.run(&ping()).unwrap();
        delivery.send(&mut connection, &row.bytes);
        // A row that closes the connection may do so before the ping's reply.
        if matches!(delivery, Delivery::BehindPing) && row.verdict != Verdict::Closed {
            let pong = connection.reply().map_err(|error| format!("{error:#}"))?;
            assert_eq!((pong.response_to, pong.code()), (PING, None), "{}", row.name);
        }
        let mut replies = Vec::new();
        if !matches!(row.verdict, Verdict::Silent | Verdict::Closed) {
            replies.push(connection.reply().map_err(|error| format!("{error:#}"))?);
        }
        // Writing to a closed connection may fail.
        let _ = connection.send(&op_msg(PING, 0, &[body_section(&ping())]));
        let mut rest = None;
        while row.verdict == Verdict::Closed || replies.last().is_none_or(|reply| reply.response_to != PING) {
            match connection.receive().map_err(|error| format!("{error:#}"))? {
                Received::Reply(reply) => replies.push(*reply),
                Received::Closed(bytes) => {
                    rest = Some(bytes);
                    break;
                }
            }
        }
        if replies.iter().map(|reply| &reply.bytes).chain(&rest).any(|bytes| holds_canary(bytes)) {
            return Err(format!("a reply contains the canary: {replies:?}"));
        }
        let in_sync = replies.last().is_some_and(|reply| reply.response_to == PING && reply.code().is_none());
        let is_as_expected = match (row.verdict, replies.as_slice()) {
            (Verdict::Denied, [answer, _]) => in_sync && is_refusal(answer),
            (Verdict::NoCursor, [answer, _]) => in_sync && answer.response_to == ROW && answer.code() == Some(43),
            (Verdict::Passes, [answer, _]) => in_sync && answer.response_to == ROW && answer.code() != Some(13),
            (Verdict::Silent, [_]) => in_sync,
            (Verdict::Closed, _) => rest.is_some(),
            _ => false,
        };
        let answers: Vec<_> = replies.iter().map(|reply| &reply.document).collect();
        if is_as_expected { Ok(()) } else { Err(format!("expected {:?}, received {answers:?}", row.verdict)) }
    }

    /// All data that the caller may not write: documents, indexes and options of each collection.
    fn snapshot(&self) -> Vec<Document> {
        let all = self.mongod.run(&doc! { "listDatabases": 1, "$db": "admin" }).unwrap();
        let names =
            all.get_array("databases").unwrap().iter().map(|one| one.as_document().unwrap().get_str("name").unwrap());
        let mut seen = Vec::new();
        // mongod's own databases change all the time.
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

    /// Checks that no attempt has read from or closed the owner's cursor.
    fn assert_owner_cursor_is_intact(mut self) {
        let get_more = doc! { "getMore": self.facts.cursor, "collection": "secret", "$db": "vault" };
        let next = self.owner.run(&get_more).unwrap();
        assert!(next.to_string().contains(CANARY), "{next}");
    }
}

fn is_refusal(reply: &Reply) -> bool {
    let said = reply.document.get_str("errmsg").unwrap_or_default();
    let is_of_policy = said.starts_with("mongate: not authorized on ") && said.contains(" to execute command ");
    reply.response_to == ROW && reply.code() == Some(13) && is_of_policy
}

/// Sends these bytes and returns the reply, followed by the next batch if the reply opens a cursor.
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
    let add_canary = vec![doc! { "$addFields": { "seen": CANARY } }];
    let mut connection = mongod.connect().unwrap();
    for command in [
        doc! { "insert": "secret", "documents": &secrets, "$db": "vault" },
        doc! { "createIndexes": "secret", "indexes": &index, "$db": "vault" },
        doc! { "create": "view", "viewOn": "secret", "pipeline": add_canary, "$db": "vault" },
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
