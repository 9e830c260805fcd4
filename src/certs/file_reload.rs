//! Reloads certificate files when they change.
//!
//! All or nothing for each upstream and listener: certificate, key, CA certificates and revocation lists are read
//! together and replace the set in use together. A pair of certificate and key is written one file after the other, so
//! files that cannot be used are read again for a few seconds. After that the failure is logged once, and the previous
//! set stays in use.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::expiry::ExpiryMonitor;
use super::messages::{
    CERTIFICATE_RELOAD_FINISHED, CERTIFICATE_RELOAD_PANICKED, FILE_WATCH_FAILED, FILE_WATCH_RESTORED,
};
use super::set_source::SetReader;
use super::watched_set::{ReloadOutcome, WatchedSet};
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::file_watch::{FileWatch, WatchError};
use crate::lifecycle::reload::{Reload, ReloadRequest, ReloadSchedule};
use crate::telemetry::metrics::ReloadMetrics;

/// Reloads all certificate sets that come from files.
pub(super) struct FileReloader {
    sets: Vec<WatchedSet>,
    metrics: ReloadMetrics,
    expiry: Arc<ExpiryMonitor>,
    schedule: ReloadSchedule,
    watch: WatchState,
}

/// Whether the kernel reports changes.
enum WatchState {
    /// Since the last read. The watch ends when it is dropped.
    On { _watch: FileWatch },
    /// Watching failed, and that has been logged.
    Failed,
    /// Before the first read.
    NotStarted,
}

impl FileReloader {
    /// The files of `sets` are those that the sets in use were loaded from.
    pub(super) fn new(sets: Vec<WatchedSet>, metrics: ReloadMetrics, expiry: Arc<ExpiryMonitor>) -> Self {
        Self { sets, metrics, expiry, schedule: ReloadSchedule::new(), watch: WatchState::NotStarted }
    }

    /// Requests a reload of all files.
    pub(super) fn request(&self) -> ReloadRequest {
        self.schedule.request()
    }

    /// Runs until the drain begins.
    pub(super) async fn run(mut self, drain: DrainWatch) {
        self.schedule.clone().follow(&mut self, drain).await;
    }

    fn set_watch(&mut self, watch: Result<FileWatch, WatchError>) {
        let had_failed = matches!(self.watch, WatchState::Failed);
        self.watch = match watch {
            Ok(watch) => {
                if had_failed {
                    tracing::info!("{FILE_WATCH_RESTORED}");
                }
                WatchState::On { _watch: watch }
            }
            Err(error) => {
                if !had_failed {
                    let cause = error.source().map(ToString::to_string);
                    tracing::warn!(
                        %error,
                        cause,
                        remedy = "raise fs.inotify.max_user_instances and max_user_watches, and let mongate read the \
                                  directory; or send SIGHUP after each change",
                        "{FILE_WATCH_FAILED}"
                    );
                }
                WatchState::Failed
            }
        };
    }
}

impl Reload for FileReloader {
    /// Reads on a separate thread, because a file system may be slow; the results are applied here.
    async fn reload(&mut self, requested: bool) -> Option<Instant> {
        let hints = self.schedule.hints().clone();
        let readers: Vec<_> = self.sets.iter().map(WatchedSet::reader).collect();
        let files: Vec<PathBuf> = self.sets.iter().flat_map(WatchedSet::files).cloned().collect();
        let read = spawn_blocking(move || {
            // Before the files are read, so that a change during the read is reported.
            let watch = hints.watch(&files);
            (watch, readers.into_iter().map(SetReader::read).collect::<Vec<_>>())
        });
        let mut outcomes = Vec::new();
        if let Ok((watch, reads)) = read.await {
            self.set_watch(watch);
            let (now, clock) = (Instant::now(), SystemTime::now());
            let sets = self.sets.iter_mut().zip(reads);
            outcomes.extend(sets.map(|(set, read)| set.apply(read, now, clock, requested)));
            for (set, outcome) in self.sets.iter().zip(&outcomes) {
                set.report(outcome, &self.metrics);
            }
            if outcomes.iter().any(|outcome| matches!(outcome, ReloadOutcome::Reloaded(_))) {
                self.expiry.check(clock);
            }
        } else {
            let remedy = "report this as a bug; the files are read again in a minute";
            tracing::error!(remedy, "{CERTIFICATE_RELOAD_PANICKED}");
        }
        if requested {
            log_answer(&outcomes);
        }
        self.sets.iter().filter_map(WatchedSet::next_read).min()
    }
}

/// The log line that answers SIGHUP.
fn log_answer(outcomes: &[ReloadOutcome]) {
    let count = |is: fn(&ReloadOutcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    let renewed = count(|outcome| matches!(outcome, ReloadOutcome::Reloaded(_)));
    let failed = count(|outcome| matches!(outcome, ReloadOutcome::Failed(_) | ReloadOutcome::StillFailed));
    let unchanged = outcomes.len() - renewed - failed;
    if failed > 0 {
        tracing::warn!(signal = "SIGHUP", renewed, unchanged, failed, "{CERTIFICATE_RELOAD_FINISHED}");
    } else {
        tracing::info!(signal = "SIGHUP", renewed, unchanged, failed, "{CERTIFICATE_RELOAD_FINISHED}");
    }
}
