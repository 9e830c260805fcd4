//! One compiled rule: to which callers it applies, and which commands it selects. The index decides about resources.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::command::table::Class;
use crate::config::{Action, FromConfig, RuleConfig, ToConfig};
use crate::identity::Principal;

use super::caller::CallerFacts;
use super::commands::{CommandFacts, CommandSelector};
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;

/// The index of a rule in the configuration, from 0, and in tables of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

impl RuleId {
    /// The index into tables.
    pub(super) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) expires: Option<SystemTime>,
    pub(super) reason: Option<String>,
    /// Whether `expires` has passed. Such a rule has no entries, so that it matches nothing.
    pub(super) is_expired: bool,
    /// One matching entry suffices (OR). Without `from` in the configuration, there is one entry without keys.
    pub(super) from: Vec<From>,
    /// One matching entry suffices (OR). Without `to` in the configuration, there is one entry without keys.
    pub(super) to: Vec<Arc<To>>,
}

/// An entry of `from`. All of its keys must match (AND).
#[derive(Debug, Default)]
pub(super) struct From {
    pub(super) principals: Patterns,
    pub(super) namespaces: Patterns,
    pub(super) sources: Option<Vec<IpNet>>,
    pub(super) not_sources: Vec<IpNet>,
    pub(super) listeners: Patterns,
}

/// An entry of `to`. All of its keys must match (AND).
#[derive(Debug, Default)]
pub(super) struct To {
    pub(super) commands: Option<CommandSelector>,
    pub(super) not_commands: Option<CommandSelector>,
    pub(super) databases: Patterns,
    pub(super) collections: Patterns,
}

impl Rule {
    /// Compiles a rule and adds the problems of its commands to `problems`. `path` is the rule's key, for example
    /// `policy.rule[2]`. A rule that has expired at `now` gets no entries, but its commands are checked too.
    pub(super) fn compile(config: &RuleConfig, path: &str, now: SystemTime, problems: &mut Vec<PolicyProblem>) -> Self {
        let is_expired = is_past(config.expires, now);
        let mut from =
            config.from.as_deref().map_or_else(|| vec![From::default()], |all| all.iter().map(From::new).collect());
        let mut to = match &config.to {
            None => vec![Arc::new(To::default())],
            Some(all) => all
                .iter()
                .enumerate()
                .map(|(at, entry)| Arc::new(To::compile(entry, &format!("{path}.to[{}]", at + 1), problems)))
                .collect(),
        };
        if is_expired {
            from.clear();
            to.clear();
        }
        Self {
            name: config.name.clone(),
            action: config.action,
            dry_run: config.dry_run,
            expires: config.expires,
            reason: config.reason.clone(),
            is_expired,
            from,
            to,
        }
    }

    /// Whether the rule would have to be compiled again: it has expired, or the clock was set back.
    pub(super) fn is_outdated(&self, now: SystemTime) -> bool {
        self.is_expired != is_past(self.expires, now)
    }

    /// Whether the rule ends before `other`.
    pub(super) fn ends_before(&self, other: &Self) -> bool {
        self.expires.is_some_and(|expires| other.expires.is_none_or(|later| expires < later))
    }

    pub(super) fn applies_to(&self, caller: &CallerFacts<'_>) -> bool {
        self.from.iter().any(|entry| entry.matches(caller))
    }

    /// Whether an entry of `from` has no key, so that the rule applies to every caller.
    pub(super) fn applies_to_every_caller(&self) -> bool {
        self.from.iter().any(|from| from.listeners.is_blank() && from.limits_only_listeners())
    }

    /// Whether the rule may match a command of some caller of this listener.
    pub(super) fn may_match_at(&self, listener: &str) -> bool {
        self.from.iter().any(|from| from.may_match_at(listener)) && self.to.iter().any(|to| !to.never_matches())
    }

    /// Whether the rule matches every command of every caller of this listener.
    pub(super) fn denies_everything_at(&self, listener: &str) -> bool {
        self.from.iter().any(|from| from.matches_everyone_at(listener)) && self.to.iter().any(|to| to.is_unlimited())
    }

    /// The only principals to which the rule can apply, if each of its entries names its principals in full.
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

    /// Whether the rule depends on whether a command runs JavaScript.
    pub(super) fn uses_javascript(&self) -> bool {
        let selectors = self.to.iter().flat_map(|to| to.commands.iter().chain(&to.not_commands));
        selectors.into_iter().any(|selector| selector.javascript)
    }
}

/// A rule ends at the moment of `expires`, not after it.
fn is_past(expires: Option<SystemTime>, now: SystemTime) -> bool {
    expires.is_some_and(|expires| expires <= now)
}

