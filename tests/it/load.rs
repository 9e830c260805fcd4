//! Many connections, large messages and slow peers: memory and descriptors stay bounded, and all data arrives complete.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use socket2::SockRef;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{Connection, Reply, body_section, op_msg, sequence_section};
use crate::kit::scratch;
use crate::kit::waiting::{until, until_steady};
use crate::slow;

/// The most memory that a large message or a slow peer may add to a gateway that has already handled both.
///
/// The gateway buffers about 150 KiB, and Linux's count is accurate to a few hundred KiB. Without a bound the growth
/// would be the whole message, 15 to 47 MB.
const GROWTH_MAX_KIB: u64 = 1024;
/// Documents of one megabyte each: 47 make nearly the largest possible message, 15 fit into one reply.
const MEGABYTE: usize = 1_000_000;
const LARGEST_MESSAGE: usize = 47;
const LARGEST_REPLY: usize = 15;
/// A stream counts as stopped when no byte has moved for this duration.
const STILL: Duration = Duration::from_millis(300);

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    const BATCH: usize = 250;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    // No spare connections: their number depends on how fast clients connect. `warm` tests their descriptors.
    let upstream = "warm_connections = 0\n".to_owned();
    let gateway = Gateway::start(&GatewayOptions { upstream, ..GatewayOptions::to(&mongod) });
    let batch = || {
        // Each batch opens the same number of connections at once: memory depends on the largest number so far.
        let open_and_serve = || {
            let open: Vec<_> = (0..BATCH / 2).map(|_| gateway.connect().unwrap()).collect();
            open.into_iter().map(served).collect::<Vec<_>>()
        };
        let halves: Vec<_> = thread::scope(|scope| {
            let halves = [scope.spawn(open_and_serve), scope.spawn(open_and_serve)];
            halves.into_iter().map(|half| half.join().unwrap()).collect()
        });
        drop(halves);
        gateway.await_metric("mongate_connections_active", &[], |count| count < 0.5);
    };
    // So many, since parked connections are of different ages, and each has its own buffers.
    (0..6).for_each(|_| batch());
    let (memory, descriptors) = (gateway.memory_kib().unwrap(), gateway.descriptors().unwrap());
    (0..1_000 / BATCH).for_each(|_| batch());
    until("all descriptors are closed", || (gateway.descriptors().unwrap() <= descriptors).then_some(()));
    let grown = gateway.memory_kib().unwrap().saturating_sub(memory);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB more than before");
    let closed = gateway.metric("mongate_connections_total", &[("outcome", "completed")]);
    assert!((closed - 2_500.0).abs() < 0.5, "{closed} connections were counted");
}

#[test]
fn the_largest_messages_are_forwarded_with_bounded_memory() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    let mut connection = gateway.connect().unwrap();
    // The first round fills buffers and caches; only the second round is measured.
    for database in ["large_warm", "large"] {
        let message = insert(database, LARGEST_MESSAGE);
        assert!((47_000_000..48_000_000).contains(&message.len()));
        let memory = gateway.watch_memory().unwrap();
        connection.send(&message).unwrap();
        let inserted = connection.reply().unwrap().document;
        assert_eq!(inserted.get_i32("n").unwrap(), 47, "{inserted}");
        connection.send(&find(database, 1)).unwrap();
        check_found(&connection.reply().unwrap());
        let grown = memory.grown_kib().unwrap();
        assert!(grown < GROWTH_MAX_KIB || database == "large_warm", "{grown} KiB for large messages");
        drop_database(&mongod, database);
    }
}

#[test]
fn a_client_that_does_not_read_costs_no_memory_and_gets_its_replies_later() {
    const REPLIES: i32 = 2;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut direct = mongod.connect().unwrap();
    direct.send(&insert("slow_client", LARGEST_REPLY)).unwrap();
    direct.reply().unwrap();
    // A unix socket: for a TCP client the kernel may buffer up to 32 MB of unread data.
    let directory = scratch::directory("slow-client").unwrap();
    let socket = format!("unix:{}", directory.path().join("s.sock").display());
    let gateway = Gateway::start(&GatewayOptions { listener_address: Some(socket), ..GatewayOptions::to(&mongod) });
    let mut connection = gateway.connect().unwrap();
    connection.send(&find("slow_client", 1)).unwrap();
    check_found(&connection.reply().unwrap());

    let passed = || gateway.metric("mongate_bytes_total", &[("direction", "to_client")]);
    let (passed_before, all) = (passed(), f64::from(REPLIES) * 15_000_000.0);
    let memory = gateway.watch_memory().unwrap();
    for request in 1..=REPLIES {
        connection.send(&find("slow_client", request)).unwrap();
    }
    let stopped_at = until_steady("the replies stop", STILL, || passed().to_bits());
    assert!(f64::from_bits(stopped_at) - passed_before < all, "the gateway read more than the client took");
    let grown = memory.grown_kib().unwrap();
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB for a client that does not read");
    for request in 1..=REPLIES {
        let reply = connection.reply().unwrap();
        assert_eq!(reply.response_to, request);
        check_found(&reply);
    }
    drop_database(&mongod, "slow_client");
}

