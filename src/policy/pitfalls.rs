//! Warnings about rules that have an effect, but probably not the effect that the operator expects.

use std::collections::BTreeSet;

use crate::command::table::Class;
use crate::config::Action;

use super::commands::CommandSelector;
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;
use super::rule::{Rule, To};

pub(super) fn find(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let databases = named_databases(rules);
    for (at, rule) in rules.iter().enumerate() {
        for (entry, to) in rule.to.iter().enumerate() {
            let mut warn = |key: &str, sentence| {
                let key = format!("policy.rule[{}].to[{}].{key}", at + 1, entry + 1);
                warnings.push(PolicyProblem { key, sentence });
            };
            if let Some(sentence) = qualified_collection(to, &databases) {
                warn("collections", sentence);
            }
            if rule.action == Action::Allow && allows_writes_without_reads(to, rules) {
                let sentence = "has @write, and no allow rule has @read for the same resources: update, delete and \
                                findAndModify need both, so only inserts are allowed; add \"@read\"";
                warn("commands", sentence.to_owned());
            }
            if rule.action == Action::Deny && !rule.dry_run && rule.applies_to_every_caller() && denies_incidental(to) {
                let sentence = "also denies every caller the commands that show this collection among others: \
                                currentOp, getLog, top, change streams on a database or the cluster, and reads of the \
                                oplog; if that is not intended, add commands, or name the callers in from";
                warn("collections", sentence.to_owned());
            }
        }
    }
    single_allow(rules, warnings);
}

/// Databases that a rule names in full.
fn named_databases(rules: &[Rule]) -> BTreeSet<&str> {
    let values = rules.iter().flat_map(|rule| &rule.to).flat_map(|to| to.databases.any.iter().flatten());
    let names = values.filter_map(|value| if let Pattern::Exact(name) = value { Some(&**name) } else { None });
    names.collect()
}

/// The warning about `collections = ["shop.orders"]`: a rule compares the name of a collection without its database.
fn qualified_collection(to: &To, databases: &BTreeSet<&str>) -> Option<String> {
    to.collections.any.iter().flatten().chain(&to.collections.not).find_map(|value| {
        let (text, star) = match value {
            Pattern::Exact(text) => (text, ""),
            Pattern::Prefix(text) => (text, "*"),
            Pattern::Suffix(_) | Pattern::Any => return None,
        };
        let (database, collection) = text.split_once('.')?;
        let shown = |text: &str| text.escape_debug().to_string();
        databases.contains(database).then(|| {
            format!(
                "has \"{}{star}\", but \"{}\" is a database, and the name of a collection does not include it; write \
                 \"{}{star}\"",
                shown(text),
                shown(database),
                shown(collection)
            )
        })
    })
}

/// Whether an entry allows writes that first find documents, while no entry allows reads of the same resources.
fn allows_writes_without_reads(to: &To, rules: &[Rule]) -> bool {
    let has = |to: &To, class| to.commands.as_ref().is_none_or(|commands| commands.all || commands.has_class(class));
    let names_writes = |commands: &CommandSelector| !commands.all && commands.has_class(Class::Write);
    if to.never_matches() || !to.commands.as_ref().is_some_and(names_writes) || has(to, Class::Read) {
        return false;
    }
    let allows = rules.iter().filter(|rule| rule.action == Action::Allow).flat_map(|rule| &rule.to);
    !allows.into_iter().any(|other| {
        has(other, Class::Read)
            && may_overlap(&other.databases, &to.databases)
            && may_overlap(&other.collections, &to.collections)
    })
}

/// Whether some text may match both keys. Only `false` is certain.
fn may_overlap(one: &Patterns, other: &Patterns) -> bool {
    match (&one.any, &other.any) {
        (Some(one), Some(other)) => one.iter().any(|one| other.iter().any(|other| !one.is_disjoint(other))),
        _ => true,
    }
}

/// Whether an entry denies every command on some collections, and so also the commands that show them incidentally.
fn denies_incidental(to: &To) -> bool {
    let some = to.collections.any.as_ref().is_some_and(|any| !any.contains(&Pattern::Any));
    some && !to.never_matches() && to.not_commands.is_none() && to.commands.as_ref().is_none_or(|commands| commands.all)
}

/// With a single `allow` rule, every command of every caller needs it. An operator easily overlooks that next to `deny`
/// rules.
fn single_allow(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let enforced = |action| rules.iter().enumerate().filter(move |(_, rule)| rule.action == action && !rule.dry_run);
    let mut allows = enforced(Action::Allow);
    if let (Some((at, rule)), None) = (allows.next(), allows.next())
        && enforced(Action::Deny).next().is_some()
        && !rule.applies_to_every_caller()
        && !rule.from.is_empty()
    {
        let sentence = "is the only allow rule, so all other callers are denied every command, even if no deny rule \
                        matches; add allow rules for them, or remove this one";
        warnings.push(PolicyProblem { key: format!("policy.rule[{}].action", at + 1), sentence: sentence.to_owned() });
    }
}
