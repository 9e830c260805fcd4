//! A caller's account with the budget: its messages ask for parts of it, wait for them, and give them back.

use std::sync::Arc;
use std::task::Context;

use super::pool::{Part, Pool, RESERVE};

/// What one caller may use of a budget. Clones are of the same caller.
#[derive(Clone)]
pub(in crate::relay) struct Account {
    pool: Arc<Pool>,
    caller: Arc<str>,
}

impl Account {
    pub(super) fn new(pool: &Arc<Pool>, caller: &Arc<str>) -> Self {
        Self { pool: Arc::clone(pool), caller: Arc::clone(caller) }
    }

    /// A permit for `bytes`; `None` where the budget has no room for them now.
    pub(in crate::relay) fn try_permit(&self, bytes: usize) -> Option<BudgetPermit> {
        self.pool.try_take(&self.caller, kib(bytes)).map(|part| self.permit(part))
    }

    fn permit(&self, part: Part) -> BudgetPermit {
        BudgetPermit { account: self.clone(), part }
    }
}

/// One message's part of the budget, which is returned on drop.
pub(in crate::relay) struct BudgetPermit {
    account: Account,
    part: Part,
}

impl BudgetPermit {
    /// The number of bytes that may be held.
    pub(in crate::relay) fn bytes(&self) -> usize {
        let reserve = if self.part.reserve { RESERVE } else { 0 };
        (self.part.shared + reserve) * 1024
    }

    /// The account that it belongs to.
    pub(in crate::relay) fn account(&self) -> &Account {
        &self.account
    }

    /// Adds another permit of the same account.
    pub(in crate::relay) fn add(&mut self, mut other: Self) {
        let part = std::mem::take(&mut other.part);
        self.part.shared += part.shared;
        self.part.reserve |= part.reserve;
    }
}

impl Drop for BudgetPermit {
    fn drop(&mut self) {
        if self.part != Part::default() {
            self.account.pool.give_back(&self.account.caller, self.part);
        }
    }
}

/// A place among those that wait. Dropping it gives up the turn.
pub(in crate::relay) struct Place {
    account: Account,
    ticket: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.pool.give_up_ticket(self.ticket);
    }
}

/// The request of one connection for a permit. Dropping it gives up its turn.
///
/// Every connection has two, so that it is small: what few of them need is boxed.
#[derive(Default)]
pub(in crate::relay) enum BudgetRequest {
    /// There is none.
    #[default]
    None,
    /// The budget has no room yet.
    Waiting(Box<Place>),
    /// The permit can be taken.
    Granted(Box<BudgetPermit>),
}

impl BudgetRequest {
    /// A permit for at least `bytes`, if the budget has room for them now. Otherwise [`BudgetRequest::poll_granted`] is
    /// ready when it has, and the same call returns the permit then.
    pub(in crate::relay) fn permit(&mut self, account: &Account, bytes: usize) -> Option<BudgetPermit> {
        match std::mem::take(self) {
            Self::Granted(permit) => return Some(*permit),
            waiting @ Self::Waiting(_) => {
                *self = waiting;
                return None;
            }
            Self::None => {}
        }
        match account.pool.take_or_wait(&account.caller, kib(bytes)) {
            Ok(part) => Some(account.permit(part)),
            Err(ticket) => {
                *self = Self::Waiting(Box::new(Place { account: account.clone(), ticket }));
                None
            }
        }
    }

    /// Gives back a permit that was granted and is not needed.
    pub(in crate::relay) fn return_granted(&mut self) {
        if matches!(self, Self::Granted(_)) {
            *self = Self::None;
        }
    }

    /// Whether the connection waits for a permit.
    pub(in crate::relay) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    /// Whether the permit has just been granted: [`BudgetRequest::permit`] returns it now.
    #[inline]
    pub(in crate::relay) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        // Asked in every turn of every connection, and few connections wait.
        self.is_waiting() && self.poll_waiting(cx)
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let Self::Waiting(place) = self else { return false };
        let Some(part) = place.account.pool.poll_ticket(place.ticket, cx.waker()) else { return false };
        *self = Self::Granted(Box::new(place.account.permit(part)));
        true
    }
}

/// Permits are counted in KiB.
fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

#[cfg(test)]
impl Account {
    pub(in crate::relay) fn take_everything(&self) -> BudgetPermit {
        self.permit(self.pool.take_everything(&self.caller))
    }

