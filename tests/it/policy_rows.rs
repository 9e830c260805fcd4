//! Ways around a policy, as bytes: what a caller sends who may use the database `shop`, but not `shop.private` in it,
//! and nothing else; and what becomes of it.
//!
//! Each was tried on mongod 6.0.5. No row holds the canary, so that no error can repeat it.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, Timestamp, doc};

use crate::kit::raw::{self, OP_MSG, body_section, op_msg, sequence_section};

/// Request id of a row.
pub const ROW: i32 = 77;

/// What becomes of a row where it is not allowed; the connection is in step after all but the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Code 13, and it has not gone upstream.
    Refused,
    /// The connection ends, if need be with a word.
    Closed,
    /// No answer: none was wanted.
    Silent,
    /// Code 43: there is no such cursor.
    NoCursor,
    /// Whatever mongod makes of it: there is nothing wrong with it.
    Passes,
}

/// What becomes of a row where everything is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// It reads the canary.
    Reads,
    /// It still does not pass, for what it is; mongod itself would give the canary for it.
    MongodReads,
    /// It is not sent: it reads nothing, or does harm.
    Unsent,
}

/// One way around.
pub struct Row {
    pub name: String,
    pub bytes: Vec<u8>,
    pub verdict: Verdict,
    pub elsewhere: Elsewhere,
}

/// What a row may know of a server that it may not look at.
#[derive(Debug, Clone)]
pub struct Leads {
    /// A cursor on `vault.secret`, opened by another caller.
    pub cursor: i64,
    /// A cursor of the same caller's `listCollections` in `vault`.
    pub listing: i64,
    /// The `UUID` of `shop.private`.
    pub private: Binary,
    /// And that of a collection in `shop` whose name is the canary.
    pub named: Binary,
    /// Before the canary was written.
    pub before: Timestamp,
}

/// A plain command that reads what it may not.
pub fn reads(name: &str, command: &Document) -> Row {
    Row { elsewhere: Elsewhere::Reads, ..refused(name, command) }
}

/// A plain command that is refused.
pub fn refused(name: &str, command: &Document) -> Row {
    Row { verdict: Verdict::Refused, ..passes(name, command) }
}

/// A plain command that is as good as any.
pub fn passes(name: &str, command: &Document) -> Row {
    sent(name, Verdict::Passes, op_msg(ROW, 0, &[body_section(command)]))
}

/// A command that no driver sends, and that reads what it may not where mongod gets it.
pub fn trick(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    Row { elsewhere: Elsewhere::MongodReads, ..garbled(name, command, patches) }
}

