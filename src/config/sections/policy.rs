//! `[policy]`.

use ipnet::IpNet;

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Default: enforce.
    pub enforcement: Enforcement,
    /// Whether commands that run JavaScript on the server are refused. Default: false.
    pub deny_javascript: bool,
    /// In the order of the file; their names differ.
    pub rules: Vec<RuleConfig>,
}

/// `policy.enforcement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// What is refused does not go upstream.
    Enforce,
    /// Everything goes upstream; what would be refused is counted and logged.
    DryRun,
}

/// One `[[policy.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// Of letters, digits, `-`, `_` and `.`; at most 128 bytes. Required.
    pub name: String,
    /// Required.
    pub action: Action,
    /// Only counts and logs what it would refuse. Default: false.
    pub dry_run: bool,
    /// Who; any entry suffices. `None` is everybody, an empty list nobody.
    pub from: Option<Vec<FromConfig>>,
    /// What; any entry suffices. `None` is everything, an empty list nothing.
    pub to: Option<Vec<ToConfig>>,
}

/// `action` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Refuses what it matches.
    Deny,
    /// Lets pass what it matches, and makes every command need such a rule.
    Allow,
    /// Counts and logs what it matches.
    Audit,
}

/// A key and its `not_`: values are exact, `prefix*`, `*suffix`, or `*`; `None` is an absent key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// One of them has to match.
    pub any: Option<Vec<String>>,
    /// None of them may match.
    pub not: Option<Vec<String>>,
}

/// One entry of `from`; all keys must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromConfig {
    /// Who: a SPIFFE id without `spiffe://`, or a distinguished name.
    pub principals: Values,
    /// Kubernetes namespaces of SPIFFE ids.
    pub namespaces: Values,
    /// Networks that the client's address is in.
    pub sources: Option<Vec<IpNet>>,
    /// Networks that the client's address is not in.
    pub not_sources: Option<Vec<IpNet>>,
    /// Names of listeners.
    pub listeners: Values,
}

/// One entry of `to`; all keys must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToConfig {
    /// Names and `@classes`; whether they exist is for the policy to say, which knows the commands.
    pub commands: Values,
    /// Databases.
    pub databases: Values,
    /// Collections.
    pub collections: Values,
}
