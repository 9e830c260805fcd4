//! Assigns the addresses of a listener to the members of a set.
//!
//! Applications, firewalls and people rely on addresses. A member therefore keeps its address as long as it is in the
//! set. Members that are learned at the same time are assigned in the order of their names, so that two gateways agree.
//!
//! An address never leads nowhere while a member answers: where no member can be found, another member stands in, see
//! [`stand_in`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::candidate::{Candidate, Standing};
use super::member_name::MemberName;
use super::stand_in;

/// From this number of members on, those that have left are forgotten.
const FORMER_MAX: usize = 1024;

/// One address of a listener that can stand for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The address that clients receive, as `host:port`.
    pub advertised: Arc<str>,
    /// The only member that may have this address; `None` allows any member.
    pub reserved_for: Option<MemberName>,
}

/// The addresses of one listener, in order, and the members that they are assigned to.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<SlotState>,
    /// The index of the last address of each member, also of those that have left.
    former: BTreeMap<MemberName, usize>,
}

#[derive(Debug)]
struct SlotState {
    slot: Slot,
    holder: Option<MemberName>,
    /// Whether a member has had the address.
    was_used: bool,
    /// The member that the address leads to instead of its own.
    stand_in: Option<MemberName>,
}

/// Why a member may have an address, strongest first.
#[derive(Debug, Clone, Copy)]
enum Claim {
    /// It is reserved for the member.
    Reserved,
    /// The member had it.
    Former,
    /// Another member had it and has left.
    Left,
    /// It is free.
    Free,
}

/// The result of [`Slots::assign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The members with an address.
    pub map: MemberMap,
    /// The members without an address, sorted.
    pub left_out: Vec<MemberName>,
}

impl Slots {
    /// Starts with unassigned addresses. The first is the listener's own.
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
        let state = |slot| SlotState { slot, holder: None, was_used: false, stand_in: None };
        Self { slots: slots.into_iter().map(state).collect(), former: BTreeMap::new() }
    }

    /// Assigns an address to each of `members`, until there are no more addresses.
    ///
    /// A member keeps its address, unless it has the first one and becomes an arbiter or hidden. A member that returns
    /// gets its former address if that is free. A new member gets an address that another member has left, or else the
    /// first free one. A reserved address is used for its member only, and that member gets no other address. Arbiters
    /// and hidden members come last, and the first address is not for them unless it is reserved for one: it is the one
    /// that applications are configured with.
    pub fn assign(&mut self, members: &[Candidate]) -> Assigned {
        let mut members: Vec<&Candidate> = members.iter().collect();
        members.sort_by_key(|member| (!member.serves_clients, &member.name));
        members.dedup_by_key(|member| &member.name);
        for (index, state) in self.slots.iter_mut().enumerate() {
            let may_stay = |member: &&Candidate| {
                index > 0 || member.serves_clients || state.slot.reserved_for.as_ref() == Some(&member.name)
            };
            state.holder.take_if(|holder| !members.iter().any(|it| it.name == *holder && may_stay(it)));
        }
        // All members with a stronger claim are served before members that take any free address.
        for claim in [Claim::Reserved, Claim::Former, Claim::Left, Claim::Free] {
            for member in &members {
                self.serve(claim, member);
            }
        }
        self.forget_former();
        self.choose_stand_ins(&members);
        let mut left_out: Vec<_> = members.iter().map(|member| member.name.clone()).collect();
        left_out.retain(|member| !self.has_address(member));
        left_out.sort();
        Assigned { map: MemberMap { without_address: left_out.clone(), ..self.map() }, left_out }
    }

    /// Assigns the first free address that `member` may have with this claim, if it has none yet.
    fn serve(&mut self, claim: Claim, member: &Candidate) {
        let Candidate { name, serves_clients, .. } = member;
        if self.has_address(name) {
            return;
        }
        let former = self.former.get(name);
        let free = self.slots.iter_mut().enumerate().find(|(index, state)| {
            let is_reserved = state.slot.reserved_for.is_some();
            let is_suitable = *index > 0 || *serves_clients;
            let is_claimed = match claim {
                Claim::Reserved => state.slot.reserved_for.as_ref() == Some(name),
                Claim::Former => !is_reserved && is_suitable && former == Some(index),
                Claim::Left => !is_reserved && is_suitable && state.was_used,
                Claim::Free => !is_reserved && is_suitable,
            };
            state.holder.is_none() && is_claimed
        });
        if let Some((index, state)) = free {
            (state.holder, state.was_used) = (Some(name.clone()), true);
            self.former.insert(name.clone(), index);
        }
    }

    /// The names of pods and hosts may change without end.
    fn forget_former(&mut self) {
        if self.former.len() > FORMER_MAX {
            let holders: Vec<_> = self.slots.iter().filter_map(|state| state.holder.as_ref()).collect();
            self.former.retain(|member, _| holders.contains(&member));
        }
    }

    /// An address without a member needs a stand-in, unless it is reserved for one. The listener's own address also
    /// needs one while its member is out. The other addresses do not: a driver knows that member, and has to see that
    /// it is down.
    fn choose_stand_ins(&mut self, members: &[&Candidate]) {
        let holders: Vec<_> = self.slots.iter().filter_map(|state| state.holder.clone()).collect();
        for (index, state) in self.slots.iter_mut().enumerate() {
            let is_out =
                |holder: &MemberName| members.iter().any(|it| it.name == *holder && it.standing == Standing::Out);
            // A client of a reserved address wants that member, for example a hidden one, and no other.
            let is_for_one_member = index > 0 && state.slot.reserved_for.is_some();
            state.stand_in = match &state.holder {
                None if is_for_one_member => None,
                None => stand_in::choose(members, &holders, None, state.stand_in.as_ref()),
                Some(holder) if index == 0 && is_out(holder) => {
                    stand_in::choose(members, &holders, Some(holder), state.stand_in.as_ref())
                }
                Some(_) => None,
            };
        }
    }

    /// The current assignment, without the members that have no address.
    fn map(&self) -> MemberMap {
        let assigned = |(slot, state): (usize, &SlotState)| {
            let advertised = Arc::clone(&state.slot.advertised);
            state.holder.clone().map(|member| MappedMember { member, advertised, slot })
        };
        let stand_in = |(slot, state): (usize, &SlotState)| Some((slot, state.stand_in.clone()?));
        MemberMap {
            entries: self.slots.iter().enumerate().filter_map(assigned).collect(),
            stand_ins: self.slots.iter().enumerate().filter_map(stand_in).collect(),
            without_address: Vec::new(),
        }
    }

    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no addresses.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn has_address(&self, member: &MemberName) -> bool {
        self.slots.iter().any(|state| state.holder.as_ref() == Some(member))
    }
}