/// A command that no driver sends. Of each patch, the first text is replaced by the second, which is as long.
pub fn garbled(name: &str, command: &Document, patches: &[(&str, &str)]) -> Row {
    let mut row = refused(name, command);
    for (from, to) in patches {
        assert_eq!(from.len(), to.len(), "{name}");
        let places: Vec<_> = (0..row.bytes.len()).filter(|at| row.bytes[*at..].starts_with(from.as_bytes())).collect();
        assert!(!places.is_empty(), "{from} is not in {name}");
        places.into_iter().for_each(|at| row.bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
    }
    row
}

/// Any bytes.
pub fn sent(name: &str, verdict: Verdict, bytes: Vec<u8>) -> Row {
    Row { name: name.to_owned(), bytes, verdict, elsewhere: Elsewhere::Unsent }
}

/// All of them.
pub fn all(leads: &Leads) -> Vec<Row> {
    let mut rows = [framing(), envelopes(), names(leads), crate::policy_stages::all(leads)].concat_rows();
    rows.extend([commands(), cursors(leads), sessions(leads), administration(), innocent()].concat_rows());
    rows
}

trait Concat {
    fn concat_rows(self) -> Vec<Row>;
}

impl<const N: usize> Concat for [Vec<Row>; N] {
    fn concat_rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

fn secret() -> Document {
    doc! { "find": "secret", "$db": "vault" }
}

fn private() -> Document {
    doc! { "find": "private", "$db": "shop" }
}

fn orders() -> Document {
    doc! { "find": "orders", "$db": "shop" }
}

/// Sections, flags and headers.
fn framing() -> Vec<Row> {
    let [secret, orders] = [secret(), orders()].map(|command| body_section(&command));
    let insert = body_section(&doc! { "insert": "secret", "$db": "vault" });
    let documents = sequence_section("documents", &[doc! { "n": 1 }]);
    let shadow = |name: &str, document: Document| sequence_section(name, &[document]);
    let refused = |name: &str, sections: &[&[u8]]| sent(name, Verdict::Refused, op_msg(ROW, 0, &[sections.concat()]));
    let flagged =
        |name: &str, bit: u32| sent(name, Verdict::Refused, op_msg(ROW, 1 << bit, std::slice::from_ref(&secret)));
    let mut reply = op_msg(ROW, 0, std::slice::from_ref(&secret));
    reply[8] = 5;
    let mut wrong = raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret));
    *wrong.last_mut().unwrap() ^= 1;
    let silent = |command: &Document| op_msg(ROW, raw::MORE_TO_COME, &[body_section(command)]);
    vec![
        refused("two bodies, the second of them allowed", &[&secret, &orders]),
        refused("two bodies, the first of them allowed", &[&orders, &secret]),
        refused("a sequence before the body", &[&documents, &insert]),
        refused("a sequence after the body", &[&insert, &documents]),
        refused("a sequence that shadows $db", &[&orders, &shadow("$db", doc! { "": "vault" })]),
        refused("a sequence that shadows the collection", &[&orders, &shadow("find", doc! { "": "private" })]),
        refused("a sequence that shadows the filter", &[&shadow("filter", doc! {}), &orders]),
        refused("a sequence of another command", &[&insert, &documents, &shadow("updates", doc! {})]),
        refused("a security token", &[&orders, &[2], &raw::encode(&doc! {})]),
        refused("an unknown kind of section", &[&orders, &[3], &raw::encode(&doc! {})]),
        refused("bytes behind the last section", &[&orders, &[0]]),
        refused("no body", &[&documents]),
        flagged("an unknown flag that must be understood", 2),
        flagged("an unknown flag that need not be understood", 17),
        flagged("a stream of replies", 16),
        sent("a checksum", Verdict::Refused, raw::op_msg_with_checksum(ROW, 0, std::slice::from_ref(&secret))),
        sent("a wrong checksum", Verdict::Refused, wrong),
        sent("a request that claims to be a reply", Verdict::Closed, reply),
        sent("a find that wants no reply", Verdict::Silent, silent(&self::secret())),
        sent("an unknown command that wants no reply", Verdict::Silent, silent(&doc! { "none": 1, "$db": "vault" })),
        sent("an insert that wants no reply", Verdict::Silent, op_msg(ROW, raw::MORE_TO_COME, &[insert, documents])),
    ]
}

