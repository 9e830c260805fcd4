//! `OP_MSG`: flags, sections, checksum.
//!
//! Spec: `MongoDB` wire protocol § `OP_MSG`; mongodb/specifications `source/message/OP_MSG.md`.

use bson::RawDocumentBuf;

use crate::wire::header::{HEADER_BYTES, Header, OpCode};

/// A complete `OP_MSG` with one body section, no flags and no checksum.
///
/// `body` must leave room for the 21 bytes around it below 2 GiB; what the gateway builds itself is far smaller.
pub fn encode(request_id: i32, response_to: i32, body: &RawDocumentBuf) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + 5 + body.as_bytes().len()).unwrap_or(u32::MAX);
    let header = Header { length, request_id, response_to, op_code: OpCode::MSG };
    let mut message = header.to_bytes().to_vec();
    message.extend_from_slice(&[0, 0, 0, 0, 0]);
    message.extend_from_slice(body.as_bytes());
    message
}
