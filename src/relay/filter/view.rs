//! A request as the filters see it.

use bson::RawDocument;

use crate::wire::header::{Header, OpCode};
use crate::wire::message_scan::MessageScan;
use crate::wire::op_query;
use crate::wire::request::RequestFacts;

/// A request as far as it is here.
#[derive(Clone, Copy)]
pub(in crate::relay) struct RequestView<'a> {
    /// From its start.
    pub(in crate::relay) message: &'a [u8],
    pub(in crate::relay) header: &'a Header,
    pub(in crate::relay) scan: &'a MessageScan,
    pub(in crate::relay) facts: &'a RequestFacts,
}

impl<'a> RequestView<'a> {
    /// The command, where all of the message is here and can be read; also from the wrapper that old drivers put around it.
    pub(in crate::relay) fn command(&self) -> Option<&'a RawDocument> {
        let RequestView { message, header, scan, .. } = *self;
        if header.op_code == OpCode::QUERY {
            return Some(op_query::command(message)?.command);
        }
        RawDocument::from_bytes(message.get(scan.body()?)?).ok()
    }
}
