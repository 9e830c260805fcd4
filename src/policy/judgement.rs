//! A decision on one command, and why it was made.

use smallvec::SmallVec;

use super::rule::RuleId;

/// Why something passes or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grounds {
    /// A rule says so.
    Rule(RuleId),
    /// No rule refuses it, and there is no allow rule that it would need.
    NoRule,
    /// There are allow rules, and none matches.
    NoAllowRule,
    /// It belongs to the handshake, which passes unless a deny rule names it.
    Handshake,
    /// It runs JavaScript, and `deny_javascript` is set.
    JavaScript,
    /// It is not understood.
    Unclear,
    /// It reads or ends a cursor that this caller was not given.
    Cursor,
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It goes upstream.
    Allow,
    /// It is answered with an error, and does not go upstream.
    Deny,
}

/// The code of an error, as MongoDB numbers and names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode {
    /// The number, which drivers look at.
    pub code: i32,
    /// Its name, `codeName`.
    pub name: &'static str,
}

impl ErrorCode {
    /// What is denied.
    pub const UNAUTHORIZED: Self = Self { code: 13, name: "Unauthorized" };
    /// An unknown command, where no rule would deny it: drivers try another one then.
    pub const COMMAND_NOT_FOUND: Self = Self { code: 59, name: "CommandNotFound" };
    /// An unknown stage, where no rule would deny it.
    pub const UNKNOWN_STAGE: Self = Self { code: 40324, name: "Location40324" };
}

/// What is counted and logged beside the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// An `audit` rule matches.
    Audit,
    /// It would be refused, were the policy or the rule no dry run.
    WouldDeny,
}

/// A decision on one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub effect: Effect,
    /// Why.
    pub grounds: Grounds,
    /// Which of the meaning's reaches decided, where one did: the first of the strictest. Beside a
    /// [`Note::WouldDeny`] it is the one that would be refused.
    pub reach: Option<usize>,
    /// What else is to be counted.
    pub notes: SmallVec<[(Note, Grounds); 2]>,
}

impl Grounds {
    /// All that are no rules, for tables of counters.
    pub const WITHOUT_RULE: [Self; 6] =
        [Self::NoRule, Self::NoAllowRule, Self::Handshake, Self::JavaScript, Self::Unclear, Self::Cursor];

    /// In metrics; in brackets, so that no rule can have it.
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
