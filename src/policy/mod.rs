//! Who may do what: the rules of `[policy]`, compiled, and specialised for one caller.
//!
//! Pure: takes facts and meanings, returns judgements; counts nothing and logs nothing. What is not understood is never
//! guessed at: whoever reads a command says that it is [`Unclear`], and the policy says what follows.

mod analysis;
mod fingerprint;
mod index;
mod pattern;
mod rule;
mod session_id;
mod view;
mod words;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use smallvec::SmallVec;

use crate::command::Unclear;
use crate::config::{Action, Enforcement, PolicyConfig};
use crate::identity::Principal;

pub use session_id::{SESSION_ID_BYTES, SessionOwner};

use rule::Rule;
use view::{PolicyFlags, RuleSet};

/// A rule's place in the configuration, from 0; also its place in tables of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

impl RuleId {
    /// As a place in tables.
    fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// The compiled rules.
#[derive(Debug)]
pub struct Policy {
    names: Vec<String>,
    rules: Arc<[Rule]>,
    frame: PolicyFlags,
    /// Rules that are about certain principals only, by these; in their order.
    by_principal: HashMap<String, Vec<RuleId>>,
    /// All others, in their order.
    by_anything: Vec<RuleId>,
    /// What callers share whom the same rules are about, for as long as one of them is there.
    outlooks: Mutex<HashMap<Vec<RuleId>, Weak<RuleSet>>>,
    fingerprint: String,
}

/// What is wrong with a policy; the gateway does not take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Where, as `policy.rule[2].to[1].commands`; counted from 1, as people do.
    pub key: String,
    /// What is wrong and what would be right; begins with a verb, as the configuration's own problems do.
    pub sentence: String,
}

/// What decides which rules are about a connection; fixed for as long as it lives.
#[derive(Debug, Clone, Copy)]
pub struct CallerFacts<'a> {
    /// Who, if anybody.
    pub principal: Option<&'a Principal>,
    /// From where; `None` on a unix socket, and where a proxy does not say.
    pub source: Option<IpAddr>,
    /// Through which listener.
    pub listener: &'a str,
}

/// A policy as it looks from one caller.
#[derive(Debug, Clone)]
pub struct View {
    outlook: Arc<RuleSet>,
}

/// Why something passes or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grounds {
    /// A rule says so.
    Rule(RuleId),
    /// No rule refuses it, and there is no allow rule that it would need.
    NoRule,
    /// There are allow rules, and none matches.
    NoAllowRule,
    /// It belongs to the handshake, which passes unless a deny rule names it.
    Handshake,
    /// It runs JavaScript, and `deny_javascript` is set.
    JavaScript,
    /// It is not understood.
    Unclear,
    /// It reads or ends a cursor that this caller was not given.
    Cursor,
}

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes upstream.
    Pass,
    /// It is answered with an error, and does not go upstream.
    Refuse,
}

/// What is counted and logged beside the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// An `audit` rule matches.
    Audit,
    /// It would be refused, were the policy or the rule no dry run.
    WouldDeny,
}

/// A decision on one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub grounds: Grounds,
    /// Which of the meaning's reaches decided, where one did: the first of the strictest. Beside a
    /// [`Note::WouldDeny`] it is the one that would be refused.
    pub reach: Option<usize>,
    /// What else is to be counted.
    pub notes: SmallVec<[(Note, Grounds); 2]>,
}

