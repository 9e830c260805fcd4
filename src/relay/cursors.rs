//! Which caller owns which cursor, and what the command that opened it reaches.
//!
//! All callers of one gateway may be the same MongoDB user, so that mongod lets each of them read the cursors of the
//! others. Cursor ids are random, but `currentOp` and logs show them. The gateway therefore remembers the owner of each
//! cursor. A cursor may also outlive the policy that allowed its command: the gateway remembers what that command
//! reaches, so that a newer policy can evaluate it again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::relay::judged_command::JudgedCommand;

/// The total weight of the cursors that are remembered. Drivers read most results in one reply, and mongod closes a
/// cursor that was not read for ten minutes.
const WEIGHT_MAX: usize = 100_000;

/// The weight of the cursors of one owner that are remembered, so that no caller can evict all cursors of the others.
const OWNER_WEIGHT_MAX: usize = 10_000;

/// What one unit of weight stands for: the memory of a cursor whose command reaches one or two collections. A command
/// that reaches hundreds of them weighs more.
const BYTES_PER_WEIGHT: usize = 1024;

/// The caller that opens and reads cursors on one connection.
#[derive(Debug, Clone)]
pub struct CursorCaller {
    /// The listener and the principal: the same text for two connections only if both are equal.
    pub name: Arc<str>,
    /// The address of the client, if it is known.
    pub source: Option<IpAddr>,
    /// Whether the policy distinguishes callers by their address.
    pub has_sources: bool,
}

impl CursorCaller {
    /// What the caller's cursors are counted under.
    fn owner(&self) -> OwnerKey {
        (Arc::clone(&self.name), self.source.filter(|_| self.has_sources))
    }

    fn owns(&self, cursor: &Cursor) -> bool {
        let (name, _) = &cursor.owner;
        *name == self.name && (!self.has_sources || self.source == cursor.source)
    }
}

/// The name of callers, and their address if the policy distinguishes them by it.
type OwnerKey = (Arc<str>, Option<IpAddr>);

/// The owners of the cursors of one upstream, shared by all its connections. It is locked shortly when a cursor is
/// opened, read or closed.
#[derive(Default)]
pub struct CursorBook {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    cursors: HashMap<i64, Cursor>,
    owners: HashMap<OwnerKey, Owner>,
    /// The owners by the weight of their cursors.
    by_weight: BTreeSet<(usize, OwnerKey)>,
    /// The weight of all cursors.
    weight: usize,
    /// How often a cursor was opened or used.
    uses: u64,
}

struct Cursor {
    owner: OwnerKey,
    /// The address of the client that opened it.
    source: Option<IpAddr>,
    /// The command that opened it.
    command: Arc<JudgedCommand>,
    /// The version of the policy that judged the command last.
    version: u64,
    weight: usize,
    /// When it was used last, as a count of uses.
    last_use: u64,
}

#[derive(Default)]
struct Owner {
    weight: usize,
    count: usize,
    /// The id of a cursor and the count of uses, in the order of use. An entry that is not the cursor's last use is
    /// outdated.
    order: VecDeque<(i64, u64)>,
}

/// Whether a caller owns a cursor.
#[derive(Debug, Clone)]
pub(super) enum CursorOwnership {
    /// The caller owns it, and this version of the policy has allowed it.
    Own {
        /// Whether a `listCollections` has opened it.
        lists_collections: bool,
    },
    /// The caller owns it, and another version of the policy has allowed it.
    Outdated(Arc<JudgedCommand>),
    /// Another caller owns it.
    Foreign,
    /// It has no owner, or was evicted.
    Unknown,
}

impl CursorBook {
    /// Remembers that `caller` owns `id`, which `command` has opened. Evicts the cursors of this caller that were not
    /// used for the longest time at the caller's limit, and then those of the caller with the most cursors at the limit
    /// for all.
    pub(super) fn add(&self, id: i64, caller: &CursorCaller, command: JudgedCommand) {
        self.with(|book| book.add(id, caller, command));
    }

    /// Forgets a cursor that was closed.
    pub(super) fn forget(&self, id: i64) {
        self.with(|book| book.remove(id));
    }

    /// Whether `caller` owns `id` under this version of the policy. A cursor of the caller counts as used.
    pub(super) fn ownership(&self, id: i64, caller: &CursorCaller, version: u64) -> CursorOwnership {
        self.with(|book| {
            book.use_cursor(id, caller);
            match book.cursors.get(&id) {
                Some(cursor) if !caller.owns(cursor) => CursorOwnership::Foreign,
                Some(cursor) if cursor.version == version => {
                    CursorOwnership::Own { lists_collections: cursor.command.lists_collections() }
                }
                Some(cursor) => CursorOwnership::Outdated(Arc::clone(&cursor.command)),
                None => CursorOwnership::Unknown,
            }
        })
    }

