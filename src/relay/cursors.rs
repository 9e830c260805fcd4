//! Who was given which cursor.
//!
//! Behind one gateway all callers are the same user for mongod, which therefore lets each of them read the cursors of all
//! others. Ids are random, but they can be seen in `currentOp` and in logs; so the gateway remembers to whom it gave one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Cursors that are remembered; the oldest is forgotten for the next one. Drivers read most results in one reply, and
/// mongod closes cursors that nobody reads for ten minutes.
const REMEMBERED_MAX: usize = 100_000;

/// The cursors of one upstream; shared by all its connections. Locked for a few steps, when a cursor opens, is read or ends.
#[derive(Default)]
pub struct CursorBook {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    owners: HashMap<i64, Owner>,
    /// The order in which they came; may name some that have ended since.
    order: VecDeque<i64>,
}

struct Owner {
    caller: Arc<str>,
    /// Of the policy by which the cursor was opened.
    version: u64,
}

/// What the book says of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CursorOwnership {
    /// It was given to this caller.
    Own {
        /// Of the policy by which it was opened.
        version: u64,
    },
    /// It was given to another one.
    Foreign,
    /// It was given to nobody, or that is forgotten.
    Unknown,
}

impl CursorBook {
    /// Remembers that `id` was given to `caller`, by this version of the policy.
    pub(super) fn give(&self, id: i64, caller: &Arc<str>, version: u64) {
        self.with(|book| {
            if book.owners.insert(id, Owner { caller: Arc::clone(caller), version }).is_none() {
                book.order.push_back(id);
            }
            while book.owners.len() > REMEMBERED_MAX
                && let Some(oldest) = book.order.pop_front()
            {
                book.owners.remove(&oldest);
            }
            // Cursors that have ended leave their places in the order behind.
            if book.order.len() > 2 * REMEMBERED_MAX {
                let Book { owners, order } = book;
                order.retain(|id| owners.contains_key(id));
            }
        });
    }

    /// Forgets a cursor that has ended.
    pub(super) fn forget(&self, id: i64) {
        self.with(|book| drop(book.owners.remove(&id)));
    }

    pub(super) fn standing(&self, id: i64, caller: &str) -> CursorOwnership {
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
    fn a_cursor_belongs_to_whom_it_was_given_until_it_ends() {
        let (book, orders, cart) = (CursorBook::default(), Arc::from("orders"), "cart");
        assert_eq!(book.standing(7, &orders), CursorOwnership::Unknown);
        book.give(7, &orders, 3);
        assert_eq!(
            (book.standing(7, &orders), book.standing(7, cart)),
            (CursorOwnership::Own { version: 3 }, CursorOwnership::Foreign)
        );
        book.forget(7);
        assert_eq!(book.standing(7, &orders), CursorOwnership::Unknown);
    }

    #[test]
    fn the_oldest_is_forgotten_and_what_has_ended_takes_no_room() {
        let (book, caller) = (CursorBook::default(), Arc::from("orders"));
        book.give(-1, &caller, 1);
        for id in 0..500_000 {
            book.give(id, &caller, 1);
            book.forget(id);
        }
        assert_eq!(book.standing(-1, &caller), CursorOwnership::Own { version: 1 });
        assert!(book.with(|book| book.order.len()) <= 2 * REMEMBERED_MAX);
        (0..100_000).for_each(|id| book.give(id, &caller, 1));
        assert_eq!(book.standing(-1, &caller), CursorOwnership::Unknown);
        assert_eq!(book.standing(99_999, &caller), CursorOwnership::Own { version: 1 });
    }
}
