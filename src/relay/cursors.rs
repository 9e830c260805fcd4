//! Which caller owns which cursor, and what the command that opened it reaches.
//!
//! All callers of one gateway may be the same MongoDB user, so that mongod lets each of them read the cursors of the
//! others. Cursor ids are random, but `currentOp` and logs show them. The gateway therefore remembers the owner of each
//! cursor. A cursor may also outlive the policy that allowed its command: the gateway remembers what that command
//! reaches, so that a newer policy can evaluate it again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::command::{KeptMeaning, Meaning, ReadOptions};

/// The weight of the cursors that are remembered. Drivers read most results in one reply, and mongod closes a cursor
/// that was not read for ten minutes.
const WEIGHT_MAX: usize = 100_000;

/// The weight of the cursors of one owner that are remembered, so that no caller can evict all cursors of the others.
const OWNER_WEIGHT_MAX: usize = 10_000;

/// What one unit of weight stands for: the memory of a cursor whose command reaches one or two collections. A command
/// that reaches hundreds of them weighs more.
const BYTES_PER_WEIGHT: usize = 1024;

/// The owners of the cursors of one upstream, shared by all its connections. It is locked shortly when a cursor is
/// opened, read or closed.
#[derive(Default)]
pub struct CursorBook {
    book: Mutex<Book>,
}

/// What a cursor remembers of the command that opens it.
#[derive(Debug)]
pub(super) struct CursorOrigin {
    pub(super) meaning: KeptMeaning,
    /// Whether the command was searched for any JavaScript, and for JavaScript that sees stored functions.
    searched: (bool, bool),
    /// The version of the policy that judged the command.
    version: u64,
}

impl CursorOrigin {
    /// The origin of a cursor of the command that means `meaning` and was read with `options`.
    pub(super) fn new(meaning: &Meaning<'_>, options: ReadOptions<'_>, version: u64) -> Self {
        Self { meaning: KeptMeaning::new(meaning), searched: searched(options), version }
    }

    /// The same as [`CursorOrigin::new`], in the memory of an origin that is no longer needed.
    pub(super) fn replace(&mut self, meaning: &Meaning<'_>, options: ReadOptions<'_>, version: u64) {
        self.meaning.replace(meaning);
        (self.searched, self.version) = (searched(options), version);
    }

    /// Whether the command is a `listCollections`.
    pub(super) fn lists_collections(&self) -> bool {
        self.meaning.command().name == "listCollections"
    }

    /// Whether everything is known of the command that reading it with `options` would find.
    pub(super) fn suffices(&self, options: ReadOptions<'_>) -> bool {
        let ((any, stored), (needs_any, needs_stored)) = (self.searched, searched(options));
        any || !needs_any && (stored || !needs_stored)
    }
}

fn searched(options: ReadOptions<'_>) -> (bool, bool) {
    (options.javascript, options.stored_functions)
}

#[derive(Default)]
struct Book {
    cursors: HashMap<i64, Cursor>,
    owners: HashMap<Arc<str>, Owner>,
    /// The owners by the weight of their cursors.
    by_weight: BTreeSet<(usize, Arc<str>)>,
    /// The weight of all cursors.
    weight: usize,
    /// The number of cursors that were added.
    added: u64,
}

struct Cursor {
    owner: Arc<str>,
    origin: Arc<CursorOrigin>,
    /// The version of the policy that judged the command last.
    version: u64,
    weight: usize,
    /// Distinguishes it from a cursor of the same id that was closed.
    number: u64,
}

#[derive(Default)]
struct Owner {
    weight: usize,
    count: usize,
    /// Id and number of the owner's cursors in the order in which they were opened; some may have been closed since.
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
    Outdated(Arc<CursorOrigin>),
    /// Another caller owns it.
    Foreign,
    /// It has no owner, or was evicted.
    Unknown,
}

impl CursorBook {
    /// Remembers that `caller` owns `id`. Evicts the oldest cursors of this caller at the caller's limit, and then the
    /// oldest of the caller with the most at the limit for all.
    pub(super) fn add(&self, id: i64, caller: &Arc<str>, origin: CursorOrigin) {
        self.with(|book| book.add(id, caller, origin));
    }

