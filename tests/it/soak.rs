//! A soak: many connections for a bounded time, with certificate rotation, policy reloads and a mongod that stands
//! still now and then. No operation fails that does not fail on a direct connection, and nothing grows.
//!
//! `.ci/run soak` runs it for two minutes with a release build. An hour with 5,000 connections:
//!
//! ```sh
//! ulimit -n 65536
//! MONGATE_SOAK_SECONDS=3600 MONGATE_SOAK_CONNECTIONS=5000 MONGATE_TEST_BINARY=target/release/mongate \
//!     cargo test --test it soak:: -- --ignored --nocapture
//! ```

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bson::{Document, doc};

use crate::kit::certificates::Wanted;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::{Mongod, MongodOptions};
use crate::kit::raw::Connection;
use crate::kit::secret::{Content, Secret};

/// Threads that take turns with the connections through the gateway, and direct connections.
const THREADS: usize = 8;
const DIRECT: usize = 4;
const ROTATION_INTERVAL: Duration = Duration::from_secs(30);
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
const STANDSTILL_INTERVAL: Duration = Duration::from_secs(25);
const STANDSTILL: Duration = Duration::from_secs(2);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// What the second half may have more than the first: the allocator keeps some pages, and the number of spare
/// connections varies. A release build runs some hundred thousand operations in a minute, so a leak of 100 bytes for
/// each one would be several times as much.
const GROWTH_MAX_KIB: u64 = 8 * 1024;
const DESCRIPTORS_MAX: u64 = 40;

/// Operations of some clients.
#[derive(Default)]
struct Operations {
    done: AtomicU64,
    failed: AtomicU64,
    /// The first failures.
    errors: Mutex<Vec<String>>,
}

impl Operations {
    fn run(&self, connection: &mut Connection, command: &Document) {
        match connection.run(command) {
            Ok(_) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut errors = self.errors.lock().unwrap();
                if errors.len() < 10 {
                    errors.push(format!("{error:#}"));
                }
            }
        }
    }

    /// Uses each connection in turn, until `is_over`.
    fn take_turns(&self, mut connections: Vec<Connection>, is_over: &AtomicBool) {
        let commands = [
            doc! { "ping": 1, "$db": "admin" },
            doc! { "insert": "c", "documents": [{ "filler": "x".repeat(300) }], "$db": "soak" },
            doc! { "find": "c", "limit": 5, "$db": "soak" },
        ];
        for command in commands.iter().cycle() {
            for connection in &mut connections {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                self.run(connection, command);
            }
        }
    }
}

/// Something that is done at intervals.
struct Every {
    interval: Duration,
    next: Instant,
    count: u64,
}

impl Every {
    fn new(interval: Duration) -> Self {
        Self { interval, next: Instant::now() + interval, count: 0 }
    }

