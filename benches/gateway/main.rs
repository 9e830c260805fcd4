//! Compares the cost of the gateway with that of proxies that do not parse messages: processor time, latency,
//! throughput and memory; first with a stub upstream that replies immediately, then with a real mongod.
//!
//! Every round measures all subjects one after the other, so that other load on the machine affects all of them. Each
//! round starts with another subject, because a measurement can affect the next one. The figures are medians of the
//! rounds.
//!
//! | argument | effect |
//! | --- | --- |
//! | `--quick`, `--test` | a smoke run of less than a minute |
//! | `--only=TEXT` | only scenarios with this text in their name |
//! | `--subjects=NAME,NAME` | only these subjects, by their names in the table |
//! | `--beside=NAME=BINARY` | also measures another build of the gateway; repeatable |
//! | `--rounds=N`, `--time=MS` | number of rounds, and duration of a measurement |
//! | `--publish` | writes the result to `docs/performance.{md,json,svg}` |
//! | `--render=FILE` | does the same with the JSON of an earlier run, and measures nothing |
//! | `--against=NAME=HOST:PORT[,FOLDER,SERVER]` | measures a running server or proxy instead; repeatable |
//!
//! `--against` uses TLS if a folder is given. The folder has `ca.pem` and `client.pem`, and SERVER is the name in the
//! server's certificate.

mod envoy;
mod goals;
#[path = "../../tests/kit/mod.rs"]
mod kit;
mod load;
mod peers;
mod picture;
mod processes;
mod report;
mod roles;
mod show;
mod subjects;

use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bson::rawdoc;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use load::{Scenario, Target, Work};
use report::{Facts, Report};
use roles::{LARGE_REPLY, SMALL_REPLY};
use subjects::{Selection, Subject, Testbed};

const MEBIBYTE: usize = 1024 * 1024;

/// Number of documents of 1 MB in the collection `archive` of a real mongod; they fit into one reply.
const LARGE_DOCUMENTS: usize = 15;
/// Size of the reply to a find of all of them.
const ARCHIVE_BYTES: usize = LARGE_DOCUMENTS * 1_000_000;

/// Titles of the tables.
const PROXIES: &str = "Stub upstream";
const IDLE: &str = "Idle connections";
const RULES: &str = "Number of policy rules";
const MONGODB: &str = "Real mongod";

const SCENARIOS: [Scenario; 12] = [
    Scenario::new("round trip, 1 connection", Work::RoundTrip, 1),
    Scenario::new("round trip, 16", Work::RoundTrip, 16),
    Scenario::new("round trip, 64", Work::RoundTrip, 64),
    Scenario::new("round trip, 256", Work::RoundTrip, 256),
    Scenario::new("insert, 1 MiB", Work::Insert(MEBIBYTE), 1),
    Scenario::new("insert, 12 MiB", Work::Insert(12 * MEBIBYTE), 1),
    Scenario::new("find, 16 MiB reply", Work::Find(LARGE_REPLY), 1),
    Scenario::new("find, 64 KiB reply, 16", Work::Find(SMALL_REPLY), 16),
    Scenario::new("new connection, 1 at a time", Work::Connection, 1),
    Scenario::new("new connection, 8 at a time", Work::Connection, 8),
    Scenario::new("first command, 1 at a time", Work::FirstCommand, 1),
    Scenario::new("first command, 8 at a time", Work::FirstCommand, 8),
];

const POLICY_SCENARIOS: [Scenario; 2] = [
    Scenario::new("round trip, 16, policy", Work::RoundTrip, 16),
    Scenario::new("round trip, 64, policy", Work::RoundTrip, 64),
];

const MONGODB_SCENARIOS: [Scenario; 12] = [
    Scenario::new("ping, 1 connection", Work::RoundTrip, 1),
    Scenario::new("ping, 16", Work::RoundTrip, 16),
    Scenario::new("ping, 64", Work::RoundTrip, 64),
    Scenario::new("find by _id, 1 connection", Work::Lookup, 1),
    Scenario::new("find by _id, 16", Work::Lookup, 16),
    Scenario::new("find by _id, 64", Work::Lookup, 64),
    Scenario::new("insert, 1 MiB", Work::Insert(MEBIBYTE), 1),
    Scenario::new("find, 15 MB reply", Work::Batch(ARCHIVE_BYTES), 1),
    Scenario::new("new connection, 1 at a time", Work::Connection, 1),
    Scenario::new("new connection, 8 at a time", Work::Connection, 8),
    Scenario::new("first command, 1 at a time", Work::FirstCommand, 1),
    Scenario::new("first command, 8 at a time", Work::FirstCommand, 8),
];

