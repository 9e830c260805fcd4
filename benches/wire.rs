//! Measures the time to scan a message as it streams through the gateway: per message, on one core, without a socket.

use std::hint::black_box;

use bson::{Document, doc};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use mongate::wire::hello;

mod messages;

use messages::{batch_of_16_mb, find, insert_of_1000, message, ping, scan_reply, scan_request, with_session};

fn requests(criterion: &mut Criterion) {
    let pipeline: Vec<Document> = (0..10).map(|n| doc! { "$match": { "a": n } }).collect();
    let cases = [
        ("ping", ping()),
        ("find", find()),
        ("insert of 1,000 documents", insert_of_1000()),
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
    let cases = [
        ("ok", doc! { "ok": 1.0 }),
        ("error", doc! { "ok": 0.0, "errmsg": "no", "code": 13, "codeName": "Unauthorized" }),
        ("batch of 16 MB", batch_of_16_mb()),
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
        bencher.iter(|| hello::without(black_box(&hello), hello::Withheld::default()));
    });
}

criterion_group!(benches, requests, replies, hellos);
criterion_main!(benches);
