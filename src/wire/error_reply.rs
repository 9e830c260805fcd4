//! Local replies of the gateway, mostly errors, in the message format that the driver expects for its request.
//!
//! Spec: mongodb/specifications `source/message/OP_MSG.md`; `MongoDB` wire protocol § `OP_REPLY`.

use bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use crate::wire::header::{HEADER_BYTES, Header, OpCode};
use crate::wire::op_msg;
use crate::wire::reply::ClusterTimes;

/// A command error: what a driver shows as code, code name and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// `MongoDB` error code.
    pub code: i32,
    /// `MongoDB` name of that code.
    pub code_name: &'static str,
    /// A sentence for the operator of the client. It contains no values of documents and no file paths of the gateway.
    pub message: String,
}

impl CommandError {
    /// The error as a complete reply message to `request`: `OP_REPLY` to an `OP_QUERY`, `OP_MSG` to anything else.
    pub fn reply_to(&self, request: &Header) -> Vec<u8> {
        self.reply_with(request, None)
    }

    /// As [`CommandError::reply_to`], with `labels` that tell a driver what it may do, for example try again.
    pub fn labelled_reply_to(&self, request: &Header, labels: &[&str]) -> Vec<u8> {
        let mut body = self.body();
        if !labels.is_empty() {
            body.append(bson::raw::cstr!("errorLabels"), labels.iter().copied().collect::<RawArrayBuf>());
        }
        reply(request, &body)
    }

    /// As [`CommandError::reply_to`], with the times of an earlier reply of the server: a driver expects them in every
    /// reply of a replica set.
    pub fn reply_with(&self, request: &Header, times: Option<&ClusterTimes>) -> Vec<u8> {
        let mut body = self.body();
        if let Some(times) = times {
            times.append_to(&mut body);
        }
        reply(request, &body)
    }

    fn body(&self) -> RawDocumentBuf {
        rawdoc! { "ok": 0.0, "errmsg": self.message.as_str(), "code": self.code, "codeName": self.code_name }
    }
}

/// A complete reply message to `request` with the document `body`: `OP_REPLY` to an `OP_QUERY`, `OP_MSG` to anything
/// else.
pub fn reply(request: &Header, body: &RawDocumentBuf) -> Vec<u8> {
    if request.op_code != OpCode::QUERY {
        return op_msg::encode(request.request_id, request.request_id, body);
    }
    // Flags: AwaitCapable, as mongod sets it; cursor ID 0; starting from 0; one document.
    let reply = [&8_i32.to_le_bytes()[..], &[0; 12], &1_i32.to_le_bytes(), body.as_bytes()].concat();
    let length = u32::try_from(HEADER_BYTES + reply.len()).unwrap_or(u32::MAX);
    let header =
        Header { length, request_id: request.request_id, response_to: request.request_id, op_code: OpCode::REPLY };
    [&header.to_bytes(), reply.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message_scan::MessageScan;
    use crate::wire::reply::ReplyFacts;

    #[test]
    fn the_reply_has_the_format_for_its_request_with_code_and_code_name() {
        let error = CommandError { code: 6, code_name: "HostUnreachable", message: "no route to mongod".to_owned() };
        for (asked, answered) in
            [(OpCode::MSG, OpCode::MSG), (OpCode::QUERY, OpCode::REPLY), (OpCode(2012), OpCode::MSG)]
        {
            let request = Header { length: 100, request_id: 77, response_to: 0, op_code: asked };
            let reply = error.reply_to(&request);
            let header = Header::parse(*reply.first_chunk().unwrap()).unwrap();
            assert_eq!((header.response_to, header.op_code), (77, answered));
            assert_eq!(header.length as usize, reply.len());
            let (mut scan, mut facts) = (MessageScan::new(&header), ReplyFacts::default());
            scan.advance(&reply[HEADER_BYTES..], &mut facts);
            assert!(!scan.is_malformed());
            assert_eq!((facts.ok(), facts.code()), (Some(false), Some(6)));
            assert_eq!(facts.code_name(), Some(b"HostUnreachable".as_slice()));
        }
    }
}
