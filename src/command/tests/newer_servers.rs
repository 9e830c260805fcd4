//! What MongoDB 6.1 to 8.3 and mongos added to the commands, arguments and stages of MongoDB 6.0: one row for each.
//!
//! What a driver or a user sends is understood. What only servers send is refused. What the gateway does not know is
//! refused until the operator names it.

use bson::raw::CString;
use bson::spec::BinarySubtype;
use bson::{Binary, RawArrayBuf, RawBson, RawDocumentBuf, rawdoc};

use super::{read_body, text};

const ORDERS: &str = "Read shop.orders";
const WRITTEN: &str = "Write shop.orders";
const CREATED: &str = "Ddl shop.orders";
const SERVER: &str = "Read admin, Admin *, ~Read *";

#[track_caller]
fn check(rows: Vec<(&str, RawDocumentBuf, &str)>) {
    let wrong: Vec<String> = rows
        .into_iter()
        .map(|(what, body, expected)| (what, text(&read_body(&body)), expected))
        .filter(|(_, found, expected)| found != expected)
        .map(|(what, found, expected)| format!("{what}\n  found    {found}\n  expected {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn put(mut body: RawDocumentBuf, argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    body.append(CString::try_from(argument).unwrap(), value.into());
    body
}

fn find(argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(rawdoc! { "find": "orders", "$db": "shop" }, argument, value)
}

fn insert(argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(rawdoc! { "insert": "orders", "documents": [{ "n": 1 }], "$db": "shop" }, argument, value)
}

fn aggregate(argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(rawdoc! { "aggregate": "orders", "pipeline": [], "cursor": {}, "$db": "shop" }, argument, value)
}

fn create(argument: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(rawdoc! { "create": "orders", "$db": "shop" }, argument, value)
}

fn bulk_write() -> RawDocumentBuf {
    let operation = rawdoc! { "insert": 0, "document": {} };
    rawdoc! { "bulkWrite": 1, "ops": [operation], "nsInfo": [{ "ns": "shop.orders" }], "$db": "admin" }
}

fn pipeline(stage: &str, spec: impl Into<RawBson>) -> RawArrayBuf {
    let mut stages = RawArrayBuf::new();
    stages.push(put(RawDocumentBuf::new(), stage, spec));
    stages
}

/// One stage on `shop.orders`.
fn stage(name: &str, spec: impl Into<RawBson>) -> RawDocumentBuf {
    rawdoc! { "aggregate": "orders", "pipeline": pipeline(name, spec), "cursor": {}, "$db": "shop" }
}

/// One stage on a database.
fn stage_on(database: &str, name: &str, spec: impl Into<RawBson>) -> RawDocumentBuf {
    rawdoc! { "aggregate": 1, "pipeline": pipeline(name, spec), "cursor": {}, "$db": database }
}

fn change_stream(option: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    stage("$changeStream", put(RawDocumentBuf::new(), option, value))
}

fn explain(command: RawDocumentBuf) -> RawDocumentBuf {
    rawdoc! { "explain": command, "$db": "shop" }
}

/// A command that only a mongos has, on `admin`.
fn on_admin(command: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(put(RawDocumentBuf::new(), command, value), "$db", "admin")
}

fn on_shop(command: &str, value: impl Into<RawBson>) -> RawDocumentBuf {
    put(put(RawDocumentBuf::new(), command, value), "$db", "shop")
}

fn session_id() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }
}

