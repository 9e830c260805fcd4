//! Stand-in until part A is merged.

use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub struct LeaseState {
    wanted: AtomicBool,
}

impl LeaseState {
    pub fn set_idle(&self, _idle: bool) {}
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
    pub fn recall(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }
}
