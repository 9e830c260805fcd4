//! The latest value of something that one task observes and many connections read, which can also be lost.
//!
//! Like the drain and the renewal, it works across runtimes and threads.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The latest value of something. Starts without a value.
pub struct Feed<T> {
    current: ArcSwapOption<T>,
    /// Counts the changes that readers wait for.
    version: AtomicU64,
    losses: AtomicU64,
    changed: Arc<Notify>,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        let (version, losses) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { current: ArcSwapOption::empty(), version, losses, changed: Arc::default() }
    }
}

impl<T> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("version", &self.version()).field("losses", &self.losses()).finish_non_exhaustive()
    }
}

impl<T> Feed<T> {
    /// Makes `value` the current one. Wakes the waiting readers if there was no value before, or if `is_change(before,
    /// value)`: thousands may wait, and a value may come every second.
    pub fn publish(&self, value: T, is_change: impl FnOnce(&T, &T) -> bool) {
        let value = Arc::new(value);
        let before = self.current.swap(Some(Arc::clone(&value)));
        if before.is_none_or(|before| is_change(&before, &value)) {
            self.announce();
        }
    }

    /// Leaves the feed without a value, until the next one is published.
    pub fn lose(&self) {
        if self.current.swap(None).is_some() {
            // After the value: a reader that sees the new count with the old value would miss the loss.
            self.losses.fetch_add(1, Ordering::AcqRel);
            self.announce();
        }
    }

    /// The latest value; `None` if it was lost, or none has been published yet.
    pub fn current(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }

    /// Counts the changes and losses.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Counts the losses, so that a reader notices one even if there is a value again. Read it before the value.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Reports each change and each loss from now on.
    pub fn changes(self: &Arc<Self>) -> Changes<T> {
        let notified = Box::pin(Arc::clone(&self.changed).notified_owned());
        Changes { seen: self.version(), feed: Arc::clone(self), notified }
    }

    fn announce(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

/// Reports the changes of a [`Feed`] to one reader.
pub struct Changes<T> {
    feed: Arc<Feed<T>>,
    /// The version that the reader knows.
    seen: u64,
    notified: Pin<Box<OwnedNotified>>,
}

impl<T> Changes<T> {
    /// Ready when the feed has changed since the last time that this was ready. Otherwise the task is woken at the next
    /// change. Takes a lock that the readers of the feed share.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Registers first: a change after that wakes the task, and one before it shows in the version.
        while self.notified.as_mut().poll(cx).is_ready() {
            self.notified.set(Arc::clone(&self.feed.changed).notified_owned());
        }
        let version = self.feed.version();
        if version == self.seen {
            return Poll::Pending;
        }
        self.seen = version;
        Poll::Ready(())
    }

    /// Waits for the next change. Cancel safe.
    pub async fn next(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn is_ready<T>(changes: &mut Changes<T>) -> bool {
        changes.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    const DIFFER: fn(&i32, &i32) -> bool = |before, now| before != now;

    #[test]
    fn readers_hear_of_changes_and_losses_and_of_nothing_else() {
        let feed = Arc::new(Feed::default());
        let mut changes = feed.changes();
        let mut check = |expected: bool, current: Option<i32>, losses: u64| {
            assert_eq!(is_ready(&mut changes), expected);
            assert!(!is_ready(&mut changes), "reported once");
            assert_eq!((feed.current().as_deref().copied(), feed.losses()), (current, losses));
        };
        check(false, None, 0);
        feed.lose();
        check(false, None, 0);
        feed.publish(1, DIFFER);
        check(true, Some(1), 0);
        feed.publish(1, DIFFER);
        check(false, Some(1), 0);
        feed.publish(2, DIFFER);
        check(true, Some(2), 0);
        feed.lose();
        check(true, None, 1);
        feed.lose();
        check(false, None, 1);
        // The same value as before the loss.
        feed.publish(2, DIFFER);
        check(true, Some(2), 1);
        feed.lose();
        feed.publish(2, DIFFER);
        check(true, Some(2), 2);
        assert_eq!(feed.version(), 6);
    }

    #[test]
    fn the_value_is_replaced_even_if_that_is_no_change() {
        let feed = Arc::new(Feed::default());
        feed.publish(1, |_, _| false);
        let version = feed.version();
        feed.publish(2, |_, _| false);
        assert_eq!((feed.current().as_deref(), feed.version()), (Some(&2), version));
    }

    #[tokio::test]
    async fn a_sleeping_reader_is_woken_at_each_change() {
        let feed = Arc::new(Feed::default());
        let mut changes = feed.changes();
        let (sender, mut events) = tokio::sync::mpsc::channel(1);
        let reader = async {
            for _ in 0..3 {
                changes.next().await;
                sender.send(feed.current().as_deref().copied()).await.unwrap();
            }
        };
        let writer = async {
            // The reader has registered: it is polled first.
            feed.publish(1, DIFFER);
            assert_eq!(events.recv().await, Some(Some(1)));
            tokio::task::yield_now().await;
            feed.publish(2, DIFFER);
            assert_eq!(events.recv().await, Some(Some(2)));
            tokio::task::yield_now().await;
            feed.lose();
            assert_eq!(events.recv().await, Some(None));
        };
        tokio::join!(biased; reader, writer);
    }
}