/// Extent of a run.
struct Effort {
    rounds: usize,
    /// Rounds of measurements that take long and vary little.
    slow_rounds: usize,
    /// Duration of one measurement.
    time: Duration,
    /// Numbers of idle connections for which memory is measured.
    idle: &'static [usize],
    /// Number of idle connections in addition to a hundred busy ones, and the name of this scenario.
    crowd: (usize, &'static str),
    /// Whether a missing proxy is downloaded.
    fetch: bool,
}

const FULL: Effort = Effort {
    rounds: 11,
    slow_rounds: 3,
    time: Duration::from_millis(500),
    idle: &[1_000, 5_000],
    crowd: (4_900, "round trip, 100 of 5,000"),
    fetch: true,
};
const QUICK: Effort = Effort {
    rounds: 1,
    slow_rounds: 1,
    time: Duration::from_millis(50),
    idle: &[100],
    crowd: (100, "round trip, 100 of 200"),
    fetch: false,
};

/// The command line.
struct Arguments(Vec<String>);

impl Arguments {
    /// Fails for an unknown argument, because a full run takes half an hour, too long for a typing error.
    fn new(given: Vec<String>) -> anyhow::Result<Self> {
        const SWITCHES: [&str; 4] = ["--bench", "--publish", "--quick", "--test"];
        const WITH_VALUE: [&str; 7] =
            ["--against", "--beside", "--only", "--render", "--rounds", "--subjects", "--time"];
        let is_known = |argument: &&String| match argument.split_once('=') {
            Some((name, _)) => WITH_VALUE.contains(&name),
            None => SWITCHES.contains(&argument.as_str()),
        };
        if let Some(unknown) = given.iter().find(|argument| !is_known(argument)) {
            let (switches, with_value) = (SWITCHES.join(" "), WITH_VALUE.join("= "));
            anyhow::bail!("unknown argument {unknown:?}; use {switches}, or {with_value}=");
        }
        Ok(Self(given))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |argument| argument.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> anyhow::Result<Option<usize>> {
        let number = self.values(name).next().map(str::parse);
        number.transpose().with_context(|| format!("{name} takes a number"))
    }

    fn selection(&self, fetch: bool) -> anyhow::Result<Selection> {
        let only = self.values("--subjects").flat_map(|names| names.split(',')).map(str::to_owned).collect();
        let build = |text: &str| {
            let (name, build) =
                text.split_once('=').with_context(|| format!("--beside takes NAME=BINARY, not {text:?}"))?;
            anyhow::Ok((name.to_owned(), PathBuf::from(build)))
        };
        Ok(Selection { only, builds: self.values("--beside").map(build).collect::<Result<_, _>>()?, fetch })
    }

    fn effort(&self) -> anyhow::Result<Effort> {
        let quick = self.has("--quick") || self.has("--test") || !self.has("--bench");
        let mut effort = if quick { QUICK } else { FULL };
        if let Some(rounds) = self.number("--rounds")? {
            effort.rounds = rounds.max(1);
            effort.slow_rounds = effort.slow_rounds.min(effort.rounds);
        }
        if let Some(milliseconds) = self.number("--time")? {
            effort.time = Duration::from_millis(u64::try_from(milliseconds)?);
        }
        Ok(effort)
    }
}

fn main() -> anyhow::Result<()> {
    raise_descriptors();
    roles::run_if_child()?;
    let arguments = Arguments::new(std::env::args().skip(1).collect())?;
    if let Some(file) = arguments.values("--render").next() {
        return show::publish(&Report::read(Path::new(file))?);
    }
    let effort = arguments.effort()?;
    let mut bench = Bench {
        report: Report::new(effort.rounds, u64::try_from(effort.time.as_millis())?),
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        chosen: arguments.values("--only").next(),
        effort,
        turn: 0,
    };
    let external: Vec<Subject> = arguments.values("--against").map(external).collect::<anyhow::Result<_>>()?;
    if external.is_empty() {
        let selection = arguments.selection(bench.effort.fetch)?;
        bench.proxies(selection.clone())?;
        bench.mongodb(selection)?;
    } else {
        bench.external(&external)?;
    }
    let report = bench.report;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gateway.json");
    write!(stdout(), "{}", show::markdown(&report))?;
    if external.is_empty() {
        report.write(&file)?;
        writeln!(stdout(), "\nall values: {}", file.display())?;
    }
    if arguments.has("--publish") {
        show::publish(&report)?;
    }
    Ok(())
}

/// A run of the benchmark.
struct Bench<'a> {
    report: Report,
    runtime: Runtime,
    chosen: Option<&'a str>,
    effort: Effort,
    /// Number of the round, from 0; selects the first subject.
    turn: usize,
}

/// Result of one subject under one load.
struct Measurement {
    outcome: load::Outcome,
    /// Processor time of the subject during the load.
    processor: Option<Duration>,
    /// Processor time of the mongod behind it.
    server: Option<Duration>,
}

impl Bench<'_> {
    fn is_chosen(&self, name: &str) -> bool {
        self.chosen.is_none_or(|chosen| name.contains(chosen))
    }

