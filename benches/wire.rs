//! What it costs to read a message as it streams by: per message, on one core, without any socket.

use std::hint::black_box;

use bson::{Document, RawDocumentBuf, doc};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use mongate::command::table;
use mongate::wire::header::{HEADER_BYTES, Header};
use mongate::wire::hello;
use mongate::wire::message_scan::MessageScan;
use mongate::wire::op_msg;
use mongate::wire::reply::ReplyFacts;
use mongate::wire::request::RequestFacts;

/// Bytes that the relay reads at a time.
const READ_BYTES: usize = 64 * 1024;

fn message(body: &Document) -> Vec<u8> {
    let body = RawDocumentBuf::try_from(body).expect("a document of literals");
    op_msg::encode(7, 0, &body)
}

/// What drivers put behind a command.
fn with_session(mut body: Document) -> Document {
    let id = bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] };
    body.insert("lsid", doc! { "id": id });
    body.insert("$clusterTime", doc! { "clusterTime": bson::Timestamp { time: 1, increment: 1 } });
    body.insert("$db", "shop");
    body
}

fn scan_request(message: &[u8]) -> Option<table::CommandId> {
    let header = Header::parse(*message.first_chunk()?).ok()?;
    let (mut scan, mut facts) = (MessageScan::new(&header), RequestFacts::default());
    let mut at = HEADER_BYTES;
    while scan.left() > 0 {
        let end = message.len().min(at + READ_BYTES);
        at += scan.advance(message.get(at..end)?, &mut facts);
    }
    facts.command().and_then(table::find).map(|command| command.id)
}

fn scan_reply(message: &[u8]) -> Option<bool> {
    let header = Header::parse(*message.first_chunk()?).ok()?;
    let (mut scan, mut facts) = (MessageScan::new(&header), ReplyFacts::default());
    let mut at = HEADER_BYTES;
    while scan.left() > 0 {
        let end = message.len().min(at + READ_BYTES);
        at += scan.advance(message.get(at..end)?, &mut facts);
    }
    facts.ok()
}

fn requests(criterion: &mut Criterion) {
    let find = with_session(doc! { "find": "orders", "filter": { "customer": 5, "state": "open" }, "limit": 10 });
    let many: Vec<Document> = (0..1_000).map(|n| doc! { "_id": n, "text": "x".repeat(200) }).collect();
    let pipeline: Vec<Document> = (0..10).map(|n| doc! { "$match": { "a": n } }).collect();
    let cases = [
        ("ping", doc! { "ping": 1, "$db": "admin" }),
        ("find", find),
        ("insert of 1,000 documents", with_session(doc! { "insert": "orders", "documents": many })),
        ("aggregate of 10 stages", with_session(doc! { "aggregate": "orders", "pipeline": pipeline, "cursor": {} })),
    ];
    let mut group = criterion.benchmark_group("request");
    for (name, body) in cases {
        let message = message(&body);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| scan_request(black_box(&message))));
    }
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let batch: Vec<Document> = (0..1_000).map(|n| doc! { "_id": n, "text": "x".repeat(16_000) }).collect();
    let cases = [
        ("ok", doc! { "ok": 1.0 }),
        ("error", doc! { "ok": 0.0, "errmsg": "no", "code": 13, "codeName": "Unauthorized" }),
        ("batch of 16 MB", doc! { "cursor": { "id": 1_i64, "ns": "shop.orders", "firstBatch": batch }, "ok": 1.0 }),
    ];
    let mut group = criterion.benchmark_group("reply");
    for (name, body) in cases {
        let message = message(&body);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| scan_reply(black_box(&message))));
    }
    group.finish();
}

fn hellos(criterion: &mut Criterion) {
    let client = doc! { "driver": { "name": "x", "version": "1" }, "os": { "type": "Linux" } };
    let hello = message(&doc! { "hello": 1, "client": client, "compression": ["zstd", "zlib"], "$db": "admin" });
    criterion.bench_function("hello without compression", |bencher| {
        bencher.iter(|| hello::without(&[hello::COMPRESSION], black_box(&hello)));
    });
}

criterion_group!(benches, requests, replies, hellos);
criterion_main!(benches);
