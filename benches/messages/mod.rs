//! The messages of the benchmarks, and functions that scan them as the relay does: piece by piece, as from a socket.
#![allow(dead_code, reason = "each benchmark uses a part of this module")]

use bson::{Document, RawDocumentBuf, doc};

use mongate::command::table;
use mongate::wire::header::{HEADER_BYTES, Header};
use mongate::wire::message_scan::MessageScan;
use mongate::wire::op_msg;
use mongate::wire::reply::ReplyFacts;
use mongate::wire::request::RequestFacts;

/// Bytes that the relay reads at once.
const READ_BYTES: usize = 128 * 1024;

pub(crate) fn message(body: &Document) -> Vec<u8> {
    let body = RawDocumentBuf::try_from(body).expect("a document of literals");
    op_msg::encode(7, 0, &body)
}

/// Adds the fields that drivers append to a command.
pub(crate) fn with_session(mut body: Document) -> Document {
    let id = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] };
    body.insert("lsid", doc! { "id": id });
    body.insert("$clusterTime", doc! { "clusterTime": bson::Timestamp { time: 1, increment: 1 } });
    body.insert("$db", "shop");
    body
}

pub(crate) fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

pub(crate) fn find() -> Document {
    with_session(doc! { "find": "orders", "filter": { "customer": 5, "state": "open" }, "limit": 10 })
}

pub(crate) fn insert_of_1000() -> Document {
    let many: Vec<Document> = (0..1_000).map(|n| doc! { "_id": n, "text": "x".repeat(200) }).collect();
    with_session(doc! { "insert": "orders", "documents": many })
}

/// A reply to a find with 1,000 documents.
pub(crate) fn batch_of_16_mb() -> Document {
    let batch: Vec<Document> = (0..1_000).map(|n| doc! { "_id": n, "text": "x".repeat(16_000) }).collect();
    doc! { "cursor": { "id": 1_i64, "ns": "shop.orders", "firstBatch": batch }, "ok": 1.0 }
}

pub(crate) fn scan_request(message: &[u8]) -> Option<table::CommandId> {
    let header = Header::parse(*message.first_chunk()?).ok()?;
    let (mut scan, mut facts) = (MessageScan::new(&header), RequestFacts::default());
    let mut at = HEADER_BYTES;
    while scan.left() > 0 {
        let end = message.len().min(at + READ_BYTES);
        at += scan.advance(message.get(at..end)?, &mut facts);
    }
    facts.command().and_then(table::find).map(|command| command.id)
}

pub(crate) fn scan_reply(message: &[u8]) -> Option<bool> {
    let header = Header::parse(*message.first_chunk()?).ok()?;
    let (mut scan, mut facts) = (MessageScan::new(&header), ReplyFacts::default());
    let mut at = HEADER_BYTES;
    while scan.left() > 0 {
        let end = message.len().min(at + READ_BYTES);
        at += scan.advance(message.get(at..end)?, &mut facts);
    }
    facts.ok()
}
