//! The addresses of a listener, and the replica set member or mongos that each one stands for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::member::Member;
use super::membership::Membership;
use super::select_error::SelectError;
use crate::config::MemberAddresses;
use crate::topology::{MemberMap, MemberName, Slot, Slots};
use crate::upstream::{host_port, member_name};

/// The addresses of a listener, and the members that they stand for.
pub struct SlotMap {
    slots: Mutex<Slots>,
    /// The current assignment, shared with the connections.
    names: Arc<ArcSwap<MemberMap>>,
    /// The `host:port` under which clients know each address.
    advertised: Vec<Arc<str>>,
}

impl SlotMap {
    /// For a listener that is bound to `addresses`, in the order of the slots of `members`.
    pub fn new(members: &MemberAddresses, addresses: &[SocketAddr]) -> Self {
        let advertised: Vec<Arc<str>> = addresses.iter().map(|address| members.advertised(*address).into()).collect();
        let reserved = members.slots.iter().map(|slot| slot.member.as_ref().and_then(member_name));
        let slots = advertised.iter().zip(reserved);
        let slots = slots.map(|(advertised, member)| Slot { advertised: Arc::clone(advertised), reserved_for: member });
        let slots = Mutex::new(Slots::new(slots));
        Self { slots, names: Arc::default(), advertised }
    }

    /// Assigns addresses to the members, and returns the members for which there is none.
    pub(super) fn assign(&self, members: &[MemberName]) -> Vec<MemberName> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let assigned = slots.assign(members);
        self.names.store(Arc::new(assigned.map));
        assigned.left_out
    }

    /// The advertised form of each address, and its member.
    pub fn assignments(&self) -> Vec<(Arc<str>, Option<MemberName>)> {
        let names = self.names.load();
        let assignment =
            |(slot, advertised): (usize, &Arc<str>)| (Arc::clone(advertised), names.member_at(slot).cloned());
        self.advertised.iter().enumerate().map(assignment).collect()
    }

    /// The names under which clients know the members; follows each new assignment.
    pub fn names(&self) -> &Arc<ArcSwap<MemberMap>> {
        &self.names
    }

    /// The `host:port` under which clients know the address of this slot.
    pub fn advertised(&self, slot: usize) -> Arc<str> {
        self.advertised.get(slot).cloned().unwrap_or_default()
    }

    /// The member that the address of this slot stands for.
    pub(super) fn member<'m>(&self, slot: usize, membership: &'m Membership) -> Result<&'m Arc<Member>, SelectError> {
        let name = self.names.load().member_at(slot).map(host_port);
        let member = name.and_then(|name| membership.named(&name));
        member.ok_or_else(|| SelectError::NoMemberBehindAddress(self.advertised(slot)))
    }
}
