//! Attempts to bypass a policy with pipelines: stages that name collections at any depth, stages that write, and stages
//! that show the server's state.

use bson::{Bson, Document, doc};

use crate::policy_rows::{Row, ServerFacts, denied, denied_read, explain, passes, patched, unusual_read};

/// All rows of this file.
pub fn all(facts: &ServerFacts) -> Vec<Row> {
    [reading(), nested(), malformed(), writing(), change_streams(facts), diagnostic()].into_iter().flatten().collect()
}

fn on(database: &str, target: impl Into<Bson>, stages: impl IntoIterator<Item = Document>) -> Document {
    let stages: Vec<Bson> = stages.into_iter().map(Bson::from).collect();
    doc! { "aggregate": target.into(), "pipeline": stages, "cursor": {}, "$db": database }
}

/// An aggregate on a collection that the caller may read.
fn orders(stage: Document) -> Document {
    on("shop", "orders", [doc! { "$limit": 1 }, stage])
}

fn lookup(from: impl Into<Bson>) -> Document {
    doc! { "$lookup": { "from": from.into(), "pipeline": [], "as": "found" } }
}

fn graph(from: impl Into<Bson>) -> Document {
    doc! { "$graphLookup": {
        "from": from.into(), "startWith": "$_id", "connectFromField": "_id", "connectToField": "_id", "as": "found",
    } }
}

fn union(with: impl Into<Bson>) -> Document {
    doc! { "$unionWith": with.into() }
}

fn oplog() -> Document {
    doc! { "db": "local", "coll": "oplog.rs" }
}

/// Stages that read another collection.
fn reading() -> Vec<Row> {
    let fields = doc! { "$lookup": { "from": "private", "localField": "_id", "foreignField": "_id", "as": "found" } };
    let documents = || doc! { "$documents": [{ "_id": 1 }] };
    let no_stages: [Document; 0] = [];
    vec![
        denied_read("an aggregate", &on("vault", "secret", no_stages.clone())),
        denied_read("an aggregate on a view", &on("vault", "view", no_stages.clone())),
        denied_read("an aggregate on a denied collection", &on("shop", "private", no_stages)),
        denied_read("$lookup", &orders(fields)),
        denied_read("$lookup with a pipeline", &orders(lookup("private"))),
        denied_read("$lookup in the oplog", &orders(lookup(oplog()))),
        denied("$lookup in the config database", &orders(lookup(doc! { "db": "config", "coll": "cache.chunks.x" }))),
        denied("$lookup in another database", &orders(lookup(doc! { "db": "vault", "coll": "secret" }))),
        denied_read("$graphLookup", &orders(graph("private"))),
        denied("$graphLookup in the oplog", &orders(graph(oplog()))),
        denied_read("$unionWith", &orders(union("private"))),
        denied("$unionWith in another database", &orders(union(doc! { "db": "vault", "coll": "secret" }))),
        denied_read("$unionWith, as a document", &orders(union(doc! { "coll": "private" }))),
        denied_read(
            "$unionWith with a pipeline",
            &orders(union(doc! { "coll": "private", "pipeline": [{ "$limit": 3 }] })),
        ),
        denied_read("$lookup in a database aggregate", &on("shop", 1, [documents(), lookup("private")])),
        denied_read("$unionWith in a database aggregate", &on("shop", 1, [documents(), union("private")])),
        denied_read(
            "a database aggregate with a double as its target",
            &on("shop", 1.0, [documents(), union("private")]),
        ),
        denied_read(
            "a database aggregate with a 64-bit integer as its target",
            &on("shop", 1_i64, [documents(), union("private")]),
        ),
        denied(
            "explain of $lookup",
            &explain(doc! { "aggregate": "orders", "pipeline": [lookup("private")], "cursor": {} }),
        ),
        denied(
            "an aggregate with explain and $lookup",
            &doc! { "aggregate": "orders", "pipeline": [lookup("private")], "explain": true, "$db": "shop" },
        ),
        denied("$changeStream after $lookup", &on("shop", "orders", [lookup("private"), doc! { "$changeStream": {} }])),
        passes("$lookup in an allowed collection", &orders(lookup("few"))),
        passes("$unionWith with an allowed collection", &orders(union("orders"))),
    ]
}

