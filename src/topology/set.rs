//! What is known of the members of one upstream: who is there, who is primary, and who is to get a gateway address.
//!
//! Follows the drivers' specification, so that the gateway sees a set as its clients do; but for three things. A gateway
//! lives longer than a driver, so that it never forgets its seeds for good: it asks them again when nobody else answers.
//! It keeps members of another set, refused, for the operator to see. And a hidden member is there where a seed names it.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`
//! § Updating the `TopologyDescription`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;

use super::hello_facts::{HelloFacts, HelloRole};
use super::limits::MEMBERS_MAX;
use super::member::{MemberState, SetMember};
use super::member_name::MemberName;

/// From this protocol on (6.0), the election tells which of two primaries is the newer one; before, the configuration.
const ELECTIONS_ORDER_PRIMARIES: i32 = 17;

/// The longest reason that is kept.
const REASON_CHARACTERS_MAX: usize = 500;

/// How soon a seed that was only another name for a member is asked again, where no member answers.
const ALIASES_ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What an event has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// To be monitored from now on.
    pub joined: Vec<MemberName>,
    /// Not to be monitored any more.
    pub left: Vec<MemberName>,
    /// Whether [`SetTracker::mapped`] says something new.
    pub mapped: bool,
    /// Whether [`SetTracker::primary`] says something new.
    pub primary: bool,
    /// Members that are something else than before; those that joined or left do not stand here.
    pub states: Vec<(MemberName, MemberState)>,
}

/// What the members of an upstream belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DeploymentKind {
    /// The set's name, once it is known.
    ReplicaSet(Option<String>),
    Sharded,
}

/// The members of one upstream.
#[derive(Debug)]
pub struct SetTracker {
    kind: DeploymentKind,
    seeds: BTreeSet<MemberName>,
    members: BTreeMap<MemberName, SetMember>,
    /// Of the newest primary that was seen.
    election_max: Option<ObjectId>,
    set_version_max: Option<i64>,
    last_primary: Option<(MemberName, Option<ObjectId>)>,
    primary_changes: u64,
    /// When a seed was found to be only another name for a member.
    alias_dropped: Option<Instant>,
}

impl SetTracker {
    /// A replica set of which `seeds` are known. Without a name, that of the first member that answers is taken.
    pub fn new(set_name: Option<String>, seeds: impl IntoIterator<Item = MemberName>) -> Self {
        Self::of(DeploymentKind::ReplicaSet(set_name), seeds)
    }

    /// The mongos of a sharded cluster; there are no others than these.
    pub fn sharded(seeds: impl IntoIterator<Item = MemberName>) -> Self {
        Self::of(DeploymentKind::Sharded, seeds)
    }

    fn of(kind: DeploymentKind, seeds: impl IntoIterator<Item = MemberName>) -> Self {
        let mut tracker = Self {
            kind,
            seeds: seeds.into_iter().take(MEMBERS_MAX).collect(),
            members: BTreeMap::new(),
            election_max: None,
            set_version_max: None,
            last_primary: None,
            primary_changes: 0,
            alias_dropped: None,
        };
        tracker.ask(tracker.seeds.clone());
        tracker.map_members();
        tracker
    }

    /// `member` has answered, at `now`. What a member says that is not in the set any more is ignored.
    pub fn answered(&mut self, member: &MemberName, facts: &HelloFacts, now: Instant) -> Change {
        self.change(|tracker| {
            let Some(known) = tracker.members.get_mut(member) else { return };
            match tracker.kind {
                DeploymentKind::Sharded => note_router(known, facts),
                DeploymentKind::ReplicaSet(_) => tracker.note_member(member, facts, now),
            }
        })
    }

    /// `member` cannot be reached at `now`, or does not answer as it should; `reason` is a sentence for the operator.
    pub fn lost(&mut self, member: &MemberName, reason: &str, now: Instant) -> Change {
        self.change(|tracker| {
            let Some(known) = tracker.members.get_mut(member) else { return };
            known.become_unknown(reason.chars().take(REASON_CHARACTERS_MAX).collect());
            if tracker.is_silent() {
                // A set that is made anew under the old names, as after a restore, begins to count its elections again.
                (tracker.election_max, tracker.set_version_max) = (None, None);
            }
            // A seed that answers and leads to names that do not would come and go without end.
            let is_tried =
                tracker.alias_dropped.is_some_and(|at| now.saturating_duration_since(at) < ALIASES_ASKED_AGAIN_AFTER);
            if tracker.is_silent() && !is_tried {
                tracker.ask(tracker.seeds.clone());
            }
        })
    }

