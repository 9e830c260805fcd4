//! One rule, compiled: whom it is about, and which commands. Which places it is about is for the index.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::command::table::Class;
use crate::config::{Action, FromConfig, RuleConfig, ToConfig};
use crate::identity::Principal;

use super::caller::CallerFacts;
use super::commands::{CommandFacts, CommandSelector};
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;

/// A rule's place in the configuration, from 0; also its place in tables of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

impl RuleId {
    /// As a place in tables.
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    /// Any suffices; one without keys where the configuration has no `from`.
    pub(super) from: Vec<From>,
    /// Any suffices; one without keys where the configuration has no `to`.
    pub(super) to: Vec<Arc<To>>,
}

/// An entry of `from`; all keys must match.
#[derive(Debug, Default)]
pub(super) struct From {
    pub(super) principals: Patterns,
    pub(super) namespaces: Patterns,
    pub(super) sources: Option<Vec<IpNet>>,
    pub(super) not_sources: Vec<IpNet>,
    pub(super) listeners: Patterns,
}

/// An entry of `to`; all keys must match.
#[derive(Debug, Default)]
pub(super) struct To {
    pub(super) commands: Option<CommandSelector>,
    pub(super) not_commands: Option<CommandSelector>,
    pub(super) databases: Patterns,
    pub(super) collections: Patterns,
}

impl Rule {
    /// Notes what is wrong with its commands in `problems`; `path` is its own, as `policy.rule[2]`.
    pub(super) fn compile(config: &RuleConfig, path: &str, problems: &mut Vec<PolicyProblem>) -> Self {
        let from =
            config.from.as_deref().map_or_else(|| vec![From::default()], |all| all.iter().map(From::new).collect());
        let to = match &config.to {
            None => vec![Arc::new(To::default())],
            Some(all) => all
                .iter()
                .enumerate()
                .map(|(at, entry)| Arc::new(To::compile(entry, &format!("{path}.to[{}]", at + 1), problems)))
                .collect(),
        };
        Self { name: config.name.clone(), action: config.action, dry_run: config.dry_run, from, to }
    }

    pub(super) fn is_about(&self, caller: &CallerFacts<'_>) -> bool {
        self.from.iter().any(|entry| entry.matches(caller))
    }

    /// Whether an entry of `from` has no key.
    pub(super) fn is_about_everybody(&self) -> bool {
        let is_blank = |keys: &Patterns| keys.any.is_none() && keys.not.is_empty();
        self.from.iter().any(|from| {
            is_blank(&from.principals)
                && is_blank(&from.namespaces)
                && is_blank(&from.listeners)
                && from.sources.is_none()
                && from.not_sources.is_empty()
        })
    }

