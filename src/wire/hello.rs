//! Removes fields from a client's hello that the server must not see: always `compression`, so that all traffic stays
//! readable; the fields for authentication, where the gateway authenticates; `loadBalanced`, where the gateway acts as
//! the load balancer.
//!
//! Works on one complete message. All other bytes are kept.
//! Spec: mongodb/specifications `source/mongodb-handshake/handshake.md`; `source/compression/OP_COMPRESSED.md`
//! § `MongoDB` Handshake Amendment.

use bson::RawDocument;

use crate::wire::bson_elements::{DocumentBytes, WholeElement, WholeElements};
use crate::wire::bson_scan::{Malformed, cstring, kind};
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::message_scan::flag;

/// Whether `command` is a hello: `hello`, or its legacy names before MongoDB 5.0.
pub fn is_hello(command: &[u8]) -> bool {
    matches!(command, b"hello" | b"isMaster" | b"ismaster")
}

/// Which fields are removed in addition to `compression`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Withheld {
    /// Remove the fields of authentication, and those by which a client claims to be a server.
    pub authentication: bool,
    /// Remove `loadBalanced`.
    pub load_balancing: bool,
    /// Remove `client`: mongod takes it only once on a connection.
    pub client: bool,
}

impl Withheld {
    fn has(self, field: &[u8]) -> bool {
        match field {
            b"compression" => true,
            b"speculativeAuthenticate" | b"saslSupportedMechs" | b"internalClient" | b"hostInfo" => self.authentication,
            b"loadBalanced" => self.load_balancing,
            b"client" => self.client,
            _ => false,
        }
    }
}

/// The message without the withheld fields; `None` if it has none of them.
///
/// The checksum of the message is recomputed. A message with a wrong checksum is malformed.
pub fn without(message: &[u8], withheld: Withheld) -> Result<Option<Vec<u8>>, Malformed> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
    let header = Header::parse(*head).map_err(|_| Malformed)?;
    let rewritten = match header.op_code {
        OpCode::MSG => rewrite_msg(message, body, withheld)?,
        OpCode::QUERY => rewrite_query(body, withheld)?,
        _ => return Err(Malformed),
    };
    let Some(rewritten) = rewritten else { return Ok(None) };
    let length = u32::try_from(HEADER_BYTES + rewritten.len()).map_err(|_| Malformed)?;
    let mut out = Header { length, ..header }.to_bytes().to_vec();
    out.extend_from_slice(&rewritten);
    if header.op_code == OpCode::MSG && has_checksum(&rewritten)? {
        let (sealed, checksum) = out.split_last_chunk_mut::<4>().ok_or(Malformed)?;
        *checksum = crc32c::crc32c(sealed).to_le_bytes();
    }
    Ok(Some(out))
}

/// The `client` document of a hello, which says which application and driver the client is; `None` where there is none,
/// or where the message cannot be read.
pub fn client_of(message: &[u8]) -> Option<&[u8]> {
    fields_of(message)?.find(|element| element.name == b"client").map(|element| element.value)
}

/// Whether a hello says that the client is a server. mongod treats the requests of servers in another way.
pub fn claims_to_be_server(message: &[u8]) -> bool {
    let is_claim = |element: WholeElement<'_>| matches!(element.name, b"internalClient" | b"hostInfo");
    fields_of(message).is_some_and(|mut fields| fields.any(is_claim))
}

/// The fields of the command in a hello, up to the first that cannot be read.
fn fields_of(message: &[u8]) -> Option<impl Iterator<Item = WholeElement<'_>>> {
    let (head, body) = message.split_first_chunk::<HEADER_BYTES>()?;
    let mut document = match Header::parse(*head).ok()?.op_code {
        OpCode::MSG => command_of_msg(body.get(4..)?)?,
        OpCode::QUERY => {
            let (_, after_name) = cstring(body.get(4..)?).ok()??;
            sized(after_name.get(8..)?)?
        }
        _ => return None,
    };
    let first = WholeElements::new(document).next()?.ok()?;
    if first.kind == kind::DOCUMENT && matches!(first.name, b"$query" | b"query") {
        document = first.value;
    }
    Some(WholeElements::new(document).map_while(Result::ok))
}

/// The name of the field in a hello that begins an authentication, and in the reply of the one that ends it.
pub const SPECULATIVE_AUTHENTICATE: &[u8] = b"speculativeAuthenticate";

