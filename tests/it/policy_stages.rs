//! Ways around a policy by way of pipelines: stages that name collections at every depth, write, or show the server.

use bson::{Bson, Document, doc};

use crate::policy_rows::{Leads, Row, explain, garbled, passes, reads, refused, trick};

/// All of them.
pub fn all(leads: &Leads) -> Vec<Row> {
    [reading(), inside(), malformed(), writing(), watching(leads), showing()].into_iter().flatten().collect()
}

fn on(database: &str, target: impl Into<Bson>, stages: impl IntoIterator<Item = Document>) -> Document {
    let stages: Vec<Bson> = stages.into_iter().map(Bson::from).collect();
    doc! { "aggregate": target.into(), "pipeline": stages, "cursor": {}, "$db": database }
}

/// On what the caller may read.
fn orders(stage: Document) -> Document {
    on("shop", "orders", [doc! { "$limit": 1 }, stage])
}

fn lookup(from: impl Into<Bson>) -> Document {
    doc! { "$lookup": { "from": from.into(), "pipeline": [], "as": "found" } }
}

fn graph(from: impl Into<Bson>) -> Document {
    let search = doc! { "from": from.into(), "startWith": "$_id", "connectFromField": "_id", "connectToField": "_id", "as": "found" };
    doc! { "$graphLookup": search }
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
        reads("an aggregate", &on("vault", "secret", no_stages.clone())),
        reads("an aggregate on a view", &on("vault", "view", no_stages.clone())),
        reads("an aggregate on what is denied", &on("shop", "private", no_stages)),
        reads("$lookup", &orders(fields)),
        reads("$lookup with a pipeline", &orders(lookup("private"))),
        reads("$lookup in the oplog", &orders(lookup(oplog()))),
        refused("$lookup in the configuration", &orders(lookup(doc! { "db": "config", "coll": "cache.chunks.x" }))),
        refused("$lookup in another database", &orders(lookup(doc! { "db": "vault", "coll": "secret" }))),
        reads("$graphLookup", &orders(graph("private"))),
        refused("$graphLookup in the oplog", &orders(graph(oplog()))),
        reads("$unionWith", &orders(union("private"))),
        refused("$unionWith in another database", &orders(union(doc! { "db": "vault", "coll": "secret" }))),
        reads("$unionWith, as a document", &orders(union(doc! { "coll": "private" }))),
        reads("$unionWith with a pipeline", &orders(union(doc! { "coll": "private", "pipeline": [{ "$limit": 3 }] }))),
        reads("$lookup without a collection of one's own", &on("shop", 1, [documents(), lookup("private")])),
        reads("$unionWith without a collection of one's own", &on("shop", 1, [documents(), union("private")])),
        reads("without a collection, and with another kind of one", &on("shop", 1.0, [documents(), union("private")])),
        reads("without a collection, and with a long one", &on("shop", 1_i64, [documents(), union("private")])),
        refused(
            "explain of $lookup",
            &explain(doc! { "aggregate": "orders", "pipeline": [lookup("private")], "cursor": {} }),
        ),
        refused(
            "a join that is only explained",
            &doc! { "aggregate": "orders", "pipeline": [lookup("private")], "explain": true, "$db": "shop" },
        ),
        refused(
            "$changeStream behind a join",
            &on("shop", "orders", [lookup("private"), doc! { "$changeStream": {} }]),
        ),
        passes("$lookup where one may", &orders(lookup("few"))),
        passes("$unionWith where one may", &orders(union("orders"))),
    ]
}

/// Stages inside stages.
fn inside() -> Vec<Row> {
    let in_lookup = |stage: Document| doc! { "$lookup": { "from": "orders", "pipeline": [stage], "as": "found" } };
    let in_union = |stage: Document| union(doc! { "coll": "orders", "pipeline": [stage] });
    let in_facet = |stage: Document| doc! { "$facet": { "a": [{ "$limit": 1 }], "b": [stage] } };
    let deep = (0..5).fold(union("private"), |inner, _| in_lookup(in_union(inner)));
    let documents = doc! { "$lookup": { "pipeline": [{ "$documents": [{}] }, union("private")], "as": "found" } };
    vec![
        reads("$lookup inside $lookup", &orders(in_lookup(lookup("private")))),
        reads("$unionWith inside $lookup", &orders(in_lookup(union("private")))),
        reads("$graphLookup inside $unionWith", &orders(in_union(graph("private")))),
        reads("$unionWith inside $unionWith", &orders(in_union(union("private")))),
        reads("$lookup inside $facet", &orders(in_facet(lookup("private")))),
        reads("$unionWith inside $facet", &orders(in_facet(union("private")))),
        reads("$lookup inside $lookup inside $facet", &orders(in_facet(in_lookup(lookup("private"))))),
        reads("the oplog inside all of them", &orders(in_facet(in_lookup(lookup(oplog()))))),
        reads("ten deep", &orders(deep)),
        reads("$unionWith behind $documents in $lookup", &orders(documents)),
    ]
}

