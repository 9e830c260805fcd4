//! Random commands and pipelines that contain permitted and forbidden names.

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, bson, doc};
use proptest::prelude::*;

/// A command as a client could send it, complete enough to be understood.
pub(crate) fn command() -> impl Strategy<Value = Document> {
    (plain_command(), database(), prop::collection::vec(argument(), 0..3)).prop_map(
        |(mut body, database, arguments)| {
            for (name, value) in arguments {
                body.entry(name.to_owned()).or_insert(value);
            }
            body.insert("$db", database);
            body
        },
    )
}

fn plain_command() -> impl Strategy<Value = Document> {
    prop_oneof![
        6 => explainable(),
        2 => explainable().prop_map(|inner| doc! { "explain": inner, "verbosity": "executionStats" }),
        2 => other_command(),
    ]
}

fn explainable() -> impl Strategy<Value = Document> {
    prop_oneof![
        5 => (target(), top_pipeline())
            .prop_map(|(target, stages)| doc! { "aggregate": target, "pipeline": stages, "cursor": {} }),
        2 => (prop::sample::select(vec!["find", "count", "distinct"]), collection(), filter())
            .prop_map(|(name, on, filter)| doc! { name: on, "filter": filter.clone(), "query": filter }),
        1 => (collection(), filter(), modification())
            .prop_map(|(collection, q, u)| doc! { "update": collection, "updates": [{ "q": q, "u": u }] }),
        1 => (collection(), filter())
            .prop_map(|(collection, q)| doc! { "delete": collection, "deletes": [{ "q": q, "limit": 1 }] }),
        1 => (collection(), filter(), modification())
            .prop_map(|(on, query, update)| doc! { "findandmodify": on, "query": query, "update": update }),
        1 => (collection(), out_of_map_reduce())
            .prop_map(|(collection, out)| doc! { "mapReduce": collection, "out": out }),
    ]
}

fn other_command() -> impl Strategy<Value = Document> {
    prop_oneof![
        (collection(), collection(), pipeline())
            .prop_map(|(name, on, stages)| doc! { "create": name, "viewOn": on, "pipeline": stages }),
        (collection(), collection(), pipeline())
            .prop_map(|(name, on, stages)| doc! { "collMod": name, "viewOn": on, "pipeline": stages }),
        (namespace(), namespace())
            .prop_map(|(from, to)| doc! { "renameCollection": from, "to": to, "dropTarget": true }),
        (collection(), collection())
            .prop_map(|(from, to)| doc! { "cloneCollectionAsCapped": from, "toCollection": to }),
        (collection(), filter()).prop_map(|(name, document)| doc! { "insert": name, "documents": [document] }),
        (collection(), any::<i64>()).prop_map(|(name, id)| doc! { "getMore": id, "collection": name }),
        (collection(), prop::collection::vec(any::<i64>(), 0..4))
            .prop_map(|(name, ids)| doc! { "killCursors": name, "cursors": ids }),
        (prop::sample::select(vec!["dataSize", "datasize", "splitVector", "moveChunk"]), namespace())
            .prop_map(|(name, namespace)| doc! { name: namespace }),
        prop::collection::vec(namespace(), 1..4).prop_flat_map(bulk_write),
        prop::collection::vec(collection(), 0..3).prop_map(|names| doc! { "dbHash": 1, "collections": names }),
        (prop::sample::select(vec!["endSessions", "refreshSessions", "killSessions"]), sessions())
            .prop_map(|(name, sessions)| doc! { name: sessions }),
        prop::sample::select(vec!["commitTransaction", "abortTransaction", "killAllSessions"])
            .prop_map(|name| doc! { name: 1 }),
        prop::sample::select(vec!["listCollections", "listDatabases", "dropDatabase", "currentOp", "dbStats", "ping"])
            .prop_map(|name| doc! { name: 1 }),
        prop::collection::vec(
            prop_oneof![
                Just(Bson::from("read")),
                database().prop_map(|database| bson!({ "role": "read", "db": database })),
            ],
            0..3
        )
        .prop_map(|roles| doc! { "createUser": "u", "pwd": "p", "roles": roles }),
        prop::collection::vec(database(), 1..3).prop_map(|databases| {
            let of = |database: String| doc! { "resource": { "db": database, "collection": "x" }, "actions": ["find"] };
            doc! { "createRole": "r", "privileges": databases.into_iter().map(of).collect::<Vec<_>>() }
        }),
    ]
}

