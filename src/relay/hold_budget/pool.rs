//! The bookkeeping of one budget: what is free, what each caller has, and which messages wait.
//!
//! A message reserves memory as it arrives. Several messages that have arrived in part could therefore fill the budget,
//! and none of them could go on. Two rules exclude that:
//!
//! - One [`RESERVE`], room for the largest message, is never shared out. Where the rest of the budget has no room for
//!   the next step of a message, one message at a time gets the reserve. It can then arrive whole, is judged, leaves,
//!   and returns everything that it had. A message that does not arrive loses its place by its deadline.
//! - The reserve goes to the waiting messages in their order, but not twice in a row to one caller while another waits.
//!
//! A caller's messages have a share of the rest at most: with the reserve, half of the budget, or little more than one
//! largest message where the budget is small. Another caller's messages therefore do not wait for them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::telemetry::metrics::HeldBytes;

/// Everything here is counted in KiB. Room for the largest message: 48,000,000 bytes.
pub(super) const RESERVE: usize = 48 * 1024;

/// A part of the budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// KiB of the shared rest of the budget.
    pub(super) shared: usize,
    /// Whether it has the reserve.
    pub(super) reserve: bool,
}

/// One budget.
pub(super) struct Pool {
    /// What is shared out: everything but the reserve.
    shared: usize,
    /// What one caller may have of it.
    share: usize,
    gauge: HeldBytes,
    state: Mutex<State>,
}

struct State {
    free: usize,
    reserve_is_free: bool,
    /// The caller that had the reserve last.
    reserve_was_of: Option<Arc<str>>,
    /// What each caller has of the shared rest.
    callers: HashMap<Arc<str>, usize>,
    waiting: VecDeque<Ticket>,
    next_ticket: u64,
}

/// A message that waits for its next part.
struct Ticket {
    id: u64,
    caller: Arc<str>,
    kib: usize,
    granted: Option<Part>,
    waker: Option<Waker>,
}

impl Pool {
    /// A budget of `bytes`, which is more than the reserve.
    pub(super) fn new(bytes: u64, gauge: HeldBytes) -> Self {
        let total = usize::try_from(bytes / 1024).unwrap_or(usize::MAX);
        let shared = total.saturating_sub(RESERVE);
        let state = State {
            free: shared,
            reserve_is_free: true,
            reserve_was_of: None,
            callers: HashMap::new(),
            waiting: VecDeque::new(),
            next_ticket: 0,
        };
        let share = (total / 2).saturating_sub(RESERVE).max(shared / 4);
        Self { shared, share, gauge, state: Mutex::new(state) }
    }

    pub(super) fn max_bytes(&self) -> u64 {
        (self.shared + RESERVE) as u64 * 1024
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held(&self.lock())
    }

    /// `kib` of the shared rest, if the budget and the caller's share have room now.
    pub(super) fn try_take(&self, caller: &Arc<str>, kib: usize) -> Option<Part> {
        let mut state = self.lock();
        let part = state.take_shared(caller, kib, self.share);
        self.publish(&state);
        part
    }

    /// The same, or the reserve if it is free, which suffices for any message. Otherwise a ticket: its number.
    pub(super) fn take_or_wait(&self, caller: &Arc<str>, kib: usize) -> Result<Part, u64> {
        let mut state = self.lock();
        let part = state.take_shared(caller, kib, self.share).or_else(|| state.take_reserve(caller));
        self.publish(&state);
        part.ok_or_else(|| state.wait(caller, kib))
    }

