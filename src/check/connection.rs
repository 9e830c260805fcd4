//! The mutual handshake with every address of an upstream, step by step.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use super::report::{
    CertificateReport, ConnectionReport, Finding, HandshakeReport, Kind, ServerReport, Severity, Status, Step,
};
use crate::config::{MaterialSource, UpstreamConfig, Verify, WorkloadApi};
use crate::identity::{CertificateFacts, Validity};
use crate::tls::{ClientTls, WorkloadSet};
use crate::upstream::{ConnectError, Connector, Failure, HandshakeFacts, Role, ServerFacts, UpstreamStream, identify};

/// Connects to each address of the name. An address that fails beside one that works is a warning, since the gateway
/// goes on to the next.
///
/// Silent where no connector can be made: the files that keep it from being made are findings already.
pub(super) async fn check(
    upstream: &UpstreamConfig,
    set: Option<&WorkloadSet>,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> Vec<ConnectionReport> {
    let Some((connector, tls)) = connect_with(upstream, set) else { return Vec::new() };
    let known = findings.len();
    let mut talk = Talk::new(&connector, tls, upstream, now, findings);
    let addresses = connector.resolve(talk.deadline()).await;
    let Some(addresses) = talk.expect("name resolved", addresses) else { return vec![talk.report] };
    let mut reports = Vec::new();
    let mut connected = false;
    for &address in &addresses {
        // One of its own for each, so that no session of one address is taken up at another.
        let Some((connector, tls)) = connect_with(upstream, set) else { break };
        let mut talk = Talk::new(&connector, tls, upstream, now, findings);
        talk.report.address = Some(address.to_string());
        talk.resolved(&addresses);
        connected |= talk.run(address).await.is_some();
        reports.push(talk.report);
    }
    if connected {
        findings.iter_mut().skip(known).for_each(|finding| finding.severity = Severity::Warning);
    }
    reports
}

/// With the certificates that it is to use; `None` where there are none.
fn connect_with(upstream: &UpstreamConfig, set: Option<&WorkloadSet>) -> Option<(Connector, Arc<ClientTls>)> {
    let connector = Connector::new(upstream).ok()?;
    if let (MaterialSource::WorkloadApi(agent), Some(set)) = (&upstream.tls.source, set) {
        connector.renew(ClientTls::from_workload(upstream, agent, set).ok()?);
    }
    let tls = connector.tls()?;
    Some((connector, tls))
}

/// One connection and what is written down about it. `None` from a step ends it; the reason is in the report by then.
struct Talk<'a> {
    connector: &'a Connector,
    /// What the connector uses.
    tls: Arc<ClientTls>,
    upstream: &'a UpstreamConfig,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    report: ConnectionReport,
}

impl<'a> Talk<'a> {
    fn new(
        connector: &'a Connector,
        tls: Arc<ClientTls>,
        upstream: &'a UpstreamConfig,
        now: SystemTime,
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        Self { connector, tls, upstream, now, findings, report: ConnectionReport::default() }
    }

    async fn run(&mut self, address: SocketAddr) -> Option<()> {
        let deadline = self.deadline();
        let tcp = self.connector.dial(address, deadline).await;
        let tcp = self.expect("TCP connected", tcp)?;
        self.report.steps.push(Step::done("TCP connected"));
        let mut stream = match self.connector.handshake(address, tcp, deadline).await {
            Ok(stream) => stream,
            Err(error) => {
                self.handshake_failed(&error);
                return None;
            }
        };
        self.handshake_done(&stream);
        let proof = self.connector.prove(&mut stream, deadline).await;
        self.expect("ping", proof)?;
        let asked = self.tls.witness.request().is_some();
        let line = if asked { "answered: mongod takes our certificate" } else { "answered" };
        self.report.steps.push(Step::ok("ping", line));
        let server = identify(self.connector, &mut stream, self.deadline()).await;
        let server = self.expect("hello", server)?;
        self.server(server);
        drop(stream);
        self.resumption(address).await;
        Some(())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.connector.connect_timeout()
    }

    fn resolved(&mut self, addresses: &[SocketAddr]) {
        let list = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
        let host = &self.upstream.address.host;
        if *host != list {
            self.report.steps.push(Step::ok("name resolved", format!("{host} is {list}")));
        }
    }

