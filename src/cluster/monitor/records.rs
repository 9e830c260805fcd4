//! The seeds of an upstream that is named in DNS: looked up at the start, again while that fails, and again when the records
//! have run out. A set tells by itself who joins it; its records are looked up again only where no member answers.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::upstream::{SrvError, SrvSeeds, seeds};

/// First and longest pause between two attempts that fail.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Between two looks for other members than those that do not answer, at least.
const DOUBTED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A look at DNS.
type Look = Pin<Box<dyn Future<Output = Result<SrvSeeds, SrvError>> + Send>>;

/// When to look, and what came of it.
pub(super) struct Records {
    name: String,
    timeout: Duration,
    /// `None` where what was found is all that is wanted.
    due: Option<Instant>,
    looked: Instant,
    pause: Duration,
    trouble: Option<String>,
    look: fn(String, Duration) -> Look,
    /// What is under way.
    looking: Option<Look>,
}

impl Records {
    /// To be looked up at once; each time within `timeout`.
    pub(super) fn new(name: &str, timeout: Duration) -> Self {
        Self::with(name, timeout, |name, timeout| Box::pin(async move { seeds(&name, Instant::now() + timeout).await }))
    }

    fn with(name: &str, timeout: Duration, look: fn(String, Duration) -> Look) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            timeout,
            due: Some(now),
            looked: now,
            pause: BACK_OFF.0,
            trouble: None,
            look,
            looking: None,
        }
    }

    /// Why the last attempt found nothing, if it did not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// Not to be looked up again, until somebody doubts them.
    pub(super) fn suffice(&mut self) {
        self.due = None;
    }

    /// Nobody whom they led to answers.
    pub(super) fn doubt(&mut self) {
        self.due.get_or_insert(self.looked + DOUBTED_AGAIN_AFTER);
    }
}

/// What the records say when they are due; never resolves where there are none to look for. Cancel safe: what is under way
/// goes on with the next call, so that it comes to an end however often something else happens meanwhile.
pub(super) async fn next_records(records: &mut Option<Records>) -> Result<SrvSeeds, SrvError> {
    let Some(records) = records else { return std::future::pending().await };
    let Some(due) = records.due else { return std::future::pending().await };
    sleep_until(due).await;
    let Records { name, timeout, look, looking, .. } = records;
    let found = looking.get_or_insert_with(|| look(name.clone(), *timeout)).await;
    *looking = None;
    records.looked = Instant::now();
    match &found {
        Ok(seeds) => {
            records.due = Some(records.looked + seeds.valid_for);
            (records.pause, records.trouble) = (BACK_OFF.0, None);
        }
        Err(error) => {
            records.due = Some(records.looked + records.pause);
            records.pause = (records.pause * 2).min(BACK_OFF.1);
            records.trouble = Some(error.to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(_: String, _: Duration) -> Look {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let (members, valid_for) = (vec!["mongo-0.example.com:27017".parse().unwrap()], Duration::from_mins(1));
            Ok(SrvSeeds { members, replica_set: None, load_balanced: false, valid_for })
        })
    }

    /// How long it takes until the records are there, while something else happens every half second.
    async fn time_to_find(records: &mut Option<Records>) -> Duration {
        let started = Instant::now();
        for _ in 0..200 {
            tokio::select! {
                found = next_records(records) => {
                    found.unwrap();
                    return started.elapsed();
                }
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        panic!("nothing was found");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_comes_to_its_end_whatever_happens_meanwhile() {
        let mut records = Some(Records::with("example.com", Duration::from_secs(5), slow));
        assert_eq!(time_to_find(&mut records).await, Duration::from_millis(700));
        assert_eq!(time_to_find(&mut records).await, Duration::from_millis(60_700));
    }

    #[tokio::test(start_paused = true)]
    async fn what_suffices_is_looked_up_again_when_it_is_doubted_and_not_at_once() {
        let mut records = Some(Records::with("example.com", Duration::from_secs(5), slow));
        time_to_find(&mut records).await;
        records.as_mut().unwrap().suffice();
        let day = tokio::time::timeout(Duration::from_hours(24), next_records(&mut records)).await;
        assert!(day.is_err());
        records.as_mut().unwrap().doubt();
        assert_eq!(time_to_find(&mut records).await, Duration::from_millis(700));
        records.as_mut().unwrap().suffice();
        records.as_mut().unwrap().doubt();
        assert_eq!(time_to_find(&mut records).await, Duration::from_millis(30_700));
    }
}
