//! A problem of a policy, for the operator.

/// A problem of a policy: a warning, or an error, which makes the gateway reject the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The key, for example `policy.rule[2].to[1].commands`; indexes start at 1.
    pub key: String,
    /// What is wrong, and the remedy. Begins with a verb, like the problems of the configuration.
    pub sentence: String,
}
