//! The seeds of an upstream that is named in DNS: looked up at the start, again while that fails, and again when the records
//! have run out.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::upstream::{SrvError, SrvSeeds, seeds};

/// First and longest pause between two attempts that fail.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// When to look, and what came of it.
pub(super) struct Records {
    name: String,
    timeout: Duration,
    due: Instant,
    pause: Duration,
    trouble: Option<String>,
}

impl Records {
    /// To be looked up at once; each time within `timeout`.
    pub(super) fn new(name: &str, timeout: Duration) -> Self {
        Self { name: name.to_owned(), timeout, due: Instant::now(), pause: BACK_OFF.0, trouble: None }
    }

    /// Why the last attempt found nothing, if it did not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }
}

/// What the records say when they are due; never resolves where there are none to look for. Cancel safe: what was under way
/// begins again.
pub(super) async fn next_records(records: &mut Option<Records>) -> Result<SrvSeeds, SrvError> {
    let Some(records) = records else { return std::future::pending().await };
    sleep_until(records.due).await;
    let found = seeds(&records.name, Instant::now() + records.timeout).await;
    match &found {
        Ok(seeds) => {
            records.due = Instant::now() + seeds.valid_for;
            (records.pause, records.trouble) = (BACK_OFF.0, None);
        }
        Err(error) => {
            records.due = Instant::now() + records.pause;
            records.pause = (records.pause * 2).min(BACK_OFF.1);
            records.trouble = Some(error.to_string());
        }
    }
    found
}
