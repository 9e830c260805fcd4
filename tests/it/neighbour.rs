//! A healthy client next to each kind of attack on the gateway: it is always served.
//!
//! The ordinary test counts operations and measures no time. The table of latencies is made by hand, also for an
//! earlier build:
//!
//! ```sh
//! MONGATE_TEST_BINARY=target/release/mongate cargo test --test it neighbour::table -- --ignored --nocapture
//! ```
//!
//! The configuration has only keys that every release has.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use hdrhistogram::Histogram;

use crate::kit::certificates::{First, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, body_section, op_msg, with_length};
use crate::kit::waiting::until;
use crate::slow;

const DATABASE: &str = "neighbour";
/// The neighbour's document is longer than what the gateway holds without a share of the budget for held bodies.
const DOCUMENT_BYTES: usize = 20_000;
/// The neighbour's connection is replaced after this number of operations, as a pool does.
const OPERATIONS_PER_CONNECTION: usize = 50;
/// Operations of the ordinary test during each attack.
const OPERATIONS: usize = 60;
/// Connections of attacks that hold them open.
const HELD: usize = 100;
/// Limit for a socket of an attacker, so that it notices the end of the attack.
const ATTACKER_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway with a listener for the neighbour and four for attackers.
struct Arena {
    gateway: Gateway,
    attacked: String,
    tls: String,
    dead: String,
    away: String,
    /// Accepts the gateway's connections and closes them; the upstream of the listener `dead`.
    closing: TcpListener,
}

/// An attack, run by this number of threads.
struct Attack {
    name: &'static str,
    threads: usize,
    run: fn(&Arena, &Progress),
    log_level: &'static str,
}

/// What attackers have done, and whether they should go on.
#[derive(Default)]
struct Progress {
    is_over: AtomicBool,
    steps: AtomicUsize,
}

/// Latencies of the neighbour in microseconds.
struct Latencies {
    ping: Histogram<u64>,
    insert: Histogram<u64>,
    failed: usize,
}

const ATTACKS: [Attack; 11] = [
    Attack { name: "none", threads: 0, run: |_, _| {}, log_level: "info" },
    Attack { name: "stalled log reader", threads: 8, run: stall_the_log, log_level: "debug" },
    Attack { name: "half-closed clients", threads: 4, run: half_close, log_level: "info" },
    Attack { name: "held bodies without rights", threads: 4, run: hold_bodies, log_level: "info" },
    Attack { name: "unfinished ClientHellos", threads: 4, run: unfinished_hellos, log_level: "info" },
    Attack { name: "pipelined refused commands", threads: 8, run: pipeline_refused, log_level: "info" },
    Attack { name: "mongod that closes", threads: 8, run: use_closing_mongod, log_level: "info" },
    Attack { name: "port scan", threads: 8, run: scan_ports, log_level: "info" },
    Attack { name: "slow readers of the administration port", threads: 8, run: slow_admin, log_level: "info" },
    Attack { name: "retries in an outage", threads: 32, run: retry, log_level: "info" },
    Attack { name: "flood of new clients", threads: 16, run: flood, log_level: "info" },
];

impl Arena {
    fn new(mongod: &Mongod, attack: &Attack) -> Self {
        let closing = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut options = GatewayOptions::to(mongod);
        let server = mongod.pki.issue("listener", &Wanted::server()).unwrap();
        let certificate = server.combined(First::Certificate).unwrap();
        let certificate_keys =
            format!("certificate_file = '{}'\nca_file = '{}'", certificate.display(), mongod.pki.ca_file().display());
        let listener = |name: &str, upstream: &str, more: &str| {
            format!("[listener.{name}]\naddress = '127.0.0.1:0'\nupstream = '{upstream}'\n{more}\n")
        };
        options.log_level = Some(attack.log_level);
        options.tables = [
            listener("attacked", "test", "max_connections = 500"),
            listener("dead", "dead", ""),
            listener("away", "away", ""),
            // No program listens on this port.
            "[upstream.away]\naddress = '127.0.0.1:1'".to_owned(),
            format!("[upstream.away.tls]\n{}", options.upstream_tls),
            listener("tls", "test", &format!("mode = 'strict'\n[listener.tls.tls]\n{certificate_keys}")),
            format!("[upstream.dead]\naddress = '{}'\nconnect_timeout = '2s'", closing.local_addr().unwrap()),
            format!("[upstream.dead.tls]\n{}", options.upstream_tls),
            "[[policy.rule]]\nname = 'neighbour'\naction = 'allow'\nfrom = [{ listeners = ['test'] }]".to_owned(),
            "[[policy.rule]]\nname = 'slow'\naction = 'allow'\nto = [{ databases = ['half_closed'] }]\n".to_owned(),
        ]
        .join("\n");
        let gateway = Gateway::start(&options);
        let [attacked, tls, dead, away] =
            ["attacked", "tls", "dead", "away"].map(|name| gateway.address_of(name).unwrap());
        Self { gateway, attacked, tls, dead, away, closing }
    }

