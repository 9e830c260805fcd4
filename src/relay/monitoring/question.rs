//! Recognises a hello request that the gateway can answer in place of mongod.
//!
//! Anything else goes to mongod: what would make it reply with an error, with something that its monitor's hello does
//! not contain, or in a way that is not known here.

use std::time::Duration;

use smallvec::SmallVec;

use crate::topology::TopologyVersion;
use crate::wire::bson_elements::{WholeElement, WholeElements};
use crate::wire::bson_scan::kind;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::flag;
use crate::wire::op_query;

/// The longest hello that is read, header included. That of a driver has some hundred bytes, of which the metadata of
/// the client has at most 512.
const HELLO_BYTES_MAX: usize = 4096;
/// The longest metadata document that mongod accepts.
///
/// Spec: mongodb/specifications `source/mongodb-handshake/handshake.md` § Limitations.
const CLIENT_BYTES_MAX: usize = 512;
/// The longest name of an application that mongod accepts.
const APPLICATION_BYTES_MAX: usize = 128;
/// The deepest nesting of documents in a hello: that of drivers is 3.
const DEPTH_MAX: usize = 5;
/// The longest database name that mongod accepts, in bytes.
const DATABASE_BYTES_MAX: usize = 63;
/// The flag of an `OP_QUERY` that allows a secondary to reply. Drivers set it.
const SECONDARY_OK: u32 = 1 << 2;

/// BSON types without a constant in [`kind`].
const BINARY: u8 = 0x05;
const OBJECT_ID: u8 = 0x07;
const DATE: u8 = 0x09;
const NULL: u8 = 0x0A;
const TIMESTAMP: u8 = 0x11;

/// A hello request that the gateway can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HelloQuestion {
    /// The header of the request.
    pub(super) header: Header,
    /// How the client reads the reply.
    pub(super) style: ReplyStyle,
    /// Whether the request has the metadata of the client, which mongod accepts once.
    pub(super) introduces: bool,
    /// Whether the request declares an API version.
    pub(super) declares_api: bool,
    /// The change that the client waits for; `None` if it does not.
    pub(super) wait: Option<Wait>,
}

/// How a client reads the replies to its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyStyle {
    /// The request has one of the names of the command before MongoDB 5.0, and the reply has `ismaster`.
    pub(super) is_legacy: bool,
    /// The client asks whether the server knows `hello`.
    pub(super) asks_hello_ok: bool,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// The state that the client knows.
    pub(super) known: TopologyVersion,
    /// The client receives a reply after this time even if nothing changes (`maxAwaitTimeMS`).
    pub(super) at_most: Duration,
    /// Whether the client expects one reply after the other.
    pub(super) streams: bool,
}

impl HelloQuestion {
    /// Reads a complete message; `None` if mongod has to answer it.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let (head, body) = message.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::parse(*head).ok()?;
        if header.length as usize != message.len() || message.len() > HELLO_BYTES_MAX {
            return None;
        }
        match header.op_code {
            OpCode::MSG => {
                let (flags, section) = body.split_first_chunk()?;
                let flags = u32::from_le_bytes(*flags);
                // A checksum, a request without a reply, and flags that are not known here.
                if flags & !flag::EXHAUST_ALLOWED != 0 {
                    return None;
                }
                // One section, which the document fills.
                let (0, document) = section.split_first()? else { return None };
                Fields::read(document, true)?.question(header, flags & flag::EXHAUST_ALLOWED != 0)
            }
            OpCode::QUERY => {
                let (flags, _) = body.split_first_chunk()?;
                let query = op_query::command(message)?;
                let is_plain =
                    u32::from_le_bytes(*flags) & !SECONDARY_OK == 0 && is_database(query.database.as_bytes());
                if !is_plain || is_wrapped(message, &query) {
                    return None;
                }
                Fields::read(query.command.as_bytes(), false)?.question(header, false)
            }
            _ => None,
        }
    }
}

/// Whether the command is in a `$query` document, whose other elements are options.
fn is_wrapped(message: &[u8], query: &op_query::QueryCommand<'_>) -> bool {
    let head_bytes = HEADER_BYTES + 4 + query.database.len() + ".$cmd\0".len() + 8;
    head_bytes + query.command.as_bytes().len() != message.len()
}

/// The arguments of a hello that mongod accepts and that the gateway understands.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent argument of the command")]
struct Fields {
    is_legacy: bool,
    asks_hello_ok: bool,
    introduces: bool,
    known: Option<TopologyVersion>,
    at_most: Option<Duration>,
    has_database: bool,
    has_api_version: bool,
    has_api_option: bool,
}

impl Fields {
    /// Reads the command. `None` if it is not a hello, or if an argument is unknown, has a value that mongod rejects,
    /// or occurs twice.
    fn read(document: &[u8], is_msg: bool) -> Option<Self> {
        let mut elements = WholeElements::new(document);
        let command = elements.next()?.ok()?;
        if !hello::is_hello(command.name) || !is_affirmative(&command) {
            return None;
        }
        let mut fields = Self { is_legacy: command.name != b"hello", ..Self::default() };
        let mut seen = SmallVec::<[&[u8]; 16]>::new();
        for element in elements {
            let element = element.ok()?;
            if seen.contains(&element.name) || !is_sound(&element, DEPTH_MAX) || !fields.take(&element) {
                return None;
            }
            seen.push(element.name);
        }
        // An OP_QUERY has its database in the namespace.
        (fields.has_database == is_msg).then_some(fields)
    }

