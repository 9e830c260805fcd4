//! Attempts to bypass a policy with commands: commands that reach beyond their own collection, server-wide commands,
//! and commands that use cursors or sessions of another caller.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, doc};

use crate::policy_rows::{
    Row, ServerFacts, Verdict, denied, denied_read, explain, filtered_read, orders, passes, raw_row, secret,
    unusual_read,
};

/// All rows of this file, and some allowed commands.
pub fn all(facts: &ServerFacts) -> Vec<Row> {
    [commands(), cursors(facts), sessions(facts), administration(), allowed()].into_iter().flatten().collect()
}

/// Commands that reach beyond their own collection, or concern a whole database or server.
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
    let from_oplog = doc! { "from": { "db": "local", "coll": "oplog.rs" }, "as": "log", "pipeline": [] };
    let from_private = doc! { "from": "private", "as": "p", "pipeline": [] };
    let view = doc! { "_id": "shop.window", "viewOn": "private", "pipeline": [] };
    let namespaces = ["shop.orders", "shop.private"].map(|name| doc! { "ns": name });
    let index = doc! { "key": { "n": 1 }, "name": "n", "ns": "vault.secret" };
    let begins = doc! { "$regexMatch": { "input": "$name", "regex": "^V" } };
    let mut rows = vec![
        denied_read("explain", &explain(indexed.clone())),
        denied("explain of another database", &explain(other.clone())),
        denied("explain of an aggregate that reads another collection", &explain(joined)),
        denied("explain of explain", &explain(explain(indexed))),
        denied_read("mapReduce", &shop(map_reduce("private", doc! { "inline": 1 }.into()))),
        denied_read(
            "mapReduce by its alias",
            &shop(doc! { "mapreduce": "private", "map": map, "reduce": reduce, "out": { "inline": 1 } }),
        ),
        denied("mapReduce into a collection", &shop(map_reduce("orders", "private".into()))),
        denied(
            "mapReduce into another database",
            &shop(map_reduce("orders", doc! { "replace": "mine", "db": "vault" }.into())),
        ),
        denied(
            "another database's collection renamed into shop",
            &admin(doc! { "renameCollection": "vault.secret", "to": "shop.mine" }),
        ),
        denied("a denied collection renamed", &admin(doc! { "renameCollection": "shop.private", "to": "shop.mine" })),
        denied(
            "an allowed collection renamed into another database",
            &admin(doc! { "renameCollection": "shop.orders", "to": "vault.mine" }),
        ),
        denied(
            "an allowed collection renamed over a denied one",
            &admin(doc! { "renameCollection": "shop.orders", "to": "shop.private", "dropTarget": true }),
        ),
        denied(
            "renamed with the servers' internal command",
            &admin(doc! { "internalRenameIfOptionsAndIndexesMatch": 1, "from": "vault.secret", "to": "shop.mine" }),
        ),
        denied(
            "a capped copy of a denied collection",
            &shop(doc! { "cloneCollectionAsCapped": "private", "toCollection": "mine", "size": 100_000 }),
        ),
        denied(
            "a capped copy over a denied collection",
            &shop(doc! { "cloneCollectionAsCapped": "orders", "toCollection": "private", "size": 100_000 }),
        ),
        denied("convertToCapped", &shop(doc! { "convertToCapped": "private", "size": 100_000 })),
        denied(
            "a view of a denied collection",
            &shop(doc! { "create": "window", "viewOn": "private", "pipeline": [] }),
        ),
        denied(
            "a view with a union",
            &shop(doc! { "create": "window", "viewOn": "orders", "pipeline": [{ "$unionWith": "private" }] }),
        ),
        denied(
            "a view of the oplog",
            &shop(doc! { "create": "window", "viewOn": "orders", "pipeline": [{ "$lookup": from_oplog }] }),
        ),
        passes("a find in that view, which does not exist", &shop(doc! { "find": "window" })),
        denied(
            "a view changed to a denied collection",
            &shop(doc! { "collMod": "few", "viewOn": "private", "pipeline": [] }),
        ),
        passes("a find in that view, which is unchanged", &shop(doc! { "find": "few" })),
        denied("a view inserted into system.views", &shop(doc! { "insert": "system.views", "documents": [view] })),
        denied("a full namespace as the argument", &shop(doc! { "dataSize": "vault.secret" })),
        denied("a full namespace as the argument, by the command's alias", &shop(doc! { "datasize": "shop.private" })),
        denied("applyOps", &shop(doc! { "applyOps": [{ "op": "i", "ns": "vault.secret", "o": { "_id": 9 } }] })),
        denied(
            "applyOps in the allowed database",
            &shop(doc! { "applyOps": [{ "op": "c", "ns": "shop.$cmd", "o": { "create": "mine" } }] }),
        ),
        denied("doTxn", &shop(doc! { "doTxn": [{ "op": "i", "ns": "vault.secret", "o": { "_id": 9 } }] })),
        denied("a note in the oplog", &admin(doc! { "appendOplogNote": 1, "data": {} })),
        denied(
            "bulkWrite",
            &admin(
                doc! { "bulkWrite": 1, "ops": [{ "insert": 0, "document": {} }], "nsInfo": [{ "ns": "vault.secret" }] },
            ),
        ),
        denied(
            "bulkWrite whose second namespace is denied",
            &admin(doc! { "bulkWrite": 1, "ops": [{ "insert": 1, "document": {} }], "nsInfo": namespaces }),
        ),
        denied_read("dbHash", &vault(doc! { "dbHash": 1 })),
        denied("dbHash of one collection, by its alias", &shop(doc! { "dbhash": 1, "collections": ["private"] })),
        denied("filemd5", &vault(doc! { "filemd5": 1, "root": "secret" })),
        denied("filemd5 of a denied collection", &shop(doc! { "filemd5": 1, "root": "private" })),
        denied(
            "a find with a resume token",
            &shop(doc! { "find": "orders", "$_resumeAfter": {}, "$_requestResumeToken": true }),
        ),
        denied_read("listCollections", &vault(doc! { "listCollections": 1 })),
        filtered_read("listCollections of a database with a denied collection", &shop(doc! { "listCollections": 1 })),
        filtered_read("names of collections", &shop(doc! { "listCollections": 1, "nameOnly": true })),
        filtered_read(
            "names of collections that match a pattern",
            &shop(doc! { "listCollections": 1, "filter": { "name": { "$regex": "^V" } }, "cursor": {} }),
        ),
        denied_read(
            "an error that quotes the name of a collection",
            &shop(
                doc! { "listCollections": 1, "filter": { "$expr": { "$cond": [begins, { "$toInt": "$name" }, true] } } },
            ),
        ),
        denied(
            "a batch that tells whether a collection matches a pattern",
            &shop(doc! { "listCollections": 1, "filter": { "name": "private" }, "cursor": { "batchSize": 1 } }),
        ),
        denied_read("listIndexes", &shop(doc! { "listIndexes": "private" })),
        denied("dbStats", &vault(doc! { "dbStats": 1 })),
        denied("validate", &vault(doc! { "validate": "secret" })),
        denied_read("collStats", &shop(doc! { "collStats": "private" })),
        denied("count", &vault(doc! { "count": "secret" })),
        denied("drop", &vault(doc! { "drop": "secret" })),
        denied("dropDatabase", &vault(doc! { "dropDatabase": 1 })),
        denied("dropDatabase of a database with a denied collection", &shop(doc! { "dropDatabase": 1 })),
        denied(
            "createIndexes",
            &vault(doc! { "createIndexes": "secret", "indexes": [{ "key": { "n": 1 }, "name": "n" }] }),
        ),
        denied("dropIndexes by its alias", &shop(doc! { "deleteIndexes": "private", "index": "*" })),
        denied("insert", &vault(doc! { "insert": "secret", "documents": [{ "_id": 9 }] })),
        denied(
            "update",
            &shop(doc! { "update": "private", "updates": [{ "q": {}, "u": { "$set": { "n": 9 } }, "multi": true }] }),
        ),
        denied("delete", &shop(doc! { "delete": "private", "deletes": [{ "q": {}, "limit": 0 }] })),
        denied(
            "an update with a join",
            &shop(doc! { "update": "orders", "updates": [{ "q": {}, "u": [{ "$lookup": from_private }] }] }),
        ),
        denied(
            "findAndModify with a join",
            &shop(doc! { "findandmodify": "orders", "query": {}, "update": [{ "$unionWith": "private" }] }),
        ),
        denied("eval", &shop(doc! { "eval": "db.getSiblingDB('vault').secret.find()" })),
        denied("copydb", &admin(doc! { "copydb": 1, "fromdb": "vault", "todb": "shop" })),
        denied("clusterFind", &shop(doc! { "clusterFind": "orders" })),
        denied("clusterAggregate", &shop(doc! { "clusterAggregate": "orders", "pipeline": [], "cursor": {} })),
        passes(
            "an index whose ns names another database",
            &shop(doc! { "createIndexes": "orders", "indexes": [index] }),
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
            denied_read
        } else {
            denied
        };
        rows.push(row(&format!("{database}.{collection}"), &doc! { "find": collection, "$db": database }));
    }
    rows
}