/// The reply to a hello, a message of any of both types, with one more field. `name` must not contain a NUL.
///
/// Fails where the message is not a single document without a checksum, or has the field already.
pub fn reply_with(reply: &[u8], name: &[u8], document: &RawDocument) -> Result<Vec<u8>, Malformed> {
    /// The flags and the type of the section, or everything before the document of an `OP_REPLY`.
    const MSG_HEAD_BYTES: usize = 5;
    const REPLY_HEAD_BYTES: usize = 20;
    let (head, body) = reply.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
    let header = Header::parse(*head).map_err(|_| Malformed)?;
    let head_bytes = match header.op_code {
        OpCode::MSG if !has_checksum(body)? && body.get(4) == Some(&0) => MSG_HEAD_BYTES,
        OpCode::REPLY => REPLY_HEAD_BYTES,
        _ => return Err(Malformed),
    };
    let (before, fields) = body.split_at_checked(head_bytes).ok_or(Malformed)?;
    let mut out = DocumentBytes::with_capacity(fields.len() + document.as_bytes().len() + name.len() + 2);
    for element in WholeElements::new(fields) {
        let element = element?;
        if element.name == name {
            return Err(Malformed);
        }
        out.push(element.bytes);
    }
    out.push_value(kind::DOCUMENT, name, document.as_bytes());
    let fields = out.finish();
    let length = u32::try_from(HEADER_BYTES + before.len() + fields.len()).map_err(|_| Malformed)?;
    Ok([&Header { length, ..header }.to_bytes(), before, &fields].concat())
}

/// The command among the sections of an `OP_MSG`.
fn command_of_msg(mut sections: &[u8]) -> Option<&[u8]> {
    loop {
        let (section_kind, section) = sections.split_first()?;
        let section = sized(section)?;
        match section_kind {
            0 => return Some(section),
            1 => sections = sections.get(1 + section.len()..)?,
            _ => return None,
        }
    }
}

/// The document or section at the front of `bytes`.
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..u32::from_le_bytes(*bytes.first_chunk()?) as usize)
}

fn has_checksum(msg_body: &[u8]) -> Result<bool, Malformed> {
    Ok(u32::from_le_bytes(*msg_body.first_chunk().ok_or(Malformed)?) & flag::CHECKSUM_PRESENT != 0)
}

/// The body of an `OP_MSG` with its command rewritten. The caller recomputes the checksum.
fn rewrite_msg(message: &[u8], body: &[u8], withheld: Withheld) -> Result<Option<Vec<u8>>, Malformed> {
    let checksum_bytes = if has_checksum(body)? {
        let (sealed, checksum) = message.split_last_chunk::<4>().ok_or(Malformed)?;
        (crc32c::crc32c(sealed) == u32::from_le_bytes(*checksum)).then_some(4).ok_or(Malformed)?
    } else {
        0
    };
    let mut at = 4;
    let end = body.len().checked_sub(checksum_bytes).ok_or(Malformed)?;
    while let Some((section_kind, section)) = body.get(at..end).and_then(<[u8]>::split_first) {
        let size = u32::from_le_bytes(*section.first_chunk().ok_or(Malformed)?) as usize;
        let section = section.get(..size).ok_or(Malformed)?;
        match section_kind {
            0 => {
                let document = without_fields(section, withheld)?;
                let (before, behind) = (body.get(..=at), body.get(at + 1 + size..));
                return Ok(document.map(|d| [before.unwrap_or_default(), &d, behind.unwrap_or_default()].concat()));
            }
            1 => at += 1 + size,
            _ => return Err(Malformed),
        }
    }
    Err(Malformed)
}