    /// Takes an argument; `false` if mongod rejects its value, or might.
    fn take(&mut self, element: &WholeElement<'_>) -> bool {
        match element.name {
            b"helloOk" => {
                self.asks_hello_ok = true;
                is_affirmative(element)
            }
            b"client" => {
                self.introduces = true;
                is_client(element)
            }
            b"topologyVersion" => {
                self.known = (element.kind == kind::DOCUMENT).then(|| TopologyVersion::read(element.value)).flatten();
                self.known.is_some()
            }
            b"maxAwaitTimeMS" => {
                self.at_most = milliseconds(element);
                self.at_most.is_some()
            }
            b"$db" => {
                self.has_database = true;
                element.string().is_some_and(is_database)
            }
            b"apiVersion" => {
                self.has_api_version = true;
                element.string() == Some(b"1")
            }
            b"apiStrict" | b"apiDeprecationErrors" => {
                self.has_api_option = true;
                element.kind == kind::BOOLEAN
            }
            b"loadBalanced" => element.kind == kind::BOOLEAN && element.number() == Some(0),
            b"lsid" => is_only(element, b"id", |id| id.kind == BINARY),
            b"$readPreference" => is_only(element, b"mode", is_read_mode),
            b"$clusterTime" => is_cluster_time(element),
            // mongod replies as without them.
            b"backpressure" | b"comment" => true,
            _ => false,
        }
    }

    fn question(self, header: Header, streams: bool) -> Option<HelloQuestion> {
        // mongod rejects a legacy name with `apiStrict`, and the options without a version.
        if (self.has_api_option && !self.has_api_version) || (self.is_legacy && self.has_api_version) {
            return None;
        }
        let wait = match (self.known, self.at_most) {
            (Some(known), Some(at_most)) => Some(Wait { known, at_most, streams }),
            (None, None) if !streams => None,
            _ => return None,
        };
        let style = ReplyStyle { is_legacy: self.is_legacy, asks_hello_ok: self.asks_hello_ok };
        Some(HelloQuestion { header, style, introduces: self.introduces, declares_api: self.has_api_version, wait })
    }
}

/// A number other than 0, or `true`.
fn is_affirmative(element: &WholeElement<'_>) -> bool {
    element.number().is_some_and(|number| number != 0)
}

/// A time as mongod reads it: any number that is not negative.
fn milliseconds(element: &WholeElement<'_>) -> Option<Duration> {
    let number = element.number().filter(|_| element.kind != kind::BOOLEAN)?;
    u64::try_from(number).ok().map(Duration::from_millis)
}

/// A name that is certainly valid. mongod accepts more.
fn is_database(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=DATABASE_BYTES_MAX).contains(&name.len()) && name.iter().all(is_plain)
}

/// The metadata of a client that mongod accepts: it has to name the driver and the operating system.
///
/// Spec: mongodb/specifications `source/mongodb-handshake/handshake.md`.
fn is_client(client: &WholeElement<'_>) -> bool {
    let has_text =
        |document: &WholeElement<'_>, name| field(document, name).is_some_and(|text| text.string().is_some());
    let driver = field(client, b"driver").is_some_and(|it| has_text(&it, b"name") && has_text(&it, b"version"));
    let os = field(client, b"os").is_some_and(|os| has_text(&os, b"type"));
    let mut elements = WholeElements::new(client.value).flatten();
    let application = !elements.any(|element| element.name == b"application")
        || field(client, b"application")
            .and_then(|it| field(&it, b"name"))
            .is_some_and(|name| name.string().is_some_and(|name| name.len() <= APPLICATION_BYTES_MAX));
    client.value.len() <= CLIENT_BYTES_MAX && driver && os && application
}

/// The times that a client received from a member before. They need not reach the member: the client's commands carry
/// them too.
fn is_cluster_time(times: &WholeElement<'_>) -> bool {
    let has_time = field(times, b"clusterTime").is_some_and(|time| time.kind == TIMESTAMP);
    let signature = field(times, b"signature").is_some_and(|it| {
        field(&it, b"hash").is_some_and(|hash| hash.kind == BINARY)
            && field(&it, b"keyId").is_some_and(|key| key.kind == kind::INT64)
    });
    has_time && signature
}

fn is_read_mode(mode: &WholeElement<'_>) -> bool {
    let known = [&b"primary"[..], b"primaryPreferred", b"secondary", b"secondaryPreferred", b"nearest"];
    mode.string().is_some_and(|mode| known.contains(&mode))
}

/// Whether an element is a document with this one field, for which `is_valid` holds.
fn is_only(element: &WholeElement<'_>, name: &[u8], is_valid: impl Fn(&WholeElement<'_>) -> bool) -> bool {
    let one = field(element, name).is_some_and(|field| is_valid(&field));
    one && WholeElements::new(element.value).count() == 1
}

/// The field of a document; `None` if it is missing or occurs twice, or if `document` is none.
fn field<'a>(document: &WholeElement<'a>, name: &[u8]) -> Option<WholeElement<'a>> {
    let elements = (document.kind == kind::DOCUMENT).then(|| WholeElements::new(document.value))?;
    let mut named = elements.flatten().filter(|element| element.name == name);
    let found = named.next()?;
    named.next().is_none().then_some(found)
}

/// Whether a value is well-formed at every level, and has only types that drivers send in a hello.
fn is_sound(element: &WholeElement<'_>, depth: usize) -> bool {
    match element.kind {
        kind::DOCUMENT | kind::ARRAY => {
            let is_sound = |element: Result<WholeElement<'_>, _>| element.is_ok_and(|it| is_sound(&it, depth - 1));
            depth > 0 && WholeElements::new(element.value).all(is_sound)
        }
        kind::STRING => element.string().is_some_and(|text| std::str::from_utf8(text).is_ok()),
        kind::BOOLEAN => matches!(element.value, [0 | 1]),
        kind::DOUBLE | kind::INT32 | kind::INT64 | BINARY | OBJECT_ID | DATE | NULL | TIMESTAMP => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
