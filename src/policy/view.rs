//! The policy for one caller, and how it judges a command.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::command::table::{self, Class};
use crate::command::{Listing, Meaning, Reach, ReadOptions, Resource, Unclear};

use super::index::Keep;
use super::judgement::{Effect, ErrorCode, Grounds, Judgement, Note};
use super::rule::RuleId;
use super::rule_set::{RuleSet, facts};
use super::tables::Tables;
use super::visibility::Rules;

/// The policy for one caller.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) rule_set: Arc<RuleSet>,
}

/// Collects the results for the reaches of a command, with the index of the first reach that had each result.
#[derive(Default)]
struct Tally {
    denied: Option<(usize, RuleId)>,
    not_allowed: Option<usize>,
    allowed: Option<(usize, RuleId)>,
}

/// The result for the whole command.
struct CommandResult {
    denies: bool,
    grounds: Grounds,
    reach: Option<usize>,
}

impl Tally {
    fn take(&mut self, at: usize, deny: Option<RuleId>, needs_allow: bool, allow: impl FnOnce() -> Option<RuleId>) {
        if let (Some(rule), None) = (deny, self.denied) {
            self.denied = Some((at, rule));
        }
        if needs_allow && self.denied.is_none() && self.not_allowed.is_none() {
            match allow() {
                Some(rule) => self.allowed = self.allowed.or(Some((at, rule))),
                None => self.not_allowed = Some(at),
            }
        }
    }

    /// The strictest result: denied, then not allowed. `default` are the grounds if no rule decided.
    fn result(&self, default: Grounds) -> CommandResult {
        let denies = self.denied.is_some() || self.not_allowed.is_some();
        let (grounds, reach) = match (self.denied, self.not_allowed, self.allowed) {
            (Some((at, rule)), ..) => (Grounds::Rule(rule), Some(at)),
            (_, Some(at), _) => (Grounds::NoAllowRule, Some(at)),
            (.., Some((at, rule))) => (Grounds::Rule(rule), Some(at)),
            _ => (default, None),
        };
        CommandResult { denies, grounds, reach }
    }
}

