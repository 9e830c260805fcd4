//! The memory that all connections together may use to hold long requests for the policy.
//!
//! A policy judges a command body as a whole. Most bodies are small and wait in their connection's input. A longer one
//! needs a permit of one budget, and its connection is not read while there is none.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// For the whole process: room for 16 of the largest bodies.
const BUDGET_KIB: usize = 256 * 1024;

/// The budget. Clones share it.
#[derive(Clone)]
pub struct HoldBudget(Arc<Semaphore>);

impl Default for HoldBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

impl HoldBudget {
    /// A permit for `bytes`; `None` where the budget has no room for them now.
    pub(super) fn try_permit(&self, bytes: usize) -> Option<BudgetPermit> {
        let permit = Arc::clone(&self.0).try_acquire_many_owned(kib(bytes)).ok()?;
        Some(BudgetPermit { _permit: permit })
    }
}

#[cfg(test)]
impl HoldBudget {
    pub(super) fn take_everything(&self) -> BudgetPermit {
        let all = u32::try_from(BUDGET_KIB).unwrap_or(u32::MAX);
        BudgetPermit { _permit: Arc::clone(&self.0).try_acquire_many_owned(all).expect("nothing is held yet") }
    }
}

/// One request's part of the budget, which is returned on drop.
pub(super) struct BudgetPermit {
    _permit: OwnedSemaphorePermit,
}

/// A permit that is being waited for.
type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The request of one connection for a permit. Dropping it gives up its turn.
#[derive(Default)]
pub(super) struct BudgetRequest {
    waiting: Option<Waiting>,
    granted: Option<OwnedSemaphorePermit>,
}

impl BudgetRequest {
    /// A permit for `bytes`, if the budget has room for them now. Otherwise [`BudgetRequest::poll_granted`] is ready
    /// when it has: requests are granted in their order.
    pub(super) fn permit(&mut self, budget: &HoldBudget, bytes: usize) -> Option<BudgetPermit> {
        if let Some(permit) = self.granted.take() {
            return Some(BudgetPermit { _permit: permit });
        }
        let permit = budget.try_permit(bytes);
        if permit.is_none() {
            self.waiting = Some(Box::pin(Arc::clone(&budget.0).acquire_many_owned(kib(bytes))));
        }
        permit
    }

    /// Whether the connection waits for a permit.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the permit has just been granted: [`BudgetRequest::permit`] returns it now.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        let Poll::Ready(permit) = waiting.as_mut().poll(cx) else { return false };
        (self.waiting, self.granted) = (None, permit.ok());
        true
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
