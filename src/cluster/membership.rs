//! The members of an upstream at one moment, and which of them a read preference selects.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::member::Member;
use super::member_health::MemberHealth;
use crate::config::{HostPort, ReadPreference};
use crate::topology::MemberState;
use crate::upstream::MongoUser;

/// The members of an upstream at one moment.
#[derive(Default)]
pub struct Membership {
    /// All known members, sorted by name.
    pub members: Vec<MemberStatus>,
    /// Whether the members are known. Those of a replica set are unknown until one of them has answered.
    pub is_known: bool,
    /// Name of the replica set, if there is one and its name is known.
    pub set_name: Option<String>,
    /// Why the last DNS lookup of the seed list failed.
    pub seed_list_error: Option<String>,
    /// Counts selections, so that members take turns.
    turn: AtomicUsize,
}

/// One member and its current state.
#[derive(Clone)]
pub struct MemberStatus {
    /// The member.
    pub member: Arc<Member>,
    /// What clients can use it for.
    pub usability: Usability,
    /// What its last hello says.
    pub state: MemberState,
    /// Whether its replica set hides it from clients.
    pub hidden: bool,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// What clients can use a member for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usability {
    /// Reads and writes: a primary, a mongos, a standalone server.
    Writable,
    /// Reads: a secondary that is not hidden.
    Readable,
    /// Neither, or its state is unknown.
    Neither,
}

impl Membership {
    /// The membership of an upstream of one server.
    pub(super) fn single(member: Arc<Member>) -> Self {
        let (usability, state) = (Usability::Writable, MemberState::Unknown);
        let members = vec![MemberStatus { member, usability, state, hidden: false, problem: None }];
        Self::new(members, true, None, None)
    }

    /// Takes `members` in any order.
    pub(super) fn new(
        mut members: Vec<MemberStatus>,
        is_known: bool,
        set_name: Option<String>,
        seed_list_error: Option<String>,
    ) -> Self {
        members.sort_by_cached_key(|status| status.member.address.to_string());
        Self { members, is_known, set_name, seed_list_error, turn: AtomicUsize::new(0) }
    }

    /// The member called `name`; case does not matter.
    pub(super) fn named(&self, name: &HostPort) -> Option<&Arc<Member>> {
        let is_named = |status: &&MemberStatus| {
            let address = &status.member.address;
            address.port == name.port && address.host.eq_ignore_ascii_case(&name.host)
        };
        self.members.iter().find(is_named).map(|status| &status.member)
    }

    /// The MongoDB user of the credential at this index, or why mongod authenticates none; `None` before the first
    /// authentication. One member that accepts it is enough: the members of a set share their users.
    pub fn user_of(&self, credential: usize) -> Option<Result<Arc<MongoUser>, String>> {
        let pools = self.members.iter().filter_map(|status| status.member.pools.get(credential));
        let results: Vec<_> = pools.filter_map(|pool| pool.connector.authenticated()).collect();
        let accepted = results.iter().find(|result| result.user.is_ok());
        accepted.or(results.first()).map(|result| result.user.clone())
    }

