//! A decision with its explanation: the resources that the command reaches, the rules, and the error message.

use std::time::SystemTime;

use serde::Serialize;

use super::question::{AssumedCaller, QuestionError, RequestedCommand};
use super::trace::{self, RuleTrace};
use crate::command::table::{self, Class};
use crate::command::{Listing, Meaning, Request, Unclear, read, unknown_name};
use crate::config::{Config, Enforcement, FromConfig};
use crate::identity::{Principal, rfc3339};
use crate::policy::{CallerFacts, Effect, ErrorCode, Grounds, Note, Policy, Sentence, View};

/// The decision on a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The command passes.
    Allow,
    /// The command is denied.
    Deny,
    /// The command passes only because the policy or the rule is a dry run.
    WouldDeny,
}

/// A decision, with its explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The rule that decided, if one did.
    pub rule: Option<String>,
    /// The reason, as a clause without a full stop.
    pub because: String,
    /// The error message of a denied command; for a dry run, the error message that the client would read.
    pub errmsg: Option<String>,
    /// The `audit` rules that match.
    pub audited_by: Vec<String>,
    /// The caller.
    pub caller: CallerReport,
    /// The command, as far as it was understood.
    pub command: CommandReport,
    /// Every resource that the command reaches.
    pub reaches: Vec<ReachReport>,
    /// All rules of the policy, in their order; empty if the command was not understood.
    pub rules: Vec<RuleTrace>,
    /// Limits of this explanation.
    pub notes: Vec<String>,
    /// The name of the command or stage that is unknown; only for the error.
    #[serde(skip)]
    unknown: Option<String>,
}

/// The caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallerReport {
    /// `None` for an unauthenticated caller.
    pub principal: Option<String>,
    /// The address of the caller, if given.
    pub source: Option<String>,
    /// The listener; `None` if no listener was named and no rule depends on it.
    pub listener: Option<String>,
}

/// The command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandReport {
    /// Its name in the table of commands; `None` for an unknown command.
    pub name: Option<&'static str>,
    /// Its class, as rules name it.
    pub class: Option<&'static str>,
    /// Whether it is inside an `explain`.
    pub explained: bool,
    /// `$db`.
    pub database: Option<String>,
    /// Whether it is known to run JavaScript on the server.
    pub javascript: bool,
    /// Why the policy cannot judge it, if it cannot.
    pub unclear: Option<String>,
}

/// One resource that a command reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReachReport {
    /// For example `shop.orders`, or a description.
    pub place: String,
    /// The class of the access, as rules name it.
    pub class: &'static str,
    /// Whether the judgement of this resource decided.
    pub decided: bool,
    /// Whether the command shows this only incidentally, so that no `allow` rule is needed for it.
    pub incidental: bool,
}

/// Why there is no explanation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The question is not valid.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The policy cannot be used; a line for each problem.
    #[error("{0}")]
    Policy(String),
}

/// The policy of a configuration, compiled.
pub struct PolicyReview<'a> {
    config: &'a Config,
    /// `None` if the configuration has no policy.
    policy: Option<Policy>,
}

impl<'a> PolicyReview<'a> {
    /// Compiles the policy of `config`, as it applies at `at`.
    pub fn new(config: &'a Config, at: SystemTime) -> Result<Self, ExplainError> {
        let compile = |policy| Policy::compile(policy, at);
        let policy = config.policy.as_ref().map(compile).transpose().map_err(|problems| {
            let lines = problems.iter().map(|problem| format!("\n  {} {}", problem.key, problem.sentence));
            ExplainError::Policy(std::iter::once("the policy cannot be used:".to_owned()).chain(lines).collect())
        })?;
        Ok(Self { config, policy })
    }