impl View {
    /// What must be read of a command to judge it.
    pub fn read_options(&self) -> ReadOptions<'_> {
        let rule_set = &*self.rule_set;
        ReadOptions {
            javascript: rule_set.searches_javascript,
            stored_functions: rule_set.searches_stored_functions,
            known: rule_set.known.as_deref(),
        }
    }

    /// The error code for a command that cannot be judged: mongod's own code for an unknown command or stage, if the
    /// policy allows this caller everything on the whole server; otherwise that of a denied command.
    pub fn code_of(&self, unclear: Unclear) -> ErrorCode {
        let code = match unclear {
            Unclear::UnknownCommand | Unclear::Removed(_) => ErrorCode::COMMAND_NOT_FOUND,
            Unclear::UnknownStage => ErrorCode::UNKNOWN_STAGE,
            Unclear::Pipeline => ErrorCode::TYPE_MISMATCH,
            Unclear::DatabaseName | Unclear::CollectionName => ErrorCode::INVALID_NAMESPACE,
            _ => return ErrorCode::UNAUTHORIZED,
        };
        let reach = |class| Reach { resource: Resource::WholeServer, class, incidental: false };
        let anything = Meaning {
            command: &table::KNOWN,
            explained: false,
            database: "admin",
            reaches: smallvec![reach(Class::Admin), reach(Class::Read)],
            javascript: true,
            essential: false,
            listing: None,
            cursors: SmallVec::new(),
            sessions: SmallVec::new(),
        };
        let allowed = self.judge(&anything).effect == Effect::Allow;
        if allowed { code } else { ErrorCode::UNAUTHORIZED }
    }

    /// The rules that apply to this caller, in their order.
    pub fn rules(&self) -> &[RuleId] {
        &self.rule_set.applicable
    }

    /// Judges a command. Does not allocate, unless more than two notes result, or this is the first command of its kind
    /// from a caller with these rules.
    pub fn judge(&self, meaning: &Meaning<'_>) -> Judgement {
        let rule_set = &*self.rule_set;
        let flags = rule_set.flags;
        let by_kind = rule_set.by_kind(meaning);
        let is_essential = meaning.essential && !meaning.explained;
        let javascript = flags.deny_javascript && meaning.javascript;

        if meaning.reaches.is_empty() {
            // Every command reaches something, so this one was not understood.
            return self.deny(Grounds::Unclear);
        }
        let (mut enforced, mut with_dry_runs) = (Tally::default(), Tally::default());
        let mut notes = Notes::default();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let (tables, resource) = (rule_set.tables(by_kind, meaning, reach), &reach.resource);
            tables.audit.each(resource, |rule| notes.audit(rule, rule_set.rules.len()));
            if javascript || enforced.denied.is_some() {
                continue;
            }
            let deny = tables.deny.first(resource);
            // An incidental reach needs no `allow` rule of its own.
            let asks_allow = !is_essential && !reach.incidental;
            enforced.take(at, deny, flags.needs_allow && asks_allow, || tables.allow.first(resource));
            if flags.has_dry_runs {
                let deny = tables.denies(resource, deny);
                with_dry_runs.take(at, deny, flags.would_need_allow && asks_allow, || tables.allows(resource));
            }
        }

        let default = if is_essential { Grounds::Handshake } else { Grounds::NoRule };
        let mut result = enforced.result(default);
        if javascript {
            result = CommandResult { denies: true, grounds: Grounds::JavaScript, reach: None };
        } else if result.denies {
            result = self.list_in_part(meaning, Rules::Enforced).unwrap_or(result);
        }
        if result.denies {
            return self.denial(result.grounds, result.reach, notes.list);
        }
        let mut tried = with_dry_runs.result(default);
        if tried.denies {
            tried = self.list_in_part(meaning, Rules::WithDryRuns).unwrap_or(tried);
        }
        if flags.has_dry_runs && tried.denies {
            notes.list.push((Note::WouldDeny, tried.grounds));
            result.reach = tried.reach;
        }
        Judgement { effect: Effect::Allow, grounds: result.grounds, reach: result.reach, notes: notes.list }
    }

    /// The result for a listing whose reply shows only what the caller may see; `None` for all other commands, and
    /// where the caller may not do anything in what is listed.
    #[cold]
    fn list_in_part(&self, meaning: &Meaning<'_>, rules: Rules) -> Option<CommandResult> {
        let listing = meaning.listing.filter(|_| !meaning.essential)?;
        let grounds = self.rule_set.visibility().lists(listing, meaning.database, rules)?;
        Some(CommandResult { denies: false, grounds, reach: Some(0) })
    }

    /// Denies a command on `grounds` other than a rule: [`Grounds::Unclear`] or [`Grounds::Cursor`]. The command passes
    /// in a dry run, and if all rules are dry runs or audits.
    pub fn deny(&self, grounds: Grounds) -> Judgement {
        self.denial(grounds, None, SmallVec::new())
    }

    fn denial(&self, grounds: Grounds, reach: Option<usize>, mut notes: SmallVec<[(Note, Grounds); 2]>) -> Judgement {
        if self.rule_set.flags.enforces {
            return Judgement { effect: Effect::Deny, grounds, reach, notes };
        }
        notes.push((Note::WouldDeny, grounds));
        Judgement { effect: Effect::Allow, grounds: Grounds::NoRule, reach, notes }
    }

    /// Whether the caller may see everything that a reply lists, so that it needs no filter. `database` is that of the
    /// command. The remaining questions are about a reply that does.
    pub fn sees_everything(&self, listing: Listing, database: &str) -> bool {
        !self.rule_set.flags.enforces || self.rule_set.visibility().reads_all(listing, database)
    }

    /// Whether the policy would allow the caller any command on a collection or view.
    pub fn may_see(&self, database: &str, collection: &str) -> bool {
        self.rule_set.visibility().sees(database, collection)
    }

    /// Whether the policy would allow the caller a command that reads the contents of all of `resources`.
    pub fn may_read(&self, resources: &[Resource<'_>]) -> bool {
        self.rule_set.visibility().reads(resources)
    }

    /// Whether the policy would allow the caller any command in a database: on a collection that it may have, or on the
    /// database.
    pub fn allows_anything_in(&self, database: &str) -> bool {
        self.rule_set.visibility().something_in(database, Rules::Enforced).is_some()
    }

    /// Every rule that matches a reach of a command, with the index of the reach. For `mongate policy explain`, not for
    /// traffic: compares all rules that apply to the caller.
    pub fn matching(&self, meaning: &Meaning<'_>) -> Vec<(RuleId, usize)> {
        let rule_set = &*self.rule_set;
        let rules = || rule_set.applicable.iter().filter_map(|id| Some((*id, rule_set.rules.get(id.index())?)));
        let mut found = Vec::new();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let facts = facts(meaning, reach);
            let entries = rules().flat_map(|(id, rule)| rule.to.iter().map(move |to| (id, rule, to)));
            let entries = entries.filter(|(_, rule, to)| to.applies_to(&facts, rule.action));
            let tables = Tables::new(entries, Keep::All);
            for index in [&tables.deny, &tables.allow, &tables.dry_deny, &tables.dry_allow, &tables.audit] {
                index.each(&reach.resource, |rule| found.push((rule, at)));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Up to this length, a linear search is cheaper than a set.
const LINEAR_SEARCH_MAX: usize = 8;

/// The notes of one judgement. A rule adds one note, even if it matches several reaches.
#[derive(Default)]
struct Notes {
    list: SmallVec<[(Note, Grounds); 2]>,
    /// A bit for each rule that is in the list; empty while the list is short.
    seen: Vec<u64>,
}

impl Notes {
    fn audit(&mut self, rule: RuleId, rules: usize) {
        let note = (Note::Audit, Grounds::Rule(rule));
        if self.list.len() < LINEAR_SEARCH_MAX {
            if !self.list.contains(&note) {
                self.list.push(note);
            }
            return;
        }
        if self.seen.is_empty() {
            self.seen = vec![0; rules.div_ceil(64)];
            for (_, grounds) in &self.list {
                if let Grounds::Rule(noted) = grounds {
                    self.seen[noted.index() / 64] |= 1 << (noted.index() % 64);
                }
            }
        }
        let (word, bit) = (&mut self.seen[rule.index() / 64], 1 << (rule.index() % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.list.push(note);
        }
    }
}