    /// Returns all subjects, starting with another one in each round.
    fn in_turn<'s>(&self, subjects: &'s [Subject]) -> impl Iterator<Item = &'s Subject> + use<'s> {
        let (before, after) = subjects.split_at(self.turn % subjects.len().max(1));
        after.iter().chain(before)
    }

    fn proxies(&mut self, selection: Selection) -> anyhow::Result<()> {
        let testbed = Testbed::with_stub_upstream(selection)?;
        print_missing(&testbed)?;
        for subject in &testbed.subjects {
            self.report.subjects.push(self.runtime.block_on(subject.facts())?);
        }
        let (crowd, name) = self.effort.crowd;
        let alone = Scenario::new("round trip, 100", Work::RoundTrip, 100);
        let crowded = [alone, Scenario { name, idle_connections: crowd, ..alone }];
        let idle = self.is_chosen("idle");
        for round in 1..=self.effort.rounds {
            self.turn = round - 1;
            self.round(PROXIES, &testbed.subjects, &SCENARIOS)?;
            self.round(RULES, &testbed.variants, &POLICY_SCENARIOS)?;
            if round <= self.effort.slow_rounds {
                for scenario in crowded.iter().filter(|scenario| self.is_chosen(scenario.name)).collect::<Vec<_>>() {
                    for subject in self.in_turn(&testbed.subjects).filter(|subject| !subject.is_direct()) {
                        self.one(PROXIES, subject, scenario)?;
                    }
                }
                for subject in self.in_turn(&testbed.subjects).filter(|subject| !subject.is_direct() && idle) {
                    self.idle(&testbed, subject)?;
                }
            }
            writeln!(stderr(), "round {round} of {}", self.effort.rounds)?;
        }
        Ok(())
    }

    fn mongodb(&mut self, selection: Selection) -> anyhow::Result<()> {
        let Some(testbed) = Testbed::with_mongod(selection)? else { return Ok(()) };
        print_missing(&testbed)?;
        if let Some(direct) =
            testbed.subjects.iter().find(|subject| !subject.version().is_empty() && subject.is_direct())
        {
            let (name, version) = ("mongod".to_owned(), direct.version().to_owned());
            self.report.subjects.push(Facts { name, version, suite: String::new() });
        }
        for subject in testbed.subjects.iter().filter(|subject| subject.is_direct()) {
            self.runtime.block_on(prepare(&subject.target))?;
        }
        for round in 1..=self.effort.rounds {
            self.turn = round - 1;
            self.round(MONGODB, &testbed.subjects, &MONGODB_SCENARIOS)?;
            writeln!(stderr(), "round {round} of {}, mongod", self.effort.rounds)?;
        }
        Ok(())
    }

    /// Measures subjects that others have started.
    fn external(&mut self, subjects: &[Subject]) -> anyhow::Result<()> {
        for subject in subjects {
            self.runtime.block_on(prepare(&subject.target)).with_context(|| format!("cannot use {}", subject.name))?;
        }
        for round in 1..=self.effort.rounds {
            self.turn = round - 1;
            self.round(MONGODB, subjects, &MONGODB_SCENARIOS)?;
            writeln!(stderr(), "round {round} of {}", self.effort.rounds)?;
        }
        Ok(())
    }

    fn round(&mut self, table: &str, subjects: &[Subject], scenarios: &[Scenario]) -> anyhow::Result<()> {
        for scenario in scenarios.iter().filter(|scenario| self.is_chosen(scenario.name)).collect::<Vec<_>>() {
            for subject in self.in_turn(subjects) {
                if table == MONGODB && matches!(scenario.work, Work::Insert(_)) {
                    // Removes what the measurements before have inserted.
                    self.runtime.block_on(empty(&subject.target, "orders"))?;
                }
                self.one(table, subject, scenario)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, table: &str, subject: &Subject, scenario: &Scenario) -> anyhow::Result<()> {
        let measured = measure(&self.runtime, subject, scenario, self.effort.time)
            .with_context(|| format!("{}, {}", subject.name, scenario.name))?;
        self.report.add(table, &subject.name, scenario, &measured);
        Ok(())
    }

    /// Measures resident memory in KiB per idle connection: without traffic, and after 256 KiB on each connection.
    ///
    /// Uses a new process of the subject, because memory that a process keeps from earlier work would hide the
    /// difference.
    fn idle(&mut self, testbed: &Testbed, subject: &Subject) -> anyhow::Result<()> {
        const MOVED: usize = 256 * 1024;
        for count in self.effort.idle {
            let Some(fresh) = testbed.start_again(subject)? else { continue };
            let local = LocalSet::new();
            let memory = || fresh.memory_kib().unwrap_or_default();
            let each = local.block_on(&self.runtime, async {
                let (insert, mut buffer) = (Work::Insert(MOVED).request(), Vec::new());
                // The first connection allocates what a process needs only once.
                let _first = load::greet(&fresh.target, 1).await?;
                let before = memory();
                let mut open = load::greet(&fresh.target, *count).await?;
                let opened = memory();
                for connection in &mut open {
                    connection.ask(&insert, &mut buffer).await?;
                }
                let used = memory();
                #[expect(clippy::cast_precision_loss, reason = "the number of KiB is small enough")]
                let each = |now: u64| now.saturating_sub(before) as f64 / *count as f64;
                anyhow::Ok([each(opened), each(used)])
            })?;
            let thousands =
                if *count < 1_000 { count.to_string() } else { format!("{},{:03}", count / 1_000, count % 1_000) };
            for (when, value) in ["fresh", "after 256 KiB each"].iter().zip(each) {
                let title = format!("memory, {thousands} idle, {when}");
                self.report.put((IDLE, &title), "KiB/conn", &subject.name, value);
            }
        }
        Ok(())
    }
}

fn measure(runtime: &Runtime, subject: &Subject, scenario: &Scenario, time: Duration) -> anyhow::Result<Measurement> {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let _crowd = load::greet(&subject.target, scenario.idle_connections).await?;
        // A warm-up, which fills buffers, caches and spare connections.
        load::run(&subject.target, *scenario, time / 10).await?;
        let spent = || (subject.processor_time(), subject.server.map(processes::processor_time));
        let before = spent();
        let outcome = load::run(&subject.target, *scenario, time).await?;
        let after = spent();
        let between =
            |after: Option<Duration>, before| after.zip(before).map(|(a, b): (Duration, _)| a.saturating_sub(b));
        Ok(Measurement { outcome, processor: between(after.0, before.0), server: between(after.1, before.1) })
    })
}

