//! Large commands and slow clients under a policy: the gateway holds a bounded amount of memory, and clients do not
//! wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, OP_MSG, body_section, op_msg, sequence_section};
use crate::kit::scratch;
use crate::kit::waiting::{until, until_steady};

/// Nearly the largest size of a body.
const LARGE: usize = 12_000_000;
/// The most memory that one large body may use while it is held, with its copies.
const HELD_MAX_KIB: u64 = 20 * 1024;
/// The most memory that may remain when all clients are gone: allocators keep a little.
const LEFT_MAX_KIB: u64 = 8 * 1024;
/// The limit of all held memory.
const BUDGET_KIB: u64 = 256 * 1024;
/// A stream counts as stopped when nothing has moved for this duration.
const STILL: Duration = Duration::from_millis(500);

fn options(mongod: &Mongod) -> GatewayOptions {
    let rule = "[[policy.rule]]\nname = 'closed'\naction = 'deny'\nto = [{ collections = ['closed'] }]\n";
    GatewayOptions { tables: rule.to_owned(), ..GatewayOptions::to(mongod) }
}

#[test]
fn large_inserts_arrive_complete_or_not_at_all_and_free_their_memory() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let database = "policy_large";
    let rows = [("in the body", true), ("in a sequence", false)];
    let mut faults = Vec::new();
    gateway.connect().unwrap().run(&ping()).unwrap();
    let at_first = gateway.memory_kib().unwrap();
    for _ in 0..2 {
        for (name, in_body) in rows {
            for collection in ["open", "closed"] {
                let mut connection = gateway.connect().unwrap();
                connection.run(&ping()).unwrap();
                let message = insert(database, collection, in_body);
                let memory = gateway.watch_memory().unwrap();
                connection.send(&message).unwrap();
                let reply = connection.reply().unwrap().document;
                if collection == "open" {
                    assert_eq!(reply.get_i32("n").ok(), Some(12), "{name}: {reply}");
                    check_arrived(&mongod, database);
                } else {
                    assert_eq!(reply.get_i32("code").ok(), Some(13), "{name}: {reply}");
                }
                connection.run(&ping()).unwrap();
                let peak = memory.grown_kib().unwrap();
                if peak >= HELD_MAX_KIB {
                    faults.push(format!("{name}, {collection}: {peak} KiB more at the peak"));
                }
            }
        }
    }
    let left = until_steady("memory use is steady", STILL, || gateway.memory_kib().unwrap()).saturating_sub(at_first);
    if left >= LEFT_MAX_KIB {
        faults.push(format!("{left} KiB are not freed"));
    }
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(mongod.run(&doc! { "count": "closed", "$db": database }).unwrap().get_i32("n").unwrap(), 0);
}

#[test]
fn requests_up_to_the_limits_are_checked_and_longer_requests_get_an_error() {
    /// mongod's limit for a body.
    const BODY_MAX: usize = 16_793_600;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let padded = |command: Document, bytes: usize| {
        let mut command = command;
        command.insert("comment", "");
        let missing = bytes - body_section(&command).len() + 1;
        command.insert("comment", "x".repeat(missing));
        op_msg(1, 0, &[body_section(&command)])
    };
    let ping = |bytes| padded(ping(), bytes);
    let closed = |bytes| padded(doc! { "find": "closed", "$db": "policy_long" }, bytes);
    let after_sequence = |collection: &str, documents: usize| {
        let body = body_section(&doc! { "insert": collection, "$db": "policy_long" });
        op_msg(1, 0, &[sequence_section("documents", &vec![doc! { "text": "x".repeat(1_000_000) }; documents]), body])
    };
    let rows = [
        ("the longest body", ping(BODY_MAX), None),
        ("a body that is too long", ping(BODY_MAX + 1), Some(10_334)),
        ("a body that is too long for mongod and the gateway", ping(BODY_MAX + 1_000_000), Some(13)),
        ("the longest body, denied", closed(BODY_MAX), Some(13)),
        ("a body after a long sequence", after_sequence("open", 12), None),
        ("a body after a long sequence, denied", after_sequence("closed", 12), Some(13)),
        ("a body after a sequence that is too long to hold", after_sequence("open", 20), Some(13)),
    ];
    let mut connection = gateway.connect().unwrap();
    for (name, bytes, code) in rows {
        // The next request is in the same write.
        let next = op_msg(2, 0, &[body_section(&self::ping())]);
        connection.send(&[bytes, next].concat()).unwrap();
        let answers = [connection.reply().unwrap(), connection.reply().unwrap()];
        let [first, second] = answers.map(|reply| (reply.response_to, reply.code()));
        assert_eq!((first, second), ((1, code), (2, None)), "{name}");
    }
}

#[test]
fn clients_in_the_middle_of_a_large_body_delay_only_each_other() {
    // In total more than the limit, if the gateway reserved what they claim.
    const HALVES: usize = 40;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let message = insert("policy_halves", "open", true);
    gateway.connect().unwrap().run(&ping()).unwrap();
    let before = gateway.memory_kib().unwrap();
    let (half, rest) = message.split_at(500_000);
    let mut halves: Vec<_> = (0..HALVES).map(|_| gateway.connect().unwrap()).collect();
    for connection in &mut halves {
        connection.send(half).unwrap();
    }
    // Clients with small commands are served without delay.
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        let mut connection = gateway.connect().unwrap();
        connection.run(&ping()).unwrap();
        connection.run(&doc! { "insert": "small", "documents": [{ "n": 1 }], "$db": "policy_halves" }).unwrap();
        let refused = connection.command(&doc! { "find": "closed", "$db": "policy_halves" }).unwrap();
        assert_eq!(refused.get_i32("code").ok(), Some(13), "{refused}");
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "a small command waited {slowest:?}");
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    assert!(grown < 500 * HALVES as u64 * 2, "{grown} KiB for {HALVES} halves of 500 KB");
    // Clients are served in order, and a disconnected client frees its memory: all remaining bodies arrive.
    halves.drain(..HALVES / 2);
    for connection in &mut halves {
        connection.send(rest).unwrap();
        let reply = connection.reply().unwrap().document;
        assert!(reply.get_i32("n").is_ok(), "{reply}");
    }
}

