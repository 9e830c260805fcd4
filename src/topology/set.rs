//! Who the members of an upstream are, from what they say.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § Updating the
//! `TopologyDescription`, as far as it says who the members are and which of them is primary. It knows no clock, and asks
//! nobody: it is told.

use std::collections::BTreeMap;

use super::hello_facts::{Age, HelloFacts, MemberState};
use super::member_name::MemberName;

/// What is known of the members of one upstream.
#[derive(Debug)]
pub struct SetTracker {
    kind: Kind,
    members: BTreeMap<MemberName, MemberRecord>,
    /// Of the newest primary that has spoken.
    newest: Age,
    /// Those that the operator named.
    seeds: Vec<MemberName>,
}

#[derive(Debug)]
enum Kind {
    ReplicaSet {
        /// Once it is known.
        name: Option<String>,
        /// Whether a member has answered.
        is_known: bool,
    },
    Sharded,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// What it is.
    pub state: MemberState,
    /// Whether its set does not tell clients of it.
    pub hidden: bool,
    /// Why it cannot be used, if it cannot.
    pub problem: Option<String>,
    /// Whether its set names it.
    is_told: bool,
}

impl MemberRecord {
    fn new(is_told: bool) -> Self {
        Self { state: MemberState::Unknown, hidden: false, problem: None, is_told }
    }
}

impl SetTracker {
    /// Of a replica set that is looked for at `seeds`; `name` is the only one that counts, where it is given.
    pub fn new(name: Option<String>, seeds: Vec<MemberName>) -> Self {
        Self::of(Kind::ReplicaSet { name, is_known: false }, seeds)
    }

    /// Of a sharded cluster whose mongos are `seeds`.
    pub fn sharded(seeds: Vec<MemberName>) -> Self {
        Self::of(Kind::Sharded, seeds)
    }

    fn of(kind: Kind, seeds: Vec<MemberName>) -> Self {
        let members = seeds.iter().map(|seed| (seed.clone(), MemberRecord::new(false))).collect();
        Self { kind, members, newest: Age::default(), seeds }
    }

    /// Other mongos than before; of a replica set, more places to look at while no member is known.
    pub fn reseed(&mut self, seeds: Vec<MemberName>) {
        if self.is_known() && !matches!(self.kind, Kind::Sharded) {
            return;
        }
        self.members.retain(|name, _| seeds.contains(name));
        for seed in &seeds {
            self.members.entry(seed.clone()).or_insert_with(|| MemberRecord::new(false));
        }
        self.seeds = seeds;
    }

    /// Whether anybody was named to begin with.
    pub fn has_seeds(&self) -> bool {
        !self.seeds.is_empty()
    }

    /// A member said what it is.
    pub fn answered(&mut self, member: &MemberName, facts: &HelloFacts) {
        if !self.members.contains_key(member) {
            // It was asked before it left.
            return;
        }
        match &mut self.kind {
            Kind::Sharded => self.answered_in_cluster(member, facts),
            Kind::ReplicaSet { name, is_known } => {
                if let Some(problem) = wrong_set(name.as_deref(), facts) {
                    self.refuse(member, problem);
                    return;
                }
                name.clone_from(&facts.set_name);
                *is_known = true;
                self.answered_in_set(member, facts);
            }
        }
    }

    fn answered_in_cluster(&mut self, member: &MemberName, facts: &HelloFacts) {
        if facts.state == MemberState::Mongos {
            self.set(member, MemberState::Mongos, false, None);
        } else {
            self.refuse(member, "it is no mongos, which sharded = true says".to_owned());
        }
    }

    fn answered_in_set(&mut self, member: &MemberName, facts: &HelloFacts) {
        if facts.state == MemberState::Primary {
            if facts.age.is_stale(&self.newest) {
                self.set(
                    member,
                    MemberState::Unknown,
                    false,
                    Some("it says that it is primary, but a newer primary has spoken".to_owned()),
                );
                return;
            }
            self.newest = facts.age;
            self.step_down_others(member);
        }
        self.set(member, facts.state, facts.hidden, None);
        self.take_names(facts);
        let is_alias = facts.me.as_ref().is_some_and(|me| me != member);
        if is_alias {
            // The same member is there by its real name, unless that is hidden.
            if let Some(me) = facts.me.as_ref().filter(|_| facts.hidden) {
                self.members.entry(me.clone()).or_insert_with(|| MemberRecord::new(false));
                if !self.seeds.contains(me) {
                    self.seeds.push(me.clone());
                }
            }
            self.members.remove(member);
        }
    }