fn print_missing(testbed: &Testbed) -> anyhow::Result<()> {
    for missing in &testbed.missing {
        writeln!(stdout(), "{missing} is not installed or does not start; it is left out")?;
    }
    Ok(())
}

/// Parses `NAME=HOST:PORT[,FOLDER,SERVER]`.
fn external(text: &str) -> anyhow::Result<Subject> {
    let usage = || format!("--against takes NAME=HOST:PORT[,FOLDER,SERVER], not {text:?}");
    let (name, place) = text.split_once('=').with_context(usage)?;
    let mut parts = place.split(',');
    let address = parts.next().with_context(usage)?.to_owned();
    let tls = match (parts.next(), parts.next()) {
        (Some(folder), Some(server)) => {
            // Leaked, because it is used until the program ends.
            let server: &'static str = Box::leak(server.to_owned().into_boxed_str());
            Some((Arc::new(subjects::client_config(Path::new(folder))?), server))
        }
        (None, _) => None,
        _ => anyhow::bail!(usage()),
    };
    Ok(Subject::external(name, Target { address, tls }))
}

/// Fills the collections that the finds read.
async fn prepare(target: &Target) -> anyhow::Result<()> {
    for collection in ["customers", "archive"] {
        empty(target, collection).await?;
    }
    let (mut connection, mut reply) = (target.connect().await?, Vec::new());
    let name = "x".repeat(200);
    let customer = rawdoc! { "insert": "customers", "documents": [{ "_id": 7, "name": name }], "$db": "shop" };
    connection.ask(&load::message(&customer), &mut reply).await?;
    for _ in 0..LARGE_DOCUMENTS {
        // The document has 1 MB with the bytes around the text.
        let text = "x".repeat(1_000_000 - 50);
        let document = rawdoc! { "insert": "archive", "documents": [{ "text": text }], "$db": "shop" };
        connection.ask(&load::message(&document), &mut reply).await?;
    }
    Ok(())
}

async fn empty(target: &Target, collection: &str) -> anyhow::Result<()> {
    let mut connection = target.connect().await?;
    let drop = load::message(&rawdoc! { "drop": collection, "$db": "shop" });
    // mongod replies with an error if the collection does not exist.
    let _ = connection.ask(&drop, &mut Vec::new()).await;
    Ok(())
}

/// Raises the limit of open files: five thousand connections need ten thousand descriptors, here and in every subject.
fn raise_descriptors() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // If that is not permitted, a connection fails later with a clear error.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
