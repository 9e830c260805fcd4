//! Facts of a reply: whether the command succeeded, its error if not, and whether another reply follows.

use bson::raw::cstr;
use bson::{RawDocument, RawDocumentBuf, Timestamp};

use crate::wire::bson_scan::{Element, kind};
use crate::wire::message_scan::{FieldVisitor, flag};
use crate::wire::short_text::ShortText;

/// The longest code name that is kept, in bytes. The longest of MongoDB has 54.
const CODE_NAME_BYTES_MAX: usize = 64;

/// The longest `$clusterTime` that is kept, in bytes. With a timestamp and a signature of 20 bytes it has 88.
const CLUSTER_TIME_BYTES_MAX: usize = 112;

/// The BSON type of a timestamp.
const TIMESTAMP: u8 = 0x11;

/// The facts of one reply, collected while it is being forwarded.
#[derive(Debug, Clone, Default)]
pub struct ReplyFacts {
    flags: u32,
    ok: Option<bool>,
    code: Option<i32>,
    code_name: Option<ShortText<CODE_NAME_BYTES_MAX>>,
    cursor: Option<i64>,
    keeps_times: bool,
    operation_time: Option<[u8; 8]>,
    cluster_time: Option<ShortText<CLUSTER_TIME_BYTES_MAX>>,
}

/// The times that a member of a replica set or a mongos adds to its replies, as raw BSON values.
///
/// Spec: mongodb/specifications `source/sessions/driver-sessions.md` § Gossipping the cluster time,
/// `source/causal-consistency/causal-consistency.md`.
#[derive(Debug, Clone)]
pub struct ClusterTimes {
    operation_time: [u8; 8],
    cluster_time: ShortText<CLUSTER_TIME_BYTES_MAX>,
}

impl ClusterTimes {
    /// Appends both to the local reply `body`.
    pub fn append_to(&self, body: &mut RawDocumentBuf) {
        if let Ok(cluster_time) = RawDocument::from_bytes(self.cluster_time.as_bytes()) {
            body.append(cstr!("$clusterTime"), cluster_time.to_owned());
        }
        let [i0, i1, i2, i3, t0, t1, t2, t3] = self.operation_time;
        let (increment, time) = (u32::from_le_bytes([i0, i1, i2, i3]), u32::from_le_bytes([t0, t1, t2, t3]));
        body.append(cstr!("operationTime"), Timestamp { time, increment });
    }
}

impl ReplyFacts {
    /// Resets all facts for the next message. `keeps_times`: whether [`ReplyFacts::times`] is needed.
    pub fn clear(&mut self, keeps_times: bool) {
        // Field by field: setting an absent text to `None` does not have to overwrite its bytes.
        let Self { flags, ok, code, code_name, cursor, keeps_times: keeps, operation_time, cluster_time } = self;
        (*flags, *ok, *code, *code_name, *cursor) = (0, None, None, None, None);
        (*keeps, *operation_time, *cluster_time) = (keeps_times, None, None);
    }

    /// The times of the reply; `None` if one is missing or they were not kept.
    pub fn times(&self) -> Option<ClusterTimes> {
        let cluster_time = self.cluster_time.as_ref()?;
        Some(ClusterTimes { operation_time: self.operation_time?, cluster_time: *cluster_time })
    }

    /// Whether the command succeeded; `None` if the reply has no `ok` field.
    pub fn ok(&self) -> Option<bool> {
        self.ok
    }

    /// The error code.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// The name of the error code.
    pub fn code_name(&self) -> Option<&[u8]> {
        self.code_name.as_ref().map(ShortText::as_bytes)
    }

    /// The cursor ID of the reply; 0 if the cursor is exhausted.
    pub fn cursor(&self) -> Option<i64> {
        self.cursor
    }

    /// Whether another reply follows without a request (exhaust cursor, streaming hello).
    pub fn more_to_come(&self) -> bool {
        self.flags & flag::MORE_TO_COME != 0
    }
}

impl FieldVisitor for ReplyFacts {
    const READS_CURSOR: bool = true;

    fn flags(&mut self, flags: u32) {
        self.flags = flags;
    }

    fn query_namespace(&mut self, _namespace: &[u8]) {}

    fn element(&mut self, element: &Element<'_>) {
        match element.name {
            b"ok" => self.ok = element.number().map(|n| n != 0),
            b"code" => self.code = element.number().and_then(|code| i32::try_from(code).ok()),
            b"operationTime" if self.keeps_times && element.kind == TIMESTAMP => {
                self.operation_time = element.value.and_then(|value| value.first_chunk().copied());
            }
            b"$clusterTime" if self.keeps_times && element.kind == kind::DOCUMENT => {
                self.cluster_time = element.value.and_then(ShortText::new);
            }
            b"codeName" => self.code_name = element.string().and_then(ShortText::new),
            _ => {}
        }
    }

    fn cursor(&mut self, id: i64) {
        self.cursor = Some(id);
    }
}
