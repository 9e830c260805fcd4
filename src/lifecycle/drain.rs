//! Graceful shutdown (drain): one side advances the stage, every connection watches it.
//!
//! Works across runtimes and threads. The stage only advances.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// How far the shutdown of the process has advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// New connections and new commands are accepted.
    Serving,
    /// The gateway is about to drain and says so in `/readyz`. New connections and new commands are still accepted.
    Leaving,
    /// No new connections are accepted. Commands in flight finish, then their connections close.
    Draining,
    /// Every connection closes immediately.
    Stopped,
}

/// The side that advances the stage. Clones share the same drain.
#[derive(Clone)]
pub struct Drain {
    state: Arc<DrainState>,
}

/// The side that watches the stage. Clones share the same drain.
#[derive(Clone)]
pub struct DrainWatch {
    state: Arc<DrainState>,
}

struct DrainState {
    /// A [`Stage`] as a number; it only increases.
    stage: AtomicU8,
    /// Connections that were closed with a command in flight.
    interrupted: AtomicUsize,
    draining: Notify,
    stopped: Notify,
}

impl Drain {
    /// A drain in [`Stage::Serving`].
    #[expect(clippy::new_without_default, reason = "there is one drain per process, made explicitly")]
    pub fn new() -> Self {
        let state = DrainState {
            stage: AtomicU8::new(Stage::Serving as u8),
            interrupted: AtomicUsize::new(0),
            draining: Notify::new(),
            stopped: Notify::new(),
        };
        Self { state: Arc::new(state) }
    }

    /// A watch on this drain.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { state: Arc::clone(&self.state) }
    }

    /// The number of connections that [`Stage::Stopped`] closed with a command in flight, so far.
    pub fn interrupted(&self) -> usize {
        self.state.interrupted.load(Ordering::Relaxed)
    }

    /// Advances to [`Stage::Leaving`]. Wakes no task, because none does anything else from here on.
    pub fn leave(&self) {
        self.state.advance(Stage::Leaving);
    }

    /// Advances to [`Stage::Draining`]. Does nothing if that stage has been reached or passed.
    pub fn begin(&self) {
        self.state.advance(Stage::Draining);
        self.state.draining.notify_waiters();
    }

    /// Advances to [`Stage::Stopped`]. Wakes also the tasks that wait for the drain to begin.
    pub fn stop(&self) {
        self.state.advance(Stage::Stopped);
        self.state.draining.notify_waiters();
        self.state.stopped.notify_waiters();
    }
}

impl DrainWatch {
    /// The current stage. It costs one atomic load, so it can be called for every message.
    pub fn stage(&self) -> Stage {
        self.state.stage()
    }

    /// Counts a connection that [`Stage::Stopped`] closes with a command in flight.
    pub fn count_interrupted(&self) {
        self.state.interrupted.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves when the drain has begun; immediately if it already has.
    ///
    /// Cancel safe. A pending poll takes a lock that all watchers share. A loop on the data path therefore polls this
    /// future once, which registers its task for the wake-up. It keeps the future alive without polling it again, and
    /// checks [`stage`](Self::stage) whenever it is woken. This works as long as the loop stays in the task, with the
    /// same waker, of that first poll.
    pub async fn draining(&self) {
        self.state.reached(Stage::Draining, &self.state.draining).await;
    }

    /// Resolves when every connection has to close; immediately if that stage has been reached. Otherwise like
    /// [`draining`](Self::draining).
    pub async fn stopped(&self) {
        self.state.reached(Stage::Stopped, &self.state.stopped).await;
    }
}

impl DrainState {
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Leaving,
            2 => Stage::Draining,
            _ => Stage::Stopped,
        }
    }

    fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Registers for the wake-up before it reads the stage, so that a change in between is not missed.
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
    fn the_stage_only_advances() {
        let drain = Drain::new();
        let watch = drain.watch();
        assert_eq!(watch.stage(), Stage::Serving);
        drain.leave();
        assert_eq!(watch.stage(), Stage::Leaving);
        drain.begin();
        drain.begin();
        assert_eq!(watch.stage(), Stage::Draining);
        drain.stop();
        drain.begin();
        assert_eq!(watch.stage(), Stage::Stopped);
    }

    #[test]
    fn one_poll_registers_for_the_wake_up_of_each_stage() {
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
    fn a_late_watcher_does_not_wait() {
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
