//! The principals that are connected through one listener, and their number of connections.
//!
//! Used a few times in the life of a connection, never for a message.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::identity::Identified;

/// The connected principals of a listener, and how many connections each one has.
///
/// Has at most one entry for each open connection: a principal without connections is removed.
#[derive(Debug, Default)]
pub struct ConnectedPrincipals {
    connections: Mutex<HashMap<Arc<Identified>, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    connections: usize,
    token: Option<TokenFacts>,
}

/// What is shown of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// The label of its issuer.
    pub issuer: String,
    /// When it expires.
    pub valid_until: SystemTime,
}

/// A connected principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectedPrincipal {
    /// Who it is.
    pub identity: Arc<Identified>,
    /// The number of its connections.
    pub connections: usize,
    /// Of its tokens the one that was shown last; `None` if it has shown none.
    pub token: Option<TokenFacts>,
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
    pub principals: Vec<ConnectedPrincipal>,
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
        connections.entry(Arc::clone(&identity)).or_default().connections += 1;
        drop(connections);
        CountedConnection { connected: Arc::clone(self), identity }
    }

    /// The principals with the most connections, at most `limit` of them.
    pub fn largest(&self, limit: usize) -> LargestPrincipals {
        let connected = |(identity, entry): (&Arc<Identified>, &Entry)| ConnectedPrincipal {
            identity: Arc::clone(identity),
            connections: entry.connections,
            token: entry.token.clone(),
        };
        let mut principals: Vec<_> = self.lock().iter().map(connected).collect();
        principals.sort_by(|a, b| {
            let names = || a.identity.principal.as_str().cmp(b.identity.principal.as_str());
            Reverse(a.connections).cmp(&Reverse(b.connections)).then_with(names)
        });
        let rest = principals.split_off(limit.min(principals.len()));
        let more_connections = rest.iter().map(|it| it.connections).sum();
        LargestPrincipals { principals, more_principals: rest.len(), more_connections }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<Identified>, Entry>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountedConnection {
    /// The client has shown this token.
    pub(super) fn set_token(&self, token: TokenFacts) {
        if let Some(entry) = self.connected.lock().get_mut(&self.identity) {
            entry.token = Some(token);
        }
    }

    /// The principal of the connection.
    pub(super) fn identity(&self) -> &Arc<Identified> {
        &self.identity
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut connections = self.connected.lock();
        if let Some(entry) = connections.get_mut(&self.identity) {
            entry.connections -= 1;
            if entry.connections == 0 {
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
        let principals = principals.into_iter().map(|it| (it.identity.principal.to_string(), it.connections)).collect();
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
