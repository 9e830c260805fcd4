//! Encodes `OP_MSG`, and reads the document sequences of one.
//!
//! Spec: `MongoDB` wire protocol § `OP_MSG`; mongodb/specifications `source/message/OP_MSG.md`.

use bson::RawDocumentBuf;

use crate::wire::bson_scan::cstring;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// A complete `OP_MSG` with one body section, no flags and no checksum.
///
/// `body` and the 21 bytes around it must be shorter than 2 GiB; the gateway's own messages are far smaller.
pub fn encode(request_id: i32, response_to: i32, body: &RawDocumentBuf) -> Vec<u8> {
    encode_with(0, request_id, response_to, body)
}

/// As [`encode`], with `flags`. The flag for a checksum must not be set.
pub fn encode_with(flags: u32, request_id: i32, response_to: i32, body: &RawDocumentBuf) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + 5 + body.as_bytes().len()).unwrap_or(u32::MAX);
    let header = Header { length, request_id, response_to, op_code: OpCode::MSG };
    let mut message = header.to_bytes().to_vec();
    message.extend_from_slice(&flags.to_le_bytes());
    message.push(0);
    message.extend_from_slice(body.as_bytes());
    message
}

/// The document sequences of a complete `OP_MSG`: for each, its identifier and the concatenated bytes of its documents.
///
/// `None` if a section is malformed. The documents are not parsed.
pub fn sequences(message: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let body = message.get(HEADER_BYTES..)?;
    let (flags, sections) = body.split_first_chunk()?;
    let checksum_bytes = if u32::from_le_bytes(*flags) & flag::CHECKSUM_PRESENT != 0 { 4 } else { 0 };
    let mut rest = sections.get(..sections.len().checked_sub(checksum_bytes)?)?;
    let mut found = Vec::new();
    while let Some((kind, section)) = rest.split_first() {
        let size = u32::from_le_bytes(*section.first_chunk()?) as usize;
        let (section, behind) = section.split_at_checked(size)?;
        match kind {
            0 => {}
            1 => found.push(cstring(section.get(4..)?).ok()??),
            _ => return None,
        }
        rest = behind;
    }
    Some(found)
}
