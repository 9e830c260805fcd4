//! What is known about the members of a set at one moment, and the log lines about changes.

use super::seed_list::SeedList;
use crate::cluster::messages::{
    ADDRESSES_CHANGED, MEMBER_ADDED, MEMBER_REJECTED, MEMBER_REMOVED, MEMBER_WITHOUT_ADDRESS, NO_PRIMARY,
    PRIMARY_CHANGED,
};
use crate::cluster::slot_map::SlotAssignment;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogThrottle};
use crate::topology::{MemberName, MemberState, SetTracker};

/// The longest list of addresses in a log line, in bytes; `/status` has all of them.
const ADDRESSES_BYTES_MAX: usize = 1_000;

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
            // One budget for all members, here and below: a hostile set has new names in each reply.
            let decision = throttle.note(MEMBER_WITHOUT_ADDRESS, "", LineBudget::Denials);
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
                let known = before.addresses.iter().find(|(known, _)| known == listener);
                let members = addresses_text(assignments, known.map_or(&[], |(_, known)| known));
                tracing::info!(upstream, listener, members, suppressed, "{ADDRESSES_CHANGED}");
            }
        }
    }

    fn log_members(&self, upstream: &str, before: &Self, throttle: &LogThrottle) {
        for member in self.names().filter(|name| !before.has(name)) {
            let decision = throttle.note(MEMBER_ADDED, "", LineBudget::Members);
            if let LogDecision::Log { suppressed } = decision {
                tracing::info!(upstream, %member, suppressed, "{MEMBER_ADDED}");
            }
        }
        for member in before.names().filter(|name| !self.has(name)) {
            let decision = throttle.note(MEMBER_REMOVED, "", LineBudget::Members);
            if let LogDecision::Log { suppressed } = decision {
                tracing::info!(upstream, %member, suppressed, "{MEMBER_REMOVED}");
            }
        }
        for (entry, problem) in self.members.iter().zip(&self.problems) {
            let (member, state) = entry;
            if *state != MemberState::WrongSet || before.members.contains(entry) {
                continue;
            }
            let decision = throttle.note(MEMBER_REJECTED, "", LineBudget::Denials);
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

/// The assignments as a list. If it would be long, those that are not in `before` come first, and the end is left out.
fn addresses_text(assignments: &[SlotAssignment], before: &[SlotAssignment]) -> String {
    let is_long = |parts: &[String]| parts.iter().map(|part| part.len() + 2).sum::<usize>() > ADDRESSES_BYTES_MAX;
    let mut parts: Vec<_> = assignments.iter().map(ToString::to_string).collect();
    if !is_long(&parts) {
        return parts.join(", ");
    }
    let (new, old): (Vec<_>, Vec<_>) = assignments.iter().partition(|one| !before.contains(one));
    parts = new.into_iter().chain(old).map(ToString::to_string).collect();
    while parts.len() > 1 && is_long(&parts) {
        parts.pop();
    }
    format!("{} and {} more", parts.join(", "), assignments.len() - parts.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::log_throttle::LogSubject;

    fn assignments(members: std::ops::Range<u32>) -> Vec<SlotAssignment> {
        let assignment = |number: u32| SlotAssignment {
            advertised: Arc::from(format!("127.0.0.1:{}", 27_000 + number % 100)),
            member: MemberName::with_default_port(&format!("mongo-{number}.example")).ok(),
            stand_in: None,
        };
        members.map(assignment).collect()
    }

    #[test]
    fn a_long_list_of_addresses_is_cut_and_names_what_has_changed() {
        let short = assignments(0..3);
        let expected = "127.0.0.1:27000 = mongo-0.example:27017, 127.0.0.1:27001 = mongo-1.example:27017, \
                        127.0.0.1:27002 = mongo-2.example:27017";
        assert_eq!(addresses_text(&short, &[]), expected);
        let before = assignments(0..100);
        let now: Vec<_> = before[..99].iter().cloned().chain(assignments(199..200)).collect();
        let text = addresses_text(&now, &before);
        assert!(text.starts_with("127.0.0.1:27099 = mongo-199.example:27017, 127.0.0.1:27000 = mongo-0"), "{text}");
        assert!(text.len() < ADDRESSES_BYTES_MAX + 20, "{text}");
        let shown = text.matches(" = ").count();
        assert!(text.ends_with(&format!(" and {} more", 100 - shown)), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_with_50_members_is_logged_whole_and_a_list_with_ever_new_names_is_not() {
        let throttle = LogThrottle::new(LogSubject::Upstream("orders".to_owned()));
        let name = |number: u32| MemberName::with_default_port(&format!("h{number}.example")).unwrap();
        let snapshot = |numbers: std::ops::Range<u32>| SetSnapshot {
            members: numbers.clone().map(|number| (name(number), MemberState::WrongSet)).collect(),
            problems: numbers.clone().map(|_| None).collect(),
            without_address: numbers.map(name).collect(),
            ..SetSnapshot::default()
        };
        let first = snapshot(0..50);
        first.log_changes("orders", &SetSnapshot::default(), &throttle);
        assert_eq!(throttle.suppressed(MEMBER_ADDED), 0);
        let mut before = first;
        for round in 1..=100 {
            let now = snapshot(round * 50..(round + 1) * 50);
            now.log_changes("orders", &before, &throttle);
            before = now;
        }
        assert_eq!(throttle.suppressed(MEMBER_ADDED), 5_000 + 50 - 64);
        assert_eq!(throttle.suppressed(MEMBER_REMOVED), 5_000 - 64);
        assert_eq!(throttle.suppressed(MEMBER_REJECTED), 5_050 - 20);
        assert_eq!(throttle.suppressed(MEMBER_WITHOUT_ADDRESS), 5_050 - 20);
    }
}