    fn handshake_failed(&mut self, error: &ConnectError) {
        match error.failure() {
            Failure::ServerCertificate { certificate, .. } => {
                self.report.steps.push(Step::done("hello exchanged"));
                self.report.server_certificate = certificate.as_deref().map(CertificateReport::from);
                self.fail("server certificate", error);
                if let (Some(facts), Some(step)) = (certificate, self.report.steps.last_mut()) {
                    step.lines.extend(described(facts, self.now));
                }
            }
            Failure::ClientCertificateRefused { .. } => {
                self.report.steps.push(Step::done("hello exchanged"));
                self.certificates_of_client();
                self.fail("finished", error);
            }
            _ => self.fail("hello exchanged", error),
        }
    }

    fn handshake_done(&mut self, stream: &UpstreamStream) {
        let facts = &stream.handshake;
        self.report.handshake = Some(agreed(facts));
        let agreed = [facts.version, facts.cipher_suite].into_iter().chain(facts.key_exchange);
        let agreed = agreed.collect::<Vec<_>>().join(", ");
        self.report.steps.push(Step::ok("hello exchanged", agreed));
        let chain = stream.tls.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().filter_map(|der| CertificateFacts::from_der(der).ok()).collect();
        if let [leaf, above @ ..] = chain.as_slice() {
            self.server_certificate(leaf, above);
        }
        self.certificates_of_client();
        let duration = facts.duration.as_secs_f64() * 1000.0;
        let kind = if facts.resumed { "session resumed" } else { "full handshake" };
        self.report.steps.push(Step::ok("finished", format!("{kind}, {duration:.1} ms")));
    }

    fn server_certificate(&mut self, leaf: &CertificateFacts, above: &[CertificateFacts]) {
        let mut step = Step::ok("server certificate", leaf.subject.to_string());
        step.lines.extend(described(leaf, self.now).into_iter().skip(1));
        step.lines.push(format!("accepted: {}, {}", self.why_trusted(leaf, above), self.why_named(leaf)));
        if leaf.validity(self.now) == Validity::EndsSoon {
            step.status = Status::Warning;
            let sentence = format!("the certificate of {} {}", self.place(), leaf.expiry_text(self.now));
            self.find(Severity::Warning, sentence, "renew mongod's certificate".to_owned());
        }
        let ours = &self.tls.credentials.certificate.subject;
        if leaf.subject.is_of_same_cluster(ours) {
            step.status = Status::Warning;
            let sentence = format!(
                "our certificate {ours} has the organization of mongod's own: with security.clusterAuthMode x509, whoever \
                 authenticates with it is a member of the cluster and may do everything"
            );
            let remedy = "issue it with another O, OU or DC than mongod's certificate has".to_owned();
            self.find(Severity::Warning, sentence, remedy);
        }
        self.report.server_certificate = Some(leaf.into());
        self.report.steps.push(step);
    }

    /// By names alone: rustls has checked the signatures.
    fn why_trusted(&self, leaf: &CertificateFacts, above: &[CertificateFacts]) -> String {
        let authorities = &self.tls.authorities;
        let mut current = leaf;
        let mut through = String::new();
        // No chain is longer than what was sent.
        for _ in 0..=above.len() {
            if let Some(authority) = authorities.issuer_of(current) {
                return format!("{through}signed by {} of our {}", authority.subject, self.authorities_place());
            }
            let Some(issuer) = above.iter().find(|facts| facts.subject == current.issuer) else { break };
            through = format!("{through}through {}, ", issuer.subject);
            current = issuer;
        }
        format!("its chain ends at our {}", self.authorities_place())
    }

