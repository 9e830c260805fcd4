//! Generic arguments of commands: which ones are known, and which ones only servers send.

use bson::RawDocument;
use bson::raw::RawElement;
use smallvec::SmallVec;

use super::strict::{self, Fields, key};
use super::table::Command;
use super::unclear::Unclear;

/// Refuses arguments that no driver sends: unknown ones that begin with `$`, those that servers send to each other, and
/// the session of another user.
///
/// Other unknown arguments pass: mongod refuses them, or they have no effect. Adds the id of the command's session to
/// `sessions`.
pub(super) fn check<'a>(
    command: &Command,
    fields: &Fields<'a>,
    sessions: &mut SmallVec<[&'a [u8; 16]; 1]>,
) -> Result<(), Unclear> {
    for element in fields.iter().skip(1) {
        let name = key(element);
        match name {
            "$db" | "$readPreference" | "$clusterTime" | "$comment" => {}
            "$all" | "$ownOps" if command.name == "currentOp" => {}
            "lsid" => sessions.push(session(element)?),
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

/// The id of a session in the form in which clients name their own: `{ id: <UUID> }` and nothing else. With `uid` it
/// would be the session of another user; other fields name a transaction inside a session.
pub(super) fn session<'a>(lsid: &RawElement<'a>) -> Result<&'a [u8; 16], Unclear> {
    strict::document(lsid).and_then(session_id).ok_or(Unclear::Session)
}

fn session_id(lsid: &RawDocument) -> Option<&[u8; 16]> {
    // Length of the document; type and name of the element; length and subtype of the binary.
    const HEAD: &[u8; 13] = b"\x1e\0\0\0\x05id\0\x10\0\0\0\x04";
    let (head, rest) = lsid.as_bytes().split_first_chunk()?;
    let (id, end) = rest.split_first_chunk()?;
    (head == HEAD && end == [0]).then_some(id)
}

/// The most sessions that one command may end or refresh: as many as drivers end with one command. The gateway computes
/// a hash for each.
///
/// Spec: mongodb/specifications `source/sessions/driver-sessions.md` § endSessions.
pub(super) const SESSIONS_MAX: usize = 10_000;

/// The ids of the sessions in a body that was not understood, where they are in the usual places and in the usual form.
pub fn session_ids(body: &RawDocument) -> SmallVec<[&[u8; 16]; 1]> {
    let mut found = SmallVec::new();
    for (index, element) in strict::elements(body).map_while(Result::ok).enumerate() {
        let name = key(&element);
        if name == "lsid" {
            found.extend(session(&element));
        } else if index == 0 && matches!(name, "endSessions" | "refreshSessions" | "killSessions") {
            let sessions = strict::array(&element).into_iter().flat_map(strict::items).map_while(Result::ok);
            found.extend(sessions.filter_map(|element| session(&element).ok()).take(SESSIONS_MAX));
        } else if index == 0 && name == "explain" {
            let inner = strict::document(&element).into_iter().flat_map(strict::elements).map_while(Result::ok);
            found.extend(inner.filter(|element| key(element) == "lsid").filter_map(|element| session(&element).ok()));
        }
    }
    found
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
