//! Runs mixed operations against a MongoDB URI and prints rates and latencies.
//!
//! This is the load container of `compose/`. It does not depend on the gateway, so the same run against mongod itself
//! compares the two. A latency is the time that an application waits for the driver, and includes the driver's work.
//! Each client sends its next request as soon as it has a reply. With more clients than the server can serve, latency
//! shows queueing, not the cost of the gateway.
//! The program writes only to the collection `orders` of the database `mongate_load`, and drops it first. It is not a
//! benchmark.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use futures::TryStreamExt;
use hdrhistogram::Histogram;
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

/// Runs mixed operations (find, insert, update, aggregate) and prints rates and latencies.
#[derive(Parser)]
#[command(name = "load")]
struct Options {
    /// Connection string; the collection `mongate_load.orders` is dropped first.
    #[arg(long, default_value = "mongodb://127.0.0.1:27017")]
    uri: String,
    /// Number of concurrent clients; each waits for a reply before its next request.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Duration of the run in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds between two lines of the report.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    report_every: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let (orders, hosts) = connect(&options).await?;
    let (clients, seconds) = (options.clients, options.seconds);
    writeln!(io::stdout(), "load on {hosts}: {clients} clients, {seconds} s")?;

    let run = Arc::new(Run::default());
    let mut callers = JoinSet::new();
    for caller in 0..options.clients {
        callers.spawn(call_until_stopped(Arc::clone(&run), orders.clone(), i64::from(caller)));
    }
    let mut total = Tally::default();
    let began = Instant::now();
    report_until_done(&options, &run, &mut total).await?;
    run.stop.store(true, Ordering::Relaxed);
    while callers.join_next().await.is_some() {}
    total.add(&run.take_tally());
    total.print_by_operation(began.elapsed())
}

/// Connects to the server and drops the collection, which proves that the server answers.
async fn connect(options: &Options) -> anyhow::Result<(Collection<Document>, String)> {
    let mut settings = ClientOptions::parse(&options.uri).await.context("--uri")?;
    settings.app_name = Some("mongate-load".to_owned());
    settings.max_pool_size = Some(options.clients);
    settings.server_selection_timeout.get_or_insert(Duration::from_secs(10));
    // Only the hosts: a URI may contain a password.
    let hosts: Vec<String> = settings.hosts.iter().map(ToString::to_string).collect();
    let hosts = hosts.join(", ");
    let orders = Client::with_options(settings)?.database("mongate_load").collection("orders");
    orders.drop().await.with_context(|| format!("no answer from {hosts}"))?;
    Ok((orders, hosts))
}

/// Prints one line per interval until the run is over or a signal arrives.
async fn report_until_done(options: &Options, run: &Run, total: &mut Tally) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let began = Instant::now();
    let end = began + Duration::from_secs(options.seconds);
    let mut last = began;
    writeln!(io::stdout(), "{:>8}  {HEADINGS}", "time")?;
    while last < end {
        let next = end.min(last + Duration::from_secs(options.report_every));
        let stopped = tokio::select! {
            () = time::sleep_until(next) => false,
            _ = terminated.recv() => true,
            _ = interrupted.recv() => true,
        };
        let now = Instant::now();
        let tally = run.take_tally();
        let all = tally.all_operations();
        writeln!(io::stdout(), "{:>6} s  {}", (now - began).as_secs(), row(&all, now - last, tally.errors()))?;
        total.add(&tally);
        last = now;
        if stopped {
            break;
        }
    }
    Ok(())
}

