//! A policy as it looks from one caller, and what it says of a command.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::command::table::{self, Class};
use crate::command::{Meaning, Reach, ReadOptions, Resource, Unclear};

use super::index::Keep;
use super::judgement::{Effect, ErrorCode, Grounds, Judgement, Note};
use super::rule::RuleId;
use super::rule_set::{RuleSet, Tables, asked};

/// A policy as it looks from one caller.
#[derive(Debug, Clone)]
pub struct View {
    pub(super) rule_set: Arc<RuleSet>,
}

/// What is known of a command while its reaches are gone through.
#[derive(Default)]
struct Tally {
    denied: Option<(usize, RuleId)>,
    lacking: Option<usize>,
    allowed: Option<(usize, RuleId)>,
}

/// What a command comes to.
struct Outcome {
    refuses: bool,
    grounds: Grounds,
    reach: Option<usize>,
}

impl Tally {
    fn take(&mut self, at: usize, deny: Option<RuleId>, needs_allow: bool, allow: impl FnOnce() -> Option<RuleId>) {
        if let (Some(rule), None) = (deny, self.denied) {
            self.denied = Some((at, rule));
        }
        if needs_allow && self.denied.is_none() && self.lacking.is_none() {
            match allow() {
                Some(rule) => self.allowed = self.allowed.or(Some((at, rule))),
                None => self.lacking = Some(at),
            }
        }
    }

    /// The strictest: denied, then not allowed.
    fn outcome(&self, passes: Grounds) -> Outcome {
        let refuses = self.denied.is_some() || self.lacking.is_some();
        let (grounds, reach) = match (self.denied, self.lacking, self.allowed) {
            (Some((at, rule)), ..) => (Grounds::Rule(rule), Some(at)),
            (_, Some(at), _) => (Grounds::NoAllowRule, Some(at)),
            (.., Some((at, rule))) => (Grounds::Rule(rule), Some(at)),
            _ => (passes, None),
        };
        Outcome { refuses, grounds, reach }
    }
}

impl View {
    /// What has to be known of a command to judge it.
    pub fn read_options(&self) -> ReadOptions<'_> {
        let rule_set = &*self.rule_set;
        ReadOptions {
            javascript: rule_set.searches_javascript,
            stored_functions: rule_set.searches_stored_functions,
            known: rule_set.known.as_deref(),
        }
    }

    /// The code of the error for a command that cannot be judged: mongod's own for an unknown command or stage, if no rule
    /// would deny one that does anything on the whole server; else that of a denied command.
    pub fn code_of(&self, unclear: Unclear) -> ErrorCode {
        let code = match unclear {
            Unclear::UnknownCommand | Unclear::Removed(_) => ErrorCode::COMMAND_NOT_FOUND,
            Unclear::UnknownStage => ErrorCode::UNKNOWN_STAGE,
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
            cursors: SmallVec::new(),
        };
        let passes = self.judge(&anything).effect == Effect::Allow;
        if passes { code } else { ErrorCode::UNAUTHORIZED }
    }

    /// The rules that are about this caller, in their order.
    pub fn rules(&self) -> &[RuleId] {
        &self.rule_set.about
    }

    /// Judges a command. Allocates nothing, unless more than two rules take note of it, or nobody whom the same rules are
    /// about has sent such a command before.
    pub fn judge(&self, meaning: &Meaning<'_>) -> Judgement {
        let rule_set = &*self.rule_set;
        let flags = rule_set.flags;
        let by_kind = rule_set.by_kind(meaning);
        let is_essential = meaning.essential && !meaning.explained;
        let javascript = flags.deny_javascript && meaning.javascript;

        if meaning.reaches.is_empty() {
            // No command means nothing; whoever read this one has not understood it.
            return self.deny(Grounds::Unclear);
        }
        let (mut enforced, mut tried) = (Tally::default(), Tally::default());
        let mut notes = Notes::default();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let (tables, resource) = (rule_set.tables(by_kind, meaning, reach), &reach.resource);
            tables.audit.each(resource, |rule| notes.audit(rule, rule_set.rules.len()));
            if javascript || enforced.denied.is_some() {
                continue;
            }
            let deny = tables.deny.first(resource);
            // What is shown on the side is let in by the allow rule for the command itself.
            let asks_allow = !is_essential && !reach.incidental;
            enforced.take(at, deny, flags.needs_allow && asks_allow, || tables.allow.first(resource));
            if flags.has_dry_runs {
                let deny = tables.denies(resource, deny);
                tried.take(at, deny, flags.would_need_allow && asks_allow, || tables.allows(resource));
            }
        }

        let passes = if is_essential { Grounds::Handshake } else { Grounds::NoRule };
        let mut outcome = enforced.outcome(passes);
        if javascript {
            outcome = Outcome { refuses: true, grounds: Grounds::JavaScript, reach: None };
        }
        if outcome.refuses {
            return self.denial(outcome.grounds, outcome.reach, notes.list);
        }
        let tried = tried.outcome(passes);
        if flags.has_dry_runs && tried.refuses {
            notes.list.push((Note::WouldDeny, tried.grounds));
            outcome.reach = tried.reach;
        }
        Judgement { effect: Effect::Allow, grounds: outcome.grounds, reach: outcome.reach, notes: notes.list }
    }

    /// Judges what was refused on `grounds` of no rule: [`Grounds::Unclear`], [`Grounds::Cursor`]. Passes in a dry run,
    /// and where all rules are dry runs or audits.
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

    /// Every rule that matches some reach of a command, with the reach's index; for people who ask why, not for traffic:
    /// looks at all rules that are about the caller.
    pub fn matching(&self, meaning: &Meaning<'_>) -> Vec<(RuleId, usize)> {
        let rule_set = &*self.rule_set;
        let rules = || rule_set.about.iter().filter_map(|id| Some((*id, rule_set.rules.get(id.index())?)));
        let mut found = Vec::new();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let asked = asked(meaning, reach);
            let entries = rules().flat_map(|(id, rule)| rule.to.iter().map(move |to| (id, rule, to)));
            let entries = entries.filter(|(_, rule, to)| to.is_about(&asked, rule.action));
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

/// Up to here, looking through a list is cheaper than keeping a set beside it.
const NOTES_IN_LIST: usize = 8;

/// The notes of one judgement; a rule takes note once, however many reaches it matches.
#[derive(Default)]
struct Notes {
    list: SmallVec<[(Note, Grounds); 2]>,
    /// A bit for each rule; there once the list has grown.
    seen: Vec<u64>,
}

impl Notes {
    fn audit(&mut self, rule: RuleId, rules: usize) {
        let note = (Note::Audit, Grounds::Rule(rule));
        if self.list.len() < NOTES_IN_LIST {
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
