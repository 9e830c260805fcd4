//! The checks of an upstream or a listener that need no connection to a server.

use std::time::SystemTime;

use super::material::{Material, MaterialChecks};
use super::report::{About, CredentialReport, Finding, FindingKind, ListenerReport, Status, Step, UpstreamReport};
use crate::config::{
    EndpointConfig, ListenerConfig, ListenerTlsConfig, MaterialSource, UpstreamConfig, Verify, WorkloadApi,
};
use crate::tls::{
    TlsSide, TrustAnchors, UpstreamTlsError, WorkloadError, WorkloadSet, parse_server_name, read_revocation_lists,
};

/// The answer of a SPIFFE agent, if it was asked.
pub(super) type AgentAnswer = Option<Result<WorkloadSet, WorkloadError>>;

pub(super) fn check_upstream(
    section: &UpstreamConfig,
    upstream: &EndpointConfig,
    agent_answer: &AgentAnswer,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> UpstreamReport {
    let mut checks = MaterialChecks::new(About::Upstream(upstream.name.clone()), TlsSide::Upstream, now, findings);
    let material = match &upstream.tls.source {
        MaterialSource::Files(files) => Material::read(&section_of(upstream), files),
        MaterialSource::WorkloadApi(agent) => of_agent(upstream, agent, agent_answer, &mut checks),
    };
    let material = checks.material(&material);
    names(upstream, &mut checks);
    UpstreamReport {
        name: upstream.name.clone(),
        address: match section.deployment.srv() {
            Some(name) => name.to_owned(),
            None => section.deployment.listed().iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        },
        material,
        external_user: checks.external_user,
        server_identities: upstream.tls.server_identities.clone(),
        files: checks.steps,
        connections: Vec::new(),
        set: None,
        credentials: Vec::new(),
    }
}

/// Checks the credential for some callers. Its trust anchors are those of the upstream.
pub(super) fn check_credential(
    place: usize,
    principals: &[String],
    endpoint: &EndpointConfig,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> CredentialReport {
    let mut checks = MaterialChecks::new(About::Upstream(endpoint.name.clone()), TlsSide::Upstream, now, findings);
    let material = endpoint.tls.files().map(|files| Material::read(&endpoint.certificate_section, files));
    let material = material.map(|material| checks.material(&material)).unwrap_or_default();
    CredentialReport {
        place,
        principals: principals.to_vec(),
        material,
        external_user: checks.external_user,
        files: checks.steps,
        connections: Vec::new(),
    }
}

pub(super) fn check_listener(
    listener: &ListenerConfig,
    tls: &ListenerTlsConfig,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> ListenerReport {
    let mut checks = MaterialChecks::new(About::Listener(listener.name.clone()), TlsSide::Listener, now, findings);
    let material = checks.material(&Material::read(&format!("listener.{}.tls", listener.name), &tls.files));
    ListenerReport {
        name: listener.name.clone(),
        address: listener.address.to_string(),
        mode: listener.mode.as_str(),
        material,
        files: checks.steps,
    }
}

fn section_of(upstream: &EndpointConfig) -> String {
    format!("upstream.{}.tls", upstream.name)
}

/// The material from a SPIFFE agent and from the files that the same table names.
fn of_agent(
    upstream: &EndpointConfig,
    agent: &WorkloadApi,
    agent_answer: &AgentAnswer,
    checks: &mut MaterialChecks<'_>,
) -> Material {
    let set = match agent_answer {
        Some(Ok(set)) => {
            let id = set.spiffe_id().unwrap_or_default();
            checks.steps.push(Step::ok("workload API", format!("{id} from unix:{}", agent.socket.display())));
            Some(set)
        }
        Some(Err(error)) => {
            checks.steps.push(Step::error("workload API", error.to_string()));
            // The configuration itself is valid: agents can start, and workloads can be registered, at any time.
            checks.find_of(FindingKind::Upstream, Status::Error, error.to_string(), error.remedy());
            None
        }
        None => {
            let line = format!("skipped: unix:{} is not asked with --offline", agent.socket.display());
            checks.steps.push(Step::ok("workload API", line));
            None
        }
    };
    let section = section_of(upstream);
    let trust_anchors = match &agent.ca_file {
        Some(ca_file) => {
            Some(TrustAnchors::read_ca_file(&section, ca_file, agent.partial_chain).map_err(UpstreamTlsError::from))
        }
        None => set.map(|set| set.trust_anchors(upstream)),
    };
    Material {
        credentials: set.map(|set| set.credentials(upstream)),
        trust_anchors,
        lists: read_revocation_lists(&section, agent.crl_file.as_deref()).map_err(UpstreamTlsError::from),
    }
}

/// Checks how the server is identified: by its name or by URIs.
fn names(upstream: &EndpointConfig, checks: &mut MaterialChecks<'_>) {
    let name = match parse_server_name(upstream) {
        Ok(name) => name.as_str().to_owned(),
        Err(error) => {
            checks.steps.push(Step::error("server name", error.to_string()));
            checks.find(Status::Error, error.to_string(), error.remedy());
            return;
        }
    };
    let identities = &upstream.tls.server_identities;
    if !identities.is_empty() {
        checks.steps.push(Step::ok("server identities", identities.join(", ")));
        checks.steps.push(Step::ok("server name", format!("{name}, sent but not verified (server_identities)")));
        return;
    }
    match upstream.tls.verify {
        Verify::Full => checks.steps.push(Step::ok("server name", name)),
        Verify::Chain => {
            let line = format!("{name}, sent but not verified (verify = \"chain\")");
            checks.steps.push(Step::warning("server name", line));
            let sentence = "every server with a certificate from these CAs is accepted, whatever its name".to_owned();
            let remedy = format!("set upstream.{}.tls.verify to \"full\"", upstream.name);
            checks.find(Status::Warning, sentence, remedy);
        }
    }
}