    /// What the message with this ticket has been granted; the ticket ends then. Wakes the task later otherwise.
    pub(super) fn poll_ticket(&self, id: u64, waker: &Waker) -> Option<Part> {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|ticket| ticket.id == id)?;
        let ticket = &mut state.waiting[at];
        let granted = ticket.granted;
        match granted {
            Some(_) => drop(state.waiting.remove(at)),
            None => ticket.waker = Some(waker.clone()),
        }
        granted
    }

    /// Gives up a ticket, and what it may have been granted meanwhile.
    pub(super) fn give_up_ticket(&self, id: u64) {
        let mut state = self.lock();
        let Some(at) = state.waiting.iter().position(|ticket| ticket.id == id) else { return };
        let ticket = state.waiting.remove(at);
        drop(state);
        if let Some(Ticket { caller, granted: Some(part), .. }) = ticket {
            self.give_back(&caller, part);
        }
    }

    /// Takes a part back, and grants what has become free to those that wait.
    pub(super) fn give_back(&self, caller: &Arc<str>, part: Part) {
        let mut state = self.lock();
        state.put_back(caller, part);
        let wakers = state.grant(self.share);
        self.publish(&state);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn held(&self, state: &State) -> u64 {
        let reserve = if state.reserve_is_free { 0 } else { RESERVE };
        (self.shared - state.free + reserve) as u64 * 1024
    }

    fn publish(&self, state: &State) {
        self.gauge.set(self.held(state));
    }

    /// No code that can panic runs while the lock is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_shared(&mut self, caller: &Arc<str>, kib: usize, share: usize) -> Option<Part> {
        let has = self.callers.get(caller).copied().unwrap_or_default();
        if kib > self.free || has + kib > share {
            return None;
        }
        self.free -= kib;
        self.callers.insert(Arc::clone(caller), has + kib);
        Some(Part { shared: kib, reserve: false })
    }

    fn take_reserve(&mut self, caller: &Arc<str>) -> Option<Part> {
        if !std::mem::take(&mut self.reserve_is_free) {
            return None;
        }
        self.reserve_was_of = Some(Arc::clone(caller));
        Some(Part { shared: 0, reserve: true })
    }

    fn put_back(&mut self, caller: &Arc<str>, part: Part) {
        self.free += part.shared;
        self.reserve_is_free |= part.reserve;
        if let Some(has) = self.callers.get_mut(caller) {
            *has -= part.shared;
            if *has == 0 {
                self.callers.remove(caller);
            }
        }
    }

    fn wait(&mut self, caller: &Arc<str>, kib: usize) -> u64 {
        let id = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back(Ticket { id, caller: Arc::clone(caller), kib, granted: None, waker: None });
        id
    }

    /// Grants what is free, in the order of the tickets. Returns the tasks to wake.
    fn grant(&mut self, share: usize) -> Vec<Waker> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut wakers = Vec::new();
        let mut grant = |ticket: &mut Ticket, part| {
            ticket.granted = Some(part);
            wakers.extend(ticket.waker.take());
        };
        for ticket in waiting.iter_mut().filter(|ticket| ticket.granted.is_none()) {
            if self.free == 0 {
                break;
            }
            if let Some(part) = self.take_shared(&ticket.caller, ticket.kib, share) {
                grant(ticket, part);
            }
        }
        if self.reserve_is_free {
            let is_waiting = |ticket: &&mut Ticket| ticket.granted.is_none();
            let last = self.reserve_was_of.clone();
            let other = waiting.iter_mut().filter(is_waiting).position(|ticket| Some(&ticket.caller) != last.as_ref());
            let next = waiting.iter_mut().filter(is_waiting).nth(other.unwrap_or_default());
            if let Some(ticket) = next
                && let Some(part) = self.take_reserve(&ticket.caller)
            {
                grant(ticket, part);
            }
        }
        self.waiting = waiting;
        wakers
    }
}

#[cfg(test)]
impl Pool {
    /// Everything, if nothing is held.
    pub(super) fn take_everything(&self, caller: &Arc<str>) -> Part {
        let mut state = self.lock();
        assert_eq!((state.free, state.reserve_is_free), (self.shared, true), "something is held");
        state.take_reserve(caller).unwrap();
        Part { reserve: true, ..state.take_shared(caller, self.shared, usize::MAX).unwrap() }
    }

    /// What one caller may have without the reserve, in bytes.
    pub(super) fn share_bytes(&self) -> usize {
        self.share * 1024
    }
}
