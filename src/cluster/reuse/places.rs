//! Decides which client has which place of a pool, without a lock, a socket or a clock.
//!
//! A place is the right to have one upstream connection. It is held by a client, from before its connection is made
//! until it gives the connection back, or by a parked connection. There are never more of both than the limit.
//!
//! While clients wait, every place is held: a place that becomes free goes to the client whose turn it is, so a client
//! that arrives later cannot overtake it.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::pool_key::PoolKey;
use super::wait_queue::{WaitQueue, WaiterId};
use crate::lifecycle::lease::{LeaseDemand, LeaseState};

/// Connections of one pool without a client, at most. A client that comes and goes with another name each time leaves
/// one behind each time, and a crowd that has gone needs none any longer. Each occupies a file descriptor here, and a
/// thread of mongod.
pub(super) const PARKED_MAX: usize = 256;

/// The part of the file descriptors that one pool may occupy for connections without a client.
const DESCRIPTORS_PART: u64 = 16;

/// How many connections without a client a pool may have, with this limit of file descriptors.
pub(super) fn parked_max(descriptors: Option<u64>) -> usize {
    let part = descriptors.map_or(PARKED_MAX as u64, |limit| limit / DESCRIPTORS_PART);
    usize::try_from(part).unwrap_or(PARKED_MAX).min(PARKED_MAX)
}

/// The places of one pool, with connections of type `C`.
pub(super) struct Places<C> {
    limit: usize,
    /// Connections without a client, at most.
    parked_max: usize,
    /// Whether clients that wait ask idle clients for their connections.
    recalls: bool,
    demand: Arc<LeaseDemand>,
    /// Those without a client, the one that has been parked longest first.
    parked: VecDeque<Parked<C>>,
    /// The leases of clients, by the numbers of their places.
    held: HashMap<u64, Arc<LeaseState>>,
    waiting: WaitQueue<Waiter>,
    /// The places of clients that have waited and have not noticed yet that it is their turn.
    granted: HashMap<WaiterId, Turn<C>>,
    /// The server did not answer at this time: connections that were parked before may be dead.
    suspected: Option<Instant>,
    /// Connections are parked only while there is one: it closes them in time.
    keepers: usize,
    next_place: u64,
}

/// A connection without a client.
#[derive(Debug)]
pub(super) struct Parked<C> {
    pub(super) connection: C,
    pub(super) key: PoolKey,
    pub(super) since: Instant,
}

struct Waiter {
    key: PoolKey,
    wake: Arc<Notify>,
}

/// A place that a client holds, and the connection that was in it, if the client can use it.
pub(super) struct Turn<C> {
    pub(super) place: u64,
    pub(super) lease: Arc<LeaseState>,
    pub(super) parked: Option<Parked<C>>,
}

/// What becomes of a client that needs a connection.
pub(super) enum Reserved<C> {
    /// It has a place. `evicted` is a connection that gave way and has to be closed.
    Turn { turn: Turn<C>, evicted: Option<C> },
    /// It has to wait, until `wake` is notified and [`Places::claim`] returns its place.
    Wait { id: WaiterId, wake: Arc<Notify> },
}

impl<C> Places<C> {
    pub(super) fn new(limit: usize, parked_max: usize, recalls: bool) -> Self {
        Self {
            limit,
            parked_max,
            recalls,
            demand: Arc::default(),
            parked: VecDeque::new(),
            held: HashMap::new(),
            waiting: WaitQueue::default(),
            granted: HashMap::new(),
            suspected: None,
            keepers: 0,
            next_place: 0,
        }
    }

    /// Finds a place for a client of `caller`: that of a parked connection with the same key, a free one, or that of
    /// the connection that has been parked longest. Without any, the client waits, and the client that has been idle
    /// longest is asked for its connection.
    pub(super) fn reserve(&mut self, key: &PoolKey, caller: u64) -> Reserved<C> {
        if let Some(parked) = self.take(key) {
            return Reserved::Turn { turn: self.turn(Some(parked)), evicted: None };
        }
        if self.open() >= self.limit {
            let Some(parked) = self.parked.pop_front() else { return self.wait(key, caller) };
            return Reserved::Turn { turn: self.turn(None), evicted: Some(parked.connection) };
        }
        Reserved::Turn { turn: self.turn(None), evicted: None }
    }

    /// Takes the connection with this key that was parked last, without a place for it: the caller has one already.
    pub(super) fn take(&mut self, key: &PoolKey) -> Option<Parked<C>> {
        let at = self.parked.iter().rposition(|parked| parked.key == *key)?;
        self.parked.remove(at)
    }

    /// The place of a client whose turn has come.
    pub(super) fn claim(&mut self, id: WaiterId) -> Option<Turn<C>> {
        self.granted.remove(&id)
    }

    /// A client waits no longer. If its turn has come, its place goes to the next one. Returns a connection that has to
    /// be closed.
    pub(super) fn give_up(&mut self, id: WaiterId) -> Option<C> {
        if self.waiting.remove(id).is_some() {
            self.announce_waiters();
        }
        let Turn { place, parked, .. } = self.granted.remove(&id)?;
        self.free(place, parked)
    }

