//! How many connections a listener serves at one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the connections of one listener against its limit.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    in_use: Arc<AtomicUsize>,
    max: usize,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    in_use: Arc<AtomicUsize>,
}

impl ConnectionLimit {
    /// `limit` connections at one time.
    pub fn new(max: usize) -> Self {
        Self { in_use: Arc::default(), max }
    }

    /// A place, or `None` when all are in use.
    pub fn try_acquire(&self) -> Option<ConnectionPermit> {
        let in_use = &self.in_use;
        in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < self.max).then_some(count + 1))
            .ok()
            .map(|_| ConnectionPermit { in_use: Arc::clone(in_use) })
    }

    /// How many are in use now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// How many there are.
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
    fn a_place_that_is_given_back_can_be_taken_again() {
        let limit = ConnectionLimit::new(2);
        let (first, _second) = (limit.try_acquire().unwrap(), limit.try_acquire().unwrap());
        assert!(limit.try_acquire().is_none());
        drop(first);
        assert!(limit.try_acquire().is_some());
        assert_eq!(limit.in_use(), 1, "the one just acquired was dropped at once");
    }
}
