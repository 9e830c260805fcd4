//! One member of a replica set or sharded cluster, as far as is known.

use super::hello_facts::{HelloFacts, HelloRole};
use super::member_name::MemberName;

/// What a member is, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Takes writes.
    Primary,
    /// May be read from.
    Secondary,
    /// Votes, and has no data.
    Arbiter,
    /// A router of a sharded cluster.
    Mongos,
    /// Answers, and is nothing to be read from now.
    Other,
    /// Has not answered, or not since it was lost.
    Unknown,
    /// Belongs to something else than this upstream.
    WrongSet,
}

impl MemberState {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Primary, Self::Secondary, Self::Arbiter, Self::Mongos, Self::Other, Self::Unknown, Self::WrongSet];

    /// For metrics and the status page.
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

/// One member that is to be monitored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each was said or not said of it by somebody else")]
pub struct SetMember {
    /// What it is called.
    pub name: MemberName,
    /// What it is.
    pub state: MemberState,
    /// Whether the set's configuration hides it from clients.
    pub hidden: bool,
    /// Whether the operator named it.
    pub is_seed: bool,
    /// Whether it is to have a gateway address.
    pub is_mapped: bool,
    /// Why it is not what it should be: a loss, a refusal, another set.
    pub problem: Option<String>,
    /// Whether the set's own lists have it.
    pub(super) is_listed: bool,
    /// Whether it belongs to something else, as far as is known; also after it was lost.
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

    /// It has answered as a member of the set.
    pub(super) fn become_answered(&mut self, facts: &HelloFacts) {
        self.hidden = facts.hidden;
        self.is_foreign = false;
        self.problem = None;
        self.state = match facts.role {
            HelloRole::Primary => MemberState::Primary,
            HelloRole::Secondary => MemberState::Secondary,
            HelloRole::Arbiter => MemberState::Arbiter,
            HelloRole::Mongos => MemberState::Mongos,
            HelloRole::Ghost => {
                self.problem = Some("has no valid configuration of a replica set".to_owned());
                MemberState::Other
            }
            HelloRole::Other | HelloRole::Standalone => MemberState::Other,
        };
    }
}
