//! How certificates follow their files: read when something may have changed, taken into use when they are whole.
//!
//! All or nothing for each upstream and listener: certificate, key, authorities and revocation lists are read together,
//! and replace those in use together. What cannot be used is waited for, since a pair is written one file after the
//! other; when the wait is over, the operator reads why, once, and the last good set stays. Nobody is asked to change
//! anything: the files alone decide.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::cluster::Upstream;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::{FileWatch, Hints, WatchError};
use crate::lifecycle::reload_status::ReloadRecord;
use crate::telemetry::metrics::ReloadMetrics;

use super::expiry::Expiry;
use super::reading;
use super::reading::Source;
use super::watched_set::{Outcome, Rotating};
use super::workload_follower::Follower;

/// Network and overlay file systems tell of no change, or not of each.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// All sets that come from files.
pub(super) struct Rotation {
    sets: Vec<Rotating>,
    metrics: ReloadMetrics,
    expiry: Arc<Expiry>,
    asked: Reload,
    hints: Hints,
    watching: Watching,
}

/// Asks for all files to be read at once; clones ask the same rotation. Asking twice before it happens is asking once.
#[derive(Clone, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Returns at once; one line in the log answers.
    pub fn ask(&self) {
        self.0.notify_one();
    }

    /// Resolves when somebody has asked. Cancel safe.
    pub async fn asked(&self) {
        self.0.notified().await;
    }
}

/// Whether changes are told, or only found at the next look.
enum Watching {
    /// As of the last look, by a watch that ends when it is dropped.
    On { _watch: FileWatch },
    /// It has been logged.
    Off,
    /// Nothing was tried yet.
    Not,
}

impl Rotation {
    pub(super) fn new(expiry: Arc<Expiry>) -> Self {
        Self {
            sets: Vec::new(),
            metrics: ReloadMetrics::new(),
            expiry,
            asked: Reload::default(),
            hints: Hints::new(),
            watching: Watching::Not,
        }
    }

    /// Adds a set that is in use as its files are now, and returns what is known about its renewal.
    pub(super) fn add(&mut self, source: Source) -> Arc<ReloadRecord> {
        let record = Arc::<ReloadRecord>::default();
        self.sets.push(Rotating::new(source, Arc::clone(&record)));
        record
    }

    /// Adds an upstream whose set comes from an agent, with the files beside it, and returns who follows the agent and what
    /// is known about its renewal. `None` where the set comes from files.
    pub(super) fn add_agent(&mut self, upstream: &Arc<Upstream>) -> Option<(Follower, Arc<ReloadRecord>)> {
        let record = Arc::<ReloadRecord>::default();
        let (expiry, metrics) = (Arc::clone(&self.expiry), self.metrics.clone());
        let follower = Follower::new(upstream, expiry, Arc::clone(&record), metrics)?;
        if let Some(source) = Source::beside_agent(upstream, follower.handed_out()) {
            self.sets.push(Rotating::new(source, Arc::clone(&record)));
        }
        Some((follower, record))
    }

    /// The means to ask for a look at all files.
    pub(super) fn reload(&self) -> Reload {
        self.asked.clone()
    }

    /// Follows the files until the drain begins: connections of that time are the last ones.
    pub(super) async fn run(mut self, drain: DrainWatch) {
        tokio::select! {
            () = self.follow() => {}
            () = drain.draining() => {}
        }
    }

    /// The first look catches what has changed since the sets were loaded.
    async fn follow(&mut self) {
        let mut asked = false;
        loop {
            let outcomes = self.look(asked).await;
            if asked {
                tell_all(&outcomes);
            }
            let again = self.sets.iter().filter_map(Rotating::look_again).min();
            let latest = Instant::now() + LOOK_INTERVAL;
            asked = tokio::select! {
                // Who asks wants an answer, also when something has changed in the same moment.
                biased;
                () = self.asked.asked() => true,
                () = self.hints.next() => false,
                () = sleep_until(again.map_or(latest, |again| again.min(latest))) => false,
            };
        }
    }

    /// Reads on a thread of its own, since a file system may take its time, and acts here.
    async fn look(&mut self, asked: bool) -> Vec<Outcome> {
        let hints = self.hints.clone();
        let readers: Vec<_> = self.sets.iter().map(Rotating::reader).collect();
        let files: Vec<PathBuf> = self.sets.iter().flat_map(Rotating::files).cloned().collect();
        let read = spawn_blocking(move || {
            // Before the files are read: what changes while they are being read is a new hint.
            let watch = hints.watch(&files);
            (watch, readers.into_iter().map(reading::Reader::read).collect::<Vec<_>>())
        });
        let Ok((watch, readings)) = read.await else {
            tracing::error!("reading certificate files panicked; they are read again in a minute, please report this");
            return Vec::new();
        };
        self.watch(watch);
        let (now, clock) = (Instant::now(), SystemTime::now());
        let outcomes: Vec<Outcome> =
            self.sets.iter_mut().zip(readings).map(|(set, reading)| set.judge(reading, now, clock, asked)).collect();
        for (set, outcome) in self.sets.iter().zip(&outcomes) {
            set.tell(outcome, &self.metrics);
        }
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Renewed(_))) {
            self.expiry.look(clock);
        }
        outcomes
    }

    fn watch(&mut self, watch: Result<FileWatch, WatchError>) {
        self.watching = match watch {
            Ok(watch) => {
                if matches!(self.watching, Watching::Off) {
                    tracing::info!("directories of certificates are watched again");
                }
                Watching::On { _watch: watch }
            }
            Err(error) => {
                if !matches!(self.watching, Watching::Off) {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(
                        %error,
                        cause,
                        remedy = "raise fs.inotify.max_user_instances and max_user_watches, and let mongate read the \
                                  directory; until then renewed certificates are found within a minute, or on SIGHUP",
                        "changes of certificate files are not told by the system"
                    );
                }
                Watching::Off
            }
        };
    }
}

/// The one line that answers SIGHUP.
fn tell_all(outcomes: &[Outcome]) {
    let count = |kind: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| kind(outcome)).count();
    let renewed = count(|outcome| matches!(outcome, Outcome::Renewed(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::StillFailed));
    let unchanged = outcomes.len() - renewed - failed;
    let message = "certificate files read again";
    if failed > 0 {
        tracing::warn!(signal = "SIGHUP", renewed, unchanged, failed, "{message}");
    } else {
        tracing::info!(signal = "SIGHUP", renewed, unchanged, failed, "{message}");
    }
}
