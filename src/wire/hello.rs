//! Takes fields out of a client's hello: `compression` always, so that mongod agrees to none and all traffic stays readable;
//! and what else the gateway does not want to be asked.
//!
//! Works on one complete message; everything but these fields is kept byte for byte.
//! Spec: mongodb/specifications `source/compression/OP_COMPRESSED.md` § `MongoDB` Handshake Amendment.

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// Whether `command` opens a conversation: `hello` and what it was called before 5.0.
pub fn is_hello(command: &[u8]) -> bool {
    matches!(command, b"hello" | b"isMaster" | b"ismaster")
}

/// The field by which compression is negotiated.
pub const COMPRESSION: &str = "compression";

/// The message without `fields`, or `None` when it has none of them or cannot be read.
///
/// A checksum is made anew. One that was wrong is not mended: `None`, and mongod refuses it as it would without us.
pub fn without(fields: &[&str], message: &[u8]) -> Option<Vec<u8>> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::parse(*head).ok()?;
    let rewritten = match header.op_code {
        OpCode::MSG => rewrite_msg(fields, message, body)?,
        OpCode::QUERY => rewrite_query(fields, body)?,
        _ => return None,
    };
    let length = u32::try_from(HEADER_BYTES + rewritten.len()).ok()?;
    let mut out = Header { length, ..header }.to_bytes().to_vec();
    out.extend_from_slice(&rewritten);
    if header.op_code == OpCode::MSG && has_checksum(&rewritten)? {
        let sealed = out.len().checked_sub(4)?;
        let checksum = crc32c::crc32c(out.get(..sealed)?);
        out.truncate(sealed);
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    Some(out)
}

fn has_checksum(msg_body: &[u8]) -> Option<bool> {
    Some(u32::from_le_bytes(*msg_body.first_chunk()?) & flag::CHECKSUM_PRESENT != 0)
}

/// The command of a complete request: its body, also where it stands in the `$query` wrapper of an `OP_QUERY`.
///
/// `None` where there is none, several, or something that cannot be read.
pub fn command_of(message: &[u8]) -> Option<&RawDocument> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>()?;
    let command = match Header::parse(*head).ok()?.op_code {
        OpCode::MSG => {
            let checksum_bytes = if has_checksum(body)? { 4 } else { 0 };
            let mut rest = body.get(4..body.len().checked_sub(checksum_bytes)?)?;
            let mut found = None;
            while !rest.is_empty() {
                let size = u32::from_le_bytes(*rest.get(1..)?.first_chunk()?) as usize;
                let (section, behind) = rest.split_at_checked(1 + size)?;
                match section.split_first()? {
                    (0, document) if found.is_none() => found = Some(document),
                    (1, _) if size >= 4 => {}
                    _ => return None,
                }
                rest = behind;
            }
            RawDocument::from_bytes(found?).ok()?
        }
        OpCode::QUERY => {
            let name_end = body.get(4..)?.iter().position(|b| *b == 0)?;
            let rest = body.get(4 + name_end + 1 + 8..)?;
            let size = u32::from_le_bytes(*rest.first_chunk()?) as usize;
            let document = RawDocument::from_bytes(rest.get(..size)?).ok()?;
            match document.iter().next()?.ok()? {
                (name, RawBsonRef::Document(inner)) if matches!(name.as_str(), "$query" | "query") => inner,
                _ => document,
            }
        }
        _ => return None,
    };
    // Walks it once, so that later reads find no damage.
    command.iter().all(|element| element.is_ok()).then_some(command)
}

/// The body of an `OP_MSG` with its command rewritten; the bytes of its checksum, if any, are left for the caller.
fn rewrite_msg(fields: &[&str], message: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let checksum_bytes = if has_checksum(body)? {
        let (sealed, checksum) = message.split_last_chunk::<4>()?;
        (crc32c::crc32c(sealed) == u32::from_le_bytes(*checksum)).then_some(4)?
    } else {
        0
    };
    let mut at = 4;
    let end = body.len().checked_sub(checksum_bytes)?;
    while at < end {
        let section = body.get(at..end)?;
        let size = u32::from_le_bytes(*section.get(1..)?.first_chunk()?) as usize;
        let section = section.get(..1 + size)?;
        match section.split_first()? {
            (0, document) => {
                let document = without_fields(fields, RawDocument::from_bytes(document).ok()?)?;
                return Some([body.get(..=at)?, document.as_bytes(), body.get(at + section.len()..)?].concat());
            }
            (1, _) => at += section.len(),
            _ => return None,
        }
    }
    None
}

