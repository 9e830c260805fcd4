//! The addresses of a listener, and the replica set member or mongos that each one stands for.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::member::Member;
use super::membership::Membership;
use super::select_error::SelectError;
use crate::config::{HostPort, MemberAddresses};
use crate::topology::{Candidate, MemberMap, MemberName, Slot, Slots};
use crate::upstream::{host_port, member_name};

/// The addresses of a listener, and the members that they stand for.
pub struct SlotMap {
    /// The name of the listener.
    listener: String,
    slots: Mutex<Slots>,
    /// The current assignment, shared with the connections.
    names: Arc<ArcSwap<MemberMap>>,
    /// The `host:port` under which clients know each address.
    advertised: Vec<Arc<str>>,
    /// Counts the changes of the assignment.
    changes: AtomicU64,
    /// Wakes the connections at each change.
    changed: Notify,
}

/// What one address of a listener leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAssignment {
    /// The `host:port` under which clients know the address.
    pub advertised: Arc<str>,
    /// The member that has the address.
    pub member: Option<MemberName>,
    /// The member that clients are connected to instead.
    pub stand_in: Option<MemberName>,
}

impl fmt::Display for SlotAssignment {
    /// As `127.0.0.1:27017 = mongo-0:27017`, or `127.0.0.1:27017 -> mongo-1:27017` where that member stands in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.stand_in, &self.member) {
            (Some(stand_in), _) => write!(f, "{} -> {stand_in}", self.advertised),
            (None, Some(member)) => write!(f, "{} = {member}", self.advertised),
            (None, None) => write!(f, "{} = none", self.advertised),
        }
    }
}

impl SlotMap {
    /// For the listener `listener`, which is bound to `addresses`, in the order of the slots of `members`.
    pub fn new(listener: &str, members: &MemberAddresses, addresses: &[SocketAddr]) -> Self {
        let advertised: Vec<Arc<str>> = addresses.iter().map(|address| members.advertised(*address).into()).collect();
        let reserved = members.slots.iter().map(|slot| slot.member.as_ref().and_then(member_name));
        let slots = advertised.iter().zip(reserved);
        let slots = slots.map(|(advertised, member)| Slot { advertised: Arc::clone(advertised), reserved_for: member });
        let slots = Mutex::new(Slots::new(slots));
        let listener = listener.to_owned();
        let changes = AtomicU64::new(0);
        Self { listener, slots, names: Arc::default(), advertised, changes, changed: Notify::new() }
    }

    /// The name of the listener.
    pub(super) fn listener(&self) -> &str {
        &self.listener
    }

    /// Assigns addresses to the members, and returns the members for which there is none.
    pub(super) fn assign(&self, members: &[Candidate]) -> Vec<MemberName> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let assigned = slots.assign(members);
        if **self.names.load() != assigned.map {
            self.names.store(Arc::new(assigned.map));
            self.changes.fetch_add(1, Ordering::Release);
            self.changed.notify_waiters();
        }
        assigned.left_out
    }

    /// What each address leads to.
    pub fn assignments(&self) -> Vec<SlotAssignment> {
        let names = self.names.load();
        let assignment = |(slot, advertised): (usize, &Arc<str>)| SlotAssignment {
            advertised: Arc::clone(advertised),
            member: names.member_at(slot).cloned(),
            stand_in: names.stand_in_at(slot).cloned(),
        };
        self.advertised.iter().enumerate().map(assignment).collect()
    }

    /// Resolves when the address of this slot leads to another member than `member`, and `member` does not have it
    /// either: new clients are given another one, and a driver must not mix connections to two members. Cancel safe.
    pub async fn until_elsewhere(&self, slot: usize, member: &HostPort) {
        let Some(member) = member_name(member) else { return std::future::pending().await };
        loop {
            let seen = self.changes.load(Ordering::Acquire);
            if !self.names.load().may_stay(slot, &member) {
                return;
            }
            let mut changed = pin!(self.changed.notified());
            let mut is_registered = false;
            poll_fn(|cx| {
                // Registered once: polling it again would take a lock that all connections share, at each message.
                if !is_registered {
                    is_registered = true;
                    let _ = changed.as_mut().poll(cx);
                }
                if self.changes.load(Ordering::Acquire) == seen { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }

    /// The names under which clients know the members; follows each new assignment.
    pub fn names(&self) -> &Arc<ArcSwap<MemberMap>> {
        &self.names
    }

    /// The `host:port` under which clients know the address of this slot.
    pub fn advertised(&self, slot: usize) -> Arc<str> {
        self.advertised.get(slot).cloned().unwrap_or_default()
    }

    /// The member that the address of this slot leads to.
    pub(super) fn member<'m>(&self, slot: usize, membership: &'m Membership) -> Result<&'m Arc<Member>, SelectError> {
        let name = self.names.load().leads_to(slot).map(host_port);
        let member = name.and_then(|name| membership.named(&name));
        member.ok_or_else(|| SelectError::NoMemberBehindAddress(self.advertised(slot)))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;
    use crate::config::MemberAddress;
    use crate::topology::Standing;

    fn candidate(host: &str, standing: Standing) -> Candidate {
        Candidate { name: format!("{host}:27017").parse().unwrap(), standing, serves_clients: true }
    }

    async fn is_pending(future: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
        tokio::select! {
            biased;
            () = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn connections_leave_when_their_address_leads_to_another_member() {
        let address: SocketAddr = "127.0.0.1:27017".parse().unwrap();
        let members = MemberAddresses { advertise: None, slots: vec![MemberAddress { address, member: None }] };
        let map = SlotMap::new("orders", &members, &[address]);
        let [a, b] = ["a:27017", "b:27017"].map(|name| name.parse::<HostPort>().unwrap());
        map.assign(&[candidate("a", Standing::Writable)]);
        let mut of_a = Box::pin(map.until_elsewhere(0, &a));
        assert!(is_pending(&mut of_a).await);
        map.assign(&[candidate("a", Standing::Out), candidate("b", Standing::Readable)]);
        assert_eq!(map.assignments()[0].to_string(), "127.0.0.1:27017 -> b:27017");
        let mut of_b = Box::pin(map.until_elsewhere(0, &b));
        assert!(is_pending(&mut of_a).await, "it has the address, and may be back");
        assert!(is_pending(&mut of_b).await);
        map.assign(&[candidate("a", Standing::Readable), candidate("b", Standing::Writable)]);
        assert_eq!(map.assignments()[0].to_string(), "127.0.0.1:27017 = a:27017");
        of_b.await;
        assert!(is_pending(&mut of_a).await);
        // A task that sleeps meanwhile is woken.
        let b_alone = async { drop(map.assign(&[candidate("b", Standing::Writable)])) };
        tokio::join!(of_a, b_alone);
        map.assign(&[]);
        assert_eq!(map.assignments()[0].to_string(), "127.0.0.1:27017 = none");
    }
}
