//! Which rules match, and what of the others does not.
//!
//! Asks the policy itself: a rule that does not match is compiled alone with its first key only, then with one more, until
//! it does not match any more. So a trace cannot say anything else than the gateway does.

use std::collections::HashSet;

use serde::Serialize;

use crate::command::{Exposes, Meaning, Resource};
use crate::config::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig};
use crate::policy::{CallerFacts, Policy, RuleId, View};

/// A rule, and what it says of each place that a command reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Its name.
    pub name: String,
    /// `deny`, `allow` or `audit`.
    pub action: &'static str,
    /// Whether it is a dry run by itself.
    pub dry_run: bool,
    /// What of its `from` excludes the caller; `None` if it is about this caller.
    pub excludes_caller_by: Option<RuleKey>,
    /// One per place, in the order of the places; empty if it is not about this caller.
    pub places: Vec<PlaceTrace>,
}

/// What a rule says of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlaceTrace {
    /// Whether it matches there.
    pub matches: bool,
    /// What of its `to` does not match; `None` if it does.
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
    /// The whole list, which is empty.
    Nothing,
}

/// Looks at every rule of `config`; `view` is what its policy looks like from the caller.
pub(super) fn trace(
    config: &PolicyConfig,
    view: &View,
    caller: &CallerFacts<'_>,
    meaning: &Meaning<'_>,
) -> Vec<RuleTrace> {
    let about: HashSet<RuleId> = view.rules().iter().copied().collect();
    let matching: HashSet<(RuleId, usize)> = view.matching(meaning).into_iter().collect();
    let rules = (0..).map(RuleId).zip(&config.rules).map(|(id, rule)| {
        let excludes_caller_by = if about.contains(&id) { None } else { excluded_caller(rule, caller) };
        let places = if excludes_caller_by.is_some() { 0..0 } else { 0..meaning.reaches.len() };
        let places = places.map(|at| {
            let matches = matching.contains(&(id, at));
            let excluded_by = if matches { None } else { excluded_place(rule, caller, meaning, at) };
            PlaceTrace { matches, excluded_by }
        });
        RuleTrace {
            name: rule.name.clone(),
            action: action_word(rule.action),
            dry_run: rule.dry_run,
            excludes_caller_by,
            places: places.collect(),
        }
    });
    rules.collect()
}

/// As configuration has it.
fn action_word(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Audit => "audit",
    }
}

/// The first key of `from`, in the order of [`RuleKey`], with which no entry is about the caller any more.
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

/// The first key of `to` with which no entry matches any more at this place.
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

/// What a policy of this one rule looks like from the caller.
fn alone(rule: RuleConfig, caller: &CallerFacts<'_>) -> Option<View> {
    let config = PolicyConfig {
        enforcement: Enforcement::Enforce,
        deny_javascript: false,
        known_commands: std::collections::BTreeMap::new(),
        rules: vec![rule],
    };
    Policy::compile(&config).ok().map(|policy| policy.view(caller))
}

/// A place in words, as `shop.orders`.
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
