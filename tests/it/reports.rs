//! What drivers report of a command that fails: the Rust driver's words and `PyMongo`'s.

use std::time::{Duration, Instant};

use bson::Document;
use mongodb::Client;
use serde::Deserialize;

use crate::kit::drivers;
use crate::kit::gateway::Gateway;
use crate::kit::process;

/// Until a line that is due stands in the log.
pub const LOG_TIMEOUT: Duration = Duration::from_secs(20);
/// What drivers are given to find a server, in milliseconds: long for one on this machine.
const SELECTION_MS: u32 = 2_000;
/// What a driver may take with that, on a busy machine; more is a hang.
pub const ANSWER_SECONDS_MAX: f64 = 20.0;
/// For the interpreter and all addresses together.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(1);

/// What a driver says of one command; all empty when it succeeded.
#[derive(Debug, Deserialize)]
pub struct Reported {
    /// The kind of error, as the driver names it.
    pub kind: String,
    /// What an application would log.
    pub message: String,
    /// How long it took.
    pub seconds: f64,
}

/// What a driver is given to reach this gateway and to give up soon.
pub fn uri(gateway: &Gateway) -> String {
    format!("{}/?directConnection=true&serverSelectionTimeoutMS={SELECTION_MS}", gateway.uri())
}

/// The Rust driver's report.
pub async fn of_rust(command: &Document, uri: &str) -> Reported {
    let started = Instant::now();
    let mut command = command.clone();
    // The driver adds its own.
    let database = command.remove("$db").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let client = Client::with_uri_str(uri).await.unwrap();
    let (kind, message) = match client.database(&database).run_command(command).await {
        Ok(_) => (String::new(), String::new()),
        Err(error) => (format!("{:?}", error.kind), error.to_string()),
    };
    client.shutdown().immediate(true).await;
    Reported { kind, message, seconds: started.elapsed().as_secs_f64() }
}

/// What `PyMongo` reports for each of these addresses, asked all at the same time.
pub fn of_pymongo(command: &Document, uris: &[String]) -> Option<Vec<Reported>> {
    let mut python = drivers::python()?;
    let command = serde_json::to_string(command).unwrap();
    python.arg(drivers::scripts().join("report.py")).arg(command).args(uris);
    let output = process::run("report.py", python, SCRIPT_TIMEOUT).unwrap();
    Some(output.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Whether a counter stands at 1 or more.
pub fn is_at_least_one(value: f64) -> bool {
    value > 0.5
}

/// Whether a counter has not counted.
pub fn is_zero(value: f64) -> bool {
    value < 0.5
}
