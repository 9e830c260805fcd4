//! The check of token issuers: whether their keys can be loaded, and whether a given token is valid.

use std::time::SystemTime;

use super::report::{About, Finding, FindingKind, Status, Step, TokenIssuerReport, TokenReport};
use crate::config::{Config, KeySource, TokenIssuerConfig};
use crate::identity::token::{KeySet, TokenIssuers};
use crate::tokens::{Loaded, load, token_issuers};

/// Where the keys are loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyScope {
    /// Only from files.
    Files,
    /// From files, addresses and agents.
    All,
}

/// Loads the keys of all issuers, and examines `token` with them.
pub(super) async fn check(
    config: &Config,
    scope: KeyScope,
    token: Option<&str>,
    findings: &mut Vec<Finding>,
) -> (Vec<TokenIssuerReport>, Option<TokenReport>) {
    let (mut reports, mut keys) = (Vec::new(), Vec::new());
    for (at, section) in config.token_issuers.iter().enumerate() {
        let (report, loaded) = check_issuer(section, at + 1, scope, findings).await;
        reports.push(report);
        keys.push(loaded);
    }
    match token_issuers(&config.token_issuers) {
        Ok(rules) => (reports, token.map(|token| check_token(token, &rules, &keys, findings))),
        Err(problems) => {
            for problem in problems {
                let (sentence, remedy) = (problem.sentence, "correct the value".to_owned());
                let about = About::Key(problem.key);
                findings.push(Finding {
                    severity: Status::Error,
                    kind: FindingKind::Configuration,
                    about,
                    sentence,
                    remedy,
                });
            }
            (reports, None)
        }
    }
}

/// The principal of a token, with the keys as they are now, or why there is none.
pub async fn principal_of_token(config: &Config, token: &str) -> Result<String, String> {
    if config.token_issuers.is_empty() {
        return Err("the configuration has no [[token_issuer]]".to_owned());
    }
    let rules = token_issuers(&config.token_issuers).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|one| format!("{} {}", one.key, one.sentence)).collect();
        lines.join("; ")
    })?;
    let (mut keys, mut failures) = (Vec::new(), Vec::new());
    for section in &config.token_issuers {
        match load(&section.keys).await {
            Ok(loaded) => keys.push(Some(loaded.keys)),
            Err(error) => {
                keys.push(None);
                failures.push(error.to_string());
            }
        }
    }
    match rules.validate(token, |position| keys.get(position)?.as_ref(), SystemTime::now()).result {
        Ok(token) => Ok(token.principal.to_string()),
        Err(problem) if failures.is_empty() => Err(problem.to_string()),
        Err(problem) => Err(format!("{problem} ({})", failures.join("; "))),
    }
}

async fn check_issuer(
    section: &TokenIssuerConfig,
    number: usize,
    scope: KeyScope,
    findings: &mut Vec<Finding>,
) -> (TokenIssuerReport, Option<KeySet>) {
    let mut report = TokenIssuerReport {
        issuer: section.label(),
        keys_from: section.keys.to_string(),
        audiences: section.audiences.clone(),
        steps: vec![Step::ok("audiences", section.audiences.join(", "))],
    };
    let (key, kind) = match &section.keys {
        KeySource::File(_) => ("jwks_file", FindingKind::Configuration),
        KeySource::Url { .. } | KeySource::WorkloadApi { .. } if scope == KeyScope::Files => return (report, None),
        KeySource::Url { .. } => ("jwks_url", FindingKind::Upstream),
        KeySource::WorkloadApi { .. } => ("spiffe_socket", FindingKind::Upstream),
    };
    match load(&section.keys).await {
        Ok(Loaded { keys, .. }) => {
            let mut descriptions = keys.descriptions().into_iter();
            let mut step = Step::ok("keys", descriptions.next().unwrap_or_default());
            step.lines.extend(descriptions);
            report.steps.push(step);
            report.steps.extend(keys.left_out().iter().map(|key| Step::ok("key left out", key.to_string())));
            (report, Some(keys))
        }
        Err(error) => {
            report.steps.push(Step::error("keys", error.to_string()));
            findings.push(Finding {
                severity: Status::Error,
                kind,
                about: About::Key(format!("token_issuer[{number}].{key}")),
                sentence: format!("has no usable keys: {error}"),
                remedy: error.remedy().into_owned(),
            });
            (report, None)
        }
    }
}

fn check_token(token: &str, rules: &TokenIssuers, keys: &[Option<KeySet>], findings: &mut Vec<Finding>) -> TokenReport {
    let now = SystemTime::now();
    let keys_of = |position: usize| keys.get(position)?.as_ref();
    let mut report = TokenReport {
        principal: rules.validate(token, keys_of, now).result.ok().map(|token| token.principal.to_string()),
        steps: Vec::new(),
    };
    for step in rules.examine(token, keys_of, now) {
        let (status, line) = match &step.result {
            Ok(line) => (Status::Ok, line.clone()),
            Err(problem) => (Status::Error, problem.to_string()),
        };
        report.steps.push(Step { name: "token", status, lines: vec![format!("{}: {line}", step.name)] });
        if let Err(problem) = step.result {
            findings.push(Finding {
                severity: Status::Error,
                kind: FindingKind::User,
                about: About::Key("--token-file".to_owned()),
                sentence: format!("has a token that is not accepted: {problem}"),
                remedy: problem.remedy().to_owned(),
            });
        }
    }
    report
}
