//! Who is connected through one listener, counted.
//!
//! Asked for a few times in a connection's life, never for a message.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::Identified;

/// The clients of a listener that are somebody, and how many connections each has.
///
/// Not larger than the number of open connections: who has none left is forgotten.
#[derive(Debug, Default)]
pub struct Present {
    connections: Mutex<HashMap<Arc<Identified>, usize>>,
}

/// One connection of somebody, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Presence {
    present: Arc<Present>,
    who: Arc<Identified>,
}

/// The principals with the most connections, and what is not shown of the others.
#[derive(Debug, PartialEq, Eq)]
pub struct Largest {
    /// The most connections first.
    pub principals: Vec<(Arc<Identified>, usize)>,
    /// How many principals there are beside.
    pub more_principals: usize,
    /// And their connections.
    pub more_connections: usize,
}

impl Present {
    /// Counts one more connection of `who`.
    pub(super) fn enter(self: &Arc<Self>, who: Identified) -> Presence {
        let mut connections = self.lock();
        let known = connections.get_key_value(&who).map(|(known, _)| Arc::clone(known));
        let who = known.unwrap_or_else(|| Arc::new(who));
        *connections.entry(Arc::clone(&who)).or_default() += 1;
        drop(connections);
        Presence { present: Arc::clone(self), who }
    }

    /// At most `count` of those who are connected now.
    pub fn largest(&self, count: usize) -> Largest {
        let mut principals: Vec<_> = self.lock().iter().map(|(who, count)| (Arc::clone(who), *count)).collect();
        principals.sort_by(|(a, many), (b, more)| {
            (Reverse(many), a.principal.as_str()).cmp(&(Reverse(more), b.principal.as_str()))
        });
        let rest = principals.split_off(count.min(principals.len()));
        let more_connections = rest.iter().map(|(_, connections)| connections).sum();
        Largest { principals, more_principals: rest.len(), more_connections }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Identified>, usize>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Whose connection this is.
    pub(super) fn who(&self) -> &Arc<Identified> {
        &self.who
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut connections = self.present.lock();
        if let Some(count) = connections.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Principal, PrincipalSource};

    fn somebody(name: &str) -> Identified {
        Identified { principal: Principal::configured(name), source: PrincipalSource::Address }
    }

    fn shown(present: &Present, count: usize) -> (Vec<(String, usize)>, usize, usize) {
        let Largest { principals, more_principals, more_connections } = present.largest(count);
        let principals = principals.into_iter().map(|(who, count)| (who.principal.to_string(), count)).collect();
        (principals, more_principals, more_connections)
    }

    #[test]
    fn connections_are_counted_by_principal_until_they_end() {
        let present = Arc::new(Present::default());
        let (cart, also_cart) = (present.enter(somebody("td/cart")), present.enter(somebody("td/cart")));
        assert!(Arc::ptr_eq(cart.who(), also_cart.who()), "the name is kept once");
        let _others: Vec<_> = ["td/b", "td/a", "td/c"].map(|name| present.enter(somebody(name))).into();
        let named =
            |names: &[(&str, usize)]| names.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(shown(&present, 2), (named(&[("td/cart", 2), ("td/a", 1)]), 2, 2));
        drop(cart);
        assert_eq!(shown(&present, 1), (named(&[("td/a", 1)]), 3, 3));
        drop(also_cart);
        assert_eq!(shown(&present, 9), (named(&[("td/a", 1), ("td/b", 1), ("td/c", 1)]), 0, 0));
    }
}