    /// This version of the policy allows the command that opened `id`.
    pub(super) fn allow(&self, id: i64, version: u64) {
        self.with(|book| {
            if let Some(cursor) = book.cursors.get_mut(&id) {
                cursor.version = version;
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        work(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Book {
    fn add(&mut self, id: i64, caller: &CursorCaller, command: JudgedCommand) {
        self.remove(id);
        let weight = command.bytes().div_ceil(BYTES_PER_WEIGHT);
        self.uses += 1;
        // All cursors of an owner share its name.
        let key = caller.owner();
        let key = self.owners.get_key_value(&key).map_or(key, |(known, _)| known.clone());
        let (source, last_use, version) = (caller.source, self.uses, command.version);
        let command = Arc::new(command);
        self.cursors.insert(id, Cursor { owner: key.clone(), source, command, version, weight, last_use });
        let owner = self.owners.entry(key.clone()).or_default();
        self.by_weight.remove(&(owner.weight, key.clone()));
        owner.weight += weight;
        owner.count += 1;
        owner.push_use(id, last_use, &self.cursors);
        let is_over = owner.weight > OWNER_WEIGHT_MAX;
        self.by_weight.insert((owner.weight, key.clone()));
        self.weight += weight;
        if is_over {
            self.evict_while(&key, |book| book.owners.get(&key).is_some_and(|owner| owner.weight > OWNER_WEIGHT_MAX));
        }
        while self.weight > WEIGHT_MAX
            && let Some((_, heaviest)) = self.by_weight.last().cloned()
        {
            let mut is_first = true;
            self.evict_while(&heaviest, |_| std::mem::take(&mut is_first));
        }
    }

    fn use_cursor(&mut self, id: i64, caller: &CursorCaller) {
        let Some(cursor) = self.cursors.get_mut(&id).filter(|cursor| caller.owns(cursor)) else { return };
        self.uses += 1;
        cursor.last_use = self.uses;
        if let Some(owner) = self.owners.get_mut(&cursor.owner) {
            owner.push_use(id, self.uses, &self.cursors);
        }
    }

    /// Evicts the cursors of an owner that were not used for the longest time.
    fn evict_while(&mut self, owner: &OwnerKey, mut goes_on: impl FnMut(&Self) -> bool) {
        while goes_on(self) {
            let oldest = loop {
                let Some((id, last_use)) = self.owners.get_mut(owner).and_then(|owner| owner.order.pop_front()) else {
                    return;
                };
                if self.cursors.get(&id).is_some_and(|cursor| cursor.last_use == last_use) {
                    break id;
                }
            };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: i64) {
        let Some(cursor) = self.cursors.remove(&id) else { return };
        self.weight -= cursor.weight;
        let Some(owner) = self.owners.get_mut(&cursor.owner) else { return };
        self.by_weight.remove(&(owner.weight, cursor.owner.clone()));
        owner.weight -= cursor.weight;
        owner.count -= 1;
        if owner.count == 0 {
            self.owners.remove(&cursor.owner);
        } else {
            self.by_weight.insert((owner.weight, cursor.owner));
        }
    }
}

impl Owner {
    fn push_use(&mut self, id: i64, last_use: u64, cursors: &HashMap<i64, Cursor>) {
        self.order.push_back((id, last_use));
        if self.order.len() > 2 * self.count + 16 {
            self.order.retain(|(id, last_use)| cursors.get(id).is_some_and(|cursor| cursor.last_use == *last_use));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::relay::judged_command::tests::judged;

    /// A `find` in `shop.orders`.
    pub(in crate::relay) fn find(version: u64) -> JudgedCommand {
        judged(&rawdoc! { "find": "orders", "$db": "shop" }, version)
    }

    /// A caller that no address distinguishes.
    pub(in crate::relay) fn caller(name: &str) -> CursorCaller {
        CursorCaller { name: Arc::from(name), source: None, has_sources: false }
    }

    impl CursorBook {
        fn owns(&self, id: i64, caller: &CursorCaller) -> bool {
            self.with(|book| book.cursors.get(&id).is_some_and(|cursor| caller.owns(cursor)))
        }

        /// Checks that the sums are those of the cursors, and that closed cursors take little memory.
        fn check(&self) {
            self.with(|book| {
                let mut by_owner: HashMap<&OwnerKey, (usize, usize)> = HashMap::new();
                for cursor in book.cursors.values() {
                    let (weight, count) = by_owner.entry(&cursor.owner).or_default();
                    (*weight, *count) = (*weight + cursor.weight, *count + 1);
                }
                assert_eq!(book.weight, by_owner.values().map(|(weight, _)| weight).sum::<usize>());
                assert_eq!((book.owners.len(), book.by_weight.len()), (by_owner.len(), by_owner.len()));
                for (name, owner) in &book.owners {
                    assert_eq!((owner.weight, owner.count), by_owner[name]);
                    assert!(book.by_weight.contains(&(owner.weight, name.clone())));
                    assert!(owner.weight <= OWNER_WEIGHT_MAX && owner.order.len() <= 2 * owner.count + 17);
                }
                assert!(book.weight <= WEIGHT_MAX);
            });
        }
    }

    #[test]
    fn a_caller_owns_a_cursor_until_it_is_closed() {
        let (book, orders) = (CursorBook::default(), caller("orders"));
        let ownership = |name: &str, version| match book.ownership(7, &caller(name), version) {
            CursorOwnership::Own { .. } => "own",
            CursorOwnership::Outdated(_) => "outdated",
            CursorOwnership::Foreign => "foreign",
            CursorOwnership::Unknown => "unknown",
        };
        assert_eq!(ownership("orders", 3), "unknown");
        book.add(7, &orders, find(3));
        let of_each = |version| [ownership("orders", version), ownership("cart", version)];
        assert_eq!((of_each(3), of_each(4)), (["own", "foreign"], ["outdated", "foreign"]));
        book.allow(7, 4);
        assert_eq!((of_each(3), of_each(4)), (["outdated", "foreign"], ["own", "foreign"]));
        book.forget(7);
        book.allow(7, 4);
        assert_eq!(ownership("orders", 4), "unknown");
        book.check();
    }

    #[test]
    fn a_caller_evicts_its_own_cursors_and_a_closed_cursor_takes_no_memory() {
        let (book, greedy, modest) = (CursorBook::default(), caller("greedy"), caller("modest"));
        book.add(-1, &modest, find(1));
        book.add(-2, &greedy, find(1));
        for id in 0..50_000 {
            book.add(id, &greedy, find(1));
            book.forget(id);
        }
        book.check();
        assert!(book.owns(-1, &modest) && book.owns(-2, &greedy));
        (0..20_000).for_each(|id| book.add(id, &greedy, find(1)));
        book.check();
        let seen = [-2, 9_999, 10_000, 19_999].map(|id| book.owns(id, &greedy));
        assert_eq!((seen, book.owns(-1, &modest)), ([false, false, true, true], true));
    }

    #[test]
    fn at_the_limit_for_all_the_owner_with_the_most_loses_its_oldest() {
        let book = CursorBook::default();
        let owners: Vec<_> = (0..11).map(|n| caller(&format!("owner-{n}"))).collect();
        book.add(-1, &owners[10], find(1));
        for (n, owner) in (0..).zip(&owners[..10]) {
            (0..10_000 - i64::from(n == 0)).for_each(|id| book.add(n * 10_000 + id, owner, find(1)));
        }
        // All is full now.
        book.add(-2, &owners[10], find(1));
        book.check();
        let kept = [-1, -2].map(|id| book.owns(id, &owners[10]));
        let evicted = (0..10_i64).filter(|n| !book.owns(n * 10_000, &owners[usize::try_from(*n).unwrap()])).count();
        assert_eq!((kept, evicted, book.owns(0, &owners[0])), ([true, true], 1, true));
    }

    #[test]
    fn a_cursor_that_reaches_much_weighs_more() {
        let (book, caller) = (CursorBook::default(), caller("orders"));
        let stages: bson::RawArrayBuf =
            (0..500).map(|n| rawdoc! { "$unionWith": format!("{n}-{}", "x".repeat(200)) }).collect();
        let body = rawdoc! { "aggregate": "orders", "pipeline": stages, "cursor": {}, "$db": "shop" };
        (0..1000).for_each(|id| book.add(id, &caller, judged(&body, 1)));
        book.check();
        let count = book.with(|book| book.cursors.len());
        assert!((20..100).contains(&count), "{count}");
    }

    #[test]
    fn a_cursor_that_is_used_is_not_evicted() {
        let (book, cart, caller) = (CursorBook::default(), caller("cart"), caller("orders"));
        book.add(-1, &caller, find(1));
        for id in 0..50_000 {
            book.add(id, &caller, find(1));
            assert!(matches!(book.ownership(-1, &caller, 1), CursorOwnership::Own { .. }));
            // Another caller does not use it.
            assert!(matches!(book.ownership(0, &cart, 1), CursorOwnership::Foreign | CursorOwnership::Unknown));
        }
        book.check();
        assert!(book.owns(-1, &caller) && !book.owns(0, &caller));
    }

    #[test]
    fn an_id_that_is_opened_again_is_as_old_as_its_last_opening() {
        let (book, caller) = (CursorBook::default(), caller("orders"));
        book.add(-1, &caller, find(1));
        book.forget(-1);
        (0..9_999).for_each(|id| book.add(id, &caller, find(1)));
        book.add(-1, &caller, find(1));
        book.add(-2, &caller, find(1));
        book.check();
        assert_eq!([-1, -2, 0, 1].map(|id| book.owns(id, &caller)), [true, true, false, true]);
    }

    #[test]
    fn a_cursor_belongs_to_an_address_only_while_rules_distinguish_addresses() {
        let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|address| Some(address.parse().unwrap()));
        let of = |source, has_sources| CursorCaller { source, has_sources, ..caller("orders") };
        let book = CursorBook::default();
        book.add(1, &of(here, false), find(1));
        book.add(2, &of(here, true), find(1));
        for id in [1, 2] {
            let owned = [of(here, false), of(there, false), of(here, true), of(there, true), of(None, true)]
                .map(|caller| matches!(book.ownership(id, &caller, 1), CursorOwnership::Own { .. }));
            assert_eq!(owned, [true, true, true, false, false], "{id}");
        }
        book.check();
    }
}
