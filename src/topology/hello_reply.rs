//! Puts the gateway's addresses in the place of members' names, in one complete reply to `hello`.
//!
//! What is not a name stays to the byte. A reply that cannot be read is refused: names could stand in it.
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § hello.

use bson::raw::RawBsonRef;
use bson::{RawArray, RawArrayBuf, RawDocument};

use super::member_map::MemberMap;
use super::member_name::MemberName;
use crate::wire::bson_scan::kind;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// What clients are to read in the place of members' names.
#[derive(Debug, Clone, Copy)]
pub enum Names<'a> {
    /// The addresses of the members; `here` is the one that the client came to.
    Members {
        /// Who has which.
        map: &'a MemberMap,
        /// As `host:port`.
        here: &'a str,
    },
    /// None at all, but what tells this server from others behind the load balancer.
    LoadBalanced {
        /// An `ObjectId`.
        service_id: [u8; 12],
    },
}

/// A reply that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply to hello cannot be read")]
pub struct Unreadable;

const CHECKSUM_BYTES: usize = 4;

/// Where the documents of an `OP_REPLY` begin: flags, cursor, position and number stand before them.
const REPLY_HEAD_BYTES: usize = 20;

const OBJECT_ID: u8 = 0x07;

/// The message with other names, or `None` where there is nothing to change.
///
/// A checksum is verified, and made anew.
pub fn rewrite(message: &[u8], names: &Names<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>().ok_or(Unreadable)?;
    let header = Header::parse(*head).map_err(|_| Unreadable)?;
    if header.length as usize != message.len() {
        return Err(Unreadable);
    }
    let mut has_checksum = false;
    let rewritten = match header.op_code {
        OpCode::MSG => {
            let flags = u32::from_le_bytes(*body.first_chunk().ok_or(Unreadable)?);
            has_checksum = flags & flag::CHECKSUM_PRESENT != 0;
            let body = if has_checksum { checked(message, body)? } else { body };
            rewrite_msg(body, names)?
        }
        OpCode::REPLY => rewrite_reply(body, names)?,
        _ => return Err(Unreadable),
    };
    let Some(rewritten) = rewritten else { return Ok(None) };
    let checksum_bytes = if has_checksum { CHECKSUM_BYTES } else { 0 };
    let length = u32::try_from(HEADER_BYTES + rewritten.len() + checksum_bytes).map_err(|_| Unreadable)?;
    let mut out = Header { length, ..header }.to_bytes().to_vec();
    out.extend_from_slice(&rewritten);
    if has_checksum {
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    Ok(Some(out))
}

/// The body without its checksum, if that is right.
fn checked<'a>(message: &[u8], body: &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let (sealed, checksum) = message.split_last_chunk::<CHECKSUM_BYTES>().ok_or(Unreadable)?;
    if crc32c::crc32c(sealed) != u32::from_le_bytes(*checksum) {
        return Err(Unreadable);
    }
    body.get(..body.len().saturating_sub(CHECKSUM_BYTES)).filter(|body| body.len() >= 4).ok_or(Unreadable)
}

/// Flags and sections.
fn rewrite_msg(body: &[u8], names: &Names<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    let (flags, mut rest) = body.split_at_checked(4).ok_or(Unreadable)?;
    let mut out = flags.to_vec();
    let (mut changed, mut has_body) = (false, false);
    while !rest.is_empty() {
        let size = u32::from_le_bytes(*rest.get(1..).and_then(<[u8]>::first_chunk).ok_or(Unreadable)?) as usize;
        let (section, behind) = rest.split_at_checked(1 + size).ok_or(Unreadable)?;
        let (section_kind, content) = section.split_first().ok_or(Unreadable)?;
        out.push(*section_kind);
        match section_kind {
            0 if !has_body => {
                has_body = true;
                changed |= rewrite_document(content, names, &mut out)?;
            }
            1 if size >= 4 => out.extend_from_slice(content),
            _ => return Err(Unreadable),
        }
        rest = behind;
    }
    if has_body { Ok(changed.then_some(out)) } else { Err(Unreadable) }
}

/// An `OP_REPLY` without its header.
fn rewrite_reply(body: &[u8], names: &Names<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
    let (head, mut rest) = body.split_at_checked(REPLY_HEAD_BYTES).ok_or(Unreadable)?;
    let mut out = head.to_vec();
    let mut changed = false;
    while !rest.is_empty() {
        let size = u32::from_le_bytes(*rest.first_chunk().ok_or(Unreadable)?) as usize;
        let (document, behind) =
            rest.split_at_checked(size).filter(|(document, _)| !document.is_empty()).ok_or(Unreadable)?;
        changed |= rewrite_document(document, names, &mut out)?;
        rest = behind;
    }
    Ok(changed.then_some(out))
}

