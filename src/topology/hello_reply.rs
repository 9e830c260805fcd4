//! Rewrites the member names in a reply to `hello`, so that a driver keeps connecting to the gateway.
//!
//! Works on one complete message that the caller knows to be the reply to a hello. All bytes except the five fields
//! with member names are kept. A reply that cannot be parsed with certainty is an error and must not be forwarded.
//!
//! A primary that stands in for another member of the set is not shown as primary. Drivers would see the same primary
//! at two addresses, and each of the two would end the other's role again and again.

use crate::wire::bson_elements::{DocumentBytes, WholeElement, WholeElements};
use crate::wire::bson_scan::{Malformed, kind};
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

use super::member_map::MemberMap;

use RewriteError::Unreadable;

/// What the client receives in place of the members' names.
#[derive(Debug, Clone, Copy)]
pub enum MemberNaming<'a> {
    /// An address of the gateway for each member. Members without an address are omitted, except the one that replies.
    Members {
        /// The addresses of the members.
        map: &'a MemberMap,
        /// The address that the client is connected to. It names the member that replies if that has no address.
        here: &'a str,
    },
    /// One address for the whole set: no names, but the `serviceId` that a driver in load-balanced mode requires.
    LoadBalanced {
        /// Identifies the mongod of this connection: the value of an `ObjectId`.
        service_id: [u8; 12],
    },
}

/// Why a reply must not be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It cannot be parsed, so it is not known whether it contains member names.
    #[error("a reply to hello that cannot be parsed")]
    Unreadable,
    /// It lists members, and the gateway knows none of them yet: they have just got other names. A driver that reads an
    /// empty list forgets the whole set, and never connects again.
    #[error("a reply to hello that lists only members that the gateway does not know yet")]
    MembersUnknown,
}

impl From<Malformed> for RewriteError {
    fn from(_: Malformed) -> Self {
        Unreadable
    }
}

/// Length of `flagBits`.
const FLAGS_BYTES: usize = 4;
/// Length of the part before the documents of an `OP_REPLY`: flags, cursor ID, starting point, number of documents.
const REPLY_HEAD_BYTES: usize = 20;

/// BSON type of an `ObjectId`.
const OBJECT_ID: u8 = 0x07;

/// The message with its member names rewritten; `None` if nothing has to be changed.
///
/// A checksum is verified and recomputed.
pub fn rewrite(message: &[u8], naming: &MemberNaming<'_>) -> Result<Option<Vec<u8>>, RewriteError> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>().ok_or(Unreadable)?;
    let header = Header::parse(*head).map_err(|_| Unreadable)?;
    if header.length as usize != message.len() {
        return Err(Unreadable);
    }
    let mut out = Vec::with_capacity(message.len() + 64);
    out.extend_from_slice(head);
    match header.op_code {
        OpCode::MSG => rewrite_msg(message, body, naming, &mut out)?,
        OpCode::REPLY => rewrite_reply(body, naming, &mut out)?,
        _ => return Err(Unreadable),
    }
    if out == message {
        return Ok(None);
    }
    let length = u32::try_from(out.len()).map_err(|_| Unreadable)?;
    *out.first_chunk_mut().ok_or(Unreadable)? = length.to_le_bytes();
    if header.op_code == OpCode::MSG && has_checksum(body)? {
        let (sealed, checksum) = out.split_last_chunk_mut::<4>().ok_or(Unreadable)?;
        *checksum = crc32c::crc32c(sealed).to_le_bytes();
    }
    Ok(Some(out))
}

fn has_checksum(msg_body: &[u8]) -> Result<bool, RewriteError> {
    let flags = u32::from_le_bytes(*msg_body.first_chunk().ok_or(Unreadable)?);
    // Required flags that are not known here: the format of the rest is unknown.
    if flags & flag::REQUIRED & !flag::KNOWN != 0 {
        return Err(Unreadable);
    }
    Ok(flags & flag::CHECKSUM_PRESENT != 0)
}