    fn authorities_place(&self) -> &'static str {
        match &self.upstream.tls.source {
            MaterialSource::WorkloadApi(WorkloadApi { ca_file: None, .. }) => "agent",
            _ => "ca_file",
        }
    }

    fn why_named(&self, leaf: &CertificateFacts) -> String {
        if !self.upstream.tls.server_identities.is_empty() {
            return format!("and {} is among server_identities", leaf.uris.join(", "));
        }
        let expected = &self.tls.server_name;
        if self.upstream.tls.verify == Verify::Chain {
            return "its names are not checked (verify = \"chain\")".to_owned();
        }
        let wildcard = match expected {
            ServerName::DnsName(name) => {
                let name = name.as_ref();
                let exact = leaf.dns_names.iter().any(|presented| presented.eq_ignore_ascii_case(name));
                let above = name.split_once('.').map(|(_, above)| format!("*.{above}"));
                above.filter(|above| !exact && leaf.dns_names.iter().any(|name| name.eq_ignore_ascii_case(above)))
            }
            _ => None,
        };
        match wildcard {
            Some(pattern) => format!("and {pattern} covers {}", expected.to_str()),
            None => format!("and {} is among its names", expected.to_str()),
        }
    }

    /// What the server asked for and what it got.
    fn certificates_of_client(&mut self) {
        let Some(request) = self.tls.witness.request() else {
            self.report.steps.push(Step::warning("certificate requested", "no: mongod asks its clients for none"));
            let sentence = format!("{} does not ask for client certificates", self.place());
            let remedy = "set net.tls.CAFile in mongod's configuration; without it, everyone may connect".to_owned();
            self.find(Severity::Warning, sentence, remedy);
            return;
        };
        let accepted: Vec<_> = request.authorities.iter().map(ToString::to_string).collect();
        let line = match accepted.as_slice() {
            [] => "from any authority that mongod knows".to_owned(),
            accepted => format!("from {}", accepted.join(" | ")),
        };
        self.report.steps.push(Step::ok("certificate requested", line));
        let ours = &self.tls.credentials.certificate;
        let sent = format!("{} from {}", ours.subject, ours.issuer);
        self.report.steps.push(Step::ok("our certificate sent", sent).and(ours.expiry_text(self.now)));
    }

    fn server(&mut self, server: ServerFacts) {
        let version = server.version.as_deref().unwrap_or("of unknown version");
        let line = match (server.role, &server.set_name) {
            (Role::Mongos, _) => format!("mongos {version}"),
            (role, Some(set_name)) => format!("mongod {version}, {role} of replica set {set_name}"),
            (role, None) => format!("mongod {version}, {role}"),
        };
        self.report.steps.push(Step::ok("hello", line));
        let ServerFacts { version, role, set_name, .. } = server;
        self.report.server = Some(ServerReport { version, role: role.to_string(), set_name });
    }

    async fn resumption(&mut self, address: SocketAddr) {
        let deadline = self.deadline();
        let second = async {
            let tcp = self.connector.dial(address, deadline).await?;
            let mut stream = self.connector.handshake(address, tcp, deadline).await?;
            self.connector.prove(&mut stream, deadline).await?;
            Ok(stream.handshake.resumed)
        };
        let second = second.await;
        let Some(resumed) = self.expect("second connection", second) else { return };
        let line =
            if resumed { "takes the session up again" } else { "makes a full handshake: the server keeps no sessions" };
        self.report.steps.push(Step::ok("second connection", line));
        if let Some(handshake) = &mut self.report.handshake {
            handshake.resumable = Some(resumed);
        }
    }

    fn expect<T>(&mut self, name: &'static str, result: Result<T, ConnectError>) -> Option<T> {
        result.map_err(|error| self.fail(name, &error)).ok()
    }

    fn fail(&mut self, name: &'static str, error: &ConnectError) {
        self.report.steps.push(Step::failed(name, error.to_string()));
        self.find(Severity::Error, error.to_string(), error.remedy());
    }

    fn find(&mut self, severity: Severity, sentence: String, remedy: String) {
        let upstream = self.upstream.name.clone();
        let finding = Finding { severity, kind: Kind::Upstream, upstream, sentence, remedy };
        // Several addresses may have the same thing to say.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn place(&self) -> &str {
        self.report.address.as_deref().unwrap_or(&self.upstream.address.host)
    }
}

fn described(facts: &CertificateFacts, now: SystemTime) -> Vec<String> {
    let names = facts.names();
    let names = if names.is_empty() { "no names".to_owned() } else { format!("names {}", names.join(", ")) };
    vec![format!("subject {}", facts.subject), names, format!("from {}", facts.issuer), facts.expiry_text(now)]
}

fn agreed(facts: &HandshakeFacts) -> HandshakeReport {
    let HandshakeFacts { version, cipher_suite, key_exchange, .. } = *facts;
    HandshakeReport { version, cipher_suite, key_exchange, resumable: None }
}