#[test]
fn writes_of_several_collections_and_their_cursors() {
    let more = put(put(bulk_write(), "lsid", rawdoc! { "id": session_id() }), "txnNumber", 1_i64);
    let more = put(put(put(more, "let", rawdoc! {}), "bypassDocumentValidation", true), "rawData", true);
    let with_info = |key: &str| {
        let info = put(rawdoc! { "ns": "shop.orders" }, key, true);
        rawdoc! { "bulkWrite": 1, "ops": [], "nsInfo": [info], "$db": "admin" }
    };
    let sorted = rawdoc! { "q": {}, "u": { "$set": { "a": 1 } }, "sort": { "a": 1 } };
    check(vec![
        ("bulkWrite", bulk_write(), WRITTEN),
        ("bulkWrite with a transaction, let and rawData", more, WRITTEN),
        ("nsInfo isTimeseriesNamespace", with_info("isTimeseriesNamespace"), r#"Argument("nsInfo")"#),
        ("nsInfo encryptionInformation", with_info("encryptionInformation"), r#"Argument("nsInfo")"#),
        ("getMore", rawdoc! { "getMore": 5_i64, "collection": "$cmd.bulkWrite", "$db": "admin" }, "Read admin"),
        ("killCursors", rawdoc! { "killCursors": "$cmd.bulkWrite", "cursors": [5_i64], "$db": "admin" }, "Read admin"),
        ("explain bulkWrite", rawdoc! { "explain": bulk_write(), "$db": "admin" }, WRITTEN),
        (
            "update with sort",
            rawdoc! { "update": "orders", "updates": [sorted], "$db": "shop" },
            "Write shop.orders, Read shop.orders",
        ),
    ]);
}

#[test]
fn arguments_that_users_and_drivers_send() {
    check(vec![
        ("find rawData", find("rawData", true), ORDERS),
        ("aggregate rawData", aggregate("rawData", true), ORDERS),
        ("insert rawData", insert("rawData", true), WRITTEN),
        ("listIndexes rawData", rawdoc! { "listIndexes": "orders", "rawData": true, "$db": "shop" }, ORDERS),
        ("clientOperationKey", find("clientOperationKey", 1), ORDERS),
        ("stmtId", insert("stmtId", 1), WRITTEN),
        ("$readPreference", find("$readPreference", rawdoc! { "mode": "nearest" }), ORDERS),
        ("$clusterTime", find("$clusterTime", rawdoc! {}), ORDERS),
        ("create timeseries", create("timeseries", rawdoc! { "timeField": "t", "metaField": "m" }), CREATED),
        ("create clusteredIndex", create("clusteredIndex", rawdoc! { "key": { "_id": 1 }, "unique": true }), CREATED),
        (
            "create encryptedFields",
            create("encryptedFields", rawdoc! { "escCollection": "enxcol_.orders.esc", "fields": [] }),
            "Ddl shop.orders, Ddl shop.enxcol_.orders.esc",
        ),
        ("create recordIdsReplicated", create("recordIdsReplicated", true), CREATED),
        (
            "collMod dryRun, prepareUnique",
            rawdoc! { "collMod": "orders", "index": { "prepareUnique": true }, "dryRun": true, "$db": "shop" },
            "Ddl shop.orders, Read shop.orders",
        ),
        (
            "collMod timeseriesBucketsMayHaveMixedSchemaData",
            rawdoc! { "collMod": "orders", "timeseriesBucketsMayHaveMixedSchemaData": true, "$db": "shop" },
            "Ddl shop.orders, Read shop.orders",
        ),
        ("validate", rawdoc! { "validate": "orders", "checkBSONConformance": true, "$db": "shop" }, ORDERS),
        (
            "validate collHash",
            rawdoc! { "validate": "orders", "collHash": true, "hashPrefixes": [], "$db": "shop" },
            ORDERS,
        ),
        (
            "validate repair",
            rawdoc! { "validate": "orders", "repair": true, "$db": "shop" },
            "Ddl shop.orders, Read shop.orders",
        ),
        ("compact dryRun", rawdoc! { "compact": "orders", "dryRun": true, "$db": "shop" }, CREATED),
        (
            "dbCheck validateMode",
            rawdoc! { "dbCheck": "orders", "validateMode": "extraIndexKeysCheck", "$db": "shop" },
            "Admin shop.orders, ~Read shop.orders",
        ),
        ("fsync lock on a mongos", rawdoc! { "fsync": 1, "lock": true, "$db": "admin" }, "Admin admin"),
        ("getClusterParameter", on_admin("getClusterParameter", "changeStreamOptions"), "AdminRead admin"),
    ]);
}

#[test]
fn arguments_that_only_servers_send() {
    let internal = |name: &str| format!("InternalArgument({name:?})");
    for name in [
        "collectionUUID",
        "encryptionInformation",
        "ifrFlags",
        "includeQueryStatsMetrics",
        "isHybridSearch",
        "isTimeseriesNamespace",
        "mayBypassWriteBlocking",
        "maxTimeMSOpOnly",
        "originalQueryShapeHash",
        "querySettings",
        "sampleId",
        "startOrContinueTransaction",
        "translatedForViewlessTimeseries",
        "txnRetryCounter",
        "versionContext",
    ] {
        check(vec![
            (name, find(name, rawdoc! {}), &internal(name)),
            (name, insert(name, 1), &internal(name)),
            (name, aggregate(name, true), &internal(name)),
            (name, put(bulk_write(), name, true), &internal(name)),
            (name, explain(put(rawdoc! { "find": "orders" }, name, true)), &internal(name)),
            (name, put(on_admin("ping", 1), name, true), &internal(name)),
        ]);
    }
    for name in [
        "$_externalDataSources",
        "$_isClusterQueryWithoutShardKeyCmd",
        "$_isHybridSearch",
        "$_passthroughToShard",
        "$_requestReshardingResumeToken",
        "$_requestResumeToken",
        "$_resumeAfter",
        "$_startAt",
        "$_translatedForViewlessTimeseries",
        "$audit",
        "$client",
        "$configTime",
        "$gossip",
        "$topologyTime",
    ] {
        check(vec![
            (name, find(name, rawdoc! {}), "UnknownDollarArgument"),
            (name, aggregate(name, rawdoc! {}), "UnknownDollarArgument"),
        ]);
    }
}

#[test]
fn stages_of_search() {
    let in_lookup =
        rawdoc! { "from": "carts", "pipeline": pipeline("$vectorSearch", rawdoc! { "index": "i" }), "as": "x" };
    let in_union = rawdoc! { "coll": "carts", "pipeline": pipeline("$vectorSearch", rawdoc! { "index": "i" }) };
    let pipelines = rawdoc! {
        "a": pipeline("$vectorSearch", rawdoc! { "index": "i" }),
        "b": pipeline("$lookup", rawdoc! { "from": "carts", "as": "x" }),
    };
    let everything = rawdoc! {
        "index": "i", "text": { "query": "x", "path": "y" }, "highlight": {}, "concurrent": true, "count": {},
        "searchAfter": "x", "scoreDetails": true, "sort": {}, "returnScope": {}, "returnStoredSource": true,
        "tracking": {}, "searchNodePreference": { "key": "k" },
    };
    let vectors = rawdoc! {
        "index": "i", "path": "p", "queryVector": [], "numCandidates": 5, "limit": 5, "filter": {}, "exact": false,
        "explainOptions": {}, "returnStoredSource": true, "searchNodePreference": { "key": "k" }, "nestedOptions": {},
        "parentFilter": {},
    };
    let both = "Read shop.orders, Read shop.carts";
    let fused = |normalization: &str, combination: RawDocumentBuf| {
        let mut input = rawdoc! { "pipelines": pipelines.clone() };
        if !normalization.is_empty() {
            input = put(input, "normalization", normalization);
        }
        rawdoc! { "input": input, "combination": combination, "scoreDetails": true }
    };
    let weights = || rawdoc! { "weights": { "a": 1 } };
    check(vec![
        ("$search", stage("$search", everything.clone()), ORDERS),
        ("$searchBeta", stage("$searchBeta", everything), ORDERS),
        ("$searchMeta", stage("$searchMeta", rawdoc! { "facet": {}, "searchNodePreference": {} }), ORDERS),
        ("$vectorSearch", stage("$vectorSearch", vectors), ORDERS),
        ("$vectorSearch in $lookup", stage("$lookup", in_lookup), both),
        ("$vectorSearch in $unionWith", stage("$unionWith", in_union), both),
        ("$rankFusion", stage("$rankFusion", fused("", weights())), both),
        (
            "$scoreFusion",
            stage("$scoreFusion", fused("sigmoid", rawdoc! { "method": "expression", "expression": 1 })),
            both,
        ),
        ("$score", stage("$score", rawdoc! { "score": "$x", "normalization": "none", "weight": 0.5 }), ORDERS),
        ("$score of 8.2.0", stage("$score", rawdoc! { "score": "$x", "normalizeFunction": "none" }), ORDERS),
        ("$listSearchIndexes", stage("$listSearchIndexes", rawdoc! { "name": "i" }), ORDERS),
        ("createSearchIndexes", rawdoc! { "createSearchIndexes": "orders", "indexes": [], "$db": "shop" }, CREATED),
        ("updateSearchIndex", rawdoc! { "updateSearchIndex": "orders", "name": "i", "$db": "shop" }, CREATED),
        ("dropSearchIndex", rawdoc! { "dropSearchIndex": "orders", "name": "i", "$db": "shop" }, CREATED),
        ("listSearchIndexes", rawdoc! { "listSearchIndexes": "orders", "$db": "shop" }, ORDERS),
        ("replicateSearchIndexCommand", on_admin("replicateSearchIndexCommand", 1), r#"Internal("")"#),
        ("$setMetadata", stage("$setMetadata", rawdoc! { "score": 1 }), "InternalStage"),
        ("$rerank", stage("$rerank", rawdoc! {}), "UnknownStage"),
    ]);
}

#[test]
fn stages_that_show_the_server_or_other_places() {
    let internal = ["$_internalListCollections", "$_internalAllCollectionStats", "$backupCursor", "$listCatalog"];
    for name in internal {
        check(vec![(name, stage_on("admin", name, rawdoc! {}), "InternalStage")]);
    }
    for name in ["$listMqlEntities", "$listExtensions", "$listQueryKnobs"] {
        check(vec![(name, stage_on("admin", name, rawdoc! {}), "UnknownStage")]);
    }
    let own_target = rawdoc! { "db": "vault", "coll": "x" };
    let targets_version = rawdoc! { "into": "x", "targetCollectionVersion": {} };
    let as_series = rawdoc! { "db": "shop", "coll": "orders", "timeseries": { "timeField": "t" } };
    check(vec![
        ("$querySettings", stage_on("admin", "$querySettings", rawdoc! { "showDebugQueryShape": true }), SERVER),
        ("$queryStats", stage_on("admin", "$queryStats", rawdoc! { "transformIdentifiers": {} }), SERVER),
        ("$listSampledQueries", stage_on("admin", "$listSampledQueries", rawdoc! { "namespace": "a.b" }), SERVER),
        ("$shardedDataDistribution", stage_on("admin", "$shardedDataDistribution", rawdoc! {}), SERVER),
        ("$currentOp", stage_on("admin", "$currentOp", rawdoc! { "targetAllNodes": true }), SERVER),
        ("$listLocalSessions", stage_on("shop", "$listLocalSessions", rawdoc! {}), "Read shop, Admin *, ~Read *"),
        (
            "$listClusterCatalog",
            stage_on("shop", "$listClusterCatalog", rawdoc! { "tracked": true }),
            "Read shop, Read shop.*",
        ),
        ("$documents", stage_on("shop", "$documents", RawArrayBuf::new()), "Read shop"),
        ("$planCacheStats", stage("$planCacheStats", rawdoc! { "allHosts": true }), ORDERS),
        ("$collStats", stage("$collStats", rawdoc! { "targetAllNodes": true, "operationStats": {} }), ORDERS),
        (
            "$collStats of a router",
            stage("$collStats", rawdoc! { "$_requestOnTimeseriesView": true }),
            r#"Stage("$collStats")"#,
        ),
        ("$fill", stage("$fill", rawdoc! { "sortBy": {}, "partitionByFields": [], "output": {} }), ORDERS),
        ("$densify", stage("$densify", rawdoc! { "field": "t", "partitionByFields": [], "range": {} }), ORDERS),
        (
            "$merge",
            stage("$merge", rawdoc! { "into": own_target, "on": "_id", "whenMatched": "replace" }),
            "Read shop.orders, Write vault.x",
        ),
        ("$merge targetCollectionVersion", stage("$merge", targets_version), r#"Stage("$merge")"#),
        ("$out", stage("$out", as_series), "Read shop.orders, Write shop.orders"),
        (
            "$lookup $_internalIsHybridSearch",
            stage("$lookup", rawdoc! { "from": "carts", "as": "x", "$_internalIsHybridSearch": true }),
            r#"Stage("$lookup")"#,
        ),
        (
            "$graphLookup $_internalFromPipeline",
            stage("$graphLookup", rawdoc! { "from": "carts", "$_internalFromPipeline": [{ "$unionWith": "secret" }] }),
            r#"Stage("$graphLookup")"#,
        ),
        ("$unionWith db", stage("$unionWith", rawdoc! { "db": "vault", "coll": "x" }), r#"Stage("$unionWith")"#),
    ]);
}

#[test]
fn options_of_change_streams() {
    let refused = r#"Stage("$changeStream")"#;
    check(vec![
        ("matchCollectionUUIDForUpdateLookup", change_stream("matchCollectionUUIDForUpdateLookup", true), ORDERS),
        ("version", change_stream("version", "v2"), ORDERS),
        ("ignoreRemovedShards", change_stream("ignoreRemovedShards", true), ORDERS),
        ("showExpandedEvents", change_stream("showExpandedEvents", true), ORDERS),
        ("fullDocumentBeforeChange", change_stream("fullDocumentBeforeChange", "required"), ORDERS),
        ("$changeStreamSplitLargeEvent", stage("$changeStreamSplitLargeEvent", rawdoc! {}), ORDERS),
        // Servers open streams with these: on system collections, and with events of migrations.
        ("supportedEvents", change_stream("supportedEvents", RawArrayBuf::new()), refused),
        ("showSystemEvents", change_stream("showSystemEvents", true), refused),
        ("showMigrationEvents", change_stream("showMigrationEvents", true), refused),
        ("showRawUpdateDescription", change_stream("showRawUpdateDescription", true), refused),
        ("allowToRunOnConfigDB", change_stream("allowToRunOnConfigDB", true), refused),
        ("allowToRunOnSystemNS", change_stream("allowToRunOnSystemNS", true), refused),
    ]);
}

#[test]
fn commands_that_name_a_collection() {
    for command in [
        "abortMoveCollection",
        "abortReshardCollection",
        "abortRewriteCollection",
        "abortUnshardCollection",
        "balancerCollectionStatus",
        "cleanupReshardCollection",
        "clearJumboFlag",
        "commitReshardCollection",
        "configureCollectionBalancing",
        "mergeAllChunksOnShard",
        "moveChunk",
        "moveCollection",
        "moveRange",
        "refineCollectionShardKey",
        "repairShardedCollectionChunksHistory",
        "reshardCollection",
        "rewriteCollection",
        "setAllowMigrations",
        "shardCollection",
        "split",
        "unshardCollection",
        "untrackUnshardedCollection",
        "updateZoneKeyRange",
    ] {
        check(vec![
            (command, on_admin(command, "vault.x"), "Cluster vault.x, ~Read vault.x"),
            (command, on_admin(command, "vault"), "CollectionName"),
            (command, on_admin(command, 1), "CollectionName"),
        ]);
    }
    check(vec![
        ("analyzeShardKey", on_admin("analyzeShardKey", "vault.x"), "Admin vault.x, ~Read vault.x"),
        ("configureQueryAnalyzer", on_admin("configureQueryAnalyzer", "vault.x"), "Admin vault.x, ~Read vault.x"),
        ("checkMetadataConsistency", on_shop("checkMetadataConsistency", "x"), "Admin shop.x, ~Read shop.x"),
        ("checkMetadataConsistency", on_shop("checkMetadataConsistency", 1), "Admin shop.*, ~Read shop.*"),
        ("checkMetadataConsistency", on_admin("checkMetadataConsistency", 1), "Admin *, ~Read *"),
        ("compactStructuredEncryptionData", on_shop("compactStructuredEncryptionData", "x"), "Ddl shop.x, Ddl shop.*"),
        ("cleanupStructuredEncryptionData", on_shop("cleanupStructuredEncryptionData", "x"), "Ddl shop.x, Ddl shop.*"),
        ("getQueryableEncryptionCountInfo", on_shop("getQueryableEncryptionCountInfo", "x"), r#"Internal("")"#),
        ("changePrimary", on_admin("changePrimary", "vault"), "Cluster vault"),
        ("movePrimary", on_admin("movePrimary", "vault"), "Cluster vault"),
    ]);
}

#[test]
fn commands_for_the_server_or_the_cluster() {
    for command in [
        "addShardToZone",
        "balancerStart",
        "balancerStatus",
        "balancerStop",
        "commitShardRemoval",
        "commitTransitionToDedicatedConfigServer",
        "flushRouterConfig",
        "getShardMap",
        "getTransitionToDedicatedConfigServerStatus",
        "listShards",
        "removeShard",
        "removeShardFromZone",
        "replSetGetStatus",
        "resetPlacementHistory",
        "shardDrainingStatus",
        "startShardDraining",
        "startTransitionToDedicatedConfigServer",
        "stopShardDraining",
        "stopTransitionToDedicatedConfigServer",
        "transitionFromDedicatedConfigServer",
        "transitionToDedicatedConfigServer",
        "upgradeDowngradeViewlessTimeseries",
    ] {
        check(vec![(command, on_admin(command, 1), "Cluster admin")]);
    }
    for command in ["autoCompact", "eseRotateActiveKEK", "oidcRefreshKeys", "releaseMemory", "setChangeStreamState"] {
        check(vec![(command, on_admin(command, 1), "Admin admin")]);
    }
    for command in ["getCmdLineOpts", "oidcListKeys", "serverStatus"] {
        check(vec![(command, on_admin(command, 1), "AdminRead admin")]);
    }
    for command in ["atlasVersion", "connectionStatus", "isdbgrid", "listCommands", "whatsmyuri"] {
        check(vec![(command, on_admin(command, 1), "Handshake admin")]);
        assert!(read_body(&on_admin(command, 1)).unwrap().essential, "{command}");
    }
    check(vec![
        ("addShard", on_admin("addShard", "rs/host:1"), "Cluster *, ~Read *"),
        ("setQuerySettings", on_admin("setQuerySettings", rawdoc! { "find": "x", "$db": "shop" }), "Admin *, ~Read *"),
        ("removeQuerySettings", on_admin("removeQuerySettings", "hash"), "Admin *, ~Read *"),
        ("createUnsplittableCollection", on_shop("createUnsplittableCollection", "x"), "Admin *, ~Read *"),
        ("top", on_admin("top", 1), "AdminRead *, ~Read *"),
        ("getLog", on_admin("getLog", "global"), "AdminRead *, ~Read *"),
        ("listDatabases", put(on_admin("listDatabases", 1), "nameOnly", true), "Read *"),
        ("listCollections", put(on_shop("listCollections", 1), "authorizedCollections", true), "Read shop.*"),
        ("dbStats", on_shop("dbStats", 1), "Read shop"),
        ("profile", on_shop("profile", -1), "Admin shop.*"),
        ("convertToTimeseries", on_shop("convertToTimeseries", "x"), "UnknownCommand"),
        ("explain find", explain(rawdoc! { "find": "orders" }), ORDERS),
        (
            "explain delete",
            explain(rawdoc! { "delete": "orders", "deletes": [] }),
            "Write shop.orders, Read shop.orders",
        ),
        ("explain listIndexes", explain(rawdoc! { "listIndexes": "orders" }), "Explain"),
        ("endSessions", on_admin("endSessions", RawArrayBuf::new()), "Session -"),
        ("startSession", on_admin("startSession", 1), "Session -"),
    ]);
}
