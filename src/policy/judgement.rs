//! The judgement of one command, and its reason.

use smallvec::SmallVec;

use super::rule::RuleId;

/// Why a command is allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grounds {
    /// A rule decided.
    Rule(RuleId),
    /// No `deny` rule matches, and there are no `allow` rules.
    NoRule,
    /// There are `allow` rules, and none matches: default deny.
    NoAllowRule,
    /// The command belongs to the handshake, which passes unless a `deny` rule names it.
    Handshake,
    /// The command runs JavaScript, and `deny_javascript` is set.
    JavaScript,
    /// The command cannot be understood.
    Unclear,
    /// The command reads or closes a cursor that does not belong to this caller.
    Cursor,
}

/// What the gateway does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It forwards the command.
    Allow,
    /// It answers the command with an error and does not forward it.
    Deny,
}

/// An error code of MongoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The number. Drivers decide by it.
    pub code: i32,
    /// Its name, `codeName`.
    pub name: &'static str,
}

impl ErrorCode {
    /// A denied command.
    pub const UNAUTHORIZED: Self = Self { code: 13, name: "Unauthorized" };
    /// An unknown command that no rule would deny: drivers then try another command.
    pub const COMMAND_NOT_FOUND: Self = Self { code: 59, name: "CommandNotFound" };
    /// An unknown stage that no rule would deny.
    pub const UNKNOWN_STAGE: Self = Self { code: 40324, name: "Location40324" };
    /// A cursor that does not exist. A change stream resumes by itself after it.
    pub const CURSOR_NOT_FOUND: Self = Self { code: 43, name: "CursorNotFound" };
    /// A pipeline of the wrong type, in a command that no rule would deny.
    pub const TYPE_MISMATCH: Self = Self { code: 14, name: "TypeMismatch" };
    /// An invalid name of a database or collection, in a command that no rule would deny.
    pub const INVALID_NAMESPACE: Self = Self { code: 73, name: "InvalidNamespace" };
}

/// What is counted and logged in addition to the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// An `audit` rule matches.
    Audit,
    /// The command would be denied if the policy or the rule were not a dry run.
    WouldDeny,
}

/// A decision on one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the command is forwarded.
    pub effect: Effect,
    /// Why.
    pub grounds: Grounds,
    /// The index of the reach that decided, if one did: the first of the strictest. With a [`Note::WouldDeny`], the
    /// reach that would be denied.
    pub reach: Option<usize>,
    /// What else must be counted.
    pub notes: SmallVec<[(Note, Grounds); 2]>,
}

impl Grounds {
    /// All grounds other than a rule, for tables of counters.
    pub const WITHOUT_RULE: [Self; 6] =
        [Self::NoRule, Self::NoAllowRule, Self::Handshake, Self::JavaScript, Self::Unclear, Self::Cursor];

    /// The label in metrics. It is in brackets, so that no rule can have the same name.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Rule(_) => "",
            Self::NoRule => "(no rule)",
            Self::NoAllowRule => "(no allow rule)",
            Self::Handshake => "(handshake)",
            Self::JavaScript => "(deny_javascript)",
            Self::Unclear => "(not understood)",
            Self::Cursor => "(cursor)",
        }
    }
}
