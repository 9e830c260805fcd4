//! The only place that spawns: every task has a name, is counted, and is waited for at the end.
//!
//! A panic ends its task and nothing else.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio_util::task::TaskTracker;

/// A set of running tasks; clones are the same set, and may be used from several runtimes.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` on the runtime of the calling thread; panics outside of one, as tokio does.
    ///
    /// A panic in it is logged with `name`, counted, and goes no further.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let panics = Arc::clone(&self.panics);
        // In a box: each async block that takes a future by value has room for it twice, and these live for hours.
        let future = Box::pin(future);
        let watched = async move {
            if let Err(panic) = caught(future).await {
                panics.fetch_add(1, Ordering::Relaxed);
                let panic = panic_message(panic.as_ref());
                tracing::error!(task = name, panic, "a task panicked; the others go on, please report this");
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the tracked spawn that the others are to use")]
        tokio::spawn(self.tracker.track_future(watched));
    }

    /// Lets [`wait`](Self::wait) end once the set is empty; tasks may still be added.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Resolves when the set is closed and empty. Cancel safe.
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }

    /// How many tasks run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// How many tasks ended in a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// `future`, with its panic as an error. After one it is dropped without being polled again.
async fn caught(mut future: Pin<Box<impl Future<Output = ()>>>) -> Result<(), Box<dyn Any + Send>> {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn waits_for_every_task_once_closed() {
        let tasks = Tasks::new();
        let (release, released) = oneshot::channel::<()>();
        tasks.spawn("first", async move {
            released.await.unwrap();
        });
        tasks.spawn("second", async {});
        assert_eq!(tasks.len(), 2);

        tasks.close();
        let mut wait = pin!(tasks.wait());
        let early = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await;
        assert_eq!(early, Poll::Pending);
        release.send(()).unwrap();
        wait.await;
        assert!(tasks.is_empty());
        assert_eq!(tasks.panics(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_ends_only_its_own_task() {
        let tasks = Tasks::new();
        let (send, receive) = oneshot::channel();
        tasks.spawn("panics at once", async { std::panic::resume_unwind(Box::new("at once")) });
        tasks.spawn("panics later", async {
            tokio::task::yield_now().await;
            std::panic::resume_unwind(Box::new(String::from("later")));
        });
        tasks.spawn("goes on", async move {
            tokio::task::yield_now().await;
            send.send(42).unwrap();
        });
        assert_eq!(receive.await, Ok(42));
        tasks.close();
        tasks.wait().await;
        assert_eq!(tasks.panics(), 2);
    }

    #[test]
    fn one_set_spans_several_runtimes() {
        let tasks = Tasks::new();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let tasks = tasks.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        for _ in 0..10 {
                            tasks.spawn("yields", tokio::task::yield_now());
                        }
                        tasks.close();
                        tasks.wait().await;
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(tasks.is_empty());
    }
}
