//! The mutual handshake with every address of an upstream, step by step.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use super::chain::{Above, Chain};
use super::report::{
    About, CertificateReport, ConnectionReport, Finding, HandshakeReport, Kind, ServerReport, Severity, Status, Step,
    UserReport,
};
use crate::config::{EndpointConfig, MaterialSource, Verify};
use crate::identity::{CertificateFacts, Validity};
use crate::tls::{TrustAnchors, UpstreamTls, WorkloadSet};
use crate::upstream::{
    ClientIdentity, ConnectError, ConnectFailure, Connector, HandshakeFacts, ServerFacts, ServerRole, UpstreamStream,
    Users, identify,
};

/// Connects to each address of the name. An address that fails beside one that works is a warning, since the gateway
/// goes on to the next.
///
/// Silent where no connector can be made: the files that keep it from being made are findings already.
pub(super) async fn check(
    upstream: &EndpointConfig,
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
        demote(findings, known);
    }
    reports
}

/// Makes warnings of what was found since there were `known` findings: another address, or member, will do. A user that
/// one does not know the others do not know either.
pub(super) fn demote(findings: &mut [Finding], known: usize) {
    let found = findings.iter_mut().skip(known).filter(|finding| finding.kind != Kind::User);
    found.for_each(|finding| finding.severity = Severity::Warning);
}

/// With the certificates that it is to use; `None` where there are none.
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

/// One connection and what is written down about it. `None` from a step ends it; the reason is in the report by then.
struct Talk<'a> {
    connector: &'a Connector,
    /// What the connector uses.
    tls: Arc<UpstreamTls>,
    upstream: &'a EndpointConfig,
    now: SystemTime,
    findings: &'a mut Vec<Finding>,
    report: ConnectionReport,
}