/// Appends the body with its command document rewritten. The checksum is copied; the caller recomputes it.
fn rewrite_msg(message: &[u8], body: &[u8], naming: &MemberNaming<'_>, out: &mut Vec<u8>) -> Result<(), RewriteError> {
    let checksum: &[u8] = if has_checksum(body)? {
        let (sealed, checksum) = message.split_last_chunk::<4>().ok_or(Unreadable)?;
        if crc32c::crc32c(sealed) != u32::from_le_bytes(*checksum) {
            return Err(Unreadable);
        }
        checksum
    } else {
        &[]
    };
    let sections_end = body.len().checked_sub(checksum.len()).ok_or(Unreadable)?;
    let (flags, mut rest) = body.get(..sections_end).and_then(|b| b.split_at_checked(FLAGS_BYTES)).ok_or(Unreadable)?;
    out.extend_from_slice(flags);
    let mut documents = 0;
    while let Some((section_kind, behind)) = rest.split_first() {
        let size = u32::from_le_bytes(*behind.first_chunk().ok_or(Unreadable)?) as usize;
        let (section, behind) = behind.split_at_checked(size).ok_or(Unreadable)?;
        out.push(*section_kind);
        match section_kind {
            0 => {
                documents += 1;
                out.extend_from_slice(&rewrite_document(section, naming)?);
            }
            1 => {
                check_sequence(section)?;
                out.extend_from_slice(section);
            }
            _ => return Err(Unreadable),
        }
        rest = behind;
    }
    out.extend_from_slice(checksum);
    if documents == 1 { Ok(()) } else { Err(Unreadable) }
}

/// mongod replies to hello without document sequences. A sequence for one of the rewritten fields is an error.
fn check_sequence(section: &[u8]) -> Result<(), RewriteError> {
    let identifier = section.get(4..).ok_or(Unreadable)?;
    let end = identifier.iter().position(|byte| *byte == 0).ok_or(Unreadable)?;
    let field = identifier.get(..end).unwrap_or_default().split(|byte| *byte == b'.').next();
    if field.is_some_and(|field| Field::of(field).is_some()) { Err(Unreadable) } else { Ok(()) }
}

/// Appends the body with all its documents rewritten.
fn rewrite_reply(body: &[u8], naming: &MemberNaming<'_>, out: &mut Vec<u8>) -> Result<(), RewriteError> {
    let (head, mut rest) = body.split_at_checked(REPLY_HEAD_BYTES).ok_or(Unreadable)?;
    let (_, count) = head.split_last_chunk().ok_or(Unreadable)?;
    out.extend_from_slice(head);
    for _ in 0..u32::try_from(i32::from_le_bytes(*count)).map_err(|_| Unreadable)? {
        let size = u32::from_le_bytes(*rest.first_chunk().ok_or(Unreadable)?) as usize;
        let (document, behind) = rest.split_at_checked(size).ok_or(Unreadable)?;
        out.extend_from_slice(&rewrite_document(document, naming)?);
        rest = behind;
    }
    if rest.is_empty() { Ok(()) } else { Err(Unreadable) }
}

/// The fields that are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// `hosts`, `passives`, `arbiters`.
    Members,
    Primary,
    Me,
    /// `isWritablePrimary`, `ismaster`.
    IsPrimary,
    ServiceId,
}

impl Field {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"hosts" | b"passives" | b"arbiters" => Some(Self::Members),
            b"primary" => Some(Self::Primary),
            b"me" => Some(Self::Me),
            b"isWritablePrimary" | b"ismaster" => Some(Self::IsPrimary),
            b"serviceId" => Some(Self::ServiceId),
            _ => None,
        }
    }
}

fn rewrite_document(document: &[u8], naming: &MemberNaming<'_>) -> Result<Vec<u8>, RewriteError> {
    let mut out = DocumentBytes::with_capacity(document.len() + 64);
    match naming {
        MemberNaming::Members { map, here } => name_members(document, map, here, &mut out)?,
        MemberNaming::LoadBalanced { service_id } => put_service_id(document, service_id, &mut out)?,
    }
    Ok(out.finish())
}

