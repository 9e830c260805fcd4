//! The order in which waiting clients have their turn: callers take turns, and the clients of one caller are served in
//! the order of their arrival. A caller with a thousand clients does not delay a caller with one.

use std::collections::{BTreeMap, HashMap};

/// Clients that wait. Every operation takes logarithmic time.
pub(super) struct WaitQueue<W> {
    /// The callers that have waiting clients, by their turns.
    turns: BTreeMap<u64, u64>,
    lines: HashMap<u64, Line<W>>,
    /// The next number of a waiter, or of a turn.
    next: u64,
    len: usize,
}

/// The waiting clients of one caller. Never empty.
struct Line<W> {
    turn: u64,
    /// By number, which is the order of arrival.
    waiters: BTreeMap<u64, W>,
}

/// One waiting client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct WaiterId {
    caller: u64,
    number: u64,
}

impl<W> Default for WaitQueue<W> {
    fn default() -> Self {
        Self { turns: BTreeMap::new(), lines: HashMap::new(), next: 0, len: 0 }
    }
}

impl<W> WaitQueue<W> {
    /// Adds a client of `caller`.
    pub(super) fn push(&mut self, caller: u64, waiter: W) -> WaiterId {
        let number = self.number();
        let line = self.lines.entry(caller).or_insert_with(|| {
            self.turns.insert(number, caller);
            Line { turn: number, waiters: BTreeMap::new() }
        });
        line.waiters.insert(number, waiter);
        self.len += 1;
        WaiterId { caller, number }
    }

    /// Removes the client whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(WaiterId, W)> {
        let (_, caller) = self.turns.pop_first()?;
        let turn = self.number();
        let line = self.lines.get_mut(&caller)?;
        let (number, waiter) = line.waiters.pop_first()?;
        self.len -= 1;
        if line.waiters.is_empty() {
            self.lines.remove(&caller);
        } else {
            line.turn = turn;
            self.turns.insert(turn, caller);
        }
        Some((WaiterId { caller, number }, waiter))
    }

    /// Removes a client that no longer waits; `None` if it has had its turn.
    pub(super) fn remove(&mut self, WaiterId { caller, number }: WaiterId) -> Option<W> {
        let line = self.lines.get_mut(&caller)?;
        let waiter = line.waiters.remove(&number)?;
        self.len -= 1;
        if line.waiters.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(&caller);
        }
        Some(waiter)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(queue: &mut WaitQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop()).map(|(_, waiter)| waiter).collect()
    }

    #[test]
    fn callers_take_turns_and_their_clients_come_in_order() {
        let mut queue = WaitQueue::default();
        for (caller, waiter) in [(7, "a1"), (7, "a2"), (7, "a3"), (8, "b1"), (9, "c1"), (8, "b2")] {
            queue.push(caller, waiter);
        }
        assert_eq!(queue.len(), 6);
        assert_eq!(drained(&mut queue), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!((queue.len(), queue.turns.len(), queue.lines.len()), (0, 0, 0));
    }

    #[test]
    fn a_caller_that_comes_back_is_behind_the_others() {
        let mut queue = WaitQueue::default();
        queue.push(1, "a1");
        queue.push(2, "b1");
        assert_eq!(queue.pop().map(|(_, waiter)| waiter), Some("a1"));
        queue.push(1, "a2");
        queue.push(3, "c1");
        assert_eq!(drained(&mut queue), ["b1", "a2", "c1"]);
    }

    #[test]
    fn a_client_that_leaves_takes_no_turn() {
        let mut queue = WaitQueue::default();
        let ids = [(1, "a1"), (1, "a2"), (2, "b1"), (3, "c1")].map(|(caller, waiter)| queue.push(caller, waiter));
        assert_eq!(queue.remove(ids[0]), Some("a1"));
        assert_eq!(queue.remove(ids[2]), Some("b1"));
        assert_eq!((queue.remove(ids[0]), queue.len()), (None, 2));
        assert_eq!(drained(&mut queue), ["a2", "c1"]);
        assert_eq!((queue.remove(ids[1]), queue.turns.len(), queue.lines.len()), (None, 0, 0));
    }
}
