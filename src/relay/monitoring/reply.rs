//! Builds the reply to a hello from what the member said last.

use std::time::Instant;

use bson::RawDocumentBuf;

use crate::relay::monitoring::question::ReplyStyle;
use crate::topology::KnownHello;
use crate::wire::bson_elements::{DocumentBytes, WholeElement, WholeElements};
use crate::wire::bson_scan::kind;

/// BSON type of a date: milliseconds since 1970 in 64 bits.
const DATE: u8 = 0x09;

/// The field that says whether a member is the primary, by its current name and by its name before MongoDB 5.0.
const IS_PRIMARY: &[u8] = b"isWritablePrimary";
const IS_MASTER: &[u8] = b"ismaster";

/// The document of the reply, in the order of fields that mongod has. `None` if the member itself would not reply like
/// this: servers before 4.4.2 do not know `hello`.
///
/// `connectionId` is that of the gateway's monitor, to which mongod said all of it: a number of the gateway's own could
/// be that of another connection in mongod's log.
pub(super) fn document(known: &KnownHello, style: ReplyStyle, now: Instant) -> Option<RawDocumentBuf> {
    let source = known.document.as_bytes();
    let mut out = DocumentBytes::with_capacity(source.len() + 16);
    let mut knows_hello = false;
    for element in WholeElements::new(source) {
        knows_hello |= element.ok()?.name == IS_PRIMARY;
    }
    if !knows_hello && !style.is_legacy {
        return None;
    }
    if style.asks_hello_ok && knows_hello {
        out.push_value(kind::BOOLEAN, b"helloOk", &[1]);
    }
    for element in WholeElements::new(source) {
        let element = element.ok()?;
        match element.name {
            IS_PRIMARY if style.is_legacy => out.push_value(element.kind, IS_MASTER, element.value),
            b"localTime" if element.kind == DATE => push_time(&mut out, &element, known, now),
            _ => out.push(element.bytes),
        }
    }
    RawDocumentBuf::from_bytes(out.finish()).ok()
}

/// Pushes the time of the member's clock at `now`. A client that compares clocks needs that of the member, not that of
/// the gateway.
fn push_time(out: &mut DocumentBytes, local_time: &WholeElement<'_>, known: &KnownHello, now: Instant) {
    let Some(then) = local_time.value.first_chunk() else { return out.push(local_time.bytes) };
    let age = now.saturating_duration_since(known.received).as_millis();
    let time = i64::from_le_bytes(*then).saturating_add(i64::try_from(age).unwrap_or(i64::MAX));
    out.push_value(DATE, local_time.name, &time.to_le_bytes());
}
