//! Which rules match, and which key prevents the others from matching.
//!
//! Uses the policy itself: compiles a rule that does not match on its own, first with only its first key, then with one
//! more key each time, until it no longer matches. So a trace always agrees with the gateway.

use std::collections::HashSet;
use std::time::SystemTime;

use serde::Serialize;

use crate::command::{Exposes, Meaning, Resource};
use crate::config::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig};
use crate::identity::rfc3339;
use crate::policy::{CallerFacts, Policy, RuleId, View};

/// A rule, and whether it matches each resource that a command reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Its name.
    pub name: String,
    /// `deny`, `allow` or `audit`.
    pub action: &'static str,
    /// Whether the rule itself is a dry run.
    pub dry_run: bool,
    /// `expires`, as in `2026-12-01T18:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// `reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The key of `from` that excludes the caller, or `expires` of an expired rule; `None` if the rule applies to this
    /// caller.
    pub excludes_caller_by: Option<RuleKey>,
    /// One per resource, in their order; empty if the rule does not apply to this caller.
    pub places: Vec<ResourceTrace>,
}

/// Whether a rule matches one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResourceTrace {
    /// Whether the rule matches.
    pub matches: bool,
    /// The key of `to` that does not match; `None` if the rule matches.
    pub excluded_by: Option<RuleKey>,
}

/// A key of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKey {
    /// `principals` and `not_principals`.
    Principals,
    /// `namespaces` and `not_namespaces`.
    Namespaces,
    /// `sources` and `not_sources`.
    Sources,
    /// `listeners` and `not_listeners`.
    Listeners,
    /// `commands` and `not_commands`.
    Commands,
    /// `databases` and `not_databases`.
    Databases,
    /// `collections` and `not_collections`.
    Collections,
    /// `expires`, which has passed.
    Expires,
    /// No key, because the list is empty.
    Nothing,
}

/// Traces every rule of `config`. `policy` is its compiled policy, with the view of the caller.
pub(super) fn trace(
    config: &PolicyConfig,
    (policy, view): (&Policy, &View),
    caller: &CallerFacts<'_>,
    meaning: &Meaning<'_>,
) -> Vec<RuleTrace> {
    let about: HashSet<RuleId> = view.rules().iter().copied().collect();
    let matching: HashSet<(RuleId, usize)> = view.matching(meaning).into_iter().collect();
    let rules = (0..).map(RuleId).zip(&config.rules).map(|(id, rule)| {
        let excludes_caller_by = match policy.expiry(id) {
            Some(expiry) if expiry.is_expired => Some(RuleKey::Expires),
            _ if about.contains(&id) => None,
            _ => excluded_caller(rule, caller),
        };
        let places = if excludes_caller_by.is_some() { 0..0 } else { 0..meaning.reaches.len() };
        let places = places.map(|at| {
            let matches = matching.contains(&(id, at));
            let excluded_by = if matches { None } else { excluded_place(rule, caller, meaning, at) };
            ResourceTrace { matches, excluded_by }
        });
        RuleTrace {
            name: rule.name.clone(),
            action: action_word(rule.action),
            dry_run: rule.dry_run,
            expires: rule.expires.map(rfc3339),
            reason: rule.reason.clone(),
            excludes_caller_by,
            places: places.collect(),
        }
    });
    rules.collect()
}

/// The action as in the configuration.
fn action_word(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Audit => "audit",
    }
}

/// The first key of `from`, in the order of [`RuleKey`], with which no entry applies to the caller.
fn excluded_caller(rule: &RuleConfig, caller: &CallerFacts<'_>) -> Option<RuleKey> {
    const PARTS: [RuleKey; 4] = [RuleKey::Principals, RuleKey::Namespaces, RuleKey::Sources, RuleKey::Listeners];
    let from = rule.from.as_ref()?;
    if from.is_empty() {
        return Some(RuleKey::Nothing);
    }
    let about = |keys: usize| {
        let entries = from.iter().map(|entry| first_keys_of_from(entry, keys)).collect();
        let probe = RuleConfig { from: Some(entries), to: None, ..rule.clone() };
        alone(probe, caller).is_some_and(|view| !view.rules().is_empty())
    };
    (1..=PARTS.len()).find(|keys| !about(*keys)).map(|keys| PARTS[keys - 1])
}

fn first_keys_of_from(entry: &FromConfig, keys: usize) -> FromConfig {
    let mut entry = entry.clone();
    let blank = FromConfig::default();
    if keys < 4 {
        entry.listeners = blank.listeners;
    }
    if keys < 3 {
        (entry.sources, entry.not_sources) = (blank.sources, blank.not_sources);
    }
    if keys < 2 {
        entry.namespaces = blank.namespaces;
    }
    entry
}

/// The first key of `to` with which no entry matches this resource.
fn excluded_place(rule: &RuleConfig, caller: &CallerFacts<'_>, meaning: &Meaning<'_>, at: usize) -> Option<RuleKey> {
    const PARTS: [RuleKey; 3] = [RuleKey::Commands, RuleKey::Databases, RuleKey::Collections];
    let to = rule.to.as_ref()?;
    if to.is_empty() {
        return Some(RuleKey::Nothing);
    }
    let matches = |keys: usize| {
        let entries = to.iter().map(|entry| first_keys_of_to(entry, keys)).collect();
        let probe = RuleConfig { from: None, to: Some(entries), ..rule.clone() };
        alone(probe, caller).is_some_and(|view| view.matching(meaning).iter().any(|(_, place)| *place == at))
    };
    (1..=PARTS.len()).find(|keys| !matches(*keys)).map(|keys| PARTS[keys - 1])
}

fn first_keys_of_to(entry: &ToConfig, keys: usize) -> ToConfig {
    let mut entry = entry.clone();
    let blank = ToConfig::default();
    if keys < 3 {
        entry.collections = blank.collections;
    }
    if keys < 2 {
        entry.databases = blank.databases;
    }
    entry
}

/// The view of the caller on a policy with only this rule, without its expiry.
fn alone(rule: RuleConfig, caller: &CallerFacts<'_>) -> Option<View> {
    let config = PolicyConfig {
        enforcement: Enforcement::Enforce,
        deny_javascript: false,
        known_commands: std::collections::BTreeMap::new(),
        rules: vec![RuleConfig { expires: None, ..rule }],
    };
    Policy::compile(&config, SystemTime::UNIX_EPOCH).ok().map(|policy| policy.view(caller))
}

/// A resource as text, for example `shop.orders`.
pub(super) fn resource_text(resource: Resource<'_>) -> String {
    match resource {
        Resource::NoNamespace => "no namespace".to_owned(),
        Resource::Database(database) => format!("{database}, no collection"),
        Resource::Collection { database, collection } => format!("{database}.{collection}"),
        Resource::WholeDatabase(database) => format!("every collection of {database}"),
        Resource::WholeServer => "every database".to_owned(),
        Resource::SystemCollection { database, collection, exposes } => match exposes {
            Exposes::Database => format!("{database}.{collection}, which shows all of {database}"),
            Exposes::Server => format!("{database}.{collection}, which shows every database"),
            Exposes::Itself => format!("{database}.{collection}"),
        },
    }
}
