//! Runs one command with the Rust driver and with `PyMongo`, and returns the error that each of them reports.

use std::time::{Duration, Instant};

use bson::Document;
use mongodb::Client;
use serde::Deserialize;

use crate::kit::drivers;
use crate::kit::gateway::Gateway;
use crate::kit::process;

/// Timeout for an expected log line.
pub const LOG_TIMEOUT: Duration = Duration::from_secs(20);
/// Server selection timeout of the drivers in milliseconds: ample for a server on the same machine.
const SELECTION_MS: u32 = 2_000;
/// Longest time in which a driver must report an error, on a busy machine; more means that it hangs.
pub const ANSWER_SECONDS_MAX: f64 = 20.0;
/// For the start of the interpreter and all addresses together.
const SCRIPT_TIMEOUT: Duration = Duration::from_mins(1);

/// A driver's report about one command.
#[derive(Debug, Deserialize)]
pub struct Reported {
    /// The driver's name for the kind of error; empty if the command succeeded.
    pub kind: String,
    /// The error text that an application would log; empty if the command succeeded.
    pub message: String,
    /// Duration of the command in seconds.
    pub seconds: f64,
}

/// Returns a URI of this gateway with a short server selection timeout.
pub fn uri(gateway: &Gateway) -> String {
    format!("{}/?directConnection=true&serverSelectionTimeoutMS={SELECTION_MS}", gateway.uri())
}

/// Runs the command with the Rust driver.
pub async fn of_rust(command: &Document, uri: &str) -> Reported {
    let started = Instant::now();
    let mut command = command.clone();
    // The driver adds `$db` itself.
    let database = command.remove("$db").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let client = Client::with_uri_str(uri).await.unwrap();
    let (kind, message) = match client.database(&database).run_command(command).await {
        Ok(_) => (String::new(), String::new()),
        Err(error) => (format!("{:?}", error.kind), error.to_string()),
    };
    client.shutdown().immediate(true).await;
    Reported { kind, message, seconds: started.elapsed().as_secs_f64() }
}

/// Runs the command with `PyMongo` on all URIs at the same time, and returns one report per URI; `None` if there is no
/// `PyMongo`.
pub fn of_pymongo(command: &Document, uris: &[String]) -> Option<Vec<Reported>> {
    let mut python = drivers::python()?;
    let command = serde_json::to_string(command).unwrap();
    python.arg(drivers::scripts().join("report.py")).arg(command).args(uris);
    let output = process::run("report.py", python, SCRIPT_TIMEOUT).unwrap();
    Some(output.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Whether a counter is at least 1.
pub fn is_at_least_one(value: f64) -> bool {
    value > 0.5
}

/// Whether a counter is 0.
pub fn is_zero(value: f64) -> bool {
    value < 0.5
}
