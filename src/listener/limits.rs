//! How many connections a listener serves at one time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the connections of one listener against its limit.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    taken: Arc<AtomicUsize>,
    places: usize,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    taken: Arc<AtomicUsize>,
}

impl ConnectionLimit {
    /// `places` connections at one time.
    pub fn new(places: usize) -> Self {
        Self { taken: Arc::default(), places }
    }

    /// A place, or `None` when all are taken.
    pub fn take(&self) -> Option<ConnectionPermit> {
        let taken = &self.taken;
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < self.places).then_some(count + 1))
            .ok()
            .map(|_| ConnectionPermit { taken: Arc::clone(taken) })
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.places
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_can_be_taken_again() {
        let places = ConnectionLimit::new(2);
        let (first, _second) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        drop(first);
        assert!(places.take().is_some());
        assert_eq!(places.taken(), 1, "the one just taken was dropped at once");
    }
}