/// Stages inside stages.
fn nested() -> Vec<Row> {
    let in_lookup = |stage: Document| doc! { "$lookup": { "from": "orders", "pipeline": [stage], "as": "found" } };
    let in_union = |stage: Document| union(doc! { "coll": "orders", "pipeline": [stage] });
    let in_facet = |stage: Document| doc! { "$facet": { "a": [{ "$limit": 1 }], "b": [stage] } };
    let deep = (0..5).fold(union("private"), |inner, _| in_lookup(in_union(inner)));
    let documents = doc! { "$lookup": { "pipeline": [{ "$documents": [{}] }, union("private")], "as": "found" } };
    vec![
        denied_read("$lookup inside $lookup", &orders(in_lookup(lookup("private")))),
        denied_read("$unionWith inside $lookup", &orders(in_lookup(union("private")))),
        denied_read("$graphLookup inside $unionWith", &orders(in_union(graph("private")))),
        denied_read("$unionWith inside $unionWith", &orders(in_union(union("private")))),
        denied_read("$lookup inside $facet", &orders(in_facet(lookup("private")))),
        denied_read("$unionWith inside $facet", &orders(in_facet(union("private")))),
        denied_read("$lookup inside $lookup inside $facet", &orders(in_facet(in_lookup(lookup("private"))))),
        denied_read("the oplog inside $lookup inside $facet", &orders(in_facet(in_lookup(lookup(oplog()))))),
        denied_read("$unionWith ten levels deep", &orders(deep)),
        denied_read("$unionWith after $documents in $lookup", &orders(documents)),
    ]
}

/// Malformed pipelines.
fn malformed() -> Vec<Row> {
    let facets = orders(doc! { "$facet": { "a1": [{ "$limit": 1 }], "a2": [union("private")] } });
    let first = orders(doc! { "$facet": { "a1": [union("private")], "a2": [{ "$limit": 1 }] } });
    let twice = |stage: Document| on("shop", "orders", [stage]);
    let froms = doc! { "$lookup": { "from": "orders", "fro2": "private", "pipeline": [], "as": "found" } };
    let pipelines =
        doc! { "$lookup": { "from": "orders", "pipeline": [], "pipelin2": [union("private")], "as": "found" } };
    let graphs = doc! { "$graphLookup": {
        "from": "orders", "fro2": "private", "startWith": "$_id", "connectFromField": "_id", "connectToField": "_id",
        "as": "found",
    } };
    let merges = doc! { "$merge": { "into": "mine", "int2": "private" } };
    let unions = union(doc! { "coll": "orders", "col2": "private" });
    let mut indices = orders(union("private"));
    indices.insert("comment", "x");
    vec![
        unusual_read("a duplicate facet, of which mongod runs the second", &facets, &[("a2\0", "a1\0")]),
        patched("a duplicate facet, of which the first is denied", &first, &[("a2\0", "a1\0")]),
        // The next two crash mongod, so they must be denied under every policy.
        patched("$lookup from two collections", &twice(froms), &[("fro2", "from")]),
        patched("$lookup with two pipelines", &twice(pipelines), &[("pipelin2", "pipeline")]),
        patched("$graphLookup from two collections", &twice(graphs), &[("fro2", "from")]),
        patched("$merge into two collections", &twice(merges), &[("int2", "into")]),
        patched("$unionWith two collections", &twice(unions), &[("col2", "coll")]),
        patched("an array whose keys are not numbers", &indices, &[("\u{3}1\0", "\u{3}x\0")]),
        denied("a stage with two fields", &orders(doc! { "$limit": 1, "$unionWith": "private" })),
        denied("a stage without a field", &orders(doc! {})),
        denied(
            "a pipeline that is a document",
            &doc! { "aggregate": "orders", "pipeline": { "0": union("private") }, "cursor": {}, "$db": "shop" },
        ),
        denied("no pipeline", &doc! { "aggregate": "orders", "cursor": {}, "$db": "shop" }),
        denied(
            "a stage that is a string",
            &doc! { "aggregate": "orders", "pipeline": ["$count"], "cursor": {}, "$db": "shop" },
        ),
        denied("a symbol in $unionWith", &orders(union(Bson::Symbol("private".to_owned())))),
        denied("a symbol in $lookup", &orders(lookup(Bson::Symbol("private".to_owned())))),
        denied("a stage of a future version", &orders(doc! { "$joinEverything": "private" })),
        denied("a stage name in capitals", &orders(doc! { "$LOOKUP": { "from": "private" } })),
    ]
}

