//! Which caller owns which cursor.
//!
//! All callers of one gateway may be the same MongoDB user, so that mongod lets each of them read the cursors of the
//! others. Cursor ids are random, but `currentOp` and logs show them. The gateway therefore remembers the owner of each
//! cursor.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Cursors that are remembered. At the limit the oldest is evicted. Drivers read most results in one reply, and mongod
/// closes a cursor that was not read for ten minutes.
const REMEMBERED_MAX: usize = 100_000;

/// The owners of the cursors of one upstream, shared by all its connections. It is locked shortly when a cursor is
/// opened, read or closed.
#[derive(Default)]
pub struct CursorBook {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    owners: HashMap<i64, Owner>,
    /// Cursors in the order in which they were opened; some may have been closed since.
    order: VecDeque<i64>,
}

struct Owner {
    caller: Arc<str>,
    /// The version of the policy that allowed the cursor to be opened.
    version: u64,
}

/// Whether a caller owns a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CursorOwnership {
    /// The caller owns it.
    Own {
        /// The version of the policy that allowed it to be opened.
        version: u64,
    },
    /// Another caller owns it.
    Foreign,
    /// It has no owner, or its owner was evicted.
    Unknown,
}

impl CursorBook {
    /// Remembers that `caller` owns `id`, which this version of the policy has allowed to be opened.
    pub(super) fn add(&self, id: i64, caller: &Arc<str>, version: u64) {
        self.with(|book| {
            if book.owners.insert(id, Owner { caller: Arc::clone(caller), version }).is_none() {
                book.order.push_back(id);
            }
            while book.owners.len() > REMEMBERED_MAX
                && let Some(oldest) = book.order.pop_front()
            {
                book.owners.remove(&oldest);
            }
            // Closed cursors are still in the order.
            if book.order.len() > 2 * REMEMBERED_MAX {
                let Book { owners, order } = book;
                order.retain(|id| owners.contains_key(id));
            }
        });
    }

    /// Forgets a cursor that was closed.
    pub(super) fn forget(&self, id: i64) {
        self.with(|book| drop(book.owners.remove(&id)));
    }

    /// Whether `caller` owns `id`.
    pub(super) fn ownership(&self, id: i64, caller: &str) -> CursorOwnership {
        self.with(|book| match book.owners.get(&id) {
            Some(owner) if *owner.caller == *caller => CursorOwnership::Own { version: owner.version },
            Some(_) => CursorOwnership::Foreign,
            None => CursorOwnership::Unknown,
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        work(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_owns_a_cursor_until_it_is_closed() {
        let (book, orders, cart) = (CursorBook::default(), Arc::from("orders"), "cart");
        assert_eq!(book.ownership(7, &orders), CursorOwnership::Unknown);
        book.add(7, &orders, 3);
        assert_eq!(
            (book.ownership(7, &orders), book.ownership(7, cart)),
            (CursorOwnership::Own { version: 3 }, CursorOwnership::Foreign)
        );
        book.forget(7);
        assert_eq!(book.ownership(7, &orders), CursorOwnership::Unknown);
    }

    #[test]
    fn the_oldest_is_evicted_and_a_closed_cursor_takes_no_memory() {
        let (book, caller) = (CursorBook::default(), Arc::from("orders"));
        book.add(-1, &caller, 1);
        for id in 0..500_000 {
            book.add(id, &caller, 1);
            book.forget(id);
        }
        assert_eq!(book.ownership(-1, &caller), CursorOwnership::Own { version: 1 });
        assert!(book.with(|book| book.order.len()) <= 2 * REMEMBERED_MAX);
        (0..100_000).for_each(|id| book.add(id, &caller, 1));
        assert_eq!(book.ownership(-1, &caller), CursorOwnership::Unknown);
        assert_eq!(book.ownership(99_999, &caller), CursorOwnership::Own { version: 1 });
    }
}
