//! The memory that all connections together may use to hold long messages for the policy.
//!
//! A policy judges a command body as a whole. Most bodies are small and wait in their connection's input. A longer one
//! needs a permit of one budget, and its connection is not read while there is none. Long replies that are filtered
//! have a budget of their own, so that they do not delay requests, and each caller has a share of it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// For the whole process: room for 16 of the largest bodies.
const BUDGET_KIB: usize = 256 * 1024;

/// For the replies of the whole process: room for a few of the largest.
const REPLY_BUDGET_KIB: usize = 128 * 1024;

/// For the replies of one caller: room for the largest message.
const REPLY_SHARE_KIB: usize = 48 * 1024;

/// The budget. Clones share it.
#[derive(Clone)]
pub struct HoldBudget {
    requests: Arc<Semaphore>,
    replies: Arc<Semaphore>,
    /// The shares of the callers that hold replies now.
    shares: Arc<Mutex<HashMap<Arc<str>, Weak<Semaphore>>>>,
}

impl Default for HoldBudget {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(BUDGET_KIB)),
            replies: Arc::new(Semaphore::new(REPLY_BUDGET_KIB)),
            shares: Arc::default(),
        }
    }
}

/// One caller's share of the budget for replies. It is returned with the last permit of this caller.
pub(super) struct ReplyShare {
    own: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl HoldBudget {
    /// The share of a caller. Its connections have it together.
    pub(super) fn reply_share(&self, caller: &Arc<str>) -> ReplyShare {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Arc::clone(&self.replies);
        if let Some(own) = shares.get(caller).and_then(Weak::upgrade) {
            return ReplyShare { own, all };
        }
        // A new entry is the occasion to remove the unused ones.
        shares.retain(|_, share| share.strong_count() > 0);
        let own = Arc::new(Semaphore::new(REPLY_SHARE_KIB));
        shares.insert(Arc::clone(caller), Arc::downgrade(&own));
        ReplyShare { own, all }
    }

    /// A permit for `bytes` of a request; `None` where the budget has no room for them now.
    pub(super) fn try_permit(&self, bytes: usize) -> Option<BudgetPermit> {
        let permit = Arc::clone(&self.requests).try_acquire_many_owned(kib(bytes)).ok()?;
        Some(BudgetPermit { _permit: permit, _share: None })
    }
}

#[cfg(test)]
impl HoldBudget {
    pub(super) fn take_everything(&self) -> BudgetPermit {
        take_all(&self.requests, BUDGET_KIB)
    }

    pub(super) fn take_everything_for_replies(&self) -> BudgetPermit {
        take_all(&self.replies, REPLY_BUDGET_KIB)
    }

    /// The number of callers that hold replies.
    pub(super) fn shares(&self) -> usize {
        self.shares.lock().unwrap().values().filter(|share| share.strong_count() > 0).count()
    }
}

#[cfg(test)]
fn take_all(budget: &Arc<Semaphore>, kib: usize) -> BudgetPermit {
    let all = u32::try_from(kib).unwrap();
    BudgetPermit { _permit: Arc::clone(budget).try_acquire_many_owned(all).expect("nothing is held"), _share: None }
}

/// One message's part of the budget, which is returned on drop.
pub(super) struct BudgetPermit {
    _permit: OwnedSemaphorePermit,
    /// Its part of the caller's share.
    _share: Option<OwnedSemaphorePermit>,
}

/// A permit that is being waited for.
type Waiting = Pin<Box<dyn Future<Output = Result<BudgetPermit, AcquireError>> + Send>>;

/// The request of one connection for a permit. Dropping it gives up its turn.
///
/// Every connection has two, so that it is small: what few of them need is boxed.
#[derive(Default)]
pub(super) enum BudgetRequest {
    /// There is none.
    #[default]
    None,
    /// The budget has no room yet.
    Waiting(Waiting),
    /// The permit can be taken.
    Granted(Box<BudgetPermit>),
}

impl BudgetRequest {
    /// A permit for `bytes`, if the budget has room for them now. Otherwise [`BudgetRequest::poll_granted`] is ready
    /// when it has: requests are granted in their order.
    pub(super) fn permit(&mut self, budget: &HoldBudget, bytes: usize) -> Option<BudgetPermit> {
        if let Some(permit) = self.take_granted().or_else(|| budget.try_permit(bytes)) {
            return Some(permit);
        }
        let kib = kib(bytes);
        let all = Arc::clone(&budget.requests);
        let waiting = async move { Ok(BudgetPermit { _permit: all.acquire_many_owned(kib).await?, _share: None }) };
        *self = Self::Waiting(Box::pin(waiting));
        None
    }

