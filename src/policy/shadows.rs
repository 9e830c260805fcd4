//! Rules that others leave nothing to decide.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::Action;

use super::commands::CommandSelector;
use super::index::names_window;
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;
use super::rule::{From, Rule, To};

/// Comparisons of two rules, after which no more shadows are looked for: a few seconds of one core for rules of some entries each.
const COMPARISONS_MAX: usize = 5_000_000;

/// Each rule is compared with those that can be about all of its callers.
pub(super) fn find(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let mut by_principal = HashMap::<&str, Vec<usize>>::new();
    let mut by_anything = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        match rule.exact_principals() {
            None => by_anything.push(at),
            Some(names) => {
                for name in names {
                    by_principal.entry(name).or_default().push(at);
                }
            }
        }
    }
    let mut comparisons = 0;
    for (at, rule) in rules.iter().enumerate() {
        let principal = rule.exact_principals().and_then(|names| names.first().copied());
        let named = principal.and_then(|principal| by_principal.get(principal)).into_iter().flatten();
        for other in named.chain(&by_anything).copied().filter(|other| *other != at) {
            comparisons += 1;
            if comparisons > COMPARISONS_MAX {
                return;
            }
            if let Some(sentence) = shadow(rules, at, other) {
                let key = format!("policy.rule[{}]", at + 1);
                warnings.push(PolicyProblem { key, sentence });
                break;
            }
        }
    }
}

/// What is certain of the rule `at` beside `other`.
fn shadow(rules: &[Rule], at: usize, other: usize) -> Option<String> {
    let (rule, by) = (rules.get(at)?, rules.get(other)?);
    let name = &rule.name;
    let by_name = || format!("policy.rule[{}], \"{}\"", other + 1, by.name);
    // A dry run decides nothing for what is enforced.
    if by.dry_run && !rule.dry_run {
        return None;
    }
    match (rule.action, by.action) {
        (Action::Deny, Action::Deny) | (Action::Allow, Action::Allow) => {
            let twins = by.dry_run == rule.dry_run && at < other && covers(rule, by);
            let says = if rule.action == Action::Deny { "refused" } else { "let pass" };
            (!twins && covers(by, rule))
                .then(|| format!("\"{name}\" decides nothing: all that it matches is {says} by {} too", by_name()))
        }
        (Action::Allow, Action::Deny) => covers(by, rule)
            .then(|| format!("\"{name}\" lets nothing pass: all that it matches is refused by {}", by_name())),
        _ => None,
    }
}

/// Whether all that `rule` matches is matched by `by`; may say no where it is.
fn covers(by: &Rule, rule: &Rule) -> bool {
    let live = |to: &&Arc<To>| !to.is_dead();
    !rule.from.is_empty()
        && rule.to.iter().any(|to| !to.is_dead())
        && rule.from.iter().all(|from| by.from.iter().any(|other| from_covers(other, from)))
        && rule
            .to
            .iter()
            .filter(live)
            .all(|to| by.to.iter().filter(live).any(|other| to_covers(other, by.action, to, rule.action)))
}

fn from_covers(by: &From, from: &From) -> bool {
    let within = |networks: &[IpNet], network: &IpNet| networks.iter().any(|net| net.contains(network));
    let sources = match (&by.sources, &from.sources) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(by), Some(sources)) => sources.iter().all(|source| within(by, source)),
    };
    sources
        && by.not_sources.iter().all(|not| within(&from.not_sources, not))
        && keys_cover(&by.principals, &from.principals)
        && keys_cover(&by.namespaces, &from.namespaces)
        && keys_cover(&by.listeners, &from.listeners)
}

fn to_covers(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    commands_cover(by, to, by_action, action)
        && (by.databases.ask_for_all() || keys_cover_any(&by.databases, &to.databases))
        && not_covers(&by.databases, &to.databases)
        && collections_cover(by, by_action, to, action)
        && not_covers(&by.collections, &to.collections)
        && (by_action != Action::Allow || windows_cover(by, to))
}

/// Databases of which a collection may show the whole server.
const WITH_WINDOWS_ON_SERVER: [&str; 3] = ["admin", "config", "local"];

