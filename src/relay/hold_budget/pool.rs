//! The bookkeeping of one budget: what is free, what each caller has, and which messages wait.
//!
//! A message reserves memory as it arrives. Several messages that have arrived in part could therefore fill the budget,
//! and none of them could go on. Two rules exclude that:
//!
//! - One [`RESERVE`], room for the largest message, is never shared out. Where the rest of the budget has no room for
//!   the next step of a message, one message at a time gets the reserve. It can then arrive whole, is judged, leaves,
//!   and returns everything that it had. A message that does not arrive loses its place by its deadline.
//! - Callers take turns, with the rest and with the reserve: a caller with many waiting messages gets no more than one
//!   with few.
//!
//! A caller's messages have a share of the rest at most: with the reserve, half of the budget, or little more than one
//! largest message where the budget is small. Another caller's messages therefore do not wait for them.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
    /// The callers that have a part of the shared rest, or wait for one.
    callers: HashMap<Arc<str>, Caller>,
    /// The callers that wait, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
}

/// What one caller has and waits for.
#[derive(Default)]
struct Caller {
    /// KiB of the shared rest.
    has: usize,
    /// The numbers of its tickets that were not granted yet. The oldest has the lowest number.
    waiting: BTreeSet<u64>,
}

/// A message that waits for its next part.
struct Ticket {
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
            turns: VecDeque::new(),
            tickets: HashMap::new(),
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
        let ticket = state.tickets.get_mut(&id)?;
        let granted = ticket.granted;
        match granted {
            Some(_) => drop(state.tickets.remove(&id)),
            None => ticket.waker = Some(waker.clone()),
        }
        granted
    }

    /// Gives up a ticket, and what it may have been granted meanwhile.
    pub(super) fn give_up_ticket(&self, id: u64) {
        let mut state = self.lock();
        let Some(Ticket { caller, granted, .. }) = state.tickets.remove(&id) else { return };
        state.stop_waiting(&caller, id);
        drop(state);
        if let Some(part) = granted {
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
        let has = self.callers.get(caller).map_or(0, |caller| caller.has);
        if kib > self.free || has + kib > share {
            return None;
        }
        self.free -= kib;
        self.callers.entry(Arc::clone(caller)).or_default().has += kib;
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
        if let Some(found) = self.callers.get_mut(caller) {
            found.has -= part.shared;
        }
        self.forget_if_unused(caller);
    }

    fn wait(&mut self, caller: &Arc<str>, kib: usize) -> u64 {
        let id = self.next_ticket;
        self.next_ticket += 1;
        let waiting = &mut self.callers.entry(Arc::clone(caller)).or_default().waiting;
        if waiting.is_empty() {
            self.turns.push_back(Arc::clone(caller));
        }
        waiting.insert(id);
        self.tickets.insert(id, Ticket { caller: Arc::clone(caller), kib, granted: None, waker: None });
        id
    }

    fn stop_waiting(&mut self, caller: &Arc<str>, id: u64) {
        let Some(found) = self.callers.get_mut(caller) else { return };
        if found.waiting.remove(&id) && found.waiting.is_empty() {
            self.turns.retain(|waiting| waiting != caller);
        }
        self.forget_if_unused(caller);
    }

    fn forget_if_unused(&mut self, caller: &Arc<str>) {
        if self.callers.get(caller).is_some_and(|caller| caller.has == 0 && caller.waiting.is_empty()) {
            self.callers.remove(caller);
        }
    }

    /// Grants what is free, one message of each caller in turn, the oldest first. Returns the tasks to wake.
    ///
    /// Costs a few look-ups for each caller that waits and for each message that is granted something.
    fn grant(&mut self, share: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        // Callers in a row that had their turn, and got nothing.
        let mut passed_over = 0;
        while self.free > 0 && passed_over < self.turns.len() {
            let Some((caller, id, kib)) = self.next_in_turn() else { break };
            match self.take_shared(&caller, kib, share) {
                Some(part) => {
                    passed_over = 0;
                    wakers.extend(self.hand_over(&caller, id, part));
                }
                None => passed_over += 1,
            }
            self.end_turn();
        }
        // A caller can have got the reserve without waiting for its turn.
        if self.reserve_is_free && self.turns.front() == self.reserve_was_of.as_ref() {
            self.end_turn();
        }
        if self.reserve_is_free
            && let Some((caller, id, _)) = self.next_in_turn()
            && let Some(part) = self.take_reserve(&caller)
        {
            wakers.extend(self.hand_over(&caller, id, part));
            self.end_turn();
        }
        wakers
    }

    /// The caller whose turn it is, and its oldest message that waits.
    fn next_in_turn(&self) -> Option<(Arc<str>, u64, usize)> {
        let caller = self.turns.front()?;
        let id = *self.callers.get(caller)?.waiting.first()?;
        Some((Arc::clone(caller), id, self.tickets.get(&id)?.kib))
    }

    /// The next caller has its turn. This one has another turn if more of its messages wait.
    fn end_turn(&mut self) {
        let Some(caller) = self.turns.pop_front() else { return };
        if self.callers.get(&caller).is_some_and(|found| !found.waiting.is_empty()) {
            self.turns.push_back(caller);
        }
    }

    fn hand_over(&mut self, caller: &Arc<str>, id: u64, part: Part) -> Option<Waker> {
        if let Some(found) = self.callers.get_mut(caller) {
            found.waiting.remove(&id);
        }
        let ticket = self.tickets.get_mut(&id)?;
        ticket.granted = Some(part);
        ticket.waker.take()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Direction;

    const MIB: usize = 1024;

    fn pool() -> Pool {
        // 64 MiB are shared, of which a caller may have a quarter.
        Pool::new(112 << 20, HeldBytes::new(Direction::ToUpstream, 0))
    }

    fn is_granted(pool: &Pool, ticket: u64) -> Option<Part> {
        pool.poll_ticket(ticket, Waker::noop())
    }

    #[test]
    fn a_caller_with_many_waiting_messages_takes_turns_with_one_that_has_few() {
        let pool = pool();
        let caller = |name: &str| Arc::<str>::from(name);
        let full: Vec<_> = ["a", "b", "c", "d"].map(caller).into();
        let parts: Vec<_> = full.iter().map(|name| pool.try_take(name, 16 * MIB).unwrap()).collect();
        let (greedy, modest, first) = (caller("greedy"), caller("modest"), caller("first"));
        let reserve = pool.take_or_wait(&first, MIB).unwrap();
        let many: Vec<_> = (0..50).map(|_| pool.take_or_wait(&greedy, MIB).unwrap_err()).collect();
        let one = pool.take_or_wait(&modest, MIB).unwrap_err();
        pool.give_back(&first, reserve);
        let reserve = is_granted(&pool, many[0]).unwrap();
        assert!(reserve.reserve && is_granted(&pool, one).is_none());
        pool.give_up_ticket(many[1]);
        pool.give_back(&greedy, reserve);
        let reserve = is_granted(&pool, one).unwrap();
        assert!(reserve.reserve, "its turn comes after one other message");
        let second = pool.take_or_wait(&modest, MIB).unwrap_err();
        pool.give_back(&full[0], parts[0]);
        assert!(is_granted(&pool, second).is_some());
        let granted: Vec<_> = many[2..].iter().filter_map(|ticket| is_granted(&pool, *ticket)).collect();
        assert_eq!(granted.len(), 15, "the rest of what is free");
        pool.give_back(&modest, reserve);
        assert_eq!(many[2..].iter().filter(|ticket| is_granted(&pool, **ticket).is_some()).count(), 1, "the reserve");
    }

    #[test]
    fn what_is_given_up_leaves_nothing_behind() {
        let pool = pool();
        let caller = Arc::<str>::from("one");
        let part = pool.try_take(&caller, 16 * MIB).unwrap();
        let reserve = pool.take_or_wait(&caller, MIB).unwrap();
        let tickets: Vec<_> = (0..9).map(|_| pool.take_or_wait(&caller, MIB).unwrap_err()).collect();
        pool.give_back(&caller, reserve);
        // One of them has the reserve by now.
        for ticket in tickets {
            pool.give_up_ticket(ticket);
        }
        pool.give_back(&caller, part);
        let state = pool.lock();
        assert!(state.callers.is_empty() && state.turns.is_empty() && state.tickets.is_empty());
        assert_eq!((state.free, state.reserve_is_free), (pool.shared, true));
    }
}
