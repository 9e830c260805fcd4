//! Which address of the gateway stands for which member, of one listener.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::member_name::MemberName;

/// An address of the gateway.
#[derive(Debug, Clone)]
pub struct Slot {
    /// As clients are told it, `host:port`.
    advertised: Arc<str>,
    /// The only member that it may stand for.
    named: Option<MemberName>,
    /// Whom it stood for last.
    holder: Option<MemberName>,
}

/// The addresses of one listener, and who has which.
#[derive(Debug, Clone, Default)]
pub struct Slots(Vec<Slot>);

/// What a change of the members came to.
#[derive(Debug)]
pub struct Assigned {
    /// Who has which address now.
    pub map: MemberMap,
    /// Members for which there is none.
    pub left_out: Vec<MemberName>,
}

/// Members and their addresses at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberMap {
    advertised: BTreeMap<MemberName, Arc<str>>,
    at: Vec<Option<MemberName>>,
}

impl Slot {
    /// An address, told to clients as `advertised`; for any member, or for one only.
    pub fn new(advertised: &Arc<str>, named: Option<MemberName>) -> Self {
        Self { advertised: Arc::clone(advertised), named, holder: None }
    }
}

impl Slots {
    /// In the order in which members are given them.
    pub fn new(slots: Vec<Slot>) -> Self {
        Self(slots)
    }

    /// Gives each of `members` its address: the one that it has; or else the first that nobody ever had; or else the first
    /// of a member that has left. New members take theirs in the order of their names.
    pub fn assign(&mut self, members: &[MemberName]) -> Assigned {
        let mut waiting: Vec<&MemberName> =
            members.iter().filter(|member| !self.0.iter().any(|slot| slot.holder.as_ref() == Some(member))).collect();
        waiting.sort();
        waiting.dedup();
        let mut left_out = Vec::new();
        for member in waiting {
            let for_it = self.0.iter().position(|slot| slot.named.as_ref() == Some(member));
            let free = |slot: &Slot| slot.named.is_none() && slot.holder.is_none();
            let left =
                |slot: &Slot| slot.named.is_none() && slot.holder.as_ref().is_some_and(|held| !members.contains(held));
            let slot = for_it.or_else(|| self.0.iter().position(free)).or_else(|| self.0.iter().position(left));
            match slot.and_then(|at| self.0.get_mut(at)) {
                Some(slot) => slot.holder = Some(member.clone()),
                None => left_out.push(member.clone()),
            }
        }
        let current = |slot: &Slot| slot.holder.clone().filter(|holder| members.contains(holder));
        let at: Vec<_> = self.0.iter().map(current).collect();
        let advertised =
            self.0.iter().zip(&at).filter_map(|(slot, holder)| Some((holder.clone()?, Arc::clone(&slot.advertised))));
        Assigned { map: MemberMap { advertised: advertised.collect(), at }, left_out }
    }
}

impl MemberMap {
    /// What clients are told in the place of `member`.
    pub fn advertised(&self, member: &MemberName) -> Option<&Arc<str>> {
        self.advertised.get(member)
    }

    /// The member behind the address at `slot`.
    pub fn member_at(&self, slot: usize) -> Option<&MemberName> {
        self.at.get(slot)?.as_ref()
    }
}