/// Pipelines that are not what they seem.
fn malformed() -> Vec<Row> {
    let facets = orders(doc! { "$facet": { "a1": [{ "$limit": 1 }], "a2": [union("private")] } });
    let first = orders(doc! { "$facet": { "a1": [union("private")], "a2": [{ "$limit": 1 }] } });
    let twice = |stage: Document| on("shop", "orders", [stage]);
    let froms = doc! { "$lookup": { "from": "orders", "fro2": "private", "pipeline": [], "as": "found" } };
    let pipelines =
        doc! { "$lookup": { "from": "orders", "pipeline": [], "pipelin2": [union("private")], "as": "found" } };
    let graphs = doc! { "$graphLookup": { "from": "orders", "fro2": "private", "startWith": "$_id", "connectFromField": "_id", "connectToField": "_id", "as": "found" } };
    let merges = doc! { "$merge": { "into": "mine", "int2": "private" } };
    let unions = union(doc! { "coll": "orders", "col2": "private" });
    let mut indices = orders(union("private"));
    indices.insert("comment", "x");
    vec![
        trick("a facet twice, the second one run", &facets, &[("a2\0", "a1\0")]),
        garbled("a facet twice, the first one forbidden", &first, &[("a2\0", "a1\0")]),
        // These two end mongod; what is refused for them must not depend on a rule.
        garbled("$lookup from two collections", &twice(froms), &[("fro2", "from")]),
        garbled("$lookup with two pipelines", &twice(pipelines), &[("pipelin2", "pipeline")]),
        garbled("$graphLookup from two collections", &twice(graphs), &[("fro2", "from")]),
        garbled("$merge into two collections", &twice(merges), &[("int2", "into")]),
        garbled("$unionWith two collections", &twice(unions), &[("col2", "coll")]),
        garbled("an array whose keys are no numbers", &indices, &[("\u{3}1\0", "\u{3}x\0")]),
        refused("a stage of two", &orders(doc! { "$limit": 1, "$unionWith": "private" })),
        refused("a stage of none", &orders(doc! {})),
        refused(
            "a pipeline that is a document",
            &doc! { "aggregate": "orders", "pipeline": { "0": union("private") }, "cursor": {}, "$db": "shop" },
        ),
        refused("no pipeline", &doc! { "aggregate": "orders", "cursor": {}, "$db": "shop" }),
        refused(
            "a stage that is a text",
            &doc! { "aggregate": "orders", "pipeline": ["$count"], "cursor": {}, "$db": "shop" },
        ),
        refused("a symbol in $unionWith", &orders(union(Bson::Symbol("private".to_owned())))),
        refused("a symbol in $lookup", &orders(lookup(Bson::Symbol("private".to_owned())))),
        refused("a stage of some later version", &orders(doc! { "$joinEverything": "private" })),
        refused("a stage in capitals", &orders(doc! { "$LOOKUP": { "from": "private" } })),
    ]
}

