//! The certificate set that a SPIFFE agent sent last.

use std::sync::{Arc, Mutex, PoisonError};

use crate::tls::WorkloadSet;

/// The certificate set that an agent sent last, for the task that reads the additional files. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ReceivedSet(Arc<Mutex<Option<Arc<WorkloadSet>>>>);

impl ReceivedSet {
    pub(super) fn latest(&self) -> Option<Arc<WorkloadSet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the agent has sent nothing after `set`.
    pub(super) fn is_latest(&self, set: &Arc<WorkloadSet>) -> bool {
        self.latest().is_some_and(|latest| Arc::ptr_eq(&latest, set))
    }

    pub(super) fn replace(&self, set: Arc<WorkloadSet>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
    }
}