/// Cursors that another caller opened.
fn cursors(facts: &ServerFacts) -> Vec<Row> {
    let get_more = |cursor: i64, database: &str, collection: &str| {
        doc! { "getMore": cursor, "collection": collection, "$db": database }
    };
    let kill = |database: &str, collection: &str| {
        doc! { "killCursors": collection, "cursors": [facts.cursor], "$db": database }
    };
    vec![
        denied("another caller's cursor with an allowed namespace", &get_more(facts.cursor, "shop", "orders")),
        denied("another caller's cursor with its own namespace", &get_more(facts.cursor, "vault", "secret")),
        denied(
            "another caller's listCollections cursor with an allowed namespace",
            &get_more(facts.listing, "shop", "$cmd.listCollections"),
        ),
        unusual_read(
            "another caller's listCollections cursor with its own namespace",
            &get_more(facts.listing, "vault", "$cmd.listCollections"),
            &[],
        ),
        denied("another caller's cursor killed with an allowed namespace", &kill("shop", "orders")),
        denied("another caller's cursor killed with its own namespace", &kill("vault", "secret")),
        raw_row("a cursor that does not exist", Verdict::NoCursor, passes("", &get_more(4711, "shop", "orders")).bytes),
        denied("a text as the cursor id", &doc! { "getMore": "4711", "collection": "orders", "$db": "shop" }),
        denied("a getMore without a collection", &doc! { "getMore": facts.cursor, "$db": "shop" }),
        denied("clusterGetMore", &doc! { "clusterGetMore": facts.cursor, "collection": "secret", "$db": "vault" }),
    ]
}

