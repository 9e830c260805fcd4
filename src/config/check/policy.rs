//! `[policy]`: the rules as they are written, and what the rest of the configuration says of them.
//!
//! Which commands and classes there are is not known here; the policy says so when it compiles the rules.

use std::collections::BTreeMap;

use super::readers;
use crate::config::error::quoted;
use crate::config::raw::Given;
use crate::config::raw::Section;
use crate::config::raw::nearest;
use crate::config::sections::Action;
use crate::config::sections::Enforcement;
use crate::config::sections::FromConfig;
use crate::config::sections::IdentityConfig;
use crate::config::sections::ListenerConfig;
use crate::config::sections::Mode;
use crate::config::sections::PolicyConfig;
use crate::config::sections::ProxyProtocol;
use crate::config::sections::RuleConfig;
use crate::config::sections::ToConfig;
use crate::config::sections::Values;

/// A rule's name stands in metrics and in what clients read.
const NAME_BYTES_MAX: usize = 128;

/// Longer than any command of MongoDB.
const KNOWN_BYTES_MAX: usize = 64;

/// Each rule is a row of counters per listener.
const RULES_MAX: usize = 100_000;

/// What rules may rely on.
pub(super) struct Surroundings<'a> {
    /// The NAMEs of all listeners, also of those with problems.
    pub(super) listeners: &'a [String],
    /// Whether some client can have a principal. `true` where that is not known, because of other problems.
    pub(super) principals: bool,
}

/// `None` where there is nothing to decide: no rule, and no JavaScript to deny.
pub(super) fn policy(mut section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<PolicyConfig> {
    const ENFORCEMENTS: &[(&str, Enforcement)] = &[("enforce", Enforcement::Enforce), ("dry-run", Enforcement::DryRun)];
    const WRONG: &str = "must be tables, each begun by a line [[policy.rule]]; no variable can hold them";
    let enforcement = section.or("enforcement", Enforcement::Enforce, |given| readers::choice(given, ENFORCEMENTS));
    let deny_javascript = section.or("deny_javascript", false, readers::boolean);
    let known_commands = known_commands(&mut section);
    let tables = section.repeated_tables("rule", WRONG).unwrap_or_default();
    if tables.len() > RULES_MAX {
        section.note("rule", format!("has {} rules; at most {RULES_MAX} are allowed", tables.len()));
    }
    let mut names = BTreeMap::new();
    let rules: Vec<RuleConfig> = tables.into_iter().filter_map(|table| rule(table, surroundings, &mut names)).collect();
    let config = PolicyConfig { enforcement, deny_javascript, known_commands, rules };
    (deny_javascript || !config.rules.is_empty()).then_some(config)
}

fn known_commands(section: &mut Section<'_>) -> BTreeMap<String, String> {
    const WRONG: &str = "must be a table of names and classes, as in known_commands = { newThing = \"@admin\" }";
    let pairs = section.pairs("known_commands", WRONG, |name, given| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'-');
        if name.len() > KNOWN_BYTES_MAX || !name.bytes().all(is_plain) {
            let what = "is no name of a command or stage: at most 64 letters, digits, \"_\", \"$\" and \"-\"";
            return Err(what.to_owned());
        }
        Ok((name.to_owned(), given.text("a class, as in \"@admin\"")?.to_owned()))
    });
    pairs.into_iter().flatten().collect()
}

/// `names` are those of the rules before, with their paths.
fn rule(
    mut section: Section<'_>,
    surroundings: &Surroundings<'_>,
    names: &mut BTreeMap<String, String>,
) -> Option<RuleConfig> {
    const ACTIONS: &[(&str, Action)] = &[("deny", Action::Deny), ("allow", Action::Allow), ("audit", Action::Audit)];
    let path = section.path().to_owned();
    let what = "every rule has a name, which metrics, logs and refused clients show, as in name = \"readers\"";
    let name = section.required("name", what, |given| {
        let name = rule_name(given)?;
        match names.insert(name.clone(), path) {
            Some(first) => Err(format!("is the name of {first} too; each rule needs a name of its own")),
            None => Ok(name),
        }
    });
    let what = "say what the rule does: action = \"deny\", \"allow\" or \"audit\"";
    let action = section.required("action", what, |given| readers::choice(given, ACTIONS));
    let dry_run = section.or("dry_run", false, readers::boolean);
    let from = section.repeated_tables("from", "must be a list of tables, as in from = [{ principals = [\"*\"] }]");
    let from = from.map(|entries| entries.into_iter().map(|entry| from_entry(entry, surroundings)).collect());
    let to = section.repeated_tables("to", "must be a list of tables, as in to = [{ commands = [\"@read\"] }]");
    let to = to.map(|entries| entries.into_iter().map(to_entry).collect());
    Some(RuleConfig { name: name?, action: action?, dry_run, from, to })
}