/// Appends `document` with other names, and tells whether anything has changed.
fn rewrite_document(bytes: &[u8], names: &Names<'_>, out: &mut Vec<u8>) -> Result<bool, Unreadable> {
    let document = RawDocument::from_bytes(bytes).map_err(|_| Unreadable)?;
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let is_of_set = is_of_set(document)?;
    let mut at = 4;
    let mut changed = false;
    for element in document.iter_elements() {
        let element = element.map_err(|_| Unreadable)?;
        let key = element.key().as_str();
        let end = at + 2 + key.len() + element.size();
        let original = bytes.get(at..end).ok_or(Unreadable)?;
        at = end;
        let value = element.value();
        match (key, names) {
            ("hosts" | "passives" | "arbiters" | "primary" | "me", _) if is_of_set => {
                let value = value.map_err(|_| Unreadable)?;
                changed |= rename(key, value, original, names, out)?;
            }
            ("serviceId", Names::LoadBalanced { .. }) => changed = true,
            _ => out.extend_from_slice(original),
        }
    }
    if let Names::LoadBalanced { service_id } = names
        && is_ok(document)
    {
        out.push(OBJECT_ID);
        out.extend_from_slice(b"serviceId\0");
        out.extend_from_slice(service_id);
        changed = true;
    }
    out.push(0);
    let length = u32::try_from(out.len() - start).map_err(|_| Unreadable)?;
    let place = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut).ok_or(Unreadable)?;
    *place = length.to_le_bytes();
    Ok(changed)
}

/// Whether it is a member of a set that speaks; or, where a field stands twice, whether it could be.
fn is_of_set(document: &RawDocument) -> Result<bool, Unreadable> {
    for element in document.iter_elements() {
        if element.map_err(|_| Unreadable)?.key().as_str() == "setName" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_ok(document: &RawDocument) -> bool {
    match document.get("ok") {
        Ok(Some(RawBsonRef::Double(ok))) => ok != 0.0,
        Ok(Some(RawBsonRef::Int32(ok))) => ok != 0,
        Ok(Some(RawBsonRef::Int64(ok))) => ok != 0,
        Ok(Some(RawBsonRef::Boolean(ok))) => ok,
        _ => false,
    }
}

/// Appends one field with other names, or nothing; whether that is a change.
fn rename(
    key: &str,
    value: RawBsonRef<'_>,
    original: &[u8],
    names: &Names<'_>,
    out: &mut Vec<u8>,
) -> Result<bool, Unreadable> {
    let Names::Members { map, here } = names else { return Ok(true) };
    let advertised = |name: &str| MemberName::parse(name).ok().and_then(|member| map.advertised(&member).cloned());
    let before = out.len();
    match (key, value) {
        ("primary", RawBsonRef::String(name)) => {
            if let Some(advertised) = advertised(name) {
                append_string(key, &advertised, out)?;
            }
        }
        ("me", RawBsonRef::String(name)) => append_string(key, advertised(name).as_deref().unwrap_or(here), out)?,
        ("hosts" | "passives" | "arbiters", RawBsonRef::Array(array)) => append_array(key, array, advertised, out)?,
        // No name that a driver could read.
        _ => {}
    }
    Ok(out.get(before..) != Some(original))
}

fn append_string(key: &str, text: &str, out: &mut Vec<u8>) -> Result<(), Unreadable> {
    out.push(kind::STRING);
    out.extend_from_slice(key.as_bytes());
    out.push(0);
    out.extend_from_slice(&u32::try_from(text.len() + 1).map_err(|_| Unreadable)?.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn append_array(
    key: &str,
    array: &RawArray,
    advertised: impl Fn(&str) -> Option<std::sync::Arc<str>>,
    out: &mut Vec<u8>,
) -> Result<(), Unreadable> {
    let mut renamed = RawArrayBuf::new();
    for value in array {
        if let Some(name) = value.map_err(|_| Unreadable)?.as_str().and_then(&advertised) {
            renamed.push(&*name);
        }
    }
    out.push(kind::ARRAY);
    out.extend_from_slice(key.as_bytes());
    out.push(0);
    out.extend_from_slice(renamed.as_bytes());
    Ok(())
}
