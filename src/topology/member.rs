//! The known state of one member of a replica set or sharded cluster.

use super::hello_facts::{HelloFacts, HelloRole};
use super::member_name::MemberName;

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
    /// Whether the server was last seen to belong to another set or cluster. It is kept while the server is
    /// unreachable.
    pub(super) is_foreign: bool,
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
            is_foreign: false,
        }
    }

    pub(super) fn become_unknown(&mut self, problem: String) {
        self.state = MemberState::Unknown;
        self.problem = Some(problem);
    }

    pub(super) fn refuse(&mut self, problem: String) {
        self.state = MemberState::WrongSet;
        self.is_foreign = true;
        self.problem = Some(problem);
    }

    /// Records a reply of the member as a member of this set.
    pub(super) fn record_reply(&mut self, facts: &HelloFacts) {
        self.hidden = facts.hidden;
        self.is_foreign = false;
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
