//! Arguments that every command takes: which of them are known, and which only servers send.

use bson::RawDocument;
use bson::raw::RawElement;
use smallvec::SmallVec;

use super::strict::{self, Fields, key};
use super::table::Command;
use super::unclear::Unclear;

/// Refuses what no driver sends: unknown arguments with `$`, those of servers among themselves, and a borrowed session.
///
/// Arguments that a command does not know and that are not listed here pass; mongod refuses them, or they mean nothing.
///
/// Adds the id of the command's session to `sessions`.
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

/// The id of a session as clients name their own: `{ id: <UUID> }` and nothing else. `uid` would make it a session of
/// another user, the rest one of a transaction inside it.
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

/// The ids of sessions in a body that was not understood, as far as they are where a command has them.
pub fn session_ids(body: &RawDocument) -> SmallVec<[&[u8; 16]; 1]> {
    let mut found = SmallVec::new();
    for (index, element) in strict::elements(body).map_while(Result::ok).enumerate() {
        let name = key(&element);
        if name == "lsid" {
            found.extend(session(&element));
        } else if index == 0 && matches!(name, "endSessions" | "refreshSessions" | "killSessions") {
            let sessions = strict::array(&element).into_iter().flat_map(strict::items).map_while(Result::ok);
            found.extend(sessions.filter_map(|element| session(&element).ok()));
        } else if index == 0 && name == "explain" {
            let inner = strict::document(&element).into_iter().flat_map(strict::elements).map_while(Result::ok);
            found.extend(inner.filter(|element| key(element) == "lsid").filter_map(|element| session(&element).ok()));
        }
    }
    found
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
