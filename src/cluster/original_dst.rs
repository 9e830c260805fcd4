//! Which member a redirected connection was on its way to, told by the address that it was for.
//!
//! Such an address is only compared: the connection that is made goes to the member by its name, to whatever address that
//! has now. So no client can have the gateway connect to an address of its choice.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::membership::Membership;
use super::upstream::Member;
use crate::config::HostPort;

/// How long addresses are believed; a member that has moved is found at its new one after that.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Between two looks at the name service for an address that no member has: clients must not make us ask without end.
const PAUSE: Duration = Duration::from_secs(1);

/// The addresses that the members of an upstream have, as this host resolves their names.
#[derive(Default)]
pub struct AddressBook {
    /// Locked for a few comparisons.
    known: Mutex<Known>,
    /// Held by whoever looks names up.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    entries: Vec<Entry>,
    looked_up: Option<Instant>,
}

/// A member and its addresses.
type Entry = (HostPort, Vec<SocketAddr>);

/// A name that is being looked up.
type Lookup<'a> = Pin<Box<dyn Future<Output = Option<Vec<SocketAddr>>> + Send + 'a>>;

impl AddressBook {
    /// The member of `roster` that has the address `original`; looks names up where that is due, until half of the time to
    /// `deadline` is over. Cancel safe.
    ///
    /// While somebody else does, what was known before is good enough: a name that cannot be looked up is no reason for
    /// connections to other members to wait.
    pub async fn member_at(&self, original: SocketAddr, roster: &Membership, deadline: Instant) -> Option<Arc<Member>> {
        if self.known().is_due(original, roster) {
            let looking = match self.looking.try_lock() {
                Ok(looking) => looking,
                Err(_) if self.known().find(original, roster).is_some() => {
                    return self.known().find(original, roster).cloned();
                }
                Err(_) => timeout_at(deadline, self.looking.lock()).await.ok()?,
            };
            if self.known().is_due(original, roster) {
                let found = look_up(roster, deadline).await;
                self.known().take(found, roster);
            }
            drop(looking);
        }
        self.known().find(original, roster).cloned()
    }

    /// Addresses are whole after a panic too.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_due(&self, original: SocketAddr, roster: &Membership) -> bool {
        let Some(looked_up) = self.looked_up else { return true };
        let lacks = |name: &HostPort| !self.entries.iter().any(|(known, _)| known == name);
        let patience = if self.find(original, roster).is_some() { KNOWN_FOR } else { PAUSE };
        looked_up.elapsed() >= patience || roster.members.iter().any(|listed| lacks(&listed.member.address))
    }

    fn find<'r>(&self, original: SocketAddr, roster: &'r Membership) -> Option<&'r Arc<Member>> {
        named_at(&self.entries, original).and_then(|name| roster.named(name))
    }

    /// Who could not be looked up keeps the addresses that he had; or has none, so that he is not asked for with every
    /// client.
    fn take(&mut self, found: Vec<(HostPort, Option<Vec<SocketAddr>>)>, roster: &Membership) {
        for (name, addresses) in found {
            match (addresses, self.entries.iter_mut().find(|(known, _)| *known == name)) {
                (Some(addresses), Some(entry)) => entry.1 = addresses,
                (addresses, None) => self.entries.push((name, addresses.unwrap_or_default())),
                (None, Some(_)) => {}
            }
        }
        self.entries.retain(|(known, _)| roster.members.iter().any(|listed| listed.member.address == *known));
        self.looked_up = Some(Instant::now());
    }
}

/// Looks up all members at one time, until half of the time to `deadline` is over; those that are not found by then have
/// nothing.
async fn look_up(roster: &Membership, deadline: Instant) -> Vec<(HostPort, Option<Vec<SocketAddr>>)> {
    let now = Instant::now();
    let half = now + deadline.saturating_duration_since(now) / 2;
    let resolve = |member: &Arc<Member>| -> Option<Lookup<'static>> {
        let line = Arc::clone(member.lines.first()?);
        Some(Box::pin(async move { timeout_at(half, line.connector.resolve(half)).await.ok()?.ok() }))
    };
    let members = roster.members.iter().map(|listed| &listed.member);
    let mut lookups: Vec<_> = members.filter_map(|member| Some((member.address.clone(), resolve(member)?))).collect();
    let mut found = Vec::new();
    all(&mut lookups, &mut found).await;
    found
}

/// Waits for all of `lookups`, each of which goes to `found` with what it came to. A set has few members.
async fn all(lookups: &mut Vec<(HostPort, Lookup<'_>)>, found: &mut Vec<(HostPort, Option<Vec<SocketAddr>>)>) {
    poll_fn(|context| {
        lookups.retain_mut(|(name, lookup)| match lookup.as_mut().poll(context) {
            Poll::Ready(addresses) => {
                found.push((name.clone(), addresses));
                false
            }
            Poll::Pending => true,
        });
        if lookups.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The first of `members` that has `address` among its own; an IPv4 address may be written as an IPv6 one.
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
    async fn a_name_that_takes_long_to_look_up_is_no_reason_for_others_to_be_found_late() {
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
