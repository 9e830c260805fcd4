//! Clients that cause log lines without limit: what is written has a limit, and what is left out is counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use serde_json::Value;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::{body_section, op_msg};
use crate::kit::waiting::until_steady;

/// Lines that the budgets allow at once: 100 of ordinary traffic, and 20 of each kind that one of these floods causes.
const BURST_LINES: usize = 250;
const BURST_BYTES: usize = 150_000;
/// After the burst.
const LINES_PER_SECOND: f64 = 12.0;
const BYTES_PER_SECOND: f64 = 10_000.0;

/// Left-out lines are reported 15 s after the last line of their kind.
const CLOSING_TIMEOUT: Duration = Duration::from_mins(1);

const POLICY: &str = "[[policy.rule]]\nname = 'no-finds'\naction = 'deny'\nto = [{ commands = ['find'] }]\n";

const OPENINGS: [&[u8]; 3] = [
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
];

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

fn find() -> Document {
    doc! { "find": "orders", "$db": "shop" }
}

/// Runs `operation` on several threads, `count` times in all.
fn repeat(count: usize, operation: impl Fn(usize) + Sync) {
    const THREADS: usize = 8;
    let operation = &operation;
    thread::scope(|scope| {
        for first in 0..THREADS {
            scope.spawn(move || (first..count).step_by(THREADS).for_each(operation));
        }
    });
}

/// Sends a command on a new connection. Whether and how it is answered does not matter.
fn send_once(gateway: &Gateway, command: &Document) {
    let mut client = gateway.connect().unwrap();
    if client.send(&op_msg(1, 0, &[body_section(command)])).is_ok() {
        let _ = client.receive();
    }
}

fn send_opening(gateway: &Gateway, opening: &[u8]) {
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = client.write_all(opening);
    let _ = client.read_to_end(&mut Vec::new());
}

/// Runs a flood and asserts that the log lines that it causes stay within the budgets.
fn assert_bounded(gateway: &Gateway, name: &str, flood: impl FnOnce()) {
    let before = gateway.log().len();
    let began = Instant::now();
    flood();
    until_steady("the log is complete", Duration::from_millis(300), || gateway.log().len());
    let seconds = began.elapsed().as_secs_f64();
    let written = gateway.log().split_off(before);
    let bytes: usize = written.iter().map(|event| event.to_string().len() + 1).sum();
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (lines_over, bytes_over) =
        (written.len().saturating_sub(BURST_LINES) as f64, bytes.saturating_sub(BURST_BYTES) as f64);
    let figures = format!("{name}: {} lines, {bytes} bytes in {seconds} s", written.len());
    assert!(lines_over <= LINES_PER_SECOND * seconds && bytes_over <= BYTES_PER_SECOND * seconds, "{figures}");
}

fn suppressed(events: &[Value], message: &str) -> u64 {
    let of_message = |event: &&Value| event["message"] == message || event["lines"] == message;
    events.iter().filter(of_message).filter_map(|event| event["suppressed"].as_u64()).sum()
}

#[test]
fn no_flood_of_clients_writes_more_than_ten_kilobytes_per_second_into_the_log() {
    let Some(mut mongod) = Mongod::start(MongodOptions::default()) else { return };
    let gateway = Gateway::start(&GatewayOptions { tables: POLICY.to_owned(), ..GatewayOptions::to(&mongod) });

    assert_bounded(&gateway, "denied commands on one connection", || {
        let mut client = gateway.connect().unwrap();
        for _ in 0..2_000 {
            assert_eq!(client.command(&find()).unwrap().get_i32("code").unwrap(), 13);
        }
    });
    assert_bounded(&gateway, "denied commands on new connections", || {
        repeat(1_000, |_| send_once(&gateway, &find()));
    });
    assert_bounded(&gateway, "connect, ping and close", || repeat(1_000, |_| send_once(&gateway, &ping())));
    assert_bounded(&gateway, "connect and close", || repeat(2_000, |_| drop(gateway.connect().unwrap())));
    assert_bounded(&gateway, "other protocols", || {
        repeat(3_000, |index| send_opening(&gateway, OPENINGS[index % OPENINGS.len()]));
    });
    mongod.kill();
    assert_bounded(&gateway, "retries while mongod is away", || repeat(3_000, |_| send_once(&gateway, &ping())));

    // Each rejection is a line of its own or is counted by a later one.
    let is_closing = |event: &Value, kind: &str| {
        event["message"] == "log lines suppressed" && event["lines"] == "connection rejected" && event["kind"] == kind
    };
    for kind in ["tls", "http", "not_mongodb"] {
        let closing = gateway.wait_for_log(CLOSING_TIMEOUT, |event| is_closing(event, kind)).unwrap();
        assert_eq!((&closing["level"], &closing["listener"]), (&"WARN".into(), &"test".into()), "{closing}");
        let lines: Vec<_> = gateway.log().into_iter().filter(|event| event["kind"] == kind).collect();
        let rejections = lines.iter().filter(|event| event["message"] == "connection rejected").count();
        assert_eq!(rejections as u64 + suppressed(&lines, "connection rejected"), 1_000, "{kind}");
    }
}

#[test]
fn an_application_that_opens_a_hundred_connections_at_once_loses_no_line() {
    const CONNECTIONS: usize = 100;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    repeat(CONNECTIONS, |_| drop(gateway.connect().unwrap().run(&ping()).unwrap()));
    let completed = [("outcome", "completed")];
    gateway.await_metric("mongate_connections_total", &completed, |count| count > 99.5);
    let closed = || gateway.log().iter().filter(|event| event["message"] == "connection closed").count();
    crate::kit::waiting::until("each connection has its line", || (closed() == CONNECTIONS).then_some(()));
}
