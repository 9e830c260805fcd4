//! Every way in which a connection can fail, against servers inside the test.

use std::net::SocketAddr;
use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};

use super::test_server::{BOTH, Behaviour, ONLY_12, ONLY_13, TestUpstream, connector_to};
use super::*;
use crate::config::{HostPort, MaterialSource, Mechanism, TlsVersion, Verify, WorkloadApi};
use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate, files_of};
use crate::tls::{WorkloadError, WorkloadProblem};
use crate::wire::op_msg::encode;

fn short(upstream: &mut EndpointConfig) {
    upstream.connect_timeout = Duration::from_millis(300);
}

#[track_caller]
fn check(error: &ConnectError, reason: &str, code: i32, sentence: &str, remedy: &str) {
    assert_eq!((error.reason(), error.client_code().0), (reason, code));
    assert!(REASONS.contains(&error.reason()));
    assert!(error.to_string().contains(sentence), "sentence: {error}");
    assert!(!error.to_string().contains(".pem"), "a client would read a path: {error}");
    assert!(error.remedy().contains(remedy), "remedy: {}", error.remedy());
}

#[tokio::test]
async fn a_connection_is_proven_and_reports_what_was_agreed_on() {
    for (versions, version, suite) in [
        (BOTH, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (ONLY_13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (ONLY_12, "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let clients = Some(CertificateAuthority::new("unused"));
        let mut scene = TestUpstream { versions, ..TestUpstream::new() };
        scene.clients = clients.map(|_| CertificateAuthority::new("Clients CA"));
        scene.client = scene.clients.as_ref().unwrap().issue("svc-a", &[]);
        let (connector, server) = scene.start().await;
        let first = server.during(connector.connect()).await.unwrap();
        let second = server.during(connector.connect()).await.unwrap();
        assert_eq!((first.handshake.version, first.handshake.cipher_suite), (version, suite));
        assert_eq!(first.handshake.key_exchange, Some("X25519"));
        assert_eq!(first.address, server.address);
        assert_eq!((first.handshake.resumed, second.handshake.resumed), (false, true), "{version}");
        let request = connector.tls().unwrap().last_handshake.request().unwrap();
        assert_eq!(request.acceptable_cas[0].as_str(), "CN=Clients CA,O=Acme");
    }
}

#[tokio::test]
async fn a_version_1_client_certificate_is_sent() {
    let mut scene = TestUpstream::new();
    scene.client = scene.authority.issue_version_1("old");
    let (connector, server) = scene.start().await;
    // The server does not ask for it; that it is loaded at all is what rustls's usual way refuses.
    server.during(connector.connect()).await.unwrap();
    assert_eq!(connector.tls().unwrap().credentials.certificate.version, 1);
}

#[tokio::test]
async fn the_name_is_checked_unless_only_the_chain_is() {
    for (change, accepted) in [
        ((|_| {}) as fn(&mut EndpointConfig), true),
        (|upstream| upstream.tls.server_name = Some("mongo.test".to_owned()), true),
        (|upstream| upstream.tls.server_name = Some("mongo.test.".to_owned()), true),
        (|upstream| upstream.tls.server_name = Some("other.test".to_owned()), false),
        (
            |upstream| {
                upstream.tls.server_name = Some("other.test".to_owned());
                upstream.tls.verify = Verify::Chain;
            },
            true,
        ),
    ] {
        assert_eq!(TestUpstream { change, ..TestUpstream::new() }.connect().await.is_ok(), accepted);
    }
}

#[tokio::test]
async fn a_chain_is_checked_whatever_the_mode() {
    let mut scene = TestUpstream { change: |upstream| upstream.tls.verify = Verify::Chain, ..TestUpstream::new() };
    scene.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    check(&scene.fail().await, "server_certificate_unknown_issuer", 141, "it comes from CN=Other CA,O=Acme", "ca_file");
}

#[tokio::test]
async fn intermediates_lead_to_an_authority_if_they_are_sent() {
    let mut scene = TestUpstream::new();
    let below = scene.authority.intermediate("Acme Servers");
    scene.server = below.issue("mongod", &["127.0.0.1"]).chained(&below);
    assert!(scene.connect().await.is_ok());

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.intermediate("Acme Servers").issue("mongod", &["127.0.0.1"]);
    let sentence = "it comes from CN=Acme Servers,O=Acme, which is not among our authorities";
    check(&scene.fail().await, "server_certificate_unknown_issuer", 141, sentence, "mongod must send them");

    let mut scene = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    let below = scene.authority.intermediate("Acme Clients");
    scene.client = below.issue("svc-a", &[]).chained(&below);
    scene.clients = Some(CertificateAuthority::new("Acme CA"));
    let sentence = "refused our client certificate (subject CN=svc-a,O=Acme)";
    // The server names our root among those that it accepts, so the remedy must not say that it does not.
    check(&scene.fail().await, "client_certificate_refused", 141, sentence, "check that mongod's net.tls.CAFile has");

    let mut scene = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    scene.client = scene.authority.intermediate("Acme Clients").issue("svc-a", &[]);
    scene.clients = Some(CertificateAuthority::new("Acme CA"));
    check(&scene.fail().await, "client_certificate_refused", 141, sentence, "put its certificate behind ours");
}

#[tokio::test]
async fn refused_server_certificates_are_named() {
    let mut scene = TestUpstream::new();
    scene.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    check(
        &scene.fail().await,
        "server_certificate_unknown_issuer",
        141,
        "it comes from CN=Other CA,O=Acme, which is not among our authorities (subject CN=mongod,O=Acme)",
        "which has now: CN=Acme CA,O=Acme",
    );

    let mut scene = TestUpstream::new();
    scene.server = CertificateAuthority::new("Acme CA").issue("mongod", &["127.0.0.1"]);
    let sentence = "our authority of that name did not sign it";
    check(&scene.fail().await, "server_certificate_unknown_issuer", 141, sentence, "up to date");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue("mongod", &["db-1.test", "10.0.0.1"]);
    let sentence = "it is for db-1.test, 10.0.0.1, not for 127.0.0.1 (subject CN=mongod,O=Acme)";
    check(&scene.fail().await, "server_certificate_name_mismatch", 141, sentence, "(as \"db-1.test\")");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue("mongo.test", &[]);
    check(
        &scene.fail().await,
        "server_certificate_no_names",
        141,
        "no subject alternative name",
        "-extfile <(echo subjectAltName=IP:127.0.0.1); or set upstream.orders.tls.legacy_certificates = true",
    );

    let mut scene = TestUpstream::new();
    scene.server = IssuedCertificate::new(scene.authority.der().clone(), scene.authority.key());
    check(&scene.fail().await, "server_certificate_invalid", 141, "that of an authority", "legacy_certificates = true");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue_with("", &["mongod"], |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.test/mongod".try_into().unwrap())];
    });
    let remedy = "set upstream.orders.tls.server_identities to [\"spiffe://acme.test/mongod\"]";
    check(&scene.fail().await, "server_certificate_name_mismatch", 141, "it is for spiffe://acme.test/mongod", remedy);

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue("mongod", &["127.0.0.1"]);
    scene.change = |upstream| upstream.tls.server_identities = vec!["spiffe://acme.test/mongod".to_owned()];
    let sentence = "it has no URI among its names";
    check(&scene.fail().await, "server_certificate_identity_mismatch", 141, sentence, "spiffe://acme.test/mongod");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue("mongod", &[]);
    scene.change = |upstream| upstream.tls.legacy_certificates = true;
    let sentence = "its common name is not 127.0.0.1";
    check(&scene.fail().await, "server_certificate_name_mismatch", 141, sentence, "to its common name");

    let mut scene = TestUpstream::new();
    let list = scene.folder.write("crl.pem", scene.authority.revocation_list(&[&scene.server.der], 2090));
    assert!(list.ends_with("crl.pem"));
    scene.change = |upstream| {
        let files = files_of(upstream);
        files.crl_file = Some(files.ca_file.with_file_name("crl.pem"));
    };
    check(&scene.fail().await, "server_certificate_revoked", 141, "it is revoked", "upstream.orders.tls.crl_file");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue_version_1("mongod");
    check(
        &scene.fail().await,
        "server_certificate_version_1",
        141,
        "X.509 version 1 certificate",
        "legacy_certificates = true",
    );

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue_with("mongod", &["127.0.0.1"], |params| {
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    let sentence = "it expired on 2024-02-01 00:00:00 UTC (subject CN=mongod,O=Acme)";
    check(&scene.fail().await, "server_certificate_expired", 141, sentence, "rotateCertificates");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue_with("mongod", &["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    });
    let sentence = "it is not valid before 2090-01-01 00:00:00 UTC";
    check(&scene.fail().await, "server_certificate_not_yet_valid", 141, sentence, "clocks");

    let mut scene = TestUpstream::new();
    scene.server = scene.authority.issue_with("mongod", &["127.0.0.1"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    check(&scene.fail().await, "server_certificate_invalid", 141, "(subject CN=mongod,O=Acme)", "serverAuth");
}

#[tokio::test]
async fn a_refused_client_certificate_is_named() {
    // mongod closes without a word after the handshake.
    for versions in [ONLY_12, ONLY_13] {
        let scene = TestUpstream { versions, behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
        let sentence = "refused our client certificate (subject CN=svc-a,O=Acme)";
        check(&scene.fail().await, "client_certificate_refused", 141, sentence, "net.tls.CAFile has CN=Acme CA");
    }
    // Others send an alert, within the handshake or after it.
    for versions in [ONLY_12, ONLY_13] {
        let scene =
            TestUpstream { versions, clients: Some(CertificateAuthority::new("Clients CA")), ..TestUpstream::new() };
        let sentence = "refused our client certificate (subject CN=svc-a,O=Acme): alert";
        let remedy = "mongod accepts certificates of CN=Clients CA,O=Acme, ours comes from CN=Acme CA,O=Acme";
        check(&scene.fail().await, "client_certificate_refused", 141, sentence, remedy);
    }
}

#[tokio::test]
async fn what_our_own_certificate_lacks_is_said_first() {
    let mut scene = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    scene.client = scene.authority.issue_with("svc-a", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    let remedy = scene.fail().await.remedy();
    assert!(remedy.contains("extendedKeyUsage clientAuth"), "{remedy}");
    assert!(remedy.contains("expired on 2024-02-01"), "{remedy}");
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_apart() {
    for (answer, sentence) in [
        (b"".as_slice(), "does not speak TLS with us: it closed the connection instead of answering our hello"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "does not speak TLS: it answered with something else"),
        (b"\x00\x00\x00\x00garbage".as_slice(), "does not speak TLS: it answered with something else"),
    ] {
        let scene = TestUpstream { behaviour: Behaviour::Plain(answer), ..TestUpstream::new() };
        check(&scene.fail().await, "not_tls", 141, sentence, "requireTLS");
    }
}

#[tokio::test]
async fn no_common_version_is_a_failed_handshake() {
    let change: fn(&mut EndpointConfig) = |upstream| upstream.tls.min_version = TlsVersion::V1_3;
    let scene = TestUpstream { versions: ONLY_12, change, ..TestUpstream::new() };
    check(&scene.fail().await, "handshake_failed", 141, "the TLS handshake with 127.0.0.1:", "tls.min_version");
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    for (behaviour, phase) in [
        (Behaviour::PlainSilent, "the TLS handshake with 127.0.0.1:"),
        (Behaviour::Silent, "the first command to 127.0.0.1:"),
    ] {
        let scene = TestUpstream { behaviour, change: short, ..TestUpstream::new() };
        let error = scene.fail().await;
        check(&error, "timed_out", 6, phase, "does not answer");
        assert!(error.to_string().ends_with("was not done within 300ms"), "{error}");
    }
}

#[tokio::test]
async fn answers_that_no_mongod_gives_are_refused() {
    let ok = |request_id, response_to| encode(request_id, response_to, &rawdoc! { "ok": 1.0 });
    let mut flagged = ok(9, 1);
    flagged[16] = 2;
    let mut torn = ok(9, 1);
    torn.truncate(30);
    let mut long = ok(9, 1);
    long[..4].copy_from_slice(&70_000_u32.to_le_bytes());
    let mut impossible = ok(9, 1);
    impossible[..4].copy_from_slice(&(-1_i32).to_le_bytes());
    let mut document = ok(9, 1);
    document[21] = 99;
    let refused =
        encode(9, 1, &rawdoc! { "ok": 0.0, "errmsg": "not\nnow", "code": 91, "codeName": "ShutdownInProgress" });
    for (answer, sentence) in [
        (refused, "the answer is error 91 (ShutdownInProgress): not\\u{a}now"),
        (encode(9, 1, &rawdoc! {}), "the answer is error 0 (): "),
        (ok(9, 2), "no OP_MSG in reply to ours"),
        (flagged, "flags or sections that were not asked for"),
        (torn, "the connection was closed within the answer"),
        (long, "longer than 64 KiB"),
        (impossible, "an impossible message length"),
        (document, "no valid document"),
    ] {
        let scene = TestUpstream { behaviour: Behaviour::Answer(answer), ..TestUpstream::new() };
        check(&scene.fail().await, "ping_failed", 6, sentence, "mongod or mongos");
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_unreachable() {
    let closed = closed_port();
    let change: fn(&mut EndpointConfig) = |_| {};
    let (connector, _server) = TestUpstream { change, ..TestUpstream::new() }.start().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let addresses = [closed.local_addr().unwrap(), "127.0.0.2:1".parse().unwrap()];
    let error = connector.connect_to_any(&addresses, deadline).await.unwrap_err();
    let sentence = format!("{}: connection refused, 127.0.0.2:1: connection refused", addresses[0]);
    check(&error, "unreachable", 6, &sentence, "net.bindIp");
}

#[tokio::test]
async fn a_name_without_address_is_not_resolvable() {
    let change: fn(&mut EndpointConfig) =
        |upstream| upstream.address = HostPort { host: "no-such-host.invalid".to_owned(), port: 27017 };
    let error = TestUpstream { change, ..TestUpstream::new() }.fail().await;
    check(&error, "not_resolvable", 6, "the name no-such-host.invalid cannot be resolved", "upstream.orders.address");
}

#[tokio::test]
async fn addresses_are_tried_in_turn_until_one_answers() {
    let closed = closed_port();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connector, server) = TestUpstream { change: short, ..TestUpstream::new() }.start().await;
    let addresses = [closed.local_addr().unwrap(), silent.local_addr().unwrap(), server.address];
    let deadline = Instant::now() + Duration::from_secs(2);
    let stream = server.during(connector.connect_to_any(&addresses, deadline)).await.unwrap();
    assert_eq!(stream.address, server.address);
}

#[tokio::test]
async fn of_several_addresses_the_one_that_came_furthest_is_reported() {
    let closed = closed_port();
    let mut scene = TestUpstream::new();
    scene.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    let (connector, server) = scene.start().await;
    let addresses = [server.address, closed.local_addr().unwrap()];
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = server.during(connector.connect_to_any(&addresses, deadline)).await.unwrap_err();
    assert_eq!(error.address(), Some(server.address));
    assert_eq!(error.reason(), "server_certificate_unknown_issuer");
}

#[test]
fn addresses_that_all_took_too_long_are_a_timeout() {
    let limit = Duration::from_secs(5);
    let timed_out = || ConnectFailure::TimedOut { phase: Phase::Connect, limit };
    let addresses: [SocketAddr; 2] = ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()];
    let failures = addresses.map(|address| (address, timed_out().at(address)));
    let (address, failure) = connect_error::most_telling(failures.into(), limit);
    assert!(address.is_none());
    assert!(matches!(failure, ConnectFailure::TimedOut { phase: Phase::Connect, .. }));
}

#[tokio::test]
async fn a_probe_asks_who_is_there() {
    let (connector, server) = TestUpstream::new().start().await;
    let found = server.during(probe(&connector)).await.unwrap();
    let expected = ServerFacts {
        version: Some("6.0.5".to_owned()),
        role: ServerRole::Primary,
        set_name: Some("rs0".to_owned()),
        max_wire_version: 17,
    };
    assert_eq!(found.server, expected);
}

#[tokio::test]
async fn a_dropped_attempt_closes_its_socket() {
    let (connector, server) = TestUpstream { behaviour: Behaviour::PlainSilent, ..TestUpstream::new() }.start().await;
    let attempt = connector.connect();
    let accepted = async {
        let (mut tcp, _) = server.listener.accept().await.unwrap();
        tcp.read_u8().await.unwrap();
        tcp
    };
    let mut tcp = tokio::select! {
        _ = attempt => unreachable!("nobody answers"),
        tcp = accepted => tcp,
    };
    let mut rest = Vec::new();
    // Ends only because the other side is closed.
    let _ = tcp.read_to_end(&mut rest).await;
}

#[test]
fn a_connector_is_shared_by_workers() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(_: &T) {}
    shared::<Connector>();
    shared::<UpstreamHealth>();
    sent::<Option<UpstreamStream>>(&None);
}

/// A port that refuses connections for as long as the socket lives.
fn closed_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

#[tokio::test]
async fn without_certificates_a_connection_waits_for_the_agents_answer_and_takes_its_reason() {
    let (mut upstream, server) = TestUpstream::new().listen().await;
    let with_files = upstream.clone();
    let agent = WorkloadApi { socket: "/run/agent.sock".into(), ca_file: None, crl_file: None };
    upstream.tls.source = MaterialSource::WorkloadApi(agent);
    let set = || UpstreamTls::load(&with_files).unwrap();

    short(&mut upstream);
    let unanswered = connector_to(&upstream).connect().await.unwrap_err();
    let sentence = "yet: the SPIFFE Workload API has not answered";
    check(&unanswered, "no_certificate", 6, sentence, "look into the agent at unix:/run/agent.sock");

    upstream.connect_timeout = Duration::from_secs(20);
    let connector = connector_to(&upstream);
    let problem = WorkloadProblem::Denied { message: "no identity issued".to_owned() };
    let denied = Arc::new(WorkloadError { socket: "/run/agent.sock".into(), problem }.into());
    let (error, ()) =
        tokio::join!(connector.connect(), async { connector.identity().report_missing(Arc::clone(&denied)) });
    let sentence = "the SPIFFE Workload API at unix:/run/agent.sock has no certificate for this process";
    check(&error.unwrap_err(), "no_certificate", 6, sentence, "register this process");

    connector.identity().renew(set());
    server.during(connector.connect()).await.unwrap();
    connector.identity().report_missing(denied);
    server.during(connector.connect()).await.unwrap();

    let connector = connector_to(&upstream);
    let connected = async { tokio::join!(connector.connect(), async { connector.identity().renew(set()) }) };
    server.during(connected).await.0.unwrap();
}

/// The subject of the scene's client certificate.
const SUBJECT: &str = "CN=svc-a,O=Acme";

fn with_authentication(behaviour: fn(&str) -> Option<RawDocumentBuf>) -> TestUpstream {
    let change: fn(&mut EndpointConfig) = |upstream| upstream.authentication = Some(Mechanism::MongodbX509);
    TestUpstream { behaviour: Behaviour::Says(behaviour), change, ..TestUpstream::new() }
}

fn users(users: &[(&str, &str)]) -> RawDocumentBuf {
    let users: Vec<_> = users.iter().map(|(user, db)| bson::doc! { "user": *user, "db": *db }).collect();
    let info = bson::doc! { "authenticatedUsers": users, "authenticatedUserRoles": [{ "role": "read", "db": "shop" }] };
    RawDocumentBuf::try_from(&bson::doc! { "authInfo": info, "ok": 1.0 }).unwrap()
}

fn authenticates(command: &str) -> Option<RawDocumentBuf> {
    match command {
        "authenticate" => Some(rawdoc! { "dbname": "$external", "user": SUBJECT, "ok": 1.0 }),
        "connectionStatus" => Some(users(&[(SUBJECT, "$external")])),
        _ => None,
    }
}

fn refuses(code: i32, name: &str, errmsg: &str) -> RawDocumentBuf {
    rawdoc! { "ok": 0.0, "errmsg": errmsg, "code": code, "codeName": name }
}

fn has_no_user(command: &str) -> Option<RawDocumentBuf> {
    match command {
        "authenticate" => {
            Some(refuses(11, "UserNotFound", "Could not find user \"CN=svc-a,O=Acme\" for db \"$external\""))
        }
        "connectionStatus" => Some(users(&[])),
        _ => None,
    }
}

#[tokio::test]
async fn a_connection_has_its_user_before_anybody_gets_it() {
    let (connector, server) = with_authentication(authenticates).start().await;
    assert!(connector.authenticates() && !connector.has_user());
    let hello = encode(77, 0, &rawdoc! { "hello": 1, "$db": "admin" });
    let asked = async {
        let mut link = ProvenConnection::new(connector.connect().await.unwrap());
        // It goes on as any other: nothing of ours is on its way any more.
        link.replay_hello(&hello).await.unwrap();
        link.user.unwrap()
    };
    let user = server.during(Box::pin(asked)).await;
    assert_eq!((user.name.as_str(), user.roles.as_slice()), (SUBJECT, &["read@shop".to_owned()][..]));
    assert!(connector.has_user());
    assert_eq!(*connector.authenticated().unwrap(), Authenticated { generation: 0, user: Ok(user) });
}

#[tokio::test]
async fn nobody_is_authenticated_where_the_gateway_does_not() {
    let scene = TestUpstream { behaviour: Behaviour::Says(has_no_user), ..TestUpstream::new() };
    assert_eq!(scene.connect().await.unwrap().user, None);
    // Nor a probe, nor a monitor: hello needs no user.
    let (connector, server) = with_authentication(has_no_user).start().await;
    assert_eq!(server.during(probe(&connector)).await.unwrap().stream.user, None);
    assert!(server.during(Box::pin(HelloStream::open(&connector))).await.is_ok());
    assert_eq!(connector.authenticated(), None);
}

#[tokio::test]
async fn a_user_that_mongod_does_not_have_is_named_with_what_creates_it() {
    let error = with_authentication(has_no_user).fail().await;
    let remedy = "db.getSiblingDB(\"$external\").runCommand({createUser: \"CN=svc-a,O=Acme\", roles:";
    let sentence = "did not authenticate upstream orders as CN=svc-a,O=Acme: Could not find user";
    check(&error, "authentication_failed", 18, sentence, remedy);
    assert!(error.is_user_failure());
    let disabled = with_authentication(|command| {
        (command == "authenticate").then(|| refuses(2, "BadValue", "x.509 authentication is disabled."))
    });
    let error = disabled.fail().await;
    check(
        &error,
        "authentication_failed",
        18,
        "x.509 authentication is disabled. (BadValue, 2)",
        "authenticationMechanisms",
    );
}

#[tokio::test]
async fn a_server_that_cannot_authenticate_just_now_is_not_the_users_fault() {
    let steps_down = with_authentication(|command| {
        (command == "authenticate").then(|| refuses(11602, "InterruptedDueToReplStateChange", "interrupted"))
    });
    let (connector, server) = steps_down.start().await;
    let error = server.during(connector.connect()).await.unwrap_err();
    check(&error, "authentication_failed", 6, "interrupted", "mongod's");
    assert!(!error.is_user_failure());
    assert_eq!(connector.authenticated(), None);
}

#[tokio::test]
async fn whoever_else_mongod_takes_us_for_nobody_gets_the_connection() {
    let member = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[("__system", "local")])),
        other => authenticates(other),
    });
    let sentence = "takes the certificate of upstream orders (CN=svc-a,O=Acme) for that of a member of its cluster";
    check(&member.fail().await, "cluster_member", 18, sentence, "whose O, OU or DC differs from those of mongod's own");
    let other = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[("CN=svc-b,O=Acme", "$external")])),
        other => authenticates(other),
    });
    let sentence = "authenticated CN=svc-b,O=Acme@$external instead of CN=svc-a,O=Acme";
    check(&other.fail().await, "wrong_user", 18, sentence, "mongod's log");
    let nobody = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[])),
        other => authenticates(other),
    });
    check(&nobody.fail().await, "wrong_user", 18, "nobody is authenticated", "mongod's log");
    let silent = with_authentication(|command| match command {
        "connectionStatus" => Some(rawdoc! { "ok": 1.0 }),
        other => authenticates(other),
    });
    check(&silent.fail().await, "ping_failed", 6, "connectionStatus without users", "is a mongod or mongos");
}

