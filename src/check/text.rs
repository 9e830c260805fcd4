//! The text form of a report.

use std::fmt;

use super::report::{About, CheckVerdict, ConnectionReport, Finding, Report, Status, Step};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for upstream in &self.upstreams {
            writeln!(f, "upstream {} at {}", upstream.name, upstream.address)?;
            write_steps(f, "files", &upstream.files)?;
            write_connections(f, &upstream.connections, "")?;
            if let Some(set) = &upstream.set {
                match &set.name {
                    Some(name) => write_steps(f, &format!("replica set {name}"), &set.steps)?,
                    None => write_steps(f, "members", &set.steps)?,
                }
            }
            for credential in &upstream.credentials {
                let number = credential.place;
                let principals = credential.principals.join(", ");
                write_steps(f, &format!("files of credential {number}, for {principals}"), &credential.files)?;
                write_connections(f, &credential.connections, &format!(" with credential {number}"))?;
            }
            writeln!(f)?;
        }
        for listener in &self.listeners {
            writeln!(f, "listener {} at {}, {}", listener.name, listener.address, listener.mode)?;
            write_steps(f, "files", &listener.files)?;
            writeln!(f)?;
        }
        for issuer in &self.token_issuers {
            writeln!(f, "token issuer {}", issuer.issuer)?;
            write_steps(f, &format!("keys from {}", issuer.keys_from), &issuer.steps)?;
            writeln!(f)?;
        }
        if let Some(token) = &self.token {
            writeln!(f, "token of {}", token.principal.as_deref().unwrap_or("no accepted client"))?;
            write_steps(f, "claims", &token.steps)?;
            writeln!(f)?;
        }
        if let Some(policy) = &self.policy {
            writeln!(f, "policy, {}", policy.enforcement)?;
            write_steps(f, "rules", &policy.steps)?;
            writeln!(f)?;
        }
        write_findings(f, &self.findings)?;
        write_verdict(f, self)
    }
}

fn write_connections(f: &mut fmt::Formatter<'_>, connections: &[ConnectionReport], with: &str) -> fmt::Result {
    connections.iter().try_for_each(|connection| match &connection.address {
        Some(address) => write_steps(f, &format!("connection to {address}{with}"), &connection.steps),
        None => write_steps(f, &format!("connection{with}"), &connection.steps),
    })
}

fn write_steps(f: &mut fmt::Formatter<'_>, title: &str, steps: &[Step]) -> fmt::Result {
    writeln!(f, "  {title}")?;
    steps.iter().try_for_each(|step| write_step(f, step))
}

fn write_step(f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    let status = step.status.as_str();
    let mut lines = step.lines.iter();
    match lines.next() {
        Some(line) => writeln!(f, "    {status:<8}{:<24}{line}", step.name)?,
        None => writeln!(f, "    {status:<8}{}", step.name)?,
    }
    lines.try_for_each(|line| writeln!(f, "{:36}{line}", ""))
}

fn write_findings(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(f, "findings")?;
    for finding in findings {
        let severity = finding.severity.as_str();
        let about = match &finding.about {
            About::Upstream(name) => name.clone(),
            About::Listener(name) => format!("listener {name}"),
            About::File(file) => file.clone(),
            // The sentence continues the key.
            About::Policy(key) | About::Key(key) => {
                writeln!(f, "  {severity:<8}{key} {}", finding.sentence)?;
                writeln!(f, "          -> {}", finding.remedy)?;
                continue;
            }
        };
        writeln!(f, "  {severity:<8}{about}: {}", finding.sentence)?;
        writeln!(f, "          -> {}", finding.remedy)?;
    }
    writeln!(f)
}

fn write_verdict(f: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Status::Error), count(Status::Warning));
    let verdict = match report.verdict {
        CheckVerdict::Ready => "ready",
        CheckVerdict::Refused => "an upstream cannot be used",
        CheckVerdict::BadConfiguration => "the configuration cannot be used",
    };
    write!(f, "verdict: {verdict}")?;
    match (errors, warnings) {
        (0, 0) => writeln!(f),
        _ => writeln!(f, " ({}, {})", plural(errors, "error"), plural(warnings, "warning")),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