    /// Ends the lease of a place, with the connection in it if that can serve another client. Returns a connection that
    /// has to be closed: no client may use it, or the client whose turn it is needs another one.
    pub(super) fn free(&mut self, place: u64, parked: Option<Parked<C>>) -> Option<C> {
        self.held.remove(&place)?;
        let Some((id, waiter)) = self.waiting.pop() else { return self.park(parked?) };
        self.announce_waiters();
        let (usable, useless) = match parked {
            Some(parked) if parked.key == waiter.key => (Some(parked), None),
            other => (None, other.map(|parked| parked.connection)),
        };
        let turn = self.turn(usable);
        self.granted.insert(id, turn);
        waiter.wake.notify_one();
        useless
    }

    fn park(&mut self, parked: Parked<C>) -> Option<C> {
        if self.keepers == 0 {
            return Some(parked.connection);
        }
        // Nearly always at the end.
        let at = self.parked.partition_point(|other| other.since <= parked.since);
        self.parked.insert(at, parked);
        if self.parked.len() <= self.parked_max {
            return None;
        }
        self.parked.pop_front().map(|oldest| oldest.connection)
    }

    fn wait(&mut self, key: &PoolKey, caller: u64) -> Reserved<C> {
        let wake = Arc::new(Notify::new());
        let id = self.waiting.push(caller, Waiter { key: key.clone(), wake: Arc::clone(&wake) });
        // Before the search: a client that becomes idle after it sees that this one waits.
        self.announce_waiters();
        self.recall(1);
        Reserved::Wait { id, wake }
    }

    /// Asks the clients for their connections that have been idle longest, one for each client that waits. A client may
    /// send a request first, so that others have to be asked from time to time.
    pub(super) fn recall_for_waiters(&self) {
        self.recall(self.waiting.len());
    }

    fn recall(&self, count: usize) {
        if !self.recalls || count == 0 {
            return;
        }
        let mut idle: Vec<_> = self.held.values().filter_map(|lease| Some((lease.idle_time()?, lease))).collect();
        if idle.len() > count {
            idle.select_nth_unstable_by_key(count - 1, |(time, _)| Reverse(*time));
        }
        for (_, lease) in idle.iter().take(count) {
            lease.recall();
        }
    }

    fn announce_waiters(&self) {
        if self.recalls {
            self.demand.set_waiting(self.waiting.len());
        }
    }

    fn turn(&mut self, parked: Option<Parked<C>>) -> Turn<C> {
        self.next_place += 1;
        let lease = Arc::new(LeaseState::new(&self.demand));
        self.held.insert(self.next_place, Arc::clone(&lease));
        Turn { place: self.next_place, lease, parked }
    }

    /// The server did not answer: connections that are parked now have to be proven before they are used.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.suspected = Some(now);
    }

    pub(super) fn is_suspect(&self, parked: &Parked<C>) -> bool {
        self.suspected.is_some_and(|at| parked.since <= at)
    }

    /// Removes the parked connections that are not to be trusted, because one that was parked at `since` did not
    /// answer: those that were parked before it, or, if it was suspect, all suspects.
    pub(super) fn take_untrusted(&mut self, since: Instant) -> Vec<Parked<C>> {
        self.take_expired(self.suspected.filter(|at| since <= *at).unwrap_or(since))
    }

    /// Removes the connections that were parked at `oldest` or before.
    pub(super) fn take_expired(&mut self, oldest: Instant) -> Vec<Parked<C>> {
        let count = self.parked.partition_point(|parked| parked.since <= oldest);
        self.parked.drain(..count).collect()
    }

    /// Removes those of `count` parked connections from index `from` on that `is_usable` rejects.
    pub(super) fn take_unusable(
        &mut self,
        from: usize,
        count: usize,
        mut is_usable: impl FnMut(&Parked<C>) -> bool,
    ) -> Vec<Parked<C>> {
        let mut unusable = Vec::new();
        for at in (from..self.parked.len().min(from + count)).rev() {
            if self.parked.get(at).is_some_and(|parked| !is_usable(parked)) {
                unusable.extend(self.parked.remove(at));
            }
        }
        unusable
    }

    /// Asks the clients for their connections that have been idle for `time`.
    pub(super) fn recall_idle(&self, time: Duration) {
        let is_due = |lease: &&Arc<LeaseState>| lease.idle_time().is_some_and(|idle| idle >= time);
        self.held.values().filter(is_due).for_each(|lease| lease.recall());
    }

    pub(super) fn add_keeper(&mut self) {
        self.keepers += 1;
    }

    /// Without a keeper no connection is parked. Returns those that have to be closed.
    pub(super) fn remove_keeper(&mut self) -> VecDeque<Parked<C>> {
        self.keepers = self.keepers.saturating_sub(1);
        if self.keepers == 0 { std::mem::take(&mut self.parked) } else { VecDeque::new() }
    }

    /// Connections without a client, places that clients hold, and clients that wait.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.parked.len(), self.held.len(), self.waiting.len())
    }

    fn open(&self) -> usize {
        self.parked.len() + self.held.len()
    }
}

#[cfg(test)]
mod tests;
