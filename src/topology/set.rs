//! Tracks the members of one upstream: which servers belong to it, which one is primary, and which need an address of
//! the gateway.
//!
//! Follows the specification for drivers, so that the gateway and its clients have the same view of the set. There are
//! four differences. A gateway runs longer than a driver, so it keeps its seed list: when no member answers, it asks
//! the seeds again. Servers of another set stay in the list, as `wrong_set`, so that the operator sees them. A hidden
//! member is included if it is in the seed list. Where the set has several names for its members, the gateway uses
//! those of one [horizon](super::horizon).
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`
//! § Updating the `TopologyDescription`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;

use super::candidate::Candidate;
use super::hello_facts::{HelloFacts, HelloRole};
use super::horizon::{Horizon, Verdict};
use super::limits::MEMBERS_MAX;
use super::member::{MemberState, SetMember};
use super::member_name::MemberName;

/// From this wire version on (MongoDB 6.0), the newer of two primaries is the one with the greater election ID. Before,
/// it was the one with the greater version of the configuration.
const ELECTIONS_ORDER_PRIMARIES: i32 = 17;

/// The longest reason that is kept, in characters.
const REASON_CHARACTERS_MAX: usize = 500;

/// When no member answers: how soon a seed is asked again that was found to be an alias of a member.
const ALIASES_ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How long a member of a better horizon that does not answer is monitored after a reply has named it: several hello
/// replies, so that its monitor does not begin anew with each one.
const EXPLORED_FOR: Duration = Duration::from_mins(1);

/// What an event has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// New members, which need a monitor.
    pub joined: Vec<MemberName>,
    /// Removed members, whose monitors have to end.
    pub left: Vec<MemberName>,
    /// Whether [`SetTracker::mapped`] has changed.
    pub mapped: bool,
    /// Whether [`SetTracker::primary`] has changed.
    pub primary: bool,
    /// Members with a new state, except those that joined or left.
    pub states: Vec<(MemberName, MemberState)>,
}

/// The kind of deployment that the members belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DeploymentKind {
    /// The name of the set, once it is known.
    ReplicaSet(Option<String>),
    Sharded,
}

/// The members of one upstream.
#[derive(Debug)]
pub struct SetTracker {
    kind: DeploymentKind,
    seeds: BTreeSet<MemberName>,
    members: BTreeMap<MemberName, SetMember>,
    /// The names that the members are known by; `None` before the first list of members.
    horizon: Option<Horizon>,
    /// Election ID of the newest primary that has been seen.
    election_max: Option<ObjectId>,
    set_version_max: Option<i64>,
    last_primary: Option<(MemberName, Option<ObjectId>)>,
    primary_changes: u64,
    /// When a seed was last found to be an alias of a member.
    alias_dropped: Option<Instant>,
}

impl SetTracker {
    /// A replica set with a seed list. Without `set_name`, the name of the first member that answers is used.
    pub fn new(set_name: Option<String>, seeds: impl IntoIterator<Item = MemberName>) -> Self {
        Self::of(DeploymentKind::ReplicaSet(set_name), seeds)
    }

    /// The mongos of a sharded cluster. The seed list is complete.
    pub fn sharded(seeds: impl IntoIterator<Item = MemberName>) -> Self {
        Self::of(DeploymentKind::Sharded, seeds)
    }

    fn of(kind: DeploymentKind, seeds: impl IntoIterator<Item = MemberName>) -> Self {
        let mut tracker = Self {
            kind,
            seeds: seeds.into_iter().take(MEMBERS_MAX).collect(),
            members: BTreeMap::new(),
            horizon: None,
            election_max: None,
            set_version_max: None,
            last_primary: None,
            primary_changes: 0,
            alias_dropped: None,
        };
        tracker.add_seeds(tracker.seeds.clone());
        tracker.map_members();
        tracker
    }

    /// Records a reply of `member` at `now`. The reply of a server that is no longer in the set is ignored.
    pub fn answered(&mut self, member: &MemberName, facts: &HelloFacts, now: Instant) -> Change {
        self.change(|tracker| {
            let Some(known) = tracker.members.get_mut(member) else { return };
            known.record_answer();
            match tracker.kind {
                DeploymentKind::Sharded => note_router(known, facts),
                DeploymentKind::ReplicaSet(_) => tracker.note_member(member, facts, now),
            }
        })
    }

    /// Records at `now` that `member` cannot be reached or does not answer properly. `reason` is for the operator and
    /// continues a sentence that begins with the member's name.
    pub fn lost(&mut self, member: &MemberName, reason: &str, now: Instant) -> Change {
        self.change(|tracker| {
            let Some(known) = tracker.members.get_mut(member) else { return };
            known.record_failure(reason.chars().take(REASON_CHARACTERS_MAX).collect());
            known.explored_at.take_if(|at| now.saturating_duration_since(*at) > EXPLORED_FOR);
            tracker.members.retain(|_, member| member.is_wanted());
            tracker.doubt_horizon();
            if tracker.is_silent() {
                // A set that is created again with the same names, as after a restore, counts its elections from 1
                // again.
                (tracker.election_max, tracker.set_version_max) = (None, None);
            }
            // A seed that answers and lists members that do not answer would be added and dropped endlessly.
            let was_just_tried =
                tracker.alias_dropped.is_some_and(|at| now.saturating_duration_since(at) < ALIASES_ASKED_AGAIN_AFTER);
            if tracker.is_silent() && !was_just_tried {
                tracker.add_seeds(tracker.seeds.clone());
            }
        })
    }

    /// Whether no member of this upstream answers.
    pub fn is_silent(&self) -> bool {
        self.members.values().all(|member| matches!(member.state, MemberState::Unknown | MemberState::WrongSet))
    }

    /// Replaces the seed list, when DNS returns another one. The known members of a replica set stay.
    pub fn reseed(&mut self, seeds: impl IntoIterator<Item = MemberName>) -> Change {
        self.change(|tracker| {
            let seeds: BTreeSet<_> = seeds.into_iter().take(MEMBERS_MAX).collect();
            let before = std::mem::replace(&mut tracker.seeds, seeds.clone());
            for gone in before.difference(&seeds) {
                tracker.members.get_mut(gone).into_iter().for_each(|member| member.is_seed = false);
            }
            tracker.members.retain(|_, member| member.is_wanted());
            tracker.add_seeds(seeds.difference(&before).cloned());
        })
    }

    /// All monitored members, sorted by name.
    pub fn members(&self) -> impl Iterator<Item = &SetMember> {
        self.members.values()
    }

    /// The monitored member `name`.
    pub fn member(&self, name: &MemberName) -> Option<&SetMember> {
        self.members.get(name)
    }

    /// The primary, if one is known.
    pub fn primary(&self) -> Option<&MemberName> {
        self.members.values().find(|member| member.state == MemberState::Primary).map(|member| &member.name)
    }

    /// The members that need an address of the gateway, sorted by name.
    ///
    /// In a replica set, these are the members that the set lists, whether they answer or not, and hidden members that
    /// are in the seed list; none before the first member has answered. A new member that only a secondary lists waits
    /// for the list of a primary, which also omits the members that have left. In a sharded cluster, these are the
    /// seeds. Servers that belong to another deployment are excluded.
    pub fn mapped(&self) -> Vec<MemberName> {
        self.members.values().filter(|member| member.is_mapped).map(|member| member.name.clone()).collect()
    }

    /// The members of [`SetTracker::mapped`], with what clients find there.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.members.values().filter(|member| member.is_mapped).map(SetMember::candidate).collect()
    }

    /// The name of the set, from the configuration or from its members.
    pub fn set_name(&self) -> Option<&str> {
        match &self.kind {
            DeploymentKind::ReplicaSet(name) => name.as_deref(),
            DeploymentKind::Sharded => None,
        }
    }

    /// How often a new primary was found, or the same one after a new election.
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
        let verdict = self.judge_names(name, facts);
        match verdict {
            Verdict::Current | Verdict::Adopt => {}
            Verdict::Explore => {
                self.explore(facts, now);
                if facts.me.as_ref().is_some_and(|me| me != name) {
                    self.members.remove(name);
                    self.alias_dropped = Some(now);
                }
                return self.record_reply(name, facts);
            }
            Verdict::Ignore => {
                self.members.remove(name);
                self.alias_dropped = Some(now);
                return;
            }
        }
        if facts.role == HelloRole::Primary {
            if !self.accept_primary(facts) {
                if let Some(member) = self.members.get_mut(name) {
                    member.become_unknown("claims to be primary, but a newer primary has been seen".to_owned());
                }
                return;
            }
            self.change_horizon(verdict, facts, now);
            self.follow_primary(name, facts);
        } else if facts.role != HelloRole::Ghost && !self.has_other_primary(name) {
            self.change_horizon(verdict, facts, now);
            self.add_listed(facts);
        }
        if facts.me.as_ref().is_some_and(|me| me != name) {
            self.drop_alias(name, facts);
            self.alias_dropped = Some(now);
            return;
        }
        let Some(member) = self.members.get_mut(name) else { return };
        if facts.role == HelloRole::Primary && !member.is_listed {
            member.become_unknown("claims to be primary, but is not in its own list of members".to_owned());
            return;
        }
        member.record_reply(facts);
        self.count_primary(name, facts);
    }

    fn record_reply(&mut self, name: &MemberName, facts: &HelloFacts) {
        self.members.get_mut(name).into_iter().for_each(|member| member.record_reply(facts));
    }

    /// Decides whether the members are known by the names in a reply of `name`.
    fn judge_names(&self, name: &MemberName, facts: &HelloFacts) -> Verdict {
        let is_dead = self.members.values().filter(|member| member.is_listed).all(SetMember::is_down);
        let horizon = self.horizon.as_ref().filter(|_| facts.role != HelloRole::Ghost);
        horizon.map_or(Verdict::Current, |horizon| horizon.judge(name, facts, &self.seeds, is_dead))
    }

    /// Uses the names in a reply from now on, if they replace those in use or belong to them.
    ///
    /// A horizon that is given up for a worse one, in which the primary answers, is still watched.
    fn change_horizon(&mut self, verdict: Verdict, facts: &HelloFacts, now: Instant) {
        let other = Horizon::of(facts);
        let Some(current) = &mut self.horizon else {
            self.horizon = Some(other).filter(|other| !other.names.is_empty());
            return;
        };
        if verdict == Verdict::Current {
            current.is_confirmed |= other.is_confirmed;
            if other.is_confirmed {
                current.names = other.names;
            } else if current.names.len() < MEMBERS_MAX {
                current.names.extend(other.names);
            }
            return;
        }
        let stays_watched =
            !current.names.is_disjoint(&self.seeds) && current.has_better_names_than(&other, &self.seeds);
        for member in self.members.values_mut() {
            member.explored_at = (stays_watched && member.is_listed).then_some(now);
            (member.is_listed, member.awaits_primary) = (false, false);
        }
        self.horizon = Some(other);
        self.members.retain(|_, member| member.is_wanted());
    }

    /// Monitors the members that a reply lists, without using them: the primary may answer to these names.
    fn explore(&mut self, facts: &HelloFacts, now: Instant) {
        for name in facts.listed() {
            if let Some(member) = self.add(name) {
                member.explored_at = (!member.is_listed).then_some(now);
            }
        }
    }

    /// While no member answers in the horizon in use, the primary may answer in another one.
    fn doubt_horizon(&mut self) {
        let mut listed = self.members.values().filter(|member| member.is_listed);
        if listed.all(SetMember::is_lost)
            && let Some(horizon) = &mut self.horizon
        {
            horizon.is_confirmed = false;
            self.members.values_mut().for_each(|member| member.awaits_primary = false);
        }
    }

    /// Why the server is not a member of this set, if so. Sets the name of the set if it is unknown.
    fn belongs_elsewhere(&mut self, facts: &HelloFacts) -> Option<String> {
        let DeploymentKind::ReplicaSet(expected) = &mut self.kind else { return None };
        match (&facts.set_name, facts.role) {
            (_, HelloRole::Mongos) => Some("is a mongos, not a member of a replica set".to_owned()),
            (_, HelloRole::Standalone) => Some("runs without a replica set".to_owned()),
            (None, _) => None,
            (Some(name), _) => match expected {
                Some(expected) if expected == name => None,
                Some(expected) => Some(format!("is a member of the replica set {name:?}, not of {expected:?}")),
                None => {
                    *expected = Some(name.clone());
                    None
                }
            },
        }
    }

    /// Whether a primary is at least as new as the newest one that has been seen. Records it if so.
    fn accept_primary(&mut self, facts: &HelloFacts) -> bool {
        let HelloFacts { election_id, set_version, max_wire_version, .. } = facts;
        if *max_wire_version >= ELECTIONS_ORDER_PRIMARIES {
            // A missing value is older than any value.
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

    /// Applies the lists of a primary, which are authoritative: members that are not listed are removed, and no other
    /// member is primary.
    fn follow_primary(&mut self, name: &MemberName, facts: &HelloFacts) {
        for member in self.members.values_mut() {
            if member.state == MemberState::Primary && member.name != *name {
                member.become_unknown("was primary until another member was elected".to_owned());
            }
            member.is_listed = false;
        }
        self.add_listed(facts);
        self.members.retain(|_, member| member.is_wanted());
    }

    /// Adds the members that a member lists.
    ///
    /// The list of a secondary only adds members: one that has got another name would be there twice, and its new name
    /// would take a new address instead of its own. So it waits for the next primary, if one has answered before.
    fn add_listed(&mut self, facts: &HelloFacts) {
        let is_confirmed = self.horizon.as_ref().is_some_and(|horizon| horizon.is_confirmed);
        let is_provisional = is_confirmed && facts.role != HelloRole::Primary;
        for name in facts.listed() {
            if let Some(member) = self.add(name) {
                member.awaits_primary = is_provisional && (member.awaits_primary || !member.is_listed);
                (member.is_listed, member.explored_at) = (true, None);
                member.is_arbiter = facts.arbiters.contains(name);
            }
        }
    }

    /// The member of this name, added if it is new; `None` if the limit is reached.
    fn add(&mut self, name: &MemberName) -> Option<&mut SetMember> {
        if !self.members.contains_key(name) && self.members.len() >= 2 * MEMBERS_MAX {
            return None;
        }
        Some(self.members.entry(name.clone()).or_insert_with(|| SetMember::new(name.clone())))
    }

    /// Removes a server that was asked under an alias of its member name. The member is monitored under its own name:
    /// the set lists it, or it is hidden and added here.
    fn drop_alias(&mut self, alias: &MemberName, facts: &HelloFacts) {
        let is_seed = self.members.remove(alias).is_some_and(|member| member.is_seed);
        if is_seed && facts.hidden {
            self.add_seeds(facts.me.clone());
        }
    }

    /// Adds seeds to the monitored members, including those that were dropped as an alias.
    fn add_seeds(&mut self, seeds: impl IntoIterator<Item = MemberName>) {
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
            let needs_address =
                is_sharded || (member.is_listed && !member.awaits_primary) || (member.is_seed && member.hidden);
            member.is_mapped = needs_address && !member.is_foreign;
        }
    }

    /// Runs `work` and returns what it has changed.
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

/// Records the reply of a server that should be a mongos.
fn note_router(member: &mut SetMember, facts: &HelloFacts) {
    if facts.role == HelloRole::Mongos {
        member.record_reply(facts);
    } else {
        member.refuse("is not a mongos".to_owned());
    }
}

#[cfg(test)]
mod horizon_tests;
#[cfg(test)]
mod tests;