/// Stages that write.
fn writing() -> Vec<Row> {
    let merge = |spec: Document| orders(doc! { "$merge": spec });
    vec![
        refused("$out over what is denied", &orders(doc! { "$out": "private" })),
        refused("$out into another database", &orders(doc! { "$out": { "db": "vault", "coll": "mine" } })),
        refused(
            "$out into another database, as a time series",
            &orders(doc! { "$out": { "db": "vault", "coll": "mine", "timeseries": { "timeField": "t" } } }),
        ),
        refused("$out into what is behind a time series", &orders(doc! { "$out": "system.buckets.private" })),
        refused("$out into the views", &orders(doc! { "$out": "system.views" })),
        refused("$out into a new database", &orders(doc! { "$out": { "db": "elsewhere", "coll": "mine" } })),
        refused("$merge into what is denied", &orders(doc! { "$merge": "private" })),
        refused("$merge into another database", &merge(doc! { "into": { "db": "vault", "coll": "secret" } })),
        refused("$merge into what is denied, the long way", &merge(doc! { "into": { "coll": "private" } })),
        refused("$merge whose pipeline joins", &merge(doc! { "into": "mine", "whenMatched": [lookup("private")] })),
        refused("$out behind a forbidden union", &on("shop", "orders", [union("private"), doc! { "$out": "mine" }])),
        refused(
            "$merge out of another database",
            &on("vault", "secret", [doc! { "$merge": { "into": { "db": "shop", "coll": "mine" } } }]),
        ),
        passes("$out where one may", &orders(doc! { "$out": "out" })),
        passes("$merge where one may", &merge(doc! { "into": { "db": "shop", "coll": "merged" } })),
    ]
}

/// Change streams.
fn watching(leads: &Leads) -> Vec<Row> {
    let watch = |mut spec: Document| {
        spec.insert("startAtOperationTime", leads.before);
        doc! { "$changeStream": spec }
    };
    let all = doc! { "allChangesForCluster": true };
    vec![
        reads("changes of a collection", &on("vault", "secret", [watch(doc! {})])),
        reads("changes of what is denied", &on("shop", "private", [watch(doc! {})])),
        reads("changes of a database", &on("vault", 1, [watch(doc! {})])),
        reads("changes of a database where a collection is denied", &on("shop", 1, [watch(doc! {})])),
        reads("changes of the cluster", &on("admin", 1, [watch(all.clone())])),
        refused("changes of the cluster, from elsewhere", &on("shop", "orders", [watch(all)])),
        passes("changes of one's own", &on("shop", "orders", [watch(doc! {})])),
    ]
}

/// Stages that show what others do.
fn showing() -> Vec<Row> {
    let admin = |stage: Document| on("admin", 1, [stage]);
    let current = || doc! { "$currentOp": { "allUsers": true, "idleCursors": true } };
    vec![
        reads("$currentOp", &admin(current())),
        refused("$listLocalSessions", &on("shop", 1, [doc! { "$listLocalSessions": { "allUsers": true } }])),
        refused("$listSessions", &on("config", "system.sessions", [doc! { "$listSessions": { "allUsers": true } }])),
        trick("$listCatalog", &admin(doc! { "$listCatalog": {} }), &[]),
        trick("$listCatalog of a collection", &on("shop", "private", [doc! { "$listCatalog": {} }]), &[]),
        trick("$_internalAllCollectionStats", &admin(doc! { "$_internalAllCollectionStats": { "stats": {} } }), &[]),
        refused("$mergeCursors", &orders(doc! { "$mergeCursors": {} })),
        refused("$_internalInhibitOptimization", &orders(doc! { "$_internalInhibitOptimization": {} })),
        refused("$_unpackBucket", &on("shop", "orders", [doc! { "$_unpackBucket": { "timeField": "t" } }])),
        refused(
            "$setVariableFromSubPipeline",
            &orders(doc! { "$setVariableFromSubPipeline": { "setVariable": "$$x", "pipeline": [] } }),
        ),
        refused(
            "$search with a pipeline of a server",
            &orders(doc! { "$search": { "mergingPipeline": [union("private")] } }),
        ),
        refused(
            "$searchMeta with a view of a server",
            &orders(doc! { "$searchMeta": { "view": { "name": "private" } } }),
        ),
        refused(
            "$rankFusion of what is denied",
            &on("shop", "orders", [doc! { "$rankFusion": { "input": { "pipelines": { "a": [union("private")] } } } }]),
        ),
        refused("$queue", &orders(doc! { "$queue": [] })),
        refused("$backupCursor", &admin(doc! { "$backupCursor": {} })),
        reads("$indexStats", &on("shop", "private", [doc! { "$indexStats": {} }])),
        refused("$collStats", &on("vault", "secret", [doc! { "$collStats": { "count": {} } }])),
        refused("$planCacheStats", &on("vault", "secret", [doc! { "$planCacheStats": {} }])),
        reads(
            "$indexStats in a union",
            &orders(union(doc! { "coll": "private", "pipeline": [{ "$indexStats": {} }] })),
        ),
    ]
}