    /// Whether no member answers as it should.
    pub fn is_silent(&self) -> bool {
        self.members.values().all(|member| matches!(member.state, MemberState::Unknown | MemberState::WrongSet))
    }

    /// The operator, or DNS, names others than before. Those of a replica set are asked besides those that it has.
    pub fn reseed(&mut self, seeds: impl IntoIterator<Item = MemberName>) -> Change {
        self.change(|tracker| {
            let seeds: BTreeSet<_> = seeds.into_iter().take(MEMBERS_MAX).collect();
            let before = std::mem::replace(&mut tracker.seeds, seeds.clone());
            for gone in before.difference(&seeds) {
                tracker.members.get_mut(gone).into_iter().for_each(|member| member.is_seed = false);
            }
            tracker.members.retain(|_, member| member.is_seed || member.is_listed);
            tracker.ask(seeds.difference(&before).cloned());
        })
    }

    /// Everyone who is to be monitored, sorted by name.
    pub fn members(&self) -> impl Iterator<Item = &SetMember> {
        self.members.values()
    }

    /// One of them.
    pub fn member(&self, name: &MemberName) -> Option<&SetMember> {
        self.members.get(name)
    }

    /// The primary, where one is known.
    pub fn primary(&self) -> Option<&MemberName> {
        self.members.values().find(|member| member.state == MemberState::Primary).map(|member| &member.name)
    }

    /// Who is to have a gateway address, sorted by name.
    ///
    /// Of a replica set those that its own lists have, whether they answer or not, and hidden members that are seeds; none
    /// before a member has answered. Of a sharded cluster the seeds. Nobody who belongs to something else.
    pub fn mapped(&self) -> Vec<MemberName> {
        self.members.values().filter(|member| member.is_mapped).map(|member| member.name.clone()).collect()
    }

    /// The set's name, as the operator gave it or as it was learned.
    pub fn set_name(&self) -> Option<&str> {
        match &self.kind {
            DeploymentKind::ReplicaSet(name) => name.as_deref(),
            DeploymentKind::Sharded => None,
        }
    }

    /// How often another primary was found than the one before, or the same after another election.
    pub fn primary_changes(&self) -> u64 {
        self.primary_changes
    }

    fn note_member(&mut self, name: &MemberName, facts: &HelloFacts, now: Instant) {
        if let Some(problem) = self.belongs_elsewhere(facts) {
            if let Some(member) = self.members.get_mut(name) {
                member.refuse(problem);
            }
            return;
        }
        if facts.role == HelloRole::Primary {
            if !self.accept_primary(facts) {
                if let Some(member) = self.members.get_mut(name) {
                    member.become_unknown("says that it is primary, and there has been a newer one".to_owned());
                }
                return;
            }
            self.follow_primary(name, facts);
        } else if facts.role != HelloRole::Ghost && !self.has_other_primary(name) {
            self.add_listed(facts);
        }
        if facts.me.as_ref().is_some_and(|me| me != name) {
            self.drop_alias(name, facts);
            self.alias_dropped = Some(now);
            return;
        }
        let Some(member) = self.members.get_mut(name) else { return };
        if facts.role == HelloRole::Primary && !member.is_listed {
            member.become_unknown("says that it is primary, and is not among the members that it names".to_owned());
            return;
        }
        member.become_answered(facts);
        self.count_primary(name, facts);
    }

    /// Why what answered is no member of this set. Learns the set's name from the first that has one.
    fn belongs_elsewhere(&mut self, facts: &HelloFacts) -> Option<String> {
        let DeploymentKind::ReplicaSet(expected) = &mut self.kind else { return None };
        match (&facts.set_name, facts.role) {
            (_, HelloRole::Mongos) => Some("is a mongos, and no member of a replica set".to_owned()),
            (_, HelloRole::Standalone) => Some("runs without a replica set".to_owned()),
            (None, _) => None,
            (Some(name), _) => match expected {
                Some(expected) if expected == name => None,
                Some(expected) => Some(format!("is a member of the replica set {name:?}, and not of {expected:?}")),
                None => {
                    *expected = Some(name.clone());
                    None
                }
            },
        }
    }