#[test]
fn a_mongod_that_does_not_read_costs_no_memory_and_gets_its_request_later() {
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = Gateway::to(&mongod);
    let mut connection = gateway.connect().unwrap();
    connection.send(&insert("slow_mongod_warm", LARGEST_MESSAGE)).unwrap();
    connection.reply().unwrap();
    let message = Arc::new(insert("slow_mongod", LARGEST_MESSAGE));

    mongod.freeze().unwrap();
    let memory = gateway.watch_memory().unwrap();
    let passed = || gateway.metric("mongate_bytes_total", &[("direction", "to_upstream")]);
    let passed_before = passed();
    let client = thread::spawn({
        let message = Arc::clone(&message);
        move || {
            connection.send(&message).unwrap();
            connection.reply().unwrap().document
        }
    });
    let stopped_at = until_steady("the request stops", STILL, || passed().to_bits());
    let taken = f64::from_bits(stopped_at) - passed_before;
    assert!(taken > 0.0 && taken < 47_000_000.0, "the gateway read {taken} bytes while mongod read none");
    mongod.thaw().unwrap();
    assert_eq!(client.join().unwrap().get_i32("n").unwrap(), 47);
    let grown = memory.grown_kib().unwrap();
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB for a mongod that does not read");
}

#[test]
fn mongod_stops_the_operation_of_a_client_that_has_disconnected() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    slow::prepare(&mongod, "gone");
    let gateway = Gateway::to(&mongod);
    for end in ["closes", "resets", "half-closes"] {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(&op_msg(1, 0, &[body_section(&slow::find("gone", 120_000))])).unwrap();
        slow::await_running(&mongod, "gone", 1);
        let mut half_open = None;
        if end == "half-closes" {
            stream.shutdown(Shutdown::Write).unwrap();
            half_open = Some(stream);
        } else {
            let linger = (end == "resets").then_some(Duration::ZERO);
            SockRef::from(&stream).set_linger(linger).unwrap();
            drop(stream);
        }
        until(&format!("mongod ends the operation of a client that {end}"), || {
            (slow::running(&mongod, "gone") == 0).then_some(())
        });
        drop(half_open);
    }
    gateway.await_metric("mongate_connections_active", &[], |count| count < 0.5);
    gateway.connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
}

#[test]
fn a_client_that_half_closes_its_connection_still_gets_the_reply() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    for _ in 0..20 {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        stream.write_all(&op_msg(7, 0, &[body_section(&doc! { "ping": 1, "$db": "admin" })])).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let word = |at: usize| answer.get(at..at + 4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()));
        assert_eq!((word(0), word(8)), (i32::try_from(answer.len()).ok(), Some(7)), "{answer:?}");
    }
}

/// Runs one command on the connection and returns it.
fn served(mut connection: Connection) -> Connection {
    connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    connection
}

/// An insert of `count` documents in a document sequence.
fn insert(database: &str, count: usize) -> Vec<u8> {
    let documents: Vec<_> = (0..count).map(large).collect();
    let body = body_section(&doc! { "insert": "c", "$db": database });
    op_msg(1, 0, &[body, sequence_section("documents", &documents)])
}

/// A find for as many documents as fit into one reply.
fn find(database: &str, request: i32) -> Vec<u8> {
    let count = i32::try_from(LARGEST_REPLY).unwrap();
    let command = doc! { "find": "c", "sort": { "_id": 1 }, "limit": count, "batchSize": count, "$db": database };
    op_msg(request, 0, &[body_section(&command)])
}

fn check_found(reply: &Reply) {
    let batch = reply.document.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    assert_eq!(batch.len(), LARGEST_REPLY);
    for (number, document) in batch.iter().enumerate() {
        assert!(*document.as_document().unwrap() == large(number), "document {number} is not what was inserted");
    }
}

/// A document of one megabyte. Every byte depends on `number`.
fn large(number: usize) -> Document {
    let bytes = (0..MEGABYTE).map(|at| (at * 31 + number).to_le_bytes()[number % 2]).collect();
    doc! { "_id": i32::try_from(number).unwrap(), "pad": Binary { subtype: BinarySubtype::Generic, bytes } }
}

fn drop_database(mongod: &Mongod, database: &str) {
    mongod.run(&doc! { "dropDatabase": 1, "$db": database }).unwrap();
}
