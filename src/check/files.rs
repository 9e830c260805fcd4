//! What can be said about an upstream or a listener without connecting to anything.

use std::time::SystemTime;

use super::material::Desk;
use super::report::{About, Finding, ListenerReport, MaterialReport, Severity, Step, UpstreamReport};
use crate::config::{ListenerConfig, ListenerTlsConfig, MaterialSource, UpstreamConfig, Verify};
use crate::tls::{Side, parse_server_name};

pub(super) fn check_upstream(
    upstream: &UpstreamConfig,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> UpstreamReport {
    let about = About::Upstream(upstream.name.clone());
    let mut desk = Desk::new(about, format!("upstream.{}.tls", upstream.name), Side::Upstream, now, findings);
    let material = match &upstream.tls.source {
        MaterialSource::Files(files) => desk.material(files),
        MaterialSource::WorkloadApi(agent) => {
            let socket = agent.socket.display();
            desk.steps.push(Step::ok("our certificate", format!("from the SPIFFE Workload API at {socket}")));
            MaterialReport::default()
        }
    };
    names(upstream, &mut desk);
    UpstreamReport {
        name: upstream.name.clone(),
        address: upstream.address.to_string(),
        material,
        external_user: desk.external_user,
        server_identities: upstream.tls.server_identities.clone(),
        files: desk.steps,
        connections: Vec::new(),
    }
}

pub(super) fn check_listener(
    listener: &ListenerConfig,
    tls: &ListenerTlsConfig,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> ListenerReport {
    let about = About::Listener(listener.name.clone());
    let mut desk = Desk::new(about, format!("listener.{}.tls", listener.name), Side::Listener, now, findings);
    let material = desk.material(&tls.files);
    ListenerReport {
        name: listener.name.clone(),
        address: listener.address.to_string(),
        mode: listener.mode.as_str(),
        material,
        files: desk.steps,
    }
}

/// Which server may be at the other end.
fn names(upstream: &UpstreamConfig, desk: &mut Desk<'_>) {
    let name = match parse_server_name(upstream) {
        Ok(name) => name.to_str().into_owned(),
        Err(error) => {
            desk.steps.push(Step::failed("server name", error.to_string()));
            desk.find(Severity::Error, error.to_string(), error.remedy());
            return;
        }
    };
    let identities = &upstream.tls.server_identities;
    if !identities.is_empty() {
        desk.steps.push(Step::ok("server identities", identities.join(", ")));
        desk.steps.push(Step::ok("server name", format!("{name}, sent but not checked (server_identities)")));
        return;
    }
    match upstream.tls.verify {
        Verify::Full => desk.steps.push(Step::ok("server name", name)),
        Verify::Chain => {
            let line = format!("{name}, sent but not checked (verify = \"chain\")");
            desk.steps.push(Step::warning("server name", line));
            let sentence = "every server with a certificate of these authorities is accepted".to_owned();
            let remedy = format!("set upstream.{}.tls.verify to \"full\"", upstream.name);
            desk.find(Severity::Warning, sentence, remedy);
        }
    }
}
