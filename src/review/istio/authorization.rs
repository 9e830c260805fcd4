//! `AuthorizationPolicy`: which callers may connect, rule by rule.
//!
//! Istio and this gateway evaluate rules in the same order: deny, then allow if there is any allow policy, and audit in
//! addition. So each rule becomes one rule here. Policies that match nothing need care: an allow policy without a
//! matching rule still means default deny.

use std::collections::BTreeSet;

use super::fields::DocumentFields;
use super::head::{DocumentHead, selection};
use super::rule_reader::{ImportedRule, RuleReader};
use super::toml_text;
use crate::config::{Action, FromConfig, RuleConfig};
use crate::review::tree::Node;

/// The longest name of a rule.
const NAME_BYTES_MAX: usize = 128;

const DRY_RUN: &str = "istio.io/dry-run";

/// One document.
pub(super) struct ImportedPolicy {
    title: String,
    selection: String,
    namespace: Option<String>,
    name: String,
    action: Action,
    dry_run: bool,
    rules: Vec<ImportedRule>,
}

pub(super) fn read(
    head: &DocumentHead,
    document: &DocumentFields<'_>,
    spec: &DocumentFields<'_>,
    port: u16,
) -> ImportedPolicy {
    spec.only(
        &["selector", "targetRef", "targetRefs", "rules", "action"],
        &[("provider", "names an external authorizer (action CUSTOM), which this gateway does not support")],
    );
    if head.name.is_empty() {
        document.note("metadata.name", "is missing");
    }
    let action = action(spec);
    let rules = spec.tables("rules").unwrap_or_default();
    let rules = rules.iter().filter_map(|(path, entries)| {
        let fields = DocumentFields::new(spec.problems(), path, entries);
        RuleReader::new(head, port, fields).read()
    });
    ImportedPolicy {
        title: head.title(),
        selection: selection(spec),
        namespace: head.namespace.clone(),
        name: head.namespace.iter().map(|namespace| format!("{namespace}.")).chain([head.name.clone()]).collect(),
        action: action.unwrap_or(Action::Allow),
        dry_run: dry_run(document) && action != Some(Action::Audit),
        rules: rules.collect(),
    }
}

/// The action of a policy, if it has a supported one. The default of Istio is ALLOW.
fn action(spec: &DocumentFields<'_>) -> Option<Action> {
    match spec.text("action")? {
        "ALLOW" => Some(Action::Allow),
        "DENY" => Some(Action::Deny),
        "AUDIT" => Some(Action::Audit),
        "CUSTOM" => {
            spec.note("action", "is CUSTOM: this gateway does not support external authorizers");
            None
        }
        _ => {
            spec.note("action", "must be ALLOW, DENY or AUDIT");
            None
        }
    }
}

fn dry_run(document: &DocumentFields<'_>) -> bool {
    let annotations = document.get("metadata").and_then(|metadata| metadata.get("annotations"));
    match annotations.and_then(|annotations| annotations.get(DRY_RUN)) {
        None => false,
        Some(Node::Text(text)) if text == "true" => true,
        Some(Node::Text(text)) if text == "false" => false,
        Some(_) => {
            document.note(&format!("metadata.annotations[\"{DRY_RUN}\"]"), "must be \"true\" or \"false\"");
            false
        }
    }
}

impl ImportedPolicy {
    /// The workloads that the policy selects in the mesh.
    pub(super) fn scope(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} of namespace {namespace}", self.selection),
            None => self.selection.clone(),
        }
    }

    /// The rules as TOML. `taken` has the names of all previous rules.
    pub(super) fn into_text(self, taken: &mut BTreeSet<String>) -> String {
        let action = match self.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
        };
        let mut text = toml_text::comment(&format!("{}, for {}: {action}", self.title, self.selection));
        let count = self.rules.len();
        let mut is_first = true;
        for (at, rule) in self.rules.into_iter().enumerate() {
            let place = format!("spec.rules[{}]", at + 1);
            match rule {
                ImportedRule::Dropped(why) => text.push_str(&toml_text::comment(&format!("{place} {why}: left out."))),
                ImportedRule::Kept(from) => {
                    if !std::mem::take(&mut is_first) {
                        text.push('\n');
                    }
                    let name = if count == 1 { self.name.clone() } else { format!("{}.{}", self.name, at + 1) };
                    let (action, dry_run) = (self.action, self.dry_run);
                    let name = free_name(&name, taken);
                    text.push_str(&toml_text::rule(&imported_rule(name, action, dry_run, from)));
                }
            }
        }
        if is_first {
            text.push_str(&Self::without_rules(self.action, self.dry_run, &free_name(&self.name, taken)));
        }
        text
    }

    fn without_rules(action: Action, dry_run: bool, name: &str) -> String {
        if action != Action::Allow {
            return toml_text::comment("It matches nothing and has no effect.");
        }
        let comment = "It allows nothing, so everything that no other rule allows is denied.";
        let rule = imported_rule(name.to_owned(), action, dry_run, Some(Vec::new()));
        toml_text::comment(comment) + &toml_text::rule(&rule)
    }
}

fn imported_rule(name: String, action: Action, dry_run: bool, from: Option<Vec<FromConfig>>) -> RuleConfig {
    RuleConfig { name, action, dry_run, expires: None, reason: None, from, to: None }
}

/// A valid name similar to `wanted` that is not in `taken`.
fn free_name(wanted: &str, taken: &mut BTreeSet<String>) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let wanted: String = wanted.chars().map(allowed).collect();
    let numbered = |number: usize| {
        let end = if number == 1 { String::new() } else { format!("-{number}") };
        let start = wanted.get(..NAME_BYTES_MAX - end.len()).unwrap_or(&wanted);
        format!("{start}{end}")
    };
    // There is one more candidate than taken names, so one of them is free.
    let name = (1..=taken.len() + 1).map(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}
