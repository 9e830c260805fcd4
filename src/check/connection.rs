//! The connection to every address of an upstream, step by step: TCP, TLS, ping, hello, authentication and resumption.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::acceptance::{chain_of, names_line, why_named, why_trusted};
use super::report::{
    About, CertificateReport, ConnectionReport, Finding, FindingKind, HandshakeReport, ServerReport, Status, Step,
    UserReport,
};
use crate::config::{EndpointConfig, MaterialSource};
use crate::identity::{CertificateFacts, Validity, date_text};
use crate::tls::{CertificateRequest, Staple, UpstreamTls, WorkloadSet};
use crate::upstream::{
    ClientIdentity, ConnectError, ConnectFailure, Connector, HandshakeFacts, ServerFacts, ServerRole, UnsupportedOffer,
    UpstreamStream, Users, identify, unsupported_offer,
};

/// Connects to each address of the server's name. If at least one address works, a failure of another one is a warning,
/// because the gateway tries the next address.
///
/// Returns nothing if no connector can be made. The cause, a file that cannot be used, is already in the findings.
pub(super) async fn check(
    upstream: &EndpointConfig,
    set: Option<&WorkloadSet>,
    now: SystemTime,
    findings: &mut Vec<Finding>,
) -> Vec<ConnectionReport> {
    let Some((connector, tls)) = connect_with(upstream, set) else { return Vec::new() };
    let findings_before = findings.len();
    let mut check = ConnectionCheck::new(&connector, tls, upstream, now, findings);
    let addresses = connector.resolve(check.deadline()).await;
    let Some(addresses) = check.expect("name resolved", addresses) else { return vec![check.report] };
    let mut reports = Vec::new();
    let mut connected = false;
    for &address in &addresses {
        // A separate connector for each address, so that no TLS session is resumed at another address.
        let Some((connector, tls)) = connect_with(upstream, set) else { break };
        let mut check = ConnectionCheck::new(&connector, tls, upstream, now, findings);
        check.report.address = Some(address.to_string());
        check.resolved(&addresses);
        connected |= check.run(address).await.is_some();
        reports.push(check.report);
    }
    if connected {
        demote(findings, findings_before);
    }
    reports
}

/// Turns the findings after the first `findings_before` ones into warnings, because another address or member works.
/// Findings about users stay errors: a user that one member does not know is unknown to all of them.
pub(super) fn demote(findings: &mut [Finding], findings_before: usize) {
    let found = findings.iter_mut().skip(findings_before).filter(|finding| finding.kind != FindingKind::User);
    found.for_each(|finding| finding.severity = Status::Warning);
}

/// A connector and its TLS configuration; `None` if there are no usable certificates.
pub(super) fn connect_with(
    upstream: &EndpointConfig,
    set: Option<&WorkloadSet>,
) -> Option<(Connector, Arc<UpstreamTls>)> {
    let identity = Arc::new(ClientIdentity::new(upstream).ok()?);
    if let (MaterialSource::WorkloadApi(agent), Some(set)) = (&upstream.tls.source, set) {
        identity.renew(UpstreamTls::from_workload(upstream, agent, set).ok()?);
    }
    let connector = Connector::new(upstream, identity).ok()?;
    let tls = connector.tls()?;
    Some((connector, tls))
}

/// The check of one connection, and its report. A step that returns `None` ends the check, with its reason in the
/// report.
struct ConnectionCheck<'a> {
    connector: &'a Connector,
    /// The TLS configuration of the connector.
    tls: Arc<UpstreamTls>,
    upstream: &'a EndpointConfig,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    report: ConnectionReport,
}

impl<'a> ConnectionCheck<'a> {
    fn new(
        connector: &'a Connector,
        tls: Arc<UpstreamTls>,
        upstream: &'a EndpointConfig,
        now: SystemTime,
        findings: &'a mut Vec<Finding>,
    ) -> Self {
        Self { connector, tls, upstream, now, findings, report: ConnectionReport::default() }
    }

