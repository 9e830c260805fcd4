//! The check of the policy: problems and warnings that need no traffic.

use std::time::SystemTime;

use super::report::{About, Finding, FindingKind, PolicyReport, Status, Step};
use crate::config::{Action, Config, Enforcement, PolicyConfig};
use crate::policy::Policy;

/// The remedy for all warnings about rules.
const REMEDY: &str = "change or remove the rule; mongate policy explain shows its decisions";

pub(super) fn check(config: &Config, policy: &PolicyConfig, findings: &mut Vec<Finding>) -> PolicyReport {
    let mut report = PolicyReport {
        enforcement: match policy.enforcement {
            Enforcement::Enforce => "enforce",
            Enforcement::DryRun => "dry-run",
        },
        rules: policy.rules.len(),
        fingerprint: None,
        steps: Vec::new(),
    };
    let mut find = |severity, key: &str, sentence: String, remedy: &str| {
        findings.push(Finding {
            severity,
            kind: FindingKind::Configuration,
            about: About::Policy(key.to_owned()),
            sentence,
            remedy: remedy.to_owned(),
        });
    };
    let compiled = match Policy::compile(policy, SystemTime::now()) {
        Ok(compiled) => compiled,
        Err(problems) => {
            let count = problems.len();
            report.steps.push(Step::error("compiled", format!("{count} values cannot be used")));
            for problem in problems {
                find(Status::Error, &problem.key, problem.sentence, "correct the value");
            }
            return report;
        }
    };
    let warnings: Vec<(String, String)> = config
        .warnings()
        .into_iter()
        .map(|warning| (warning.key, warning.sentence))
        .chain(compiled.warnings().into_iter().map(|warning| (warning.key, warning.sentence)))
        .collect();
    let line = rules_line(policy, compiled.expired_rules());
    report.steps.push(match warnings.len() {
        0 => Step::ok("compiled", line),
        1 => Step::warning("compiled", format!("{line}; 1 warning")),
        count => Step::warning("compiled", format!("{line}; {count} warnings")),
    });
    if policy.deny_javascript {
        report.steps.push(Step::ok("JavaScript", "denied (deny_javascript)"));
    }
    report.steps.push(Step::ok("fingerprint", compiled.fingerprint()));
    report.fingerprint = Some(compiled.fingerprint().to_owned());
    for (key, sentence) in warnings {
        find(Status::Warning, &key, sentence, REMEDY);
    }
    if policy.enforcement == Enforcement::DryRun {
        let sentence = "is \"dry-run\": commands that the rules deny pass; they are only counted and logged".to_owned();
        let remedy = "set it to \"enforce\" when mongate_policy_decisions_total shows no would_deny that should pass";
        find(Status::Warning, "policy.enforcement", sentence, remedy);
    }
    report
}

/// For example `3 rules: 1 deny, 2 allow`.
fn rules_line(policy: &PolicyConfig, expired: usize) -> String {
    let count = |action| policy.rules.iter().filter(|rule| rule.action == action).count();
    let kinds = [(Action::Deny, "deny"), (Action::Allow, "allow"), (Action::Audit, "audit")];
    let kinds = kinds.map(|(action, word)| (count(action), word)).into_iter().filter(|(count, _)| *count > 0);
    let kinds: Vec<String> = kinds.map(|(count, word)| format!("{count} {word}")).collect();
    let expired = if expired == 0 { String::new() } else { format!("; {expired} of them expired") };
    if kinds.is_empty() {
        return "no rules".to_owned();
    }
    format!("{} rules: {}{expired}", policy.rules.len(), kinds.join(", "))
}