    /// What is doubtful about the policy: for each warning, the key and a sentence that continues it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let of_values =
            self.config.warnings().into_iter().map(|warning| format!("{} {}", warning.key, warning.sentence));
        let of_rules = self.policy.iter().flat_map(Policy::warnings);
        of_values.chain(of_rules.map(|warning| format!("{} {}", warning.key, warning.sentence))).collect()
    }

    /// When the rule of this name has expired, if it has.
    pub(super) fn expired(&self, name: &str) -> Option<String> {
        let mut expiries = self.policy.iter().flat_map(Policy::expiries);
        expiries.find(|rule| rule.is_expired && rule.name == name).map(|rule| rfc3339(rule.at))
    }

    /// Whether the policy has a rule of this name.
    pub(super) fn has_rule(&self, name: &str) -> bool {
        self.config.policy.iter().flat_map(|policy| &policy.rules).any(|rule| rule.name == name)
    }

    /// Judges the command of `caller`, and explains the judgement.
    pub fn explain(&self, caller: &AssumedCaller, requested: &RequestedCommand) -> Result<Explanation, ExplainError> {
        let rules = self.config.policy.iter().flat_map(|policy| &policy.rules);
        let any_entry =
            |uses: fn(&FromConfig) -> bool| rules.clone().filter_map(|rule| rule.from.as_ref()).flatten().any(uses);
        let by_listener = any_entry(|from| from.listeners.any.is_some() || from.listeners.not.is_some());
        let by_source = any_entry(|from| from.sources.is_some() || from.not_sources.is_some());
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
            notes: self.foreign_trust_domain(facts.principal),
            unknown: None,
        };
        if by_source && caller.source.is_none() {
            explanation.notes.push("no source was given, but rules depend on it".to_owned());
        }
        let policy = self.policy.as_ref().map(|policy| (policy, policy.view(&facts)));
        let options = policy.as_ref().map(|(_, view)| view.read_options()).unwrap_or_default();
        let meaning = read(&request, options);
        match &meaning {
            Ok(meaning) => explanation.understand(meaning),
            Err(unclear) => {
                explanation.command.unclear = Some(unclear.to_string());
                explanation.unknown = unknown_name(&request).map(str::to_owned);
            }
        }
        if let Some((policy, view)) = &policy {
            explanation.judge(policy, view, &meaning);
        }
        if let (Some(config), Some((policy, view)), Ok(meaning)) = (&self.config.policy, &policy, &meaning) {
            explanation.rules = trace::trace(config, (policy, view), &facts, meaning);
            if explanation.decision == Decision::Deny
                && matches!(meaning.command.name, "listCollections" | "listDatabases")
                && meaning.listing.is_none()
            {
                let note =
                    "the reply cannot be filtered, because this filter or batchSize would tell of hidden entries";
                explanation.notes.push(note.to_owned());
            }
            if !meaning.cursors.is_empty() {
                let note = "the cursor must also belong to this caller; only the running gateway knows that";
                explanation.notes.push(note.to_owned());
            }
            if config.enforcement == Enforcement::DryRun {
                explanation.notes.push("the policy is a dry run: everything passes".to_owned());
            }
        }
        Ok(explanation)
    }

    /// A note, if the trust domain of the principal is not the gateway's own.
    fn foreign_trust_domain(&self, principal: Option<&Principal>) -> Vec<String> {
        let (Some(Principal::Spiffe(id)), Some(ours)) = (principal, &self.config.trust_domain) else {
            return Vec::new();
        };
        let domain = id.trust_domain();
        let is_ours = domain == ours || self.config.trust_domain_aliases.iter().any(|alias| alias == domain);
        let note = format!("the gateway rejects certificates of the trust domain {domain}, which is not its own");
        if is_ours { Vec::new() } else { vec![note] }
    }
}

impl CommandReport {
    /// Reads only the first key and `$db`.
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
        if let Grounds::Rule(id) = grounds
            && let Some(expiry) = policy.expiry(id)
        {
            self.notes.push(format!(
                "rule {:?} expires {}; another rule may decide then",
                expiry.name,
                rfc3339(expiry.at)
            ));
        }
        let filtered = meaning.as_ref().ok().filter(|_| decision == Decision::Allow);
        self.because = match filtered.and_then(|meaning| filtered_list(view, meaning)) {
            Some(shown) => format!("{}; {shown}", self.reason_for_part(grounds)),
            None => self.reason(grounds),
        };
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
            Grounds::NoRule => "no deny rule matches, and there are no allow rules".to_owned(),
            Grounds::NoAllowRule => "there are allow rules, and none matches".to_owned(),
            Grounds::Handshake => {
                "it belongs to the handshake set, which needs no allow rule and passes unless a deny rule names it"
                    .to_owned()
            }
            Grounds::JavaScript => "it runs JavaScript, and deny_javascript is set".to_owned(),
            Grounds::Unclear => {
                let why = self.command.unclear.as_deref().unwrap_or("it cannot be understood");
                format!("the policy cannot judge this command: {why}")
            }
            Grounds::Cursor => "the cursor does not belong to this caller".to_owned(),
        }
    }

    /// The reason why a list passes whose reply is filtered.
    fn reason_for_part(&self, grounds: Grounds) -> String {
        match grounds {
            Grounds::Rule(_) => format!("rule {:?} allows part of it", self.rule.as_deref().unwrap_or_default()),
            Grounds::NoRule => "no deny rule covers all of it, and there are no allow rules".to_owned(),
            _ => self.reason(grounds),
        }
    }

    /// The explanation as one JSON object, over several lines.
    pub fn to_json(&self) -> String {
        // Only strings and booleans, which cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// What the reply to a listing is limited to; `None` for any other command, and for a reply that is not filtered.
fn filtered_list(view: &View, meaning: &Meaning<'_>) -> Option<String> {
    let listing = meaning.listing.filter(|listing| !view.sees_everything(*listing, meaning.database))?;
    Some(match listing {
        Listing::Collections => format!(
            "the reply is filtered: it lists only the collections of {} on which this caller may run any command",
            meaning.database
        ),
        Listing::Databases => {
            "the reply is filtered: it lists only the databases in which this caller may run any command".to_owned()
        }
    })
}

/// The class as rules name it; a description for the classes that rules cannot name.
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
    /// The decision as in a table of cases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
        }
    }
}
