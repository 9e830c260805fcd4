//! Connections to servers inside the test: successful ones, and every way to fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocumentBuf, rawdoc};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use super::failure::furthest;
use super::test_server::{BOTH, Behaviour, ONLY_12, ONLY_13, TestUpstream, connector_to};
use super::*;
use crate::config::{EndpointConfig, HostPort, MaterialSource, Mechanism, TlsVersion, Verify, WorkloadApi};
use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate, files_of};
use crate::tls::{UpstreamTls, WorkloadError, WorkloadProblem};
use crate::wire::op_msg::encode;

fn short(upstream: &mut EndpointConfig) {
    upstream.connect_timeout = Duration::from_millis(300);
}

#[track_caller]
fn check(error: &ConnectError, reason: &str, code: i32, sentence: &str, remedy: &str) {
    assert_eq!((error.reason(), error.client_code().0), (reason, code));
    assert!(REASONS.contains(&error.reason()));
    assert!(error.to_string().contains(sentence), "sentence: {error}");
    assert!(!error.to_string().contains(".pem"), "the client's sentence contains a path: {error}");
    assert!(error.remedy().contains(remedy), "remedy: {}", error.remedy());
}

#[tokio::test]
async fn a_connection_is_proven_and_reports_what_was_negotiated() {
    for (versions, version, suite) in [
        (BOTH, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (ONLY_13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (ONLY_12, "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let clients = Some(CertificateAuthority::new("unused"));
        let mut setup = TestUpstream { versions, ..TestUpstream::new() };
        setup.clients = clients.map(|_| CertificateAuthority::new("Clients CA"));
        setup.client = setup.clients.as_ref().unwrap().issue("svc-a", &[]);
        let (connector, server) = setup.start().await;
        let first = server.during(connector.connect(None)).await.unwrap();
        let second = server.during(connector.connect(None)).await.unwrap();
        assert_eq!((first.handshake.version, first.handshake.cipher_suite), (version, suite));
        assert_eq!(first.handshake.key_exchange, Some("X25519"));
        assert_eq!(first.address, server.address);
        assert_eq!((first.handshake.resumed, second.handshake.resumed), (false, true), "{version}");
        for stream in [first, second] {
            let request = stream.record.request().unwrap();
            assert_eq!(request.acceptable_cas[0].as_str(), "CN=Clients CA,O=Acme");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_of_version_1_is_sent() {
    let mut setup = TestUpstream::new();
    setup.client = setup.ca.issue_version_1("old");
    let (connector, server) = setup.start().await;
    // The server does not request it. The builder of rustls would not even load it.
    server.during(connector.connect(None)).await.unwrap();
    assert_eq!(connector.tls().unwrap().credentials.certificate.version, 1);
}

#[tokio::test]
async fn the_server_name_is_checked_unless_only_the_chain_is_verified() {
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
async fn the_chain_is_verified_in_every_mode() {
    let mut setup = TestUpstream { change: |upstream| upstream.tls.verify = Verify::Chain, ..TestUpstream::new() };
    setup.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    check(
        &setup.fail().await,
        "server_certificate_unknown_issuer",
        141,
        "it was issued by CN=Other CA,O=Acme",
        "ca_file",
    );
}

#[tokio::test]
async fn intermediates_are_used_if_they_are_sent() {
    let mut setup = TestUpstream::new();
    let below = setup.ca.intermediate("Acme Servers");
    setup.server = below.issue("mongod", &["127.0.0.1"]).chained(&below);
    assert!(setup.connect().await.is_ok());

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.intermediate("Acme Servers").issue("mongod", &["127.0.0.1"]);
    let sentence = "it was issued by CN=Acme Servers,O=Acme, which is not among the trust anchors";
    check(&setup.fail().await, "server_certificate_unknown_issuer", 141, sentence, "mongod must send it");

    let mut setup = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    let below = setup.ca.intermediate("Acme Clients");
    setup.client = below.issue("svc-a", &[]).chained(&below);
    setup.clients = Some(CertificateAuthority::new("Acme CA"));
    let sentence = "rejected the gateway's client certificate (subject CN=svc-a,O=Acme)";
    // The server accepts the root of the client certificate, so the remedy must not say otherwise.
    check(
        &setup.fail().await,
        "client_certificate_refused",
        141,
        sentence,
        "check that mongod's net.tls.CAFile contains",
    );

    let mut setup = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    setup.client = setup.ca.intermediate("Acme Clients").issue("svc-a", &[]);
    setup.clients = Some(CertificateAuthority::new("Acme CA"));
    check(&setup.fail().await, "client_certificate_refused", 141, sentence, "append the issuer's certificate");
}

#[tokio::test]
async fn each_rejected_server_certificate_has_its_own_message() {
    let mut setup = TestUpstream::new();
    setup.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    check(
        &setup.fail().await,
        "server_certificate_unknown_issuer",
        141,
        "it was issued by CN=Other CA,O=Acme, which is not among the trust anchors (subject CN=mongod,O=Acme)",
        "the trust anchors are now: CN=Acme CA,O=Acme",
    );

    let mut setup = TestUpstream::new();
    setup.server = CertificateAuthority::new("Acme CA").issue("mongod", &["127.0.0.1"]);
    let sentence = "the trust anchor of that name did not sign it";
    check(&setup.fail().await, "server_certificate_unknown_issuer", 141, sentence, "created again under the same name");

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue("mongod", &["db-1.test", "10.0.0.1"]);
    let sentence = "it is for db-1.test, 10.0.0.1, not for 127.0.0.1 (subject CN=mongod,O=Acme)";
    check(&setup.fail().await, "server_certificate_name_mismatch", 141, sentence, "(such as \"db-1.test\")");

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue("mongo.test", &[]);
    check(
        &setup.fail().await,
        "server_certificate_no_names",
        141,
        "no subject alternative name",
        "-extfile <(echo subjectAltName=IP:127.0.0.1); or set upstream.orders.tls.legacy_certificates = true",
    );

    let mut setup = TestUpstream::new();
    setup.server = IssuedCertificate::new(setup.ca.der().clone(), setup.ca.key());
    check(
        &setup.fail().await,
        "server_certificate_invalid",
        141,
        "it is a CA certificate",
        "legacy_certificates = true",
    );

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_with("", &["mongod"], |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme.test/mongod".try_into().unwrap())];
    });
    let remedy = "set upstream.orders.tls.server_identities to [\"spiffe://acme.test/mongod\"]";
    check(&setup.fail().await, "server_certificate_name_mismatch", 141, "it is for spiffe://acme.test/mongod", remedy);

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue("mongod", &["127.0.0.1"]);
    setup.change = |upstream| upstream.tls.server_identities = vec!["spiffe://acme.test/mongod".to_owned()];
    let sentence = "it has no URI among its names";
    check(&setup.fail().await, "server_certificate_identity_mismatch", 141, sentence, "spiffe://acme.test/mongod");

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue("mongod", &[]);
    setup.change = |upstream| upstream.tls.legacy_certificates = true;
    let sentence = "its common name is not 127.0.0.1";
    check(&setup.fail().await, "server_certificate_name_mismatch", 141, sentence, "to its common name");

    let mut setup = TestUpstream::new();
    let list = setup.folder.write("crl.pem", setup.ca.revocation_list(&[&setup.server.der], 2090));
    assert!(list.ends_with("crl.pem"));
    setup.change = |upstream| {
        let files = files_of(upstream);
        files.crl_file = Some(files.ca_file.with_file_name("crl.pem"));
    };
    check(
        &setup.fail().await,
        "server_certificate_revoked",
        141,
        "it, or the certificate of an issuer, is revoked",
        "upstream.orders.tls.crl_file",
    );

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_version_1("mongod");
    check(
        &setup.fail().await,
        "server_certificate_version_1",
        141,
        "X.509 version 1 certificate",
        "legacy_certificates = true",
    );

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_with("mongod", &["127.0.0.1"], |params| {
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    let sentence = "it expired on 2024-02-01 00:00:00 UTC (subject CN=mongod,O=Acme)";
    check(&setup.fail().await, "server_certificate_expired", 141, sentence, "rotateCertificates");

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_with("mongod", &["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    });
    let sentence = "it is not valid before 2090-01-01 00:00:00 UTC";
    check(&setup.fail().await, "server_certificate_not_yet_valid", 141, sentence, "clocks");

    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_with("mongod", &["127.0.0.1"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    check(&setup.fail().await, "server_certificate_invalid", 141, "(subject CN=mongod,O=Acme)", "serverAuth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "the test awaits its tasks")]
async fn handshakes_that_fail_at_the_same_moment_report_their_own_certificate() {
    let mut setup = TestUpstream::new();
    setup.server = setup.ca.issue_with("mongod", &["127.0.0.1"], |params| {
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    let (connector, server) = setup.start().await;
    let connector = Arc::new(connector);
    let workers = (0..4).map(|_| {
        let connector = Arc::clone(&connector);
        tokio::spawn(async move {
            for _ in 0..100 {
                let error = connector.connect(None).await.unwrap_err().to_string();
                assert!(error.contains("it expired on 2024-02-01 00:00:00 UTC (subject CN=mongod,O=Acme)"), "{error}");
            }
        })
    });
    for worker in server.during(futures::future::join_all(workers)).await {
        worker.unwrap();
    }
}

#[tokio::test]
async fn a_rejected_client_certificate_has_its_own_message() {
    // mongod closes the connection after the handshake.
    for versions in [ONLY_12, ONLY_13] {
        let setup = TestUpstream { versions, behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
        let sentence = "rejected the gateway's client certificate (subject CN=svc-a,O=Acme)";
        check(
            &setup.fail().await,
            "client_certificate_refused",
            141,
            sentence,
            "net.tls.CAFile contains the certificate of CN=Acme CA",
        );
    }
    // Other servers send an alert, during the handshake or after it.
    for versions in [ONLY_12, ONLY_13] {
        let setup =
            TestUpstream { versions, clients: Some(CertificateAuthority::new("Clients CA")), ..TestUpstream::new() };
        let sentence = "rejected the gateway's client certificate (subject CN=svc-a,O=Acme): alert";
        let remedy = "mongod accepts certificates of CN=Clients CA,O=Acme, \
                      but the gateway's certificate was issued by CN=Acme CA,O=Acme";
        check(&setup.fail().await, "client_certificate_refused", 141, sentence, remedy);
    }
}

#[tokio::test]
async fn problems_of_the_client_certificate_come_first_in_the_remedy() {
    let mut setup = TestUpstream { behaviour: Behaviour::CloseAfterHandshake, ..TestUpstream::new() };
    setup.client = setup.ca.issue_with("svc-a", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    let remedy = setup.fail().await.remedy();
    assert!(remedy.contains("extendedKeyUsage clientAuth"), "{remedy}");
    assert!(remedy.contains("expired on 2024-02-01"), "{remedy}");
}

#[tokio::test]
async fn a_server_without_tls_has_its_own_message() {
    for (answer, sentence) in [
        (b"".as_slice(), "does not speak TLS with the gateway: it closed the connection instead of answering"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "does not speak TLS: it answered with something else"),
        (b"\x00\x00\x00\x00garbage".as_slice(), "does not speak TLS: it answered with something else"),
    ] {
        let setup = TestUpstream { behaviour: Behaviour::Plain(answer), ..TestUpstream::new() };
        check(&setup.fail().await, "not_tls", 141, sentence, "requireTLS");
    }
}

#[tokio::test]
async fn without_a_common_version_the_handshake_fails() {
    let change: fn(&mut EndpointConfig) = |upstream| upstream.tls.min_version = TlsVersion::V1_3;
    let setup = TestUpstream { versions: ONLY_12, change, ..TestUpstream::new() };
    check(&setup.fail().await, "handshake_failed", 141, "the TLS handshake with 127.0.0.1:", "tls.min_version");
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    for (behaviour, phase) in [
        (Behaviour::PlainSilent, "the TLS handshake with 127.0.0.1:"),
        (Behaviour::Silent, "the first command to 127.0.0.1:"),
    ] {
        let setup = TestUpstream { behaviour, change: short, ..TestUpstream::new() };
        let error = setup.fail().await;
        check(&error, "timed_out", 6, phase, "does not answer");
        assert!(error.to_string().ends_with("did not finish within 300ms"), "{error}");
    }
}

#[tokio::test]
async fn replies_that_no_mongod_sends_are_errors() {
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
        (refused, "the reply is error 91 (ShutdownInProgress): not\\u{a}now"),
        (encode(9, 1, &rawdoc! {}), "the reply is an error without a code: there is no message"),
        (encode(9, 1, &rawdoc! { "errmsg": "busy" }), "the reply is an error without a code: busy"),
        // With a code that says that the server does not serve the gateway.
        (encode(9, 1, &rawdoc! { "code": 91 }), "the reply is error 91: there is no message"),
        (ok(9, 2), "not an OP_MSG in reply to the request"),
        (flagged, "unexpected flags or sections"),
        (torn, "the connection was closed within the reply"),
        (long, "longer than 64 KiB"),
        (impossible, "an invalid message length"),
        (document, "not a valid document"),
    ] {
        let setup = TestUpstream { behaviour: Behaviour::ReplyWith(answer), ..TestUpstream::new() };
        check(&setup.fail().await, "ping_failed", 6, sentence, "mongod or mongos");
    }
}

#[tokio::test]
async fn an_error_in_reply_to_the_ping_proves_the_connection() {
    let reply = |code: i32| encode(9, 1, &rawdoc! { "ok": 0.0, "errmsg": "no", "code": code, "codeName": "Some" });
    // NotWritablePrimary, CommandNotFound, PrimarySteppedDown, APIVersionError, IngressRequestRateLimitExceeded,
    // InterruptedDueToReplStateChange.
    for code in [10_107, 59, 189, 322, 462, 11_602, 498_870] {
        let setup = TestUpstream { behaviour: Behaviour::ReplyWith(reply(code)), ..TestUpstream::new() };
        assert!(setup.connect().await.is_ok(), "{code}");
    }
    for code in [6, 7, 13, 18, 89, 91, 141, 11_600] {
        let setup = TestUpstream { behaviour: Behaviour::ReplyWith(reply(code)), ..TestUpstream::new() };
        check(&setup.fail().await, "ping_failed", 6, "does not serve the gateway: the reply is error", "its log");
    }
}

#[tokio::test]
async fn commands_declare_an_api_version_where_the_server_requires_one() {
    let change: fn(&mut EndpointConfig) = |upstream| upstream.authentication = Some(Mechanism::MongodbX509);
    let behaviour = Behaviour::RequiresApi(authenticates);
    let (connector, server) = TestUpstream { behaviour, change, ..TestUpstream::new() }.start().await;
    let proven_twice = Box::pin(async {
        let mut spare = ProvenConnection::new(connector.connect(None).await.unwrap());
        spare.prove_again().await.map(|()| spare.user.is_some())
    });
    assert!(server.during(proven_twice).await.unwrap());
    let probed = server.during(probe(&connector)).await.unwrap();
    assert_eq!(probed.server.version.as_deref(), Some("6.0.5"));
    let (stream, hello) = server.during(Box::pin(HelloStream::open(&connector))).await.unwrap();
    assert!(stream.connection().declares_api && hello.get_bool("isWritablePrimary").unwrap());
}

#[tokio::test]
async fn a_server_is_asked_for_its_hello_as_often_as_it_is_needed() {
    for (heartbeat, expected) in [(None, 10_000), (Some(Duration::from_secs(1)), 1_000)] {
        let (connector, server) = TestUpstream { behaviour: Behaviour::Awaitable, ..TestUpstream::new() }.start().await;
        let asked = Box::pin(async {
            let (stream, _) = HelloStream::open(&connector).await.unwrap();
            let mut stream = match heartbeat {
                Some(heartbeat) => stream.at_least_every(heartbeat),
                None => stream,
            };
            stream.next(&connector).await.unwrap().get_i64("asked").unwrap()
        });
        assert_eq!(server.during(asked).await, expected);
    }
}

#[tokio::test]
async fn commands_declare_no_api_version_where_the_server_requires_none() {
    // As a server before 5.0, for which it is an unknown field.
    let (connector, server) = TestUpstream::new().start().await;
    assert!(!server.during(connector.connect(None)).await.unwrap().declares_api);
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let closed = closed_port();
    let change: fn(&mut EndpointConfig) = |_| {};
    let (connector, _server) = TestUpstream { change, ..TestUpstream::new() }.start().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let addresses = [closed.local_addr().unwrap(), "127.0.0.2:1".parse().unwrap()];
    let error = connector.connect_to_any(&addresses, None, deadline).await.unwrap_err();
    let sentence = format!("{}: connection refused, 127.0.0.2:1: connection refused", addresses[0]);
    check(&error, "unreachable", 6, &sentence, "net.bindIp");
}

#[tokio::test]
async fn a_name_without_an_address_is_not_resolvable() {
    let change: fn(&mut EndpointConfig) =
        |upstream| upstream.address = HostPort { host: "no-such-host.invalid".to_owned(), port: 27017 };
    let error = TestUpstream { change, ..TestUpstream::new() }.fail().await;
    check(&error, "not_resolvable", 6, "the name no-such-host.invalid cannot be resolved", "upstream.orders.address");
}

#[tokio::test]
async fn addresses_are_tried_in_turn_until_one_works() {
    let closed = closed_port();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connector, server) = TestUpstream { change: short, ..TestUpstream::new() }.start().await;
    let addresses = [closed.local_addr().unwrap(), silent.local_addr().unwrap(), server.address];
    let deadline = Instant::now() + Duration::from_secs(2);
    let stream = server.during(connector.connect_to_any(&addresses, None, deadline)).await.unwrap();
    assert_eq!(stream.address, server.address);
}

#[tokio::test]
async fn the_address_where_the_attempt_came_furthest_is_reported() {
    let closed = closed_port();
    let mut setup = TestUpstream::new();
    setup.server = CertificateAuthority::new("Other CA").issue("mongod", &["127.0.0.1"]);
    let (connector, server) = setup.start().await;
    let addresses = [server.address, closed.local_addr().unwrap()];
    let deadline = Instant::now() + Duration::from_secs(10);
    let error = server.during(connector.connect_to_any(&addresses, None, deadline)).await.unwrap_err();
    assert_eq!(error.address(), Some(server.address));
    assert_eq!(error.reason(), "server_certificate_unknown_issuer");
}

#[test]
fn addresses_that_all_took_too_long_are_a_timeout() {
    let limit = Duration::from_secs(5);
    let timed_out = || ConnectFailure::TimedOut { phase: Phase::Connect, limit };
    let addresses: [SocketAddr; 2] = ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()];
    let failures = addresses.map(|address| (address, timed_out().at(address)));
    let (address, failure) = furthest(failures.into(), limit);
    assert!(address.is_none());
    assert!(matches!(failure, ConnectFailure::TimedOut { phase: Phase::Connect, .. }));
}

#[tokio::test]
async fn a_probe_of_the_port_for_load_balancers_says_that_it_comes_through_one() {
    let behaviour = Behaviour::LoadBalancerPort;
    let (connector, server) = TestUpstream { behaviour, ..TestUpstream::new() }.start().await;
    let found = server.during(probe(&connector)).await.unwrap();
    assert_eq!(found.server.role, ServerRole::Primary);
}

#[tokio::test]
async fn a_probe_returns_the_facts_about_the_server() {
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
async fn dropping_an_attempt_closes_its_socket() {
    let (connector, server) = TestUpstream { behaviour: Behaviour::PlainSilent, ..TestUpstream::new() }.start().await;
    let attempt = connector.connect(None);
    let accepted = async {
        let (mut tcp, _) = server.listener.accept().await.unwrap();
        tcp.read_u8().await.unwrap();
        tcp
    };
    let mut tcp = tokio::select! {
        _ = attempt => unreachable!("the server does not answer"),
        tcp = accepted => tcp,
    };
    let mut rest = Vec::new();
    // Ends only if the client has closed the connection.
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

/// A port that refuses connections until the socket is dropped.
fn closed_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

#[tokio::test]
async fn without_a_certificate_a_connection_waits_for_the_agent_and_reports_its_error() {
    let (mut upstream, server) = TestUpstream::new().listen().await;
    let with_files = upstream.clone();
    let agent = WorkloadApi { socket: "/run/agent.sock".into(), ca_file: None, partial_chain: false, crl_file: None };
    upstream.tls.source = MaterialSource::WorkloadApi(agent);
    let set = || UpstreamTls::load(&with_files).unwrap();

    short(&mut upstream);
    let unanswered = connector_to(&upstream).connect(None).await.unwrap_err();
    let sentence = "yet: the SPIFFE Workload API has not answered";
    check(&unanswered, "no_certificate", 6, sentence, "check the agent at unix:/run/agent.sock");

    upstream.connect_timeout = Duration::from_secs(20);
    let connector = connector_to(&upstream);
    let problem = WorkloadProblem::Denied { message: "no identity issued".to_owned() };
    let denied = Arc::new(WorkloadError { socket: "/run/agent.sock".into(), problem }.into());
    let (error, ()) =
        tokio::join!(connector.connect(None), async { connector.identity().report_missing(Arc::clone(&denied)) });
    let sentence = "the SPIFFE Workload API at unix:/run/agent.sock has no certificate for this process";
    check(&error.unwrap_err(), "no_certificate", 6, sentence, "register this process");

    connector.identity().renew(set());
    server.during(connector.connect(None)).await.unwrap();
    connector.identity().report_missing(denied);
    server.during(connector.connect(None)).await.unwrap();

    let connector = connector_to(&upstream);
    let connected = async { tokio::join!(connector.connect(None), async { connector.identity().renew(set()) }) };
    server.during(connected).await.0.unwrap();
}

/// The subject of the client certificate in these tests.
const SUBJECT: &str = "CN=svc-a,O=Acme";

fn with_authentication(behaviour: fn(&str) -> Option<RawDocumentBuf>) -> TestUpstream {
    let change: fn(&mut EndpointConfig) = |upstream| upstream.authentication = Some(Mechanism::MongodbX509);
    TestUpstream { behaviour: Behaviour::Replies(behaviour), change, ..TestUpstream::new() }
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
async fn a_connection_is_authenticated_before_a_client_uses_it() {
    let (connector, server) = with_authentication(authenticates).start().await;
    assert!(connector.authenticates() && !connector.has_user());
    let hello = encode(77, 0, &rawdoc! { "hello": 1, "$db": "admin" });
    let asked = async {
        let mut connection = ProvenConnection::new(connector.connect(None).await.unwrap());
        // The connection works like any other: no reply to the gateway is outstanding.
        connection.replay_hello(&hello).await.unwrap();
        connection.user.unwrap()
    };
    let user = server.during(Box::pin(asked)).await;
    assert_eq!((user.name.as_str(), user.roles.as_slice()), (SUBJECT, &["read@shop".to_owned()][..]));
    assert!(connector.has_user());
    assert_eq!(*connector.authenticated().unwrap(), AuthenticationResult { generation: 0, user: Ok(user) });
}

#[tokio::test]
async fn without_authentication_a_connection_has_no_user() {
    let setup = TestUpstream { behaviour: Behaviour::Replies(has_no_user), ..TestUpstream::new() };
    assert_eq!(setup.connect().await.unwrap().user, None);
    // Probes and monitors are not authenticated either: hello needs no user.
    let (connector, server) = with_authentication(has_no_user).start().await;
    assert_eq!(server.during(probe(&connector)).await.unwrap().stream.user, None);
    assert!(server.during(Box::pin(HelloStream::open(&connector))).await.is_ok());
    assert_eq!(connector.authenticated(), None);
}

#[tokio::test]
async fn an_unknown_user_is_named_with_the_command_that_creates_it() {
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
async fn a_server_that_cannot_authenticate_now_is_no_user_failure() {
    let steps_down = with_authentication(|command| {
        (command == "authenticate").then(|| refuses(11602, "InterruptedDueToReplStateChange", "interrupted"))
    });
    let (connector, server) = steps_down.start().await;
    let error = server.during(connector.connect(None)).await.unwrap_err();
    check(&error, "authentication_failed", 6, "interrupted", "mongod's");
    assert!(!error.is_user_failure());
    assert_eq!(connector.authenticated(), None);
}

#[tokio::test]
async fn a_connection_with_another_user_is_an_error() {
    let member = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[("__system", "local")])),
        other => authenticates(other),
    });
    let sentence =
        "takes the client certificate of upstream orders (CN=svc-a,O=Acme) for that of a member of its cluster";
    check(&member.fail().await, "cluster_member", 18, sentence, "whose O, OU or DC differs from those of mongod's own");
    let other = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[("CN=svc-b,O=Acme", "$external")])),
        other => authenticates(other),
    });
    let sentence = "authenticated CN=svc-b,O=Acme@$external instead of CN=svc-a,O=Acme";
    check(&other.fail().await, "wrong_user", 18, sentence, "mongod's log");
    let no_user = with_authentication(|command| match command {
        "connectionStatus" => Some(users(&[])),
        other => authenticates(other),
    });
    check(&no_user.fail().await, "wrong_user", 18, "no user is authenticated", "mongod's log");
    let malformed = with_authentication(|command| match command {
        "connectionStatus" => Some(rawdoc! { "ok": 1.0 }),
        other => authenticates(other),
    });
    check(&malformed.fail().await, "ping_failed", 6, "connectionStatus without users", "is a mongod or mongos");
}

#[tokio::test]
async fn a_certificate_for_cluster_members_only_has_its_own_message() {
    // The server's certificate and the client certificate have the same organization.
    let refuses = with_authentication(|command| {
        let errmsg = "The provided certificate can only be used for cluster authentication, not client authentication.";
        (command == "authenticate").then(|| refuses(18, "AuthenticationFailed", errmsg))
    });
    check(&refuses.fail().await, "cluster_member", 18, "a member of its cluster", "O, OU or DC");
}

#[tokio::test]
async fn a_member_that_may_have_no_users_is_used_without_authentication() {
    let (connector, server) = with_authentication(has_no_user).start().await;
    connector.expect_users(Users::Awaited);
    let hello = encode(77, 0, &rawdoc! { "hello": 1, "$db": "admin" });
    let used = async {
        let mut connection = ProvenConnection::new(connector.connect(None).await.unwrap());
        connection.replay_hello(&hello).await.unwrap();
        connection.user
    };
    assert_eq!((server.during(Box::pin(used)).await, connector.authenticated()), (None, None));
    connector.expect_users(Users::Kept);
    assert!(server.during(connector.connect(None)).await.unwrap_err().is_user_failure());

    let (connector, server) = with_authentication(authenticates).start().await;
    connector.expect_users(Users::Awaited);
    assert!(server.during(connector.connect(None)).await.unwrap().user.is_some());
    connector.expect_users(Users::None);
    assert_eq!(server.during(connector.connect(None)).await.unwrap().user, None);
}

#[tokio::test]
async fn an_authentication_that_is_cut_off_is_no_user_failure() {
    let (upstream, server) = with_authentication(authenticates).listen().await;
    let connector = connector_to(&upstream);
    let mut stream = server.during(connector.connect(None)).await.unwrap();
    // The server no longer serves the connection.
    let broken = connector.authenticate(&mut stream, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
    check(&broken, "ping_failed", 6, "the connection was closed before the reply", "is a mongod or mongos");
    assert!(!broken.is_user_failure() && connector.has_user(), "the earlier result was lost");
}

#[tokio::test]
async fn the_names_that_a_certificate_has_instead_are_described() {
    let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
    let mail = || rcgen::SanType::Rfc822Name("dba@acme.example".try_into().unwrap());
    for (names, reason, sentence, remedy) in [
        (
            vec![dns("127.0.0.1")],
            "server_certificate_name_mismatch",
            "it has the IP address 127.0.0.1 as a DNS name",
            "subjectAltName=IP:127.0.0.1",
        ),
        (
            vec![dns("mongo.example"), dns("127.0.0.1"), mail()],
            "server_certificate_name_mismatch",
            "it has the IP address 127.0.0.1 as a DNS name",
            "verify = \"chain\"",
        ),
        (
            vec![mail(), mail()],
            "server_certificate_no_names",
            "its subject alternative name has neither a DNS name nor an IP address, only: an e-mail address; so it is \
             not for 127.0.0.1",
            "subjectAltName=IP:127.0.0.1",
        ),
        (
            vec![dns("mongo.example")],
            "server_certificate_name_mismatch",
            "it is for mongo.example, not for 127.0.0.1",
            "server_name",
        ),
        (
            Vec::new(),
            "server_certificate_no_names",
            "it has no subject alternative name, so it is not for 127.0.0.1",
            "legacy_certificates = true",
        ),
    ] {
        let setup = TestUpstream::new();
        let server = setup.ca.issue_with("mongod", &[], |params| params.subject_alt_names = names);
        let error = TestUpstream { server, ..setup }.fail().await;
        check(&error, reason, 141, sentence, remedy);
    }
}
