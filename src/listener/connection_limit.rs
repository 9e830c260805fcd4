//! The connection limit of a listener (`max_connections`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the open connections of one listener against its limit. Clones share the same count.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    in_use: Arc<AtomicUsize>,
    max: usize,
}

/// The permit of one connection; released when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    in_use: Arc<AtomicUsize>,
}

impl ConnectionLimit {
    /// Allows `max` connections.
    pub fn new(max: usize) -> Self {
        Self { in_use: Arc::default(), max }
    }

    /// A permit, or `None` when all are in use.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let in_use = &self.in_use;
        in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < self.max).then_some(count + 1))
            .ok()
            .map(|_| ConnectionPermit { in_use: Arc::clone(in_use) })
    }

    /// Number of permits in use.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Number of permits in all.
    pub fn max(&self) -> usize {
        self.max
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_permit_can_be_acquired_again() {
        let limit = ConnectionLimit::new(2);
        let (first, _second) = (limit.try_acquire().unwrap(), limit.try_acquire().unwrap());
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert!(limit.try_acquire().is_some());
        assert_eq!(limit.in_use(), 1, "the permit of the line above was dropped immediately");
    }
}
