//! Concurrent writers with the Rust driver or `PyMongo`. They record which writes were acknowledged, when, and which
//! failed.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bson::{Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::options::{ClientOptions, WriteConcern};
use mongodb::results::InsertOneResult;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::kit::drivers;
use crate::kit::process::Process;
use crate::kit::replica_set::ReplicaSet;
use crate::kit::scratch;
use crate::kit::waiting;

/// Number of writers per lane.
const WRITERS: i64 = 8;
/// Number of ids that a writer has; the same as in `tests/drivers/writers.py`.
const IDS: i64 = 1_000_000;
/// Pause between two writes of a writer; the same as in `tests/drivers/writers.py`.
const PACE: Duration = Duration::from_millis(5);
/// Name of the file that tells the script to stop.
const STOP: &str = "stop";
/// Longest time for writers to finish their last write after the test asks them to stop.
const END_TIMEOUT: Duration = Duration::from_mins(1);
/// A lane has recovered after this number of further acknowledged writes of each of its writers. Of every writer, so
/// that no write that failed in one election is tried again during the next one: drivers try once.
const RECOVERED_AFTER: usize = 3;

/// A group of writers that use one driver and one path (direct or through the gateway) until they are stopped.
pub struct Lane {
    /// Name in messages; also the name of its database, with `_` for spaces.
    pub name: String,
    database: String,
    writers: Writers,
}

/// Results of a lane.
pub struct Outcome {
    /// Name of the lane.
    pub name: String,
    database: String,
    acknowledged: Vec<(i64, f64)>,
    /// Errors of the writes that were not acknowledged.
    pub failures: Vec<String>,
}

enum Writers {
    Rust { state: Arc<State>, tasks: JoinSet<()> },
    Python { process: Process, directory: TempDir },
}

#[derive(Default)]
struct State {
    is_over: AtomicBool,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    acknowledged: Vec<(i64, f64)>,
    failures: Vec<String>,
}

impl State {
    fn record(&self, id: i64, result: Result<InsertOneResult, String>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => done.acknowledged.push((id, now())),
            Err(failure) => done.failures.push(failure),
        }
    }
}

impl Lane {
    /// Starts writers with the Rust driver in this process.
    pub async fn rust(name: &str, uri: &str) -> Self {
        let mut options = ClientOptions::parse(uri).await.unwrap();
        options.write_concern = Some(WriteConcern::majority());
        let client = Client::with_options(options).unwrap();
        let database = name.replace(' ', "_");
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        for worker in 0..WRITERS {
            let collection = client.database(&database).collection::<Document>("writes");
            let state = Arc::clone(&state);
            tasks.spawn(async move {
                let mut id = worker * IDS;
                while !state.is_over.load(Ordering::Relaxed) {
                    let result = collection.insert_one(doc! { "_id": id }).await;
                    state.record(id, result.map_err(|error| error.to_string()));
                    id += 1;
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        Self { name: name.to_owned(), database, writers: Writers::Rust { state, tasks } }
    }

    /// Starts writers with `PyMongo`; `None` if it is missing.
    pub fn python(name: &str, uri: &str) -> Option<Self> {
        let mut command = drivers::python()?;
        let database = name.replace(' ', "_");
        let directory = scratch::directory("writers").unwrap();
        command.arg(drivers::scripts().join("writers.py")).args([uri, &database]).arg(directory.path().join(STOP));
        let process = Process::start("writers.py", command).unwrap();
        Some(Self { name: name.to_owned(), database, writers: Writers::Python { process, directory } })
    }

    /// Returns how many writes each writer has at least had acknowledged so far.
    pub fn count(&self) -> usize {
        match &self.writers {
            Writers::Rust { state, .. } => {
                let done = state.done.lock().unwrap_or_else(PoisonError::into_inner);
                let of = |worker| done.acknowledged.iter().filter(|(id, _)| id / IDS == worker).count();
                (0..WRITERS).map(of).min().unwrap_or(0)
            }
            Writers::Python { process, .. } => {
                let count = |text: &str| serde_json::from_str::<Value>(text).ok()?["least"].as_u64();
                let last = process.lines().iter().rev().find_map(|line| count(&line.text));
                usize::try_from(last.unwrap_or(0)).unwrap()
            }
        }
    }

    /// Stops the writers after their current write.
    pub async fn stop(self) -> Outcome {
        let Self { name, database, writers } = self;
        let (acknowledged, failures) = match writers {
            Writers::Rust { state, tasks } => {
                state.is_over.store(true, Ordering::Relaxed);
                tokio::time::timeout(END_TIMEOUT, tasks.join_all()).await.expect("the writers stop in time");
                let done = std::mem::take(&mut *state.done.lock().unwrap_or_else(PoisonError::into_inner));
                (done.acknowledged, done.failures)
            }
            Writers::Python { mut process, directory } => {
                fs::write(directory.path().join(STOP), "").unwrap();
                let status = process.wait(END_TIMEOUT).unwrap();
                assert!(status.success(), "{}", process.tail());
                let output = process.stdout();
                let last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
                let read = |field: &str| last[field].clone();
                (
                    serde_json::from_value(read("acknowledged")).unwrap(),
                    serde_json::from_value(read("failures")).unwrap(),
                )
            }
        };
        Outcome { name, database, acknowledged, failures }
    }
}

impl Outcome {
    /// Returns, for each of these moments, the longest time in seconds without an acknowledged write between it and the
    /// next one.
    pub fn gaps(&self, moments: &[f64]) -> Vec<f64> {
        let mut times: Vec<_> = self.acknowledged.iter().map(|(_, time)| *time).collect();
        times.sort_by(f64::total_cmp);
        let ends = moments.iter().skip(1).copied().chain([f64::INFINITY]);
        let gap = |(start, end): (f64, f64)| {
            let pairs = times.windows(2).filter(|pair| pair[1] > start && pair[1] < end);
            pairs.map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
        };
        moments.iter().copied().zip(ends).map(gap).collect()
    }

    /// Checks that every acknowledged write exists, with a client that is connected to the set directly.
    pub async fn check(&self, direct: &Client) {
        let found = direct.database(&self.database).collection::<Document>("writes").find(doc! {}).await.unwrap();
        let found: Vec<Document> = found.try_collect().await.unwrap();
        let found: BTreeSet<_> = found.iter().map(id).collect();
        let lost: Vec<_> = self.acknowledged.iter().filter(|(id, _)| !found.contains(id)).collect();
        assert!(lost.is_empty(), "{}: acknowledged writes were lost: {lost:?}", self.name);
        assert!(!self.acknowledged.is_empty());
    }
}

/// Waits until every lane has recovered, that is, each of its writers has had [`RECOVERED_AFTER`] more writes
/// acknowledged.
pub fn await_recovery(lanes: &[Lane]) {
    let before: Vec<_> = lanes.iter().map(Lane::count).collect();
    for (lane, before) in lanes.iter().zip(before) {
        waiting::until(&format!("{} writes", lane.name), || (lane.count() >= before + RECOVERED_AFTER).then_some(()));
    }
}

/// Returns seconds since 1970, the unit of the scripts.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Returns a client that is connected to the set directly.
pub async fn direct(set: &ReplicaSet) -> Client {
    Client::with_uri_str(set.uri().unwrap()).await.unwrap()
}

fn id(document: &Document) -> i64 {
    document.get_i64("_id").or_else(|_| document.get_i32("_id").map(i64::from)).unwrap()
}
