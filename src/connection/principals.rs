//! The principals that are connected through one listener, and their number of connections.
//!
//! Used a few times in the life of a connection, never for a message.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::identity::Identified;

/// The connected principals of a listener, and how many connections each one has.
///
/// Has at most one entry for each open connection: a principal without connections is removed.
#[derive(Debug, Default)]
pub struct ConnectedPrincipals {
    connections: Mutex<HashMap<Arc<Identified>, usize>>,
}

/// One connection of a principal, counted until this is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection {
    connected: Arc<ConnectedPrincipals>,
    identity: Arc<Identified>,
}

/// The principals with the most connections, and the totals of the others.
#[derive(Debug, PartialEq, Eq)]
pub struct LargestPrincipals {
    /// Sorted by the number of connections, the largest first.
    pub principals: Vec<(Arc<Identified>, usize)>,
    /// The number of other principals.
    pub more_principals: usize,
    /// The number of their connections.
    pub more_connections: usize,
}

impl ConnectedPrincipals {
    /// Counts one more connection of `identity`.
    pub(super) fn count(self: &Arc<Self>, identity: Identified) -> CountedConnection {
        let mut connections = self.lock();
        let known = connections.get_key_value(&identity).map(|(known, _)| Arc::clone(known));
        let identity = known.unwrap_or_else(|| Arc::new(identity));
        *connections.entry(Arc::clone(&identity)).or_default() += 1;
        drop(connections);
        CountedConnection { connected: Arc::clone(self), identity }
    }

    /// The principals with the most connections, at most `limit` of them.
    pub fn largest(&self, limit: usize) -> LargestPrincipals {
        let mut principals: Vec<_> =
            self.lock().iter().map(|(identity, count)| (Arc::clone(identity), *count)).collect();
        principals.sort_by(|(a, a_count), (b, b_count)| {
            (Reverse(a_count), a.principal.as_str()).cmp(&(Reverse(b_count), b.principal.as_str()))
        });
        let rest = principals.split_off(limit.min(principals.len()));
        let more_connections = rest.iter().map(|(_, connections)| connections).sum();
        LargestPrincipals { principals, more_principals: rest.len(), more_connections }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Identified>, usize>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountedConnection {
    /// The principal of the connection.
    pub(super) fn identity(&self) -> &Arc<Identified> {
        &self.identity
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut connections = self.connected.lock();
        if let Some(count) = connections.get_mut(&self.identity) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Principal, PrincipalSource};

    fn identity(name: &str) -> Identified {
        Identified { principal: Principal::configured(name), source: PrincipalSource::Address }
    }

    fn largest(connected: &ConnectedPrincipals, limit: usize) -> (Vec<(String, usize)>, usize, usize) {
        let LargestPrincipals { principals, more_principals, more_connections } = connected.largest(limit);
        let principals =
            principals.into_iter().map(|(identity, count)| (identity.principal.to_string(), count)).collect();
        (principals, more_principals, more_connections)
    }

    #[test]
    fn connections_are_counted_by_principal_until_they_end() {
        let connected = Arc::new(ConnectedPrincipals::default());
        let (cart, also_cart) = (connected.count(identity("td/cart")), connected.count(identity("td/cart")));
        assert!(Arc::ptr_eq(cart.identity(), also_cart.identity()), "the name is kept once");
        let _others: Vec<_> = ["td/b", "td/a", "td/c"].map(|name| connected.count(identity(name))).into();
        let named =
            |names: &[(&str, usize)]| names.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(largest(&connected, 2), (named(&[("td/cart", 2), ("td/a", 1)]), 2, 2));
        drop(cart);
        assert_eq!(largest(&connected, 1), (named(&[("td/a", 1)]), 3, 3));
        drop(also_cart);
        assert_eq!(largest(&connected, 9), (named(&[("td/a", 1), ("td/b", 1), ("td/c", 1)]), 0, 0));
    }
}