    /// The same for a reply. It waits for the caller's share first: the other callers do not wait for that.
    pub(super) fn reply_permit(&mut self, share: ReplyShare, bytes: usize) -> Option<BudgetPermit> {
        if let Some(permit) = self.take_granted() {
            return Some(permit);
        }
        let kib = kib(bytes);
        let ReplyShare { own, all } = share;
        if let Ok(share) = Arc::clone(&own).try_acquire_many_owned(kib)
            && let Ok(permit) = Arc::clone(&all).try_acquire_many_owned(kib)
        {
            return Some(BudgetPermit { _permit: permit, _share: Some(share) });
        }
        *self = Self::Waiting(Box::pin(async move {
            let share = own.acquire_many_owned(kib).await?;
            Ok(BudgetPermit { _permit: all.acquire_many_owned(kib).await?, _share: Some(share) })
        }));
        None
    }

    fn take_granted(&mut self) -> Option<BudgetPermit> {
        match std::mem::take(self) {
            Self::Granted(permit) => Some(*permit),
            Self::None | Self::Waiting(_) => None,
        }
    }

    /// Gives back a permit that was granted and is not needed.
    pub(super) fn return_granted(&mut self) {
        drop(self.take_granted());
    }

    /// Whether the connection waits for a permit.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// Whether the permit has just been granted: [`BudgetRequest::permit`] returns it now.
    #[inline]
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        // Asked in every turn of every connection, and few connections wait.
        self.is_waiting() && self.poll_waiting(cx)
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let Self::Waiting(waiting) = self else { return false };
        let Poll::Ready(permit) = waiting.as_mut().poll(cx) else { return false };
        *self = permit.map_or_else(|_| Self::None, |permit| Self::Granted(Box::new(permit)));
        true
    }
}

/// Permits are counted in KiB.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_holds_its_share_does_not_delay_another() {
        let (budget, one, other) = (HoldBudget::default(), Arc::from("one"), Arc::from("other"));
        let share = REPLY_SHARE_KIB * 1024;
        let held = BudgetRequest::default().reply_permit(budget.reply_share(&one), share).unwrap();
        let mut waiting = BudgetRequest::default();
        assert!(waiting.reply_permit(budget.reply_share(&one), 1).is_none() && waiting.is_waiting());
        assert!(BudgetRequest::default().reply_permit(budget.reply_share(&other), share).is_some());
        assert_eq!(budget.shares(), 1);
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert!(!waiting.poll_granted(cx));
        drop(held);
        assert!(waiting.poll_granted(cx));
        waiting.return_granted();
        assert_eq!(budget.shares(), 0);
        drop(budget.take_everything_for_replies());
    }

    #[test]
    fn the_callers_together_do_not_exceed_the_budget() {
        let budget = HoldBudget::default();
        let share = REPLY_SHARE_KIB * 1024;
        let ask = |caller: &str| {
            let mut request = BudgetRequest::default();
            let permit = request.reply_permit(budget.reply_share(&Arc::from(caller)), share);
            (request, permit)
        };
        let _held = [ask("a"), ask("b")].map(|(_, permit)| permit.unwrap());
        let (request, permit) = ask("c");
        assert!(permit.is_none() && request.is_waiting());
        drop(budget.take_everything());
    }
}
