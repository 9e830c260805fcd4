//! The diagnosis behind `mongate check`: examines every file and every handshake, and reports the results.
//!
//! Needs a configuration that was already read and validated. Changes nothing, and does not stop at the first problem.

mod acceptance;
mod addresses;
mod chain;
mod connection;
mod files;
mod material;
mod policy;
mod report;
mod set;
mod text;
mod tokens;

use std::time::{Duration, SystemTime};

use self::tokens::KeyScope;
use crate::config::{Config, HostPort, MaterialSource, UpstreamConfig, WorkloadApi};
use crate::tls::{WorkloadError, WorkloadSet, WorkloadUpdates};

pub use self::tokens::principal_of_token;
pub use report::{
    About, CertificateReport, CheckVerdict, ConnectionReport, CredentialReport, Finding, FindingKind, HandshakeReport,
    ListenerReport, MaterialReport, MemberReport, PolicyReport, Report, RevocationListReport, ServerReport, SetReport,
    Status, Step, TokenIssuerReport, TokenReport, UpstreamReport, UserReport,
};

/// What a check includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckScope {
    /// Only files.
    Files,
    /// Files, and whether the gateway could listen on its addresses; opens no connection, not even to an agent.
    Offline,
    /// The same, and a handshake with every address of every upstream.
    Online,
}

/// Checks every upstream of `config` in sequence, the files of every listener with TLS, and the policy.
///
/// Each connection is limited by the upstream's `connect_timeout`. Cancel safe.
pub async fn check(config: &Config, scope: CheckScope) -> Report {
    check_with_token(config, scope, None).await
}

/// As [`check`], and examines `token` as if a client had sent it.
pub async fn check_with_token(config: &Config, scope: CheckScope, token: Option<&str>) -> Report {
    let now = SystemTime::now();
    let mut report = Report::default();
    for upstream in config.upstreams.values() {
        let checked = check_upstream(config, upstream, scope, now, &mut report.findings).await;
        report.upstreams.push(checked);
    }
    for listener in config.listeners.values() {
        if let Some(tls) = &listener.tls {
            report.listeners.push(files::check_listener(listener, tls, now, &mut report.findings));
        }
    }
    let key_scope = if scope == CheckScope::Online { KeyScope::All } else { KeyScope::Files };
    (report.token_issuers, report.token) = tokens::check(config, key_scope, token, &mut report.findings).await;
    for warning in config.warnings_outside_policy() {
        report.findings.push(Finding::warning_about_key(warning));
    }
    if scope != CheckScope::Files {
        addresses::check(config, &mut report.findings);
    }
    report.policy = config.policy.as_ref().map(|policy| policy::check(config, policy, &mut report.findings));
    report.conclude();
    report
}

async fn check_upstream(
    config: &Config,
    upstream: &UpstreamConfig,
    scope: CheckScope,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> UpstreamReport {
    let agent_answer = match (&upstream.tls.source, scope) {
        (MaterialSource::WorkloadApi(agent), CheckScope::Online) => {
            Some(fetch_workload_set(agent, upstream.connect_timeout).await)
        }
        _ => None,
    };
    // With SRV records the servers are not known yet, but the files can be checked without them.
    let any_address = upstream.any_address();
    let first = upstream.endpoint(&any_address);
    let mut checked = files::check_upstream(upstream, &first, &agent_answer, now, findings);
    if scope == CheckScope::Online {
        let workload = agent_answer.as_ref().and_then(|answer| answer.as_ref().ok());
        if upstream.deployment.has_members() {
            let context = set::SetContext { config, upstream, workload, now };
            let (found, connections) = Box::pin(set::check(&context, findings)).await;
            (checked.connections, checked.set) = (connections, Some(found));
        } else {
            checked.connections = Box::pin(connection::check(&first, workload, now, findings)).await;
        }
    }
    let server = server(upstream, checked.set.as_ref());
    for (index, credential) in upstream.credentials.iter().enumerate() {
        let endpoint = upstream.endpoint_with(index + 1, credential, server.as_ref().unwrap_or(&any_address));
        let mut further = files::check_credential(index + 1, &credential.principals, &endpoint, now, findings);
        if scope == CheckScope::Online && server.is_some() {
            further.connections = Box::pin(connection::check(&endpoint, None, now, findings)).await;
        }
        checked.credentials.push(further);
    }
    checked
}

/// The server to which the credentials for some callers are shown. One server suffices, because all members of a set
/// have the same users.
fn server(upstream: &UpstreamConfig, set: Option<&SetReport>) -> Option<HostPort> {
    let primary = set.and_then(|set| set.primary.as_ref()?.parse().ok());
    primary.or_else(|| upstream.deployment.listed().first().cloned())
}

async fn fetch_workload_set(agent: &WorkloadApi, limit: Duration) -> Result<WorkloadSet, WorkloadError> {
    WorkloadUpdates::ask(&agent.socket, limit).await?.next().await
}

#[cfg(test)]
mod tests;
