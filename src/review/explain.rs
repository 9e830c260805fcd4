//! A decision with everything that led to it: the places that the command reaches, the rules, and the words of a refusal.

use std::fmt;

use serde::Serialize;

use super::question::{AssumedCaller, QuestionError, RequestedCommand};
use super::trace::{self, RuleKey, RuleTrace};
use crate::command::table::{self, Class};
use crate::command::{Meaning, Request, Unclear, read, unknown_name};
use crate::config::{Config, Enforcement, FromConfig};
use crate::identity::Principal;
use crate::policy::{CallerFacts, Effect, ErrorCode, Grounds, Note, Policy, Sentence, View};

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
    /// It passes, since the policy or the rule is a dry run; else it would be refused.
    WouldDeny,
}

/// A decision, and what led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What becomes of the command.
    pub decision: Decision,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// Why, in a sentence without an end.
    pub because: String,
    /// What a refused client reads; in a dry run what it would read.
    pub errmsg: Option<String>,
    /// The `audit` rules that take note of it.
    pub audited_by: Vec<String>,
    /// Who asks.
    pub caller: CallerReport,
    /// What is asked for, as far as it was understood.
    pub command: CommandReport,
    /// Every place that it reaches.
    pub reaches: Vec<ReachReport>,
    /// All rules of the policy, in their order; none where the command was not understood.
    pub rules: Vec<RuleTrace>,
    /// What this explanation cannot know.
    pub notes: Vec<String>,
    /// The name of the command or stage that is unknown; only for the error.
    #[serde(skip)]
    unknown: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallerReport {
    /// `None` is nobody.
    pub principal: Option<String>,
    /// From where.
    pub source: Option<String>,
    /// Through which listener; `None` where no rule looks at it and it was not named.
    pub listener: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    /// Its name in the table of commands; `None` if it has none.
    pub name: Option<&'static str>,
    /// Its class, as rules write it.
    pub class: Option<&'static str>,
    /// Whether it stands inside an `explain`.
    pub explained: bool,
    /// `$db`.
    pub database: Option<String>,
    /// Whether it is known to run JavaScript on the server.
    pub javascript: bool,
    /// Why it cannot be judged, if that is so.
    pub unclear: Option<String>,
}

/// One place that a command reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReachReport {
    /// As `shop.orders`, or in words.
    pub place: String,
    /// What it does there, as rules write it.
    pub class: &'static str,
    /// Whether this is the place that decided.
    pub decided: bool,
    /// Whether the command shows this only on the side, so that no `allow` rule is needed for it.
    pub incidental: bool,
}

/// Why there is no explanation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The question.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The policy, with a line for each problem.
    #[error("{0}")]
    Policy(String),
}

/// The policy of a configuration, ready to be asked.
pub struct PolicyReview<'a> {
    config: &'a Config,
    /// `None` where there is nothing to decide.
    policy: Option<Policy>,
}

impl<'a> PolicyReview<'a> {
    /// Compiles the policy of `config`.
    pub fn new(config: &'a Config) -> Result<Self, ExplainError> {
        let policy = config.policy.as_ref().map(Policy::compile).transpose().map_err(|problems| {
            let lines = problems.iter().map(|problem| format!("\n  {} {}", problem.key, problem.sentence));
            ExplainError::Policy(std::iter::once("the policy cannot be used:".to_owned()).chain(lines).collect())
        })?;
        Ok(Self { config, policy })
    }

    /// Whether the policy has a rule of this name.
    pub(super) fn has_rule(&self, name: &str) -> bool {
        self.config.policy.iter().flat_map(|policy| &policy.rules).any(|rule| rule.name == name)
    }

    /// Judges what `caller` wants, and tells how.
    pub fn explain(&self, caller: &AssumedCaller, requested: &RequestedCommand) -> Result<Explanation, ExplainError> {
        let rules = self.config.policy.iter().flat_map(|policy| &policy.rules);
        let looks_at =
            |looks: fn(&FromConfig) -> bool| rules.clone().filter_map(|rule| rule.from.as_ref()).flatten().any(looks);
        let by_listener = looks_at(|from| from.listeners.any.is_some() || from.listeners.not.is_some());
        let by_source = looks_at(|from| from.sources.is_some() || from.not_sources.is_some());
        let listener = caller.listener(self.config, by_listener)?;
        let body = requested.body()?;
        let request = Request { body: &body, database: None, sequences: &[] };
        let facts = CallerFacts { principal: caller.principal.as_ref(), source: caller.source, listener };
        let mut explanation = Explanation {
            decision: Decision::Allow,
            rule: None,
            because: "there is no policy".to_owned(),
            errmsg: None,
            audited_by: Vec::new(),
            caller: CallerReport {
                principal: facts.principal.map(ToString::to_string),
                source: facts.source.map(|source| source.to_string()),
                listener: Some(listener.to_owned()).filter(|name| !name.is_empty()),
            },
            command: CommandReport::of_unread(&body),
            reaches: Vec::new(),
            rules: Vec::new(),
            notes: self.foreign(facts.principal),
            unknown: None,
        };
        if by_source && caller.source.is_none() {
            explanation.notes.push("no source was given, and rules look at sources".to_owned());
        }
        let asked = self.policy.as_ref().map(|policy| (policy, policy.view(&facts)));
        let options = asked.as_ref().map(|(_, view)| view.read_options()).unwrap_or_default();
        let meaning = read(&request, options);
        match &meaning {
            Ok(meaning) => explanation.understand(meaning),
            Err(unclear) => {
                explanation.command.unclear = Some(unclear.to_string());
                explanation.unknown = unknown_name(&request).map(str::to_owned);
            }
        }
        if let Some((policy, view)) = &asked {
            explanation.judge(policy, view, &meaning);
        }
        if let (Some(config), Some((_, view)), Ok(meaning)) = (&self.config.policy, &asked, &meaning) {
            explanation.rules = trace::trace(config, view, &facts, meaning);
            if !meaning.cursors.is_empty() {
                let note = "a cursor must also have been given to this caller, which only the gateway knows";
                explanation.notes.push(note.to_owned());
            }
            if config.enforcement == Enforcement::DryRun {
                explanation.notes.push("the policy is a dry run: everything passes".to_owned());
            }
        }
        Ok(explanation)
    }