    /// Whether a primary is not older than one that has been seen.
    fn accept_primary(&mut self, facts: &HelloFacts) -> bool {
        let HelloFacts { election_id, set_version, max_wire_version, .. } = facts;
        if *max_wire_version >= ELECTIONS_ORDER_PRIMARIES {
            // What is missing is older than anything.
            if (election_id, set_version) < (&self.election_max, &self.set_version_max) {
                return false;
            }
            (self.election_max, self.set_version_max) = (*election_id, *set_version);
            return true;
        }
        if set_version.is_some() && election_id.is_some() {
            let is_older = self.election_max.is_some()
                && (self.set_version_max > *set_version
                    || (self.set_version_max == *set_version && self.election_max > *election_id));
            if is_older {
                return false;
            }
            self.election_max = *election_id;
        }
        self.set_version_max = self.set_version_max.max(*set_version);
        true
    }

    /// A primary's lists are the truth: who is not on them goes, and nobody else is primary.
    fn follow_primary(&mut self, name: &MemberName, facts: &HelloFacts) {
        for member in self.members.values_mut() {
            if member.state == MemberState::Primary && member.name != *name {
                member.become_unknown("was primary until another one was elected".to_owned());
            }
            member.is_listed = false;
        }
        self.add_listed(facts);
        self.members.retain(|_, member| member.is_listed || member.is_seed);
    }

    /// Adds to the set who is on a member's lists.
    fn add_listed(&mut self, facts: &HelloFacts) {
        for name in facts.listed() {
            if let Some(member) = self.add(name) {
                member.is_listed = true;
            }
        }
    }

    /// The member of this name, new or not; `None` beyond the limit.
    fn add(&mut self, name: &MemberName) -> Option<&mut SetMember> {
        if !self.members.contains_key(name) && self.members.len() >= 2 * MEMBERS_MAX {
            return None;
        }
        Some(self.members.entry(name.clone()).or_insert_with(|| SetMember::new(name.clone())))
    }

    /// A member was asked by another name than its set calls it: that one counts. It is on the lists, or hidden.
    fn drop_alias(&mut self, alias: &MemberName, facts: &HelloFacts) {
        let is_seed = self.members.remove(alias).is_some_and(|member| member.is_seed);
        if is_seed && facts.hidden {
            self.ask(facts.me.clone());
        }
    }

    /// Seeds are monitored, also those that were not any more because they were only another name for a member.
    fn ask(&mut self, seeds: impl IntoIterator<Item = MemberName>) {
        for name in seeds {
            if let Some(member) = self.add(&name) {
                member.is_seed = true;
            }
        }
    }

    fn has_other_primary(&self, name: &MemberName) -> bool {
        self.primary().is_some_and(|primary| primary != name)
    }

    fn count_primary(&mut self, name: &MemberName, facts: &HelloFacts) {
        if facts.role != HelloRole::Primary {
            return;
        }
        let primary = Some((name.clone(), facts.election_id));
        if self.last_primary.is_some() && self.last_primary != primary {
            self.primary_changes += 1;
        }
        self.last_primary = primary;
    }

    fn map_members(&mut self) {
        let is_sharded = self.kind == DeploymentKind::Sharded;
        for member in self.members.values_mut() {
            let is_wanted = is_sharded || member.is_listed || (member.is_seed && member.hidden);
            member.is_mapped = is_wanted && !member.is_foreign;
        }
    }

    /// Does `work`, and compares.
    fn change(&mut self, work: impl FnOnce(&mut Self)) -> Change {
        let before: BTreeMap<_, _> = self.members.iter().map(|(name, member)| (name.clone(), member.state)).collect();
        let (mapped, primary) = (self.mapped(), self.primary().cloned());
        work(self);
        self.map_members();
        let joined = self.members.keys().filter(|name| !before.contains_key(name)).cloned().collect();
        let left = before.keys().filter(|name| !self.members.contains_key(name)).cloned().collect();
        let is_new = |member: &&SetMember| before.get(&member.name).is_some_and(|state| *state != member.state);
        let states = self.members.values().filter(is_new).map(|member| (member.name.clone(), member.state)).collect();
        Change { joined, left, mapped: mapped != self.mapped(), primary: primary.as_ref() != self.primary(), states }
    }
}

/// What answered in the place of a mongos.
fn note_router(member: &mut SetMember, facts: &HelloFacts) {
    if facts.role == HelloRole::Mongos {
        member.become_answered(facts);
    } else {
        member.refuse("is no mongos".to_owned());
    }
}

#[cfg(test)]
mod tests;
