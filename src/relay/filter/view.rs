//! A request as the filters see it.

use bson::RawDocument;

use crate::wire::header::{Header, OpCode};
use crate::wire::hello;
use crate::wire::message_scan::MessageScan;
use crate::wire::op_query;
use crate::wire::request::RequestFacts;

/// A request, of which only a part may have arrived.
#[derive(Clone, Copy)]
pub(in crate::relay) struct RequestView<'a> {
    /// The bytes that have been read, from the header on. Of a request that is being forwarded, only the last of them.
    pub(in crate::relay) message: &'a [u8],
    pub(in crate::relay) header: &'a Header,
    pub(in crate::relay) scan: &'a MessageScan,
    pub(in crate::relay) facts: &'a RequestFacts,
    pub(in crate::relay) extent: Extent,
}

/// Whether a filter can see more of a request than it sees now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum Extent {
    /// The request is in the connection's input: a filter can wait for more of it, and rewrite it when all of it has
    /// arrived.
    Growing,
    /// The request is held apart, with as many bytes as the filter asked for: it has to decide now, and cannot rewrite.
    Final,
}

impl<'a> RequestView<'a> {
    /// Whether all of the request has arrived.
    pub(in crate::relay) fn is_whole(&self) -> bool {
        self.scan.left() == 0
    }

    /// Whether the request is known to be a hello.
    pub(in crate::relay) fn is_hello(&self) -> bool {
        self.facts.command().is_some_and(hello::is_hello)
    }

    /// Bytes of the whole request, header included.
    pub(in crate::relay) fn length(&self) -> usize {
        self.header.length as usize
    }

    /// The command document of a request that has arrived whole, also from inside the `$query` wrapper of old drivers.
    /// `None` where it cannot be parsed.
    pub(in crate::relay) fn command(&self) -> Option<&'a RawDocument> {
        let RequestView { message, header, scan, .. } = *self;
        if header.op_code == OpCode::QUERY {
            return Some(op_query::command(message)?.command);
        }
        RawDocument::from_bytes(message.get(scan.body()?)?).ok()
    }
}
