//! Assigns the addresses of a listener to the members of a set.
//!
//! Applications, firewalls and people rely on addresses. A member therefore keeps its address as long as it is in the
//! set. Members that are learned at the same time are assigned in the order of their names, so that two gateways agree.

use std::sync::Arc;

use super::member_name::MemberName;

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
}

#[derive(Debug)]
struct SlotState {
    slot: Slot,
    holder: Option<MemberName>,
    /// The last member that had the address.
    former: Option<MemberName>,
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
    /// Starts with unassigned addresses.
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
        Self { slots: slots.into_iter().map(|slot| SlotState { slot, holder: None, former: None }).collect() }
    }

    /// Assigns an address to each of `members`, until there are no more addresses.
    ///
    /// A member keeps its address. A member that returns gets its former address if that is free. A new member gets the
    /// first address that no member has had, or else the first free one. A reserved address is used for its member
    /// only, and that member gets no other address.
    pub fn assign(&mut self, members: &[MemberName]) -> Assigned {
        let mut members = members.to_vec();
        members.sort();
        members.dedup();
        for state in &mut self.slots {
            state.holder.take_if(|holder| !members.contains(holder));
        }
        // All members with a stronger claim are served before members that take any free address.
        let claims: [fn(&SlotState, &MemberName) -> bool; 4] = [
            |state, member| state.slot.reserved_for.as_ref() == Some(member),
            |state, member| state.is_for_any() && state.former.as_ref() == Some(member),
            |state, _| state.is_for_any() && state.former.is_none(),
            |state, _| state.is_for_any(),
        ];
        for claim in claims {
            for member in &members {
                if self.has_address(member) {
                    continue;
                }
                let free = self.slots.iter_mut().find(|state| state.holder.is_none() && claim(state, member));
                if let Some(state) = free {
                    state.holder = Some(member.clone());
                    state.former = Some(member.clone());
                }
            }
        }
        members.retain(|member| !self.has_address(member));
        Assigned { map: self.map(), left_out: members }
    }

    /// The current assignment.
    pub fn map(&self) -> MemberMap {
        let assigned = |(slot, state): (usize, &SlotState)| {
            let advertised = Arc::clone(&state.slot.advertised);
            state.holder.clone().map(|member| MappedMember { member, advertised, slot })
        };
        MemberMap { entries: self.slots.iter().enumerate().filter_map(assigned).collect() }
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

impl SlotState {
    fn is_for_any(&self) -> bool {
        self.slot.reserved_for.is_none()
    }
}

/// A snapshot of the members and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberMap {
    /// In the order of the addresses.
    entries: Vec<MappedMember>,
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

    /// The member that has the address with this index, from 0.
    pub fn member_at(&self, slot: usize) -> Option<&MemberName> {
        self.entries.iter().find(|entry| entry.slot == slot).map(|entry| &entry.member)
    }

    /// Address index, member and advertised address, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &MemberName, &str)> {
        self.entries.iter().map(|entry| (entry.slot, &entry.member, &*entry.advertised))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str) -> MemberName {
        format!("{host}:27017").parse().unwrap()
    }

    fn slots(reserved: &[Option<&str>]) -> Slots {
        Slots::new(
            reserved.iter().enumerate().map(|(index, host)| Slot {
                advertised: format!("gateway:{index}").into(),
                reserved_for: host.map(name),
            }),
        )
    }

    /// Assigns the hosts of `members` and returns the assignment: `a b - c +d`, where `d` has no address.
    fn assign(slots: &mut Slots, members: &str) -> String {
        let members: Vec<MemberName> = members.split_whitespace().map(name).collect();
        let Assigned { map, left_out } = slots.assign(&members);
        let host = |slot| map.member_at(slot).map_or("-", MemberName::host);
        let mut hosts: Vec<String> = (0..slots.len()).map(|slot| host(slot).to_owned()).collect();
        hosts.extend(left_out.iter().map(|member| format!("+{}", member.host())));
        hosts.join(" ")
    }

    #[test]
    fn new_members_are_assigned_by_name_and_keep_their_address() {
        let mut slots = slots(&[None; 4]);
        assert_eq!(assign(&mut slots, ""), "- - - -");
        assert_eq!(assign(&mut slots, "c b d"), "b c d -");
        assert_eq!(assign(&mut slots, "a b c d"), "b c d a");
        assert_eq!(assign(&mut slots, "d d c a"), "- c d a");
        assert_eq!(assign(&mut slots, "e c d a"), "e c d a");
        assert_eq!(assign(&mut slots, "b e c d a"), "e c d a +b");
    }

    #[test]
    fn a_used_address_is_assigned_to_another_member_only_if_there_is_no_unused_one() {
        let mut slots = slots(&[None; 4]);
        assert_eq!(assign(&mut slots, "a b c"), "a b c -");
        assert_eq!(assign(&mut slots, "b c"), "- b c -");
        assert_eq!(assign(&mut slots, "b c d"), "- b c d");
        // `a` was away, and its address is still free.
        assert_eq!(assign(&mut slots, "0 a b c d"), "a b c d +0");
        assert_eq!(assign(&mut slots, "b d e f"), "e b f d");
    }

    #[test]
    fn a_reserved_address_is_for_its_member_only() {
        let mut slots = slots(&[Some("b"), None, Some("x")]);
        assert_eq!(assign(&mut slots, "a b c"), "b a - +c");
        assert_eq!(assign(&mut slots, "b c"), "b c -");
        assert_eq!(assign(&mut slots, "a c x"), "- c x +a");
    }

    #[test]
    fn a_name_is_found_in_upper_and_lower_case() {
        let mut slots = slots(&[None; 2]);
        let map = slots.assign(&[name("mongo-a"), name("mongo-b")]).map;
        assert_eq!(map.advertised(b"Mongo-B:27017"), Some("gateway:1"));
        for other in ["mongo-b", "mongo-b:27018", "xmongo-b:27017", "gateway:1", ""] {
            assert_eq!(map.advertised(other.as_bytes()), None, "{other}");
        }
        assert_eq!(map.iter().map(|(slot, member, _)| (slot, member.host())).last(), Some((1, "mongo-b")));
        assert_eq!((map.member_at(2), slots.map()), (None, map.clone()));
    }
}
