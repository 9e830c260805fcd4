//! What the gateway costs beside proxies that do not read a message: processor time, latency, throughput and memory.
//!
//! Every round asks every subject for everything, one after the other, so that a busy moment of the machine hits all alike,
//! and begins with another subject than the round before, as what was done last is felt; the figures are medians of the rounds. First before an upstream that answers at once, then before a real mongod.
//!
//! | argument | does |
//! | --- | --- |
//! | `--quick`, `--test` | a smoke run of less than a minute |
//! | `--only=TEXT` | only what has that in its name |
//! | `--subjects=NAME,NAME` | only these, as they are called in the table |
//! | `--beside=NAME=BINARY` | measures another build of the gateway beside this one, as often as it is given |
//! | `--rounds=N`, `--time=MS` | how much is measured |
//! | `--publish` | writes the result to `docs/performance.{md,json,svg}` |
//! | `--render=FILE` | does that with the JSON of a run before, and measures nothing |
//! | `--against=NAME=HOST:PORT[,FOLDER,SERVER]` | measures what runs elsewhere, as often as it is given; with TLS where there is a folder with `ca.pem` and `client.pem`, and the name of the server's certificate |

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
use subjects::{Cast, Scene, Subject};

const MEBIBYTE: usize = 1024 * 1024;

/// Documents of a megabyte in the collection `archive` of a real mongod; they fit into one reply.
const LARGE_DOCUMENTS: usize = 15;
/// What a find of all of them brings.
const ARCHIVE_BYTES: usize = LARGE_DOCUMENTS * 1_000_000;

/// Titles of the tables.
const PROXIES: &str = "Stub upstream";
const IDLE: &str = "Idle connections";
const RULES: &str = "Number of policy rules";
const MONGODB: &str = "Real mongod";

const SCENARIOS: [Scenario; 10] = [
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
];

const POLICY_SCENARIOS: [Scenario; 2] = [
    Scenario::new("round trip, 16, policy", Work::RoundTrip, 16),
    Scenario::new("round trip, 64, policy", Work::RoundTrip, 64),
];

