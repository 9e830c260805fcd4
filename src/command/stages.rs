//! The table of known stages of pipelines.

/// Whether only servers send this stage to each other.
pub(super) fn is_internal(stage: &str) -> bool {
    const OTHERS: [&str; 7] = [
        "$backupCursor",
        "$backupCursorExtend",
        "$listCatalog",
        "$mergeCursors",
        "$operationMetrics",
        "$queue",
        "$setVariableFromSubPipeline",
    ];
    stage.starts_with("$_") || OTHERS.contains(&stage)
}

/// The name of a stage, from the tables of known stages.
pub(super) fn known(stage: &str) -> Option<&'static str> {
    const NAMES_COLLECTIONS: [&str; 9] = [
        "$changeStream",
        "$facet",
        "$graphLookup",
        "$listClusterCatalog",
        "$lookup",
        "$match",
        "$merge",
        "$out",
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
    "$search",
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
