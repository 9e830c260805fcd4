//! Tables of commands: every known way to bypass a gateway that reads less than the whole command, and what legitimate
//! clients send.

use bson::raw::CString;
use bson::spec::BinarySubtype;
use bson::{Binary, Decimal128, RawBson, RawDocumentBuf, rawdoc};

use super::{
    KnownNames, ReadOptions, Request, Sequence, concatenated, read, read_body, read_stored, read_with, text,
    unknown_name,
};
use crate::command::table::Class;
use crate::command::{Listing, Unclear, needs_sequences, table};

#[track_caller]
fn check(cases: &[(RawDocumentBuf, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(body, expected)| (body, text(&read_body(body)), expected))
        .filter(|(_, found, expected)| found != *expected)
        .map(|(body, found, expected)| format!("{body:?}\n  found    {found}\n  expected {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn symbol(text: &str) -> RawBson {
    RawBson::Symbol(text.to_owned())
}

fn code(text: &str) -> RawBson {
    RawBson::JavaScriptCode(text.to_owned())
}

fn uuid() -> RawBson {
    RawBson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] })
}

fn decimal(text: &str) -> RawBson {
    RawBson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// `find` on `shop.orders` with one more argument.
fn find_with(argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    let mut body = rawdoc! { "find": "orders", "$db": "shop" };
    body.append(CString::try_from(argument).unwrap(), value.into());
    body
}

/// An `aggregate` on `shop.orders` with one stage.
fn stage(stage: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "aggregate": "orders", "pipeline": [{ "$match": {} }, stage], "cursor": {}, "$db": "shop" }
}

/// A stage whose document may have duplicate keys.
fn stage_document(name: &str, fields: &[(&str, RawBson)]) -> RawDocumentBuf {
    let mut spec = RawDocumentBuf::new();
    for (key, value) in fields {
        spec.append(CString::try_from(*key).unwrap(), value.clone());
    }
    let mut document = RawDocumentBuf::new();
    document.append(CString::try_from(name).unwrap(), RawBson::Document(spec));
    document
}