/// Sessions, transactions, and arguments that every command accepts.
fn sessions(facts: &ServerFacts) -> Vec<Row> {
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
    let foreign_session = doc! { "id": id.clone(), "uid": uid };
    let mut rows = vec![
        denied_read("a find in a transaction", &transaction),
        denied("another caller's session", &with("lsid", foreign_session.into())),
        denied("killSessions", &doc! { "killSessions": [], "$db": "admin" }),
        denied("killAllSessions", &doc! { "killAllSessions": [], "$db": "admin" }),
        denied("killAllSessionsByPattern", &doc! { "killAllSessionsByPattern": [], "$db": "admin" }),
        unusual_read(
            "a collection UUID whose error names the collection",
            &doc! { "find": "orders", "collectionUUID": Bson::Binary(facts.named.clone()), "$db": "shop" },
            &[],
        ),
        denied(
            "namespaces in encryptionInformation",
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
        rows.push(denied(name, &with(name, doc! {}.into())));
    }
    rows
}

/// Commands that administer the server.
fn administration() -> Vec<Row> {
    let admin = |mut command: Document| {
        command.insert("$db", "admin");
        command
    };
    let mut rows = vec![
        filtered_read("listDatabases", &admin(doc! { "listDatabases": 1 })),
        filtered_read("names of databases", &admin(doc! { "listDatabases": 1, "nameOnly": true })),
        denied_read(
            "an error that quotes the name of a database",
            &admin(doc! { "listDatabases": 1, "filter": { "$expr": { "$toInt": { "$substr": ["$name", 0, 99] } } } }),
        ),
        denied_read("top", &admin(doc! { "top": 1 })),
        denied_read("currentOp", &admin(doc! { "currentOp": 1 })),
        denied_read("getLog", &admin(doc! { "getLog": "global" })),
        denied("profile", &doc! { "profile": 2, "$db": "shop" }),
        denied("the host, with details", &admin(doc! { "hostInfo": 1, "details": true })),
        denied(
            "a parameter behind the version",
            &admin(doc! { "getParameter": 1, "featureCompatibilityVersion": 1, "logLevel": 1 }),
        ),
        denied("setParameter", &admin(doc! { "setParameter": 1, "ttlMonitorEnabled": false })),
        denied("getParameter", &admin(doc! { "getParameter": "*" })),
        denied("createUser", &admin(doc! { "createUser": "mallory", "pwd": "x", "roles": ["root"] })),
        denied(
            "grantRolesToUser",
            &doc! { "grantRolesToUser": "u", "roles": [{ "role": "read", "db": "vault" }], "$db": "shop" },
        ),
        denied("usersInfo", &admin(doc! { "usersInfo": { "forAllDBs": true } })),
        denied("fsync", &admin(doc! { "fsync": 1, "lock": true })),
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
        rows.push(denied(name, &admin(doc! { name: 1 })));
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
        rows.push(denied(name, &admin(doc! { name: "vault.secret", "keyPattern": { "_id": 1 } })));
    }
    rows
}

fn session() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![8; 16] }
}

