//! Rules that do something, but probably not what the operator expects.

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
        let path = format!("policy.rule[{}]", at + 1);
        for (entry, to) in rule.to.iter().enumerate() {
            let path = format!("{path}.to[{}]", entry + 1);
            let mut note =
                |key: &str, sentence| warnings.push(PolicyProblem { key: format!("{path}.{key}"), sentence });
            if let Some(sentence) = qualified_collection(to, &databases) {
                note("collections", sentence);
            }
            if rule.action == Action::Allow && writes_without_reads(to, rules) {
                let sentence = "has @write, and no allow rule has @read for the same places: update, delete and \
                                findAndModify need both, so only inserts pass; add \"@read\"";
                note("commands", sentence.to_owned());
            }
            if rule.action == Action::Deny && !rule.dry_run && rule.is_about_everybody() && closes_windows(to) {
                let sentence = "also refuses everybody what shows every collection on the side: currentOp, getLog, top, \
                                change streams on a database or the cluster, and reads of the oplog; name the commands \
                                or the callers if that is not meant";
                note("collections", sentence.to_owned());
            }
        }
    }
    only_allow(rules, warnings);
}

/// Databases that a rule names in full.
fn named_databases(rules: &[Rule]) -> BTreeSet<&str> {
    let values = rules.iter().flat_map(|rule| &rule.to).flat_map(|to| to.databases.any.iter().flatten());
    let names = values.filter_map(|value| if let Pattern::Exact(name) = value { Some(&**name) } else { None });
    names.collect()
}

/// Collections are compared without their database.
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
                "has \"{}{star}\", but \"{}\" is a database, and collections are written without it; write \"{}{star}\"",
                shown(text),
                shown(database),
                shown(collection)
            )
        })
    })
}

/// Whether an entry lets in writes of documents that are found first, and no entry lets in the finding.
fn writes_without_reads(to: &To, rules: &[Rule]) -> bool {
    let has = |to: &To, class| to.commands.as_ref().is_none_or(|words| words.all || words.has_class(class));
    let is_named = |words: &CommandSelector| !words.all && words.has_class(Class::Write);
    if to.is_dead() || !to.commands.as_ref().is_some_and(is_named) || has(to, Class::Read) {
        return false;
    }
    let allows = rules.iter().filter(|rule| rule.action == Action::Allow).flat_map(|rule| &rule.to);
    !allows.into_iter().any(|other| {
        has(other, Class::Read) && meet(&other.databases, &to.databases) && meet(&other.collections, &to.collections)
    })
}

/// Whether some text may match both; certain only if it says no.
fn meet(one: &Patterns, other: &Patterns) -> bool {
    match (&one.any, &other.any) {
        (Some(one), Some(other)) => one.iter().any(|one| other.iter().any(|other| !one.excludes(other))),
        _ => true,
    }
}

/// Whether an entry is for some collections and leaves the commands open.
fn closes_windows(to: &To) -> bool {
    let some = to.collections.any.as_ref().is_some_and(|any| !any.contains(&Pattern::Any));
    some && !to.is_dead() && to.not_commands.is_none() && to.commands.as_ref().is_none_or(|words| words.all)
}

/// One `allow` rule makes every command of every caller need one. Beside `deny` rules this is easily overlooked.
fn only_allow(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let enforced = |action| rules.iter().enumerate().filter(move |(_, rule)| rule.action == action && !rule.dry_run);
    let mut allows = enforced(Action::Allow);
    if let (Some((at, rule)), None) = (allows.next(), allows.next())
        && enforced(Action::Deny).next().is_some()
        && !rule.is_about_everybody()
        && !rule.from.is_empty()
    {
        let sentence = "is the only allow rule, so all other callers are denied everything, also where no deny rule \
                        matches; add allow rules for them, or remove this one";
        warnings.push(PolicyProblem { key: format!("policy.rule[{}].action", at + 1), sentence: sentence.to_owned() });
    }
}