    /// Runs `body` while the attack goes on.
    fn during<T>(&self, attack: &Attack, body: impl FnOnce() -> T) -> T {
        let progress = Progress::default();
        thread::scope(|scope| {
            // Ends the attack also when the body panics.
            struct End<'a>(&'a Arena, &'a Progress);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.1.is_over.store(true, Ordering::Relaxed);
                    // Wakes the thread that accepts.
                    let _ = TcpStream::connect(self.0.closing.local_addr().unwrap());
                    self.0.gateway.read_log(true);
                }
            }
            let _end = End(self, &progress);
            scope.spawn(|| {
                while progress.goes_on() {
                    drop(self.closing.accept());
                }
            });
            for _ in 0..attack.threads {
                scope.spawn(|| (attack.run)(self, &progress));
            }
            until("the attack has begun", || (progress.steps() >= attack.threads).then_some(()));
            body()
        })
    }
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Keeps `held` until the attack is over.
    fn hold<T>(&self, held: T) {
        self.step();
        while self.goes_on() {
            thread::park_timeout(Duration::from_millis(20));
        }
        drop(held);
    }
}

fn connect(address: &str) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ATTACKER_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(ATTACKER_TIMEOUT)).ok()?;
    Some(stream)
}

fn message(command: &Document) -> Vec<u8> {
    op_msg(1, 0, &[body_section(command)])
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}

/// Connections that each hold what `begin` has sent.
fn hold(address: &str, threads: usize, progress: &Progress, begin: impl Fn(&mut TcpStream)) {
    let held: Vec<_> = (0..HELD / threads)
        .filter_map(|_| {
            let mut stream = connect(address)?;
            begin(&mut stream);
            Some(stream)
        })
        .collect();
    progress.hold(held);
}

/// Sends one message on new connections until the attack is over.
fn send_again_and_again(address: &str, progress: &Progress, bytes: &[u8]) {
    while progress.goes_on() {
        if let Some(mut stream) = connect(address) {
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 1024]);
        }
        progress.step();
    }
}

fn stall_the_log(arena: &Arena, progress: &Progress) {
    arena.gateway.read_log(false);
    send_again_and_again(&arena.attacked, progress, &message(&ping()));
}

fn half_close(arena: &Arena, progress: &Progress) {
    let slow = message(&slow::find("half_closed", 60_000));
    hold(&arena.attacked, 4, progress, |stream| {
        let _ = stream.write_all(&slow);
        let _ = stream.shutdown(Shutdown::Write);
    });
}

fn hold_bodies(arena: &Arena, progress: &Progress) {
    const CLAIMED: i32 = 16_000_000;
    let whole = message(&doc! { "insert": "x", "documents": [{ "filler": "x".repeat(200) }], "$db": "shop" });
    // Flags, the kind of the section, and a document that claims the rest of the message.
    let mut begin = whole[16..116].to_vec();
    begin[5..9].copy_from_slice(&(CLAIMED - 16 - 5).to_le_bytes());
    let claim = with_length(CLAIMED, 2013, 1, &begin);
    hold(&arena.attacked, 4, progress, |stream| drop(stream.write_all(&claim)));
}

fn unfinished_hellos(arena: &Arena, progress: &Progress) {
    // A handshake message of 60,000 bytes in records of 16 KiB, of which the last is missing.
    let mut bytes = Vec::new();
    for record in 0..3 {
        bytes.extend([0x16, 3, 1, 0x40, 0]);
        let mut fragment = vec![0; 0x4000];
        if record == 0 {
            fragment[..4].copy_from_slice(&[1, 0, 0xea, 0x60]);
        }
        bytes.extend(fragment);
    }
    hold(&arena.tls, 4, progress, |stream| drop(stream.write_all(&bytes)));
}

fn pipeline_refused(arena: &Arena, progress: &Progress) {
    const BATCH: usize = 1_000;
    let batch = message(&doc! { "find": "orders", "$db": "shop" }).repeat(BATCH);
    while progress.goes_on() {
        let Some(mut stream) = connect(&arena.attacked) else { continue };
        let mut writer = stream.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 16];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
            while progress.goes_on() && writer.write_all(&batch).is_ok() {
                progress.step();
            }
            let _ = writer.shutdown(Shutdown::Both);
        });
    }
}

