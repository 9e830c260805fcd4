//! The session ids of one connection, and what they are in mongod.

use crate::policy::{SESSION_ID_BYTES, SessionOwner};
use crate::relay::filter::policy_source::SessionMapping;
use crate::relay::hold_budget::Account;

type SessionId = [u8; SESSION_ID_BYTES];

/// Session ids that are remembered: a driver uses few at a time, the last one returned to its pool first.
const KNOWN_MAX: usize = 8;

/// Maps session ids.
pub(in crate::relay) struct SessionIds {
    owner: SessionOwner,
    /// The caller's share of the budget for requests that are held.
    pub(in crate::relay) hold_account: Account,
    /// The client's ids and those in mongod.
    known: [(SessionId, SessionId); KNOWN_MAX],
    /// The number of ids that were mapped, each time anew.
    mapped: usize,
}

impl SessionIds {
    pub(in crate::relay) fn new(mapping: SessionMapping) -> Self {
        let SessionMapping { owner, hold_budget, caller } = mapping;
        let hold_account = hold_budget.requests(&caller);
        Self { owner, hold_account, known: [Default::default(); KNOWN_MAX], mapped: 0 }
    }

    /// The id in mongod of the session that the client calls `id`.
    pub(in crate::relay) fn id_in_mongod(&mut self, id: &SessionId) -> SessionId {
        let known = &self.known[..self.mapped.min(KNOWN_MAX)];
        if let Some((_, there)) = known.iter().find(|(here, _)| here == id) {
            return *there;
        }
        let there = self.owner.id_in_mongod(id);
        self.known[self.mapped % KNOWN_MAX] = (*id, there);
        self.mapped += 1;
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hold_budget::HoldBudget;

    #[test]
    fn a_remembered_id_is_the_one_that_is_computed() {
        let owner = SessionOwner::listener("orders");
        let mut ids = SessionIds::new(SessionMapping {
            owner: owner.clone(),
            hold_budget: HoldBudget::default(),
            caller: "test".into(),
        });
        for n in [0, 1, 0, 2, 3, 4, 5, 6, 7, 0, 8, 9, 0, 1, 9, 200] {
            assert_eq!(ids.id_in_mongod(&[n; 16]), owner.id_in_mongod(&[n; 16]));
        }
    }
}
