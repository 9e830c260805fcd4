//! The documented keys of the stages with a closed list of keys: none of them may be missing from the list.
//!
//! Copied from the MongoDB manual § Aggregation Stages, and from the manual of MongoDB Search.

use bson::raw::CString;
use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use super::read_body;

const DOCUMENTED: &[(&str, &[&str])] = &[
    ("$bucket", &["groupBy", "boundaries", "default", "output"]),
    ("$bucketAuto", &["groupBy", "buckets", "output", "granularity"]),
    (
        "$changeStream",
        &[
            "allChangesForCluster",
            "fullDocument",
            "fullDocumentBeforeChange",
            "resumeAfter",
            "showExpandedEvents",
            "startAfter",
            "startAtOperationTime",
        ],
    ),
    ("$collStats", &["latencyStats", "storageStats", "count", "queryExecStats"]),
    (
        "$currentOp",
        &["allUsers", "idleConnections", "idleCursors", "idleSessions", "localOps", "targetAllNodes", "backtrace"],
    ),
    ("$densify", &["field", "partitionByFields", "range"]),
    ("$fill", &["partitionBy", "partitionByFields", "sortBy", "output"]),
    (
        "$geoNear",
        &[
            "distanceField",
            "distanceMultiplier",
            "includeLocs",
            "key",
            "maxDistance",
            "minDistance",
            "near",
            "query",
            "spherical",
        ],
    ),
    ("$listClusterCatalog", &["balancingConfiguration", "shards", "tracked"]),
    ("$listLocalSessions", &["users", "allUsers"]),
    ("$listSampledQueries", &["namespace"]),
    ("$listSearchIndexes", &["id", "name"]),
    ("$listSessions", &["users", "allUsers"]),
    ("$planCacheStats", &["allHosts"]),
    ("$querySettings", &["showDebugQueryShape"]),
    ("$queryStats", &["transformIdentifiers"]),
    ("$replaceRoot", &["newRoot"]),
    ("$sample", &["size"]),
    ("$score", &["score", "normalization", "weight", "scoreDetails"]),
    (
        "$search",
        &[
            "autocomplete",
            "compound",
            "concurrent",
            "count",
            "embeddedDocument",
            "equals",
            "exists",
            "facet",
            "geoShape",
            "geoWithin",
            "hasAncestor",
            "hasRoot",
            "highlight",
            "in",
            "index",
            "knnBeta",
            "moreLikeThis",
            "near",
            "phrase",
            "queryString",
            "range",
            "regex",
            "returnScope",
            "returnStoredSource",
            "scoreDetails",
            "searchAfter",
            "searchBefore",
            "searchNodePreference",
            "sort",
            "span",
            "term",
            "text",
            "tracking",
            "vectorSearch",
            "wildcard",
        ],
    ),
    ("$searchMeta", &["count", "facet", "index", "range", "searchNodePreference", "text"]),
    ("$setWindowFields", &["partitionBy", "sortBy", "output"]),
    ("$unwind", &["path", "includeArrayIndex", "preserveNullAndEmptyArrays"]),
    (
        "$vectorSearch",
        &[
            "exact",
            "explainOptions",
            "filter",
            "index",
            "limit",
            "model",
            "nestedOptions",
            "numCandidates",
            "parentFilter",
            "path",
            "query",
            "queryVector",
            "returnStoredSource",
            "searchNodePreference",
        ],
    ),
];

/// Stages that need several keys at once, and stages without keys.
fn complete() -> Vec<RawDocumentBuf> {
    vec![
        rawdoc! { "$lookup": {
            "from": "a", "localField": "b", "foreignField": "c", "let": {}, "pipeline": [], "as": "d",
        } },
        rawdoc! { "$graphLookup": {
            "from": "a", "startWith": "$b", "connectFromField": "c", "connectToField": "d", "as": "e", "maxDepth": 1,
            "depthField": "f", "restrictSearchWithMatch": {},
        } },
        rawdoc! { "$unionWith": { "coll": "a", "pipeline": [] } },
        rawdoc! { "$merge": {
            "into": { "db": "a", "coll": "b" }, "on": ["c"], "let": {}, "whenMatched": "merge",
            "whenNotMatched": "discard",
        } },
        rawdoc! { "$out": { "db": "a", "coll": "b", "timeseries": { "timeField": "t" } } },
        rawdoc! { "$rankFusion": {
            "input": { "pipelines": { "a": [] } }, "combination": { "weights": { "a": 1 } }, "scoreDetails": true,
        } },
        rawdoc! { "$scoreFusion": {
            "input": { "pipelines": { "a": [] }, "normalization": "sigmoid" }, "combination": { "method": "avg" },
            "scoreDetails": true,
        } },
        rawdoc! { "$indexStats": {} },
        rawdoc! { "$changeStreamSplitLargeEvent": {} },
        rawdoc! { "$shardedDataDistribution": {} },
    ]
}

#[track_caller]
fn check_accepted(stage: RawDocumentBuf) {
    let mut stages = RawArrayBuf::new();
    stages.push(stage);
    let body = rawdoc! { "aggregate": "orders", "pipeline": stages, "cursor": {}, "$db": "shop" };
    assert!(read_body(&body).is_ok(), "{body:?}: {:?}", read_body(&body));
}

#[test]
fn every_documented_key_of_a_stage_is_accepted() {
    for (stage, keys) in DOCUMENTED {
        for key in *keys {
            let mut spec = RawDocumentBuf::new();
            spec.append(CString::try_from(*key).unwrap(), rawdoc! {});
            let mut document = RawDocumentBuf::new();
            document.append(CString::try_from(*stage).unwrap(), spec);
            check_accepted(document);
        }
    }
    complete().into_iter().for_each(check_accepted);
}
