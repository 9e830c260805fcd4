//! The checked `[policy]` table and its rules.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ipnet::IpNet;

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// `enforcement`. Default: `enforce`.
    pub enforcement: Enforcement,
    /// `deny_javascript`: whether commands that run JavaScript on the server are denied. Default: `false`.
    pub deny_javascript: bool,
    /// `known_commands`: commands, and stages with `$` in front, that the gateway's tables lack, with the name of the
    /// class of each one. The policy checks the names of the classes. Default: empty.
    pub known_commands: BTreeMap<String, String>,
    /// `[[policy.rule]]`, in the order of the file, with unique names.
    pub rules: Vec<RuleConfig>,
}

/// `policy.enforcement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// `enforce`: a denied command is not forwarded.
    Enforce,
    /// `dry-run`: every command is forwarded. Commands that would be denied are counted and logged.
    DryRun,
}

/// One `[[policy.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// `name`: letters, digits, `-`, `_` and `.`; at most 128 bytes. Required.
    pub name: String,
    /// `action`. Required.
    pub action: Action,
    /// `dry_run`: the rule only counts and logs the commands that it would deny. Default: `false`.
    pub dry_run: bool,
    /// `expires`: from then on the rule matches nothing. An expired `allow` rule still counts as an `allow` rule, so
    /// that its end opens nothing. Default: never.
    pub expires: Option<SystemTime>,
    /// `reason`: why the rule exists, for people; at most 512 bytes without control characters.
    pub reason: Option<String>,
    /// `from`: the callers. The entries are combined with OR. `None` (absent) matches every caller, an empty list
    /// matches none.
    pub from: Option<Vec<FromConfig>>,
    /// `to`: the commands. The entries are combined with OR. `None` (absent) matches every command, an empty list
    /// matches none.
    pub to: Option<Vec<ToConfig>>,
}

/// `action` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `deny`: denies the commands that the rule matches.
    Deny,
    /// `allow`: allows the commands that the rule matches. With any allow rule, commands that none matches are denied
    /// (default deny).
    Allow,
    /// `audit`: counts and logs the commands that the rule matches.
    Audit,
}

/// A key and its `not_` key. Values are exact, `prefix*`, `*suffix`, or `*`. `None` is an absent key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// At least one of these must match.
    pub any: Option<Vec<String>>,
    /// None of these may match.
    pub not: Option<Vec<String>>,
}

/// One entry of `from`. The keys are combined with AND.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromConfig {
    /// `principals`, `not_principals`: SPIFFE IDs without `spiffe://`, or distinguished names.
    pub principals: Values,
    /// `namespaces`, `not_namespaces`: Kubernetes namespaces of SPIFFE IDs.
    pub namespaces: Values,
    /// `sources`: networks that must contain the client's address.
    pub sources: Option<Vec<IpNet>>,
    /// `not_sources`: networks that must not contain the client's address.
    pub not_sources: Option<Vec<IpNet>>,
    /// `listeners`, `not_listeners`: names of listeners.
    pub listeners: Values,
}

/// One entry of `to`. The keys are combined with AND.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToConfig {
    /// `commands`, `not_commands`: names of commands, and `@classes`. The policy checks that they exist.
    pub commands: Values,
    /// `databases`, `not_databases`: names of databases.
    pub databases: Values,
    /// `collections`, `not_collections`: names of collections, without the database.
    pub collections: Values,
}
