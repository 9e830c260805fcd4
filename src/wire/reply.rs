//! What a reply says of itself: whether the command succeeded, the error where it did not, and whether more follows.

use crate::wire::bson_scan::Element;
use crate::wire::message_scan::{FieldVisitor, flag};
use crate::wire::short_text::ShortText;

/// Longest code name that is kept; `MongoDB`'s longest has 54 bytes.
const CODE_NAME_BYTES_MAX: usize = 64;

/// The facts of one reply, filled while it streams by.
#[derive(Debug, Clone, Default)]
pub struct ReplyFacts {
    flags: u32,
    ok: Option<bool>,
    code: Option<i32>,
    code_name: Option<ShortText<CODE_NAME_BYTES_MAX>>,
    cursor: Option<i64>,
}

impl ReplyFacts {
    /// Forgets everything, for the next message.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The command's outcome; `None` when the reply does not say.
    pub fn ok(&self) -> Option<bool> {
        self.ok
    }

    /// The error code.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// The error's name.
    pub fn code_name(&self) -> Option<&[u8]> {
        self.code_name.as_ref().map(ShortText::as_bytes)
    }

    /// The id of the cursor that the reply speaks of; 0 when that is exhausted.
    pub fn cursor(&self) -> Option<i64> {
        self.cursor
    }

    /// Whether another reply follows without a request.
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