/// A snapshot of the members and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberMap {
    /// In the order of the addresses.
    entries: Vec<MappedMember>,
    /// The addresses that lead to another member than their own, with that member.
    stand_ins: Vec<(usize, MemberName)>,
    /// The members for which there is no address.
    without_address: Vec<MemberName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MappedMember {
    member: MemberName,
    advertised: Arc<str>,
    slot: usize,
}

impl MemberMap {
    /// The advertised address of the member `name`, which is `host:port` in upper or lower case. Does not allocate.
    pub fn advertised(&self, name: &[u8]) -> Option<&str> {
        let has_name = |entry: &&MappedMember| entry.member.as_str().as_bytes().eq_ignore_ascii_case(name);
        self.entries.iter().find(has_name).map(|entry| &*entry.advertised)
    }

    /// Whether there is no address for the member `name`, which is `host:port` in upper or lower case.
    pub fn has_no_address_for(&self, name: &[u8]) -> bool {
        self.without_address.iter().any(|member| member.as_str().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether a member has the advertised address `address`.
    pub fn is_assigned(&self, address: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.advertised == address)
    }

    /// The member that has the address with this index, from 0.
    pub fn member_at(&self, slot: usize) -> Option<&MemberName> {
        self.entries.iter().find(|entry| entry.slot == slot).map(|entry| &entry.member)
    }

    /// The member that the address with this index leads to instead of its own.
    pub fn stand_in_at(&self, slot: usize) -> Option<&MemberName> {
        self.stand_ins.iter().find(|(of, _)| *of == slot).map(|(_, member)| member)
    }

    /// The member that new connections to the address with this index are given.
    pub fn leads_to(&self, slot: usize) -> Option<&MemberName> {
        self.stand_in_at(slot).or_else(|| self.member_at(slot))
    }

    /// Whether a connection to `member` may stay at the address with this index: the member has the address, or stands
    /// in there, or the address leads nowhere now.
    pub fn may_stay(&self, slot: usize, member: &MemberName) -> bool {
        let leads_to = [self.member_at(slot), self.stand_in_at(slot)];
        leads_to.contains(&Some(member)) || leads_to == [None, None]
    }

    /// Address index, member and advertised address, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &MemberName, &str)> {
        self.entries.iter().map(|entry| (entry.slot, &entry.member, &*entry.advertised))
    }
}

#[cfg(test)]
mod tests;
