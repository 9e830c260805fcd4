//! What is wrong with a policy.

/// What is wrong with a policy; the gateway does not take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Where, as `policy.rule[2].to[1].commands`; counted from 1, as people do.
    pub key: String,
    /// What is wrong and what would be right; begins with a verb, as the configuration's own problems do.
    pub sentence: String,
}
