//! The configuration keys that have changed in the file and take effect at the next restart.

use std::sync::{Arc, PoisonError, RwLock};

/// The paths of the changed keys, sorted. Empty if the file contains what is in use.
#[derive(Default)]
pub struct PendingRestart(RwLock<Arc<[String]>>);

impl PendingRestart {
    /// The changed keys.
    pub fn keys(&self) -> Arc<[String]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the changed keys. Returns whether they are others than before.
    pub fn replace(&self, keys: Vec<String>) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if **current == *keys {
            return false;
        }
        *current = keys.into();
        true
    }
}