/// Allowed commands: a policy that denies everything would also pass a table of denied commands.
fn allowed() -> Vec<Row> {
    let pipeline = [doc! { "$lookup": { "from": "orders", "localField": "_id", "foreignField": "_id", "as": "o" } }];
    vec![
        passes("a find", &orders()),
        passes(
            "an aggregate that joins",
            &doc! { "aggregate": "orders", "pipeline": pipeline, "cursor": {}, "$db": "shop" },
        ),
        passes("an insert", &doc! { "insert": "mine", "documents": [{ "n": 1 }], "$db": "shop" }),
        passes("a hello with an unusual argument", &doc! { "hello": "vault.secret", "$db": "vault" }),
        passes(
            "an index",
            &doc! { "createIndexes": "mine", "indexes": [{ "key": { "n": 1 }, "name": "n" }], "$db": "shop" },
        ),
        passes(
            "JavaScript",
            &doc! { "find": "orders", "filter": { "$where": "typeof db === 'undefined'" }, "$db": "shop" },
        ),
        passes(
            "a collection renamed within the allowed database",
            &doc! { "renameCollection": "shop.mine", "to": "shop.yours", "$db": "admin" },
        ),
        passes("endSessions", &doc! { "endSessions": [], "$db": "admin" }),
        passes("one's own session killed", &doc! { "killSessions": [{ "id": session() }], "$db": "admin" }),
        passes("where a client comes from", &doc! { "whatsmyuri": 1, "$db": "admin" }),
        passes("commands", &doc! { "listCommands": 1, "$db": "admin" }),
        passes("the host", &doc! { "hostInfo": 1, "$db": "admin" }),
        passes("the version", &doc! { "getParameter": 1, "featureCompatibilityVersion": 1, "$db": "admin" }),
        passes("warnings at the start", &doc! { "getLog": "startupWarnings", "$db": "admin" }),
    ]
}