/// Other kinds of message.
fn envelopes() -> Vec<Row> {
    let payload = [&[0; 4][..], &body_section(&secret())].concat();
    let [admin, vault] = ["admin.$cmd", "vault.$cmd"];
    let query = |name: &str, namespace: &str, query: &Document| {
        sent(name, Verdict::Refused, raw::op_query(ROW, namespace, -1, query))
    };
    let closed = |name: &str, bytes| sent(name, Verdict::Closed, bytes);
    let compressed_query = [&[0; 4][..], b"vault.$cmd\0", &[0; 4], &[1, 0, 0, 0], &raw::encode(&secret())].concat();
    let mut rows = vec![
        closed("compressed, though nobody agreed to it", raw::op_compressed(ROW, OP_MSG, &payload)),
        closed("compressed twice", raw::op_compressed(ROW, raw::OP_COMPRESSED, &payload)),
        closed("an old query, compressed", raw::op_compressed(ROW, raw::OP_QUERY, &compressed_query)),
        query("a find as an old query", vault, &doc! { "find": "secret" }),
        query("a find as an old query, wrapped", vault, &doc! { "$query": { "find": "secret" } }),
        query("a find as an old query, wrapped the older way", vault, &doc! { "query": { "find": "secret" } }),
        query("an old query of a collection", "vault.secret", &doc! {}),
        query("an old query of the operations", "admin.$cmd.sys.inprog", &doc! {}),
        query("a hello that becomes a find", admin, &doc! { "$query": { "find": "secret" }, "hello": 1 }),
        query("saslStart as an old query", admin, &doc! { "find": "secret", "saslStart": 1 }),
        sent("a hello as an old query", Verdict::Passes, raw::op_query(ROW, admin, -1, &doc! { "isMaster": 1 })),
        closed("HTTP", b"GET /vault/secret HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        closed("a length that no message has", raw::with_length(-1, OP_MSG, ROW, &payload)),
    ];
    let old = [&[0; 4][..], b"vault.secret\0", &[0; 4], &raw::encode(&doc! {})].concat();
    for op_code in [0, 1, 1000, 2001, 2002, 2003, 2005, 2006, 2007, 2008, 2010, 2011, 4711] {
        rows.push(closed(&format!("operation code {op_code}"), raw::message(op_code, ROW, &old)));
    }
    rows
}

/// Names of commands, databases and collections.
fn names(leads: &Leads) -> Vec<Row> {
    let symbol = || Bson::Symbol("private".to_owned());
    let uuid = Bson::Binary(leads.private.clone());
    let find = |collection: Bson| doc! { "find": collection, "$db": "shop" };
    let [pattern, options] = ["private", ""].map(|text| text.to_owned().try_into().unwrap());
    let modify = doc! { "findAndModify": symbol(), "query": {}, "update": { "$set": { "seen": 1 } }, "$db": "shop" };
    let old_uuid = Binary { subtype: BinarySubtype::UuidOld, ..leads.private.clone() };
    let dotted = |database: &str| doc! { "find": "secret", "$db": database };
    let mut rows = vec![
        reads("another database", &secret()),
        reads("a view of another database", &doc! { "find": "view", "$db": "vault" }),
        reads("a collection that a rule denies", &private()),
        reads("distinct", &doc! { "distinct": "private", "key": "text", "$db": "shop" }),
        trick("a symbol as the name", &find(symbol()), &[]),
        trick("a symbol as the name, distinct", &doc! { "distinct": symbol(), "key": "text", "$db": "shop" }, &[]),
        trick("a symbol as the name, findAndModify", &modify, &[]),
        trick("a symbol inside explain", &explain(doc! { "find": symbol(), "filter": { "text": "x" } }), &[]),
        trick("a UUID as the name", &find(uuid.clone()), &[]),
        trick("a UUID as the name, distinct", &doc! { "distinct": uuid.clone(), "key": "text", "$db": "shop" }, &[]),
        trick("a UUID as the name, listIndexes", &doc! { "listIndexes": uuid, "$db": "shop" }, &[]),
        refused("a UUID of the old kind", &find(Bson::Binary(old_uuid))),
        refused("a number as the name", &find(1.into())),
        refused("a document as the name", &find(doc! { "coll": "private" }.into())),
        refused("an array as the name", &find(vec!["private"].into())),
        refused("null as the name", &find(Bson::Null)),
        refused("a regular expression as the name", &find(bson::Regex { pattern, options }.into())),
        refused("code as the name", &find(Bson::JavaScriptCode("private".to_owned()))),
        refused("no name at all", &find("".into())),
        refused("another number than one", &doc! { "aggregate": 2, "pipeline": [], "cursor": {}, "$db": "shop" }),
        garbled("NUL in a name", &find("orders_private".into()), &[("orders_p", "orders\0p")]),
        garbled("NUL in a database", &dotted("shop_vault"), &[("shop_v", "shop\0v")]),
        passes("a collection that is called as if it were elsewhere", &find("vault.secret".into())),
        refused("a database with a dot", &dotted("vault.secret")),
        refused("a database with a slash", &dotted("va/ult")),
        refused("a database without a name", &dotted("")),
        refused("a database that is no text", &doc! { "find": "secret", "$db": 1 }),
        refused("a database as a symbol", &doc! { "find": "secret", "$db": Bson::Symbol("vault".to_owned()) }),
        refused("no database", &doc! { "find": "orders" }),
        refused("a database in capitals", &dotted("SHOP")),
        refused("$db before the command", &doc! { "$db": "shop", "find": "private" }),
        refused("no command", &doc! {}),
        garbled("a command twice", &doc! { "find": "orders", "fin2": "private", "$db": "shop" }, &[("fin2", "find")]),
        garbled("$db twice", &doc! { "find": "secret", "$db": "shop", "$d2": "vault" }, &[("$d2", "$db")]),
        garbled(
            "a pipeline twice",
            &doc! { "aggregate": "orders", "pipeline": [], "pipelin2": [{ "$unionWith": "private" }], "cursor": {}, "$db": "shop" },
            &[("pipelin2", "pipeline")],
        ),
        garbled(
            "a target twice",
            &doc! { "renameCollection": "shop.orders", "to": "shop.mine", "t2": "vault.mine", "$db": "admin" },
            &[("t2\0", "to\0")],
        ),
        garbled("a name that is no UTF-8", &find("XYprivate".into()), &[("XYp", "\u{fffd}")]),
    ];
    // What no text of Rust can be.
    for row in rows.iter_mut().filter(|row| row.name.contains("UTF-8")) {
        let at = row.bytes.windows(3).position(|bytes| bytes == "\u{fffd}".as_bytes()).unwrap();
        row.bytes[at..at + 3].copy_from_slice(b"\xff\xfep");
    }
    for name in ["Find", "FIND", "find ", "findd", "fin"] {
        rows.push(refused(&format!("a command called {name:?}"), &doc! { name: "secret", "$db": "vault" }));
    }
    rows
}

pub fn explain(command: Document) -> Document {
    doc! { "explain": command, "verbosity": "executionStats", "$db": "shop" }
}

/// Commands that reach further than their own collection, or are about everything.
fn commands() -> Vec<Row> {
    let shop = |mut command: Document| {
        command.insert("$db", "shop");
        command
    };
    let vault = |mut command: Document| {
        command.insert("$db", "vault");
        command
    };
    let admin = |mut command: Document| {
        command.insert("$db", "admin");
        command
    };
    let (map, reduce) = ("function () { emit(this._id, this.text) }", "function (key, values) { return values[0] }");
    let map_reduce =
        |collection: &str, out: Bson| doc! { "mapReduce": collection, "map": map, "reduce": reduce, "out": out };
    let indexed = doc! { "find": "private", "filter": { "text": "x" } };
    let other = doc! { "find": "secret", "filter": { "text": "x" }, "$db": "vault" };
    let joined = doc! { "aggregate": "orders", "pipeline": [{ "$unionWith": "private" }], "cursor": {} };
    let mut rows = vec![
        reads("explain", &explain(indexed.clone())),
        refused("explain of another database", &explain(other.clone())),
        refused("explain of what reaches further", &explain(joined)),
        refused("explain of explain", &explain(explain(indexed))),
        reads("mapReduce", &shop(map_reduce("private", doc! { "inline": 1 }.into()))),
        reads(
            "mapReduce by its other name",
            &shop(doc! { "mapreduce": "private", "map": map, "reduce": reduce, "out": { "inline": 1 } }),
        ),
        refused("mapReduce into a collection", &shop(map_reduce("orders", "private".into()))),
        refused(
            "mapReduce into another database",
            &shop(map_reduce("orders", doc! { "replace": "mine", "db": "vault" }.into())),
        ),
        refused(
            "a collection renamed to one's own",
            &admin(doc! { "renameCollection": "vault.secret", "to": "shop.mine" }),
        ),
        refused(
            "a denied one renamed to one's own",
            &admin(doc! { "renameCollection": "shop.private", "to": "shop.mine" }),
        ),
        refused("one's own renamed elsewhere", &admin(doc! { "renameCollection": "shop.orders", "to": "vault.mine" })),
        refused(
            "one's own renamed over another",
            &admin(doc! { "renameCollection": "shop.orders", "to": "shop.private", "dropTarget": true }),
        ),
        refused(
            "renamed by way of servers",
            &admin(doc! { "internalRenameIfOptionsAndIndexesMatch": 1, "from": "vault.secret", "to": "shop.mine" }),
        ),
        refused(
            "a copy, capped",
            &shop(doc! { "cloneCollectionAsCapped": "private", "toCollection": "mine", "size": 100_000 }),
        ),
        refused(
            "a copy, capped, elsewhere",
            &shop(doc! { "cloneCollectionAsCapped": "orders", "toCollection": "private", "size": 100_000 }),
        ),
        refused("capped", &shop(doc! { "convertToCapped": "private", "size": 100_000 })),
        refused("a view", &shop(doc! { "create": "window", "viewOn": "private", "pipeline": [] })),
        refused(
            "a view with a union",
            &shop(doc! { "create": "window", "viewOn": "orders", "pipeline": [{ "$unionWith": "private" }] }),
        ),
        refused(
            "a view of the oplog",
            &shop(
                doc! { "create": "window", "viewOn": "orders", "pipeline": [{ "$lookup": { "from": { "db": "local", "coll": "oplog.rs" }, "as": "log", "pipeline": [] } }] },
            ),
        ),
        passes("what that view would show", &shop(doc! { "find": "window" })),
        refused("a view turned around", &shop(doc! { "collMod": "few", "viewOn": "private", "pipeline": [] })),
        passes("what that view shows", &shop(doc! { "find": "few" })),
        refused(
            "a view written where views are kept",
            &shop(
                doc! { "insert": "system.views", "documents": [{ "_id": "shop.window", "viewOn": "private", "pipeline": [] }] },
            ),
        ),
        refused("a full name in another database's command", &shop(doc! { "dataSize": "vault.secret" })),
        refused("a full name, by its other name", &shop(doc! { "datasize": "shop.private" })),
        refused("applyOps", &shop(doc! { "applyOps": [{ "op": "i", "ns": "vault.secret", "o": { "_id": 9 } }] })),
        refused(
            "applyOps of its own",
            &shop(doc! { "applyOps": [{ "op": "c", "ns": "shop.$cmd", "o": { "create": "mine" } }] }),
        ),
        refused("doTxn", &shop(doc! { "doTxn": [{ "op": "i", "ns": "vault.secret", "o": { "_id": 9 } }] })),
        refused("a note in the oplog", &admin(doc! { "appendOplogNote": 1, "data": {} })),
        refused(
            "bulkWrite",
            &admin(
                doc! { "bulkWrite": 1, "ops": [{ "insert": 0, "document": {} }], "nsInfo": [{ "ns": "vault.secret" }] },
            ),
        ),
        refused(
            "bulkWrite whose second place is forbidden",
            &admin(
                doc! { "bulkWrite": 1, "ops": [{ "insert": 1, "document": {} }], "nsInfo": [{ "ns": "shop.orders" }, { "ns": "shop.private" }] },
            ),
        ),
        reads("a hash of each collection", &vault(doc! { "dbHash": 1 })),
        refused("a hash of one collection", &shop(doc! { "dbhash": 1, "collections": ["private"] })),
        refused("a hash of a file", &vault(doc! { "filemd5": 1, "root": "secret" })),
        reads("listCollections", &vault(doc! { "listCollections": 1 })),
        reads("listCollections where one is denied", &shop(doc! { "listCollections": 1 })),
        reads("listIndexes", &shop(doc! { "listIndexes": "private" })),
        refused("dbStats", &vault(doc! { "dbStats": 1 })),
        refused("validate", &vault(doc! { "validate": "secret" })),
        reads("collStats", &shop(doc! { "collStats": "private" })),
        refused("count", &vault(doc! { "count": "secret" })),
        refused("drop", &vault(doc! { "drop": "secret" })),
        refused("dropDatabase", &vault(doc! { "dropDatabase": 1 })),
        refused("dropDatabase where one collection is denied", &shop(doc! { "dropDatabase": 1 })),
        refused(
            "createIndexes",
            &vault(doc! { "createIndexes": "secret", "indexes": [{ "key": { "n": 1 }, "name": "n" }] }),
        ),
        refused("dropIndexes by its other name", &shop(doc! { "deleteIndexes": "private", "index": "*" })),
        refused("insert", &vault(doc! { "insert": "secret", "documents": [{ "_id": 9 }] })),
        refused(
            "update",
            &shop(doc! { "update": "private", "updates": [{ "q": {}, "u": { "$set": { "n": 9 } }, "multi": true }] }),
        ),
        refused("delete", &shop(doc! { "delete": "private", "deletes": [{ "q": {}, "limit": 0 }] })),
        refused(
            "an update with a join",
            &shop(
                doc! { "update": "orders", "updates": [{ "q": {}, "u": [{ "$lookup": { "from": "private", "as": "p", "pipeline": [] } }] }] },
            ),
        ),
        refused(
            "findAndModify with a join",
            &shop(doc! { "findandmodify": "orders", "query": {}, "update": [{ "$unionWith": "private" }] }),
        ),
        refused("eval", &shop(doc! { "eval": "db.getSiblingDB('vault').secret.find()" })),
        refused("copydb", &admin(doc! { "copydb": 1, "fromdb": "vault", "todb": "shop" })),
        refused("a find of the cluster", &shop(doc! { "clusterFind": "orders" })),
        refused(
            "an aggregate of the cluster",
            &shop(doc! { "clusterAggregate": "orders", "pipeline": [], "cursor": {} }),
        ),
        passes(
            "an index that names another place",
            &shop(
                doc! { "createIndexes": "orders", "indexes": [{ "key": { "n": 1 }, "name": "n", "ns": "vault.secret" }] },
            ),
        ),
    ];
    for (database, collection) in [
        ("vault", "system.js"),
        ("vault", "system.buckets.series"),
        ("vault", "system.profile"),
        ("vault", "system.views"),
        ("shop", "system.views"),
        ("shop", "system.js"),
        ("shop", "system.buckets.private"),
        ("local", "oplog.rs"),
        ("local", "startup_log"),
        ("config", "transactions"),
        ("admin", "system.version"),
        ("admin", "system.users"),
    ] {
        let row = if matches!(collection, "system.js" | "system.buckets.series" | "system.profile" | "oplog.rs")
            && database != "shop"
        {
            reads
        } else {
            refused
        };
        rows.push(row(&format!("{database}.{collection}"), &doc! { "find": collection, "$db": database }));
    }
    rows
}

/// Cursors that another caller has opened.
fn cursors(leads: &Leads) -> Vec<Row> {
    let get_more = |cursor: i64, database: &str, collection: &str| doc! { "getMore": cursor, "collection": collection, "$db": database };
    let kill = |database: &str, collection: &str| doc! { "killCursors": collection, "cursors": [leads.cursor], "$db": database };
    vec![
        refused("another's cursor, as one's own", &get_more(leads.cursor, "shop", "orders")),
        refused("another's cursor, as what it is", &get_more(leads.cursor, "vault", "secret")),
        refused("another's cursor of no collection", &get_more(leads.listing, "shop", "$cmd.listCollections")),
        trick("another's listing", &get_more(leads.listing, "vault", "$cmd.listCollections"), &[]),
        refused("another's cursor killed, as one's own", &kill("shop", "orders")),
        refused("another's cursor killed", &kill("vault", "secret")),
        sent("a cursor that nobody has", Verdict::NoCursor, passes("", &get_more(4711, "shop", "orders")).bytes),
        refused("a cursor that is no number", &doc! { "getMore": "4711", "collection": "orders", "$db": "shop" }),
        refused("a cursor of no collection", &doc! { "getMore": leads.cursor, "$db": "shop" }),
        refused(
            "a cursor of the cluster",
            &doc! { "clusterGetMore": leads.cursor, "collection": "secret", "$db": "vault" },
        ),
    ]
}

/// Sessions, transactions, and arguments that every command takes.
fn sessions(leads: &Leads) -> Vec<Row> {
    let id = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    let in_transaction =
        doc! { "lsid": { "id": id.clone() }, "txnNumber": 1_i64, "startTransaction": true, "autocommit": false };
    let with = |argument: &str, value: Bson| {
        let mut command = orders();
        command.insert(argument, value);
        command
    };
    let mut transaction = secret();
    transaction.extend(in_transaction);
    let uid = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 32] };
    let borrowed = doc! { "id": id.clone(), "uid": uid };
    let mut rows = vec![
        reads("in a transaction", &transaction),
        refused("another's session", &with("lsid", borrowed.into())),
        refused("all sessions killed", &doc! { "killSessions": [], "$db": "admin" }),
        refused("all sessions of all users killed", &doc! { "killAllSessions": [], "$db": "admin" }),
        refused("all sessions of a pattern killed", &doc! { "killAllSessionsByPattern": [], "$db": "admin" }),
        trick(
            "a UUID that tells what a collection is called",
            &doc! { "find": "orders", "collectionUUID": Bson::Binary(leads.named.clone()), "$db": "shop" },
            &[],
        ),
        refused(
            "namespaces of encryption",
            &with("encryptionInformation", doc! { "type": 1, "schema": { "vault.secret": {} } }.into()),
        ),
    ];
    for name in [
        "$audit",
        "$client",
        "$configServerState",
        "$foo",
        "$impersonatedUsers",
        "$queryOptions",
        "$replData",
        "$tenant",
    ] {
        rows.push(refused(name, &with(name, doc! {}.into())));
    }
    rows
}

