//! Ways around a policy by way of commands: those that reach further than their own collection, that are about
//! everything, or that take what belongs to somebody else.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::policy_rows::{Leads, Row, Verdict, explain, orders, passes, reads, refused, secret, sent, trick};

/// All of them, and what is in order.
pub fn all(leads: &Leads) -> Vec<Row> {
    [commands(), cursors(leads), sessions(leads), administration(), innocent()].into_iter().flatten().collect()
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
        refused("a hash of a file of what is denied", &shop(doc! { "filemd5": 1, "root": "private" })),
        refused(
            "a find that is resumed",
            &shop(doc! { "find": "orders", "$_resumeAfter": {}, "$_requestResumeToken": true }),
        ),
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
        refused("the host, with details", &admin(doc! { "hostInfo": 1, "details": true })),
        refused(
            "a parameter behind the version",
            &admin(doc! { "getParameter": 1, "featureCompatibilityVersion": 1, "logLevel": 1 }),
        ),
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
        "configureFailPoint",
        "godinsert",
        "listShards",
        "setQuerySettings",
        "stageDebug",
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

fn session() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![8; 16] }
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
        passes("one's own session killed", &doc! { "killSessions": [{ "id": session() }], "$db": "admin" }),
        passes("where a client comes from", &doc! { "whatsmyuri": 1, "$db": "admin" }),
        passes("commands", &doc! { "listCommands": 1, "$db": "admin" }),
        passes("the host", &doc! { "hostInfo": 1, "$db": "admin" }),
        passes("the version", &doc! { "getParameter": 1, "featureCompatibilityVersion": 1, "$db": "admin" }),
        passes("warnings at the start", &doc! { "getLog": "startupWarnings", "$db": "admin" }),
    ]
}
