//! When files are read again: on request, when they may have changed, and once a minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::drain::DrainWatch;
use super::file_watch::Hints;

/// Network and overlay file systems do not report every change.
const INTERVAL: Duration = Duration::from_mins(1);

/// Something that is read from files, and read again when they may have changed.
pub trait Reload {
    /// Reads the files and uses what has changed. `requested` is whether the operator has asked for it, and expects an
    /// answer in the log. Returns when to read again at the latest, if that is earlier than the interval.
    fn reload(&mut self, requested: bool) -> impl Future<Output = Option<Instant>> + Send;
}

/// Asks for files to be read at once. Clones make the same request; two requests before a reload are one.
#[derive(Clone, Default)]
pub struct ReloadRequest(Arc<Notify>);

impl ReloadRequest {
    /// Returns at once. One log line answers the request.
    pub fn send(&self) {
        self.0.notify_one();
    }
}

/// When files are read again. Clones are the same schedule; it is for one follower.
#[derive(Clone, Default)]
pub struct ReloadSchedule {
    request: ReloadRequest,
    hints: Hints,
}

impl ReloadSchedule {
    /// A schedule without a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a reload.
    pub fn request(&self) -> ReloadRequest {
        self.request.clone()
    }

    /// Where file watches report changes.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Reloads `files` again and again until the drain begins: connections after that need no new files.
    ///
    /// The first reload finds changes since the files were loaded.
    pub async fn follow(&self, files: &mut impl Reload, drain: DrainWatch) {
        let reloads = async {
            let mut requested = false;
            loop {
                let due = files.reload(requested).await;
                requested = self.next(due).await;
            }
        };
        tokio::select! {
            () = reloads => {}
            () = drain.draining() => {}
        }
    }

    /// Waits for the next reload, at `due` or after the interval at the latest. Returns whether it was requested.
    async fn next(&self, due: Option<Instant>) -> bool {
        let latest = Instant::now() + INTERVAL;
        tokio::select! {
            // A request must be answered, even if files change at the same moment.
            biased;
            () = self.request.0.notified() => true,
            () = self.hints.next() => false,
            () = sleep_until(due.map_or(latest, |due| due.min(latest))) => false,
        }
    }
}