/// The body of an `OP_QUERY` with its command rewritten, also if the command is in a `$query` wrapper.
fn rewrite_query(body: &[u8], withheld: Withheld) -> Result<Option<Vec<u8>>, Malformed> {
    let (_, after_name) = cstring(body.get(4..).ok_or(Malformed)?)?.ok_or(Malformed)?;
    let rest = after_name.get(8..).ok_or(Malformed)?;
    let size = u32::from_le_bytes(*rest.first_chunk().ok_or(Malformed)?) as usize;
    let (document, behind) = rest.split_at_checked(size).ok_or(Malformed)?;
    let first = WholeElements::new(document).next().ok_or(Malformed)??;
    let rewritten = if first.kind == kind::DOCUMENT && matches!(first.name, b"$query" | b"query") {
        let inner = without_fields(first.value, withheld)?;
        let wrapper = inner.map(|inner| with_first(document, &inner)).transpose()?;
        // mongod reads nothing beside the command, but a token must not arrive there either.
        let is_withheld = |field: &[u8]| withheld.authentication && field == SPECULATIVE_AUTHENTICATE;
        without_such_fields(wrapper.as_deref().unwrap_or(document), is_withheld)?.or(wrapper)
    } else {
        without_fields(document, withheld)?
    };
    let head = body.get(..body.len() - rest.len()).ok_or(Malformed)?;
    Ok(rewritten.map(|document| [head, &document, behind].concat()))
}

/// `wrapper` with `inner` as the value of its first element.
fn with_first(wrapper: &[u8], inner: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = DocumentBytes::with_capacity(wrapper.len());
    for (index, element) in WholeElements::new(wrapper).enumerate() {
        let element = element?;
        if index == 0 { out.push_value(element.kind, element.name, inner) } else { out.push(element.bytes) }
    }
    Ok(out.finish())
}

/// `command` without the withheld fields; `None` if it has none of them.
fn without_fields(command: &[u8], withheld: Withheld) -> Result<Option<Vec<u8>>, Malformed> {
    without_such_fields(command, |field| withheld.has(field))
}