/// The server itself.
fn administration() -> Vec<Row> {
    let admin = |mut command: Document| {
        command.insert("$db", "admin");
        command
    };
    let mut rows = vec![
        reads("listDatabases", &admin(doc! { "listDatabases": 1 })),
        reads("top", &admin(doc! { "top": 1 })),
        reads("currentOp", &admin(doc! { "currentOp": 1 })),
        reads("getLog", &admin(doc! { "getLog": "global" })),
        refused("profile", &doc! { "profile": 2, "$db": "shop" }),
        refused("setParameter", &admin(doc! { "setParameter": 1, "ttlMonitorEnabled": false })),
        refused("getParameter", &admin(doc! { "getParameter": "*" })),
        refused("createUser", &admin(doc! { "createUser": "mallory", "pwd": "x", "roles": ["root"] })),
        refused(
            "grantRolesToUser",
            &doc! { "grantRolesToUser": "u", "roles": [{ "role": "read", "db": "vault" }], "$db": "shop" },
        ),
        refused("usersInfo", &admin(doc! { "usersInfo": { "forAllDBs": true } })),
        refused("fsync", &admin(doc! { "fsync": 1, "lock": true })),
    ];
    for name in [
        "connPoolStats",
        "flushRouterConfig",
        "getCmdLineOpts",
        "getShardMap",
        "hostInfo",
        "killOp",
        "lockInfo",
        "logRotate",
        "replSetFreeze",
        "replSetGetConfig",
        "replSetGetStatus",
        "replSetStepDown",
        "rotateCertificates",
        "serverStatus",
        "setFeatureCompatibilityVersion",
        "setUserWriteBlockMode",
        "shutdown",
        "validateDBMetadata",
        "dropConnections",
        "_getUserCacheGeneration",
        "_isSelf",
        "_transferMods",
        "_configsvrCreateDatabase",
        "_madeUp",
        "donorStartMigration",
        "recipientSyncData",
        "replSetReconfig",
        "voteCommitIndexBuild",
        "setDefaultRWConcern",
        "atlasVersionX",
    ] {
        rows.push(refused(name, &admin(doc! { name: 1 })));
    }
    for name in [
        "getShardVersion",
        "checkShardingIndex",
        "splitVector",
        "autoSplitVector",
        "mergeChunks",
        "moveChunk",
        "splitChunk",
        "_migrateClone",
    ] {
        rows.push(refused(name, &admin(doc! { name: "vault.secret", "keyPattern": { "_id": 1 } })));
    }
    rows
}

/// What is in order: a table of nothing but refusals would prove nothing.
fn innocent() -> Vec<Row> {
    let pipeline = [doc! { "$lookup": { "from": "orders", "localField": "_id", "foreignField": "_id", "as": "o" } }];
    vec![
        passes("a find", &orders()),
        passes(
            "an aggregate that joins",
            &doc! { "aggregate": "orders", "pipeline": pipeline, "cursor": {}, "$db": "shop" },
        ),
        passes("an insert", &doc! { "insert": "mine", "documents": [{ "n": 1 }], "$db": "shop" }),
        passes("a hello that is called strangely", &doc! { "hello": "vault.secret", "$db": "vault" }),
        passes(
            "an index",
            &doc! { "createIndexes": "mine", "indexes": [{ "key": { "n": 1 }, "name": "n" }], "$db": "shop" },
        ),
        passes(
            "JavaScript",
            &doc! { "find": "orders", "filter": { "$where": "typeof db === 'undefined'" }, "$db": "shop" },
        ),
        passes(
            "a collection renamed within one's own",
            &doc! { "renameCollection": "shop.mine", "to": "shop.yours", "$db": "admin" },
        ),
        passes("ends of sessions", &doc! { "endSessions": [], "$db": "admin" }),
    ]
}