    /// Forgets a cursor that was closed.
    pub(super) fn forget(&self, id: i64) {
        self.with(|book| book.remove(id));
    }

    /// Whether `caller` owns `id` under this version of the policy.
    pub(super) fn ownership(&self, id: i64, caller: &str, version: u64) -> CursorOwnership {
        self.with(|book| match book.cursors.get(&id) {
            Some(cursor) if *cursor.owner != *caller => CursorOwnership::Foreign,
            Some(cursor) if cursor.version == version => {
                CursorOwnership::Own { lists_collections: cursor.origin.lists_collections() }
            }
            Some(cursor) => CursorOwnership::Outdated(Arc::clone(&cursor.origin)),
            None => CursorOwnership::Unknown,
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
    fn add(&mut self, id: i64, caller: &Arc<str>, origin: CursorOrigin) {
        self.remove(id);
        let weight = origin.meaning.bytes().div_ceil(BYTES_PER_WEIGHT);
        self.added += 1;
        // All cursors of an owner share its name.
        let name = self.owners.get_key_value(caller).map_or(caller, |(name, _)| name);
        let (name, number, version) = (Arc::clone(name), self.added, origin.version);
        let origin = Arc::new(origin);
        self.cursors.insert(id, Cursor { owner: Arc::clone(&name), origin, version, weight, number });
        let owner = self.owners.entry(Arc::clone(&name)).or_default();
        self.by_weight.remove(&(owner.weight, Arc::clone(&name)));
        owner.weight += weight;
        owner.count += 1;
        owner.order.push_back((id, number));
        let is_over = owner.weight > OWNER_WEIGHT_MAX;
        // Closed cursors are still in the order.
        if owner.order.len() > 2 * owner.count + 16 {
            let cursors = &self.cursors;
            owner.order.retain(|(id, number)| cursors.get(id).is_some_and(|cursor| cursor.number == *number));
        }
        self.by_weight.insert((owner.weight, Arc::clone(&name)));
        self.weight += weight;
        if is_over {
            self.evict_while(&name, |book| book.owners.get(&name).is_some_and(|owner| owner.weight > OWNER_WEIGHT_MAX));
        }
        while self.weight > WEIGHT_MAX
            && let Some((_, heaviest)) = self.by_weight.last().cloned()
        {
            let mut is_first = true;
            self.evict_while(&heaviest, |_| std::mem::take(&mut is_first));
        }
    }

    /// Evicts the oldest cursors of an owner.
    fn evict_while(&mut self, owner: &str, mut goes_on: impl FnMut(&Self) -> bool) {
        while goes_on(self) {
            let oldest = loop {
                let Some((id, number)) = self.owners.get_mut(owner).and_then(|owner| owner.order.pop_front()) else {
                    return;
                };
                if self.cursors.get(&id).is_some_and(|cursor| cursor.number == number) {
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
        self.by_weight.remove(&(owner.weight, Arc::clone(&cursor.owner)));
        owner.weight -= cursor.weight;
        owner.count -= 1;
        if owner.count == 0 {
            self.owners.remove(&cursor.owner);
        } else {
            self.by_weight.insert((owner.weight, cursor.owner));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::command;
    use crate::command::Request;

    /// What a cursor remembers of a `find` in `shop.orders`.
    pub(in crate::relay) fn origin(version: u64) -> CursorOrigin {
        origin_of(&rawdoc! { "find": "orders", "$db": "shop" }, version)
    }

    fn origin_of(body: &RawDocumentBuf, version: u64) -> CursorOrigin {
        let request = Request { body, database: None, sequences: &[] };
        let read_options = ReadOptions::default();
        CursorOrigin::new(&command::read(&request, read_options).unwrap(), read_options, version)
    }

    impl CursorBook {
        fn owns(&self, id: i64, caller: &str) -> bool {
            matches!(self.ownership(id, caller, 1), CursorOwnership::Own { .. })
        }

        /// Checks that the sums are those of the cursors, and that closed cursors take little memory.
        fn check(&self) {
            self.with(|book| {
                let mut by_owner: HashMap<&str, (usize, usize)> = HashMap::new();
                for cursor in book.cursors.values() {
                    let (weight, count) = by_owner.entry(&cursor.owner).or_default();
                    (*weight, *count) = (*weight + cursor.weight, *count + 1);
                }
                assert_eq!(book.weight, by_owner.values().map(|(weight, _)| weight).sum::<usize>());
                assert_eq!((book.owners.len(), book.by_weight.len()), (by_owner.len(), by_owner.len()));
                for (name, owner) in &book.owners {
                    assert_eq!((owner.weight, owner.count), by_owner[&**name]);
                    assert!(book.by_weight.contains(&(owner.weight, Arc::clone(name))));
                    assert!(owner.weight <= OWNER_WEIGHT_MAX && owner.order.len() <= 2 * owner.count + 17);
                }
                assert!(book.weight <= WEIGHT_MAX);
            });
        }
    }

    #[test]
    fn a_caller_owns_a_cursor_until_it_is_closed() {
        let (book, orders) = (CursorBook::default(), Arc::from("orders"));
        let ownership = |caller: &str, version| match book.ownership(7, caller, version) {
            CursorOwnership::Own { .. } => "own",
            CursorOwnership::Outdated(_) => "outdated",
            CursorOwnership::Foreign => "foreign",
            CursorOwnership::Unknown => "unknown",
        };
        assert_eq!(ownership("orders", 3), "unknown");
        book.add(7, &orders, origin(3));
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
        let (book, greedy, modest) = (CursorBook::default(), Arc::from("greedy"), Arc::from("modest"));
        book.add(-1, &modest, origin(1));
        book.add(-2, &greedy, origin(1));
        for id in 0..50_000 {
            book.add(id, &greedy, origin(1));
            book.forget(id);
        }
        book.check();
        assert!(book.owns(-1, &modest) && book.owns(-2, &greedy));
        (0..20_000).for_each(|id| book.add(id, &greedy, origin(1)));
        book.check();
        let seen = [-2, 9_999, 10_000, 19_999].map(|id| book.owns(id, &greedy));
        assert_eq!((seen, book.owns(-1, &modest)), ([false, false, true, true], true));
    }

    #[test]
    fn at_the_limit_for_all_the_owner_with_the_most_loses_its_oldest() {
        let book = CursorBook::default();
        let owners: Vec<Arc<str>> = (0..11).map(|n| Arc::from(format!("owner-{n}"))).collect();
        book.add(-1, &owners[10], origin(1));
        for (n, owner) in (0..).zip(&owners[..10]) {
            (0..10_000 - i64::from(n == 0)).for_each(|id| book.add(n * 10_000 + id, owner, origin(1)));
        }
        // All is full now.
        book.add(-2, &owners[10], origin(1));
        book.check();
        let kept = [-1, -2].map(|id| book.owns(id, &owners[10]));
        let evicted = (0..10_i64).filter(|n| !book.owns(n * 10_000, &owners[usize::try_from(*n).unwrap()])).count();
        assert_eq!((kept, evicted, book.owns(0, &owners[0])), ([true, true], 1, true));
    }

    #[test]
    fn a_cursor_that_reaches_much_weighs_more() {
        let (book, caller) = (CursorBook::default(), Arc::from("orders"));
        let stages: bson::RawArrayBuf =
            (0..500).map(|n| rawdoc! { "$unionWith": format!("{n}-{}", "x".repeat(200)) }).collect();
        let body = rawdoc! { "aggregate": "orders", "pipeline": stages, "cursor": {}, "$db": "shop" };
        (0..1000).for_each(|id| book.add(id, &caller, origin_of(&body, 1)));
        book.check();
        let count = book.with(|book| book.cursors.len());
        assert!((20..100).contains(&count), "{count}");
    }

    #[test]
    fn an_id_that_is_opened_again_is_as_old_as_its_last_opening() {
        let (book, caller) = (CursorBook::default(), Arc::from("orders"));
        book.add(-1, &caller, origin(1));
        book.forget(-1);
        (0..9_999).for_each(|id| book.add(id, &caller, origin(1)));
        book.add(-1, &caller, origin(1));
        book.add(-2, &caller, origin(1));
        book.check();
        assert_eq!([-1, -2, 0, 1].map(|id| book.owns(id, &caller)), [true, true, false, true]);
    }
}
