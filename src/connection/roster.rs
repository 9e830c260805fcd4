//! Who the members of an upstream are at one moment, and which of them a client is put on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::line::MemberHealth;
use super::upstream::Member;
use crate::config::{HostPort, ReadPreference};
use crate::topology::MemberState;
use crate::upstream::MongoUser;

/// The members of an upstream at one moment.
#[derive(Default)]
pub struct Membership {
    /// All that are known, in the order of their names; of one server, that.
    pub members: Vec<MemberStatus>,
    /// Whether they are known at all: a set is asked first.
    pub is_known: bool,
    /// Name of the replica set, where it is one and known.
    pub set_name: Option<String>,
    /// Why no member is known, where that is known.
    pub trouble: Option<String>,
    turn: AtomicUsize,
}

/// One member, and what it is now.
#[derive(Clone)]
pub struct MemberStatus {
    /// The member.
    pub member: Arc<Member>,
    /// What it can be used for.
    pub part: Usability,
    /// What it says that it is.
    pub state: MemberState,
    /// Whether clients are not told of it by its set.
    pub hidden: bool,
    /// Why it cannot be used, where it cannot.
    pub problem: Option<String>,
}

/// What a member can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usability {
    /// Reads and writes: a primary, a mongos, a server of its own.
    Writable,
    /// Reads: a secondary that clients are told of.
    Readable,
    /// Neither, or nobody knows.
    Neither,
}

impl Membership {
    /// Of an upstream that is one server.
    pub(super) fn single(member: Arc<Member>) -> Self {
        let (part, state) = (Usability::Writable, MemberState::Unknown);
        let members = vec![MemberStatus { member, part, state, hidden: false, problem: None }];
        Self { members, is_known: true, set_name: None, trouble: None, turn: AtomicUsize::new(0) }
    }

    /// Of an upstream with `members`, in any order.
    pub fn new(
        mut members: Vec<MemberStatus>,
        is_known: bool,
        set_name: Option<String>,
        trouble: Option<String>,
    ) -> Self {
        members.sort_by_cached_key(|listed| listed.member.address.to_string());
        Self { members, is_known, set_name, trouble, turn: AtomicUsize::new(0) }
    }

    /// The member of that name; case does not count.
    pub fn named(&self, name: &HostPort) -> Option<&Arc<Member>> {
        let is_named = |listed: &&MemberStatus| {
            let address = &listed.member.address;
            address.port == name.port && address.host.eq_ignore_ascii_case(&name.host)
        };
        self.members.iter().find(is_named).map(|listed| &listed.member)
    }

    /// The user that mongod takes the credential at this place of the upstream's for, or why it does not; `None` as long as
    /// nobody knows. One member that does is enough: they have their users in common.
    pub fn user_of(&self, credential: usize) -> Option<Result<Arc<MongoUser>, String>> {
        let lines = self.members.iter().filter_map(|listed| listed.member.lines.get(credential));
        let seen: Vec<_> = lines.filter_map(|line| line.connector.authenticated()).collect();
        let good = seen.iter().find(|seen| seen.user.is_ok());
        good.or(seen.first()).map(|seen| seen.user.clone())
    }