/// `command` without the fields that `is_withheld` accepts; `None` if it has none of them.
fn without_such_fields(command: &[u8], is_withheld: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>, Malformed> {
    let mut out = DocumentBytes::with_capacity(command.len());
    let mut found = false;
    for element in WholeElements::new(command) {
        let element = element?;
        if is_withheld(element.name) {
            found = true;
        } else {
            out.push(element.bytes);
        }
    }
    Ok(found.then(|| out.finish()))
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc, rawdoc};

    use super::*;
    use crate::wire::error_reply;

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

    fn without_compression(message: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        without(message, Withheld::default())
    }

    #[test]
    fn withheld_fields_are_removed_in_every_message_format() {
        let hello = doc! {
            "hello": 1,
            "speculativeAuthenticate": { "saslStart": 1 },
            "client": { "loadBalanced": true, "hostInfo": 1 },
            "saslSupportedMechs": "a.b",
            "internalClient": { "maxWireVersion": 17 },
            "loadBalanced": true,
            "hostInfo": "x",
        };
        let rest = |kept: &[&str]| {
            let kept = |name: &String| ["hello", "client"].contains(&name.as_str()) || kept.contains(&name.as_str());
            hello.clone().into_iter().filter(|(name, _)| kept(name)).collect::<Document>()
        };
        let own = ["speculativeAuthenticate", "saslSupportedMechs", "internalClient", "hostInfo"];
        for (authentication, load_balancing, kept) in
            [(true, true, &[][..]), (true, false, &["loadBalanced"]), (false, true, &own)]
        {
            let withheld = Withheld { authentication, load_balancing, client: false };
            let expected = rest(kept);
            assert_eq!(without(&msg(&hello, 1), withheld), Ok(Some(msg(&expected, 1))));
            let wrap = |inner: &Document| query(&doc! { "$query": inner.clone(), "compression": 1 });
            assert_eq!(without(&wrap(&hello), withheld), Ok(Some(wrap(&expected))));
        }
        assert_eq!(without_compression(&msg(&hello, 0)), Ok(None));
    }

    #[test]
    fn every_occurrence_is_removed_and_names_that_are_not_utf8_stay() {
        let element = |name: &[u8]| [&[8], name, &[0, 1]].concat();
        let build = |names: &[&[u8]]| {
            let mut out = DocumentBytes::with_capacity(0);
            for name in names {
                out.push(&element(name));
            }
            message(OpCode::MSG, &[vec![0; 5], out.finish()].concat())
        };
        let before = build(&[b"hello", b"compression", b"\xFF\xFE", b"compression", b"\xC3("]);
        assert_eq!(without_compression(&before), Ok(Some(build(&[b"hello", b"\xFF\xFE", b"\xC3("]))));
    }

    #[test]
    fn the_field_is_removed_and_all_other_bytes_are_kept() {
        let with =
            doc! { "hello": 1, "client": { "driver": { "name": "x" } }, "compression": ["zlib"], "$db": "admin" };
        let without = doc! { "hello": 1, "client": { "driver": { "name": "x" } }, "$db": "admin" };
        for flags in [0, 1, 1 << 16] {
            assert_eq!(without_compression(&msg(&with, flags)), Ok(Some(msg(&without, flags))));
            assert_eq!(without_compression(&msg(&without, flags)), Ok(None), "rewriting twice changes nothing");
        }
        assert_eq!(without_compression(&query(&with)), Ok(Some(query(&without))));
        for wrapper in ["$query", "query"] {
            let wrap =
                |inner: &Document| query(&doc! { wrapper: inner.clone(), "$readPreference": { "mode": "primary" } });
            assert_eq!(without_compression(&wrap(&with)), Ok(Some(wrap(&without))));
        }
    }

    #[test]
    fn sections_before_and_after_the_command_are_kept() {
        let sequence = [&[1][..], &6_i32.to_le_bytes(), b"a\0"].concat();
        let build = |d: &Document| {
            let command = [vec![0], bson::serialize_to_vec(d).unwrap()].concat();
            message(OpCode::MSG, &[vec![0; 4], sequence.clone(), command, sequence.clone()].concat())
        };
        let with = doc! { "hello": 1, "compression": [] };
        assert_eq!(without_compression(&build(&with)), Ok(Some(build(&doc! { "hello": 1 }))));
    }

    #[test]
    fn a_damaged_message_is_malformed() {
        let good = msg(&doc! { "hello": 1, "compression": ["zlib"] }, 1);
        let mut wrong_checksum = good.clone();
        *wrong_checksum.last_mut().unwrap() ^= 1;
        assert_eq!(without_compression(&wrong_checksum), Err(Malformed));
        for end in 0..good.len() {
            assert_eq!(without_compression(&good[..end]), Err(Malformed));
        }
    }

    #[test]
    fn a_reply_gets_one_more_field() {
        let field = rawdoc! { "done": true };
        let request = |op_code| Header { length: 100, request_id: 7, response_to: 0, op_code };
        for op_code in [OpCode::MSG, OpCode::QUERY] {
            let plain = error_reply::reply(&request(op_code), &rawdoc! { "isWritablePrimary": true, "ok": 1.0 });
            let expected = rawdoc! { "isWritablePrimary": true, "ok": 1.0, "speculativeAuthenticate": field.clone() };
            let found = reply_with(&plain, SPECULATIVE_AUTHENTICATE, &field).unwrap();
            assert_eq!(found, error_reply::reply(&request(op_code), &expected));
            // A field that is there already, and every cut.
            assert!(reply_with(&found, SPECULATIVE_AUTHENTICATE, &field).is_err());
            for end in 0..plain.len() {
                assert!(reply_with(&plain[..end], SPECULATIVE_AUTHENTICATE, &field).is_err(), "{end}");
            }
        }
        let mut with_checksum = error_reply::reply(&request(OpCode::MSG), &rawdoc! { "ok": 1.0 });
        with_checksum[16] = 1;
        assert!(reply_with(&with_checksum, SPECULATIVE_AUTHENTICATE, &field).is_err());
    }

    #[test]
    fn a_token_beside_a_wrapped_hello_is_withheld_too() {
        let wrapped = |beside: &Document, inner: &Document| {
            let mut document = doc! { "$query": inner.clone() };
            document.extend(beside.clone());
            let head = [&0_i32.to_le_bytes()[..], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes()].concat();
            message(OpCode::QUERY, &[head, bson::serialize_to_vec(&document).unwrap()].concat())
        };
        let withheld = Withheld { authentication: true, ..Withheld::default() };
        let token = doc! { "speculativeAuthenticate": { "saslStart": 1 } };
        let (plain, kept) = (doc! { "isMaster": 1 }, doc! { "$readPreference": { "mode": "primary" } });
        let both = token.clone().into_iter().chain(kept.clone()).collect();
        let mut with_token = plain.clone();
        with_token.extend(token);
        for inner in [&plain, &with_token] {
            let found = without(&wrapped(&both, inner), withheld).unwrap();
            assert_eq!(found, Some(wrapped(&kept, &plain)));
        }
        assert_eq!(without(&wrapped(&kept, &plain), withheld).unwrap(), None);
    }
}