fn rule_name(given: &Given<'_>) -> Result<String, String> {
    let what = "a name of letters, digits, \"-\", \"_\" and \".\", as in \"readers\"";
    let text = given.text(what)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match text.len() {
        length if length > NAME_BYTES_MAX => Err(format!("has {length} bytes; at most {NAME_BYTES_MAX} are allowed")),
        _ if text.bytes().all(allowed) => Ok(text.to_owned()),
        _ => Err(format!("must be {what}")),
    }
}

fn from_entry(mut section: Section<'_>, surroundings: &Surroundings<'_>) -> FromConfig {
    const NOBODY: &str = "names who clients are, and nothing in this configuration can say so; set mode = \"strict\" or \
                          \"permissive\", proxy_protocol or principal of a listener, or add an [[identity]]";
    for key in ["principals", "not_principals", "namespaces", "not_namespaces"] {
        if section.has(key) && !surroundings.principals {
            section.note(key, NOBODY.to_owned());
        }
    }
    FromConfig {
        principals: values(&mut section, "principals", "not_principals", readers::rule_principals),
        namespaces: values(&mut section, "namespaces", "not_namespaces", |given| {
            readers::patterns(given, "a Kubernetes namespace, as in \"shop\" or \"shop-*\"")
        }),
        sources: section.optional("sources", readers::networks),
        not_sources: section.optional("not_sources", readers::networks),
        listeners: values(&mut section, "listeners", "not_listeners", |given| {
            known_listeners(given, surroundings.listeners)
        }),
    }
}

fn to_entry(mut section: Section<'_>) -> ToConfig {
    ToConfig {
        commands: values(&mut section, "commands", "not_commands", |given| {
            readers::patterns(given, "a command or a class, as in \"find\", \"list*\" or \"@read\"")
        }),
        databases: values(&mut section, "databases", "not_databases", readers::databases),
        collections: values(&mut section, "collections", "not_collections", |given| {
            readers::patterns(given, "a collection without its database, as in \"orders\" or \"orders.*\"")
        }),
    }
}

fn values(
    section: &mut Section<'_>,
    key: &str,
    not_key: &str,
    read: impl Fn(&Given<'_>) -> Result<Vec<String>, String>,
) -> Values {
    Values { any: section.optional(key, &read), not: section.optional(not_key, &read) }
}

fn known_listeners(given: &Given<'_>, listeners: &[String]) -> Result<Vec<String>, String> {
    let patterns = readers::patterns(given, "the NAME of a [listener.NAME] table, as in \"orders\"")?;
    let known = |pattern: &String| pattern.contains('*') || listeners.contains(pattern);
    let Some(unknown) = patterns.iter().find(|pattern| !known(pattern)) else { return Ok(patterns) };
    let remedy = match nearest(unknown, listeners.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("there are {}", listeners.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
    };
    Err(format!("has {}, which is no listener; {remedy}", quoted(unknown)))
}

/// Who clients can turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) enum Principals {
    /// Whoever shows a certificate or comes through a proxy.
    Any,
    /// Only whom the configuration names itself; perhaps nobody.
    Only(Vec<String>),
}

impl Principals {
    pub(in crate::config) fn of<'a>(
        listeners: impl IntoIterator<Item = &'a ListenerConfig>,
        identities: &[IdentityConfig],
    ) -> Self {
        let mut named: Vec<String> = identities.iter().map(|identity| identity.principal.clone()).collect();
        for listener in listeners {
            if listener.mode != Mode::Plaintext || listener.proxy_protocol != ProxyProtocol::Off {
                return Self::Any;
            }
            named.extend(listener.principal.clone());
        }
        Self::Only(named)
    }
}
