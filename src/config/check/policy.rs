//! Checks `[policy]` and its rules against the rest of the configuration.
//!
//! The names of commands and command classes are checked later, when the policy is compiled.

use std::collections::BTreeMap;

use super::identity_readers;
use super::readers;
use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::schema::nearest;
use crate::config::section::Section;
use crate::config::sections::Action;
use crate::config::sections::Enforcement;
use crate::config::sections::FromConfig;
use crate::config::sections::IdentityConfig;
use crate::config::sections::ListenerAuthentication;
use crate::config::sections::ListenerConfig;
use crate::config::sections::ListenerMode;
use crate::config::sections::PolicyConfig;
use crate::config::sections::ProxyProtocol;
use crate::config::sections::RuleConfig;
use crate::config::sections::ToConfig;
use crate::config::sections::Values;

/// The longest name of a rule in bytes. It is shown in metrics and in error replies to clients.
const NAME_BYTES_MAX: usize = 128;

/// The longest reason of a rule in bytes. It is shown in logs and in `/status`.
const REASON_BYTES_MAX: usize = 512;

/// Longer than any command name of MongoDB.
const KNOWN_BYTES_MAX: usize = 64;

/// Maximum number of rules. Each rule has a set of counters per listener.
const RULES_MAX: usize = 100_000;

/// The parts of the rest of the configuration that rules depend on.
pub(super) struct PolicyContext<'a> {
    /// Names of all listeners, also of those with problems.
    pub(super) listeners: &'a [String],
    /// Whether a client can have a principal. `true` if that is not known because of other problems.
    pub(super) principals: bool,
}

/// `None` if there is no rule and JavaScript is not denied: every command is allowed then.
pub(super) fn policy(mut section: Section<'_>, context: &PolicyContext<'_>) -> Option<PolicyConfig> {
    const ENFORCEMENTS: &[(&str, Enforcement)] = &[("enforce", Enforcement::Enforce), ("dry-run", Enforcement::DryRun)];
    const WRONG: &str = "must be tables that begin with a line [[policy.rule]]; environment variables cannot set them";
    let enforcement = section.or("enforcement", Enforcement::Enforce, |given| readers::choice(given, ENFORCEMENTS));
    let deny_javascript = section.or("deny_javascript", false, readers::boolean);
    let known_commands = known_commands(&mut section);
    let tables = section.repeated_tables("rule", WRONG).unwrap_or_default();
    if tables.len() > RULES_MAX {
        section.note("rule", format!("has {} rules; at most {RULES_MAX} are allowed", tables.len()));
    }
    let mut names = BTreeMap::new();
    let rules: Vec<RuleConfig> = tables.into_iter().filter_map(|table| rule(table, context, &mut names)).collect();
    let config = PolicyConfig { enforcement, deny_javascript, known_commands, rules };
    (deny_javascript || !config.rules.is_empty()).then_some(config)
}

fn known_commands(section: &mut Section<'_>) -> BTreeMap<String, String> {
    const EXPECTED: &str = "must be a table of names and classes, as in known_commands = { newThing = \"@admin\" }";
    let pairs = section.pairs("known_commands", EXPECTED, |name, given| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'-');
        if name.len() > KNOWN_BYTES_MAX || !name.bytes().all(is_plain) {
            let problem = "is not the name of a command or stage: at most 64 letters, digits, \"_\", \"$\" and \"-\"";
            return Err(problem.to_owned());
        }
        Ok((name.to_owned(), given.text("a class, as in \"@admin\"")?.to_owned()))
    });
    pairs.into_iter().flatten().collect()
}

