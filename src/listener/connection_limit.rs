//! The connection limit of a listener (`max_connections`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts the open connections of one listener against its limit. Clones share the same count.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    in_use: Arc<InUse>,
    max: usize,
}

#[derive(Debug, Default)]
struct InUse {
    count: AtomicUsize,
    /// When the last permit was acquired; `None` while one is free.
    full_since: Mutex<Option<Instant>>,
}

/// The permit of one connection; released when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    in_use: Arc<InUse>,
    max: usize,
}

impl ConnectionLimit {
    /// Allows `max` connections.
    pub fn new(max: usize) -> Self {
        Self { in_use: Arc::default(), max }
    }

    /// A permit, or `None` when all are in use.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let in_use = &self.in_use;
        let next = |count| (count < self.max).then_some(count + 1);
        let before = in_use.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        if before + 1 == self.max {
            *in_use.full_since() = Some(Instant::now());
        }
        Some(ConnectionPermit { in_use: Arc::clone(in_use), max: self.max })
    }

    /// For how long all permits have been in use; `None` if one is free.
    pub fn full_for(&self) -> Option<Duration> {
        self.in_use.full_since().filter(|_| self.in_use() >= self.max).map(|since| since.elapsed())
    }

    /// Number of permits in use.
    pub fn in_use(&self) -> usize {
        self.in_use.count.load(Ordering::Relaxed)
    }

    /// Number of permits in all.
    pub fn max(&self) -> usize {
        self.max
    }
}

impl InUse {
    fn full_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.full_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if self.in_use.count.fetch_sub(1, Ordering::Relaxed) == self.max {
            *self.in_use.full_since() = None;
        }
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