fn bulk_write(namespaces: Vec<String>) -> impl Strategy<Value = Document> {
    let operation = (0..namespaces.len(), 0..3_u8, filter(), modification()).prop_map(|(at, kind, filter, update)| {
        let at = i32::try_from(at).unwrap();
        match kind {
            0 => doc! { "insert": at, "document": filter },
            1 => doc! { "update": at, "filter": filter, "updateMods": update },
            _ => doc! { "delete": at, "filter": filter },
        }
    });
    prop::collection::vec(operation, 0..4).prop_map(move |operations| {
        let namespaces: Vec<_> = namespaces.iter().map(|namespace| doc! { "ns": namespace }).collect();
        doc! { "bulkWrite": 1, "ops": operations, "nsInfo": namespaces }
    })
}

fn argument() -> impl Strategy<Value = (&'static str, Bson)> {
    prop::sample::select(vec![
        ("lsid", session(1)),
        ("lsid", session(2)),
        ("$readPreference", bson!({ "mode": "secondary" })),
        ("comment", bson!("vault.secret")),
        ("let", bson!({ "from": "secret" })),
        ("maxTimeMS", bson!(5)),
        ("hint", bson!("secret")),
        // No client sends one of these.
        ("lsid", bson!({ "id": session_id(1), "uid": session_id(1) })),
        ("fromMongos", bson!(true)),
        ("$_unknown", bson!(1)),
    ])
}

fn session(n: u8) -> Bson {
    bson!({ "id": session_id(n) })
}

fn session_id(n: u8) -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![n; 16] }
}

/// Ids of sessions, rarely with something that only the session of another user has.
fn sessions() -> impl Strategy<Value = Vec<Bson>> {
    let one = prop_oneof![
        20 => (1..5_u8).prop_map(session),
        1 => Just(bson!({ "id": session_id(1), "uid": session_id(1) })),
    ];
    prop::collection::vec(one, 0..4)
}

fn target() -> impl Strategy<Value = Bson> {
    prop_oneof![
        4 => collection().prop_map(Bson::from),
        1 => prop::sample::select(vec![Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0)]),
    ]
}

fn top_pipeline() -> impl Strategy<Value = Vec<Document>> {
    let stream = prop::sample::select(vec![
        doc! { "$changeStream": {} },
        doc! { "$changeStream": { "allChangesForCluster": true } },
        doc! { "$currentOp": { "allUsers": true } },
        doc! { "$documents": [{ "from": "secret" }] },
    ]);
    (prop::option::weighted(0.2, stream), pipeline())
        .prop_map(|(first, stages)| first.into_iter().chain(stages).collect())
}

fn pipeline() -> impl Strategy<Value = Vec<Document>> {
    let leaf = prop::collection::vec(plain_stage(), 0..3);
    leaf.prop_recursive(5, 40, 3, |inner| {
        prop::collection::vec(prop_oneof![2 => plain_stage(), 3 => nesting_stage(inner)], 0..4)
    })
}

