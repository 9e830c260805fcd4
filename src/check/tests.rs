//! Whole checks against servers inside the test, and their reports.

use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::config::{
    AdminConfig, ControlConfig, EndpointConfig, ListenAddress, ListenerAuthentication, ListenerConfig, ListenerMode,
    ListenerTlsConfig, LogConfig, LogFormat, LogLevel, MetricsConfig, ProxyProtocol, ShutdownConfig, TlsFiles,
    TlsVersion, Topology, Verify,
};
use crate::tls::test_pki::{CertificateAuthority, Folder, files_of, upstream_of};
use crate::upstream::test_server::{Behaviour, ONLY_12, TestUpstream};

fn config(upstream: &EndpointConfig) -> Config {
    let upstream = upstream_of(upstream);
    Config {
        policy: None,
        workers: std::num::NonZeroUsize::MIN,
        drain_timeout: Duration::from_secs(1),
        max_held_bytes: None,
        admin: AdminConfig { address: ([127, 0, 0, 1], 0).into() },
        control: ControlConfig::default(),
        shutdown: ShutdownConfig::default(),
        trust_domain: None,
        trust_domain_aliases: Vec::new(),
        metrics: MetricsConfig::default(),
        token_issuers: Vec::new(),
        identities: Vec::new(),
        log: LogConfig { format: LogFormat::Text, level: LogLevel::Info },
        upstreams: [(upstream.name.clone(), upstream)].into(),
        listeners: [].into(),
    }
}

/// A scene whose client belongs to another organization than its server.
fn scene() -> TestUpstream {
    let mut scene = TestUpstream::new();
    let clients = CertificateAuthority::new("Clients CA");
    scene.client = clients.issue_with("svc-a", &[], |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "svc-a");
    });
    scene.clients = Some(clients);
    scene
}

async fn run(scene: TestUpstream) -> Report {
    let (upstream, server) = scene.listen().await;
    // A key that other users may read would be a finding.
    restrict(&upstream);
    server.during(check(&config(&upstream), CheckScope::Online)).await
}

fn restrict(upstream: &EndpointConfig) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&upstream.tls.files().unwrap().private_key_file, PermissionsExt::from_mode(0o600))
        .unwrap();
}

