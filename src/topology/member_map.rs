//! Which member stands behind which gateway address.
//!
//! Applications, firewalls and people remember addresses. So a member keeps the one that it has for as long as it is in
//! the set, and what two gateways learn of the same set in one go they put in the same order: by name.

use std::sync::Arc;

use super::member_name::MemberName;

/// One gateway address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `host:port` as clients are told.
    pub advertised: Arc<str>,
    /// The only member that it is for; `None` is for any.
    pub reserved_for: Option<MemberName>,
}

/// The gateway addresses of one listener, in order, and who has which.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<SlotState>,
}

#[derive(Debug)]
struct SlotState {
    slot: Slot,
    holder: Option<MemberName>,
    /// Who had it last.
    former: Option<MemberName>,
}

/// What [`Slots::assign`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Who has which address.
    pub map: MemberMap,
    /// Members without one, sorted.
    pub left_out: Vec<MemberName>,
}

impl Slots {
    /// Addresses that nobody has yet.
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
        Self { slots: slots.into_iter().map(|slot| SlotState { slot, holder: None, former: None }).collect() }
    }

    /// Gives each of `members` an address, as far as they go.
    ///
    /// A member keeps the one that it has, and one that comes back gets its old one where that is free. A new one takes the
    /// first that nobody has had; then the first that is free. A reserved address is for its member only, and that member
    /// takes no other.
    pub fn assign(&mut self, members: &[MemberName]) -> Assigned {
        let mut members = members.to_vec();
        members.sort();
        members.dedup();
        for place in &mut self.slots {
            place.holder.take_if(|holder| !members.contains(holder));
        }
        // Whoever has a claim comes before whoever takes what is free.
        let claims: [fn(&SlotState, &MemberName) -> bool; 4] = [
            |place, member| place.slot.reserved_for.as_ref() == Some(member),
            |place, member| place.is_for_any() && place.former.as_ref() == Some(member),
            |place, _| place.is_for_any() && place.former.is_none(),
            |place, _| place.is_for_any(),
        ];
        for claim in claims {
            for member in &members {
                if self.serves(member) {
                    continue;
                }
                let free = self.slots.iter_mut().find(|place| place.holder.is_none() && claim(place, member));
                if let Some(place) = free {
                    place.holder = Some(member.clone());
                    place.former = Some(member.clone());
                }
            }
        }
        members.retain(|member| !self.serves(member));
        Assigned { map: self.map(), left_out: members }
    }

    /// Who has which address now.
    pub fn map(&self) -> MemberMap {
        let taken = |(slot, place): (usize, &SlotState)| {
            let advertised = Arc::clone(&place.slot.advertised);
            place.holder.clone().map(|member| MappedMember { member, advertised, slot })
        };
        MemberMap { entries: self.slots.iter().enumerate().filter_map(taken).collect() }
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether `member` has an address.
    fn serves(&self, member: &MemberName) -> bool {
        self.slots.iter().any(|place| place.holder.as_ref() == Some(member))
    }
}

impl SlotState {
    fn is_for_any(&self) -> bool {
        self.slot.reserved_for.is_none()
    }
}

/// Who has which gateway address, at one moment.
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
    /// What clients are told instead of `name`, which is `host:port` in any case of letters. Does not allocate.
    pub fn advertised(&self, name: &[u8]) -> Option<&str> {
        let is_meant = |entry: &&MappedMember| entry.member.as_str().as_bytes().eq_ignore_ascii_case(name);
        self.entries.iter().find(is_meant).map(|entry| &*entry.advertised)
    }

    /// The member behind an address, which is counted from 0.
    pub fn member_at(&self, slot: usize) -> Option<&MemberName> {
        self.entries.iter().find(|entry| entry.slot == slot).map(|entry| &entry.member)
    }

    /// Every member with its address, in the order of the addresses.
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

    /// Assigns the hosts of `members`, and says who has which address: `a b - c +d` with `d` left out.
    fn assign(slots: &mut Slots, members: &str) -> String {
        let members: Vec<MemberName> = members.split_whitespace().map(name).collect();
        let Assigned { map, left_out } = slots.assign(&members);
        let host = |slot| map.member_at(slot).map_or("-", MemberName::host);
        let mut told: Vec<String> = (0..slots.len()).map(|slot| host(slot).to_owned()).collect();
        told.extend(left_out.iter().map(|member| format!("+{}", member.host())));
        told.join(" ")
    }

    #[test]
    fn members_are_sorted_at_first_and_keep_their_place_then() {
        let mut slots = slots(&[None; 4]);
        assert_eq!(assign(&mut slots, ""), "- - - -");
        assert_eq!(assign(&mut slots, "c b d"), "b c d -");
        assert_eq!(assign(&mut slots, "a b c d"), "b c d a");
        assert_eq!(assign(&mut slots, "d d c a"), "- c d a");
        assert_eq!(assign(&mut slots, "e c d a"), "e c d a");
        assert_eq!(assign(&mut slots, "b e c d a"), "e c d a +b");
    }

    #[test]
    fn a_place_that_somebody_had_is_given_again_only_when_there_is_no_other() {
        let mut slots = slots(&[None; 4]);
        assert_eq!(assign(&mut slots, "a b c"), "a b c -");
        assert_eq!(assign(&mut slots, "b c"), "- b c -");
        assert_eq!(assign(&mut slots, "b c d"), "- b c d");
        // It was away, and its place is free still.
        assert_eq!(assign(&mut slots, "0 a b c d"), "a b c d +0");
        assert_eq!(assign(&mut slots, "b d e f"), "e b f d");
    }

    #[test]
    fn a_reserved_place_is_for_its_member_only() {
        let mut slots = slots(&[Some("b"), None, Some("x")]);
        assert_eq!(assign(&mut slots, "a b c"), "b a - +c");
        assert_eq!(assign(&mut slots, "b c"), "b c -");
        assert_eq!(assign(&mut slots, "a c x"), "- c x +a");
    }

    #[test]
    fn names_are_found_in_any_case_and_nothing_else_is() {
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
