//! Tracked tasks. All tasks are spawned here: each has a name, is counted, and is awaited at shutdown.
//!
//! A panic ends its task only.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio_util::task::TaskTracker;

/// Log message of this module.
const TASK_PANICKED: &str = "task panicked; please report this bug";

/// A set of running tasks. Clones share the same set and can be used from several runtimes.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    started: Arc<AtomicU64>,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns `future` on the runtime of the calling thread. Panics outside of a runtime, as tokio does.
    ///
    /// A panic in `future` is logged with `name`, counted, and not propagated.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let panics = Arc::clone(&self.panics);
        // Boxed because an async block that takes a future by value reserves its size twice, and tasks live for hours.
        let future = Box::pin(future);
        let watched = async move {
            if let Err(panic) = caught(future).await {
                panics.fetch_add(1, Ordering::Relaxed);
                let panic = panic_message(panic.as_ref());
                tracing::error!(task = name, panic, "{TASK_PANICKED}");
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the tracked spawn that all other code uses")]
        tokio::spawn(self.tracker.track_future(watched));
    }

    /// Lets [`wait`](Self::wait) resolve once the set is empty. Tasks can still be added.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Resolves when the set is closed and empty. Cancel safe.
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }

    /// Number of tasks that were spawned so far.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Number of running tasks.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Number of tasks that ended in a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// Runs `future` and returns its panic as an error. After a panic the future is dropped without another poll.
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
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn wait_resolves_when_the_closed_set_is_empty() {
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
    async fn a_panic_is_counted_and_ends_only_its_task() {
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
    fn one_set_can_span_several_runtimes() {
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