fn plain_stage() -> impl Strategy<Value = Document> {
    let one = |name: &'static str| move |value: Bson| doc! { name: value };
    prop_oneof![
        filter().prop_map(|filter| doc! { "$match": filter }),
        filter().prop_map(|fields| doc! { "$project": fields }),
        Just(doc! { "$limit": 5 }),
        Just(doc! { "$collStats": {} }),
        collection().prop_map(Bson::from).prop_map(one("$unionWith")),
        from().prop_map(
            |from| doc! { "$lookup": { "from": from, "localField": "a", "foreignField": "b", "as": "vault" } }
        ),
        from().prop_map(|from| doc! { "$graphLookup": {
            "from": from, "startWith": "$a", "connectFromField": "a", "connectToField": "b", "as": "x",
        } }),
        from().prop_map(one("$out")),
        collection().prop_map(Bson::from).prop_map(one("$merge")),
        (from(), modification()).prop_map(|(into, when)| {
            let when = if when.as_array().is_some() { when } else { Bson::from("replace") };
            doc! { "$merge": { "into": into, "whenMatched": when } }
        }),
        // Forbidden stages are rare, so that most commands are understood.
        prop::sample::select(vec![doc! { "$limit": 1 }, doc! { "$listCatalog": {} }, doc! { "$sort": { "a": 1 } }]),
    ]
}

fn nesting_stage(inner: impl Strategy<Value = Vec<Document>> + Clone + 'static) -> impl Strategy<Value = Document> {
    prop_oneof![
        (from(), inner.clone())
            .prop_map(|(from, stages)| doc! { "$lookup": { "from": from, "let": {}, "pipeline": stages, "as": "x" } }),
        (collection(), inner.clone())
            .prop_map(|(coll, stages)| doc! { "$unionWith": { "coll": coll, "pipeline": stages } }),
        inner.clone().prop_map(|stages| {
            let stages: Vec<_> = [doc! { "$documents": [] }].into_iter().chain(stages).collect();
            doc! { "$lookup": { "pipeline": stages, "as": "x" } }
        }),
        prop::collection::btree_map("[a-c]", inner, 1..3).prop_map(|facets| {
            let facets: Document = facets.into_iter().map(|(name, stages)| (name, Bson::from(stages))).collect();
            doc! { "$facet": facets }
        }),
    ]
}

/// A name, or a document that also names a database.
fn from() -> impl Strategy<Value = Bson> {
    prop_oneof![
        4 => collection().prop_map(Bson::from),
        1 => (database(), collection()).prop_map(|(db, coll)| bson!({ "db": db, "coll": coll })),
    ]
}

fn modification() -> impl Strategy<Value = Bson> {
    prop::sample::select(vec![
        bson!({ "$set": { "from": "secret" } }),
        bson!([{ "$set": { "from": "$secret" } }, { "$unset": "x" }]),
        bson!([{ "$replaceWith": { "$literal": { "$unionWith": "secret" } } }]),
    ])
}

fn out_of_map_reduce() -> impl Strategy<Value = Bson> {
    prop_oneof![
        collection().prop_map(Bson::from),
        Just(bson!({ "inline": 1 })),
        (prop::sample::select(vec!["replace", "merge", "reduce"]), collection())
            .prop_map(|(how, name)| bson!({ how: name })),
        (collection(), database()).prop_map(|(name, database)| bson!({ "merge": name, "db": database })),
    ]
}

/// Values that look like names of resources, but are not.
fn filter() -> impl Strategy<Value = Document> {
    prop::sample::select(vec![
        doc! {},
        doc! { "a": 1 },
        doc! { "from": "secret", "$or": [{ "a": { "$in": [1, "vault.secret"] } }] },
        doc! { "$expr": { "$eq": ["$a", { "$literal": { "$lookup": { "from": "secret" } } }] } },
    ])
}

fn collection() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "orders",
        "items",
        "a.b",
        "secret",
        "vault.secret",
        "system.profile",
        "system.buckets.t",
        "system.views",
        "system.users",
    ])
    .prop_map(str::to_owned)
}

fn database() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["shop", "shop", "shop", "vault", "local", "config", "admin"]).prop_map(str::to_owned)
}

fn namespace() -> impl Strategy<Value = String> {
    (database(), collection()).prop_map(|(database, collection)| format!("{database}.{collection}"))
}