    fn foreign(&self, principal: Option<&Principal>) -> Vec<String> {
        let (Some(Principal::Spiffe(id)), Some(ours)) = (principal, &self.config.trust_domain) else {
            return Vec::new();
        };
        let domain = id.trust_domain();
        let is_ours = domain == ours || self.config.trust_domain_aliases.iter().any(|alias| alias == domain);
        let note =
            format!("the trust domain {domain} is not this gateway's: a certificate of it is refused at the door");
        if is_ours { Vec::new() } else { vec![note] }
    }
}

impl CommandReport {
    /// What its first key and its `$db` say, whatever the rest does.
    fn of_unread(body: &bson::RawDocument) -> Self {
        let first = body.iter().next().and_then(Result::ok);
        let command = first.and_then(|(name, _)| table::find(name.as_str().as_bytes()));
        Self {
            name: command.map(|command| command.name),
            class: command.map(|command| class_word(command.class)),
            explained: false,
            database: body.get_str("$db").ok().map(str::to_owned),
            javascript: false,
            unclear: None,
        }
    }
}

impl Explanation {
    fn understand(&mut self, meaning: &Meaning<'_>) {
        self.command = CommandReport {
            name: Some(meaning.command.name),
            class: Some(class_word(meaning.command.class)),
            explained: meaning.explained,
            database: Some(meaning.database.to_owned()),
            javascript: meaning.javascript,
            unclear: None,
        };
        let reaches = meaning.reaches.iter().map(|reach| ReachReport {
            place: trace::resource_text(reach.resource),
            class: class_word(reach.class),
            decided: false,
            incidental: reach.incidental,
        });
        self.reaches = reaches.collect();
    }

    fn judge(&mut self, policy: &Policy, view: &View, meaning: &Result<Meaning<'_>, Unclear>) {
        let judgement = match meaning {
            Ok(meaning) => view.judge(meaning),
            Err(_) => view.deny(Grounds::Unclear),
        };
        let would = judgement.notes.iter().find(|(note, _)| *note == Note::WouldDeny).map(|(_, grounds)| *grounds);
        let (decision, grounds) = match (judgement.effect, would) {
            (Effect::Deny, _) => (Decision::Deny, judgement.grounds),
            (Effect::Allow, Some(grounds)) => (Decision::WouldDeny, grounds),
            (Effect::Allow, None) => (Decision::Allow, judgement.grounds),
        };
        let rule = |grounds| matches!(grounds, Grounds::Rule(_)).then(|| policy.label(grounds).to_owned());
        let audits = judgement.notes.iter().filter(|(note, _)| *note == Note::Audit);
        self.audited_by = audits.filter_map(|(_, grounds)| rule(*grounds)).collect();
        self.decision = decision;
        self.rule = rule(grounds);
        self.because = self.reason(grounds);
        if let Some(reach) = judgement.reach.and_then(|at| self.reaches.get_mut(at)) {
            reach.decided = true;
        }
        if decision != Decision::Allow {
            let sentence = Sentence {
                policy,
                grounds,
                database: self.command.database.as_deref(),
                command: self.command.name,
                unclear: meaning.as_ref().err().copied(),
                name: self.unknown.as_deref(),
                code: meaning.as_ref().err().map_or(ErrorCode::UNAUTHORIZED, |unclear| view.code_of(*unclear)),
            };
            self.errmsg = Some(sentence.to_string());
        }
    }

    fn reason(&self, grounds: Grounds) -> String {
        let verb = if self.decision == Decision::Allow { "allows" } else { "denies" };
        match grounds {
            Grounds::Rule(_) => format!("rule {:?} {verb} it", self.rule.as_deref().unwrap_or_default()),
            Grounds::NoRule => "no rule denies it, and there is no allow rule that it would need".to_owned(),
            Grounds::NoAllowRule => "there are allow rules, and none matches".to_owned(),
            Grounds::Handshake => {
                "it belongs to the handshake or ends what is the client's own, which passes unless a deny rule names it"
                    .to_owned()
            }
            Grounds::JavaScript => "it runs JavaScript, and deny_javascript is set".to_owned(),
            Grounds::Unclear => {
                let why = self.command.unclear.as_deref().unwrap_or("it is not understood");
                format!("it cannot be judged: {why}")
            }
            Grounds::Cursor => "the cursor was not given to this caller".to_owned(),
        }
    }