#[test]
fn large_bodies_that_mongod_does_not_read_stay_within_the_memory_limit() {
    const CLIENTS: usize = 40;
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = Gateway::start(&options(&mongod));
    // In total twice the limit. The policy allows the command, and mongod ignores the comment.
    let message =
        Arc::new(op_msg(1, 0, &[body_section(&doc! { "ping": 1, "comment": "x".repeat(LARGE), "$db": "admin" })]));
    let clients: Vec<_> = (0..CLIENTS).map(|_| gateway.connect().unwrap()).map(served).collect();
    let before = gateway.memory_kib().unwrap();
    mongod.freeze().unwrap();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|mut connection| {
            let message = Arc::clone(&message);
            thread::spawn(move || {
                connection.send(&message).unwrap();
                connection.reply().unwrap().code()
            })
        })
        .collect();
    let read = || gateway.metric("mongate_bytes_total", &[("direction", "to_upstream")]).to_bits();
    until_steady("the gateway reads from no client", STILL, read);
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    mongod.thaw().unwrap();
    for client in clients {
        assert_eq!(client.join().unwrap(), None);
    }
    assert!(grown < BUDGET_KIB + HELD_MAX_KIB, "the gateway holds {grown} KiB");
}

#[test]
fn the_gateway_stops_reading_from_a_client_that_reads_no_replies() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // A unix socket: the kernel buffers little for a client that does not read.
    let directory = scratch::directory("stubborn").unwrap();
    let socket = format!("unix:{}", directory.path().join("s.sock").display());
    let gateway = Gateway::start(&GatewayOptions { listener_address: Some(socket), ..options(&mongod) });
    gateway.connect().unwrap().run(&ping()).unwrap();
    let before = gateway.memory_kib().unwrap();

    let path = directory.path().join("s.sock");
    let mut writer = std::os::unix::net::UnixStream::connect(path).unwrap();
    let mut reader = writer.try_clone().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let client = thread::spawn(move || {
        use std::io::Write;
        let command = doc! { "find": "closed", "filter": { "text": "x".repeat(200) }, "$db": "policy_stubborn" };
        let message = op_msg(5, 0, &[body_section(&command)]);
        // Ends when the socket is shut down.
        while writer.write_all(&message).is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stopped_at = until_steady("the gateway stops reading", STILL, || sent.load(Ordering::Relaxed));
    assert!(stopped_at > 100, "the gateway read only {stopped_at} requests");
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for {stopped_at} unread replies");
    // Other clients are served.
    gateway.connect().unwrap().run(&ping()).unwrap();
    // When the client reads, it gets all of the replies.
    check_replies(&mut reader, stopped_at);
    until("the gateway reads from the client again", || (sent.load(Ordering::Relaxed) > stopped_at).then_some(()));
    reader.shutdown(std::net::Shutdown::Both).unwrap();
    client.join().unwrap();
}

/// Runs one command on the connection and returns it.
fn served(mut connection: Connection) -> Connection {
    connection.run(&ping()).unwrap();
    connection
}

/// Reads `count` replies to request 5.
fn check_replies(reader: &mut impl std::io::Read, count: u64) {
    for _ in 0..count {
        let mut head = [0; 16];
        reader.read_exact(&mut head).unwrap();
        let word = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(12)), (5, OP_MSG));
        reader.read_exact(&mut vec![0; usize::try_from(word(0)).unwrap() - 16]).unwrap();
    }
}

/// Twelve documents of one megabyte. Every byte depends on the document's number.
fn documents() -> Vec<Document> {
    let bytes = |number: usize| (0..LARGE / 12).map(|at| (at * 31 + number).to_le_bytes()[number % 2]).collect();
    let binary = |number| Binary { subtype: BinarySubtype::Generic, bytes: bytes(number) };
    (0..12).map(|number| doc! { "number": i32::try_from(number).unwrap(), "pad": binary(number) }).collect()
}

fn insert(database: &str, collection: &str, in_body: bool) -> Vec<u8> {
    let mut body = doc! { "insert": collection, "$db": database };
    if !in_body {
        return op_msg(1, 0, &[body_section(&body), sequence_section("documents", &documents())]);
    }
    body.insert("documents", documents());
    op_msg(1, 0, &[body_section(&body)])
}

/// Checks that all twelve documents arrived unchanged, and removes them.
fn check_arrived(mongod: &Mongod, database: &str) {
    let found = mongod
        .run(&doc! { "find": "open", "projection": { "_id": 0 }, "sort": { "number": 1 }, "$db": database })
        .unwrap();
    let found = found.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let sent = documents();
    assert_eq!(found.len(), sent.len());
    assert!(
        found.iter().zip(&sent).all(|(found, sent)| found.as_document() == Some(sent)),
        "the documents differ from those sent"
    );
    mongod.run(&doc! { "delete": "open", "deletes": [{ "q": {}, "limit": 0 }], "$db": database }).unwrap();
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
