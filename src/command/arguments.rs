//! Generic arguments of commands: which ones are known, and which ones only servers send.

use bson::raw::RawElement;

use super::strict::{self, Fields, key};
use super::table::Command;
use super::unclear::Unclear;

/// Refuses arguments that no driver sends: unknown ones that begin with `$`, those that servers send to each other, and
/// the session of another user.
///
/// Other unknown arguments pass: mongod refuses them, or they have no effect.
pub(super) fn check(command: &Command, fields: &Fields<'_>) -> Result<(), Unclear> {
    for element in fields.iter().skip(1) {
        let name = key(element);
        match name {
            "$db" | "$readPreference" | "$clusterTime" | "$comment" => {}
            "$all" | "$ownOps" if command.name == "currentOp" => {}
            "lsid" => session(element)?,
            _ if name.starts_with('$') => return Err(Unclear::UnknownDollarArgument),
            // Most arguments are shorter than any of the internal ones.
            _ if name.len() < INTERNAL_BYTES_MIN => {}
            _ => {
                if let Some(internal) = INTERNAL.iter().find(|internal| **internal == name) {
                    return Err(Unclear::InternalArgument(internal));
                }
            }
        }
    }
    Ok(())
}

/// Accepts `lsid` in the form in which clients name their own session: `id` only. With `uid` it would be the session of
/// another user; other fields name a transaction inside a session.
pub(super) fn session(lsid: &RawElement<'_>) -> Result<(), Unclear> {
    let lsid = strict::document(lsid).ok_or(Unclear::Session)?;
    if Fields::of(lsid)?.are_among(&["id"]) { Ok(()) } else { Err(Unclear::Session) }
}

/// Only mongos and replica set members send these, but mongod 6.0 accepts several of them from any client. With
/// `collectionUUID`, an error reveals the name of a collection. The others change the meaning of a name, or switch
/// checks off.
const INTERNAL: &[&str] = &[
    "collectionUUID",
    "coordinator",
    "databaseVersion",
    "encryptionInformation",
    "exchange",
    "expectPrefix",
    "fromMongos",
    "fromRouter",
    "ifrFlags",
    "includeQueryStatsMetrics",
    "internalClient",
    "isClusterQueryWithoutShardKeyCmd",
    "isHybridSearch",
    "isMapReduceCommand",
    "isTimeseriesNamespace",
    "legacyRuntimeConstants",
    "mayBypassWriteBlocking",
    "maxTimeMSOpOnly",
    "mergeByPBRT",
    "needsMerge",
    "needsSortedMerge",
    "originalQueryShapeHash",
    "querySettings",
    "requestReshardingResumeToken",
    "runtimeConstants",
    "sampleId",
    "shardVersion",
    "startOrContinueTransaction",
    "translatedForViewlessTimeseries",
    "txnRetryCounter",
    "unwrappedReadPref",
    "use44SortKeys",
    "useNewUpsert",
    "versionContext",
];

const INTERNAL_BYTES_MIN: usize = "exchange".len();
