//! The part of the hold budget for the field names that are remembered of the document that is arriving.

use crate::relay::hold_budget::{Account, BudgetPermit};

/// Field names that a connection may remember without a part of the hold budget: documents with more are rare.
const NAMES_WITHOUT_PERMIT: usize = 4096;

/// Bytes of memory for each name, with the free places of its set.
const BYTES_OF_A_NAME: usize = 20;

/// The part of the budget that one connection has. It is returned on drop, or with the names.
#[derive(Default)]
pub(in crate::relay) struct NamesPermit {
    held: Option<Box<(usize, BudgetPermit)>>,
}

impl NamesPermit {
    /// Charges the budget for this number of names. Returns whether it has room for them. Does not wait: a part of the
    /// request has gone upstream.
    pub(in crate::relay) fn covers(&mut self, names: usize, account: &Account) -> bool {
        if names <= NAMES_WITHOUT_PERMIT {
            self.held = None;
            return true;
        }
        if self.held.as_ref().is_some_and(|held| names <= held.0) {
            return true;
        }
        let covered = names * 2;
        self.held = account.try_permit(covered * BYTES_OF_A_NAME).map(|permit| Box::new((covered, permit)));
        self.held.is_some()
    }
}
