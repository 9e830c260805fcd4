//! Arguments that every command takes: which of them are known, and which only servers send.

use bson::raw::RawElement;

use super::strict::{self, Fields, key};
use super::table::Command;
use super::unclear::Unclear;

/// Refuses what no driver sends: unknown arguments with `$`, those of servers among themselves, and a borrowed session.
///
/// Arguments that a command does not know and that are not listed here pass; mongod refuses them, or they mean nothing.
pub(super) fn check(command: &Command, fields: &Fields<'_>) -> Result<(), Unclear> {
    for element in fields.iter().skip(1) {
        let name = key(element);
        match name {
            "$db" | "$readPreference" | "$clusterTime" | "$comment" => {}
            "$all" | "$ownOps" if command.name == "currentOp" => {}
            "lsid" => session(element)?,
            _ if name.starts_with('$') => return Err(Unclear::UnknownDollarArgument),
            // Shorter than any of those are most arguments that there are.
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

/// A session as clients name their own. `uid` would make it one of another user, the rest one of a transaction inside it.
pub(super) fn session(lsid: &RawElement<'_>) -> Result<(), Unclear> {
    let lsid = strict::document(lsid).ok_or(Unclear::Session)?;
    if Fields::of(lsid)?.are_among(&["id"]) { Ok(()) } else { Err(Unclear::Session) }
}

/// Routers and members of replica sets send these; mongod 6.0 takes several of them from anybody. With `collectionUUID` a
/// refusal tells what a collection is called, the others change what a name means or which checks are made.
const INTERNAL: &[&str] = &[
    "collectionUUID",
    "databaseVersion",
    "encryptionInformation",
    "exchange",
    "expectPrefix",
    "fromMongos",
    "fromRouter",
    "internalClient",
    "isClusterQueryWithoutShardKeyCmd",
    "isMapReduceCommand",
    "isTimeseriesNamespace",
    "legacyRuntimeConstants",
    "mayBypassWriteBlocking",
    "maxTimeMSOpOnly",
    "mergeByPBRT",
    "needsMerge",
    "needsSortedMerge",
    "querySettings",
    "runtimeConstants",
    "shardVersion",
    "unwrappedReadPref",
    "use44SortKeys",
    "useNewUpsert",
];

const INTERNAL_BYTES_MIN: usize = "exchange".len();