    /// The only principals that it can be about, where each of its entries names them one by one.
    pub(super) fn exact_principals(&self) -> Option<Vec<&str>> {
        let mut names = Vec::new();
        for entry in &self.from {
            for pattern in entry.principals.any.as_deref()? {
                let Pattern::Exact(name) = pattern else { return None };
                names.push(&**name);
            }
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    pub(super) fn uses_sources(&self) -> bool {
        self.from.iter().any(|entry| entry.sources.is_some() || !entry.not_sources.is_empty())
    }

    /// Whether it asks if commands run JavaScript.
    pub(super) fn uses_javascript(&self) -> bool {
        let words = self.to.iter().flat_map(|to| to.commands.iter().chain(&to.not_commands));
        words.into_iter().any(|words| words.javascript)
    }
}

impl To {
    /// Whether it may decide about `system.js` of some database, whoever reads it.
    pub(super) fn may_take_stored_functions(&self) -> bool {
        !self.is_dead()
            && self.commands.as_ref().is_none_or(CommandSelector::may_match_reads)
            && self.collections.take(Some("system.js"))
    }

    /// Whether it matches everything, whatever is asked.
    pub(super) fn is_unlimited(&self) -> bool {
        let all = |patterns: &Patterns| patterns.ask_for_all() && patterns.not.is_empty();
        self.commands.as_ref().is_none_or(|words| words.all)
            && self.not_commands.is_none()
            && all(&self.databases)
            && all(&self.collections)
    }
}

impl From {
    fn new(config: &FromConfig) -> Self {
        Self {
            principals: Patterns::new(&config.principals),
            namespaces: Patterns::new(&config.namespaces),
            sources: config.sources.clone(),
            not_sources: config.not_sources.clone().unwrap_or_default(),
            listeners: Patterns::new(&config.listeners),
        }
    }

    fn matches(&self, caller: &CallerFacts<'_>) -> bool {
        self.principals.take(caller.principal.map(Principal::as_str))
            && self.namespaces.take(caller.principal.and_then(Principal::namespace))
            && self.listeners.take(Some(caller.listener))
            && self.take_source(caller.source)
    }

    fn take_source(&self, source: Option<IpAddr>) -> bool {
        let Some(source) = source.map(|source| source.to_canonical()) else { return self.sources.is_none() };
        let within = |networks: &[IpNet]| networks.iter().any(|network| contains(network, source));
        self.sources.as_deref().is_none_or(within) && !within(&self.not_sources)
    }
}

/// A network of v4 addresses that is written in v6, as `::ffff:10.0.0.0/104`, has these addresses too.
fn contains(network: &IpNet, source: IpAddr) -> bool {
    let mapped = || match source {
        IpAddr::V4(source) => network.contains(&IpAddr::V6(source.to_ipv6_mapped())),
        IpAddr::V6(_) => false,
    };
    network.contains(&source) || mapped()
}

impl To {
    fn compile(config: &ToConfig, path: &str, problems: &mut Vec<PolicyProblem>) -> Self {
        let mut words = |key: &str, texts: &Option<Vec<String>>| {
            texts
                .as_deref()
                .map(CommandSelector::new)?
                .map_err(|sentence| {
                    problems.push(PolicyProblem { key: format!("{path}.{key}"), sentence });
                })
                .ok()
        };
        Self {
            commands: words("commands", &config.commands.any),
            not_commands: words("not_commands", &config.commands.not),
            databases: Patterns::new(&config.databases),
            collections: Patterns::new(&config.collections),
        }
    }

    /// Whether it is about some databases or collections and not about others.
    pub(super) fn asks_for_places(&self) -> bool {
        [&self.databases, &self.collections].iter().any(|key| key.any.is_some() || !key.not.is_empty())
    }

    /// An empty list matches nothing, also where the key would not be asked.
    pub(super) fn is_dead(&self) -> bool {
        let no_command = self.commands.as_ref().is_some_and(CommandSelector::is_empty);
        no_command || self.databases.is_empty() || self.collections.is_empty()
    }

    /// Whether `commands` and `not_commands` match, so that the places decide.
    ///
    /// Of an `explain`, the command inside counts. Beside that `explain` itself can be named, always for the stricter
    /// answer: by a `deny`, and in the `not_commands` of an `allow`. What is essential must be named, and no `allow` is asked
    /// for it. A `deny` for some places means the end of a session or transaction, which has no place,
    /// only if it names it.
    pub(super) fn is_about(&self, asked: &CommandFacts, action: Action) -> bool {
        let named_as = |words: &CommandSelector| asked.explained && words.name_explain();
        let named = self
            .commands
            .as_ref()
            .is_some_and(|words| words.name(asked) || (action != Action::Allow && named_as(words)));
        let chosen = if asked.essential {
            named && action != Action::Allow
        } else {
            let is_meant = action == Action::Allow || asked.class != Class::Session || !self.asks_for_places();
            named || (is_meant && self.commands.as_ref().is_none_or(|words| words.all))
        };
        let taken_away = self
            .not_commands
            .as_ref()
            .is_some_and(|words| words.match_any(asked) || (action == Action::Allow && named_as(words)));
        chosen && !taken_away
    }
}
