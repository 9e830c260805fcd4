//! Who may do what: the rules of `[policy]`, compiled, and specialised for one caller.
//!
//! Pure: takes facts and meanings, returns judgements; counts nothing and logs nothing. What is not understood is never
//! guessed at: whoever reads a command says that it is [`Unclear`], and the policy says what follows.

use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::command::{Look, Meaning, Unclear};
use crate::config::PolicyConfig;
use crate::identity::Principal;

/// A rule's place in the configuration, from 0; also its place in tables of counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// The compiled rules.
#[derive(Debug)]
pub struct Policy {
    names: Vec<String>,
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
#[derive(Debug)]
pub struct View {
    look: Look,
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
    /// Which of the meaning's reaches decided, where one did: the first of the strictest.
    pub reach: Option<usize>,
    /// What else is to be counted.
    pub notes: SmallVec<[(Note, Grounds); 2]>,
}

impl Policy {
    /// Compiles checked configuration; finds what only the table of commands can tell, all of it at once.
    pub fn compile(config: &PolicyConfig) -> Result<Self, Vec<PolicyProblem>> {
        Ok(Self { names: config.rules.iter().map(|rule| rule.name.clone()).collect() })
    }

    /// The names of the rules, in the order of their [`RuleId`]s.
    pub fn rule_names(&self) -> &[String] {
        &self.names
    }

    /// Whether any rule looks at where a client is.
    pub fn uses_sources(&self) -> bool {
        true
    }

    /// Whether nothing is refused.
    pub fn is_dry_run(&self) -> bool {
        false
    }

    /// Tells policies apart, on any machine.
    pub fn fingerprint(&self) -> &str {
        ""
    }

    /// What is doubtful about it.
    pub fn warnings(&self) -> Vec<PolicyProblem> {
        Vec::new()
    }

    /// The policy as it looks from `caller`. Costs a look at every rule; judging does not.
    pub fn view(&self, caller: &CallerFacts<'_>) -> View {
        let _ = caller;
        View { look: Look::default() }
    }

    /// The name of `grounds` in metrics: a rule's own, or one of a closed set that no rule can have.
    pub fn label(&self, grounds: Grounds) -> &str {
        match grounds {
            Grounds::Rule(RuleId(id)) => self.names.get(id as usize).map_or("", String::as_str),
            other => other.label(),
        }
    }
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

impl View {
    /// What has to be known of a command to judge it.
    pub fn look(&self) -> Look {
        self.look
    }

    /// Judges a command. Allocates nothing unless several rules take note of it.
    pub fn judge(&self, meaning: &Meaning<'_>) -> Judgement {
        let _ = meaning;
        Judgement { verdict: Verdict::Pass, grounds: Grounds::NoRule, reach: None, notes: SmallVec::new() }
    }

    /// Judges what was refused on `grounds` of no rule: [`Grounds::Unclear`], [`Grounds::Cursor`]. Passes in a dry run.
    pub fn refuse(&self, grounds: Grounds) -> Judgement {
        Judgement { verdict: Verdict::Refuse, grounds, reach: None, notes: SmallVec::new() }
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