/// The body of an `OP_QUERY` with its command rewritten, also where it stands in a `$query` wrapper.
fn rewrite_query(fields: &[&str], body: &[u8]) -> Option<Vec<u8>> {
    let name_end = body.get(4..)?.iter().position(|b| *b == 0)?;
    let head_bytes = 4 + name_end + 1 + 8;
    let (head, rest) = body.split_at_checked(head_bytes)?;
    let size = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let (document, behind) = rest.split_at_checked(size)?;
    let document = RawDocument::from_bytes(document).ok()?;
    let (first_name, first) = document.iter().next()?.ok()?;
    let document = match first {
        RawBsonRef::Document(inner) if matches!(first_name.as_str(), "$query" | "query") => {
            rewrap(document, &without_fields(fields, inner)?)?
        }
        _ => without_fields(fields, document)?,
    };
    Some([head, document.as_bytes(), behind].concat())
}

/// `wrapper` with `inner` as its first value.
fn rewrap(wrapper: &RawDocument, inner: &RawDocumentBuf) -> Option<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    for (index, element) in wrapper.iter().enumerate() {
        let (name, value) = element.ok()?;
        if index == 0 { out.append(name, inner.clone()) } else { out.append(name, value) }
    }
    Some(out)
}

/// `command` without `fields`; `None` when it has none of them.
fn without_fields(fields: &[&str], command: &RawDocument) -> Option<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    let mut found = false;
    for element in command {
        let (name, value) = element.ok()?;
        if fields.contains(&name.as_str()) {
            found = true;
        } else {
            out.append(name, value);
        }
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn message(op_code: OpCode, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let header = Header { length, request_id: 5, response_to: 0, op_code };
        [&header.to_bytes(), body].concat()
    }

    fn msg(document: &Document, flags: u32) -> Vec<u8> {
        let body = [&flags.to_le_bytes()[..], &[0], &bson::serialize_to_vec(document).unwrap()].concat();
        if flags & 1 == 0 {
            return message(OpCode::MSG, &body);
        }
        let mut out = message(OpCode::MSG, &[body, vec![0; 4]].concat());
        let sealed = out.len() - 4;
        let checksum = crc32c::crc32c(&out[..sealed]);
        out[sealed..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    fn query(document: &Document) -> Vec<u8> {
        let head = [&[0; 4][..], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes()].concat();
        message(OpCode::QUERY, &[head, bson::serialize_to_vec(document).unwrap()].concat())
    }

    #[test]
    fn the_field_goes_and_everything_else_stays_to_the_byte() {
        let with =
            doc! { "hello": 1, "client": { "driver": { "name": "x" } }, "compression": ["zlib"], "$db": "admin" };
        let gone = doc! { "hello": 1, "client": { "driver": { "name": "x" } }, "$db": "admin" };
        for flags in [0, 1, 1 << 16] {
            assert_eq!(without(&[COMPRESSION], &msg(&with, flags)), Some(msg(&gone, flags)));
            assert_eq!(without(&[COMPRESSION], &msg(&gone, flags)), None, "rewriting twice changes nothing");
        }
        assert_eq!(without(&[COMPRESSION], &query(&with)), Some(query(&gone)));
        for wrapper in ["$query", "query"] {
            let wrap =
                |inner: &Document| query(&doc! { wrapper: inner.clone(), "$readPreference": { "mode": "primary" } });
            assert_eq!(without(&[COMPRESSION], &wrap(&with)), Some(wrap(&gone)));
        }
    }

    #[test]
    fn a_section_before_and_behind_the_command_is_kept() {
        let sequence = [&[1][..], &6_i32.to_le_bytes(), b"a\0"].concat();
        let build = |d: &Document| {
            let command = [vec![0], bson::serialize_to_vec(d).unwrap()].concat();
            message(OpCode::MSG, &[vec![0; 4], sequence.clone(), command, sequence.clone()].concat())
        };
        let with = doc! { "hello": 1, "compression": [] };
        assert_eq!(without(&[COMPRESSION], &build(&with)), Some(build(&doc! { "hello": 1 })));
    }

    #[test]
    fn what_cannot_be_read_passes_as_it_is() {
        let good = msg(&doc! { "hello": 1, "compression": ["zlib"] }, 1);
        let mut wrong_checksum = good.clone();
        *wrong_checksum.last_mut().unwrap() ^= 1;
        assert_eq!(without(&[COMPRESSION], &wrong_checksum), None);
        for end in 0..good.len() {
            assert_eq!(without(&[COMPRESSION], &good[..end]), None);
        }
    }
}
