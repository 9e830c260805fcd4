//! Facts of a reply: whether the command succeeded, its error if not, and whether another reply follows.

use crate::wire::bson_scan::Element;
use crate::wire::message_scan::{FieldVisitor, flag};
use crate::wire::short_text::ShortText;

/// The longest code name that is kept, in bytes. The longest of MongoDB has 54.
const CODE_NAME_BYTES_MAX: usize = 64;

/// The facts of one reply, collected while it is being forwarded.
#[derive(Debug, Clone, Default)]
pub struct ReplyFacts {
    flags: u32,
    ok: Option<bool>,
    code: Option<i32>,
    code_name: Option<ShortText<CODE_NAME_BYTES_MAX>>,
    cursor: Option<i64>,
}

impl ReplyFacts {
    /// Resets all facts for the next message.
    pub fn clear(&mut self) {
        *self = Self::default();
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
            b"codeName" => self.code_name = element.string().and_then(ShortText::new),
            _ => {}
        }
    }

    fn cursor(&mut self, id: i64) {
        self.cursor = Some(id);
    }
}