    /// The whole of it as one JSON object, over several lines.
    pub fn to_json(&self) -> String {
        // Strings and truth values only: nothing in it can fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The class as rules write it; those that no rule can write in words.
pub(super) fn class_word(class: Class) -> &'static str {
    match class {
        Class::Handshake => "handshake",
        Class::Auth => "authentication",
        Class::Session => "@session",
        Class::Read => "@read",
        Class::Write => "@write",
        Class::Ddl => "@ddl",
        Class::Wrapper => "wrapper",
        Class::AdminRead => "@admin-read",
        Class::Admin => "@admin",
        Class::UserAdmin => "@user-admin",
        Class::Cluster => "@cluster",
        Class::Legacy => "legacy",
    }
}

impl Decision {
    /// As in tables of expectations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_question(f)?;
        self.write_rules(f)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if !self.audited_by.is_empty() {
            writeln!(f, "audited by: {}", self.audited_by.join(", "))?;
        }
        let verdict = match self.decision {
            Decision::Allow => "allowed",
            Decision::Deny => "denied",
            Decision::WouldDeny => "allowed, as a dry run; it would be denied",
        };
        writeln!(f, "verdict: {verdict}: {}", self.because)?;
        match (&self.errmsg, self.decision) {
            (Some(errmsg), Decision::Deny) => writeln!(f, "a client reads: {errmsg}"),
            (Some(errmsg), _) => writeln!(f, "a client would read: {errmsg}"),
            (None, _) => Ok(()),
        }
    }
}

impl Explanation {
    fn write_question(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "caller   {}", self.caller.principal.as_deref().unwrap_or("nobody"))?;
        if let Some(source) = &self.caller.source {
            write!(f, ", from {source}")?;
        }
        if let Some(listener) = &self.caller.listener {
            write!(f, ", through listener {listener}")?;
        }
        write!(f, "\ncommand  ")?;
        if self.command.explained {
            f.write_str("explain of ")?;
        }
        write!(f, "{}", self.command.name.unwrap_or("(unknown)"))?;
        if let Some(class) = self.command.class {
            write!(f, " ({class})")?;
        }
        if let Some(database) = &self.command.database {
            write!(f, " on {database}")?;
        }
        if self.command.javascript {
            f.write_str(", runs JavaScript")?;
        }
        writeln!(f)?;
        let width = self.reaches.iter().map(|reach| reach.place.len()).max().unwrap_or_default();
        for (at, reach) in self.reaches.iter().enumerate() {
            let title = if at == 0 { "reaches" } else { "" };
            let decided = if reach.decided && self.reaches.len() > 1 { "  <- decides" } else { "" };
            let incidental = if reach.incidental { ", needs no allow rule" } else { "" };
            writeln!(f, "{title:<9}{:<width$}  {}{incidental}{decided}", reach.place, reach.class)?;
        }
        writeln!(f)
    }

    fn write_rules(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return Ok(());
        }
        writeln!(f, "rules")?;
        let width = self.rules.iter().map(|rule| rule.name.len()).max().unwrap_or_default();
        for rule in &self.rules {
            let mut looks = self.looks(rule).into_iter();
            let dry_run = if rule.dry_run { " (dry run)" } else { "" };
            writeln!(f, "  {:<5}  {:<width$}  {}{dry_run}", rule.action, rule.name, looks.next().unwrap_or_default())?;
            looks.try_for_each(|look| writeln!(f, "  {:5}  {:width$}  {look}", "", ""))?;
        }
        writeln!(f)
    }

    /// A line for each place, or one for all of them where they have the same.
    fn looks(&self, rule: &RuleTrace) -> Vec<String> {
        let not = |part: RuleKey| format!("does not match: its {}", part.name());
        if let Some(part) = rule.excludes_caller_by {
            return vec![format!("does not match: its from, {}", part.name())];
        }
        let looks: Vec<String> = rule
            .places
            .iter()
            .map(
                |place| {
                    if place.matches { "matches".to_owned() } else { place.excluded_by.map_or_else(String::new, not) }
                },
            )
            .collect();
        match looks.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => vec![first.clone()],
            _ => self.reaches.iter().zip(&looks).map(|(reach, look)| format!("{}: {look}", reach.place)).collect(),
        }
    }
}

impl RuleKey {
    fn name(self) -> &'static str {
        match self {
            Self::Principals => "principals",
            Self::Namespaces => "namespaces",
            Self::Sources => "sources",
            Self::Listeners => "listeners",
            Self::Commands => "commands",
            Self::Databases => "databases",
            Self::Collections => "collections",
            Self::Nothing => "an empty list",
        }
    }
}