fn name_members(document: &[u8], map: &MemberMap, here: &str, out: &mut DocumentBytes) -> Result<(), RewriteError> {
    let names = Names { map, here, me: own_name(document)? };
    let mut counts = ListedCounts::default();
    for element in WholeElements::new(document) {
        let element = element?;
        match Field::of(element.name) {
            Some(Field::Members) => {
                out.push_value(element.kind, element.name, &name_list(&element, &names, &mut counts)?);
            }
            Some(Field::Primary) => {
                if let Some(primary) = names.of(element.string().ok_or(Unreadable)?) {
                    out.push_string(element.name, primary);
                }
            }
            Some(Field::Me) => {
                let me = map.advertised(element.string().ok_or(Unreadable)?);
                out.push_string(element.name, me.unwrap_or(here));
            }
            Some(Field::IsPrimary) if element.kind == kind::BOOLEAN && names.stands_in() => {
                out.push_value(element.kind, element.name, &[0]);
            }
            Some(Field::IsPrimary | Field::ServiceId) | None => out.push(element.bytes),
        }
    }
    if counts.named == 0 && counts.unknown > 0 { Err(RewriteError::MembersUnknown) } else { Ok(()) }
}

/// The members in the lists of one reply.
#[derive(Default)]
struct ListedCounts {
    /// Those that the client can be told.
    named: usize,
    /// Those that the gateway has not heard of.
    unknown: usize,
}

/// What the members are called in one reply.
struct Names<'a> {
    map: &'a MemberMap,
    here: &'a str,
    /// The name of the member that replies.
    me: Option<&'a [u8]>,
}

impl Names<'_> {
    /// The address of the member `name`.
    fn of(&self, name: &[u8]) -> Option<&str> {
        let is_me = self.me.is_some_and(|me| me.eq_ignore_ascii_case(name));
        self.map.advertised(name).or_else(|| is_me.then_some(self.here))
    }

    /// The address of the member `name` in a list, which has no address twice.
    fn listed(&self, name: &[u8]) -> Option<&str> {
        self.map.advertised(name).or_else(|| self.of(name).filter(|_| !self.map.is_assigned(self.here)))
    }

    /// Whether the client is connected to the address of another member of the set than the one that replies.
    fn stands_in(&self) -> bool {
        let own = self.me.and_then(|me| self.map.advertised(me));
        own.is_some_and(|own| own != self.here) && self.map.is_assigned(self.here)
    }
}

/// The value of `me`. As mongod writes the field, it comes after the lists that need it.
fn own_name(document: &[u8]) -> Result<Option<&[u8]>, RewriteError> {
    let mut own_name = None;
    for element in WholeElements::new(document) {
        let element = element?;
        if Field::of(element.name) == Some(Field::Me) {
            own_name = Some(element.string().ok_or(Unreadable)?);
        }
    }
    Ok(own_name)
}

/// A list of members, rewritten to their addresses of the gateway, as the value of an array.
fn name_list(list: &WholeElement<'_>, names: &Names<'_>, counts: &mut ListedCounts) -> Result<Vec<u8>, RewriteError> {
    if list.kind != kind::ARRAY {
        return Err(Unreadable);
    }
    let mut out = DocumentBytes::with_capacity(list.value.len());
    let mut index = 0_usize;
    for element in WholeElements::new(list.value) {
        let name = element?.string().ok_or(Unreadable)?;
        if let Some(advertised) = names.listed(name) {
            out.push_string(index.to_string().as_bytes(), advertised);
            index += 1;
        } else if !names.map.has_no_address_for(name) {
            counts.unknown += 1;
        }
    }
    counts.named += index;
    Ok(out.finish())
}

/// Removes all member names, and sets `serviceId` if the reply is not an error.
fn put_service_id(document: &[u8], service_id: &[u8; 12], out: &mut DocumentBytes) -> Result<(), RewriteError> {
    let mut is_ok = false;
    let mut is_put = false;
    for element in WholeElements::new(document) {
        let element = element?;
        match Field::of(element.name) {
            Some(Field::ServiceId) => {
                if !is_put {
                    out.push_value(OBJECT_ID, element.name, service_id);
                    is_put = true;
                }
            }
            Some(Field::Members | Field::Primary | Field::Me) => {}
            Some(Field::IsPrimary) | None => {
                is_ok |= element.name == b"ok" && element.number().is_some_and(|ok| ok != 0);
                out.push(element.bytes);
            }
        }
    }
    if is_ok && !is_put {
        out.push_value(OBJECT_ID, b"serviceId", service_id);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
