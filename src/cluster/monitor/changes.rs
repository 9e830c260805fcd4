//! What is known about the members of a set at one moment, and the log lines about changes.

use super::seed_list::SeedList;
use crate::cluster::messages::{
    ADDRESSES_CHANGED, MEMBER_ADDED, MEMBER_REJECTED, MEMBER_REMOVED, MEMBER_WITHOUT_ADDRESS, NO_PRIMARY,
    PRIMARY_CHANGED,
};
use crate::cluster::slot_map::SlotAssignment;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogThrottle};
use crate::topology::{MemberName, MemberState, SetTracker};

/// What is known about the members of a set at one moment.
#[derive(Default, PartialEq, Eq)]
pub(super) struct SetSnapshot {
    primary: Option<MemberName>,
    members: Vec<(MemberName, MemberState)>,
    /// Why a member cannot be used, in the order of `members`; `/status` shows it.
    problems: Vec<Option<String>>,
    /// Members for which a listener has no address.
    without_address: Vec<MemberName>,
    /// What the addresses of each listener lead to.
    addresses: Vec<(String, Vec<SlotAssignment>)>,
    /// Why the last DNS lookup of the seed list failed.
    seed_list_error: Option<String>,
}

impl SetSnapshot {
    pub(super) fn new(
        tracker: &SetTracker,
        without_address: Vec<MemberName>,
        addresses: Vec<(String, Vec<SlotAssignment>)>,
        seed_list: Option<&SeedList>,
    ) -> Self {
        let in_use = || tracker.members().filter(|member| member.is_in_use());
        Self {
            primary: tracker.primary().cloned(),
            members: in_use().map(|member| (member.name.clone(), member.state)).collect(),
            problems: in_use().map(|member| member.problem.clone()).collect(),
            without_address,
            addresses,
            seed_list_error: seed_list.and_then(SeedList::error),
        }
    }

    /// The state of each member, for the metrics.
    pub(super) fn state_names(&self) -> Vec<&'static str> {
        self.members.iter().map(|(_, state)| state.name()).collect()
    }

    /// Logs what has changed since `before`, within the budgets of `throttle`.
    pub(super) fn log_changes(&self, upstream: &str, before: &Self, throttle: &LogThrottle) {
        self.log_members(upstream, before, throttle);
        self.log_addresses(upstream, before, throttle);
        for member in self.without_address.iter().filter(|member| !before.without_address.contains(member)) {
            let decision = throttle.note(MEMBER_WITHOUT_ADDRESS, member.as_str(), LineBudget::Failures);
            if let LogDecision::Log { suppressed } = decision {
                tracing::warn!(
                    upstream,
                    %member,
                    remedy = "add a port to member_ports of its listeners, or an entry to member_addresses",
                    suppressed,
                    "{MEMBER_WITHOUT_ADDRESS}"
                );
            }
        }
        match &self.primary {
            primary if *primary == before.primary => {}
            Some(primary) => {
                if let LogDecision::Log { suppressed } = throttle.note(PRIMARY_CHANGED, "", LineBudget::Changes) {
                    tracing::info!(upstream, %primary, suppressed, "{PRIMARY_CHANGED}");
                }
            }
            None => {
                if let LogDecision::Log { suppressed } = throttle.note(NO_PRIMARY, "", LineBudget::Failures) {
                    tracing::warn!(upstream, suppressed, "{NO_PRIMARY}");
                }
            }
        }
    }

    /// One line for each listener whose addresses lead elsewhere now.
    fn log_addresses(&self, upstream: &str, before: &Self, throttle: &LogThrottle) {
        for entry in self.addresses.iter().filter(|entry| !before.addresses.contains(entry)) {
            let (listener, assignments) = entry;
            let is_known = assignments.iter().any(|one| one.member.is_some() || one.stand_in.is_some());
            // Before the first member has answered, there is nothing to tell.
            if !is_known && before.addresses.is_empty() {
                continue;
            }
            let decision = throttle.note(ADDRESSES_CHANGED, listener, LineBudget::Changes);
            if let LogDecision::Log { suppressed } = decision {
                let members: Vec<_> = assignments.iter().map(ToString::to_string).collect();
                let members = members.join(", ");
                tracing::info!(upstream, listener, members, suppressed, "{ADDRESSES_CHANGED}");
            }
        }
    }

    fn log_members(&self, upstream: &str, before: &Self, throttle: &LogThrottle) {
        for member in self.names().filter(|name| !before.has(name)) {
            let decision = throttle.note(MEMBER_ADDED, member.as_str(), LineBudget::Changes);
            if let LogDecision::Log { suppressed } = decision {
                tracing::info!(upstream, %member, suppressed, "{MEMBER_ADDED}");
            }
        }
        for member in before.names().filter(|name| !self.has(name)) {
            let decision = throttle.note(MEMBER_REMOVED, member.as_str(), LineBudget::Changes);
            if let LogDecision::Log { suppressed } = decision {
                tracing::info!(upstream, %member, suppressed, "{MEMBER_REMOVED}");
            }
        }
        for (entry, problem) in self.members.iter().zip(&self.problems) {
            let (member, state) = entry;
            if *state != MemberState::WrongSet || before.members.contains(entry) {
                continue;
            }
            let decision = throttle.note(MEMBER_REJECTED, member.as_str(), LineBudget::Failures);
            if let LogDecision::Log { suppressed } = decision {
                tracing::warn!(
                    upstream,
                    %member,
                    problem = problem.as_deref(),
                    remedy = format!("check upstream.{upstream}.members and replica_set"),
                    suppressed,
                    "{MEMBER_REJECTED}"
                );
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &MemberName> {
        self.members.iter().map(|(name, _)| name)
    }

    fn has(&self, name: &MemberName) -> bool {
        self.names().any(|known| known == name)
    }
}
