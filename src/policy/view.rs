//! A policy as it looks from one caller, and what it says of a command.
//!
//! Callers that the same rules are about share one [`RuleSet`]. What it has to know of a command is worked out when such
//! a command is first seen: after that, judging looks up where the command reaches, and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use smallvec::SmallVec;

use crate::command::table::{COMMANDS, Class};
use crate::command::{Look, Meaning, Place, Reach};
use crate::config::Action;

use super::index::{Index, Keep, Reading};
use super::rule::{Rule, To};
use super::words::Asked;
use super::{Grounds, Judgement, Note, RuleId, Verdict, View};

/// What is true of the whole policy, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, asked for by its name")]
pub(super) struct PolicyFlags {
    /// Whether anything is ever refused: not in a dry run, and not while all rules are dry runs or audits.
    pub(super) enforces: bool,
    pub(super) deny_javascript: bool,
    /// Whether there is an allow rule that is enforced, so that commands need one.
    pub(super) needs_allow: bool,
    /// The same, dry runs counted.
    pub(super) would_need_allow: bool,
    /// Whether any allow or deny rule is a dry run.
    pub(super) has_dry_runs: bool,
}

/// The rules that are about some callers, and what has been worked out of them.
#[derive(Debug)]
pub(super) struct RuleSet {
    frame: PolicyFlags,
    rules: Arc<[Rule]>,
    /// Those of `rules` that are about these callers, in their order.
    about: Vec<RuleId>,
    look: Look,
    by_command: Box<[OnceLock<Box<ByKind>>; COMMANDS]>,
    /// Commands that the same entries are about have one table.
    tables: Mutex<HashMap<Box<[u64]>, Arc<Tables>>>,
}

/// The tables of one command.
#[derive(Debug)]
struct ByKind {
    is_handshake: bool,
    /// By [`kind`].
    tables: [OnceLock<Arc<Tables>>; KINDS],
}

/// What the rules say of one kind of command, by place.
#[derive(Debug)]
struct Tables {
    deny: Index,
    allow: Index,
    dry_deny: Index,
    dry_allow: Index,
    audit: Index,
}

/// Class of the reach, whether JavaScript runs, whether it is explained.
const KINDS: usize = 12 * 4;

