//! The names under which a set lists its members to the gateway.
//!
//! A set with split horizons has several names for each member. mongod selects the horizon by the name in the TLS
//! handshake (SNI), so that seeds under different names get different lists of the same members. Only one horizon may
//! take the addresses of listeners. It must not depend on who answers first: a horizon in which the primary answers is
//! better than one in which it does not, and among these, the one that contains the first seed in the order of names.

use std::collections::BTreeSet;

use super::hello_facts::{HelloFacts, HelloRole};
use super::member_name::MemberName;

/// The horizon in use.
#[derive(Debug, Clone)]
pub(super) struct Horizon {
    /// What it calls the members that the set lists.
    pub(super) names: BTreeSet<MemberName>,
    /// Whether the primary has answered in it since no member did.
    pub(super) is_confirmed: bool,
}

/// What becomes of the names in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are those in use, or those of a new configuration.
    Current,
    /// They replace those in use.
    Adopt,
    /// They would be better if the primary answered to them: its name among them is asked.
    Explore,
    /// The server has another name in the horizon in use.
    Ignore,
}

impl Horizon {
    /// The horizon of a reply.
    pub(super) fn of(facts: &HelloFacts) -> Self {
        Self { names: facts.listed().cloned().collect(), is_confirmed: facts.role == HelloRole::Primary }
    }

    /// Decides about the reply of `name`. `is_dead` is whether all members in this horizon are down.
    pub(super) fn judge(
        &self,
        name: &MemberName,
        facts: &HelloFacts,
        seeds: &BTreeSet<MemberName>,
        is_dead: bool,
    ) -> Verdict {
        let other = Self::of(facts);
        let is_same = other.names.is_empty()
            || self.names.contains(name)
            || facts.me.as_ref().is_some_and(|me| self.names.contains(me))
            || !self.names.is_disjoint(&other.names);
        let has_better_names = other.has_better_names_than(self, seeds);
        match (self.is_confirmed, other.is_confirmed) {
            _ if is_same => Verdict::Current,
            _ if is_dead => Verdict::Adopt,
            (false, true) => Verdict::Adopt,
            (true, true) | (false, false) if has_better_names => Verdict::Adopt,
            (true, false) if has_better_names => Verdict::Explore,
            (false, false) => Verdict::Explore,
            (true, _) => Verdict::Ignore,
        }
    }

    /// Whether this horizon is used, if the primary answers in both.
    pub(super) fn has_better_names_than(&self, other: &Self, seeds: &BTreeSet<MemberName>) -> bool {
        // No seed comes after all seeds, and `false` before `true`.
        let rank = |horizon: &Self| {
            let seed = horizon.names.intersection(seeds).next().cloned();
            (seed.is_none(), seed, horizon.names.first().cloned())
        };
        rank(self) < rank(other)
    }
}
