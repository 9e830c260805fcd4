//! The seed list of an upstream that is configured by a DNS name (`mongodb+srv`).
//!
//! It is looked up at the start, again after a failure, and again when the records expire. Once a replica set is known,
//! its members report who joins it, and the records are looked up again only if no member answers.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::lifecycle::back_off::BackOff;
use crate::upstream::{SrvError, SrvSeeds, seeds};

/// First and longest pause after a failed lookup.
const RETRY_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Minimum time between two lookups while no member answers.
const SILENT_SET_PAUSE: Duration = Duration::from_secs(30);

/// A DNS lookup.
type SeedLookup = Pin<Box<dyn Future<Output = Result<SrvSeeds, SrvError>> + Send>>;

/// When to look up the seed list, and the result of the last lookup.
pub(super) struct SeedList {
    name: String,
    timeout: Duration,
    /// Time of the next lookup; `None` if none is needed.
    due: Option<Instant>,
    last_lookup: Instant,
    back_off: BackOff,
    error: Option<String>,
    look_up: fn(String, Duration) -> SeedLookup,
    /// The lookup in progress.
    pending: Option<SeedLookup>,
}

impl SeedList {
    /// Due at once. Each lookup takes at most `timeout`.
    pub(super) fn new(name: &str, timeout: Duration) -> Self {
        Self::with(name, timeout, |name, timeout| Box::pin(async move { seeds(&name, Instant::now() + timeout).await }))
    }

    fn with(name: &str, timeout: Duration, look_up: fn(String, Duration) -> SeedLookup) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            timeout,
            due: Some(now),
            last_lookup: now,
            back_off: BackOff::new(RETRY_BACK_OFF.0, RETRY_BACK_OFF.1),
            error: None,
            look_up,
            pending: None,
        }
    }

    /// Why the last lookup failed, if it did.
    pub(super) fn error(&self) -> Option<String> {
        self.error.clone()
    }

    /// Makes no further lookup until [`look_up_again`](Self::look_up_again).
    pub(super) fn stop(&mut self) {
        self.due = None;
    }

    /// No member of the set answers: the records may have changed.
    pub(super) fn look_up_again(&mut self) {
        self.due.get_or_insert(self.last_lookup + SILENT_SET_PAUSE);
    }
}

/// Returns the result of the next lookup, when it is due; never resolves if none is. Cancel safe: a lookup in progress
/// continues with the next call, so that it finishes however often the caller is interrupted.
pub(super) async fn next_seeds(seed_list: &mut Option<SeedList>) -> Result<SrvSeeds, SrvError> {
    let Some(seed_list) = seed_list else { return std::future::pending().await };
    let Some(due) = seed_list.due else { return std::future::pending().await };
    sleep_until(due).await;
    let SeedList { name, timeout, look_up, pending, .. } = seed_list;
    let found = pending.get_or_insert_with(|| look_up(name.clone(), *timeout)).await;
    *pending = None;
    let now = Instant::now();
    seed_list.last_lookup = now;
    match &found {
        Ok(seeds) => {
            seed_list.due = Some(now + seeds.valid_for);
            seed_list.back_off.reset();
            seed_list.error = None;
        }
        Err(error) => {
            seed_list.due = Some(now + seed_list.back_off.next_pause());
            seed_list.error = Some(error.to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(_: String, _: Duration) -> SeedLookup {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let (members, valid_for) = (vec!["mongo-0.example.com:27017".parse().unwrap()], Duration::from_mins(1));
            Ok(SrvSeeds { members, replica_set: None, load_balanced: false, valid_for })
        })
    }

    /// The time until a lookup finishes, while another event happens every half second.
    async fn time_to_find(seed_list: &mut Option<SeedList>) -> Duration {
        let started = Instant::now();
        for _ in 0..200 {
            tokio::select! {
                found = next_seeds(seed_list) => {
                    found.unwrap();
                    return started.elapsed();
                }
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        panic!("no lookup finished");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_finishes_even_if_other_events_interrupt_it() {
        let mut seed_list = Some(SeedList::with("example.com", Duration::from_secs(5), slow));
        assert_eq!(time_to_find(&mut seed_list).await, Duration::from_millis(700));
        assert_eq!(time_to_find(&mut seed_list).await, Duration::from_millis(60_700));
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_stop_until_no_member_answers_and_then_wait_for_the_minimum_pause() {
        let mut seed_list = Some(SeedList::with("example.com", Duration::from_secs(5), slow));
        time_to_find(&mut seed_list).await;
        seed_list.as_mut().unwrap().stop();
        let day = tokio::time::timeout(Duration::from_hours(24), next_seeds(&mut seed_list)).await;
        assert!(day.is_err());
        seed_list.as_mut().unwrap().look_up_again();
        assert_eq!(time_to_find(&mut seed_list).await, Duration::from_millis(700));
        seed_list.as_mut().unwrap().stop();
        seed_list.as_mut().unwrap().look_up_again();
        assert_eq!(time_to_find(&mut seed_list).await, Duration::from_millis(30_700));
    }
}