/// `names` has the names of the previous rules, with their paths.
fn rule(
    mut section: Section<'_>,
    context: &PolicyContext<'_>,
    names: &mut BTreeMap<String, String>,
) -> Option<RuleConfig> {
    const ACTIONS: &[(&str, Action)] = &[("deny", Action::Deny), ("allow", Action::Allow), ("audit", Action::Audit)];
    let path = section.path().to_owned();
    let what = "set a name, which is shown in metrics, logs and error replies, as in name = \"readers\"";
    let name = section.required("name", what, |given| {
        let name = rule_name(given)?;
        match names.insert(name.clone(), path) {
            Some(first) => Err(format!("is also the name of {first}; choose another name")),
            None => Ok(name),
        }
    });
    let what = "set what the rule does: action = \"deny\", \"allow\" or \"audit\"";
    let action = section.required("action", what, |given| readers::choice(given, ACTIONS));
    let dry_run = section.or("dry_run", false, readers::boolean);
    let expires = section.optional("expires", readers::instant);
    let reason = section.optional("reason", reason);
    let from = section.repeated_tables("from", "must be a list of tables, as in from = [{ principals = [\"*\"] }]");
    let from = from.map(|entries| entries.into_iter().map(|entry| from_entry(entry, context)).collect());
    let to = section.repeated_tables("to", "must be a list of tables, as in to = [{ commands = [\"@read\"] }]");
    let to = to.map(|entries| entries.into_iter().map(to_entry).collect());
    Some(RuleConfig { name: name?, action: action?, dry_run, expires, reason, from, to })
}

fn reason(given: &Given<'_>) -> Result<String, String> {
    let text = given.text("why the rule exists, as in \"incident 4711\"")?;
    match text.len() {
        length if length > REASON_BYTES_MAX => {
            Err(format!("has {length} bytes; at most {REASON_BYTES_MAX} are allowed"))
        }
        _ if text.chars().any(char::is_control) => Err("must be one line without control characters".to_owned()),
        _ => Ok(text.to_owned()),
    }
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

fn from_entry(mut section: Section<'_>, context: &PolicyContext<'_>) -> FromConfig {
    const NO_PRINCIPALS: &str = "requires clients with a principal, but no client has one in this configuration; set \
                                 mode = \"strict\" or \"permissive\", proxy_protocol or principal of a listener, or \
                                 add an [[identity]]";
    for key in ["principals", "not_principals", "namespaces", "not_namespaces"] {
        if section.has(key) && !context.principals {
            section.note(key, NO_PRINCIPALS.to_owned());
        }
    }
    FromConfig {
        principals: values(&mut section, "principals", "not_principals", identity_readers::rule_principals),
        namespaces: values(&mut section, "namespaces", "not_namespaces", |given| {
            identity_readers::patterns(given, "a Kubernetes namespace, as in \"shop\" or \"shop-*\"")
        }),
        sources: section.optional("sources", identity_readers::networks),
        not_sources: section.optional("not_sources", identity_readers::networks),
        listeners: values(&mut section, "listeners", "not_listeners", |given| {
            known_listeners(given, context.listeners)
        }),
    }
}

fn to_entry(mut section: Section<'_>) -> ToConfig {
    ToConfig {
        commands: values(&mut section, "commands", "not_commands", |given| {
            identity_readers::patterns(given, "a command or a command class, as in \"find\", \"list*\" or \"@read\"")
        }),
        databases: values(&mut section, "databases", "not_databases", identity_readers::databases),
        collections: values(&mut section, "collections", "not_collections", |given| {
            identity_readers::patterns(given, "a collection without its database, as in \"orders\" or \"orders.*\"")
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
    let patterns = identity_readers::patterns(given, "the NAME of a [listener.NAME] table, as in \"orders\"")?;
    let known = |pattern: &String| pattern.contains('*') || listeners.contains(pattern);
    let Some(unknown) = patterns.iter().find(|pattern| !known(pattern)) else { return Ok(patterns) };
    let remedy = match nearest(unknown, listeners.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("choose from {}", listeners.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
    };
    Err(format!("has {}, which is not a listener; {remedy}", quoted(unknown)))
}

/// The principals that clients can have.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) enum KnownPrincipals {
    /// Any principal: a listener accepts client certificates, PROXY headers or tokens.
    Any,
    /// Only the principals in the configuration; may be empty.
    Only(Vec<String>),
}

impl KnownPrincipals {
    pub(in crate::config) fn of<'a>(
        listeners: impl IntoIterator<Item = &'a ListenerConfig>,
        identities: &[IdentityConfig],
    ) -> Self {
        let mut named: Vec<String> = identities.iter().map(|identity| identity.principal.clone()).collect();
        for listener in listeners {
            let shows = listener.proxy_protocol != ProxyProtocol::Off
                || listener.authentication != ListenerAuthentication::None;
            if listener.mode != ListenerMode::Plaintext || shows {
                return Self::Any;
            }
            named.extend(listener.principal.clone());
        }
        Self::Only(named)
    }
}