    /// The number of the turn, from 1, if one is due.
    fn due(&mut self) -> Option<u64> {
        (Instant::now() >= self.next).then(|| {
            self.next += self.interval;
            self.count += 1;
            self.count
        })
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// How much more the second half of the samples has than the first. The first tenth is the start and does not count.
fn grown(samples: &[u64]) -> u64 {
    let samples = &samples[samples.len() / 10..];
    let (first, second) = samples.split_at(samples.len() / 2);
    median(second).saturating_sub(median(first))
}

/// All connections have to move to the new certificate before this time is over, or else they are closed between two
/// operations, which these clients would count as failures. Each move is a TLS handshake: 15 a second leave time for
/// the operations.
fn options(mongod: &Mongod, secret: &Secret, connections: usize) -> GatewayOptions {
    let recycle_after = (connections / 15).max(20);
    GatewayOptions {
        upstream: format!("certificate_recycle_after = '{recycle_after}s'\n"),
        upstream_tls: secret.configuration(),
        ..GatewayOptions::to(mongod)
    }
}

/// A client that has begun: one that sends nothing for long is closed.
fn client(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().unwrap();
    connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    connection
}

/// A policy that differs in each reload. It denies nothing that the clients do.
fn policy(number: u64) -> String {
    let collection = if number.is_multiple_of(2) { "secrets" } else { "vault" };
    let to = format!("{{ databases = ['soak'], collections = ['{collection}'] }}");
    format!("[[policy.rule]]\nname = 'r'\naction = 'deny'\nto = [{to}]\n")
}

#[test]
#[ignore = "runs for two minutes, see the head of this file; a step of .ci/run"]
#[expect(clippy::print_stdout, reason = "the figures are the result")]
fn a_soak_fails_no_operation_and_leaves_nothing_behind() {
    let lasts = Duration::from_secs(setting("MONGATE_SOAK_SECONDS", 120));
    let count = usize::try_from(setting("MONGATE_SOAK_CONNECTIONS", 300)).unwrap();
    let Some(mongod) = Mongod::start(MongodOptions::default()) else { return };
    let issue = |number: u64| {
        let issued = mongod.pki.issue(&format!("soak-{number}"), &Wanted::default()).unwrap();
        Content::of(&mongod.pki, &issued)
    };
    let secret = Secret::of_kubernetes(&issue(0)).unwrap();
    let options = options(&mongod, &secret, count);
    let with_policy = |number| GatewayOptions { tables: policy(number), ..options.clone() };
    let gateway = Gateway::start(&with_policy(0));

    let (through_gateway, direct, is_over) = (Operations::default(), Operations::default(), AtomicBool::new(false));
    let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
    let mut rotations = Every::new(ROTATION_INTERVAL);
    let mut reloads = Every::new(RELOAD_INTERVAL);
    let mut standstills = Every::new(STANDSTILL_INTERVAL);
    thread::scope(|scope| {
        // Ends the clients, and continues mongod, also when an assertion fails.
        struct End<'a>(&'a AtomicBool, &'a Mongod);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
                let _ = self.1.thaw();
            }
        }
        let _end = End(&is_over, &mongod);
        for _ in 0..THREADS {
            let connections = (0..count / THREADS).map(|_| client(&gateway)).collect();
            scope.spawn(|| through_gateway.take_turns(connections, &is_over));
        }
        let connections = (0..DIRECT).map(|_| mongod.connect().unwrap()).collect();
        scope.spawn(|| direct.take_turns(connections, &is_over));

        let end = Instant::now() + lasts;
        let mut frozen: Option<Instant> = None;
        while Instant::now() < end {
            if let Some(number) = rotations.due() {
                secret.turn(&format!("..{number}"), &issue(number)).unwrap();
            }
            if let Some(number) = reloads.due() {
                let aside = gateway.directory().join("config.new");
                fs::write(&aside, with_policy(number).configuration()).unwrap();
                fs::rename(aside, gateway.configuration_file()).unwrap();
            }
            if standstills.due().is_some() {
                mongod.freeze().unwrap();
                frozen = Some(Instant::now());
            }
            if frozen.is_some_and(|since| since.elapsed() >= STANDSTILL) {
                mongod.thaw().unwrap();
                frozen = None;
            }
            memory.push(gateway.memory_kib().unwrap());
            descriptors.push(gateway.descriptors().unwrap() as u64);
            // The interval of the samples, and the precision of the steps above.
            thread::park_timeout(SAMPLE_INTERVAL);
        }
    });

    let [done, failed] = [&through_gateway.done, &through_gateway.failed].map(|count| count.load(Ordering::Relaxed));
    let failed_directly = direct.failed.load(Ordering::Relaxed);
    println!(
        "soak: {count} connections, {done} operations, {failed} failed ({failed_directly} of the direct clients); \
         {} rotations, {} reloads, {} standstills; memory {} KiB, {} KiB more in the second half; {} descriptors",
        rotations.count,
        reloads.count,
        standstills.count,
        median(&memory),
        grown(&memory),
        median(&descriptors),
    );
    assert!(failed <= failed_directly, "{failed} operations failed: {:?}", through_gateway.errors.lock().unwrap());
    assert!(done > count as u64, "only {done} operations");
    assert!(grown(&memory) <= GROWTH_MAX_KIB, "memory grows by {} KiB: {memory:?}", grown(&memory));
    assert!(grown(&descriptors) <= DESCRIPTORS_MAX, "descriptors: {descriptors:?}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let reloaded = gateway.metric("mongate_reloads_total", &[("outcome", "ok")]).round() as u64;
    assert!(reloaded >= rotations.count && rotations.count > 0, "{reloaded} of {} rotations", rotations.count);
    assert!(reloads.count > 0 && standstills.count > 0);
    let policies = gateway.log().iter().filter(|event| event["message"] == "policy in force").count();
    assert!(policies as u64 > reloads.count, "{policies} policies after {} reloads", reloads.count);
}