impl Policy {
    /// Compiles checked configuration; finds what only the table of commands can tell, all of it at once.
    pub fn compile(config: &PolicyConfig) -> Result<Self, Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let path = |at: usize| format!("policy.rule[{}]", at + 1);
        let rules: Arc<[Rule]> =
            config.rules.iter().enumerate().map(|(at, rule)| Rule::compile(rule, &path(at), &mut problems)).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let (mut by_principal, mut by_anything) = (HashMap::<String, Vec<RuleId>>::new(), Vec::new());
        for (id, rule) in ids().zip(&*rules) {
            match rule.exact_principals() {
                None => by_anything.push(id),
                Some(names) => {
                    for name in names {
                        by_principal.entry(name.to_owned()).or_default().push(id);
                    }
                }
            }
        }
        Ok(Self {
            names: rules.iter().map(|rule| rule.name.clone()).collect(),
            frame: frame(config, &rules),
            fingerprint: fingerprint::of(config, &rules),
            rules,
            by_principal,
            by_anything,
            outlooks: Mutex::new(HashMap::new()),
        })
    }

    /// The names of the rules, in the order of their [`RuleId`]s.
    pub fn rule_names(&self) -> &[String] {
        &self.names
    }

    /// What a rule does, and whether it is a dry run; `None` for a rule of another policy.
    pub fn action(&self, id: RuleId) -> Option<(Action, bool)> {
        self.rules.get(id.index()).map(|rule| (rule.action, rule.dry_run))
    }

    /// Whether anything is ever refused: not in a dry run, and not where all rules are dry runs or audits.
    pub fn enforces(&self) -> bool {
        self.frame.enforces
    }

    /// Whether any rule looks at the addresses of clients. Where none does, clients of one listener and one principal have
    /// one view.
    pub fn uses_sources(&self) -> bool {
        self.rules.iter().any(Rule::uses_sources)
    }

    /// Tells policies apart: 64 hexadecimal digits, the same on every machine for rules that mean the same in the same
    /// order under the same names.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Rules that can never match, and rules that decide nothing beside others; only what is certain.
    pub fn warnings(&self) -> Vec<PolicyProblem> {
        analysis::warnings(&self.rules)
    }

    /// The policy as it looks from `caller`. Costs a look at the rules that are about its principal and at those that are
    /// not about certain principals; judging does not. Views that the same rules make share their memory.
    pub fn view(&self, caller: &CallerFacts<'_>) -> View {
        let named = caller.principal.and_then(|principal| self.by_principal.get(principal.as_str()));
        let candidates = self.by_anything.iter().chain(named.into_iter().flatten());
        let is_about = |id: &RuleId| self.rules.get(id.index()).is_some_and(|rule| rule.is_about(caller));
        let mut about: Vec<RuleId> = candidates.copied().filter(is_about).collect();
        about.sort_unstable();

        // A thread that died with the lock has at most left out its own entry.
        let mut outlooks = self.outlooks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outlook) = outlooks.get(&about).and_then(Weak::upgrade) {
            return View { outlook };
        }
        // Whenever there is something new, what nobody uses any more makes room for it.
        outlooks.retain(|_, outlook| outlook.strong_count() > 0);
        let outlook = Arc::new(RuleSet::new(self.frame, &self.rules, about.clone()));
        outlooks.insert(about, Arc::downgrade(&outlook));
        View { outlook }
    }

    /// The name of `grounds` in metrics: a rule's own, or one of a closed set that no rule can have.
    pub fn label(&self, grounds: Grounds) -> &str {
        match grounds {
            Grounds::Rule(RuleId(id)) => self.names.get(id as usize).map_or("", String::as_str),
            other => other.label(),
        }
    }
}

fn frame(config: &PolicyConfig, rules: &[Rule]) -> PolicyFlags {
    let any = |action: Action, dry_run: bool| rules.iter().any(|rule| rule.action == action && rule.dry_run == dry_run);
    let needs_allow = any(Action::Allow, false);
    let refuses = config.deny_javascript || needs_allow || any(Action::Deny, false);
    PolicyFlags {
        enforces: config.enforcement == Enforcement::Enforce && refuses,
        deny_javascript: config.deny_javascript,
        needs_allow,
        would_need_allow: needs_allow || any(Action::Allow, true),
        has_dry_runs: any(Action::Allow, true) || any(Action::Deny, true),
    }
}

/// Of rules in their order; the configuration takes far fewer than there are.
fn ids() -> impl Iterator<Item = RuleId> {
    (0..u32::MAX).map(RuleId)
}

impl Grounds {
    /// All that are no rules, for tables of counters.
    pub const BESIDE_RULES: [Self; 6] =
        [Self::NoRule, Self::NoAllowRule, Self::Handshake, Self::JavaScript, Self::Unclear, Self::Cursor];

    /// In metrics; in brackets, so that no rule can have it.
    fn label(self) -> &'static str {
        match self {
            Self::Rule(_) => "",
            Self::NoRule => "(no rule)",
            Self::NoAllowRule => "(no allow rule)",
            Self::Handshake => "(handshake)",
            Self::JavaScript => "(deny_javascript)",
            Self::Unclear => "(not understood)",
            Self::Cursor => "(cursor)",
        }
    }
}

/// What a refused client reads, and after what: `not authorized on shop to execute command find (mongate policy: ...)`.
pub struct Sentence<'a> {
    /// The policy that refused.
    pub policy: &'a Policy,
    /// Why.
    pub grounds: Grounds,
    /// `$db` where it could be read.
    pub database: Option<&'a str>,
    /// The command's name in the table; `None` where it has none.
    pub command: Option<&'static str>,
    /// What was not understood, where that is why.
    pub unclear: Option<Unclear>,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database.unwrap_or("(unknown)");
        let command = self.command.unwrap_or("(unknown)");
        write!(f, "not authorized on {database} to execute command {command} (mongate policy: ")?;
        match (self.grounds, self.unclear) {
            (Grounds::Rule(_), _) => write!(f, "rule \"{}\"", self.policy.label(self.grounds))?,
            (Grounds::JavaScript, _) => f.write_str("it runs JavaScript, and deny_javascript is set")?,
            (Grounds::Cursor, _) => f.write_str("the cursor was not given to this client")?,
            (Grounds::Unclear, Some(unclear)) => write!(f, "cannot be judged, {unclear}")?,
            (Grounds::Unclear, None) => f.write_str("cannot be judged")?,
            (Grounds::NoAllowRule | Grounds::NoRule | Grounds::Handshake, _) => f.write_str("no allow rule matches")?,
        }
        f.write_str(")")
    }
}