    /// A member that `preference` is content with; of several, each in turn.
    pub(super) fn preferred(&self, preference: ReadPreference) -> Option<&Arc<Member>> {
        let parts = self.parts(preference);
        let fit: Vec<_> = self.members.iter().filter(|listed| parts.contains(&listed.part)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        fit.get(turn.checked_rem(fit.len())?).map(|listed| &listed.member)
    }

    /// Whether connections to the member of `news` may stay where they are: unless it says that it has become something else.
    pub(super) fn still_suits(&self, preference: ReadPreference, news: &Arc<MemberHealth>) -> bool {
        let of_it = |listed: &&MemberStatus| Arc::ptr_eq(&listed.member.news, news);
        let Some(listed) = self.members.iter().find(of_it) else { return true };
        // Who says nothing may still be what he was.
        if listed.state == MemberState::Unknown {
            return true;
        }
        // Where nobody fits, new connections wait for somebody, which is better than an error after the other.
        self.parts(preference).contains(&listed.part)
    }

    /// What a member that `preference` is content with can be used for, as the members are now.
    fn parts(&self, preference: ReadPreference) -> &'static [Usability] {
        let has = |part| self.members.iter().any(|listed| listed.part == part);
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
    use crate::connection::Upstream;
    use crate::telemetry::metrics::UpstreamMetrics;
    use crate::tls::test_pki::{CertificateAuthority, Folder, upstream_of};
    use crate::upstream::REASONS;

    /// Members at the ports 1, 2, … with these states.
    fn roster(states: &[MemberState]) -> Membership {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let section = upstream_of(&folder.upstream(9, &authority.issue("client", &[]), &authority.pem));
        let upstream = Upstream::new(&section, UpstreamMetrics::new("orders", &REASONS)).unwrap();
        let listed = |(at, state): (usize, &MemberState)| {
            let address = HostPort { host: "Mongo".to_owned(), port: u16::try_from(at + 1).unwrap() };
            let member = Arc::new(upstream.member(&address).unwrap());
            let part = match state {
                MemberState::Primary => Usability::Writable,
                MemberState::Secondary => Usability::Readable,
                _ => Usability::Neither,
            };
            MemberStatus { member, part, state: *state, hidden: false, problem: None }
        };
        Membership::new(states.iter().enumerate().map(listed).collect(), true, None, None)
    }

    /// The ports of the members that four connections in a row are put on; each then asks whether it may stay, and takes
    /// nobody's turn by that.
    fn preferred(roster: &Membership, preference: ReadPreference) -> Vec<u16> {
        let connection = |_| {
            let member = roster.preferred(preference)?;
            assert!(roster.still_suits(preference, &member.news));
            Some(member.address.port)
        };
        (0..4).filter_map(connection).collect()
    }

    #[test]
    fn connections_go_where_they_prefer_to_each_member_in_turn() {
        use MemberState::{Arbiter, Primary, Secondary, Unknown};
        let (whole, headless) = (roster(&[Secondary, Primary, Arbiter, Secondary]), roster(&[Secondary, Unknown]));
        let alone = roster(&[Unknown, Primary]);
        let check = |roster: &Membership, preference, mut expected: Vec<u16>| {
            let mut found = preferred(roster, preference);
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{preference:?}");
        };
        check(&whole, ReadPreference::Primary, vec![2; 4]);
        check(&whole, ReadPreference::PrimaryPreferred, vec![2; 4]);
        check(&whole, ReadPreference::Secondary, vec![1, 1, 4, 4]);
        check(&whole, ReadPreference::SecondaryPreferred, vec![1, 1, 4, 4]);
        assert_eq!(preferred(&whole, ReadPreference::Nearest).len(), 4);
        check(&headless, ReadPreference::Primary, vec![]);
        check(&headless, ReadPreference::PrimaryPreferred, vec![1; 4]);
        check(&alone, ReadPreference::Secondary, vec![]);
        check(&alone, ReadPreference::SecondaryPreferred, vec![2; 4]);
    }

    #[test]
    fn connections_leave_a_member_that_says_it_has_become_something_else() {
        use MemberState::{Other, Primary, Secondary, Unknown};
        let suits = |states: &[MemberState], preference| {
            let roster = roster(states);
            roster.still_suits(preference, &roster.members[0].member.news)
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
            assert_eq!(suits(states, preference), expected, "{states:?} {preference:?}");
        }
        let (roster, other) = (roster(&[Primary]), Arc::default());
        assert!(roster.still_suits(ReadPreference::Primary, &other), "who has left the set is left alone");
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        let roster = roster(&[MemberState::Primary]);
        assert!(roster.named(&"mONGO:1".parse().unwrap()).is_some());
        assert!(roster.named(&"mongo:2".parse().unwrap()).is_none());
    }
}
