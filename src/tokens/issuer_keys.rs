//! The keys of one issuer as they are now, and requests to look for newer ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::KeySource;
use crate::identity::token::KeySet;

/// How often tokens with unknown keys can make the gateway look: the issuer must not be asked for each token that an
/// attacker makes up.
const REQUEST_INTERVAL: Duration = Duration::from_secs(10);

/// The keys of one issuer. Many connections read them, one task replaces them.
#[derive(Debug)]
pub struct IssuerKeys {
    label: String,
    source: KeySource,
    keys: ArcSwapOption<KeySet>,
    /// Why the last attempt failed; `None` if it did not.
    problem: Mutex<Option<String>>,
    /// Whether the issuer has withdrawn its keys.
    withdrawn: AtomicBool,
    request: Notify,
    /// When newer keys were asked for last, and the number of attempts until then.
    requested: Mutex<Option<(Instant, u64)>>,
    /// The number of attempts that have ended.
    attempts: watch::Sender<u64>,
}

impl IssuerKeys {
    /// An issuer whose keys are not loaded yet.
    pub(super) fn new(label: String, source: KeySource) -> Self {
        Self {
            label,
            source,
            keys: ArcSwapOption::empty(),
            problem: Mutex::default(),
            withdrawn: AtomicBool::new(false),
            request: Notify::new(),
            requested: Mutex::default(),
            attempts: watch::Sender::new(0),
        }
    }

    /// The name in metrics and messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The last usable keys; `None` if there have never been any, or if they were withdrawn.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Why the last attempt to load them failed. The last usable keys stay in use.
    pub fn problem(&self) -> Option<String> {
        locked(&self.problem).clone()
    }

    /// Whether there were keys, and the issuer has withdrawn all of them.
    pub fn were_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    pub(super) fn source(&self) -> &KeySource {
        &self.source
    }

    /// Asks for newer keys. Returns the number of attempts so far, after which [`IssuerKeys::attempted`] waits; `None`
    /// if they were asked for less than ten seconds ago, and that attempt has ended.
    pub(super) fn request(&self) -> Option<u64> {
        let mut requested = locked(&self.requested);
        let (now, attempts) = (Instant::now(), *self.attempts.borrow());
        match *requested {
            // It has not ended: this token waits for the same one.
            Some((_, before)) if before == attempts => Some(before),
            Some((last, _)) if now.duration_since(last) < REQUEST_INTERVAL => None,
            _ => {
                *requested = Some((now, attempts));
                self.request.notify_one();
                Some(attempts)
            }
        }
    }

    /// Waits until an attempt has ended after the first `before`. Cancel safe.
    pub(super) async fn attempted(&self, before: u64) {
        // The sender is in `self`, so that there is no error.
        let _ = self.attempts.subscribe().wait_for(|attempts| *attempts > before).await;
    }

    /// Waits for a request. Cancel safe.
    pub(super) async fn requested(&self) {
        self.request.notified().await;
    }

    /// Puts keys into use.
    pub(super) fn replace(&self, keys: KeySet) {
        self.keys.store(Some(Arc::new(keys)));
        self.withdrawn.store(false, Ordering::Relaxed);
        *locked(&self.problem) = None;
        self.attempts.send_modify(|attempts| *attempts += 1);
    }

    /// Takes the keys out of use: the issuer says that there are none.
    pub(super) fn withdraw(&self, problem: String) {
        if self.keys.swap(None).is_some() {
            self.withdrawn.store(true, Ordering::Relaxed);
        }
        self.fail(problem);
    }

    /// An attempt has failed.
    pub(super) fn fail(&self, problem: String) {
        *locked(&self.problem) = Some(problem);
        self.attempts.send_modify(|attempts| *attempts += 1);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
