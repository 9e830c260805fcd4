//! The rules that apply to a caller, and the lookup tables made from them.
//!
//! Callers to which the same rules apply share one [`RuleSet`]. The tables for a command are made when the first such
//! command arrives. After that, a judgement only looks up the resources of the command.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::command::table::{COMMANDS, Class};
use crate::command::{KnownNames, Meaning, Reach};
use crate::config::Action;

use super::commands::CommandFacts;
use super::index::Keep;
use super::rule::{Rule, RuleId, To};
use super::tables::Tables;
use super::visibility::Visibility;

/// Facts about the whole policy, the same for every caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the facts are independent, and each is used by its name")]
pub(super) struct PolicyFlags {
    /// Whether the policy can deny anything: false in a dry run, and if all rules are dry runs or audits.
    pub(super) enforces: bool,
    pub(super) deny_javascript: bool,
    /// Whether an `allow` rule is enforced, so that a command needs one that matches.
    pub(super) needs_allow: bool,
    /// The same, including dry runs.
    pub(super) would_need_allow: bool,
    /// Whether any `allow` or `deny` rule is a dry run.
    pub(super) has_dry_runs: bool,
}

/// The rules that apply to a caller, and the lookup tables made from them.
#[derive(Debug)]
pub(super) struct RuleSet {
    pub(super) flags: PolicyFlags,
    pub(super) rules: Arc<[Rule]>,
    /// Those of `rules` that apply to these callers, in their order.
    pub(super) applicable: Vec<RuleId>,
    pub(super) searches_javascript: bool,
    pub(super) searches_stored_functions: bool,
    /// Commands and stages that the operator declares as known.
    pub(super) known: Option<Arc<KnownNames>>,
    by_command: Box<[OnceLock<Box<ByKind>>; COMMANDS]>,
    /// Made when the caller first asks for a list.
    visibility: OnceLock<Box<Visibility>>,
    /// The tables by the set of entries in them: commands that the same entries select share their tables.
    tables: Mutex<HashMap<Box<[u64]>, Arc<Tables>>>,
}

/// The tables of one command.
#[derive(Debug)]
pub(super) struct ByKind {
    /// Indexed by [`kind`].
    tables: [OnceLock<Arc<Tables>>; KINDS],
}

/// The class of the reach, whether the command is essential, whether it runs JavaScript, and whether it is explained.
const KINDS: usize = 12 * 8;

fn kind(facts: &CommandFacts) -> usize {
    let class = match facts.class {
        Class::Handshake => 0,
        Class::Auth => 1,
        Class::Session => 2,
        Class::Read => 3,
        Class::Write => 4,
        Class::Ddl => 5,
        Class::Wrapper => 6,
        Class::AdminRead => 7,
        Class::Admin => 8,
        Class::UserAdmin => 9,
        Class::Cluster => 10,
        Class::Legacy => 11,
    };
    class * 8 + usize::from(facts.essential) * 4 + usize::from(facts.javascript) * 2 + usize::from(facts.explained)
}

impl RuleSet {
    pub(super) fn new(
        flags: PolicyFlags,
        rules: &Arc<[Rule]>,
        applicable: Vec<RuleId>,
        known: Option<Arc<KnownNames>>,
    ) -> Self {
        let own = || applicable.iter().filter_map(|id| rules.get(id.index()));
        let javascript = own().any(Rule::uses_javascript);
        let searches_stored_functions = stored_functions_matter(flags, own());
        Self {
            flags,
            rules: Arc::clone(rules),
            applicable,
            searches_javascript: javascript || flags.deny_javascript,
            searches_stored_functions,
            known,
            visibility: OnceLock::new(),
            by_command: Box::new([const { OnceLock::new() }; COMMANDS]),
            tables: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn by_kind(&self, meaning: &Meaning<'_>) -> &ByKind {
        self.by_command[meaning.command.id.index()]
            .get_or_init(|| Box::new(ByKind { tables: [const { OnceLock::new() }; KINDS] }))
    }

    pub(super) fn tables<'a>(&self, by_kind: &'a ByKind, meaning: &Meaning<'_>, reach: &Reach<'_>) -> &'a Tables {
        let facts = facts(meaning, reach);
        by_kind.tables[kind(&facts)].get_or_init(|| self.shared_tables(&facts))
    }

    /// What these callers may see in a list of collections or databases.
    pub(super) fn visibility(&self) -> &Visibility {
        self.visibility.get_or_init(|| {
            let PolicyFlags { needs_allow, would_need_allow, deny_javascript, .. } = self.flags;
            let entries: Vec<_> = self.entries().collect();
            let tables = |facts: &CommandFacts| self.shared_tables(facts);
            Box::new(Visibility::new([needs_allow, would_need_allow], deny_javascript, &entries, tables))
        })
    }

    /// Every entry of every applicable rule.
    pub(super) fn entries(&self) -> impl Iterator<Item = (RuleId, &Rule, &Arc<To>)> {
        let rules = self.applicable.iter().filter_map(|id| Some((*id, self.rules.get(id.index())?)));
        rules.flat_map(|(id, rule)| rule.to.iter().map(move |to| (id, rule, to)))
    }

    /// Makes the tables from every entry of every applicable rule, or shares those that have the same entries.
    pub(super) fn shared_tables(&self, facts: &CommandFacts) -> Arc<Tables> {
        let entries = || self.entries();
        let mut which = vec![0_u64; entries().count().div_ceil(64)].into_boxed_slice();
        for (at, (_, rule, to)) in entries().enumerate() {
            if to.applies_to(facts, rule.action) {
                which[at / 64] |= 1 << (at % 64);
            }
        }
        // The lock is held while the tables are made, so that they are made once. A thread that panics here leaves no
        // partial entry in the map.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = tables.get(&which) {
            return Arc::clone(tables);
        }
        let chosen = entries().enumerate().filter(|(at, _)| which[at / 64] & (1 << (at % 64)) != 0);
        let made = Arc::new(Tables::new(chosen.map(|(_, entry)| entry), Keep::First));
        tables.insert(which, Arc::clone(&made));
        made
    }
}

pub(super) fn facts(meaning: &Meaning<'_>, reach: &Reach<'_>) -> CommandFacts {
    CommandFacts {
        command: meaning.command,
        class: reach.class,
        javascript: meaning.javascript,
        explained: meaning.explained,
        essential: meaning.essential && !meaning.explained,
    }
}

/// Whether the decision on a command may depend on whether the command also reads `system.js`.
fn stored_functions_matter<'a>(flags: PolicyFlags, own: impl Iterator<Item = &'a Rule> + Clone) -> bool {
    let may_lack_allow = flags.would_need_allow && {
        let mut allows = own.clone().filter(|rule| rule.action == Action::Allow && !rule.dry_run);
        !allows.any(|rule| rule.to.iter().any(|to| to.is_unlimited()))
    };
    let mut others = own.filter(|rule| rule.action != Action::Allow);
    may_lack_allow || others.any(|rule| rule.to.iter().any(|to| to.may_take_stored_functions()))
}