/// The text of a report without addresses, folders, durations and dates, which differ between runs.
fn steady(report: &Report) -> String {
    let upstream = &report.upstreams[0];
    let text = report.to_string().replace(&upstream.address, "HOST:PORT");
    let text = without_paths(&text);
    let lines = text.lines().map(|line| {
        let line = line.split(" ms").next().unwrap_or_default();
        let line = match (line.find("expires "), line.find("full handshake")) {
            (Some(start), _) => format!("{}expires ...", &line[..start]),
            (_, Some(start)) => format!("{}full handshake", &line[..start]),
            _ => line.to_owned(),
        };
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The text with `FILE` in place of each file in the temporary folder.
fn without_paths(text: &str) -> String {
    let folder = std::env::temp_dir().display().to_string();
    let mut parts = text.split(&folder);
    let mut steady = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        steady.push_str("FILE");
        steady.push_str(&part[part.find([' ', ';', ')', '\n']).unwrap_or(part.len())..]);
    }
    steady
}

fn sentences(report: &Report) -> Vec<String> {
    report
        .findings
        .iter()
        .map(|finding| format!("{:?} {:?}: {}", finding.severity, finding.kind, finding.sentence))
        .collect()
}

#[tokio::test]
async fn a_working_upstream_is_shown_step_by_step() {
    let report = run(scene()).await;
    let expected = "\
upstream orders at HOST:PORT
  files
    ok      client certificate      CN=svc-a
                                    ECDSA P-256, X.509 version 3, for any use, signed with ECDSA and SHA-256
                                    expires ...
                                    └─ CN=Clients CA,O=Acme (not found)
                                    note: the chain ends below CN=Clients CA,O=Acme, \
                                    which is not among the trust anchors either; mongod must have that CA certificate
    ok      private key             matches the certificate; FILE has mode 0600
    ok      user in $external       CN=svc-a
    ok      CA certificate          CN=Acme CA,O=Acme
                                    ECDSA P-256, X.509 version 3, a CA, signed with ECDSA and SHA-256
                                    expires ...
    ok      server name             127.0.0.1
  connection to HOST:PORT
    ok      TCP connected
    ok      TLS negotiated          TLSv1.3, cipher TLS_AES_128_GCM_SHA256, key exchange X25519
    ok      server certificate      CN=mongod,O=Acme
                                    ECDSA P-256, X.509 version 3, for any use, signed with ECDSA and SHA-256
                                    expires ...
                                    └─ CN=Acme CA,O=Acme (from ca_file)
                                       ECDSA P-256, X.509 version 3, a CA, signed with ECDSA and SHA-256
                                       expires ...
                                    names mongo.test, 127.0.0.1
                                    accepted: signed by CN=Acme CA,O=Acme from ca_file, and 127.0.0.1 is among its names
                                    OCSP: no response is stapled
    ok      certificate requested   from CN=Clients CA,O=Acme
    ok      certificate sent        CN=svc-a, issued by CN=Clients CA,O=Acme
                                    expires ...
    ok      TLS handshake           full handshake
    ok      ping                    answered: mongod accepts the client certificate
    ok      MongoDB hello           mongod 6.0.5, primary of replica set rs0
    ok      second connection       resumes the TLS session

verdict: ready";
    assert_eq!(steady(&report), expected);
    assert_eq!(report.exit_code(), 0);
}

#[tokio::test]
async fn a_rejected_server_certificate_is_shown() {
    let mut scene = scene();
    scene.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    let report = run(scene).await;
    let text = steady(&report);
    let (_, connection) = text.split_once("  connection to HOST:PORT\n").unwrap();
    let expected = "    ok      TCP connected
    ok      TLS negotiated
    error   server certificate      the certificate of HOST:PORT was rejected: it was issued by CN=Other CA,O=Acme, \
                                    which is not among the trust anchors (subject CN=mongod,O=Acme)
                                    CN=mongod,O=Acme
                                    ECDSA P-256, X.509 version 3, for any use, signed with ECDSA and SHA-256
                                    expires ...
                                    └─ CN=Other CA,O=Acme (not found)
                                    names 127.0.0.1

findings
  error   orders: the certificate of HOST:PORT was rejected: it was issued by CN=Other CA,O=Acme, \
                  which is not among the trust anchors (subject CN=mongod,O=Acme)
          -> add the CA certificate that signed it to upstream.orders.tls.ca_file (";
    assert!(connection.starts_with(expected), "{connection}");
    assert!(connection.ends_with("verdict: an upstream cannot be used (1 error, 0 warnings)"), "{connection}");
    assert_eq!(report.exit_code(), 69);
    let shown = report.upstreams[0].connections[0].server_certificate.as_ref().unwrap();
    assert_eq!(shown.issuer, "CN=Other CA,O=Acme");
}

#[tokio::test]
async fn a_rejected_client_certificate_fails_at_the_ping() {
    let report = run(TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..scene() }).await;
    let steps = &report.upstreams[0].connections[0].steps;
    let names: Vec<_> = steps.iter().map(|step| (step.name, step.status)).collect();
    let expected = [
        ("TCP connected", Status::Ok),
        ("TLS negotiated", Status::Ok),
        ("server certificate", Status::Ok),
        ("certificate requested", Status::Ok),
        ("certificate sent", Status::Ok),
        ("TLS handshake", Status::Ok),
        ("ping", Status::Error),
    ];
    assert_eq!(names, expected);
    assert_eq!(report.exit_code(), 69);
}

#[tokio::test]
async fn a_rejection_during_the_handshake_is_shown() {
    let mut scene = TestUpstream { versions: ONLY_12, ..scene() };
    scene.clients = Some(CertificateAuthority::new("Clients CA"));
    let report = run(scene).await;
    let step = report.upstreams[0].connections[0].steps.last().unwrap();
    assert_eq!((step.name, step.status), ("TLS handshake", Status::Error));
    assert!(step.lines[0].contains("rejected the gateway's client certificate (subject CN=svc-a): alert"), "{step:?}");
}

#[tokio::test]
async fn a_working_upstream_has_only_warnings() {
    let mut scene = TestUpstream::new();
    scene.change = |upstream| upstream.tls.verify = Verify::Chain;
    scene.server = scene.ca.issue_with("mongod", &["db.test"], |params| {
        params.not_after = (SystemTime::now() + Duration::from_hours(10 * 24)).into();
    });
    let report = run(scene).await;
    let found = sentences(&report);
    let [names, soon, member, request] = found.as_slice() else { panic!("{found:#?}") };
    assert!(names.starts_with("Warning Configuration: every server with a certificate from these CAs is accepted"));
    assert!(soon.starts_with("Warning Upstream: the certificate of 127.0.0.1:"), "{soon}");
    assert!(soon.ends_with("(in 9 days)"), "{soon}");
    let expected = "Warning Upstream: THE GATEWAY'S CLIENT CERTIFICATE MAY BE TAKEN FOR A CLUSTER MEMBER: CN=svc-a";
    assert!(member.starts_with(expected), "{member}");
    assert!(request.ends_with(" does not request client certificates"), "{request}");
    assert_eq!((report.verdict, report.exit_code()), (CheckVerdict::Ready, 0));
}

#[tokio::test]
async fn all_unusable_files_are_found_and_prevent_a_connection() {
    let (mut upstream, _server) = TestUpstream::new().listen().await;
    let files = files_of(&mut upstream);
    files.private_key_file = files.ca_file.clone();
    files.ca_file.set_extension("absent");
    upstream.tls.server_name = Some("not a name".to_owned());
    let report = check(&config(&upstream), CheckScope::Online).await;
    let found = sentences(&report);
    assert_eq!(found.len(), 3, "{found:#?}");
    for (sentence, expected) in found.iter().zip([
        "the file contains no private key (it contains: CERTIFICATE)",
        "the file does not exist",
        "\"not a name\" is neither a DNS name nor an IP address",
    ]) {
        assert!(sentence.ends_with(expected), "{sentence}");
    }
    assert!(report.upstreams[0].connections.is_empty());
    assert_eq!(report.exit_code(), 78);
}

#[tokio::test]
async fn problems_of_the_client_certificate_are_found_offline() {
    let mut scene = TestUpstream::new();
    let below = scene.ca.intermediate("Acme Clients");
    let unrelated = CertificateAuthority::new("Unrelated");
    scene.client = below
        .issue_with("svc-a", &[], |params| {
            params.not_after = rcgen::date_time_ymd(2024, 2, 1);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
        .chained(&unrelated);
    let (upstream, _server) = scene.listen().await;
    let report = check(&config(&upstream), CheckScope::Offline).await;
    let found = sentences(&report);
    let [expired, usage, chain, readable] = found.as_slice() else { panic!("{found:#?}") };
    assert!(
        expired.starts_with("Error Configuration: the gateway's client certificate CN=svc-a,O=Acme expired 2024-02-01"),
        "{expired}"
    );
    assert!(usage.ends_with("is for serverAuth only, and mongod rejects it"), "{usage}");
    assert!(
        chain.contains("is CN=Unrelated,O=Acme, but the issuer of the certificate before it is CN=Acme Clients,O=Acme"),
        "{chain}"
    );
    assert!(readable.starts_with("Warning Configuration: every user of this host can read"), "{readable}");
    assert_eq!(report.exit_code(), 78);
}

#[tokio::test]
async fn an_unreachable_upstream_is_found() {
    let (upstream, server) = scene().listen().await;
    restrict(&upstream);
    drop(server.listener);
    let report = check(&config(&upstream), CheckScope::Online).await;
    assert_eq!(report.exit_code(), 69);
    assert!(report.findings[0].sentence.ends_with(" cannot be reached: connection refused"));
}

#[tokio::test]
async fn the_json_form_has_all_facts() {
    let report = run(scene()).await;
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["verdict"], "ready");
    let connection = &json["upstreams"][0]["connections"][0];
    assert_eq!(connection["handshake"]["version"], "TLSv1.3");
    assert_eq!(connection["handshake"]["resumable"], true);
    assert_eq!(connection["server_certificate"]["subject"], "CN=mongod,O=Acme");
    assert_eq!(connection["server"]["role"], "primary");
    assert_eq!(connection["steps"][0]["status"], "ok");
    let upstream = &json["upstreams"][0];
    assert_eq!(
        (&upstream["external_user"], &upstream["certificate"]["key"]),
        (&"CN=svc-a".into(), &"ECDSA P-256".into())
    );
    let not_after = json["upstreams"][0]["certificate"]["not_after"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(not_after).is_ok(), "{not_after}");
}

#[tokio::test]
async fn a_listener_is_shown_with_its_chain_and_an_expired_list() {
    let folder = Folder::new();
    let mesh = CertificateAuthority::new("Mesh CA");
    let intermediate = mesh.intermediate("Mesh intermediate");
    let pair = intermediate.issue("mongate", &["localhost"]).chained(&intermediate);
    let revoked = mesh.issue("former", &[]);
    let certificate_file = folder.write("gateway.pem", pair.combined());
    let files = TlsFiles {
        private_key_file: certificate_file.clone(),
        certificate_file,
        private_key_password_file: None,
        ca_file: folder.write("mesh-ca.pem", &mesh.pem),
        partial_chain: false,
        crl_file: Some(folder.write("mesh-crl.pem", mesh.revocation_list(&[&revoked.der], 2025))),
    };
    let (upstream, _server) = scene().listen().await;
    restrict(&upstream);
    let mut config = config(&upstream);
    config.listeners = [("mesh".to_owned(), listener(files))].into();
    let report = check(&config, CheckScope::Offline).await;

    let text = steady(&report);
    let (_, shown) = text.split_once("listener mesh at 127.0.0.1:27017, strict\n").unwrap();
    let expected = "  files
    ok      listener certificate    CN=mongate,O=Acme
                                    ECDSA P-256, X.509 version 3, for any use, signed with ECDSA and SHA-256
                                    expires ...
                                    └─ CN=Mesh intermediate,O=Acme (sent with it)
                                       ECDSA P-256, X.509 version 3, a CA, signed with ECDSA and SHA-256
                                       expires ...
                                       └─ CN=Mesh CA,O=Acme (from ca_file)
                                          ECDSA P-256, X.509 version 3, a CA, signed with ECDSA and SHA-256
                                          expires ...
                                    names localhost
    warning private key             matches the certificate; FILE has mode 0644
    ok      CA certificate          CN=Mesh CA,O=Acme
                                    ECDSA P-256, X.509 version 3, a CA, signed with ECDSA and SHA-256
                                    expires ...
    warning revocation list         of CN=Mesh CA,O=Acme, 1 certificate revoked
                                    issued 2024-01-01 00:00:00 UTC (";
    assert!(shown.starts_with(expected), "{shown}");
    let [readable, old] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
    assert!([readable, old].iter().all(|finding| finding.about == About::Listener("mesh".to_owned())));
    assert!(shown.contains("warning listener mesh: every user of this host can read the private key"), "{shown}");
    assert!(old.sentence.contains("is out of date since 2025-"), "{old:?}");
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    let listener = &json["listeners"][0];
    assert_eq!((&listener["mode"], &listener["chain"][1]["subject"]), (&"strict".into(), &"CN=Mesh CA,O=Acme".into()));
    assert_eq!(
        (&listener["revocation_lists"][0]["entries"], &json["findings"][0]["listener"]),
        (&1.into(), &"mesh".into())
    );
}

fn listener(files: TlsFiles) -> ListenerConfig {
    ListenerConfig {
        name: "mesh".to_owned(),
        address: ListenAddress::Tcp(([127, 0, 0, 1], 27017).into()),
        upstream: "orders".to_owned(),
        mode: ListenerMode::Strict,
        tls: Some(ListenerTlsConfig {
            files,
            min_version: TlsVersion::V1_2,
            legacy_certificates: false,
            close_expired_clients: true,
        }),
        principal: None,
        authentication: ListenerAuthentication::None,
        proxy_protocol: ProxyProtocol::Off,
        proxy_trusted: Vec::new(),
        proxy_identity_tlv: None,
        max_connections: 1,
        allow_remote_plaintext: false,
        socket_permissions: 0o700,
        reuse_port: false,
        idle_timeout: None,
        max_lifetime: None,
        half_close_timeout: None,
        tcp_keepalive: None,
        topology: Topology::Direct,
        intercept: false,
    }
}
