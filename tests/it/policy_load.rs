//! Large commands and stubborn clients under a policy: what is held is bounded, and nobody waits for somebody else's.

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

/// Nearly as much as a body can hold.
const LARGE: usize = 12_000_000;
/// What one large body may cost while it is held, and the copies of it on its way.
const HELD_MAX_KIB: u64 = 20 * 1024;
/// What may be left of it when all are gone: allocators keep a little.
const LEFT_MAX_KIB: u64 = 8 * 1024;
/// All that is held at one time.
const BUDGET_KIB: u64 = 256 * 1024;
/// A client who is not read stands still for so long.
const STILL: Duration = Duration::from_millis(500);

fn options(mongod: &Mongod) -> GatewayOptions {
    let rule = "[[policy.rule]]\nname = 'closed'\naction = 'deny'\nto = [{ collections = ['closed'] }]\n";
    GatewayOptions { tables: rule.to_owned(), ..GatewayOptions::to(mongod) }
}

#[test]
fn large_inserts_arrive_whole_or_not_at_all_and_leave_no_memory_behind() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let database = "policy_large";
    let rows = [("in the body", true), ("in a sequence", false)];
    let mut wrong = Vec::new();
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
                    wrong.push(format!("{name}, {collection}: {peak} KiB more at the peak"));
                }
            }
        }
    }
    let left = until_steady("memory stands still", STILL, || gateway.memory_kib().unwrap()).saturating_sub(at_first);
    if left >= LEFT_MAX_KIB {
        wrong.push(format!("{left} KiB are not given back"));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(mongod.run(&doc! { "count": "closed", "$db": database }).unwrap().get_i32("n").unwrap(), 0);
}

#[test]
fn what_is_as_long_as_it_may_be_is_judged_and_what_is_longer_is_answered() {
    /// mongod's own limit of a body.
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
    let behind = |collection: &str, documents: usize| {
        let body = body_section(&doc! { "insert": collection, "$db": "policy_long" });
        op_msg(1, 0, &[sequence_section("documents", &vec![doc! { "text": "x".repeat(1_000_000) }; documents]), body])
    };
    let rows = [
        ("the longest body", ping(BODY_MAX), None),
        ("a body that is too long", ping(BODY_MAX + 1), Some(10_334)),
        ("a body that nobody takes", ping(BODY_MAX + 1_000_000), Some(13)),
        ("the longest body, refused", closed(BODY_MAX), Some(13)),
        ("a body behind a long sequence", behind("open", 12), None),
        ("a body behind a long sequence, refused", behind("closed", 12), Some(13)),
        ("a body behind a sequence that nobody holds", behind("open", 20), Some(13)),
    ];
    let mut connection = gateway.connect().unwrap();
    for (name, bytes, code) in rows {
        // With the next one in the same piece.
        let next = op_msg(2, 0, &[body_section(&self::ping())]);
        connection.send(&[bytes, next].concat()).unwrap();
        let answers = [connection.reply().unwrap(), connection.reply().unwrap()];
        let [first, second] = answers.map(|reply| (reply.response_to, reply.code()));
        assert_eq!((first, second), ((1, code), (2, None)), "{name}");
    }
}

#[test]
fn clients_in_the_middle_of_large_bodies_keep_nobody_waiting_but_each_other() {
    // Sixteen of the largest bodies are all that is held at one time.
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
    // Those who are small are served as if nobody else were there.
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
    // Who comes first is served first, and whoever leaves makes room: all who go on arrive.
    halves.drain(..HALVES / 2);
    for connection in &mut halves {
        connection.send(rest).unwrap();
        let reply = connection.reply().unwrap().document;
        assert!(reply.get_i32("n").is_ok(), "{reply}");
    }
}

#[test]
fn large_bodies_that_mongod_does_not_take_stay_within_what_may_be_held() {
    const CLIENTS: usize = 40;
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = Gateway::start(&options(&mongod));
    // Twice as much as may be held; it passes, and mongod does nothing with it.
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
    until_steady("nobody is read any more", STILL, read);
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    mongod.thaw().unwrap();
    for client in clients {
        assert_eq!(client.join().unwrap(), None);
    }
    assert!(grown < BUDGET_KIB + HELD_MAX_KIB, "{grown} KiB are held");
}

#[test]
fn a_client_that_is_refused_without_end_and_reads_nothing_is_not_read_either() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // A unix socket: the kernel keeps little there for who does not read.
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
        // Ends when the socket is shut.
        while writer.write_all(&message).is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stood = until_steady("the client is not read any more", STILL, || sent.load(Ordering::Relaxed));
    assert!(stood > 100, "only {stood} were taken at all");
    let grown = gateway.memory_kib().unwrap().saturating_sub(before);
    assert!(grown < 4 * 1024, "{grown} KiB for {stood} refusals that nobody reads");
    // Others do not notice.
    gateway.connect().unwrap().run(&ping()).unwrap();
    // Who begins to read gets all of them.
    check_refusals(&mut reader, stood);
    until("the client is read again", || (sent.load(Ordering::Relaxed) > stood).then_some(()));
    reader.shutdown(std::net::Shutdown::Both).unwrap();
    client.join().unwrap();
}

/// The connection, after it has carried a command.
fn served(mut connection: Connection) -> Connection {
    connection.run(&ping()).unwrap();
    connection
}

/// So many refusals of request 5, one after the other.
fn check_refusals(reader: &mut impl std::io::Read, count: u64) {
    for _ in 0..count {
        let mut head = [0; 16];
        reader.read_exact(&mut head).unwrap();
        let word = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(12)), (5, OP_MSG));
        reader.read_exact(&mut vec![0; usize::try_from(word(0)).unwrap() - 16]).unwrap();
    }
}

/// Twelve documents of a megabyte, whose every byte depends on its number.
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

/// All twelve are there as they were sent; they are removed.
fn check_arrived(mongod: &Mongod, database: &str) {
    let found = mongod
        .run(&doc! { "find": "open", "projection": { "_id": 0 }, "sort": { "number": 1 }, "$db": database })
        .unwrap();
    let found = found.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let sent = documents();
    assert_eq!(found.len(), sent.len());
    assert!(found.iter().zip(&sent).all(|(found, sent)| found.as_document() == Some(sent)), "not what was sent");
    mongod.run(&doc! { "delete": "open", "deletes": [{ "q": {}, "limit": 0 }], "$db": database }).unwrap();
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
