//! The gateway's own commands on an upstream connection: one `OP_MSG` request and its reply.
//!
//! Only for connections that no client uses yet, or that no client will ever use.

use std::io;

use bson::raw::cstr;
use bson::{RawBsonRef, RawDocumentBuf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::server_error_codes::API_VERSION_REQUIRED;
use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::op_msg::encode_with;

/// The longest accepted reply. Replies to `ping`, `hello` and `buildInfo` have a few KiB.
const REPLY_BYTES_MAX: u32 = 64 * 1024;

/// Flag bits and section kind, in front of the body.
const PREFIX_BYTES: usize = 5;

/// Only one request is in flight, and a client's request IDs are its own from its first message on.
const REQUEST_ID: i32 = 1;

/// The moreToCome flag, in the first byte of the flag bits.
const MORE_TO_COME: u8 = 2;

/// The longest error message of a server that becomes part of a message of the gateway, in characters.
const ERRMSG_CHARACTERS_MAX: usize = 200;

/// Why one of the gateway's own commands failed.
#[derive(Debug, thiserror::Error)]
pub enum OwnCommandError {
    /// The connection was closed or failed before the first byte of the reply.
    #[error("the connection was closed before the reply")]
    Closed(#[source] io::Error),
    /// The connection was closed or failed within the reply.
    #[error("the connection was closed within the reply")]
    Torn(#[source] io::Error),
    /// A reply that no mongod sends.
    #[error("the reply is not that of a mongod: {0}")]
    Malformed(&'static str),
    /// The server replied with an error.
    #[error("the reply is {}", refusal_text(*.code, .code_name, .errmsg))]
    Refused {
        /// The error code; 0 if the reply has none.
        code: i32,
        /// The name of the code.
        code_name: String,
        /// The error message, shortened to 200 characters.
        errmsg: String,
    },
}

impl OwnCommandError {
    /// Whether the server requires an API version, and the command had none.
    pub(super) fn requires_api(&self) -> bool {
        matches!(self, Self::Refused { code: API_VERSION_REQUIRED, .. })
    }
}

/// A reply with `ok: 1`.
pub(super) struct CommandReply {
    pub(super) body: RawDocumentBuf,
    pub(super) request_id: i32,
    /// Whether the server will send another reply, in response to this one, without a request.
    pub(super) more_to_come: bool,
}

/// Runs `command` and returns the body of its reply, which has `ok: 1`.
///
/// Not cancel safe: if the future is dropped, the connection must not be used again. Limited in memory, not in time.
pub(super) async fn run<S>(stream: &mut S, command: &RawDocumentBuf) -> Result<RawDocumentBuf, OwnCommandError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(stream, REQUEST_ID, 0, command).await?;
    let reply = receive(stream, REQUEST_ID).await?;
    if reply.more_to_come {
        return Err(OwnCommandError::Malformed("unexpected flags or sections"));
    }
    Ok(reply.body)
}

/// Adds the API version to `command` if the server requires one. The gateway uses no feature that depends on it.
///
/// Spec: mongodb/specifications `source/versioned-api/versioned-api.md`.
pub(super) fn declared(mut command: RawDocumentBuf, declares_api: bool) -> RawDocumentBuf {
    if declares_api {
        command.append(cstr!("apiVersion"), "1");
    }
    command
}

/// Sends `command` with this request ID.
pub(super) async fn send<S>(
    stream: &mut S,
    request_id: i32,
    flags: u32,
    command: &RawDocumentBuf,
) -> Result<(), OwnCommandError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = encode_with(flags, request_id, 0, command);
    stream.write_all(&message).await.map_err(OwnCommandError::Closed)?;
    stream.flush().await.map_err(OwnCommandError::Closed)
}

/// Receives the reply to `expected`, the ID of a request or of the previous reply.
pub(super) async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    expected: i32,
) -> Result<CommandReply, OwnCommandError> {
    let mut head = [0; HEADER_BYTES];
    let (first, others) = head.split_at_mut(1);
    stream.read_exact(first).await.map_err(OwnCommandError::Closed)?;
    stream.read_exact(others).await.map_err(OwnCommandError::Torn)?;
    let header = Header::parse(head).map_err(|_| OwnCommandError::Malformed("an invalid message length"))?;
    if header.op_code != OpCode::MSG || header.response_to != expected {
        return Err(OwnCommandError::Malformed("not an OP_MSG in reply to the request"));
    }
    if header.length > REPLY_BYTES_MAX {
        return Err(OwnCommandError::Malformed("longer than 64 KiB"));
    }
    let mut rest = vec![0; (header.length as usize).saturating_sub(HEADER_BYTES)];
    stream.read_exact(&mut rest).await.map_err(OwnCommandError::Torn)?;
    let more_to_come = match rest.first_chunk::<PREFIX_BYTES>() {
        Some([0, 0, 0, 0, 0]) => false,
        Some([MORE_TO_COME, 0, 0, 0, 0]) => true,
        _ => return Err(OwnCommandError::Malformed("unexpected flags or sections")),
    };
    let body = parse(rest.split_off(PREFIX_BYTES))?;
    Ok(CommandReply { body, request_id: header.request_id, more_to_come })
}

fn parse(body: Vec<u8>) -> Result<RawDocumentBuf, OwnCommandError> {
    let malformed = |_| OwnCommandError::Malformed("not a valid document");
    let reply = RawDocumentBuf::from_bytes(body).map_err(malformed)?;
    // Validates the whole document once, so that later reads cannot fail.
    for element in &reply {
        element.map_err(malformed)?;
    }
    if is_one(reply.get("ok").ok().flatten()) {
        return Ok(reply);
    }
    let text = |key| reply.get_str(key).map(shortened).unwrap_or_default();
    Err(OwnCommandError::Refused {
        code: reply.get_i32("code").unwrap_or(0),
        code_name: text("codeName"),
        errmsg: text("errmsg"),
    })
}

/// An error reply of a server, as "error 91 (ShutdownInProgress): not now". Only mongod fills all fields.
fn refusal_text(code: i32, code_name: &str, errmsg: &str) -> String {
    let number = if code == 0 { "an error without a code".to_owned() } else { format!("error {code}") };
    let name = if code_name.is_empty() { String::new() } else { format!(" ({code_name})") };
    let message = if errmsg.is_empty() { "there is no message" } else { errmsg };
    format!("{number}{name}: {message}")
}

fn is_one(value: Option<RawBsonRef<'_>>) -> bool {
    match value {
        // Servers write exactly 1.
        Some(RawBsonRef::Double(number)) => number.to_bits() == 1.0_f64.to_bits(),
        Some(RawBsonRef::Int32(number)) => number == 1,
        Some(RawBsonRef::Int64(number)) => number == 1,
        Some(RawBsonRef::Boolean(yes)) => yes,
        _ => false,
    }
}

fn shortened(text: &str) -> String {
    let cut: String = text.chars().take(ERRMSG_CHARACTERS_MAX).collect();
    crate::identity::printable(&cut)
}
