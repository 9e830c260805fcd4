//! The table of known stages of pipelines.

/// Whether only servers send this stage to each other.
pub(super) fn is_internal(stage: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "$backupCursor",
        "$backupCursorExtend",
        "$listCatalog",
        "$mergeCursors",
        "$operationMetrics",
        "$queue",
        "$setMetadata",
        "$setVariableFromSubPipeline",
    ];
    stage.starts_with("$_") || OTHERS.contains(&stage)
}

/// Whether this is the name of a stage, including stages that only servers send to each other.
pub fn is_known(stage: &str) -> bool {
    known(stage).is_some() || is_internal(stage)
}

/// The name of a stage, from the tables of known stages.
pub(super) fn known(stage: &str) -> Option<&'static str> {
    const NAMES_COLLECTIONS: [&str; 11] = [
        "$changeStream",
        "$facet",
        "$graphLookup",
        "$listClusterCatalog",
        "$lookup",
        "$match",
        "$merge",
        "$out",
        "$rankFusion",
        "$scoreFusion",
        "$unionWith",
    ];
    NAMES_COLLECTIONS.iter().chain(NAMES_NO_COLLECTION).chain(EXPOSES_SERVER).find(|known| **known == stage).copied()
}

/// Stages that read only their input or the collection of the command.
pub(super) const NAMES_NO_COLLECTION: &[&str] = &[
    "$addFields",
    "$bucket",
    "$bucketAuto",
    "$changeStreamSplitLargeEvent",
    "$collStats",
    "$count",
    "$densify",
    "$documents",
    "$fill",
    "$geoNear",
    "$group",
    "$indexStats",
    "$limit",
    "$listSearchIndexes",
    "$planCacheStats",
    "$project",
    "$redact",
    "$replaceRoot",
    "$replaceWith",
    "$sample",
    "$score",
    "$search",
    "$searchBeta",
    "$searchMeta",
    "$set",
    "$setWindowFields",
    "$skip",
    "$sort",
    "$sortByCount",
    "$unset",
    "$unwind",
    "$vectorSearch",
];

/// Stages that show the activity of other clients on the whole server.
pub(super) const EXPOSES_SERVER: &[&str] = &[
    "$currentOp",
    "$listLocalSessions",
    "$listSampledQueries",
    "$listSessions",
    "$querySettings",
    "$queryStats",
    "$shardedDataDistribution",
];

/// The keys of the stages with a fixed set of keys. The keys of every other stage in [`NAMES_NO_COLLECTION`] are names
/// of fields, or its value is an expression.
///
/// Spec: the MongoDB manual § Aggregation Stages, and the Atlas manual § Search, § Vector Search.
pub(super) const KEYS: &[(&[&str], &[&str])] = &[
    (&["$bucket"], &["groupBy", "boundaries", "default", "output"]),
    (&["$bucketAuto"], &["groupBy", "buckets", "output", "granularity"]),
    (&["$changeStreamSplitLargeEvent", "$indexStats", "$shardedDataDistribution"], &[]),
    (&["$collStats"], &["latencyStats", "storageStats", "count", "queryExecStats", "operationStats", "targetAllNodes"]),
    (
        &["$currentOp"],
        &[
            "allUsers",
            "idleConnections",
            "idleCursors",
            "idleSessions",
            "localOps",
            "backtrace",
            "targetAllNodes",
            "truncateOps",
        ],
    ),
    (&["$densify"], &["field", "partitionByFields", "range"]),
    (&["$fill"], &["partitionBy", "partitionByFields", "sortBy", "output"]),
    (
        &["$geoNear"],
        &[
            "near",
            "distanceField",
            "distanceMultiplier",
            "includeLocs",
            "key",
            "limit",
            "maxDistance",
            "minDistance",
            "num",
            "query",
            "spherical",
            "uniqueDocs",
        ],
    ),
    (&["$limit", "$skip", "$count"], &[]),
    (&["$listClusterCatalog"], &["shards", "tracked", "balancingConfiguration"]),
    (&["$listLocalSessions", "$listSessions"], &["users", "allUsers"]),
    (&["$listSampledQueries"], &["namespace"]),
    (&["$listSearchIndexes"], &["id", "name"]),
    (&["$planCacheStats"], &["allHosts"]),
    (&["$querySettings"], &["showDebugQueryShape"]),
    (&["$queryStats"], &["transformIdentifiers"]),
    (&["$replaceRoot"], &["newRoot"]),
    (&["$sample"], &["size"]),
    (&["$score"], &["score", "normalization", "normalize", "normalizeFunction", "scoreDetails", "weight"]),
    (
        &["$search", "$searchBeta", "$searchMeta"],
        &[
            "index",
            "concurrent",
            "count",
            "highlight",
            "returnScope",
            "returnStoredSource",
            "scoreDetails",
            "searchAfter",
            "searchBefore",
            "searchNodePreference",
            "sort",
            "sortBetaV1",
            "tracking",
            // Operators and collectors.
            "autocomplete",
            "compound",
            "embeddedDocument",
            "equals",
            "exists",
            "facet",
            "geoShape",
            "geoWithin",
            "hasAncestor",
            "hasRoot",
            "in",
            "knnBeta",
            "moreLikeThis",
            "near",
            "phrase",
            "queryString",
            "range",
            "regex",
            "search",
            "span",
            "term",
            "text",
            "vectorSearch",
            "wildcard",
        ],
    ),
    (&["$setWindowFields"], &["partitionBy", "sortBy", "output"]),
    (&["$unwind"], &["path", "includeArrayIndex", "preserveNullAndEmptyArrays"]),
    (
        &["$vectorSearch"],
        &[
            "index",
            "path",
            "queryVector",
            "query",
            "numCandidates",
            "limit",
            "filter",
            "exact",
            "explainOptions",
            "model",
            "nestedOptions",
            "parentFilter",
            "returnStoredSource",
            "searchNodePreference",
        ],
    ),
];