    /// A primary's word is the last one; of others, it adds while there is no primary.
    fn take_names(&mut self, facts: &HelloFacts) {
        let is_primary = facts.state == MemberState::Primary;
        if facts.state == MemberState::Other || (!is_primary && self.primary().is_some()) {
            return;
        }
        for name in &facts.members {
            self.members.entry(name.clone()).or_insert_with(|| MemberRecord::new(true)).is_told = true;
        }
        if is_primary {
            let seeds = &self.seeds;
            self.members.retain(|name, record| {
                let is_told = facts.members.contains(name);
                record.is_told = is_told;
                // A hidden member stays where the operator asked for it, and one that has not answered where it may be one.
                is_told || (seeds.contains(name) && (record.hidden || record.state != MemberState::Other))
            });
        }
    }

    fn step_down_others(&mut self, primary: &MemberName) {
        for (name, record) in &mut self.members {
            if name != primary && record.state == MemberState::Primary {
                record.state = MemberState::Unknown;
            }
        }
    }

    /// A member does not answer.
    pub fn lost(&mut self, member: &MemberName, problem: String) {
        self.set(member, MemberState::Unknown, false, Some(problem));
    }

    fn refuse(&mut self, member: &MemberName, problem: String) {
        self.set(member, MemberState::WrongSet, false, Some(problem));
    }

    fn set(&mut self, member: &MemberName, state: MemberState, hidden: bool, problem: Option<String>) {
        if let Some(record) = self.members.get_mut(member) {
            // Who is hidden is so while it does not answer, too.
            record.hidden = hidden || (record.hidden && state == MemberState::Unknown);
            (record.state, record.problem) = (state, problem);
        }
    }

    /// All that are to be listened to, in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = (&MemberName, &MemberRecord)> {
        self.members.iter()
    }

    /// The primary, where there is one.
    pub fn primary(&self) -> Option<&MemberName> {
        self.members.iter().find(|(_, record)| record.state == MemberState::Primary).map(|(name, _)| name)
    }

    /// Those that get an address of the gateway's, in the order of their names: all that the set tells clients of, and hidden
    /// ones that the operator named.
    pub fn mapped(&self) -> Vec<MemberName> {
        let is_mapped = |record: &MemberRecord| match self.kind {
            Kind::Sharded => record.state != MemberState::WrongSet,
            Kind::ReplicaSet { .. } => (record.is_told || record.hidden) && record.state != MemberState::WrongSet,
        };
        self.members.iter().filter(|(_, record)| is_mapped(record)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether the members are known: of a set, when one of them has answered.
    pub fn is_known(&self) -> bool {
        match self.kind {
            Kind::Sharded => !self.members.is_empty(),
            Kind::ReplicaSet { is_known, .. } => is_known,
        }
    }

    /// The set's name, where it is one and known.
    pub fn set_name(&self) -> Option<&str> {
        match &self.kind {
            Kind::ReplicaSet { name, .. } => name.as_deref(),
            Kind::Sharded => None,
        }
    }
}

/// Why a server is no member of the set, if it is none.
fn wrong_set(name: Option<&str>, facts: &HelloFacts) -> Option<String> {
    match (&facts.set_name, name) {
        (None, _) if facts.state == MemberState::Mongos => {
            Some("it is a mongos and no member of a replica set; write sharded = true for a cluster".to_owned())
        }
        (None, _) => Some("it is no member of a replica set, or has not been initiated".to_owned()),
        (Some(set), Some(name)) if set != name => {
            Some(format!("it is of the replica set {}, not {name}", set.escape_debug()))
        }
        _ => None,
    }
}