impl To {
    /// Whether the entry may decide about a read of `system.js` in some database.
    pub(super) fn may_take_stored_functions(&self) -> bool {
        !self.never_matches()
            && self.commands.as_ref().is_none_or(CommandSelector::may_match_reads)
            && self.collections.match_fact(Some("system.js"))
    }

    /// Whether the entry matches every command on every resource.
    pub(super) fn is_unlimited(&self) -> bool {
        let all = |patterns: &Patterns| patterns.match_all() && patterns.not.is_empty();
        self.commands.as_ref().is_none_or(|selector| selector.all)
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
        self.principals.match_fact(caller.principal.map(Principal::as_str))
            && self.namespaces.match_fact(caller.principal.and_then(Principal::namespace))
            && self.listeners.match_fact(Some(caller.listener))
            && self.matches_source(caller.source)
    }

    fn may_match_at(&self, listener: &str) -> bool {
        self.listeners.match_fact(Some(listener))
            && !self.principals.is_empty()
            && !self.namespaces.is_empty()
            && self.sources.as_ref().is_none_or(|sources| !sources.is_empty())
    }

    fn matches_everyone_at(&self, listener: &str) -> bool {
        self.listeners.match_fact(Some(listener)) && self.limits_only_listeners()
    }

    fn limits_only_listeners(&self) -> bool {
        self.principals.is_blank()
            && self.namespaces.is_blank()
            && self.sources.is_none()
            && self.not_sources.is_empty()
    }

    fn matches_source(&self, source: Option<IpAddr>) -> bool {
        let Some(source) = source.map(|source| source.to_canonical()) else { return self.sources.is_none() };
        let within = |networks: &[IpNet]| networks.iter().any(|network| contains(network, source));
        self.sources.as_deref().is_none_or(within) && !within(&self.not_sources)
    }
}

/// Whether the network contains the address. An IPv4-mapped network, for example `::ffff:10.0.0.0/104`, contains the
/// IPv4 addresses as well.
fn contains(network: &IpNet, source: IpAddr) -> bool {
    let mapped = || match source {
        IpAddr::V4(source) => network.contains(&IpAddr::V6(source.to_ipv6_mapped())),
        IpAddr::V6(_) => false,
    };
    network.contains(&source) || mapped()
}

impl To {
    fn compile(config: &ToConfig, path: &str, problems: &mut Vec<PolicyProblem>) -> Self {
        let mut selector = |key: &str, texts: &Option<Vec<String>>| {
            texts
                .as_deref()
                .map(CommandSelector::new)?
                .map_err(|sentence| {
                    problems.push(PolicyProblem { key: format!("{path}.{key}"), sentence });
                })
                .ok()
        };
        Self {
            commands: selector("commands", &config.commands.any),
            not_commands: selector("not_commands", &config.commands.not),
            databases: Patterns::new(&config.databases),
            collections: Patterns::new(&config.collections),
        }
    }

    /// Whether the entry is limited to some databases or collections.
    pub(super) fn limits_resources(&self) -> bool {
        [&self.databases, &self.collections].iter().any(|key| key.any.is_some() || !key.not.is_empty())
    }

    /// Whether the entry has an empty list. Such an entry never matches, not even if the key would not be compared.
    pub(super) fn never_matches(&self) -> bool {
        let no_command = self.commands.as_ref().is_some_and(CommandSelector::is_empty);
        no_command || self.databases.is_empty() || self.collections.is_empty()
    }

    /// Whether `commands` and `not_commands` match, so that only the resources are left to decide.
    ///
    /// For an `explain`, the command inside counts. In addition, a rule can name `explain` itself, which only makes the
    /// policy stricter: in `commands` of a `deny`, and in `not_commands` of an `allow`. Essential commands match only
    /// if they are named, and never an `allow`. Commands that end a session or a transaction reach no resource: a
    /// `deny` that is limited to some resources matches them only if it names them.
    pub(super) fn applies_to(&self, facts: &CommandFacts, action: Action) -> bool {
        let named_as = |selector: &CommandSelector| facts.explained && selector.names_explain();
        let named = self
            .commands
            .as_ref()
            .is_some_and(|selector| selector.names(facts) || (action != Action::Allow && named_as(selector)));
        let selected = if facts.essential {
            named && action != Action::Allow
        } else {
            let is_meant = action == Action::Allow || facts.class != Class::Session || !self.limits_resources();
            named || (is_meant && self.commands.as_ref().is_none_or(|selector| selector.all))
        };
        let excluded = self
            .not_commands
            .as_ref()
            .is_some_and(|selector| selector.matches(facts) || (action == Action::Allow && named_as(selector)));
        selected && !excluded
    }
}
