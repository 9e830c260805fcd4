//! Commands of our own on an upstream connection: one `OP_MSG` there, one back.
//!
//! Only for a connection that no client uses yet, or that none will ever use.

use std::io;

use bson::{RawBsonRef, RawDocumentBuf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::op_msg::encode_with;

/// Replies to `ping`, `hello` and `buildInfo` have a few KiB.
const REPLY_BYTES_MAX: u32 = 64 * 1024;

/// Flag bits and section kind, before the body.
const PREFIX_BYTES: usize = 5;

/// Only one request is ever under way, and a client's ids are its own from the first message on.
const REQUEST_ID: i32 = 1;

/// Flag of a reply, in the first byte of all flags.
const MORE_TO_COME: u8 = 2;

/// Text of an error that an upstream may put into our sentences, in characters.
const ERRMSG_CHARACTERS_MAX: usize = 200;

/// Why a command of our own got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum OwnCommandError {
    /// Closed or broken before the first byte of an answer.
    #[error("the connection was closed instead of an answer")]
    Closed(#[source] io::Error),
    /// Closed or broken within an answer.
    #[error("the connection was closed within the answer")]
    Torn(#[source] io::Error),
    /// An answer that is not what a mongod sends.
    #[error("the answer is not that of a mongod: {0}")]
    Malformed(&'static str),
    /// The command failed.
    #[error("the answer is error {code} ({code_name}): {errmsg}")]
    Refused {
        /// As in the reply; 0 if it has none.
        code: i32,
        /// As in the reply.
        code_name: String,
        /// As in the reply, cut to 200 characters.
        errmsg: String,
    },
}

/// Sends `command` and returns the body of its reply, which says `ok: 1`.
///
/// Not cancel safe: a connection on which this was dropped must not be used again. Bounded in memory, not in time.
pub(super) async fn ask<S>(stream: &mut S, command: &RawDocumentBuf) -> Result<RawDocumentBuf, OwnCommandError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(stream, REQUEST_ID, 0, command).await?;
    let reply = receive(stream, REQUEST_ID).await?;
    if reply.more_to_come {
        return Err(OwnCommandError::Malformed("flags or sections that were not asked for"));
    }
    Ok(reply.body)
}

/// Sends `command` as the request `request_id`.
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

/// A reply that says `ok: 1`.
pub(super) struct CommandReply {
    pub(super) body: RawDocumentBuf,
    pub(super) request_id: i32,
    /// Whether another one follows unasked, which answers this one.
    pub(super) more_to_come: bool,
}

/// Reads the reply to `expected`, a request or the reply before.
pub(super) async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    expected: i32,
) -> Result<CommandReply, OwnCommandError> {
    let mut head = [0; HEADER_BYTES];
    let (first, others) = head.split_at_mut(1);
    stream.read_exact(first).await.map_err(OwnCommandError::Closed)?;
    stream.read_exact(others).await.map_err(OwnCommandError::Torn)?;
    let header = Header::parse(head).map_err(|_| OwnCommandError::Malformed("an impossible message length"))?;
    if header.op_code != OpCode::MSG || header.response_to != expected {
        return Err(OwnCommandError::Malformed("no OP_MSG in reply to ours"));
    }
    if header.length > REPLY_BYTES_MAX {
        return Err(OwnCommandError::Malformed("longer than 64 KiB"));
    }
    let mut rest = vec![0; (header.length as usize).saturating_sub(HEADER_BYTES)];
    stream.read_exact(&mut rest).await.map_err(OwnCommandError::Torn)?;
    let more_to_come = match rest.first_chunk::<PREFIX_BYTES>() {
        Some([0, 0, 0, 0, 0]) => false,
        Some([MORE_TO_COME, 0, 0, 0, 0]) => true,
        _ => return Err(OwnCommandError::Malformed("flags or sections that were not asked for")),
    };
    let body = accept(rest.split_off(PREFIX_BYTES))?;
    Ok(CommandReply { body, request_id: header.request_id, more_to_come })
}

fn accept(body: Vec<u8>) -> Result<RawDocumentBuf, OwnCommandError> {
    let malformed = |_| OwnCommandError::Malformed("no valid document");
    let reply = RawDocumentBuf::from_bytes(body).map_err(malformed)?;
    // Walks the whole document once, so that later reads find no damage.
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

fn is_one(value: Option<RawBsonRef<'_>>) -> bool {
    match value {
        // Exactly 1, as servers write it.
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
