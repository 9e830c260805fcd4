//! The memory that all connections together may use to hold long messages for the policy.
//!
//! A policy judges a command body as a whole. Most bodies are small and wait in their connection's input. A longer one
//! needs a part of one budget, and its connection is not read while there is none. Long replies that are filtered have
//! a budget of their own, so that they do not delay requests. In both, each caller has a share: see [`pool`].

use std::sync::Arc;

mod account;
mod pool;

pub(super) use account::{Account, BudgetPermit, BudgetRequest};
use pool::Pool;

use crate::telemetry::metrics::{Direction, HeldBytes};

/// The smallest budget: room for the largest message, and for the beginnings of others.
const HOLD_BUDGET_MIN: u64 = 64 * MEBIBYTE;

/// The largest budget that is chosen by default.
const DEFAULT_MAX: u64 = 256 * MEBIBYTE;

/// The part of the container's memory that is used by default.
const PART_OF_MEMORY: u64 = 4;

const MEBIBYTE: u64 = 1024 * 1024;

/// The budget. Clones share it.
#[derive(Clone)]
pub struct HoldBudget {
    requests: Arc<Pool>,
    replies: Arc<Pool>,
}

impl HoldBudget {
    /// A budget of `bytes` for requests, and half of that for replies; of each at least 64 MiB.
    pub fn new(bytes: u64) -> Self {
        let pool = |bytes: u64, direction| {
            let bytes = bytes.max(HOLD_BUDGET_MIN);
            Arc::new(Pool::new(bytes, HeldBytes::new(direction, bytes)))
        };
        Self { requests: pool(bytes, Direction::ToUpstream), replies: pool(bytes / 2, Direction::ToClient) }
    }

    /// The number of bytes to use where the operator names none: a quarter of `memory_limit`, within limits.
    pub fn default_bytes(memory_limit: Option<u64>) -> u64 {
        memory_limit.map_or(DEFAULT_MAX, |limit| (limit / PART_OF_MEMORY).clamp(HOLD_BUDGET_MIN, DEFAULT_MAX))
    }

    /// The number of bytes that requests may hold.
    pub fn max_bytes(&self) -> u64 {
        self.requests.max_bytes()
    }

    /// The number of bytes that requests may hold now, as they are reserved.
    pub fn held_bytes(&self) -> u64 {
        self.requests.held_bytes()
    }

    /// A caller's share of the budget for requests. Its connections have it together.
    pub(super) fn requests(&self, caller: &Arc<str>) -> Account {
        Account::new(&self.requests, caller)
    }

    /// A caller's share of the budget for replies.
    pub(super) fn replies(&self, caller: &Arc<str>) -> Account {
        Account::new(&self.replies, caller)
    }
}

impl Default for HoldBudget {
    fn default() -> Self {
        Self::new(DEFAULT_MAX)
    }
}

#[cfg(test)]
impl HoldBudget {
    pub(super) fn take_everything(&self) -> BudgetPermit {
        self.requests(&Arc::from("test: everything")).take_everything()
    }

    pub(super) fn take_everything_for_replies(&self) -> BudgetPermit {
        self.replies(&Arc::from("test: everything")).take_everything()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_fits_the_memory_of_the_container() {
        let check = |limit: Option<u64>, mebibytes: u64| {
            assert_eq!(HoldBudget::default_bytes(limit), mebibytes * MEBIBYTE, "{limit:?}");
        };
        check(None, 256);
        check(Some(64 << 30), 256);
        check(Some(512 * MEBIBYTE), 128);
        check(Some(300 * MEBIBYTE), 75);
        check(Some(128 * MEBIBYTE), 64);
        check(Some(1), 64);
        assert_eq!(HoldBudget::new(128 * MEBIBYTE).replies.max_bytes(), 64 * MEBIBYTE);
        assert_eq!(HoldBudget::new(1).max_bytes(), 64 * MEBIBYTE);
    }
}