/// Stages that write.
fn writing() -> Vec<Row> {
    let merge = |spec: Document| orders(doc! { "$merge": spec });
    vec![
        denied("$out over a denied collection", &orders(doc! { "$out": "private" })),
        denied("$out into another database", &orders(doc! { "$out": { "db": "vault", "coll": "mine" } })),
        denied(
            "$out into another database, as a time series",
            &orders(doc! { "$out": { "db": "vault", "coll": "mine", "timeseries": { "timeField": "t" } } }),
        ),
        denied("$out into the bucket collection of a time series", &orders(doc! { "$out": "system.buckets.private" })),
        denied("$out into system.views", &orders(doc! { "$out": "system.views" })),
        denied("$out into a new database", &orders(doc! { "$out": { "db": "elsewhere", "coll": "mine" } })),
        denied("$merge into a denied collection", &orders(doc! { "$merge": "private" })),
        denied("$merge into another database", &merge(doc! { "into": { "db": "vault", "coll": "secret" } })),
        denied("$merge into a denied collection, as a document", &merge(doc! { "into": { "coll": "private" } })),
        denied(
            "$merge whose pipeline has $lookup",
            &merge(doc! { "into": "mine", "whenMatched": [lookup("private")] }),
        ),
        denied("$out after a denied $unionWith", &on("shop", "orders", [union("private"), doc! { "$out": "mine" }])),
        denied(
            "$merge from another database",
            &on("vault", "secret", [doc! { "$merge": { "into": { "db": "shop", "coll": "mine" } } }]),
        ),
        passes("$out into an allowed collection", &orders(doc! { "$out": "out" })),
        passes("$merge into an allowed collection", &merge(doc! { "into": { "db": "shop", "coll": "merged" } })),
    ]
}

/// Change streams.
fn change_streams(facts: &ServerFacts) -> Vec<Row> {
    let watch = |mut spec: Document| {
        spec.insert("startAtOperationTime", facts.before);
        doc! { "$changeStream": spec }
    };
    let all = doc! { "allChangesForCluster": true };
    vec![
        denied_read("changes of a collection in another database", &on("vault", "secret", [watch(doc! {})])),
        denied_read("changes of a denied collection", &on("shop", "private", [watch(doc! {})])),
        denied_read("changes of another database", &on("vault", 1, [watch(doc! {})])),
        denied_read("changes of a database with a denied collection", &on("shop", 1, [watch(doc! {})])),
        denied_read("changes of the cluster", &on("admin", 1, [watch(all.clone())])),
        denied("changes of the cluster, on a collection", &on("shop", "orders", [watch(all)])),
        passes("changes of an allowed collection", &on("shop", "orders", [watch(doc! {})])),
    ]
}

/// Stages that show the server's state or other callers' operations.
fn diagnostic() -> Vec<Row> {
    let admin = |stage: Document| on("admin", 1, [stage]);
    let current = || doc! { "$currentOp": { "allUsers": true, "idleCursors": true } };
    vec![
        denied_read("$currentOp", &admin(current())),
        denied("$listLocalSessions", &on("shop", 1, [doc! { "$listLocalSessions": { "allUsers": true } }])),
        denied("$listSessions", &on("config", "system.sessions", [doc! { "$listSessions": { "allUsers": true } }])),
        unusual_read("$listCatalog", &admin(doc! { "$listCatalog": {} }), &[]),
        unusual_read("$listCatalog of a collection", &on("shop", "private", [doc! { "$listCatalog": {} }]), &[]),
        unusual_read(
            "$_internalAllCollectionStats",
            &admin(doc! { "$_internalAllCollectionStats": { "stats": {} } }),
            &[],
        ),
        denied("$mergeCursors", &orders(doc! { "$mergeCursors": {} })),
        denied("$_internalInhibitOptimization", &orders(doc! { "$_internalInhibitOptimization": {} })),
        denied("$_unpackBucket", &on("shop", "orders", [doc! { "$_unpackBucket": { "timeField": "t" } }])),
        denied(
            "$setVariableFromSubPipeline",
            &orders(doc! { "$setVariableFromSubPipeline": { "setVariable": "$$x", "pipeline": [] } }),
        ),
        denied(
            "$search with a pipeline of a server",
            &orders(doc! { "$search": { "mergingPipeline": [union("private")] } }),
        ),
        denied(
            "$searchMeta with a view of a server",
            &orders(doc! { "$searchMeta": { "view": { "name": "private" } } }),
        ),
        denied(
            "$rankFusion of what is denied",
            &on("shop", "orders", [doc! { "$rankFusion": { "input": { "pipelines": { "a": [union("private")] } } } }]),
        ),
        denied("$queue", &orders(doc! { "$queue": [] })),
        denied("$backupCursor", &admin(doc! { "$backupCursor": {} })),
        denied_read("$indexStats", &on("shop", "private", [doc! { "$indexStats": {} }])),
        denied("$collStats", &on("vault", "secret", [doc! { "$collStats": { "count": {} } }])),
        denied("$planCacheStats", &on("vault", "secret", [doc! { "$planCacheStats": {} }])),
        denied_read(
            "$indexStats in a union",
            &orders(union(doc! { "coll": "private", "pipeline": [{ "$indexStats": {} }] })),
        ),
    ]
}