/// Whether a window that `to` lets in by its name is let in by `by` too.
fn windows_cover(by: &To, to: &To) -> bool {
    let has_whole_database = by.collections.ask_for_all() && by.collections.not.is_empty();
    let has_whole_server = has_whole_database && by.databases.ask_for_all() && by.databases.not.is_empty();
    let values = |patterns: &'_ Patterns| patterns.any.iter().flatten().cloned().collect::<Vec<_>>();
    let windows = |to: &To| values(&to.collections).into_iter().filter(names_window).collect::<Vec<_>>();
    let own = windows(by);
    let wanted_databases: Vec<Pattern> = values(&to.databases).into_iter().filter(may_have_window_on_server).collect();
    let own_databases: Vec<Pattern> = values(&by.databases).into_iter().filter(|own| *own != Pattern::Any).collect();
    let names_databases = wanted_databases.iter().all(|wanted| own_databases.iter().any(|own| own.covers(wanted)));

    windows(to).iter().all(|wanted| {
        let is_named = own.iter().any(|own| own.covers(wanted));
        let on_database = has_whole_database || is_named;
        let on_server = has_whole_server || wanted_databases.is_empty() || (names_databases && is_named);
        on_database && on_server
    })
}

fn may_have_window_on_server(database: &Pattern) -> bool {
    *database != Pattern::Any && WITH_WINDOWS_ON_SERVER.iter().any(|with| database.matches(with))
}

/// A `deny` that asks for any collection does not match commands without one, while an `allow` does.
fn collections_cover(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    match &by.collections.any {
        None => true,
        Some(_) if by_action == Action::Allow && by.collections.ask_for_all() => true,
        Some(_) => {
            let needs_collection = by_action == action || !to.collections.ask_for_all();
            needs_collection && keys_cover_any(&by.collections, &to.collections)
        }
    }
}

fn commands_cover(by: &To, to: &To, by_action: Action, action: Action) -> bool {
    let nothing = CommandSelector::default();
    let (by_words, words) = (by.commands.as_ref(), to.commands.as_ref());
    let chosen = match by_words {
        Some(by_words) if !by_words.all => words.is_some_and(|words| !words.all && words.are_within(by_words)),
        _ => true,
    };
    // What belongs to the handshake is matched only where it is named; an allow is never asked for it.
    let handshake =
        action == Action::Allow || words.unwrap_or(&nothing).name_no_more_essentials_than(by_words.unwrap_or(&nothing));
    let not_taken_away = match (&by.not_commands, &to.not_commands) {
        (None, _) => true,
        (Some(by_not), Some(not)) => by_action == action && by_not.are_within(not) && (!by_not.all || not.all),
        (Some(by_not), None) => {
            // Names alone, of which none is taken away.
            words.is_some_and(|words| {
                let names_only = |words: &CommandSelector| !words.all && words.classes == 0 && !words.javascript;
                names_only(words)
                    && names_only(by_not)
                    && !words.names.meets(&by_not.names)
                    && !by_not.name_explain()
                    && !words.name_explain()
            })
        }
    };
    chosen && handshake && not_taken_away && sessions_cover(by, by_action, to, action)
}

/// A `deny` for some places matches sessions, which have none, only where it names them.
fn sessions_cover(by: &To, by_action: Action, to: &To, action: Action) -> bool {
    let names = |to: &To| to.commands.as_ref().is_some_and(CommandSelector::name_sessions);
    let all = |to: &To| to.commands.as_ref().is_none_or(|words| words.all);
    let may_match = names(to) || (all(to) && (action == Action::Allow || !to.asks_for_places()));
    let by_names = by.commands.as_ref().is_some_and(|words| !words.all);
    by_action == Action::Allow || !by.asks_for_places() || by_names || !may_match
}

/// For keys whose fact may be missing.
fn keys_cover(by: &Patterns, keys: &Patterns) -> bool {
    keys_cover_any(by, keys) && not_covers(by, keys)
}

fn keys_cover_any(by: &Patterns, keys: &Patterns) -> bool {
    match (&by.any, &keys.any) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(by), Some(any)) => any.iter().all(|pattern| by.iter().any(|wider| wider.covers(pattern))),
    }
}

/// Whether what `by` takes away is taken away from `keys` too, or was never in it.
fn not_covers(by: &Patterns, keys: &Patterns) -> bool {
    by.not.iter().all(|not| {
        let taken = keys.not.iter().any(|other| other.covers(not));
        let absent = keys.any.as_ref().is_some_and(|any| any.iter().all(|pattern| not.excludes(pattern)));
        taken || absent
    })
}