    /// The next member that `preference` allows: several take turns.
    pub(super) fn preferred(&self, preference: ReadPreference) -> Option<&Arc<Member>> {
        let allowed = self.allowed(preference);
        let candidates: Vec<_> = self.members.iter().filter(|status| allowed.contains(&status.usability)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        candidates.get(turn.checked_rem(candidates.len())?).map(|status| &status.member)
    }

    /// Whether open connections to the member with this health may stay there. They may unless the member itself
    /// reports a state that `preference` excludes.
    pub(super) fn still_prefers(&self, preference: ReadPreference, health: &Arc<MemberHealth>) -> bool {
        let is_it = |status: &&MemberStatus| Arc::ptr_eq(&status.member.health, health);
        let Some(status) = self.members.iter().find(is_it) else { return true };
        // A member that does not answer may still be in its last state.
        if status.state == MemberState::Unknown {
            return true;
        }
        // If no member is allowed, new connections wait for one. That is better than repeated errors.
        self.allowed(preference).contains(&status.usability)
    }

    /// What `preference` requires of a member, given the current members.
    fn allowed(&self, preference: ReadPreference) -> &'static [Usability] {
        let has = |usability| self.members.iter().any(|status| status.usability == usability);
        match preference {
            ReadPreference::Primary => &[Usability::Writable],
            ReadPreference::PrimaryPreferred if has(Usability::Writable) => &[Usability::Writable],
            ReadPreference::SecondaryPreferred if !has(Usability::Readable) => &[Usability::Writable],
            ReadPreference::PrimaryPreferred | ReadPreference::Secondary | ReadPreference::SecondaryPreferred => {
                &[Usability::Readable]
            }
            ReadPreference::Nearest => &[Usability::Writable, Usability::Readable],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Upstream;
    use crate::telemetry::log_throttle::{LogSubject, LogThrottle};
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{CertificateAuthority, Folder, upstream_of};
    use crate::upstream::REASONS;

    /// Members at the ports 1, 2, … with these states.
    fn membership(states: &[MemberState]) -> Membership {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let section = upstream_of(&folder.upstream(9, &authority.issue("client", &[]), &authority.pem));
        let upstream = Upstream::new(&section, UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let member_status = |(at, state): (usize, &MemberState)| {
            let address = HostPort { host: "Mongo".to_owned(), port: u16::try_from(at + 1).unwrap() };
            let member = Arc::new(upstream.new_member(&address).unwrap());
            let usability = match state {
                MemberState::Primary => Usability::Writable,
                MemberState::Secondary => Usability::Readable,
                _ => Usability::Neither,
            };
            MemberStatus { member, usability, state: *state, hidden: false, problem: None }
        };
        Membership::new(states.iter().enumerate().map(member_status).collect(), true, None, None)
    }

    /// The ports of the members that four connections in a row are given. Each then asks whether it may stay, which
    /// must not count as a turn.
    fn preferred(membership: &Membership, preference: ReadPreference) -> Vec<u16> {
        let connection = |_| {
            let member = membership.preferred(preference)?;
            assert!(membership.still_prefers(preference, &member.health));
            Some(member.address.port)
        };
        (0..4).filter_map(connection).collect()
    }

    #[test]
    fn connections_go_to_each_preferred_member_in_turn() {
        use MemberState::{Arbiter, Primary, Secondary, Unknown};
        let (whole, no_primary) =
            (membership(&[Secondary, Primary, Arbiter, Secondary]), membership(&[Secondary, Unknown]));
        let no_secondary = membership(&[Unknown, Primary]);
        let check = |membership: &Membership, preference, mut expected: Vec<u16>| {
            let mut found = preferred(membership, preference);
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{preference:?}");
        };
        check(&whole, ReadPreference::Primary, vec![2; 4]);
        check(&whole, ReadPreference::PrimaryPreferred, vec![2; 4]);
        check(&whole, ReadPreference::Secondary, vec![1, 1, 4, 4]);
        check(&whole, ReadPreference::SecondaryPreferred, vec![1, 1, 4, 4]);
        assert_eq!(preferred(&whole, ReadPreference::Nearest).len(), 4);
        check(&no_primary, ReadPreference::Primary, vec![]);
        check(&no_primary, ReadPreference::PrimaryPreferred, vec![1; 4]);
        check(&no_secondary, ReadPreference::Secondary, vec![]);
        check(&no_secondary, ReadPreference::SecondaryPreferred, vec![2; 4]);
    }

    #[test]
    fn connections_leave_a_member_that_reports_an_excluded_state() {
        use MemberState::{Other, Primary, Secondary, Unknown};
        let may_stay = |states: &[MemberState], preference| {
            let membership = membership(states);
            membership.still_prefers(preference, &membership.members[0].member.health)
        };
        for (states, preference, expected) in [
            (&[Primary, Secondary], ReadPreference::Primary, true),
            (&[Secondary, Primary], ReadPreference::Primary, false),
            (&[Secondary, Secondary], ReadPreference::Primary, false),
            (&[Unknown, Primary], ReadPreference::Primary, true),
            (&[Secondary, Unknown], ReadPreference::PrimaryPreferred, true),
            (&[Secondary, Primary], ReadPreference::PrimaryPreferred, false),
            (&[Primary, Unknown], ReadPreference::Secondary, false),
            (&[Primary, Unknown], ReadPreference::SecondaryPreferred, true),
            (&[Primary, Secondary], ReadPreference::SecondaryPreferred, false),
            (&[Primary, Secondary], ReadPreference::Nearest, true),
            (&[Other, Secondary], ReadPreference::Nearest, false),
        ] {
            assert_eq!(may_stay(states, preference), expected, "{states:?} {preference:?}");
        }
        let failures = LogThrottle::new(LogSubject::Upstream("orders".to_owned()));
        let (membership, removed) = (membership(&[Primary]), Arc::new(MemberHealth::new("orders", failures)));
        assert!(membership.still_prefers(ReadPreference::Primary, &removed), "a removed member keeps its connections");
    }

    #[test]
    fn names_are_found_regardless_of_case() {
        let membership = membership(&[MemberState::Primary]);
        assert!(membership.named(&"mONGO:1".parse().unwrap()).is_some());
        assert!(membership.named(&"mongo:2".parse().unwrap()).is_none());
    }
}
