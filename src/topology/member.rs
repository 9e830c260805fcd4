//! The known state of one member of a replica set or sharded cluster.

use std::time::Instant;

use super::candidate::{Candidate, Standing};
use super::hello_facts::{HelloFacts, HelloRole};
use super::member_name::MemberName;

/// From this number of failures in a row on, a member is taken to be down.
const DOWN_AFTER_FAILURES: u32 = 2;

/// The known state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// The primary.
    Primary,
    /// A secondary that can be read from.
    Secondary,
    /// An arbiter.
    Arbiter,
    /// A router of a sharded cluster.
    Mongos,
    /// The member replies, but cannot be read from.
    Other,
    /// The member has not replied yet, or not since it was lost.
    Unknown,
    /// The server does not belong to this upstream.
    WrongSet,
}

impl MemberState {
    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Primary, Self::Secondary, Self::Arbiter, Self::Mongos, Self::Other, Self::Unknown, Self::WrongSet];

    /// Label in metrics and in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Arbiter => "arbiter",
            Self::Mongos => "mongos",
            Self::Other => "other",
            Self::Unknown => "unknown",
            Self::WrongSet => "wrong_set",
        }
    }
}

/// One monitored member.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent property with its own source")]
pub struct SetMember {
    /// Name of the member.
    pub name: MemberName,
    /// State of the member.
    pub state: MemberState,
    /// Whether the configuration of the set hides the member from clients.
    pub hidden: bool,
    /// Whether the member is in the seed list.
    pub is_seed: bool,
    /// Whether the member needs an address of the gateway.
    pub is_mapped: bool,
    /// What is wrong with the member; continues a sentence that begins with its name.
    pub problem: Option<String>,
    /// Whether the set lists the member.
    pub(super) is_listed: bool,
    /// Whether the set lists the member as an arbiter.
    pub(super) is_arbiter: bool,
    /// Whether only a secondary lists the member yet, after a primary has listed the others.
    pub(super) awaits_primary: bool,
    /// Set while the member is only monitored because the set may list it in a better horizon than the one in use: when
    /// a reply last named it.
    pub(super) explored_at: Option<Instant>,
    /// Whether the server was last seen to belong to another set or cluster. It is kept while the server is
    /// unreachable.
    pub(super) is_foreign: bool,
    /// Whether the server has no configuration of the set.
    is_ghost: bool,
    /// How often in a row the member could not be asked. One failure may be only that of the monitor's connection.
    failures: u32,
}

impl SetMember {
    pub(super) fn new(name: MemberName) -> Self {
        Self {
            name,
            state: MemberState::Unknown,
            hidden: false,
            is_seed: false,
            is_mapped: false,
            problem: None,
            is_listed: false,
            is_arbiter: false,
            awaits_primary: false,
            explored_at: None,
            is_foreign: false,
            is_ghost: false,
            failures: 0,
        }
    }

    /// What a client that connects to the member finds, for the assignment of addresses.
    pub fn candidate(&self) -> Candidate {
        let standing = match self.state {
            MemberState::Primary | MemberState::Mongos => Standing::Writable,
            MemberState::Secondary if !self.hidden => Standing::Readable,
            _ if self.is_ghost || self.is_down() => Standing::Out,
            MemberState::Secondary | MemberState::Arbiter | MemberState::Other => Standing::Introduces,
            MemberState::Unknown | MemberState::WrongSet => Standing::Untried,
        };
        Candidate { name: self.name.clone(), standing, serves_clients: !self.hidden && !self.is_arbiter }
    }

    /// Whether the member is needed: the set lists it or may list it, or it is a seed.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_listed || self.is_seed || self.explored_at.is_some()
    }

    /// Whether the member belongs to the horizon in use: clients can be given to it, and it counts as a member.
    pub fn is_in_use(&self) -> bool {
        self.explored_at.is_none()
    }

    /// Records that the member has answered.
    pub(super) fn record_answer(&mut self) {
        self.failures = 0;
    }

    /// Whether the member could not be asked the last time, has never answered, or belongs to another set. A primary
    /// that was replaced by another one is not lost.
    pub(super) fn is_lost(&self) -> bool {
        let has_never_answered = self.state == MemberState::Unknown && self.problem.is_none();
        self.failures > 0 || has_never_answered || self.state == MemberState::WrongSet
    }

    /// Whether the member could not be asked several times.
    pub(super) fn is_down(&self) -> bool {
        self.failures >= DOWN_AFTER_FAILURES
    }

    /// Records that the member could not be asked, and why.
    pub(super) fn record_failure(&mut self, problem: String) {
        self.become_unknown(problem);
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn become_unknown(&mut self, problem: String) {
        self.state = MemberState::Unknown;
        self.problem = Some(problem);
    }

    pub(super) fn refuse(&mut self, problem: String) {
        self.failures = 0;
        self.state = MemberState::WrongSet;
        self.is_foreign = true;
        self.problem = Some(problem);
    }

    /// Records a reply of the member as a member of this set.
    pub(super) fn record_reply(&mut self, facts: &HelloFacts) {
        self.hidden = facts.hidden;
        self.is_foreign = false;
        self.is_ghost = facts.role == HelloRole::Ghost;
        self.failures = 0;
        self.problem = None;
        self.state = match facts.role {
            HelloRole::Primary => MemberState::Primary,
            HelloRole::Secondary => MemberState::Secondary,
            HelloRole::Arbiter => MemberState::Arbiter,
            HelloRole::Mongos => MemberState::Mongos,
            HelloRole::Ghost => {
                self.problem = Some("has no valid replica set configuration".to_owned());
                MemberState::Other
            }
            HelloRole::Other | HelloRole::Standalone => MemberState::Other,
        };
    }
}