#[test]
fn the_first_key_names_the_command_byte_for_byte() {
    check(&[
        (rawdoc! { "find": "orders", "$db": "shop" }, "Read shop.orders"),
        (rawdoc! { "$db": "shop", "find": "orders" }, "UnknownCommand"),
        (rawdoc! { "Find": "orders", "$db": "shop" }, "UnknownCommand"),
        (rawdoc! { "FIND": "orders", "$db": "shop" }, "UnknownCommand"),
        (rawdoc! { "find ": "orders", "$db": "shop" }, "UnknownCommand"),
        (rawdoc! { "ping": 1, "find": "orders", "$db": "shop" }, "Handshake shop"),
        (rawdoc! { "findandmodify": "orders", "$db": "shop" }, "Write shop.orders, Read shop.orders"),
        (rawdoc! { "deleteIndexes": "orders", "$db": "shop" }, "Ddl shop.orders"),
        (rawdoc! { "eval": "x", "$db": "shop" }, r#"Removed("eval")"#),
        (rawdoc! { "getlasterror": 1, "$db": "shop" }, r#"Removed("getLastError")"#),
        (RawDocumentBuf::new(), "NoCommand"),
    ]);
}

#[test]
fn commands_that_servers_send_to_each_other_are_refused() {
    check(&[
        (rawdoc! { "_isSelf": 1, "$db": "admin" }, r#"Internal("_isSelf")"#),
        (rawdoc! { "_migrateClone": "a.b", "$db": "admin" }, r#"Internal("_migrateClone")"#),
        (rawdoc! { "_ofTheFuture": 1, "$db": "admin" }, r#"Internal("")"#),
        (rawdoc! { "clusterFind": "orders", "$db": "shop" }, r#"Internal("clusterFind")"#),
        (rawdoc! { "clusterOfTheFuture": "orders", "$db": "shop" }, r#"Internal("")"#),
        (rawdoc! { "donorStartMigration": 1, "$db": "admin" }, r#"Internal("donorStartMigration")"#),
        (rawdoc! { "recipientSyncData": 1, "$db": "admin" }, r#"Internal("recipientSyncData")"#),
        (rawdoc! { "commitShardSplit": 1, "$db": "admin" }, r#"Internal("commitShardSplit")"#),
        (rawdoc! { "doTxn": [], "$db": "shop" }, r#"Internal("doTxn")"#),
        (
            rawdoc! { "internalRenameIfOptionsAndIndexesMatch": 1, "from": "a.b", "to": "c.d", "$db": "admin" },
            r#"Internal("internalRenameIfOptionsAndIndexesMatch")"#,
        ),
    ]);
}

#[test]
fn the_database_has_a_valid_name() {
    let of = |database: &str| rawdoc! { "find": "orders", "$db": database };
    check(&[
        (of("$external"), "Read $external.orders"),
        (of("a$x"), "Read a$x.orders"),
        (of(&"d".repeat(63)), &format!("Read {}.orders", "d".repeat(63))),
        (of(&"d".repeat(64)), "DatabaseName"),
        (of(""), "DatabaseName"),
        (of("a.b"), "DatabaseName"),
        (of("a b"), "DatabaseName"),
        (of("a/b"), "DatabaseName"),
        (of("a\\b"), "DatabaseName"),
        (of("a\"b"), "DatabaseName"),
        (of("shop\0vault"), "DatabaseName"),
        (rawdoc! { "find": "orders" }, "NoDatabase"),
        (rawdoc! { "find": "orders", "$db": symbol("shop") }, "NoDatabase"),
        (rawdoc! { "find": "orders", "$db": 1 }, "NoDatabase"),
    ]);
}

#[test]
fn an_op_query_has_its_database_in_its_namespace_and_not_in_its_body() {
    let cases = [
        (rawdoc! { "isMaster": 1 }, Some("admin"), "Handshake admin"),
        (rawdoc! { "isMaster": 1, "$db": "admin" }, Some("admin"), "NoDatabase"),
        (rawdoc! { "isMaster": 1 }, Some("ad.min"), "DatabaseName"),
        (rawdoc! { "isMaster": 1 }, None, "NoDatabase"),
    ];
    for (body, database, expected) in &cases {
        let request = Request { body, database: *database, sequences: &[] };
        assert_eq!(text(&read(&request, ReadOptions::default())), *expected, "{body:?}");
    }
}

#[test]
fn duplicate_and_too_many_arguments_are_refused() {
    let mut many = rawdoc! { "find": "orders", "$db": "shop" };
    for at in 0..126 {
        many.append(CString::try_from(format!("a{at}")).unwrap(), 1);
    }
    let mut too_many = many.clone();
    too_many.append(CString::try_from("z").unwrap(), 1);
    let mut twice_among_many = rawdoc! { "find": "orders", "a77": 1 };
    for element in many.iter_elements().skip(2).map(Result::unwrap) {
        twice_among_many.append(element.key(), RawBson::try_from(element).unwrap());
    }
    check(&[
        (rawdoc! { "find": "orders", "$db": "shop", "$db": "vault" }, "DuplicateKey"),
        (rawdoc! { "find": "orders", "$db": "shop", "find": "secret" }, "DuplicateKey"),
        (rawdoc! { "aggregate": "orders", "pipeline": [], "pipeline": [], "$db": "shop" }, "DuplicateKey"),
        (rawdoc! { "find": "orders", "x": 1, "$db": "shop", "x": 1 }, "DuplicateKey"),
        (many, "Read shop.orders"),
        (too_many, "TooManyArguments"),
        (twice_among_many, "DuplicateKey"),
    ]);
}

#[test]
fn the_name_of_a_collection_is_a_plain_string() {
    for command in ["find", "count", "distinct", "insert", "update", "delete", "drop", "create", "aggregate"] {
        let of = |value: RawBson| {
            let mut body = RawDocumentBuf::new();
            body.append(CString::try_from(command).unwrap(), value);
            body.append(CString::try_from("pipeline").unwrap(), RawBson::Array(bson::RawArrayBuf::new()));
            body.append(CString::try_from("$db").unwrap(), "shop");
            body
        };
        check(&[
            (of(symbol("secret")), "CollectionName"),
            (of(uuid()), "CollectionName"),
            (of(RawBson::Int32(2)), "CollectionName"),
            (of(RawBson::Double(1.5)), "CollectionName"),
            (of(RawBson::Boolean(true)), "CollectionName"),
            (of(RawBson::Null), "CollectionName"),
            (of(code("secret")), "CollectionName"),
            (of(RawBson::Document(rawdoc! { "db": "vault" })), "CollectionName"),
            (of(db_pointer()), "CollectionName"),
            (of("".into()), "CollectionName"),
            (of("orders\0secret".into()), "CollectionName"),
            (of("$cmd.aggregate".into()), "CollectionName"),
            (of(".orders".into()), "CollectionName"),
            (of("x".repeat(254).into()), "CollectionName"),
        ]);
    }
    check(&[
        (rawdoc! { "find": "vault.secret", "$db": "shop" }, "Read shop.vault.secret"),
        (rawdoc! { "find": "Orders", "$db": "shop" }, "Read shop.Orders"),
    ]);
}

fn db_pointer() -> RawBson {
    // The bson crate can make this type only from bytes.
    let mut bytes = vec![0, 0, 0, 0, 0x0c, b'p', 0, 2, 0, 0, 0, b'x', 0];
    bytes.extend([7; 12]);
    bytes.push(0);
    bytes[0] = u8::try_from(bytes.len()).unwrap();
    let document = RawDocumentBuf::from_bytes(bytes).unwrap();
    document.get("p").unwrap().unwrap().into()
}

#[test]
fn names_that_are_not_utf_8_are_refused() {
    let patched = |body: &RawDocumentBuf| {
        let mut bytes = body.as_bytes().to_vec();
        let at = bytes.windows(2).position(|pair| pair == b"??").unwrap();
        bytes[at] = 0xff;
        RawDocumentBuf::from_bytes(bytes).unwrap()
    };
    check(&[
        (patched(&rawdoc! { "find": "??", "$db": "shop" }), "CollectionName"),
        (patched(&rawdoc! { "find": "orders", "$db": "??" }), "NoDatabase"),
        (patched(&rawdoc! { "find": "orders", "??": 1, "$db": "shop" }), "NotBson"),
        (patched(&rawdoc! { "??": "orders", "$db": "shop" }), "NotBson"),
        (patched(&stage(rawdoc! { "$unionWith": "??" })), r#"Stage("$unionWith")"#),
        (patched(&rawdoc! { "find": "orders", "filter": { "a": "??" }, "$db": "shop" }), "Read shop.orders"),
    ]);
}

#[test]
fn arguments_that_only_servers_send_are_refused() {
    let id = rawdoc! { "id": uuid() };
    let mut of_another = id.clone();
    of_another.append(CString::try_from("uid").unwrap(), 1);
    check(&[
        (find_with("$readPreference", rawdoc! { "mode": "nearest" }), "Read shop.orders"),
        (find_with("$clusterTime", rawdoc! {}), "Read shop.orders"),
        (find_with("$comment", "x"), "Read shop.orders"),
        (find_with("lsid", id), "Read shop.orders"),
        (find_with("lsid", of_another), "Session"),
        (find_with("lsid", 1), "Session"),
        (find_with("maxTimeMS", 1), "Read shop.orders"),
        (find_with("let", rawdoc! {}), "Read shop.orders"),
        (find_with("apiVersion", "1"), "Read shop.orders"),
        (find_with("bypassDocumentValidation", true), "Read shop.orders"),
        (find_with("$audit", rawdoc! {}), "UnknownDollarArgument"),
        (find_with("$client", rawdoc! {}), "UnknownDollarArgument"),
        (find_with("$queryOptions", rawdoc! {}), "UnknownDollarArgument"),
        (find_with("$replData", 1), "UnknownDollarArgument"),
        (find_with("$configServerState", 1), "UnknownDollarArgument"),
        (find_with("$tenant", 1), "UnknownDollarArgument"),
        (find_with("$_passthroughToShard", rawdoc! {}), "UnknownDollarArgument"),
        (find_with("collectionUUID", uuid()), r#"InternalArgument("collectionUUID")"#),
        (find_with("mayBypassWriteBlocking", true), r#"InternalArgument("mayBypassWriteBlocking")"#),
        (find_with("shardVersion", rawdoc! {}), r#"InternalArgument("shardVersion")"#),
        (find_with("databaseVersion", rawdoc! {}), r#"InternalArgument("databaseVersion")"#),
        (find_with("fromMongos", true), r#"InternalArgument("fromMongos")"#),
        (find_with("needsMerge", true), r#"InternalArgument("needsMerge")"#),
        (find_with("exchange", rawdoc! {}), r#"InternalArgument("exchange")"#),
        (find_with("isMapReduceCommand", true), r#"InternalArgument("isMapReduceCommand")"#),
        (find_with("encryptionInformation", rawdoc! {}), r#"InternalArgument("encryptionInformation")"#),
    ]);
}

#[test]
fn a_stage_reaches_every_collection_that_it_names() {
    check(&[
        (stage(rawdoc! { "$lookup": { "from": "secret", "as": "x" } }), "Read shop.orders, Read shop.secret"),
        (
            stage(rawdoc! { "$lookup": { "from": "a", "as": "x", "pipeline": [{ "$unionWith": "secret" }] } }),
            "Read shop.orders, Read shop.a, Read shop.secret",
        ),
        (
            stage(rawdoc! { "$lookup": { "from": { "db": "local", "coll": "oplog.rs" }, "pipeline": [], "as": "x" } }),
            "Read shop.orders, Read local.oplog.rs [*]",
        ),
        (
            stage(
                rawdoc! { "$lookup": { "from": { "db": "vault", "coll": "a" }, "pipeline": [{ "$unionWith": "b" }] } },
            ),
            "Read shop.orders, Read vault.a, Read vault.b",
        ),
        (stage(rawdoc! { "$lookup": { "pipeline": [{ "$documents": [] }], "as": "x" } }), "Read shop.orders"),
        (
            stage(rawdoc! { "$lookup": { "pipeline": [{ "$documents": [] }, { "$unionWith": "secret" }] } }),
            "Read shop.orders, Read shop.secret",
        ),
        (
            stage(rawdoc! { "$graphLookup": {
                "from": "secret", "startWith": "$a", "connectFromField": "a", "connectToField": "b", "as": "x",
            } }),
            "Read shop.orders, Read shop.secret",
        ),
        (stage(rawdoc! { "$unionWith": "secret" }), "Read shop.orders, Read shop.secret"),
        (
            stage(rawdoc! { "$unionWith": { "coll": "a", "pipeline": [{ "$lookup": { "from": "secret" } }] } }),
            "Read shop.orders, Read shop.a, Read shop.secret",
        ),
        (
            stage(rawdoc! { "$facet": { "one": [{ "$count": "n" }], "two": [{ "$lookup": { "from": "secret" } }] } }),
            "Read shop.orders, Read shop.secret",
        ),
        (stage(rawdoc! { "$out": "secret" }), "Read shop.orders, Write shop.secret"),
        (stage(rawdoc! { "$out": { "db": "vault", "coll": "s" } }), "Read shop.orders, Write vault.s"),
        (
            stage(rawdoc! { "$out": { "db": "vault", "coll": "s", "timeseries": { "timeField": "t" } } }),
            "Read shop.orders, Write vault.s",
        ),
        (stage(rawdoc! { "$merge": "secret" }), "Read shop.orders, Write shop.secret, Read shop.secret"),
        (stage(rawdoc! { "$merge": { "into": "secret" } }), "Read shop.orders, Write shop.secret, Read shop.secret"),
        (stage(rawdoc! { "$merge": { "into": { "coll": "s" } } }), "Read shop.orders, Write shop.s, Read shop.s"),
        (
            stage(rawdoc! { "$merge": { "into": "s", "whenMatched": "merge" } }),
            "Read shop.orders, Write shop.s, Read shop.s",
        ),
        (
            stage(rawdoc! { "$merge": { "into": "s", "whenMatched": "ofTheFuture" } }),
            "Read shop.orders, Write shop.s, Read shop.s",
        ),
        (stage(rawdoc! { "$merge": { "into": "s", "whenMatched": "keepExisting" } }), "Read shop.orders, Write shop.s"),
        (stage(rawdoc! { "$merge": { "into": "s", "whenMatched": "fail" } }), "Read shop.orders, Write shop.s"),
        (
            stage(rawdoc! { "$merge": { "into": { "db": "vault", "coll": "s" }, "whenMatched": "replace" } }),
            "Read shop.orders, Write vault.s",
        ),
        (
            stage(rawdoc! { "$merge": { "into": "s", "whenMatched": [{ "$set": { "a": 1 } }] } }),
            "Read shop.orders, Write shop.s, Read shop.s",
        ),
        (stage(rawdoc! { "$unionWith": "orders" }), "Read shop.orders"),
        (stage(rawdoc! { "$unionWith": "system.profile" }), "Read shop.orders, Read shop.system.profile [shop.*]"),
    ]);
}

#[test]
fn a_stage_with_an_unknown_form_is_refused() {
    check(&[
        (stage(rawdoc! { "$lookup": "secret" }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$lookup": { "as": "x" } }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$lookup": { "from": symbol("secret") } }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$lookup": { "from": { "db": "vault" } } }), "CollectionName"),
        (stage(rawdoc! { "$lookup": { "from": { "coll": "secret" } } }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$lookup": { "from": { "db": 1, "coll": "secret" } } }), "DatabaseName"),
        (
            stage(rawdoc! { "$lookup": { "from": { "db": "local", "coll": "oplog.rs", "timeseries": 1 } } }),
            r#"Stage("$lookup")"#,
        ),
        (stage(rawdoc! { "$lookup": { "from": "a", "_internalUnwind": {} } }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$lookup": { "from": "a", "pipeline": { "0": { "$match": {} } } } }), "Pipeline"),
        (stage(rawdoc! { "$lookup": { "pipeline": [{ "$unionWith": "secret" }] } }), r#"Stage("$lookup")"#),
        (stage(rawdoc! { "$unionWith": { "pipeline": [] } }), r#"Stage("$unionWith")"#),
        (stage(rawdoc! { "$unionWith": { "db": "vault", "coll": "secret" } }), r#"Stage("$unionWith")"#),
        (stage(rawdoc! { "$unionWith": { "coll": symbol("secret") } }), "CollectionName"),
        (stage(rawdoc! { "$graphLookup": { "startWith": 1 } }), r#"Stage("$graphLookup")"#),
        (stage(rawdoc! { "$facet": [] }), r#"Stage("$facet")"#),
        (stage(rawdoc! { "$facet": { "a": {} } }), "Pipeline"),
        (stage(rawdoc! { "$out": { "coll": "secret" } }), r#"Stage("$out")"#),
        (stage(rawdoc! { "$out": { "s3": {} } }), r#"Stage("$out")"#),
        (stage(rawdoc! { "$merge": {} }), r#"Stage("$merge")"#),
        (stage(rawdoc! { "$merge": { "into": { "db": "vault" } } }), "CollectionName"),
        (
            stage(rawdoc! { "$merge": { "into": "s", "whenMatched": [{ "$lookup": { "from": "secret" } }] } }),
            r#"StagePosition("$lookup")"#,
        ),
        (stage(rawdoc! { "$changeStream": { "allowToRunOnSystemNS": true } }), r#"Stage("$changeStream")"#),
        (stage(rawdoc! { "$match": {}, "$unionWith": "secret" }), "Pipeline"),
        (stage(rawdoc! {}), "Pipeline"),
        (rawdoc! { "aggregate": "orders", "pipeline": { "0": { "$match": {} } }, "$db": "shop" }, "Pipeline"),
        (rawdoc! { "aggregate": "orders", "pipeline": ["$match"], "$db": "shop" }, "Pipeline"),
        (rawdoc! { "aggregate": "orders", "$db": "shop" }, "Pipeline"),
    ]);
}

#[test]
fn the_keys_of_a_pipeline_array_are_ignored() {
    let mut bytes = stage(rawdoc! { "$unionWith": "secret" }).into_bytes();
    let at = bytes.windows(3).rposition(|three| three == [0x03, b'1', 0]).unwrap();
    bytes[at + 1] = b'0';
    check(&[(RawDocumentBuf::from_bytes(bytes).unwrap(), "Read shop.orders, Read shop.secret")]);
}

#[test]
fn a_duplicate_key_in_a_stage_is_refused() {
    let text = |text: &str| RawBson::String(text.to_owned());
    let empty = || RawBson::Array(bson::RawArrayBuf::new());
    check(&[
        (
            stage(stage_document("$lookup", &[("from", text("a")), ("from", text("secret")), ("as", text("x"))])),
            "DuplicateKey",
        ),
        (
            stage(stage_document("$lookup", &[("from", text("a")), ("pipeline", empty()), ("pipeline", empty())])),
            "DuplicateKey",
        ),
        (stage(stage_document("$graphLookup", &[("from", text("a")), ("from", text("secret"))])), "DuplicateKey"),
        (stage(stage_document("$facet", &[("a", empty()), ("a", empty())])), "DuplicateKey"),
        (stage(stage_document("$unionWith", &[("coll", text("a")), ("coll", text("secret"))])), "DuplicateKey"),
        (stage(stage_document("$merge", &[("into", text("a")), ("into", text("secret"))])), "DuplicateKey"),
        (
            stage(stage_document("$out", &[("db", text("a")), ("db", text("vault")), ("coll", text("x"))])),
            "DuplicateKey",
        ),
        (stage(stage_document("$group", &[("_id", text("a")), ("_id", text("b"))])), "DuplicateKey"),
        (stage(stage_document("$match", &[("a", text("a")), ("a", text("b"))])), "Read shop.orders"),
        (
            stage(rawdoc! { "$unionWith": { "coll": "a", "pipeline": [
                stage_document("$lookup", &[("from", text("a")), ("from", text("secret"))]),
            ] } }),
            "DuplicateKey",
        ),
    ]);
}

#[test]
fn unknown_and_internal_stages_are_refused_at_every_depth() {
    let internal = ["$_internalAllCollectionStats", "$mergeCursors", "$_unpackBucket", "$listCatalog", "$queue"];
    let internal = internal.into_iter().chain(["$backupCursor", "$setVariableFromSubPipeline", "$_ofTheFuture"]);
    for (name, expected) in internal.map(|name| (name, "InternalStage")).chain([("$ofTheFuture", "UnknownStage")]) {
        let one = stage_document(name, &[]);
        check(&[
            (stage(one.clone()), expected),
            (stage(rawdoc! { "$unionWith": { "coll": "a", "pipeline": [one.clone()] } }), expected),
            (stage(rawdoc! { "$facet": { "a": [{ "$match": {} }, one] } }), expected),
        ]);
    }
}

#[test]
fn commands_and_stages_that_expose_other_data_reach_it() {
    check(&[
        (stage(rawdoc! { "$collStats": {} }), "Read shop.orders"),
        (stage(rawdoc! { "$indexStats": {} }), "Read shop.orders"),
        (stage(rawdoc! { "$planCacheStats": {} }), "Read shop.orders"),
        (stage(rawdoc! { "$listSessions": {} }), "Read shop.orders, Admin *, ~Read *"),
        (
            rawdoc! { "aggregate": 1, "pipeline": [{ "$currentOp": { "allUsers": true } }], "$db": "admin" },
            "Read admin, Admin *, ~Read *",
        ),
        (
            rawdoc! { "aggregate": 1, "pipeline": [{ "$listLocalSessions": {} }], "$db": "shop" },
            "Read shop, Admin *, ~Read *",
        ),
        (
            rawdoc! { "aggregate": 1, "pipeline": [{ "$listClusterCatalog": {} }], "$db": "shop" },
            "Read shop, Read shop.*",
        ),
        (rawdoc! { "aggregate": 1, "pipeline": [{ "$listClusterCatalog": {} }], "$db": "admin" }, "Read admin, Read *"),
        (rawdoc! { "currentOp": 1, "$db": "admin" }, "Admin *, ~Read *"),
        (rawdoc! { "currentOp": 1, "$all": true, "$ownOps": false, "$db": "admin" }, "Admin *, ~Read *"),
        (rawdoc! { "top": 1, "$db": "admin" }, "AdminRead *, ~Read *"),
        (rawdoc! { "getLog": "global", "$db": "admin" }, "AdminRead *, ~Read *"),
        (rawdoc! { "lockInfo": 1, "$db": "admin" }, "AdminRead *, ~Read *"),
        (rawdoc! { "serverStatus": 1, "$db": "admin" }, "AdminRead admin"),
        (rawdoc! { "profile": 2, "$db": "shop" }, "Admin shop.*"),
        (rawdoc! { "listDatabases": 1, "$db": "admin" }, "Read *"),
        (rawdoc! { "listCollections": 1, "nameOnly": true, "$db": "shop" }, "Read shop.*"),
        (rawdoc! { "dbStats": 1, "$db": "shop" }, "Read shop"),
        (rawdoc! { "dbHash": 1, "$db": "shop" }, "Read shop.*"),
        (rawdoc! { "dbHash": 1, "collections": [], "$db": "shop" }, "Read shop.*"),
        (rawdoc! { "dbhash": 1, "collections": ["a", "b"], "$db": "shop" }, "Read shop.a, Read shop.b"),
        (rawdoc! { "dbHash": 1, "collections": "a", "$db": "shop" }, r#"Argument("collections")"#),
        (rawdoc! { "validateDBMetadata": 1, "db": "vault", "$db": "shop" }, "Admin *, ~Read *"),
        (rawdoc! { "filemd5": 1, "$db": "shop" }, "Read shop.fs.chunks"),
        (rawdoc! { "filemd5": 1, "root": "fs", "$db": "shop" }, "Read shop.fs.chunks"),
        (rawdoc! { "filemd5": 1, "root": "secret", "$db": "shop" }, "Read shop.*"),
        (rawdoc! { "filemd5": 1, "root": symbol("fs"), "$db": "shop" }, "CollectionName"),
    ]);
}

#[test]
fn an_aggregate_on_the_database_reaches_the_database() {
    let of = |one: RawBson| rawdoc! { "aggregate": one, "pipeline": [{ "$documents": [] }], "$db": "shop" };
    check(&[
        (of(RawBson::Int32(1)), "Read shop"),
        (of(RawBson::Int64(1)), "Read shop"),
        (of(RawBson::Double(1.0)), "Read shop"),
        (of(decimal("1")), "Read shop"),
        (of(decimal("1.0")), "Read shop"),
        (of(decimal("2")), "CollectionName"),
        (of(decimal("NaN")), "CollectionName"),
        (of(RawBson::Int32(-1)), "CollectionName"),
        (
            rawdoc! { "aggregate": 1, "pipeline": [
                { "$documents": [] }, { "$lookup": { "from": "secret" } },
            ], "$db": "shop" },
            "Read shop, Read shop.secret",
        ),
    ]);
}

#[test]
fn a_change_stream_reaches_what_it_watches() {
    let on = |target: RawBson, database: &str, spec: RawDocumentBuf| {
        rawdoc! { "aggregate": target, "pipeline": [{ "$changeStream": spec }], "cursor": {}, "$db": database }
    };
    check(&[
        (on("orders".into(), "shop", rawdoc! {}), "Read shop.orders"),
        (on(1.into(), "shop", rawdoc! { "fullDocument": "updateLookup" }), "Read shop, Read shop.*"),
        (on(1.into(), "admin", rawdoc! { "allChangesForCluster": true }), "Read admin, Read *"),
        (on(1.into(), "admin", rawdoc! { "allChangesForCluster": 1 }), "Read admin, Read *"),
        (on(1.into(), "admin", rawdoc! { "allChangesForCluster": false }), "Read admin, Read admin.*"),
        (on("orders".into(), "shop", rawdoc! { "allChangesForCluster": true }), "Read shop.orders, Read *"),
        (
            stage(rawdoc! { "$unionWith": { "coll": "a", "pipeline": [{ "$changeStream": {} }] } }),
            r#"StagePosition("$changeStream")"#,
        ),
    ]);
}

#[test]
fn a_view_reaches_everything_that_it_exposes() {
    check(&[
        (rawdoc! { "create": "v", "$db": "shop" }, "Ddl shop.v"),
        (rawdoc! { "create": "v", "timeseries": { "timeField": "t" }, "$db": "shop" }, "Ddl shop.v"),
        (rawdoc! { "create": "v", "viewOn": "secret", "$db": "shop" }, "Ddl shop.v, Read shop.secret"),
        (
            rawdoc! { "create": "v", "viewOn": "a", "pipeline": [{ "$lookup": {
                "from": { "db": "local", "coll": "oplog.rs" }, "as": "x", "pipeline": [],
            } }], "$db": "shop" },
            "Ddl shop.v, Read shop.a, Read local.oplog.rs [*]",
        ),
        (
            rawdoc! { "collMod": "v", "viewOn": "system.profile", "pipeline": [
                { "$unionWith": "secret" },
            ], "$db": "shop" },
            "Ddl shop.v, Read shop.v, Read shop.system.profile [shop.*], Read shop.secret",
        ),
        (rawdoc! { "create": "v", "viewOn": "", "pipeline": [], "$db": "shop" }, "CollectionName"),
        (rawdoc! { "create": "v", "viewOn": "a", "pipeline": { "$match": {} }, "$db": "shop" }, "Pipeline"),
        (
            rawdoc! { "create": "v", "encryptedFields": { "escCollection": "esc", "fields": [] }, "$db": "shop" },
            "Ddl shop.v, Ddl shop.esc",
        ),
        (rawdoc! { "compactStructuredEncryptionData": "v", "$db": "shop" }, "Ddl shop.v, Ddl shop.*"),
    ]);
}

#[test]
fn system_collections_reach_what_they_expose() {
    let find = |database: &str, collection: &str| rawdoc! { "find": collection, "$db": database };
    check(&[
        (find("shop", "system.buckets.secret"), "Read shop.system.buckets.secret, Read shop.secret"),
        (
            find("shop", "system.buckets.system.profile"),
            "Read shop.system.buckets.system.profile, Read shop.system.profile [shop.*]",
        ),
        (find("shop", "system.buckets."), "CollectionName"),
        (find("shop", "system.profile"), "Read shop.system.profile [shop.*]"),
        (find("shop", "system.views"), "Read shop.system.views [shop.*]"),
        (find("shop", "system.js"), "Read shop.system.js [shop.*]"),
        (find("shop", "systems"), "Read shop.systems"),
        (find("admin", "system.users"), "Read admin.system.users [*]"),
        (find("admin", "orders"), "Read admin.orders"),
        (find("local", "oplog.rs"), "Read local.oplog.rs [*]"),
        (find("local", "orders"), "Read local.orders [*]"),
        (find("config", "cache.chunks.x"), "Read config.cache.chunks.x [*]"),
        (rawdoc! { "listCollections": 1, "$db": "local" }, "Read local.*"),
        (rawdoc! { "insert": "system.js", "$db": "shop" }, "Write shop.system.js [shop.*]"),
    ]);
}

#[test]
fn commands_that_name_several_collections_reach_all_of_them() {
    check(&[
        (
            rawdoc! { "renameCollection": "shop.a", "to": "vault.b.c", "$db": "admin" },
            "Ddl shop.a, Read shop.a, Ddl vault.b.c, Write vault.b.c",
        ),
        (rawdoc! { "renameCollection": "shop", "to": "vault.b", "$db": "admin" }, "CollectionName"),
        (rawdoc! { "renameCollection": "shop.a", "$db": "admin" }, r#"Argument("to")"#),
        (
            rawdoc! { "cloneCollectionAsCapped": "a", "toCollection": "b", "size": 1, "$db": "shop" },
            "Read shop.a, Ddl shop.b, Write shop.b",
        ),
        (rawdoc! { "convertToCapped": "a", "size": 1, "$db": "shop" }, "Ddl shop.a"),
        (rawdoc! { "dataSize": "vault.secret", "$db": "shop" }, "Read vault.secret"),
        (rawdoc! { "datasize": "vault.a.b", "$db": "shop" }, "Read vault.a.b"),
        (rawdoc! { "splitVector": "vault.secret", "$db": "shop" }, "Admin vault.secret, ~Read vault.secret"),
        (rawdoc! { "checkShardingIndex": "vault.secret", "$db": "shop" }, "Cluster vault.secret, ~Read vault.secret"),
        (rawdoc! { "moveChunk": "vault.secret", "$db": "admin" }, "Cluster vault.secret, ~Read vault.secret"),
        (rawdoc! { "getShardVersion": "vault.secret", "$db": "admin" }, "Cluster vault.secret, ~Read vault.secret"),
        (rawdoc! { "enableSharding": "vault", "$db": "admin" }, "Cluster vault"),
        (rawdoc! { "getDatabaseVersion": "vault", "$db": "admin" }, "Cluster vault"),
        (rawdoc! { "dropDatabase": 1, "$db": "shop" }, "Ddl shop.*"),
        (
            rawdoc! { "applyOps": [
                { "op": "i", "ns": "vault.secret", "o": {} },
                { "op": "c", "ns": "vault.$cmd", "o": { "create": "x" } },
                { "op": "n", "ns": "" },
            ], "$db": "shop" },
            "Cluster *, ~Read *, Cluster vault.secret, Cluster vault",
        ),
        (rawdoc! { "applyOps": [{ "ns": symbol("vault.secret") }], "$db": "shop" }, "CollectionName"),
    ]);
}

#[test]
fn a_map_reduce_reaches_its_output() {
    let out = |out: RawBson| {
        rawdoc! { "mapreduce": "orders", "map": code("m"), "reduce": code("r"), "out": out, "$db": "shop" }
    };
    check(&[
        (out("secret".into()), "Read shop.orders, Write shop.secret, Read shop.system.js [itself]"),
        (out(rawdoc! { "inline": 1 }.into()), "Read shop.orders, Read shop.system.js [itself]"),
        (out(rawdoc! { "replace": "s" }.into()), "Read shop.orders, Write shop.s, Read shop.system.js [itself]"),
        (
            out(rawdoc! { "merge": "s", "db": "vault" }.into()),
            "Read shop.orders, Write vault.s, Read shop.system.js [itself]",
        ),
        (
            out(rawdoc! { "db": "vault", "reduce": "s", "sharded": true }.into()),
            "Read shop.orders, Write vault.s, Read vault.s, Read shop.system.js [itself]",
        ),
        (out(rawdoc! { "inline": 1, "replace": "s" }.into()), r#"Argument("out")"#),
        (out(rawdoc! { "merge": "s", "replace": "t" }.into()), r#"Argument("out")"#),
        (out(rawdoc! { "normal": "s" }.into()), r#"Argument("out")"#),
        (out(rawdoc! { "replace": "s", "replace": "t" }.into()), "DuplicateKey"),
        (out(rawdoc! { "replace": symbol("s") }.into()), "CollectionName"),
        (out(symbol("s")), "CollectionName"),
        (rawdoc! { "mapReduce": "orders", "$db": "shop" }, r#"Argument("out")"#),
    ]);
}

#[test]
fn an_explain_has_the_meaning_of_the_command_in_it() {
    check(&[
        (rawdoc! { "explain": { "find": "secret" }, "verbosity": "executionStats", "$db": "shop" }, "Read shop.secret"),
        (rawdoc! { "explain": { "find": "secret", "$db": "shop" }, "$db": "shop" }, "Read shop.secret"),
        (rawdoc! { "explain": { "find": "secret", "$db": "vault" }, "$db": "shop" }, "Explain"),
        (rawdoc! { "explain": { "find": "secret", "$db": symbol("shop") }, "$db": "shop" }, "Explain"),
        (rawdoc! { "explain": { "find": symbol("secret") }, "$db": "shop" }, "CollectionName"),
        (rawdoc! { "explain": { "explain": { "find": "secret" } }, "$db": "shop" }, "Explain"),
        (rawdoc! { "explain": { "insert": "secret" }, "$db": "shop" }, "Explain"),
        (rawdoc! { "explain": { "nothing": "secret" }, "$db": "shop" }, "UnknownCommand"),
        (rawdoc! { "explain": {}, "$db": "shop" }, "NoCommand"),
        (rawdoc! { "explain": "find", "$db": "shop" }, "Explain"),
        (rawdoc! { "explain": { "find": "a", "find": "secret" }, "$db": "shop" }, "DuplicateKey"),
        (rawdoc! { "explain": { "find": "a", "exchange": 1 }, "$db": "shop" }, r#"InternalArgument("exchange")"#),
        (
            rawdoc! { "explain": { "aggregate": "a", "pipeline": [{ "$unionWith": "secret" }] }, "$db": "shop" },
            "Read shop.a, Read shop.secret",
        ),
        (rawdoc! { "explain": { "delete": "a", "deletes": [] }, "$db": "shop" }, "Write shop.a, Read shop.a"),
        (
            rawdoc! { "explain": { "bulkWrite": 1, "ops": [{ "delete": 0, "filter": {} }], "nsInfo": [
                { "ns": "vault.a" },
            ] }, "$db": "admin" },
            "Write vault.a, Read vault.a",
        ),
    ]);
    let body = rawdoc! { "explain": { "count": "secret" }, "$db": "shop" };
    let meaning = read_body(&body).unwrap();
    assert!(meaning.explained);
    assert_eq!(meaning.command.name, "count");
}

#[test]
fn the_pipeline_of_an_update_has_only_stages_that_update() {
    let update = |u: RawBson| rawdoc! { "update": "a", "updates": [{ "q": {}, "u": u }], "$db": "shop" };
    let stages = |stage: RawDocumentBuf| {
        let mut stages = bson::RawArrayBuf::new();
        stages.push(stage);
        RawBson::Array(stages)
    };
    check(&[
        (update(rawdoc! { "$set": { "a": 1 } }.into()), "Write shop.a, Read shop.a"),
        (update(stages(rawdoc! { "$set": { "a": 1 } })), "Write shop.a, Read shop.a"),
        (update(stages(rawdoc! { "$replaceWith": "$a" })), "Write shop.a, Read shop.a"),
        (update(stages(rawdoc! { "$lookup": { "from": "secret" } })), r#"StagePosition("$lookup")"#),
        (update(stages(rawdoc! { "$_internal": 1 })), "UnknownStage"),
        (
            rawdoc! { "findAndModify": "a", "update": [{ "$unionWith": "secret" }], "$db": "shop" },
            r#"StagePosition("$unionWith")"#,
        ),
        (rawdoc! { "findAndModify": "a", "update": [{ "$unset": "x" }], "$db": "shop" }, "Write shop.a, Read shop.a"),
    ]);
}

#[test]
fn a_bulk_write_reaches_every_namespace_that_it_lists() {
    let ops = |operation: RawDocumentBuf| [rawdoc! { "insert": 0, "document": { "insert": 5 } }, operation];
    let namespaces = [rawdoc! { "ns": "shop.a" }, rawdoc! { "ns": "vault.secret" }];
    let both = "Write shop.a, Write vault.secret";
    let cases = [
        (
            rawdoc! { "update": 1, "filter": {}, "updateMods": { "$set": {} } },
            "Write shop.a, Write vault.secret, Read vault.secret",
        ),
        (rawdoc! { "delete": 0_i64, "filter": {} }, "Write shop.a, Write vault.secret, Read shop.a"),
        (rawdoc! { "insert": 1, "document": {} }, both),
        (rawdoc! { "update": 1, "updateMods": [{ "$lookup": {} }] }, r#"StagePosition("$lookup")"#),
        (rawdoc! { "delete": 2, "filter": {} }, r#"Argument("ops")"#),
        (rawdoc! { "delete": (-1) }, r#"Argument("ops")"#),
        (rawdoc! { "delete": 1.0 }, r#"Argument("ops")"#),
        (rawdoc! { "filter": {}, "delete": 0 }, r#"Argument("ops")"#),
        (rawdoc! { "findAndModify": 0 }, r#"Argument("ops")"#),
        (rawdoc! {}, r#"Argument("ops")"#),
    ];
    let body = rawdoc! { "bulkWrite": 1, "$db": "admin" };
    for (operation, expected) in cases {
        let (ops, namespaces) = (concatenated(&ops(operation)), concatenated(&namespaces));
        let sequences = [
            Sequence { identifier: b"ops", documents: &ops },
            Sequence { identifier: b"nsInfo", documents: &namespaces },
        ];
        assert_eq!(text(&read_with(&body, &sequences, false)), expected);
    }
    check(&[
        (rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [{ "ns": "shop.a" }], "$db": "admin" }, "Write shop.a"),
        (rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [], "$db": "admin" }, r#"Argument("nsInfo")"#),
        (rawdoc! { "bulkWrite": 1, "ops": [], "$db": "admin" }, r#"Argument("nsInfo")"#),
        (rawdoc! { "bulkWrite": 1, "nsInfo": [{ "ns": "shop.a" }], "$db": "admin" }, r#"Argument("ops")"#),
        (
            rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [{ "ns": "shop.a", "ns": "vault.b" }], "$db": "admin" },
            "DuplicateKey",
        ),
        (
            rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [{ "ns": "shop.a", "collectionUUID": 1 }], "$db": "admin" },
            r#"Argument("nsInfo")"#,
        ),
        (
            rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [{ "ns": symbol("shop.a") }], "$db": "admin" },
            "CollectionName",
        ),
    ]);
}

#[test]
fn a_document_sequence_is_one_that_the_command_accepts_and_that_the_body_does_not_repeat() {
    let insert = rawdoc! { "insert": "a", "$db": "shop" };
    let with_documents = rawdoc! { "insert": "a", "documents": [], "$db": "shop" };
    let none: &[u8] = &[];
    let cases: [(&RawDocumentBuf, &[&[u8]], &str); 9] = [
        (&insert, &[b"documents"], "Write shop.a"),
        (&insert, &[b"documents", b"documents"], "Sequence"),
        (&insert, &[b"updates"], "Sequence"),
        (&insert, &[b"$db"], "Sequence"),
        (&insert, &[b"insert"], "Sequence"),
        (&insert, &[b""], "Sequence"),
        (&insert, &[b"documents\xff"], "Sequence"),
        (&with_documents, &[b"documents"], "Sequence"),
        (&rawdoc! { "find": "a", "$db": "shop" }, &[b"filter"], "Sequence"),
    ];
    for (body, identifiers, expected) in cases {
        let sequences: Vec<_> = identifiers.iter().map(|identifier| Sequence { identifier, documents: none }).collect();
        assert_eq!(text(&read_with(body, &sequences, false)), expected, "{identifiers:?}");
    }
}

#[test]
fn cursors_are_named_by_collection_and_id() {
    let get_more = |id: RawBson, collection: &str| rawdoc! { "getMore": id, "collection": collection, "$db": "shop" };
    check(&[
        (get_more(RawBson::Int64(5), "orders"), "Read shop.orders"),
        (get_more(RawBson::Int64(5), "$cmd.aggregate"), "Read shop"),
        (get_more(RawBson::Int64(5), "$cmd.listCollections"), "Read shop"),
        (get_more(RawBson::Int64(5), "$cmd"), "CollectionName"),
        (get_more(RawBson::Int32(5), "orders"), r#"Argument("getMore")"#),
        (rawdoc! { "getMore": 5_i64, "$db": "shop" }, r#"Argument("collection")"#),
        (rawdoc! { "getMore": 5_i64, "collection": symbol("orders"), "$db": "shop" }, "CollectionName"),
        (rawdoc! { "killCursors": "orders", "cursors": [1_i64, 2_i64], "$db": "shop" }, "Read shop.orders"),
        (rawdoc! { "killCursors": "$cmd.aggregate", "cursors": [1_i64], "$db": "shop" }, "Read shop"),
        (rawdoc! { "killCursors": "orders", "cursors": [1], "$db": "shop" }, r#"Argument("cursors")"#),
        (rawdoc! { "killCursors": "orders", "$db": "shop" }, r#"Argument("cursors")"#),
    ]);
    let of = |count: i64| {
        let mut ids = bson::RawArrayBuf::new();
        (0..count).for_each(|id| ids.push(id));
        rawdoc! { "killCursors": "orders", "cursors": ids, "$db": "shop" }
    };
    assert_eq!(read_body(&of(1000)).unwrap().cursors.as_slice(), (0..1000).collect::<Vec<_>>());
    assert_eq!(read_body(&of(1001)), Err(Unclear::TooManyResources));
    let body = get_more(RawBson::Int64(-7), "orders");
    assert_eq!(read_body(&body).unwrap().cursors.as_slice(), [-7]);
}

#[test]
fn session_commands_reach_no_namespace_and_only_the_clients_own_sessions() {
    let (own, of_another) = (rawdoc! { "id": uuid() }, rawdoc! { "id": uuid(), "uid": 1 });
    check(&[
        (rawdoc! { "endSessions": [own.clone()], "$db": "admin" }, "Session -"),
        (rawdoc! { "refreshSessions": [own.clone(), of_another.clone()], "$db": "admin" }, "Session"),
        (rawdoc! { "endSessions": [of_another], "$db": "admin" }, "Session"),
        (rawdoc! { "startSession": 1, "$db": "admin" }, "Session -"),
        (
            rawdoc! { "commitTransaction": 1, "lsid": own, "txnNumber": 1_i64, "autocommit": false, "$db": "admin" },
            "Session -",
        ),
        (rawdoc! { "abortTransaction": 1, "$db": "admin" }, "Session -"),
        (rawdoc! { "killSessions": [], "$db": "shop" }, "Admin *"),
        (rawdoc! { "killSessions": [{ "id": uuid() }], "$db": "shop" }, "Session -"),
        (rawdoc! { "killSessions": [{ "id": uuid() }, { "id": uuid(), "uid": 1 }], "$db": "shop" }, "Admin *"),
        (rawdoc! { "killSessions": [{}], "$db": "shop" }, "Admin *"),
        (rawdoc! { "killSessions": { "id": uuid() }, "$db": "shop" }, "Admin *"),
        (rawdoc! { "killAllSessions": [], "$db": "shop" }, "Admin *"),
    ]);
}

#[test]
fn commands_for_users_and_roles_reach_every_database_that_they_name() {
    check(&[
        (
            rawdoc! { "createUser": "u", "pwd": "p", "roles": [
                "read", { "role": "read", "db": "vault" },
            ], "$db": "shop" },
            "UserAdmin shop, UserAdmin vault",
        ),
        (
            rawdoc! { "grantRolesToUser": "u", "roles": [{ "role": "root", "db": "admin" }], "$db": "shop" },
            "UserAdmin shop, UserAdmin admin",
        ),
        (rawdoc! { "createUser": "u", "roles": [{ "role": "read" }], "$db": "shop" }, r#"Argument("roles")"#),
        (
            rawdoc! { "createUser": "u", "roles": [{ "role": "r", "db": "shop", "db": "vault" }], "$db": "shop" },
            "DuplicateKey",
        ),
        (
            rawdoc! { "createRole": "r", "roles": [], "privileges": [
                { "resource": { "db": "vault", "collection": "" }, "actions": ["find"] },
            ], "$db": "shop" },
            "UserAdmin shop, UserAdmin vault",
        ),
        (
            rawdoc! { "updateRole": "r", "privileges": [{ "resource": { "anyResource": true } }], "$db": "shop" },
            "UserAdmin shop, UserAdmin *",
        ),
        (
            rawdoc! { "grantPrivilegesToRole": "r", "privileges": [
                { "resource": { "db": "", "collection": "" } }, { "resource": { "cluster": true } },
            ], "$db": "shop" },
            "UserAdmin shop, UserAdmin *",
        ),
        (rawdoc! { "grantPrivilegesToRole": "r", "privileges": [{}], "$db": "shop" }, r#"Argument("privileges")"#),
        (rawdoc! { "usersInfo": 1, "$db": "shop" }, "UserAdmin shop, ~Read admin.system.users [itself]"),
        (rawdoc! { "usersInfo": "u", "$db": "shop" }, "UserAdmin shop, ~Read admin.system.users [itself]"),
        (
            rawdoc! { "usersInfo": { "user": "u", "db": "vault" }, "$db": "shop" },
            "UserAdmin shop, UserAdmin vault, ~Read admin.system.users [itself]",
        ),
        (
            rawdoc! { "usersInfo": ["u", { "user": "u", "db": "vault" }], "$db": "shop" },
            "UserAdmin shop, UserAdmin vault, ~Read admin.system.users [itself]",
        ),
        (
            rawdoc! { "usersInfo": { "forAllDBs": true }, "$db": "shop" },
            "UserAdmin shop, UserAdmin *, ~Read admin.system.users [itself]",
        ),
        (
            rawdoc! { "rolesInfo": { "role": "r", "db": "vault" }, "$db": "shop" },
            "UserAdmin shop, UserAdmin vault, ~Read admin.system.roles [itself]",
        ),
        (rawdoc! { "dropAllUsersFromDatabase": 1, "$db": "shop" }, "UserAdmin shop"),
    ]);
}

#[test]
fn a_command_has_the_class_of_what_it_does_with_its_arguments() {
    check(&[
        (rawdoc! { "validate": "a", "$db": "shop" }, "Read shop.a"),
        (rawdoc! { "validate": "a", "full": true, "repair": false, "$db": "shop" }, "Read shop.a"),
        (rawdoc! { "validate": "a", "repair": true, "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        (rawdoc! { "validate": "a", "repair": 1, "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        (rawdoc! { "validate": "a", "fixMultikey": true, "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        (rawdoc! { "planCacheClear": "a", "$db": "shop" }, "Admin shop.a"),
        (rawdoc! { "planCacheSetFilter": "a", "$db": "shop" }, "Admin shop.a"),
        (rawdoc! { "planCacheListFilters": "a", "$db": "shop" }, "Read shop.a"),
        (rawdoc! { "dbCheck": "a", "$db": "shop" }, "Admin shop.a, ~Read shop.a"),
        (rawdoc! { "dbCheck": 1, "$db": "shop" }, "Admin shop.*, ~Read shop.*"),
        (rawdoc! { "shutdown": 1, "$db": "admin" }, "Admin admin"),
        (rawdoc! { "replSetReconfig": {}, "$db": "admin" }, "Cluster *, ~Read *"),
    ]);
}

#[test]
fn javascript_is_found_where_the_server_runs_it_and_not_where_it_stores_it() {
    let function = || rawdoc! { "$function": { "body": "x", "args": [], "lang": "js" } };
    let deep = rawdoc! { "$expr": { "$and": [1, { "$eq": [1, function()] }] } };
    let cases = [
        (find_with("filter", rawdoc! { "a": 1 }), false),
        (find_with("filter", rawdoc! { "$where": "x" }), true),
        (find_with("filter", deep.clone()), true),
        (find_with("filter", rawdoc! { "a": code("x") }), true),
        (find_with("let", rawdoc! { "a": function() }), true),
        (find_with("projection", rawdoc! { "a": function() }), true),
        (stage(rawdoc! { "$match": deep.clone() }), true),
        (stage(rawdoc! { "$group": { "_id": 1, "a": { "$accumulator": {} } } }), true),
        (stage(rawdoc! { "$facet": { "a": [{ "$match": { "$where": "x" } }] } }), true),
        (stage(rawdoc! { "$match": { "where": "$where" } }), false),
        (rawdoc! { "mapReduce": "a", "out": { "inline": 1 }, "$db": "shop" }, true),
        (rawdoc! { "insert": "a", "documents": [{ "$where": code("x") }], "$db": "shop" }, false),
        (rawdoc! { "insert": "a", "documents": [], "x": { "$where": 1 }, "$db": "shop" }, true),
        (rawdoc! { "update": "a", "updates": [{ "q": {}, "u": { "f": code("x") } }], "$db": "shop" }, false),
        (rawdoc! { "update": "a", "updates": [{ "q": { "f": code("x") }, "u": {} }], "$db": "shop" }, true),
        (
            rawdoc! { "update": "a", "updates": [{ "q": {}, "u": [{ "$set": { "a": function() } }] }], "$db": "shop" },
            true,
        ),
        (rawdoc! { "update": "a", "updates": [{ "u": { "$pull": { "a": { "$where": "x" } } } }], "$db": "shop" }, true),
        (rawdoc! { "update": "a", "updates": [{ "arrayFilters": [{ "$where": "x" }] }], "$db": "shop" }, true),
        (rawdoc! { "delete": "a", "deletes": [{ "q": { "$where": "x" } }], "$db": "shop" }, true),
        (rawdoc! { "findAndModify": "a", "query": { "$where": "x" }, "$db": "shop" }, true),
        (rawdoc! { "findAndModify": "a", "update": { "f": code("x") }, "$db": "shop" }, false),
        (rawdoc! { "explain": { "count": "a", "query": { "$where": "x" } }, "$db": "shop" }, true),
        (
            rawdoc! { "bulkWrite": 1, "nsInfo": [{ "ns": "shop.a" }], "ops": [
                { "insert": 0, "document": { "$where": code("x") } },
            ], "$db": "admin" },
            false,
        ),
        (
            rawdoc! { "bulkWrite": 1, "nsInfo": [{ "ns": "shop.a" }], "ops": [
                { "delete": 0, "filter": { "$where": "x" } },
            ], "$db": "admin" },
            true,
        ),
    ];
    for (body, expected) in &cases {
        let name = body.iter_elements().next().unwrap().unwrap().key().as_str().to_owned();
        assert_eq!(read_with(body, &[], true).unwrap().javascript, *expected, "{body:?}");
        assert_eq!(read_with(body, &[], false).unwrap().javascript, name == "mapReduce", "{body:?}");
    }
}

#[test]
fn javascript_in_a_document_sequence_is_found_and_a_missing_sequence_is_an_error() {
    for (command, identifier) in [("update", "updates"), ("delete", "deletes")] {
        let mut body = RawDocumentBuf::new();
        body.append(CString::try_from(command).unwrap(), "a");
        body.append(CString::try_from("$db").unwrap(), "shop");
        assert!(needs_sequences(
            table::find(command.as_bytes()).unwrap(),
            ReadOptions { javascript: true, stored_functions: false, known: None }
        ));
        assert_eq!(read_with(&body, &[], true), Err(Unclear::Argument(identifier)));
        assert_eq!(text(&read_with(&body, &[], false)), "Write shop.a, Read shop.a");
        assert_eq!(read_stored(&body, &[]), Err(Unclear::Argument(identifier)));
        let statements = [rawdoc! { "q": {}, "u": {} }, rawdoc! { "q": { "$where": "x" }, "u": {} }];
        for (count, expected) in [(1, false), (2, true)] {
            let documents = concatenated(&statements[..count]);
            let sequences = [Sequence { identifier: identifier.as_bytes(), documents: &documents }];
            assert_eq!(read_with(&body, &sequences, true).unwrap().javascript, expected);
        }
        let torn = &concatenated(&statements)[..30];
        let sequences = [Sequence { identifier: identifier.as_bytes(), documents: torn }];
        assert_eq!(read_with(&body, &sequences, true), Err(Unclear::NotBson));
    }
}

#[test]
fn commands_of_shells_and_drivers_are_understood() {
    let session = || rawdoc! { "id": uuid() };
    check(&[
        (
            rawdoc! { "ismaster": 1, "helloOk": true, "client": {}, "compression": ["none"], "$db": "admin" },
            "Handshake admin",
        ),
        (
            rawdoc! { "hello": 1, "topologyVersion": {}, "maxAwaitTimeMS": 10_000_i64, "$db": "admin" },
            "Handshake admin",
        ),
        (rawdoc! { "hello": "secret", "$db": "test" }, "Handshake test"),
        (rawdoc! { "ping": 1, "lsid": session(), "$db": "admin" }, "Handshake admin"),
        (rawdoc! { "buildInfo": 1, "apiVersion": "1", "$db": "admin" }, "Handshake admin"),
        (rawdoc! { "connectionStatus": 1, "showPrivileges": true, "$db": "admin" }, "Handshake admin"),
        (rawdoc! { "atlasVersion": 1, "$db": "admin" }, "Handshake admin"),
        (rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1, "$db": "admin" }, "AdminRead admin"),
        (rawdoc! { "getCmdLineOpts": 1, "$db": "admin" }, "AdminRead admin"),
        (rawdoc! { "hostInfo": 1, "$db": "admin" }, "AdminRead admin"),
        (
            rawdoc! { "aggregate": "atlascli", "pipeline": [
                { "$match": { "managedClusterType": "atlasCliLocalDevCluster" } },
                { "$group": { "_id": 1, "n": { "$sum": 1 } } },
            ], "cursor": {}, "lsid": session(), "$db": "admin" },
            "Read admin.atlascli",
        ),
        (rawdoc! { "endSessions": [session()], "$db": "admin" }, "Session -"),
        (
            rawdoc! { "find": "orders", "filter": {}, "limit": 1, "singleBatch": true, "lsid": session(),
            "$clusterTime": {}, "$readPreference": { "mode": "primary" }, "readConcern": {}, "$db": "shop" },
            "Read shop.orders",
        ),
        (
            rawdoc! { "update": "orders", "ordered": true, "lsid": session(), "txnNumber": 1_i64,
            "startTransaction": true, "autocommit": false, "writeConcern": { "w": "majority" },
            "bypassDocumentValidation": true, "$db": "shop" },
            "Write shop.orders, Read shop.orders",
        ),
        (rawdoc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "$db": "admin" }, "Auth admin"),
        (rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" }, "Auth $external"),
    ]);
}

#[test]
fn every_command_of_the_table_reaches_something_in_its_own_class() {
    for command in table::all() {
        for value in [RawBson::String("a.b".to_owned()), RawBson::Int32(1)] {
            let mut body = RawDocumentBuf::new();
            body.append(CString::try_from(command.name).unwrap(), value);
            body.append(CString::try_from("$db").unwrap(), "shop");
            let Ok(meaning) = read_body(&body) else { continue };
            assert!(!meaning.reaches.is_empty(), "{}", command.name);
            assert!(meaning.reaches.iter().all(|reach| !matches!(reach.class, Class::Wrapper | Class::Legacy)));
            assert!(meaning.reaches.iter().any(|reach| reach.class == command.class), "{}", command.name);
        }
    }
}

/// What reaches `system.js`, whether the search is for `$where` alone or for any JavaScript.
#[test]
fn javascript_that_sees_stored_functions_reaches_them() {
    let place = || rawdoc! { "$where": "throw new Error(stored)" };
    let deep = rawdoc! { "$or": [{ "a": 1 }, { "$nor": [place()] }] };
    let function = rawdoc! { "$expr": { "$function": { "body": "x", "args": [], "lang": "js" } } };
    let of_type = |value: RawBson| rawdoc! { "find": "orders", "filter": { "$where": value }, "$db": "shop" };
    let cases = [
        (find_with("filter", place()), true),
        (find_with("filter", deep.clone()), true),
        (find_with("filter", function), false),
        (find_with("filter", rawdoc! { "a": code("x") }), false),
        (find_with("filter", rawdoc! { "a": "$where" }), false),
        (find_with("filter", rawdoc! { "$where2": 1, "a$where": 1 }), false),
        (find_with("anything", rawdoc! { "filter": [place()] }), true),
        (of_type(code("x")), true),
        (of_type(symbol("x")), true),
        (of_type(RawBson::Null), true),
        (rawdoc! { "count": "a", "query": place(), "$db": "shop" }, true),
        (rawdoc! { "distinct": "a", "key": "k", "query": place(), "$db": "shop" }, true),
        (rawdoc! { "findAndModify": "a", "query": place(), "remove": true, "$db": "shop" }, true),
        (rawdoc! { "update": "a", "updates": [{ "q": {}, "u": {} }, { "q": place(), "u": {} }], "$db": "shop" }, true),
        (rawdoc! { "update": "a", "updates": [{ "q": {}, "u": { "a": "$where" } }], "$db": "shop" }, false),
        (rawdoc! { "delete": "a", "deletes": [{ "q": deep, "limit": 0 }], "$db": "shop" }, true),
        (rawdoc! { "explain": { "find": "a", "filter": place() }, "$db": "shop" }, true),
        (rawdoc! { "explain": { "delete": "a", "deletes": [{ "q": place() }] }, "$db": "shop" }, true),
        (rawdoc! { "mapReduce": "a", "out": { "inline": 1 }, "$db": "shop" }, true),
        (rawdoc! { "insert": "a", "documents": [place()], "$db": "shop" }, false),
        (stage(rawdoc! { "$lookup": { "from": "orders", "pipeline": [{ "$match": place() }] } }), true),
        (rawdoc! { "create": "v", "viewOn": "a", "pipeline": [{ "$match": place() }], "$db": "shop" }, true),
    ];
    let reaches_them = |meaning: Result<crate::command::Meaning<'_>, Unclear>| {
        let reach = text(&Ok(meaning.unwrap()));
        reach.split(", ").any(|reach| reach == "Read shop.system.js [itself]")
    };
    for (body, expected) in &cases {
        assert_eq!(reaches_them(read_stored(body, &[])), *expected, "{body:?}");
        assert_eq!(reaches_them(read_with(body, &[], true)), *expected, "{body:?}");
    }
    for (command, identifier) in [("update", "updates"), ("delete", "deletes")] {
        let mut body = RawDocumentBuf::new();
        body.append(CString::try_from(command).unwrap(), "a");
        body.append(CString::try_from("$db").unwrap(), "shop");
        for (filter, expected) in [(rawdoc! {}, false), (place(), true)] {
            let documents = concatenated(&[rawdoc! { "q": {} }, rawdoc! { "q": filter }]);
            let sequences = [Sequence { identifier: identifier.as_bytes(), documents: &documents }];
            assert_eq!(reaches_them(read_stored(&body, &sequences)), expected);
        }
    }
}

#[test]
fn a_statement_of_a_bulk_write_reaches_the_stored_functions_of_its_own_database() {
    let body = rawdoc! { "bulkWrite": 1, "$db": "admin" };
    let ops = concatenated(&[
        rawdoc! { "insert": 2, "document": { "$where": "x" } },
        rawdoc! { "delete": 0, "filter": { "a": 1 } },
        rawdoc! { "update": 1, "filter": { "$where": "x" }, "updateMods": {} },
        rawdoc! { "delete": 1, "filter": { "$where": "x" } },
    ]);
    let namespaces = concatenated(&[rawdoc! { "ns": "a.x" }, rawdoc! { "ns": "b.x" }, rawdoc! { "ns": "c.x" }]);
    let sequences =
        [Sequence { identifier: b"ops", documents: &ops }, Sequence { identifier: b"nsInfo", documents: &namespaces }];
    assert_eq!(
        text(&read_stored(&body, &sequences)),
        "Write a.x, Write b.x, Write c.x, Read a.x, Read b.x, Read b.system.js [itself]"
    );
}

#[test]
fn a_command_that_shows_by_errors_what_documents_have_reads_them() {
    check(&[
        (
            rawdoc! { "createIndexes": "a", "indexes": [{ "key": { "x": "2dsphere" }, "name": "x" }], "$db": "shop" },
            "Ddl shop.a, Read shop.a",
        ),
        (rawdoc! { "reIndex": "a", "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        (rawdoc! { "collMod": "a", "validator": {}, "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        (
            rawdoc! { "collMod": "a", "index": { "name": "x", "unique": true }, "$db": "shop" },
            "Ddl shop.a, Read shop.a",
        ),
        (rawdoc! { "create": "a", "validator": { "x": 1 }, "$db": "shop" }, "Ddl shop.a, Read shop.a"),
        // The half of the definition that is not changed can name any collection.
        (rawdoc! { "collMod": "v", "pipeline": [], "$db": "shop" }, "Ddl shop.v, Read shop.v, Read shop.*"),
        (
            rawdoc! { "collMod": "v", "viewOn": "orders", "$db": "shop" },
            "Ddl shop.v, Read shop.v, Read shop.orders, Read shop.*",
        ),
        (rawdoc! { "create": "a", "$db": "shop" }, "Ddl shop.a"),
        (rawdoc! { "dropIndexes": "a", "index": "*", "$db": "shop" }, "Ddl shop.a"),
        (rawdoc! { "insert": "a", "documents": [{}], "$db": "shop" }, "Write shop.a"),
        (rawdoc! { "analyzeShardKey": "vault.a", "key": { "x": 1 }, "$db": "admin" }, "Admin vault.a, ~Read vault.a"),
        (rawdoc! { "split": "vault.a", "find": {}, "$db": "admin" }, "Cluster vault.a, ~Read vault.a"),
        (rawdoc! { "planCacheClear": "a", "$db": "shop" }, "Admin shop.a"),
    ]);
}

#[test]
fn a_document_in_system_views_is_a_view_of_anything() {
    const ANY: &str = "Write shop.system.views [shop.*], Ddl shop.*, Read shop.*";
    let read_too = format!("{ANY}, Read shop.system.views [shop.*]");
    let bulk = |operation: RawDocumentBuf| {
        rawdoc! { "bulkWrite": 1, "ops": [operation], "nsInfo": [{ "ns": "shop.system.views" }], "$db": "admin" }
    };
    check(&[
        (rawdoc! { "insert": "system.views", "documents": [], "$db": "shop" }, ANY),
        (rawdoc! { "update": "system.views", "updates": [{ "q": {}, "u": {} }], "$db": "shop" }, &read_too),
        (rawdoc! { "delete": "system.views", "deletes": [], "$db": "shop" }, &read_too),
        (rawdoc! { "findAndModify": "system.views", "update": {}, "$db": "shop" }, &read_too),
        (bulk(rawdoc! { "insert": 0, "document": {} }), ANY),
        (stage(rawdoc! { "$out": "system.views" }), &format!("Read shop.orders, {ANY}")),
        (stage(rawdoc! { "$merge": "system.views" }), &format!("Read shop.orders, {read_too}")),
        (
            rawdoc! { "mapReduce": "orders", "out": "system.views", "$db": "shop" },
            &format!("Read shop.orders, {ANY}, Read shop.system.js [itself]"),
        ),
        (
            rawdoc! { "renameCollection": "shop.a", "to": "shop.system.views", "$db": "admin" },
            &format!("Ddl shop.a, Read shop.a, Ddl shop.system.views [shop.*], {ANY}"),
        ),
        (
            rawdoc! { "cloneCollectionAsCapped": "a", "toCollection": "system.views", "$db": "shop" },
            &format!("Read shop.a, Ddl shop.system.views [shop.*], {ANY}"),
        ),
        (
            rawdoc! { "insert": "system.buckets.system.views", "$db": "shop" },
            &format!("Write shop.system.buckets.system.views, {ANY}"),
        ),
        (rawdoc! { "insert": "system.views", "$db": "admin" }, "Write admin.system.views [*], Ddl *, Read *"),
        (rawdoc! { "find": "system.views", "$db": "shop" }, "Read shop.system.views [shop.*]"),
    ]);
}

#[test]
fn what_clients_cannot_work_without_is_essential_and_nothing_else() {
    let id = || rawdoc! { "id": uuid() };
    let cases = [
        (rawdoc! { "hello": 1, "$db": "admin" }, true),
        (rawdoc! { "whatsmyuri": 1, "$db": "admin" }, true),
        (rawdoc! { "listCommands": 1, "$db": "admin" }, true),
        (rawdoc! { "atlasVersion": 1, "$db": "admin" }, true),
        (rawdoc! { "connectionStatus": 1, "showPrivileges": true, "$db": "admin" }, true),
        (rawdoc! { "saslStart": 1, "$db": "admin" }, true),
        (rawdoc! { "commitTransaction": 1, "lsid": id(), "txnNumber": 1_i64, "$db": "admin" }, true),
        (rawdoc! { "abortTransaction": 1, "lsid": id(), "txnNumber": 1_i64, "$db": "admin" }, true),
        (rawdoc! { "endSessions": [id()], "$db": "admin" }, true),
        (rawdoc! { "refreshSessions": [id()], "$db": "admin" }, true),
        (rawdoc! { "killSessions": [id(), id()], "$db": "admin" }, true),
        (rawdoc! { "killSessions": [], "$db": "admin" }, false),
        (rawdoc! { "killSessions": [{ "user": "u", "db": "d" }], "$db": "admin" }, false),
        (rawdoc! { "killAllSessions": [], "$db": "admin" }, false),
        (rawdoc! { "startSession": 1, "$db": "admin" }, false),
        (rawdoc! { "getLog": "startupWarnings", "$db": "admin" }, true),
        (rawdoc! { "getLog": symbol("startupWarnings"), "$db": "admin" }, false),
        (rawdoc! { "getLog": "global", "$db": "admin" }, false),
        (rawdoc! { "getLog": "*", "$db": "admin" }, false),
        (rawdoc! { "hostInfo": 1, "lsid": id(), "$db": "admin" }, true),
        (rawdoc! { "hostInfo": 1, "details": true, "$db": "admin" }, false),
        (rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1, "$db": "admin" }, true),
        (rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1, "logLevel": 1, "$db": "admin" }, false),
        (rawdoc! { "getParameter": "*", "featureCompatibilityVersion": 1, "$db": "admin" }, false),
        (rawdoc! { "getParameter": { "allParameters": true }, "$db": "admin" }, false),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.bulkWrite", "$db": "admin" }, true),
        (rawdoc! { "killCursors": "$cmd.bulkWrite", "cursors": [5_i64], "$db": "admin" }, true),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.bulkWrite", "$db": "shop" }, false),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.aggregate", "$db": "admin" }, false),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.listCollections", "$db": "shop" }, true),
        (rawdoc! { "find": "orders", "$db": "shop" }, false),
        (rawdoc! { "serverStatus": 1, "$db": "admin" }, false),
    ];
    for (body, expected) in &cases {
        assert_eq!(read_body(body).unwrap().essential, *expected, "{body:?}");
    }
}

#[test]
fn a_list_can_be_filtered_unless_its_arguments_tell_of_more_than_its_reply_shows() {
    let list = |arguments: RawDocumentBuf| {
        let mut body = bson::doc! { "listCollections": 1 };
        body.extend(bson::Document::try_from(arguments.as_ref()).unwrap());
        body.insert("$db", "shop");
        RawDocumentBuf::try_from(&body).unwrap()
    };
    let by = |filter: RawDocumentBuf| list(rawdoc! { "filter": filter });
    let regex = |pattern: &str| bson::Regex { pattern: pattern.try_into().unwrap(), options: "".try_into().unwrap() };
    let (collections, databases) = (Some(Listing::Collections), Some(Listing::Databases));
    let cases = [
        (list(rawdoc! {}), collections),
        (list(rawdoc! { "nameOnly": true, "authorizedCollections": true, "cursor": { "batchSize": 2 } }), collections),
        (by(rawdoc! { "name": { "$not": { "$regex": "^a" } }, "$or": [{ "type": "view" }] }), collections),
        (by(rawdoc! { "$expr": true }), None),
        (by(rawdoc! { "options.viewOn": "a" }), None),
        (by(rawdoc! { "$nor": [{ "name": "a" }, { "$expr": true }] }), None),
        (list(rawdoc! { "filter": { "name": "a" }, "cursor": { "batchSize": 2 } }), None),
        (list(rawdoc! { "filter": { "name": "a" }, "cursor": 2 }), None),
        (list(rawdoc! { "filter": "a" }), None),
        // The time of a costly filter would tell which hidden names it is evaluated for.
        (by(rawdoc! { "name": { "$regex": "^(?!system\\.)" } }), collections),
        (by(rawdoc! { "name": { "$in": ["a", regex("^b.*c$")] } }), collections),
        (by(rawdoc! { "name": { "$regex": "^(?=a)(b+)+c" } }), None),
        (by(rawdoc! { "name": regex("(a|b)*(c|d)*e") }), None),
        (by(rawdoc! { "$or": [{ "name": { "$in": ["a", regex("a{9}b{9}")] } }] }), None),
        (by(rawdoc! { "name": { "$not": regex("a+b+") } }), None),
        (by(rawdoc! { "name": { "$in": ["a".repeat(2000)] } }), None),
        (rawdoc! { "listDatabases": 1, "filter": { "name": "a", "empty": true }, "$db": "admin" }, databases),
        (rawdoc! { "listDatabases": 1, "filter": { "$expr": true }, "$db": "admin" }, None),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.listCollections", "$db": "shop" }, collections),
        (rawdoc! { "getMore": 5_i64, "collection": "$cmd.aggregate", "$db": "shop" }, None),
        (rawdoc! { "killCursors": "$cmd.listCollections", "cursors": [5_i64], "$db": "shop" }, None),
        (rawdoc! { "listIndexes": "orders", "$db": "shop" }, None),
    ];
    for (body, expected) in &cases {
        assert_eq!(read_body(body).unwrap().listing, *expected, "{body:?}");
    }
}

#[test]
fn a_stage_with_a_key_that_it_is_not_known_to_have_is_refused() {
    let empty = || RawBson::Document(rawdoc! {});
    let internal = ["mongotQuery", "mergingPipeline", "metadataMergeProtocolVersion", "requiresSearchMetaCursor"];
    let internal = internal.into_iter().chain(["protocolVersion", "limit", "sortSpec", "requiresSearchSequenceToken"]);
    for key in internal.chain(["docsRequested", "view", "ofTheFuture"]) {
        for name in ["$search", "$searchMeta", "$searchBeta", "$sample", "$collStats", "$currentOp", "$listSessions"] {
            check(&[(stage(stage_document(name, &[(key, empty())])), &format!("Stage({name:?})"))]);
        }
        if key != "limit" {
            check(&[(stage(stage_document("$vectorSearch", &[(key, empty())])), "Stage(\"$vectorSearch\")")]);
        }
    }
    let refused = [
        ("$group", "$doingMerge"),
        ("$sort", "$_internalLimit"),
        ("$project", "$_internalX"),
        ("$geoNear", "$_x"),
        ("$rankFusion", "view"),
        ("$score", "view"),
        ("$limit", "a"),
    ];
    for (name, key) in refused {
        check(&[(stage(stage_document(name, &[(key, empty())])), &format!("Stage({name:?})"))]);
    }
    let shop = "Read shop.orders";
    check(&[
        (
            stage(rawdoc! { "$search": { "index": "i", "compound": { "must": [] }, "count": { "type": "total" } } }),
            shop,
        ),
        (stage(rawdoc! { "$searchBeta": { "text": { "query": "x", "path": "y" }, "highlight": {} } }), shop),
        (stage(rawdoc! { "$searchMeta": { "facet": { "facets": {} } } }), shop),
        (stage(rawdoc! { "$vectorSearch": { "index": "i", "path": "p", "queryVector": [], "limit": 5 } }), shop),
        (stage(rawdoc! { "$score": { "score": "$x", "weight": 1, "scoreDetails": true } }), shop),
        (stage(rawdoc! { "$fill": { "sortBy": { "a": 1 }, "output": { "b": { "method": "locf" } } } }), shop),
        (stage(rawdoc! { "$group": { "_id": "$a", "n": { "$sum": 1 } } }), shop),
        (stage(rawdoc! { "$project": { "_internal": 1 } }), shop),
        (stage(rawdoc! { "$unwind": "$a" }), shop),
        (
            stage(rawdoc! { "$rankFusion": { "input": { "pipelines": {
                "a": [{ "$vectorSearch": { "index": "i" } }], "b": [{ "$unionWith": "secret" }],
            } }, "combination": { "weights": {} }, "scoreDetails": true } }),
            "Read shop.orders, Read shop.secret",
        ),
        (
            stage(rawdoc! { "$scoreFusion": { "input": { "pipelines": { "a": [{ "$lookup": {
                "from": "secret",
            } }] }, "normalization": "none" } } }),
            "Read shop.orders, Read shop.secret",
        ),
        (stage(rawdoc! { "$rankFusion": { "input": { "pipelines": [] } } }), r#"Stage("$facet")"#),
        (stage(rawdoc! { "$rankFusion": { "input": { "pipelines": { "a": {} } } } }), "Pipeline"),
        (stage(rawdoc! { "$rankFusion": {} }), r#"Stage("$rankFusion")"#),
    ]);
}

#[test]
fn arguments_of_newer_servers_pass_or_are_for_servers() {
    for argument in ["versionContext", "isHybridSearch", "originalQueryShapeHash", "translatedForViewlessTimeseries"]
        .into_iter()
        .chain(["sampleId", "includeQueryStatsMetrics", "querySettings", "startOrContinueTransaction"])
    {
        check(&[(find_with(argument, rawdoc! {}), &format!("InternalArgument({argument:?})"))]);
    }
    for argument in ["rawData", "clientOperationKey", "stmtId", "allowPartialResults", "bypassEmptyTsReplacement"] {
        check(&[(find_with(argument, true), "Read shop.orders")]);
    }
    for argument in ["$gossip", "$configTime", "$topologyTime", "$_requestResumeToken", "$_startAt"] {
        check(&[(find_with(argument, rawdoc! {}), "UnknownDollarArgument")]);
    }
}

#[test]
fn commands_of_newer_servers_and_of_mongos_reach_what_they_name() {
    check(&[
        (rawdoc! { "setQuerySettings": "hash", "settings": {}, "$db": "admin" }, "Admin *, ~Read *"),
        (rawdoc! { "configureQueryAnalyzer": "vault.a", "$db": "admin" }, "Admin vault.a, ~Read vault.a"),
        (rawdoc! { "checkMetadataConsistency": 1, "$db": "admin" }, "Admin *, ~Read *"),
        (rawdoc! { "checkMetadataConsistency": 1, "$db": "shop" }, "Admin shop.*, ~Read shop.*"),
        (rawdoc! { "checkMetadataConsistency": "a", "$db": "shop" }, "Admin shop.a, ~Read shop.a"),
        (rawdoc! { "cleanupStructuredEncryptionData": "a", "$db": "shop" }, "Ddl shop.a, Ddl shop.*"),
        (rawdoc! { "moveCollection": "vault.a", "toShard": "s", "$db": "admin" }, "Cluster vault.a, ~Read vault.a"),
        (rawdoc! { "reshardCollection": "vault.a", "$db": "admin" }, "Cluster vault.a, ~Read vault.a"),
        (rawdoc! { "movePrimary": "vault", "to": "s", "$db": "admin" }, "Cluster vault"),
        (rawdoc! { "addShard": "rs/evil:1", "$db": "admin" }, "Cluster *, ~Read *"),
        (rawdoc! { "replSetReconfig": {}, "$db": "admin" }, "Cluster *, ~Read *"),
        (rawdoc! { "listShards": 1, "$db": "admin" }, "Cluster admin"),
        (rawdoc! { "isdbgrid": 1, "$db": "admin" }, "Handshake admin"),
        (rawdoc! { "autoCompact": true, "$db": "admin" }, "Admin admin"),
        (rawdoc! { "configureFailPoint": "x", "mode": "off", "$db": "admin" }, "Admin *, ~Read *"),
        (rawdoc! { "godinsert": "a", "$db": "shop" }, "Admin *, ~Read *"),
        (rawdoc! { "_hashBSONElement": 1, "$db": "shop" }, "Admin *, ~Read *"),
        (rawdoc! { "replicateSearchIndexCommand": 1, "$db": "admin" }, r#"Internal("")"#),
    ]);
}

#[test]
fn a_name_that_the_operator_calls_known_reaches_the_whole_server() {
    let mut known = KnownNames::default();
    known.insert("newThing", Class::Ddl);
    known.insert("$newStage", Class::Read);
    let options = ReadOptions { known: Some(&known), ..ReadOptions::default() };
    let check = |body: RawDocumentBuf, expected: &str| {
        assert_eq!(text(&read(&Request { body: &body, database: None, sequences: &[] }, options)), expected);
    };
    check(rawdoc! { "newThing": "orders", "x": 1, "$db": "shop" }, "Ddl *, ~Read *");
    check(rawdoc! { "newthing": "orders", "$db": "shop" }, "UnknownCommand");
    check(rawdoc! { "other": 1, "$db": "shop" }, "UnknownCommand");
    check(rawdoc! { "$newStage": 1, "$db": "shop" }, "Read *");
    check(rawdoc! { "newThing": 1, "fromMongos": true, "$db": "shop" }, r#"InternalArgument("fromMongos")"#);
    check(rawdoc! { "explain": { "newThing": 1 }, "$db": "shop" }, "UnknownCommand");
    check(stage(rawdoc! { "$newStage": { "x": 1 } }), "Read shop.orders, Read *");
    check(
        stage(rawdoc! { "$unionWith": { "coll": "a", "pipeline": [{ "$newStage": 1 }] } }),
        "Read shop.orders, Read shop.a, Read *",
    );
    check(stage(rawdoc! { "$otherStage": 1 }), "UnknownStage");
}

#[test]
fn the_name_of_what_is_unknown_can_be_shown() {
    let check = |body: RawDocumentBuf, expected: Option<&str>| {
        assert_eq!(unknown_name(&Request { body: &body, database: None, sequences: &[] }), expected, "{body:?}");
    };
    check(rawdoc! { "newThing": 1, "$db": "shop" }, Some("newThing"));
    check(rawdoc! { "new thing": 1, "$db": "shop" }, None);
    check(rawdoc! { "\u{1b}[31m": 1, "$db": "shop" }, None);
    check(rawdoc! { "explain": { "newThing": 1 }, "$db": "shop" }, Some("newThing"));
    check(stage(rawdoc! { "$newStage": 1 }), Some("$newStage"));
    check(stage(rawdoc! { "$facet": { "a": [{ "$_internalX": 1 }] } }), Some("$_internalX"));
    check(rawdoc! { "explain": { "aggregate": "a", "pipeline": [{ "$new": 1 }] }, "$db": "shop" }, Some("$new"));
    check(rawdoc! { "find": "a", "$db": "shop" }, None);
    check(stage(rawdoc! { "$lookup": 1 }), None);
}
