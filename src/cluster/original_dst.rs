//! Finds the member that a redirected connection was going to, by its original destination address (`SO_ORIGINAL_DST`).
//!
//! The address is only compared: the gateway connects to the member by its name, at whatever address that name resolves
//! to now. So a client cannot make the gateway connect to an address of the client's choice.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::member::Member;
use super::membership::Membership;
use crate::config::HostPort;

/// How long resolved addresses are valid. A member that has moved is found at its new address after this time.
const VALID_FOR: Duration = Duration::from_secs(5);

/// The minimum time between two lookups for an address that no member has: clients must not be able to cause lookups
/// without limit.
const UNKNOWN_ADDRESS_PAUSE: Duration = Duration::from_secs(1);

/// The addresses of an upstream's members, as this host resolves their names.
#[derive(Default)]
pub struct AddressBook {
    /// Locked for a few comparisons.
    resolved: Mutex<Resolved>,
    /// Held during a lookup, so that there is only one at a time.
    lookup: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Resolved {
    entries: Vec<Entry>,
    resolved_at: Option<Instant>,
}

/// A member and its addresses.
type Entry = (HostPort, Vec<SocketAddr>);

/// The lookup of one name. `None` means that it failed.
type Lookup<'a> = Pin<Box<dyn Future<Output = Option<Vec<SocketAddr>>> + Send + 'a>>;

impl AddressBook {
    /// Returns the member that has the address `original`. Resolves names if that is due, for at most half of the time
    /// to `deadline`. Cancel safe.
    ///
    /// While another connection resolves names, an earlier result is good enough: one name that does not resolve must
    /// not delay connections to other members.
    pub(super) async fn member_at(
        &self,
        original: SocketAddr,
        membership: &Membership,
        deadline: Instant,
    ) -> Option<Arc<Member>> {
        if self.resolved().is_due(original, membership) {
            let lookup = match self.lookup.try_lock() {
                Ok(lookup) => lookup,
                Err(_) if self.resolved().find(original, membership).is_some() => {
                    return self.resolved().find(original, membership).cloned();
                }
                Err(_) => timeout_at(deadline, self.lookup.lock()).await.ok()?,
            };
            // Another connection may have finished its lookup in the meantime.
            if self.resolved().is_due(original, membership) {
                let results = look_up(membership, deadline).await;
                self.resolved().update(results, membership);
            }
            drop(lookup);
        }
        self.resolved().find(original, membership).cloned()
    }

    /// The entries are consistent even after a panic.
    fn resolved(&self) -> MutexGuard<'_, Resolved> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolved {
    fn is_due(&self, original: SocketAddr, membership: &Membership) -> bool {
        let Some(resolved_at) = self.resolved_at else { return true };
        let lacks = |name: &HostPort| !self.entries.iter().any(|(known, _)| known == name);
        let valid_for = if self.find(original, membership).is_some() { VALID_FOR } else { UNKNOWN_ADDRESS_PAUSE };
        resolved_at.elapsed() >= valid_for || membership.members.iter().any(|status| lacks(&status.member.address))
    }

    fn find<'m>(&self, original: SocketAddr, membership: &'m Membership) -> Option<&'m Arc<Member>> {
        named_at(&self.entries, original).and_then(|name| membership.named(name))
    }

    /// A name that did not resolve keeps its previous addresses. If it has none, an empty entry prevents a lookup for
    /// every client.
    fn update(&mut self, results: Vec<(HostPort, Option<Vec<SocketAddr>>)>, membership: &Membership) {
        for (name, addresses) in results {
            match (addresses, self.entries.iter_mut().find(|(known, _)| *known == name)) {
                (Some(addresses), Some(entry)) => entry.1 = addresses,
                (addresses, None) => self.entries.push((name, addresses.unwrap_or_default())),
                (None, Some(_)) => {}
            }
        }
        self.entries.retain(|(known, _)| membership.members.iter().any(|status| status.member.address == *known));
        self.resolved_at = Some(Instant::now());
    }
}

/// Resolves all members concurrently, for at most half of the time to `deadline`. A name that takes longer has no
/// result.
async fn look_up(membership: &Membership, deadline: Instant) -> Vec<(HostPort, Option<Vec<SocketAddr>>)> {
    let now = Instant::now();
    let half = now + deadline.saturating_duration_since(now) / 2;
    let resolve = |member: &Arc<Member>| -> Option<Lookup<'static>> {
        let pool = Arc::clone(member.pools.first()?);
        Some(Box::pin(async move { timeout_at(half, pool.connector.resolve(half)).await.ok()?.ok() }))
    };
    let members = membership.members.iter().map(|status| &status.member);
    let mut lookups: Vec<_> = members.filter_map(|member| Some((member.address.clone(), resolve(member)?))).collect();
    let mut results = Vec::new();
    all(&mut lookups, &mut results).await;
    results
}

/// Waits for all of `lookups` and moves their results to `results`. A linear scan is enough: a set has few members.
async fn all(lookups: &mut Vec<(HostPort, Lookup<'_>)>, results: &mut Vec<(HostPort, Option<Vec<SocketAddr>>)>) {
    poll_fn(|context| {
        lookups.retain_mut(|(name, lookup)| match lookup.as_mut().poll(context) {
            Poll::Ready(addresses) => {
                results.push((name.clone(), addresses));
                false
            }
            Poll::Pending => true,
        });
        if lookups.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The first of `members` that has `address`. An IPv4 address matches its IPv6-mapped form.
fn named_at(members: &[Entry], address: SocketAddr) -> Option<&HostPort> {
    let canonical = |address: &SocketAddr| (address.ip().to_canonical(), address.port());
    let has = |entry: &&Entry| entry.1.iter().any(|known| canonical(known) == canonical(&address));
    members.iter().find(has).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, addresses: &[&str]) -> Entry {
        (name.parse().unwrap(), addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_member_is_found_by_each_of_its_addresses() {
        let members = [
            entry("mongo-0:27017", &["10.0.0.1:27017", "[2001:db8::1]:27017"]),
            entry("mongo-1:27017", &["[::ffff:10.0.0.2]:27017"]),
            entry("mongo-1:27018", &["10.0.0.2:27018"]),
            entry("mongo-9:27017", &[]),
        ];
        let check = |address: &str, expected: Option<&str>| {
            let found = named_at(&members, address.parse().unwrap()).map(ToString::to_string);
            assert_eq!(found.as_deref(), expected, "{address}");
        };
        check("10.0.0.1:27017", Some("mongo-0:27017"));
        check("[2001:db8::1]:27017", Some("mongo-0:27017"));
        check("[::ffff:10.0.0.1]:27017", Some("mongo-0:27017"));
        check("10.0.0.2:27017", Some("mongo-1:27017"));
        check("10.0.0.2:27018", Some("mongo-1:27018"));
        check("10.0.0.1:27018", None);
        check("10.0.0.3:27017", None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_lookup_does_not_delay_the_others() {
        let start = Instant::now();
        let address: SocketAddr = "10.0.0.1:27017".parse().unwrap();
        let lookup = |seconds, found: Option<SocketAddr>| -> Lookup<'static> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                found.map(|address| vec![address])
            })
        };
        let name = |name: &str| name.parse::<HostPort>().unwrap();
        let mut lookups = vec![(name("slow:1"), lookup(2, None)), (name("well:1"), lookup(1, Some(address)))];
        let mut found = Vec::new();
        all(&mut lookups, &mut found).await;
        assert_eq!(found, [(name("well:1"), Some(vec![address])), (name("slow:1"), None)]);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }
}
