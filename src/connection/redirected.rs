//! Which member a redirected connection was on its way to, told by the address that it was for.
//!
//! Such an address is only compared: the connection that is made goes to the member by its name, to whatever address that
//! has now. So no client can have the gateway connect to an address of its choice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::roster::Roster;
use super::upstream::Member;
use crate::config::HostPort;

/// How long addresses are believed; a member that has moved is found at its new one after that.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Between two looks at the name service for an address that no member has: clients must not make us ask without end.
const PAUSE: Duration = Duration::from_secs(1);

/// The addresses that the members of an upstream have, as this host resolves their names.
#[derive(Default)]
pub struct AddressBook {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    entries: Vec<Entry>,
    looked_up: Option<Instant>,
}

/// A member and its addresses.
type Entry = (HostPort, Vec<SocketAddr>);

impl AddressBook {
    /// The member of `roster` that has the address `original`; looks names up where that is due, until half of the time to
    /// `deadline` is over. Cancel safe.
    pub(super) async fn member_at(
        &self,
        original: SocketAddr,
        roster: &Roster,
        deadline: Instant,
    ) -> Option<Arc<Member>> {
        let mut known = timeout_at(deadline, self.known.lock()).await.ok()?;
        if known.is_due(original, roster) {
            known.look_up(roster, deadline).await;
        }
        named_at(&known.entries, original).and_then(|name| roster.named(name)).cloned()
    }
}

impl Known {
    fn is_due(&self, original: SocketAddr, roster: &Roster) -> bool {
        let Some(looked_up) = self.looked_up else { return true };
        let lacks = |name: &HostPort| !self.entries.iter().any(|(known, _)| known == name);
        let found = named_at(&self.entries, original).and_then(|name| roster.named(name));
        let patience = if found.is_some() { KNOWN_FOR } else { PAUSE };
        looked_up.elapsed() >= patience || roster.members.iter().any(|listed| lacks(&listed.member.address))
    }

    /// Who cannot be looked up keeps the addresses that he had.
    async fn look_up(&mut self, roster: &Roster, deadline: Instant) {
        let now = Instant::now();
        let half = now + deadline.saturating_duration_since(now) / 2;
        for listed in &roster.members {
            let name = &listed.member.address;
            let Some(line) = listed.member.lines.first() else { continue };
            let found = timeout_at(half, line.connector.resolve(half)).await;
            match (found, self.entries.iter_mut().find(|(known, _)| known == name)) {
                (Ok(Ok(addresses)), Some(entry)) => entry.1 = addresses,
                (Ok(Ok(addresses)), None) => self.entries.push((name.clone(), addresses)),
                (_, Some(_)) => {}
                // So that it is not asked for with every client.
                (_, None) => self.entries.push((name.clone(), Vec::new())),
            }
        }
        self.entries.retain(|(known, _)| roster.members.iter().any(|listed| listed.member.address == *known));
        self.looked_up = Some(Instant::now());
    }
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
}