fn use_closing_mongod(arena: &Arena, progress: &Progress) {
    send_again_and_again(&arena.dead, progress, &message(&ping()));
}

fn scan_ports(arena: &Arena, progress: &Progress) {
    let openings: [&[u8]; 3] = [b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 64]];
    for opening in openings.iter().cycle() {
        if !progress.goes_on() {
            return;
        }
        if let Some(mut stream) = connect(&arena.attacked) {
            let _ = stream.write_all(opening);
            let _ = stream.read(&mut [0; 1024]);
        }
        progress.step();
    }
}

fn slow_admin(arena: &Arena, progress: &Progress) {
    hold(arena.gateway.admin_address(), 8, progress, |stream| drop(stream.write_all(b"GET /metrics HTTP/1.1\r\n")));
}

/// Clients of an upstream that is away retry as fast as they can.
fn retry(arena: &Arena, progress: &Progress) {
    send_again_and_again(&arena.away, progress, &message(&doc! { "hello": 1, "$db": "admin" }));
}

fn flood(arena: &Arena, progress: &Progress) {
    send_again_and_again(&arena.attacked, progress, &message(&ping()));
}

/// A ping and an insert for each round, until `is_done` says so.
fn measure(gateway: &Gateway, mut is_done: impl FnMut(usize) -> bool) -> Latencies {
    let new_histogram = || Histogram::new_with_max(3_600_000_000, 3).unwrap();
    let mut latencies = Latencies { ping: new_histogram(), insert: new_histogram(), failed: 0 };
    let insert = doc! {
        "insert": "orders",
        "documents": [{ "filler": "x".repeat(DOCUMENT_BYTES) }],
        "$db": DATABASE,
    };
    let mut connection: Option<Connection> = None;
    let mut rounds = 0;
    while !is_done(rounds) {
        if rounds % OPERATIONS_PER_CONNECTION == 0 || connection.is_none() {
            connection = gateway.connect().ok();
        }
        for (command, histogram) in [(&ping(), &mut latencies.ping), (&insert, &mut latencies.insert)] {
            let began = Instant::now();
            let result = connection.as_mut().map(|connection| connection.run(command));
            histogram.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap());
            if !matches!(result, Some(Ok(_))) {
                latencies.failed += 1;
                connection = None;
            }
        }
        rounds += 1;
    }
    latencies
}

fn prepare() -> Option<std::sync::Arc<Mongod>> {
    let mongod = Mongod::shared_standalone()?;
    slow::prepare(&mongod, "half_closed");
    Some(mongod)
}

#[test]
fn a_healthy_neighbour_is_served_during_every_attack() {
    let Some(mongod) = prepare() else { return };
    for attack in &ATTACKS {
        let arena = Arena::new(&mongod, attack);
        let latencies = arena.during(attack, || measure(&arena.gateway, |rounds| rounds * 2 >= OPERATIONS));
        assert_eq!(latencies.failed, 0, "failed operations during: {}", attack.name);
        assert_eq!(arena.gateway.get("/livez").unwrap().status, 200, "{}", attack.name);
    }
}

#[test]
#[ignore = "measures for minutes; see the head of this file"]
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn table() {
    const LASTS: Duration = Duration::from_secs(10);
    let Some(mongod) = prepare() else { return };
    println!("| attack | ping p50 | ping p99 | insert p50 | insert p99 | failed | memory | log |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for attack in &ATTACKS {
        let arena = Arena::new(&mongod, attack);
        let (latencies, memory) = arena.during(attack, || {
            let began = Instant::now();
            let latencies = measure(&arena.gateway, |_| began.elapsed() >= LASTS);
            (latencies, arena.gateway.memory_kib().unwrap() / 1024)
        });
        let log: usize = arena.gateway.log().iter().map(|event| event.to_string().len()).sum();
        let Latencies { ping, insert, failed } = latencies;
        let shown = |histogram: &Histogram<u64>, quantile: f64| {
            let microseconds = histogram.value_at_quantile(quantile);
            format!("{}.{} ms", microseconds / 1_000, microseconds % 1_000 / 100)
        };
        let [ping, insert] = [ping, insert].map(|h| format!("{} | {}", shown(&h, 0.5), shown(&h, 0.99)));
        let log = log as u64 / 1_000 / LASTS.as_secs();
        println!("| {} | {ping} | {insert} | {failed} | {memory} MiB | {log} kB/s |", attack.name);
    }
}
