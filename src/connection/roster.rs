//! Who the members of an upstream are at one moment, and which of them a client is put on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::line::News;
use super::upstream::Member;
use crate::config::{HostPort, ReadPreference};
use crate::topology::MemberState;

/// The members of an upstream at one moment.
#[derive(Default)]
pub struct Roster {
    /// All that are known, in the order of their names; of one server, that.
    pub members: Vec<Listed>,
    /// Whether they are known at all: a set is asked first.
    pub is_known: bool,
    /// Name of the replica set, where it is one and known.
    pub set_name: Option<String>,
    turn: AtomicUsize,
}

/// One member, and what it is now.
#[derive(Clone)]
pub struct Listed {
    /// The member.
    pub member: Arc<Member>,
    /// What it can be used for.
    pub part: Part,
    /// What it says that it is.
    pub state: MemberState,
    /// Whether clients are not told of it by its set.
    pub hidden: bool,
    /// Why it cannot be used, where it cannot.
    pub problem: Option<String>,
}

/// What a member can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Reads and writes: a primary, a mongos, a server of its own.
    Writable,
    /// Reads: a secondary that clients are told of.
    Readable,
    /// Neither, or nobody knows.
    Neither,
}

impl Roster {
    /// Of an upstream that is one server.
    pub(super) fn single(member: Arc<Member>) -> Self {
        let (part, state) = (Part::Writable, MemberState::Unknown);
        let members = vec![Listed { member, part, state, hidden: false, problem: None }];
        Self { members, is_known: true, set_name: None, turn: AtomicUsize::new(0) }
    }

    /// Of an upstream with `members`, in any order.
    pub fn new(mut members: Vec<Listed>, is_known: bool, set_name: Option<String>) -> Self {
        members.sort_by_cached_key(|listed| listed.member.address.to_string());
        Self { members, is_known, set_name, turn: AtomicUsize::new(0) }
    }

    /// The member of that name; case does not count.
    pub fn named(&self, name: &HostPort) -> Option<&Arc<Member>> {
        let is_named = |listed: &&Listed| {
            let address = &listed.member.address;
            address.port == name.port && address.host.eq_ignore_ascii_case(&name.host)
        };
        self.members.iter().find(is_named).map(|listed| &listed.member)
    }

    /// A member that `preference` is content with; of several, each in turn.
    pub(super) fn preferred(&self, preference: ReadPreference) -> Option<&Arc<Member>> {
        let one_of = |parts: &[Part]| self.one_in_turn(parts);
        match preference {
            ReadPreference::Primary => one_of(&[Part::Writable]),
            ReadPreference::PrimaryPreferred => one_of(&[Part::Writable]).or_else(|| one_of(&[Part::Readable])),
            ReadPreference::Secondary => one_of(&[Part::Readable]),
            ReadPreference::SecondaryPreferred => one_of(&[Part::Readable]).or_else(|| one_of(&[Part::Writable])),
            ReadPreference::Nearest => one_of(&[Part::Writable, Part::Readable]),
        }
    }

    /// Whether connections to the member of `news` may stay where they are: unless it says that it has become something else.
    pub(super) fn still_suits(&self, preference: ReadPreference, news: &Arc<News>) -> bool {
        let of_it = |listed: &&Listed| Arc::ptr_eq(&listed.member.news, news);
        let Some(listed) = self.members.iter().find(of_it) else { return true };
        // Who says nothing may still be what he was.
        if listed.state == MemberState::Unknown {
            return true;
        }
        match self.preferred(preference) {
            // New connections wait for one, which is better than an error after the other.
            None => false,
            Some(preferred) => {
                let part =
                    self.members.iter().find(|listed| Arc::ptr_eq(&listed.member, preferred)).map(|listed| listed.part);
                part == Some(listed.part) || (preference == ReadPreference::Nearest && listed.part != Part::Neither)
            }
        }
    }

    fn one_in_turn(&self, parts: &[Part]) -> Option<&Arc<Member>> {
        let fit: Vec<_> = self.members.iter().filter(|listed| parts.contains(&listed.part)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        fit.get(turn.checked_rem(fit.len())?).map(|listed| &listed.member)
    }
}