    /// What the caller may have without the reserve, in bytes.
    pub(in crate::relay) fn share_bytes(&self) -> usize {
        self.pool.share_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::HoldBudget;
    use super::*;

    const MEBIBYTE: usize = 1024 * 1024;

    fn accounts<const N: usize>(budget: &HoldBudget) -> [Account; N] {
        std::array::from_fn(|n| budget.requests(&Arc::from(n.to_string())))
    }

    fn is_granted(request: &mut BudgetRequest) -> bool {
        request.poll_granted(&mut Context::from_waker(Waker::noop()))
    }

    /// Permits of one MiB until the account waits, and the request that waits.
    fn fill(account: &Account) -> (Vec<BudgetPermit>, BudgetRequest) {
        let mut held = Vec::new();
        loop {
            let mut request = BudgetRequest::default();
            match request.permit(account, MEBIBYTE) {
                Some(permit) => held.push(permit),
                None => return (held, request),
            }
        }
    }

    #[test]
    fn a_caller_has_half_of_the_budget_at_most_and_does_not_delay_another() {
        for mebibytes in [64, 96, 128, 256, 1024] {
            let budget = HoldBudget::new(mebibytes * MEBIBYTE as u64);
            let [greedy, other] = accounts(&budget);
            let (held, mut waiting) = fill(&greedy);
            let total = held.iter().map(BudgetPermit::bytes).sum::<usize>() as u64;
            let half = budget.max_bytes() / 2;
            let small = RESERVE as u64 * 1024 + half / 2;
            assert!(total <= if mebibytes < 256 { small } else { half }, "{mebibytes}: {total}");
            assert!(other.try_permit(other.share_bytes()).is_some(), "{mebibytes}");
            assert!(!is_granted(&mut waiting));
            drop(held);
            assert!(is_granted(&mut waiting));
            waiting.return_granted();
            drop(budget.take_everything());
        }
    }

    #[test]
    fn the_reserve_lets_a_message_arrive_when_the_rest_is_full_of_beginnings() {
        let budget = HoldBudget::new(64 * MEBIBYTE as u64);
        let accounts: [Account; 4] = accounts(&budget);
        let mut beginnings: Vec<_> = accounts.iter().map(|own| own.try_permit(own.share_bytes()).unwrap()).collect();
        assert_eq!(budget.held_bytes(), 16 * MEBIBYTE as u64);
        let mut requests = accounts.each_ref().map(|_| BudgetRequest::default());
        // The first of them can go on to the end of the largest message.
        let whole = requests[0].permit(&accounts[0], MEBIBYTE).unwrap();
        assert!(whole.bytes() >= 48_000_000);
        beginnings[0].add(whole);
        for n in 1..4 {
            assert!(requests[n].permit(&accounts[n], MEBIBYTE).is_none());
        }
        // It leaves, and so do the others, one after the other.
        for n in 1..4 {
            drop(beginnings.remove(0));
            assert!(is_granted(&mut requests[n]), "{n}");
            let next = requests[n].permit(&accounts[n], MEBIBYTE).unwrap();
            beginnings[0].add(next);
        }
        drop(beginnings);
        drop(budget.take_everything());
    }

    #[test]
    fn the_reserve_goes_to_another_caller_first() {
        let budget = HoldBudget::new(256 * MEBIBYTE as u64);
        let [greedy, other] = accounts(&budget);
        let (mut held, _first_in_line) = fill(&greedy);
        let _others = other.try_permit(other.share_bytes()).unwrap();
        let mut waiting = BudgetRequest::default();
        assert!(waiting.permit(&other, MEBIBYTE).is_none());
        let reserve = held.iter().position(|permit| permit.part.reserve).unwrap();
        drop(held.remove(reserve));
        assert!(is_granted(&mut waiting));
        assert!(waiting.permit(&other, MEBIBYTE).is_some_and(|permit| permit.part.reserve));
    }

    #[test]
    fn a_place_that_is_given_up_delays_no_other() {
        let budget = HoldBudget::default();
        let everything = budget.take_everything();
        let [one, other] = accounts(&budget);
        let (mut first, mut second) = (BudgetRequest::default(), BudgetRequest::default());
        assert!(first.permit(&one, MEBIBYTE).is_none() && second.permit(&other, MEBIBYTE).is_none());
        // Asking again keeps the place.
        assert!(first.permit(&one, MEBIBYTE).is_none() && first.is_waiting());
        drop(everything);
        // It was granted, and nothing had looked.
        drop(first);
        assert!(is_granted(&mut second));
        drop(second);
        drop(budget.take_everything());
    }
}
