//! When files are read again: on request, when they may have changed, and once a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
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
pub struct ReloadRequest(Arc<Requests>);

#[derive(Default)]
struct Requests {
    wake: Notify,
    /// Number of requests so far.
    sent: AtomicU64,
    /// How many of them a reload has answered that began after they were sent.
    answered: watch::Sender<u64>,
}

impl ReloadRequest {
    /// Returns at once. One log line answers the request.
    pub fn send(&self) {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Waits until all requests that were sent before this call are answered: the files have been read, and their new
    /// contents are in use or rejected. Never resolves if the follower has ended. Cancel safe.
    pub async fn answered(&self) {
        let sent = self.0.sent.load(Ordering::Relaxed);
        // The sender is part of `self`.
        let _ = self.0.answered.subscribe().wait_for(|answered| *answered >= sent).await;
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
                let sent = self.request.0.sent.load(Ordering::Relaxed);
                let due = files.reload(requested).await;
                self.request.0.answered.send_replace(sent);
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
            () = self.request.0.wake.notified() => true,
            () = self.hints.next() => false,
            () = sleep_until(due.map_or(latest, |due| due.min(latest))) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::drain::Drain;
    use super::super::tasks::Tasks;
    use super::*;

    /// Files whose reading ends when the test says so.
    struct SlowFiles(mpsc::Receiver<()>);

    impl Reload for SlowFiles {
        async fn reload(&mut self, _requested: bool) -> Option<Instant> {
            let _ = self.0.recv().await;
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_answered_by_a_reload_that_began_after_it() {
        let (read, reads) = mpsc::channel(8);
        let (schedule, drain, tasks) = (ReloadSchedule::new(), Drain::new(), Tasks::new());
        let (request, watch) = (schedule.request(), drain.watch());
        tasks.spawn("test", async move { schedule.follow(&mut SlowFiles(reads), watch).await });
        request.answered().await;
        // The first reload has begun.
        tokio::task::yield_now().await;
        request.send();
        let answered = |request: ReloadRequest| async move {
            tokio::time::timeout(Duration::from_secs(1), request.answered()).await.is_ok()
        };
        assert!(!answered(request.clone()).await);
        read.send(()).await.unwrap();
        assert!(!answered(request.clone()).await, "the first reload may have read the files before the request");
        read.send(()).await.unwrap();
        assert!(answered(request).await);
        drain.stop();
    }
}