async fn call_until_stopped(run: Arc<Run>, orders: Collection<Document>, caller: i64) {
    // Each client writes its own documents: the upper half of `_id` is the client, the lower half counts its orders.
    let first = caller << 32;
    let mut inserted = 0;
    for turn in 0.. {
        if run.stop.load(Ordering::Relaxed) {
            return;
        }
        let operation = Operation::of_turn(turn);
        let began = Instant::now();
        let result = operation.call(&orders, first, &mut inserted).await;
        let failed = result.is_err();
        run.record(operation, began.elapsed(), result);
        if failed {
            // Without a pause, a server that is down turns this into a busy loop.
            time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Find,
    Insert,
    Update,
    Aggregate,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Find, Self::Insert, Self::Update, Self::Aggregate];

    /// Returns the operation of a turn: of ten turns, five finds, three inserts, one update, one aggregation. The first
    /// turn is an insert.
    fn of_turn(turn: u64) -> Self {
        match turn % 10 {
            0 | 3 | 6 => Self::Insert,
            8 => Self::Update,
            9 => Self::Aggregate,
            _ => Self::Find,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Find => "find",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Aggregate => "aggregate",
        }
    }

    async fn call(
        self,
        orders: &Collection<Document>,
        first: i64,
        inserted: &mut i64,
    ) -> Result<(), mongodb::error::Error> {
        // Reads only the newest orders, so that the amount of data does not grow with the duration of the run.
        let newest = first + *inserted;
        let recent = doc! { "_id": { "$gt": newest - 20, "$lte": newest } };
        match self {
            Self::Find => {
                let found: Vec<Document> = orders.find(recent).await?.try_collect().await?;
                drop(found);
            }
            Self::Insert => {
                // Counted before the reply: after a failure it is unknown whether the document exists.
                *inserted += 1;
                let order = doc! {
                    "_id": newest + 1, "status": "new", "quantity": newest % 7,
                    "item": "a line of text about as long as the name of a thing one orders",
                };
                orders.insert_one(order).await?;
            }
            Self::Update => {
                let paid = doc! { "$set": { "status": "paid" }, "$inc": { "quantity": 1 } };
                orders.update_one(doc! { "_id": newest }, paid).await?;
            }
            Self::Aggregate => {
                let group = doc! { "_id": "$status", "orders": { "$sum": 1 }, "quantity": { "$sum": "$quantity" } };
                let pipeline = [doc! { "$match": recent }, doc! { "$group": group }];
                let groups: Vec<Document> = orders.aggregate(pipeline).await?.try_collect().await?;
                drop(groups);
            }
        }
        Ok(())
    }
}

/// State that the clients and the report share.
#[derive(Default)]
struct Run {
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

impl Run {
    fn record(&self, operation: Operation, latency: Duration, result: Result<(), mongodb::error::Error>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let count = &mut tally.by_operation[operation as usize];
        match result {
            Ok(()) => count.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            Err(error) => {
                count.errors += 1;
                tally.last_error = Some(error.to_string());
            }
        }
    }

    fn take_tally(&self) -> Tally {
        std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Outcomes of one interval.
#[derive(Default)]
struct Tally {
    /// Indexed by [`Operation`].
    by_operation: [Count; 4],
    last_error: Option<String>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        for (count, more) in self.by_operation.iter_mut().zip(&other.by_operation) {
            count.errors += more.errors;
            merge(&mut count.latencies, &more.latencies);
        }
        if other.last_error.is_some() {
            self.last_error.clone_from(&other.last_error);
        }
    }

    fn errors(&self) -> u64 {
        self.by_operation.iter().map(|count| count.errors).sum()
    }

    fn all_operations(&self) -> Histogram<u64> {
        let mut all = Count::default().latencies;
        for count in &self.by_operation {
            merge(&mut all, &count.latencies);
        }
        all
    }

    /// Prints the final table. The exit code is 1 if an operation failed, for use in scripts.
    fn print_by_operation(&self, took: Duration) -> anyhow::Result<ExitCode> {
        let mut out = io::stdout().lock();
        writeln!(out, "\n{:>9} {HEADINGS}", "")?;
        for operation in Operation::ALL {
            let count = &self.by_operation[operation as usize];
            writeln!(out, "{:>9} {}", operation.name(), row(&count.latencies, took, count.errors))?;
        }
        writeln!(out, "{:>9} {}", "all", row(&self.all_operations(), took, self.errors()))?;
        if let Some(error) = &self.last_error {
            writeln!(out, "{} operations failed; the last one with: {error}", self.errors())?;
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct Count {
    /// Latencies of the successful operations, in microseconds.
    latencies: Histogram<u64>,
    errors: u64,
}

impl Default for Count {
    fn default() -> Self {
        // One microsecond to one minute, three significant digits. A value outside is recorded as the nearest bound.
        let latencies = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid");
        Self { latencies, errors: 0 }
    }
}

const HEADINGS: &str = "     op/s   p50 ms   p95 ms   p99 ms   max ms   errors";

fn row(latencies: &Histogram<u64>, took: Duration, errors: u64) -> String {
    let ms = |quantile| Duration::from_micros(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e3;
    let per_second = u128::from(latencies.len()) * 1000 / took.as_millis().max(1);
    let (p50, p95, p99, max) = (ms(0.5), ms(0.95), ms(0.99), ms(1.0));
    format!("{per_second:>9} {p50:>8.2} {p95:>8.2} {p99:>8.2} {max:>8.2} {errors:>8}")
}

fn merge(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    sum.add(more).expect("all histograms have the same bounds");
}