fn kind(asked: &Asked) -> usize {
    let class = match asked.class {
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
    class * 4 + usize::from(asked.javascript) * 2 + usize::from(asked.explained)
}

impl RuleSet {
    pub(super) fn new(frame: PolicyFlags, rules: &Arc<[Rule]>, about: Vec<RuleId>) -> Self {
        let javascript = about.iter().filter_map(|id| rules.get(id.index())).any(Rule::uses_javascript);
        Self {
            frame,
            rules: Arc::clone(rules),
            about,
            look: Look { javascript: javascript || frame.deny_javascript },
            by_command: Box::new([const { OnceLock::new() }; COMMANDS]),
            tables: Mutex::new(HashMap::new()),
        }
    }

    fn by_kind(&self, meaning: &Meaning<'_>) -> &ByKind {
        self.by_command[meaning.command.id.index()].get_or_init(|| {
            let asked =
                Asked { command: meaning.command, class: meaning.command.class, javascript: false, explained: false };
            Box::new(ByKind { is_handshake: asked.is_handshake(), tables: [const { OnceLock::new() }; KINDS] })
        })
    }

    fn tables<'a>(&self, by_kind: &'a ByKind, meaning: &Meaning<'_>, reach: &Reach<'_>) -> &'a Tables {
        let asked = asked(meaning, reach);
        by_kind.tables[kind(&asked)].get_or_init(|| self.shared_tables(&asked))
    }

    /// Looks at every entry of every rule that is about these callers.
    fn shared_tables(&self, asked: &Asked) -> Arc<Tables> {
        let entries = || self.about.iter().filter_map(|id| Some((*id, self.rules.get(id.index())?)));
        let entries = || entries().flat_map(|(id, rule)| rule.to.iter().map(move |to| (id, rule, to)));
        let mut which = vec![0_u64; entries().count().div_ceil(64)].into_boxed_slice();
        for (at, (_, rule, to)) in entries().enumerate() {
            if to.is_about(asked, rule.action) {
                which[at / 64] |= 1 << (at % 64);
            }
        }
        // Held while a table is made, so that it is made once; a thread that died here has left nothing half-made.
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

fn asked(meaning: &Meaning<'_>, reach: &Reach<'_>) -> Asked {
    Asked { command: meaning.command, class: reach.class, javascript: meaning.javascript, explained: meaning.explained }
}

impl Tables {
    fn new<'a>(entries: impl Iterator<Item = (RuleId, &'a Rule, &'a Arc<To>)>, keep: Keep) -> Self {
        let mut tables = Self {
            deny: Index::new(Reading::Meets, keep),
            allow: Index::new(Reading::Covers, keep),
            dry_deny: Index::new(Reading::Meets, keep),
            dry_allow: Index::new(Reading::Covers, keep),
            audit: Index::new(Reading::Meets, Keep::All),
        };
        for (id, rule, to) in entries {
            let index = match (rule.action, rule.dry_run) {
                (Action::Deny, false) => &mut tables.deny,
                (Action::Deny, true) => &mut tables.dry_deny,
                (Action::Allow, false) => &mut tables.allow,
                (Action::Allow, true) => &mut tables.dry_allow,
                (Action::Audit, _) => &mut tables.audit,
            };
            index.add(id, to);
        }
        tables
    }

    /// The first deny rule that matches, dry runs counted.
    fn denies(&self, place: &Place<'_>, enforced: Option<RuleId>) -> Option<RuleId> {
        enforced.into_iter().chain(self.dry_deny.first(place)).min()
    }

    fn allows(&self, place: &Place<'_>) -> Option<RuleId> {
        self.allow.first(place).into_iter().chain(self.dry_allow.first(place)).min()
    }
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
    pub fn look(&self) -> Look {
        self.outlook.look
    }

    /// The rules that are about this caller, in their order.
    pub fn rules(&self) -> &[RuleId] {
        &self.outlook.about
    }

    /// Judges a command. Allocates nothing, unless more than two rules take note of it, or nobody whom the same rules are
    /// about has sent such a command before.
    pub fn judge(&self, meaning: &Meaning<'_>) -> Judgement {
        let outlook = &*self.outlook;
        let frame = outlook.frame;
        let by_kind = outlook.by_kind(meaning);
        let is_handshake = by_kind.is_handshake && !meaning.explained;
        let javascript = frame.deny_javascript && meaning.javascript;

        if meaning.reaches.is_empty() {
            // No command means nothing; whoever read this one has not understood it.
            return self.refuse(Grounds::Unclear);
        }
        let (mut enforced, mut tried) = (Tally::default(), Tally::default());
        let mut notes = Notes::default();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let (tables, place) = (outlook.tables(by_kind, meaning, reach), &reach.place);
            tables.audit.each(place, |rule| notes.audit(rule, outlook.rules.len()));
            if javascript || enforced.denied.is_some() {
                continue;
            }
            let deny = tables.deny.first(place);
            enforced.take(at, deny, frame.needs_allow && !is_handshake, || tables.allow.first(place));
            if frame.has_dry_runs {
                let deny = tables.denies(place, deny);
                tried.take(at, deny, frame.would_need_allow && !is_handshake, || tables.allows(place));
            }
        }

        let passes = if is_handshake { Grounds::Handshake } else { Grounds::NoRule };
        let mut outcome = enforced.outcome(passes);
        if javascript {
            outcome = Outcome { refuses: true, grounds: Grounds::JavaScript, reach: None };
        }
        if outcome.refuses {
            return self.refusal(outcome.grounds, outcome.reach, notes.list);
        }
        let tried = tried.outcome(passes);
        if frame.has_dry_runs && tried.refuses {
            notes.list.push((Note::WouldDeny, tried.grounds));
            outcome.reach = tried.reach;
        }
        Judgement { verdict: Verdict::Pass, grounds: outcome.grounds, reach: outcome.reach, notes: notes.list }
    }

    /// Judges what was refused on `grounds` of no rule: [`Grounds::Unclear`], [`Grounds::Cursor`]. Passes in a dry run,
    /// and where all rules are dry runs or audits.
    pub fn refuse(&self, grounds: Grounds) -> Judgement {
        self.refusal(grounds, None, SmallVec::new())
    }

    fn refusal(&self, grounds: Grounds, reach: Option<usize>, mut notes: SmallVec<[(Note, Grounds); 2]>) -> Judgement {
        if self.outlook.frame.enforces {
            return Judgement { verdict: Verdict::Refuse, grounds, reach, notes };
        }
        notes.push((Note::WouldDeny, grounds));
        Judgement { verdict: Verdict::Pass, grounds: Grounds::NoRule, reach, notes }
    }

    /// Every rule that matches some reach of a command, with the reach's index; for people who ask why, not for traffic:
    /// looks at all rules that are about the caller.
    pub fn matching(&self, meaning: &Meaning<'_>) -> Vec<(RuleId, usize)> {
        let outlook = &*self.outlook;
        let rules = || outlook.about.iter().filter_map(|id| Some((*id, outlook.rules.get(id.index())?)));
        let mut found = Vec::new();
        for (at, reach) in meaning.reaches.iter().enumerate() {
            let asked = asked(meaning, reach);
            let entries = rules().flat_map(|(id, rule)| rule.to.iter().map(move |to| (id, rule, to)));
            let entries = entries.filter(|(_, rule, to)| to.is_about(&asked, rule.action));
            let tables = Tables::new(entries, Keep::All);
            for index in [&tables.deny, &tables.allow, &tables.dry_deny, &tables.dry_allow, &tables.audit] {
                index.each(&reach.place, |rule| found.push((rule, at)));
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
