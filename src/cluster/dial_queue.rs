//! The order in which connections to one member are made, so that a storm of clients does not make all of them too
//! slow, and a breaker that keeps clients from dialling a member that is failing.
//!
//! A TLS handshake takes processor time on both sides. If hundreds of them share a few cores, all of them reach
//! `connect_timeout`; one after the other, each takes milliseconds.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::lifecycle::back_off::BackOff;
use crate::upstream::ConnectError;

/// Connections that are made at the same time. A handshake with a distant server mostly waits for the network.
const DIALS_MAX: usize = 32;

/// After this many failures without a success, one attempt at a time is made. A single failure may be an accident.
const FAILURES_MAX: u32 = 3;

/// First and longest pause between two attempts while the member is failing. A member that has come back is noticed
/// within the longest, if attempts fail immediately, and else within `connect_timeout` more.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Makes connections wait for a permit, first come, first served.
pub(super) struct DialQueue {
    permits: Semaphore,
    recent: Mutex<Recent>,
}

/// What the last attempts were like.
struct Recent {
    /// The last failure, if no attempt has succeeded since.
    failure: Option<(Instant, Arc<ConnectError>)>,
    failures: u32,
    /// When the next attempt may be made, after [`FAILURES_MAX`] failures.
    retry_at: Instant,
    is_retrying: bool,
    back_off: BackOff,
}

/// The permit to make one connection; given back when dropped.
pub(super) struct DialPermit<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    _retry: Option<Retry<'a>>,
}

/// The only attempt while the member is failing.
struct Retry<'a>(&'a DialQueue);

/// Why there is no connection to a member.
#[derive(Debug, Clone)]
pub struct DialError {
    /// What happened.
    pub cause: Arc<ConnectError>,
    /// How long ago it happened to another connection; `None` if it happened to this one, or while this one waited for
    /// its permit.
    pub age: Option<Duration>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        let Some(age) = self.age else { return Ok(()) };
        let age = humantime::format_duration(Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        write!(f, " (this was {age} ago; while a server fails, it is tried about once a second)")
    }
}

impl Default for DialQueue {
    fn default() -> Self {
        let recent = Recent {
            failure: None,
            failures: 0,
            retry_at: Instant::now(),
            is_retrying: false,
            back_off: BackOff::new(RETRY_PAUSES.0, RETRY_PAUSES.1),
        };
        Self { permits: Semaphore::new(DIALS_MAX), recent: Mutex::new(recent) }
    }
}

impl DialQueue {
    /// Waits for a permit. Time limits begin after it.
    ///
    /// Fails at once with the last failure while the member is failing, unless it is time for another attempt. Fails
    /// also if the member began to fail while this one waited: while a server does not respond, each attempt takes
    /// `connect_timeout`, and a client must not wait for several of them. Cancel safe.
    pub(super) async fn permit(&self) -> Result<DialPermit<'_>, DialError> {
        let retry = self.retry()?;
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(DialPermit { _permit: Some(permit), _retry: retry });
        }
        let arrived = Instant::now();
        // The semaphore is never closed.
        let permit = self.permits.acquire().await.ok();
        let recent = self.locked();
        match &recent.failure {
            Some((failed, cause)) if *failed >= arrived && recent.failures >= FAILURES_MAX => {
                Err(DialError { cause: Arc::clone(cause), age: None })
            }
            _ => Ok(DialPermit { _permit: permit, _retry: retry }),
        }
    }

    /// The right to be the only attempt while the member is failing; `None` while it is not.
    fn retry(&self) -> Result<Option<Retry<'_>>, DialError> {
        let mut recent = self.locked();
        let Some((failed, cause)) = recent.failure.as_ref().filter(|_| recent.failures >= FAILURES_MAX) else {
            return Ok(None);
        };
        if recent.is_retrying || Instant::now() < recent.retry_at {
            return Err(DialError { cause: Arc::clone(cause), age: Some(failed.elapsed()) });
        }
        recent.is_retrying = true;
        drop(recent);
        Ok(Some(Retry(self)))
    }

    /// Records the result of an attempt. A success ends all restrictions, and so does a server that answers that it
    /// does not know the user: it works, and the operator's correction must have effect immediately.
    pub(super) fn record(&self, failure: Option<&Arc<ConnectError>>) {
        let failure = failure.filter(|cause| !cause.is_user_failure());
        let (now, mut recent) = (Instant::now(), self.locked());
        recent.failure = failure.map(|cause| (now, Arc::clone(cause)));
        if failure.is_none() {
            recent.failures = 0;
            recent.back_off.reset();
            return;
        }
        recent.failures = recent.failures.saturating_add(1);
        // Attempts that failed together make one pause.
        if recent.failures >= FAILURES_MAX && recent.retry_at <= now {
            recent.retry_at = now + recent.back_off.next_pause();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        self.0.locked().is_retrying = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::test_server::{Behaviour, TestUpstream};

    async fn failure() -> Arc<ConnectError> {
        Arc::new(TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() }.fail().await)
    }

    #[tokio::test]
    async fn a_member_that_fails_is_tried_by_one_connection_at_a_time() {
        let (queue, cause) = (DialQueue::default(), failure().await);
        tokio::time::pause();
        for _ in 0..FAILURES_MAX {
            drop(queue.permit().await.unwrap());
            queue.record(Some(&cause));
        }
        let mut dials = 0;
        // Each of 200 clients tries again every 10 ms.
        for _ in 0..1_000 {
            for _ in 0..200 {
                match queue.permit().await {
                    Ok(permit) => {
                        dials += 1;
                        assert!(queue.permit().await.is_err(), "another one is being made");
                        queue.record(Some(&cause));
                        drop(permit);
                    }
                    Err(error) => assert!(error.age.unwrap() <= RETRY_PAUSES.1, "{error}"),
                }
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert!((9..=20).contains(&dials), "{dials} attempts in ten seconds");
    }

    #[tokio::test]
    async fn one_success_lets_all_clients_dial_again() {
        let (queue, cause) = (DialQueue::default(), failure().await);
        tokio::time::pause();
        (0..10).for_each(|_| queue.record(Some(&cause)));
        let error = queue.permit().await.err().unwrap();
        assert!(error.to_string().contains("ago"), "{error}");
        tokio::time::advance(RETRY_PAUSES.0).await;
        let retry = queue.permit().await.unwrap();
        assert!(queue.permit().await.is_err());
        // A client that leaves makes room for the next one.
        drop(retry);
        let _retry = queue.permit().await.unwrap();
        queue.record(None);
        let permits = [queue.permit().await, queue.permit().await, queue.permit().await];
        assert!(permits.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn single_failures_restrict_nothing() {
        let (queue, cause) = (DialQueue::default(), failure().await);
        for _ in 0..5 {
            for _ in 1..FAILURES_MAX {
                queue.record(Some(&cause));
                let permits = [queue.permit().await, queue.permit().await];
                assert!(permits.iter().all(Result::is_ok));
            }
            queue.record(None);
        }
    }
}
