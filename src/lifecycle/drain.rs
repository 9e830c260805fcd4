//! The end of the process as a value: one side begins it, every connection watches it.
//!
//! Works across runtimes and threads. Stages only go forward.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// New connections and commands are taken.
    Serving,
    /// No new connections; commands in flight finish, then their connections close.
    Draining,
    /// Every connection closes now.
    Stopped,
}

/// Begins the drain, and ends it; clones are the same drain.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// Sees how far the drain is; clones see the same drain.
#[derive(Clone)]
pub struct DrainWatch {
    shared: Arc<Shared>,
}

struct Shared {
    /// A [`Stage`]; only grows.
    stage: AtomicU8,
    draining: Notify,
    stopped: Notify,
}

impl Drain {
    /// A drain that has not begun.
    #[expect(clippy::new_without_default, reason = "a drain is made on purpose, once")]
    pub fn new() -> Self {
        let stage = AtomicU8::new(Stage::Serving as u8);
        Self { shared: Arc::new(Shared { stage, draining: Notify::new(), stopped: Notify::new() }) }
    }

    /// A watch on this drain.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { shared: Arc::clone(&self.shared) }
    }

    /// Enters [`Stage::Draining`]; does nothing if that is past.
    pub fn begin(&self) {
        self.shared.advance(Stage::Draining);
        self.shared.draining.notify_waiters();
    }

    /// Enters [`Stage::Stopped`]: who waits for the drain to begin is woken as well.
    pub fn stop(&self) {
        self.shared.advance(Stage::Stopped);
        self.shared.draining.notify_waiters();
        self.shared.stopped.notify_waiters();
    }
}

impl DrainWatch {
    /// The stage of this moment: one atomic load, cheap enough for every message.
    pub fn stage(&self) -> Stage {
        self.shared.stage()
    }

    /// Resolves when the drain has begun, at once if it has already.
    ///
    /// Cancel safe. A poll that waits takes a lock which all watchers share. A loop on the data path therefore polls
    /// this once, which registers its task for the wake-up, keeps the future alive without polling it again, and looks
    /// at [`stage`](Self::stage) whenever it is woken. That holds as long as the loop stays in the task (and the same
    /// waker) that it was first polled in.
    pub async fn draining(&self) {
        self.shared.reached(Stage::Draining, &self.shared.draining).await;
    }

    /// Resolves when everything has to close, at once if that has come already; otherwise as
    /// [`draining`](Self::draining).
    pub async fn stopped(&self) {
        self.shared.reached(Stage::Stopped, &self.shared.stopped).await;
    }
}

impl Shared {
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            _ => Stage::Stopped,
        }
    }

    fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Registers before it looks, so that a stage entered in between is not missed.
    async fn reached(&self, stage: Stage, notify: &Notify) {
        let mut woken = std::pin::pin!(notify.notified());
        woken.as_mut().enable();
        if self.stage() < stage {
            woken.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    struct CountWakes(AtomicUsize);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn stages_only_go_forward() {
        let drain = Drain::new();
        let watch = drain.watch();
        assert_eq!(watch.stage(), Stage::Serving);
        drain.begin();
        drain.begin();
        assert_eq!(watch.stage(), Stage::Draining);
        drain.stop();
        drain.begin();
        assert_eq!(watch.stage(), Stage::Stopped);
    }

    #[test]
    fn polling_once_is_enough_to_be_woken_by_each_stage() {
        let drain = Drain::new();
        let watch = drain.watch();
        let counter = Arc::new(CountWakes(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        let mut context = Context::from_waker(&waker);

        let mut draining = pin!(watch.draining());
        let mut stopped = pin!(watch.stopped());
        assert_eq!(draining.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(stopped.as_mut().poll(&mut context), Poll::Pending);

        drain.begin();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        drain.stop();
        assert_eq!(counter.0.load(Ordering::SeqCst), 2);
        assert_eq!(draining.as_mut().poll(&mut context), Poll::Ready(()));
        assert_eq!(stopped.as_mut().poll(&mut context), Poll::Ready(()));
    }

    #[test]
    fn who_comes_late_does_not_wait() {
        let drain = Drain::new();
        drain.stop();
        let mut context = Context::from_waker(Waker::noop());
        let watch = drain.watch();
        assert_eq!(pin!(watch.draining()).poll(&mut context), Poll::Ready(()));
        assert_eq!(pin!(watch.stopped()).poll(&mut context), Poll::Ready(()));
    }

    #[test]
    fn watchers_on_other_threads_and_runtimes_are_woken() {
        let drain = Drain::new();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let watch = drain.watch();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        watch.draining().await;
                        watch.stopped().await;
                        watch.stage()
                    })
                })
            })
            .collect();
        drain.begin();
        drain.stop();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Stage::Stopped);
        }
    }
}
