//! Tables of expected decisions: the tests that operators write for their own rules.
//!
//! All cases run, even if one fails. If the table cannot be read, no case runs.

use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::explain::{Decision, ExplainError, Explanation, PolicyReview};
use super::question::{AssumedCaller, Body, RequestedCommand};
use super::tree::Node;

/// A table of cases.
#[derive(Debug)]
pub struct Cases(Vec<Case>);

/// The results of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// The number of cases with the expected decision.
    pub passed: usize,
    /// The number of other cases.
    pub failed: usize,
    /// All cases in their order.
    pub cases: Vec<CaseOutcome>,
    /// What is doubtful about the policy, as `mongate check` reports it. It does not make a case fail.
    pub warnings: Vec<String>,
}

/// The result of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseOutcome {
    /// Its name.
    pub name: String,
    /// Whether the decision is the expected one.
    pub passed: bool,
    /// The expected decision, for example `deny by rule "x"`.
    pub expected: String,
    /// The decision.
    pub got: String,
    /// The reason for the decision.
    pub because: String,
}

/// Why a table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CasesError {
    /// Invalid TOML, or an unknown key, with its line.
    #[error("{0}")]
    Toml(String),
    /// Cases that are incomplete or contradict themselves.
    #[error("{}", .0.join("\n"))]
    Cases(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    #[serde(default)]
    case: Vec<RawCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    principal: Option<String>,
    #[serde(default)]
    nobody: bool,
    listener: Option<String>,
    source: Option<IpAddr>,
    command: Option<String>,
    database: Option<String>,
    collection: Option<String>,
    body: Option<Node>,
    expect: Expected,
    rule: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Expected {
    Allow,
    Deny,
    WouldDeny,
}

#[derive(Debug)]
struct Case {
    name: String,
    caller: AssumedCaller,
    requested: RequestedCommand,
    expected: Decision,
    rule: Option<String>,
}

impl Cases {
    /// Reads `[[case]]` tables.
    pub fn parse(text: &str) -> Result<Self, CasesError> {
        let table: RawTable =
            toml::from_str(text).map_err(|error| CasesError::Toml(error.to_string().trim_end().to_owned()))?;
        if table.case.is_empty() {
            return Err(CasesError::Toml("the file has no [[case]]".to_owned()));
        }
        let mut problems = Vec::new();
        let mut cases = Vec::new();
        for (at, raw) in table.case.into_iter().enumerate() {
            let place = format!("case[{}] {:?}", at + 1, raw.name);
            match raw.read() {
                Ok(case) => cases.push(case),
                Err(sentence) => problems.push(format!("{place}: {sentence}")),
            }
        }
        if problems.is_empty() { Ok(Self(cases)) } else { Err(CasesError::Cases(problems)) }
    }

    /// Runs every case.
    pub fn run(&self, policy: &PolicyReview<'_>) -> Result<TestOutcome, CasesError> {
        let mut problems = Vec::new();
        let mut cases = Vec::new();
        for (at, case) in self.0.iter().enumerate() {
            match policy.explain(&case.caller, &case.requested) {
                Ok(explanation) => cases.push(case.compare(&explanation, policy)),
                Err(ExplainError::Question(error)) => {
                    problems.push(format!("case[{}] {:?}: {error}", at + 1, case.name));
                }
                Err(ExplainError::Policy(sentence)) => return Err(CasesError::Cases(vec![sentence])),
            }
        }
        if !problems.is_empty() {
            return Err(CasesError::Cases(problems));
        }
        let passed = cases.iter().filter(|case| case.passed).count();
        Ok(TestOutcome { passed, failed: cases.len() - passed, cases, warnings: policy.warnings() })
    }
}

impl RawCase {
    fn read(self) -> Result<Case, String> {
        let principal = match (self.principal.as_deref(), self.nobody) {
            (Some(""), _) => {
                return Err("principal is empty; use nobody = true for an unauthenticated caller".to_owned());
            }
            (Some(text), false) => Some(text),
            (None, true) => None,
            (Some(_), true) => return Err("has principal and nobody = true; remove one of them".to_owned()),
            (None, false) => return Err("has no caller; add principal = \"...\" or nobody = true".to_owned()),
        };
        let body = match self.body {
            None => None,
            Some(Node::Text(json)) => Some(Body::parse(&json).map_err(|error| error.to_string())?),
            Some(Node::Table(entries)) => Some(Body(entries)),
            Some(other) => return Err(format!("body is {}; it must be a table or a string of JSON", other.kind())),
        };
        Ok(Case {
            name: self.name,
            caller: AssumedCaller::new(principal, self.source, self.listener),
            requested: RequestedCommand {
                command: self.command,
                database: self.database,
                collection: self.collection,
                body,
            },
            expected: match self.expect {
                Expected::Allow => Decision::Allow,
                Expected::Deny => Decision::Deny,
                Expected::WouldDeny => Decision::WouldDeny,
            },
            rule: self.rule,
        })
    }
}

impl Case {
    fn compare(&self, explanation: &Explanation, policy: &PolicyReview<'_>) -> CaseOutcome {
        let by = |decision: Decision, rule: Option<&String>| match rule {
            Some(rule) => format!("{} by rule {rule:?}", decision.as_str()),
            None => decision.as_str().to_owned(),
        };
        let is_expected_rule = self.rule.is_none() || self.rule == explanation.rule;
        let because = match &self.rule {
            Some(rule) if !policy.has_rule(rule) => format!("{}; the policy has no rule {rule:?}", explanation.because),
            Some(rule) => match policy.expired(rule) {
                Some(at) => format!("{}; rule {rule:?} expired {at}", explanation.because),
                None => explanation.because.clone(),
            },
            None => explanation.because.clone(),
        };
        CaseOutcome {
            name: self.name.clone(),
            passed: self.expected == explanation.decision && is_expected_rule,
            expected: by(self.expected, self.rule.as_ref()),
            got: by(explanation.decision, explanation.rule.as_ref()),
            because,
        }
    }
}

impl TestOutcome {
    /// The results as one JSON object, over several lines.
    pub fn to_json(&self) -> String {
        // Only strings, numbers and booleans, which cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for TestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.cases.iter().filter(|case| !case.passed) {
            let mut lines = String::new();
            let _ = writeln!(lines, "FAILED  {}", case.name);
            let _ = writeln!(lines, "        expected {}", case.expected);
            let _ = writeln!(lines, "        got      {}: {}", case.got, case.because);
            f.write_str(&lines)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning {warning}")?;
        }
        writeln!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}
