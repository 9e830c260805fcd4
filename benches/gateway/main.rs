//! What the gateway costs beside proxies that do not read a message: processor time, latency, throughput and memory.
//!
//! Every round asks every subject for everything, one after the other, so that a busy moment of the machine hits all alike;
//! the figures are medians of the rounds. `--quick` is a smoke run of less than a minute, and so is `--test`.

mod figures;
#[path = "../../tests/kit/mod.rs"]
mod kit;
mod load;
mod roles;
mod subjects;

use std::io::{Write, stdout};
use std::time::Duration;

use tokio::task::LocalSet;

use figures::Figures;
use load::{Scenario, Work};
use roles::{LARGE_REPLY, SMALL_REPLY};
use subjects::{Scene, Subject};

const MEBIBYTE: usize = 1024 * 1024;

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "round trip, 1 connection", work: Work::RoundTrip, connections: 1 },
    Scenario { name: "round trip, 16", work: Work::RoundTrip, connections: 16 },
    Scenario { name: "round trip, 64", work: Work::RoundTrip, connections: 64 },
    Scenario { name: "round trip, 256", work: Work::RoundTrip, connections: 256 },
    Scenario { name: "insert, 1 MiB", work: Work::Insert(MEBIBYTE), connections: 1 },
    Scenario { name: "insert, 12 MiB", work: Work::Insert(12 * MEBIBYTE), connections: 1 },
    Scenario { name: "find, 16 MiB reply", work: Work::Find(LARGE_REPLY), connections: 1 },
    Scenario { name: "find, 64 KiB reply, 16", work: Work::Find(SMALL_REPLY), connections: 16 },
    Scenario { name: "new connection, 1 at a time", work: Work::Connection, connections: 1 },
    Scenario { name: "new connection, 8 at a time", work: Work::Connection, connections: 8 },
];

/// How much is measured.
struct Effort {
    rounds: usize,
    time: Duration,
    idle: &'static [usize],
}

const FULL: Effort = Effort { rounds: 11, time: Duration::from_millis(700), idle: &[1_000, 5_000] };
const QUICK: Effort = Effort { rounds: 1, time: Duration::from_millis(100), idle: &[100] };

fn main() -> anyhow::Result<()> {
    raise_descriptors();
    roles::play()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is = |name: &str| arguments.iter().any(|argument| argument == name);
    let effort = if is("--quick") || is("--test") || !is("--bench") { QUICK } else { FULL };
    let chosen = arguments.iter().find_map(|argument| argument.strip_prefix("--only="));
    let scene = Scene::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut figures = Figures::default();
    for round in 1..=effort.rounds {
        for scenario in
            SCENARIOS.into_iter().filter(|scenario| chosen.is_none_or(|chosen| scenario.name.contains(chosen)))
        {
            for subject in &scene.subjects {
                figures.add(subject.name, &scenario, measure(&runtime, subject, scenario, effort.time)?);
            }
        }
        for count in effort.idle.iter().copied().filter(|_| chosen.is_none_or(|chosen| "idle".contains(chosen))) {
            for subject in scene.subjects.iter().filter(|subject| subject.memory_kib().is_some()) {
                figures.add_memory(subject.name, count, idle(&runtime, subject, count)?);
            }
        }
        writeln!(std::io::stderr(), "round {round} of {}", effort.rounds)?;
    }
    let mut out = stdout().lock();
    for missing in &scene.missing {
        writeln!(out, "{missing} is not installed here, or does not start; it was left out")?;
    }
    write!(out, "{figures}")?;
    let file = figures.write_json()?;
    writeln!(out, "\nall of it: {}", file.display())?;
    Ok(())
}

/// One subject under one load.
struct Measurement {
    outcome: load::Outcome,
    /// Of the subject, while it was under load.
    processor: Option<Duration>,
}

fn measure(
    runtime: &tokio::runtime::Runtime,
    subject: &Subject,
    scenario: Scenario,
    time: Duration,
) -> anyhow::Result<Measurement> {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        // What the first operations cost is warmth: buffers, caches, spare connections.
        load::run(&subject.target, scenario, time / 10).await?;
        let before = subject.processor_time();
        let outcome = load::run(&subject.target, scenario, time).await?;
        let processor = subject.processor_time().zip(before).map(|(after, before)| after.saturating_sub(before));
        Ok(Measurement { outcome, processor })
    })
}

/// Resident memory in KiB for each of so many connections: fresh, and after each has moved 256 KiB.
fn idle(runtime: &tokio::runtime::Runtime, subject: &Subject, count: usize) -> anyhow::Result<[f64; 2]> {
    const MOVED: usize = 256 * 1024;
    let memory = || subject.memory_kib().unwrap_or_default();
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let (hello, insert) = (Work::Connection.request(), Work::Insert(MOVED).request());
        let (before, mut open, mut buffer) = (memory(), Vec::new(), Vec::new());
        for _ in 0..count {
            let mut connection = subject.target.connect().await?;
            connection.ask(&hello, &mut buffer).await?;
            open.push(connection);
        }
        let fresh = memory();
        for connection in &mut open {
            connection.ask(&insert, &mut buffer).await?;
        }
        let used = memory();
        #[expect(clippy::cast_precision_loss, reason = "kibibytes of a process")]
        let each = |now: u64| now.saturating_sub(before) as f64 / count as f64;
        Ok([each(fresh), each(used)])
    })
}

/// Five thousand connections are ten thousand descriptors, here and in every subject.
fn raise_descriptors() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not permitted, the run says what it could not open.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