const MONGODB_SCENARIOS: [Scenario; 10] = [
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
];

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of what takes long and varies little.
    slow_rounds: usize,
    time: Duration,
    /// So many connections are idle.
    idle: &'static [usize],
    /// So many stand idle beside a hundred that are busy, and what that is called.
    crowd: (usize, &'static str),
    /// Whether what this machine lacks is fetched.
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

/// What was asked for.
struct Arguments(Vec<String>);

impl Arguments {
    /// Fails for what means nothing here: the whole of it takes half an hour, too long for a slip of the pen.
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
            anyhow::bail!("unknown argument {unknown:?}; there are {switches}, and {with_value}=");
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

    fn cast(&self, fetch: bool) -> anyhow::Result<Cast> {
        let only = self.values("--subjects").flat_map(|names| names.split(',')).map(str::to_owned).collect();
        let build = |text: &str| {
            let (name, build) = text.split_once('=').with_context(|| format!("not NAME=BINARY: {text}"))?;
            anyhow::Ok((name.to_owned(), PathBuf::from(build)))
        };
        Ok(Cast { only, builds: self.values("--beside").map(build).collect::<Result<_, _>>()?, fetch })
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
    roles::play()?;
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
    let elsewhere: Vec<Subject> = arguments.values("--against").map(elsewhere).collect::<anyhow::Result<_>>()?;
    if elsewhere.is_empty() {
        let cast = arguments.cast(bench.effort.fetch)?;
        bench.proxies(cast.clone())?;
        bench.mongodb(cast)?;
    } else {
        bench.elsewhere(&elsewhere)?;
    }
    let report = bench.report;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gateway.json");
    write!(stdout(), "{}", show::markdown(&report))?;
    if elsewhere.is_empty() {
        report.write(&file)?;
        writeln!(stdout(), "\nall of it: {}", file.display())?;
    }
    if arguments.has("--publish") {
        show::publish(&report)?;
    }
    Ok(())
}

/// One run.
struct Bench<'a> {
    report: Report,
    runtime: Runtime,
    chosen: Option<&'a str>,
    effort: Effort,
    /// Of the round, from 0: which subject is the first.
    turn: usize,
}

/// One subject under one load.
struct Measurement {
    outcome: load::Outcome,
    /// Of the subject, while it was under load.
    processor: Option<Duration>,
    /// Of the mongod behind it.
    server: Option<Duration>,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        self.chosen.is_none_or(|chosen| name.contains(chosen))
    }

    /// All of them, but not always the same first.
    fn in_turn<'s>(&self, subjects: &'s [Subject]) -> impl Iterator<Item = &'s Subject> + use<'s> {
        let (before, after) = subjects.split_at(self.turn % subjects.len().max(1));
        after.iter().chain(before)
    }

    fn proxies(&mut self, cast: Cast) -> anyhow::Result<()> {
        let scene = Scene::before_fast_upstream(cast)?;
        say_missing(&scene)?;
        for subject in &scene.subjects {
            self.report.subjects.push(self.runtime.block_on(subject.facts())?);
        }
        let (crowd, name) = self.effort.crowd;
        let alone = Scenario::new("round trip, 100", Work::RoundTrip, 100);
        let crowded = [alone, Scenario { name, crowd, ..alone }];
        let idle = self.wants("idle");
        for round in 1..=self.effort.rounds {
            self.turn = round - 1;
            self.round(PROXIES, &scene.subjects, &SCENARIOS)?;
            self.round(RULES, &scene.variants, &POLICY_SCENARIOS)?;
            if round <= self.effort.slow_rounds {
                for scenario in crowded.iter().filter(|scenario| self.wants(scenario.name)).collect::<Vec<_>>() {
                    for subject in self.in_turn(&scene.subjects).filter(|subject| !subject.is_direct()) {
                        self.one(PROXIES, subject, scenario)?;
                    }
                }
                for subject in self.in_turn(&scene.subjects).filter(|subject| !subject.is_direct() && idle) {
                    self.idle(&scene, subject)?;
                }
            }
            writeln!(stderr(), "round {round} of {}", self.effort.rounds)?;
        }
        Ok(())
    }

    fn mongodb(&mut self, cast: Cast) -> anyhow::Result<()> {
        let Some(scene) = Scene::before_mongod(cast)? else { return Ok(()) };
        say_missing(&scene)?;
        if let Some(direct) = scene.subjects.iter().find(|subject| !subject.version().is_empty() && subject.is_direct())
        {
            let (name, version) = ("mongod".to_owned(), direct.version().to_owned());
            self.report.subjects.push(Facts { name, version, suite: String::new() });
        }
        for subject in scene.subjects.iter().filter(|subject| subject.is_direct()) {
            self.runtime.block_on(prepare(&subject.target))?;
        }
        for round in 1..=self.effort.rounds {
            self.turn = round - 1;
            self.round(MONGODB, &scene.subjects, &MONGODB_SCENARIOS)?;
            writeln!(stderr(), "round {round} of {}, mongod", self.effort.rounds)?;
        }
        Ok(())
    }

    /// What others have started; only the load is ours.
    fn elsewhere(&mut self, subjects: &[Subject]) -> anyhow::Result<()> {
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
        for scenario in scenarios.iter().filter(|scenario| self.wants(scenario.name)).collect::<Vec<_>>() {
            for subject in self.in_turn(subjects) {
                if table == MONGODB && matches!(scenario.work, Work::Insert(_)) {
                    // What others have inserted.
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

    /// Resident memory in KiB for each of so many connections: fresh, and after each has moved 256 KiB.
    ///
    /// Of a process that has done nothing before: what others keep once they have had it would hide the rest.
    fn idle(&mut self, scene: &Scene, subject: &Subject) -> anyhow::Result<()> {
        const MOVED: usize = 256 * 1024;
        for count in self.effort.idle {
            let Some(fresh) = scene.again(subject)? else { continue };
            let local = LocalSet::new();
            let memory = || fresh.memory_kib().unwrap_or_default();
            let each = local.block_on(&self.runtime, async {
                let (insert, mut buffer) = (Work::Insert(MOVED).request(), Vec::new());
                // The first brings what there is of once only.
                let _first = load::greet(&fresh.target, 1).await?;
                let before = memory();
                let mut open = load::greet(&fresh.target, *count).await?;
                let opened = memory();
                for connection in &mut open {
                    connection.ask(&insert, &mut buffer).await?;
                }
                let used = memory();
                #[expect(clippy::cast_precision_loss, reason = "kibibytes of a process")]
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
        let _crowd = load::greet(&subject.target, scenario.crowd).await?;
        // What the first operations cost is warmth: buffers, caches, spare connections.
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

fn say_missing(scene: &Scene) -> anyhow::Result<()> {
    for missing in &scene.missing {
        writeln!(stdout(), "{missing} is not installed here, or does not start; it is left out")?;
    }
    Ok(())
}

/// `NAME=HOST:PORT[,FOLDER,SERVER]`
fn elsewhere(text: &str) -> anyhow::Result<Subject> {
    let usage = || format!("not NAME=HOST:PORT[,FOLDER,SERVER]: {text}");
    let (name, place) = text.split_once('=').with_context(usage)?;
    let mut parts = place.split(',');
    let address = parts.next().with_context(usage)?.to_owned();
    let tls = match (parts.next(), parts.next()) {
        (Some(folder), Some(server)) => {
            // For as long as the program runs.
            let server: &'static str = Box::leak(server.to_owned().into_boxed_str());
            Some((Arc::new(subjects::client_config(Path::new(folder))?), server))
        }
        (None, _) => None,
        _ => anyhow::bail!(usage()),
    };
    Ok(Subject::elsewhere(name, Target { address, tls }))
}

/// The collections that finds read.
async fn prepare(target: &Target) -> anyhow::Result<()> {
    for collection in ["customers", "archive"] {
        empty(target, collection).await?;
    }
    let (mut connection, mut reply) = (target.connect().await?, Vec::new());
    let name = "x".repeat(200);
    let customer = rawdoc! { "insert": "customers", "documents": [{ "_id": 7, "name": name }], "$db": "shop" };
    connection.ask(&load::message(&customer), &mut reply).await?;
    for _ in 0..LARGE_DOCUMENTS {
        // With what is around it, a million.
        let text = "x".repeat(1_000_000 - 50);
        let document = rawdoc! { "insert": "archive", "documents": [{ "text": text }], "$db": "shop" };
        connection.ask(&load::message(&document), &mut reply).await?;
    }
    Ok(())
}

async fn empty(target: &Target, collection: &str) -> anyhow::Result<()> {
    let mut connection = target.connect().await?;
    let drop = load::message(&rawdoc! { "drop": collection, "$db": "shop" });
    // mongod calls it an error where there is nothing to drop.
    let _ = connection.ask(&drop, &mut Vec::new()).await;
    Ok(())
}

/// Five thousand connections are ten thousand descriptors, here and in every subject.
fn raise_descriptors() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not permitted, the run says what it could not open.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