#[tokio::test]
async fn a_certificate_that_can_only_be_a_members_is_told_as_such() {
    // The server's certificate and ours have one organization.
    let refuses = with_authentication(|command| {
        let errmsg = "The provided certificate can only be used for cluster authentication, not client authentication.";
        (command == "authenticate").then(|| refuses(18, "AuthenticationFailed", errmsg))
    });
    check(&refuses.fail().await, "cluster_member", 18, "a member of its cluster", "O, OU or DC");
}

#[tokio::test]
async fn a_member_that_may_have_no_users_is_reached_without_one() {
    let (connector, server) = with_authentication(has_no_user).start().await;
    connector.expect_users(Users::Awaited);
    let hello = encode(77, 0, &rawdoc! { "hello": 1, "$db": "admin" });
    let used = async {
        let mut link = ProvenConnection::new(connector.connect().await.unwrap());
        link.replay_hello(&hello).await.unwrap();
        link.user
    };
    assert_eq!((server.during(Box::pin(used)).await, connector.authenticated()), (None, None));
    connector.expect_users(Users::Kept);
    assert!(server.during(connector.connect()).await.unwrap_err().is_user_failure());

    let (connector, server) = with_authentication(authenticates).start().await;
    connector.expect_users(Users::Awaited);
    assert!(server.during(connector.connect()).await.unwrap().user.is_some());
    connector.expect_users(Users::None);
    assert_eq!(server.during(connector.connect()).await.unwrap().user, None);
}

#[tokio::test]
async fn an_authentication_that_breaks_off_is_no_fault_of_the_user() {
    let (upstream, server) = with_authentication(authenticates).listen().await;
    let connector = connector_to(&upstream);
    let mut stream = server.during(connector.connect()).await.unwrap();
    // Nobody serves it any more.
    let broken = connector.authenticate(&mut stream, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
    check(&broken, "ping_failed", 6, "the connection was closed instead of an answer", "is a mongod or mongos");
    assert!(!broken.is_user_failure() && connector.has_user(), "what was seen before stands");
}