    async fn run(&mut self, address: SocketAddr) -> Option<()> {
        let deadline = self.deadline();
        let tcp = self.connector.dial(address, None, deadline).await;
        let tcp = self.expect("TCP connected", tcp)?;
        self.report.steps.push(Step::done("TCP connected"));
        let mut stream = match self.connector.handshake(address, tcp, deadline).await {
            Ok(stream) => stream,
            Err(error) => {
                // A mongod that has nothing in common with the gateway closes the connection, with or without an alert.
                let offer = match error.failure() {
                    ConnectFailure::Handshake { .. } | ConnectFailure::NotTls { .. } => {
                        unsupported_offer(self.connector, address, self.deadline()).await
                    }
                    _ => None,
                };
                match offer {
                    Some(offer) => self.handshake_impossible(&offer),
                    None => self.handshake_failed(&error),
                }
                return None;
            }
        };
        self.handshake_done(&stream);
        let proof = self.connector.prove(&mut stream, deadline).await;
        self.expect("ping", proof)?;
        let asked = stream.record.request().is_some();
        let line = if asked { "answered: mongod accepts the client certificate" } else { "answered" };
        self.report.steps.push(Step::ok("ping", line));
        let server = identify(self.connector, &mut stream, self.deadline()).await;
        let server = self.expect("MongoDB hello", server)?;
        self.server(server);
        self.user(&mut stream).await?;
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
            self.report.steps.push(Step::ok("name resolved", format!("{host} resolves to {list}")));
        }
    }

    fn handshake_failed(&mut self, error: &ConnectError) {
        match error.failure() {
            ConnectFailure::ServerCertificate { certificate, .. } => {
                self.report.steps.push(Step::done("TLS negotiated"));
                self.report.server_certificate = certificate.as_deref().map(CertificateReport::from);
                self.fail("server certificate", error);
                if let Some(facts) = certificate {
                    let lines = chain_of(facts, &[], &self.tls.trust_anchors).lines(self.now);
                    if let Some(step) = self.report.steps.last_mut() {
                        step.lines.extend(lines.into_iter().chain([names_line(facts)]));
                    }
                }
            }
            ConnectFailure::ClientCertificateRejected { request, .. } => {
                self.report.steps.push(Step::done("TLS negotiated"));
                self.client_certificate(request.as_ref());
                self.fail("TLS handshake", error);
            }
            _ => self.fail("TLS negotiated", error),
        }
    }

    fn handshake_impossible(&mut self, offer: &UnsupportedOffer) {
        let sentence = format!("the TLS handshake with {} is not possible: {}", self.address(), offer.sentence());
        self.report.steps.push(Step::error("TLS negotiated", sentence.clone()));
        self.find(Status::Error, sentence, offer.remedy().to_owned());
    }

    fn handshake_done(&mut self, stream: &UpstreamStream) {
        let facts = &stream.handshake;
        self.report.handshake = Some(negotiated(facts));
        let key_exchange = facts.key_exchange.map(|group| format!(", key exchange {group}")).unwrap_or_default();
        let line = format!("{}, cipher {}{key_exchange}", facts.version, facts.cipher_suite);
        self.report.steps.push(Step::ok("TLS negotiated", line));
        let chain = stream.tls.session().facts().peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().filter_map(|der| CertificateFacts::from_der(der).ok()).collect();
        if let [leaf, above @ ..] = chain.as_slice() {
            self.server_certificate(leaf, above, stream.record.staple());
        }
        self.client_certificate(stream.record.request().as_ref());
        let duration = facts.duration.as_secs_f64() * 1000.0;
        let kind = if facts.resumed { "session resumed" } else { "full handshake" };
        self.report.steps.push(Step::ok("TLS handshake", format!("{kind}, {duration:.1} ms")));
    }

    fn server_certificate(&mut self, leaf: &CertificateFacts, above: &[CertificateFacts], staple: Option<Staple>) {
        // A reference of its own, because findings are added to `self` while the chain is in use.
        let tls = Arc::clone(&self.tls);
        let chain = chain_of(leaf, above, &tls.trust_anchors);
        let accepted =
            format!("accepted: {}, {}", why_trusted(&chain), why_named(leaf, &tls.server_name, self.upstream));
        let lines = chain
            .lines(self.now)
            .into_iter()
            .chain([names_line(leaf), accepted])
            .chain(staple.map(staple_line))
            .collect();
        let mut step = Step { name: "server certificate", status: Status::Ok, lines };
        if leaf.validity(self.now) == Validity::EndsSoon {
            step.status = Status::Warning;
            let sentence = format!("the certificate of {} {}", self.address(), leaf.expiry_text(self.now));
            self.find(Status::Warning, sentence, "renew mongod's certificate".to_owned());
        }
        let subject = &tls.credentials.certificate.subject;
        if leaf.subject.is_of_same_cluster(subject) {
            step.status = Status::Warning;
            let sentence = format!(
                "THE GATEWAY'S CLIENT CERTIFICATE MAY BE TAKEN FOR A CLUSTER MEMBER: {subject} has the same O, OU and \
                 DC as mongod's certificate; a mongod with security.clusterAuthMode x509 treats every client that \
                 authenticates with it as a member of its cluster, with all privileges"
            );
            let remedy = "issue a client certificate whose O, OU or DC differs from that of mongod's certificate";
            self.find(Status::Warning, sentence, remedy.to_owned());
        }
        self.report.server_certificate = Some(leaf.into());
        self.report.steps.push(step);
    }

    /// The certificate request of the server, and the certificate that the gateway sent.
    fn client_certificate(&mut self, request: Option<&CertificateRequest>) {
        let Some(request) = request else {
            let line = "no: mongod does not request client certificates";
            self.report.steps.push(Step::warning("certificate requested", line));
            let sentence = format!("{} does not request client certificates", self.address());
            let remedy =
                "set net.tls.CAFile in mongod's configuration; without it, every client may connect".to_owned();
            self.find(Status::Warning, sentence, remedy);
            return;
        };
        let accepted: Vec<_> = request.acceptable_cas.iter().map(ToString::to_string).collect();
        let line = match accepted.as_slice() {
            [] => "from any issuer that mongod trusts".to_owned(),
            accepted => format!("from {}", accepted.join(" | ")),
        };
        self.report.steps.push(Step::ok("certificate requested", line));
        let certificate = &self.tls.credentials.certificate;
        let sent = format!("{}, issued by {}", certificate.subject, certificate.issuer);
        self.report.steps.push(Step::ok("certificate sent", sent).and(certificate.expiry_text(self.now)));
    }

    fn server(&mut self, server: ServerFacts) {
        let version = server.version.as_deref().unwrap_or("of unknown version");
        let line = match (server.role, &server.set_name) {
            (ServerRole::Mongos, _) => format!("mongos {version}"),
            (role, Some(set_name)) => format!("mongod {version}, {role} of replica set {set_name}"),
            (role, None) => format!("mongod {version}, {role}"),
        };
        self.report.steps.push(Step::ok("MongoDB hello", line));
        let ServerFacts { version, role, set_name, .. } = server;
        self.report.server = Some(ServerReport { version, role: role.to_string(), set_name });
    }

    /// Authenticates like the gateway, if the gateway authenticates on this upstream.
    async fn user(&mut self, stream: &mut UpstreamStream) -> Option<()> {
        if !self.connector.authenticates() {
            return Some(());
        }
        if self.report.server.as_ref().is_some_and(|server| server.role == ServerRole::Other.to_string()) {
            self.connector.expect_users(Users::Awaited);
        }
        let deadline = self.deadline();
        if let Err(error) = self.connector.authenticate(stream, deadline).await {
            self.report.steps.push(Step::error("authenticated", error.to_string()));
            let kind = if error.is_user_failure() { FindingKind::User } else { FindingKind::Upstream };
            self.find_of(kind, Status::Error, error.to_string(), error.remedy());
            return None;
        }
        let Some(user) = &stream.user else {
            let line = "skipped: this member has no users; it is an arbiter, or a member in initial sync";
            self.report.steps.push(Step::ok("authenticated", line));
            return Some(());
        };
        let roles = match user.roles.as_slice() {
            [] => "without roles".to_owned(),
            roles => format!("with roles {}", roles.join(", ")),
        };
        self.report.steps.push(Step::ok("authenticated", format!("as {}", user.name)).and(roles));
        self.report.user = Some(UserReport { name: user.name.clone(), roles: user.roles.clone() });
        Some(())
    }

    async fn resumption(&mut self, address: SocketAddr) {
        let deadline = self.deadline();
        let second = async {
            let tcp = self.connector.dial(address, None, deadline).await?;
            let mut stream = self.connector.handshake(address, tcp, deadline).await?;
            self.connector.prove(&mut stream, deadline).await?;
            Ok(stream.handshake.resumed)
        };
        let second = second.await;
        let Some(resumed) = self.expect("second connection", second) else { return };
        let line = if resumed { "resumes the TLS session" } else { "full handshake: the server keeps no TLS sessions" };
        self.report.steps.push(Step::ok("second connection", line));
        if let Some(handshake) = &mut self.report.handshake {
            handshake.resumable = Some(resumed);
        }
    }

    fn expect<T>(&mut self, name: &'static str, result: Result<T, ConnectError>) -> Option<T> {
        result.map_err(|error| self.fail(name, &error)).ok()
    }

    fn fail(&mut self, name: &'static str, error: &ConnectError) {
        self.report.steps.push(Step::error(name, error.to_string()));
        self.find(Status::Error, error.to_string(), error.remedy());
    }

    fn find(&mut self, severity: Status, sentence: String, remedy: String) {
        self.find_of(FindingKind::Upstream, severity, sentence, remedy);
    }

    fn find_of(&mut self, kind: FindingKind, severity: Status, sentence: String, remedy: String) {
        let about = About::Upstream(self.upstream.name.clone());
        let finding = Finding { severity, kind, about, sentence, remedy };
        // Several addresses may give the same finding.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// The address, or the host name if the name has no address.
    fn address(&self) -> &str {
        self.report.address.as_deref().unwrap_or(&self.upstream.address.host)
    }
}

/// What the server stapled to its certificate.
fn staple_line(staple: Staple) -> String {
    match staple {
        Staple::Absent => "OCSP: no response is stapled".to_owned(),
        Staple::Good { until } => format!("OCSP: stapled, good, until {}", date_text(until)),
    }
}

fn negotiated(facts: &HandshakeFacts) -> HandshakeReport {
    let HandshakeFacts { version, cipher_suite, key_exchange, .. } = *facts;
    HandshakeReport { version, cipher_suite, key_exchange, resumable: None }
}