impl<'a> Talk<'a> {
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
        let asked = self.tls.last_handshake.request().is_some();
        let line = if asked { "answered: mongod takes our certificate" } else { "answered" };
        self.report.steps.push(Step::ok("ping", line));
        let server = identify(self.connector, &mut stream, self.deadline()).await;
        let server = self.expect("hello", server)?;
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
            self.report.steps.push(Step::ok("name resolved", format!("{host} is {list}")));
        }
    }

    fn handshake_failed(&mut self, error: &ConnectError) {
        match error.failure() {
            ConnectFailure::ServerCertificate { certificate, .. } => {
                self.report.steps.push(Step::done("hello exchanged"));
                self.report.server_certificate = certificate.as_deref().map(CertificateReport::from);
                self.fail("server certificate", error);
                if let Some(facts) = certificate {
                    let lines = chain_of(facts, &[], &self.tls.trust_anchors).lines(self.now);
                    if let Some(step) = self.report.steps.last_mut() {
                        step.lines.extend(lines.into_iter().chain([names_line(facts)]));
                    }
                }
            }
            ConnectFailure::ClientCertificateRejected { .. } => {
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
        let chain = stream.tls.session().facts().peer_certificates().unwrap_or_default();
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
        // Not of `self`: findings are added while it is looked at.
        let tls = Arc::clone(&self.tls);
        let chain = chain_of(leaf, above, &tls.trust_anchors);
        let accepted = format!("accepted: {}, {}", why_trusted(&chain), self.why_named(leaf));
        let lines = chain.lines(self.now).into_iter().chain([names_line(leaf), accepted]).collect();
        let mut step = Step { name: "server certificate", status: Status::Ok, lines };
        if leaf.validity(self.now) == Validity::EndsSoon {
            step.status = Status::Warning;
            let sentence = format!("the certificate of {} {}", self.place(), leaf.expiry_text(self.now));
            self.find(Severity::Warning, sentence, "renew mongod's certificate".to_owned());
        }
        let ours = &tls.credentials.certificate.subject;
        if leaf.subject.is_of_same_cluster(ours) {
            step.status = Status::Warning;
            let sentence = format!(
                "OUR CERTIFICATE MAY BE THAT OF A CLUSTER MEMBER: {ours} has the O, OU and DC of mongod's own, and a mongod \
                 with security.clusterAuthMode x509 takes whoever authenticates with it for a member of its cluster, which \
                 may do everything"
            );
            let remedy = "issue it with another O, OU or DC than mongod's certificate has".to_owned();
            self.find(Severity::Warning, sentence, remedy);
        }
        self.report.server_certificate = Some(leaf.into());
        self.report.steps.push(step);
    }

    fn why_named(&self, leaf: &CertificateFacts) -> String {
        let expected = &self.tls.server_name;
        let name = expected.to_str();
        if !self.upstream.tls.server_identities.is_empty() {
            return format!("and {} is among server_identities", leaf.uris.join(", "));
        }
        if self.upstream.tls.verify == Verify::Chain {
            return "its names are not checked (verify = \"chain\")".to_owned();
        }
        if leaf.names().is_empty() {
            return format!("and its common name covers {name} (legacy_certificates)");
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
            Some(pattern) => format!("and {pattern} covers {name}"),
            None => format!("and {name} is among its names"),
        }
    }

    /// What the server asked for and what it got.
    fn certificates_of_client(&mut self) {
        let Some(request) = self.tls.last_handshake.request() else {
            self.report.steps.push(Step::warning("certificate requested", "no: mongod asks its clients for none"));
            let sentence = format!("{} does not ask for client certificates", self.place());
            let remedy = "set net.tls.CAFile in mongod's configuration; without it, everyone may connect".to_owned();
            self.find(Severity::Warning, sentence, remedy);
            return;
        };
        let accepted: Vec<_> = request.acceptable_cas.iter().map(ToString::to_string).collect();
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
            (ServerRole::Mongos, _) => format!("mongos {version}"),
            (role, Some(set_name)) => format!("mongod {version}, {role} of replica set {set_name}"),
            (role, None) => format!("mongod {version}, {role}"),
        };
        self.report.steps.push(Step::ok("hello", line));
        let ServerFacts { version, role, set_name, .. } = server;
        self.report.server = Some(ServerReport { version, role: role.to_string(), set_name });
    }

    /// Authenticates as the gateway does before a client gets a connection, where it does.
    async fn user(&mut self, stream: &mut UpstreamStream) -> Option<()> {
        if !self.connector.authenticates() {
            return Some(());
        }
        if self.report.server.as_ref().is_some_and(|server| server.role == ServerRole::Other.to_string()) {
            self.connector.expect_users(Users::Awaited);
        }
        let deadline = self.deadline();
        if let Err(error) = self.connector.authenticate(stream, deadline).await {
            self.report.steps.push(Step::failed("authenticated", error.to_string()));
            let kind = if error.is_user_failure() { Kind::User } else { Kind::Upstream };
            self.find_of(kind, Severity::Error, error.to_string(), error.remedy());
            return None;
        }
        let Some(user) = &stream.user else {
            let line = "not: this member has no users, as an arbiter, or one that copies its data for the first time";
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
        self.find_of(Kind::Upstream, severity, sentence, remedy);
    }

    fn find_of(&mut self, kind: Kind, severity: Severity, sentence: String, remedy: String) {
        let about = About::Upstream(self.upstream.name.clone());
        let finding = Finding { severity, kind, about, sentence, remedy };
        // Several addresses may have the same thing to say.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn place(&self) -> &str {
        self.report.address.as_deref().unwrap_or(&self.upstream.address.host)
    }
}

/// How certificates that come with a server's are called.
const SENT: &str = "sent by mongod";

fn chain_of<'a>(leaf: &'a CertificateFacts, sent: &'a [CertificateFacts], authorities: &'a TrustAnchors) -> Chain<'a> {
    Chain::climb(leaf, &Above { sent, sent_as: SENT, authorities: Some(authorities) })
}

/// By names alone: rustls has checked the signatures.
fn why_trusted(chain: &Chain<'_>) -> String {
    let above = || chain.links.iter().skip(1);
    let sent = above().take_while(|(_, found_in)| *found_in == SENT);
    let through = sent.fold(String::new(), |all, (facts, _)| format!("{all}through {}, ", facts.subject));
    match above().find(|(_, found_in)| *found_in != SENT) {
        Some((authority, found)) => format!("{through}signed by {} {found}", authority.subject),
        None => "it is one of our authorities itself".to_owned(),
    }
}

fn names_line(facts: &CertificateFacts) -> String {
    match facts.names() {
        none if none.is_empty() => "no names but the common name".to_owned(),
        names => format!("names {}", names.join(", ")),
    }
}

fn agreed(facts: &HandshakeFacts) -> HandshakeReport {
    let HandshakeFacts { version, cipher_suite, key_exchange, .. } = *facts;
    HandshakeReport { version, cipher_suite, key_exchange, resumable: None }
}
