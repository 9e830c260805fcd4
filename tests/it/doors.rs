//! How clients connect and which principal each one gets: mutual TLS in a service mesh, PROXY headers, unix sockets and
//! source addresses. Also what a rejected client reads.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use bson::{Document, doc};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::kit::certificates::{First, Issued, Pki, SignedBy, Usage, Validity, Wanted};
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::{Connection, Received, body_section, client_config, op_msg};
use crate::kit::scratch;
use crate::reports;
use crate::reports::{LOG_TIMEOUT, Reported, is_at_least_one, is_zero};

const CART: &str = "cluster.local/ns/shop/sa/cart";

/// A service mesh: its CA, a gateway at its edge and one revoked client certificate.
struct Mesh {
    pki: Pki,
    gateway: Gateway,
    revoked: Issued,
}

/// A client that is rejected, and what the client, the log and the metrics show.
struct Row {
    wanted: Wanted,
    /// Part of both drivers' messages. Case, spaces and punctuation are ignored, because each driver has its own texts
    /// for TLS alerts.
    told: &'static str,
    kind: &'static str,
    remedy: &'static str,
}

/// `proxy_protocol`, `proxy_trusted`, the bytes before a ping, kind, outcome, and part of the reply if there is one.
type Forbidden<'a> = (&'a str, &'a str, &'a [u8], &'a str, &'a str, Option<&'a str>);

impl Mesh {
    fn new(mongod: &Mongod, mode: &str) -> Self {
        let pki = Pki::new().unwrap();
        let server = pki.issue("gateway", &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
        let revoked = pki.issue("revoked", &workload("revoked", CART_URI)).unwrap();
        let list = pki.revoke("mesh", &[&revoked]).unwrap();
        let tables = format!(
            "[listener.test.tls]\ncertificate_file = '{}'\nca_file = '{}'\ncrl_file = '{}'\n",
            server.display(),
            pki.ca_file().display(),
            list.display()
        );
        let options = GatewayOptions {
            top: "trust_domain = 'cluster.local'\ntrust_domain_aliases = ['old.local']\n".to_owned(),
            listener: format!("mode = '{mode}'\n"),
            tables,
            ..GatewayOptions::to(mongod)
        };
        Self { pki, gateway: Gateway::start(&options), revoked }
    }

    /// The connection string of an application.
    fn uri(&self, client: Option<&Issued>) -> String {
        let uri = format!("{}&tls=true&tlsCAFile={}", reports::uri(&self.gateway), self.pki.ca_file().display());
        let Some(client) = client else { return uri };
        let file = client.combined(First::Certificate).unwrap();
        format!("{uri}&tlsCertificateKeyFile={}", file.display())
    }

    /// Finds a rejection of this kind in the log and in both metrics.
    #[track_caller]
    fn check_refused(&self, kind: &str, outcome: &str, remedy: &str) {
        let logged = self.gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == kind).unwrap();
        assert_eq!((&logged["level"], &logged["outcome"]), (&"WARN".into(), &outcome.into()), "{logged}");
        assert!(logged["remedy"].as_str().unwrap().contains(remedy), "{logged}");
        let labels = [("listener", "test"), ("outcome", kind)];
        self.gateway.await_metric("mongate_client_handshakes_total", &labels, is_at_least_one);
        let labels = [("listener", "test"), ("outcome", outcome)];
        self.gateway.await_metric("mongate_connections_total", &labels, is_at_least_one);
    }
}

const CART_URI: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn workload(common_name: &'static str, uri: &'static str) -> Wanted {
    Wanted { common_name, names: vec![uri], ..Wanted::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn mesh_clients_are_served_and_plaintext_clients_only_in_permissive_mode() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    for mode in ["permissive", "strict"] {
        let mesh = Mesh::new(&mongod, mode);
        let former = workload("former", "spiffe://old.local/ns/shop/sa/cart");
        let named = Wanted { common_name: "named", ..Wanted::default() };
        let clients = [
            (workload("cart", CART_URI), CART),
            (former, "old.local/ns/shop/sa/cart"),
            (named, "CN=named,OU=clients,O=mongate kit"),
        ];
        let issue = |(wanted, _): &(Wanted, &str)| mesh.pki.issue(wanted.common_name, wanted).unwrap();
        let mut uris: Vec<_> = clients.iter().map(|client| mesh.uri(Some(&issue(client)))).collect();
        uris.push(reports::uri(&mesh.gateway));
        let mut reported = ping_with_both_drivers(&uris).await;
        let plain = reported.pop().unwrap();
        check_served(&reported.into_iter().flatten().collect::<Vec<_>>());
        for (_, principal) in clients {
            await_closed(&mesh.gateway, principal, "certificate");
        }
        assert!(is_at_least_one(mesh.gateway.metric("mongate_client_handshakes_total", &[("outcome", "ok")])));
        if mode == "permissive" {
            check_served(&plain);
        } else {
            check_told(&plain, "listener test requires mutual TLS (mode = \"strict\")");
            mesh.check_refused("not_tls", "rejected", "tls=true");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_outside_the_mesh_is_rejected_with_its_own_reason() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mesh = Mesh::new(&mongod, "strict");
    let rows = rows();
    let clients: Vec<_> =
        rows.iter().enumerate().map(|(at, row)| mesh.pki.issue(&format!("row-{at}"), &row.wanted).unwrap()).collect();
    let mut uris: Vec<_> = clients.iter().map(|client| mesh.uri(Some(client))).collect();
    uris.extend([mesh.uri(None), mesh.uri(Some(&mesh.revoked))]);
    // This client does not trust the gateway's certificate.
    uris.push(format!("{}&tls=true&tlsCAFile={}", reports::uri(&mesh.gateway), mongod.pki.ca_file().display()));
    let reported = ping_with_both_drivers(&uris).await;
    let told: Vec<_> = rows.iter().map(|row| (row.told, row.kind, "rejected", row.remedy)).collect();
    let more = [
        ("listener test requires a client certificate", "no_certificate", "rejected", "listener.test.tls.ca_file"),
        ("certificate revoked", "revoked", "rejected", "new certificate"),
        ("certificate", "refused_by_client", "protocol_error", "tlsCAFile"),
    ];
    for (reported, (told, kind, outcome, remedy)) in reported.iter().zip(told.into_iter().chain(more)) {
        check_told(reported, told);
        mesh.check_refused(kind, outcome, remedy);
    }
}

fn rows() -> [Row; 7] {
    let cart = || workload("cart", CART_URI);
    let two = vec![CART_URI, "spiffe://cluster.local/ns/shop/sa/pay"];
    [
        Row {
            wanted: workload("cart", "spiffe://other.local/ns/shop/sa/cart"),
            told: "trust domain other.local is not accepted by this gateway",
            kind: "foreign_trust_domain",
            remedy: "trust_domain_aliases",
        },
        Row {
            wanted: workload("cart", "spiffe://Cluster.local/ns/shop/sa/cart"),
            told: "is not a valid SPIFFE ID: its trust domain contains \"C\"",
            kind: "invalid_spiffe_id",
            remedy: "SPIFFE",
        },
        Row {
            wanted: Wanted { names: two, ..Wanted::default() },
            told: "2 URI names",
            kind: "invalid_spiffe_id",
            remedy: "SPIFFE",
        },
        Row {
            wanted: Wanted { issuer: SignedBy::Stranger, ..cart() },
            told: "unknown CA",
            kind: "unknown_ca",
            remedy: "ca_file",
        },
        Row {
            wanted: Wanted { validity: Validity::Expired, ..cart() },
            told: "certificate expired",
            kind: "expired",
            remedy: "renew",
        },
        Row {
            wanted: Wanted { validity: Validity::NotYet, ..cart() },
            // TLS has no alert of its own for this case.
            told: "certificate expired",
            kind: "not_yet_valid",
            remedy: "clocks",
        },
        Row {
            wanted: Wanted { usage: Usage::Server, ..cart() },
            told: "unsupported certificate",
            kind: "wrong_usage",
            remedy: "clientAuth",
        },
    ]
}

#[test]
fn tls_1_2_and_1_3_work_and_the_first_byte_tells_tls_from_plaintext() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mesh = Mesh::new(&mongod, "permissive");
    let cart = mesh.pki.issue("cart", &workload("cart", CART_URI)).unwrap();
    for version in [&TLS12, &TLS13] {
        let config = client_config(&mesh.pki, Some(&cart), &[version]).unwrap();
        let mut client = Connection::tls_with(mesh.gateway.address(), &[], config).unwrap();
        client.run(&ping()).unwrap();
        // Larger than one TLS record.
        let large = doc! { "ping": 1, "comment": "x".repeat(5_000_000), "$db": "admin" };
        client.run(&large).unwrap();
        let reply = client.run(&eight_megabytes()).unwrap();
        assert_eq!(reply.get_document("cursor").unwrap().get_array("firstBatch").unwrap().len(), 8);
        // The client sends no close_notify. The connection ends in order anyway.
        drop(client);
        assert_eq!((&await_closed(&mesh.gateway, CART, "certificate")["reason"]), "closed");
        mesh.gateway.connect().unwrap().run(&ping()).unwrap();

        let config = client_config(&mesh.pki, None, &[version]).unwrap();
        let mut anonymous = Connection::tls_with(mesh.gateway.address(), &[], config).unwrap();
        let refusal = anonymous.command(&ping()).unwrap();
        assert_eq!((refusal.get_i32("code").unwrap(), refusal.get_str("codeName").unwrap()), (13, "Unauthorized"));
        assert!(matches!(anonymous.receive().unwrap(), Received::Closed(rest) if rest.is_empty()));
    }
}

#[test]
fn garbage_in_tls_is_answered_with_an_alert_and_logged() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mesh = Mesh::new(&mongod, "strict");
    let mut stream = TcpStream::connect(mesh.gateway.address()).unwrap();
    stream.write_all(&[&[0x16, 3, 1, 0xFF, 0xFF][..], &[9; 500]].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
    drop(stream);
    mesh.check_refused("failed", "protocol_error", "TLS 1.2 or 1.3");

    // A handshake without a request counts as a probe. The client closes without close_notify.
    let cart = mesh.pki.issue("cart", &workload("cart", CART_URI)).unwrap();
    let config = client_config(&mesh.pki, Some(&cart), &[&TLS12]).unwrap();
    let mut client = Connection::tls_with(mesh.gateway.address(), &[], config).unwrap();
    client.send(&[]).unwrap();
    drop(client);
    mesh.gateway.await_metric("mongate_connections_total", &[("outcome", "probe")], is_at_least_one);
}

#[test]
fn a_port_scan_does_not_fill_the_log() {
    const KNOCKS: u32 = 50;
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::to(&mongod);
    for _ in 0..KNOCKS {
        TcpStream::connect(gateway.address()).unwrap().write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
    }
    let all = |count: f64| count > f64::from(KNOCKS) - 0.5;
    gateway.await_metric("mongate_connections_total", &[("outcome", "protocol_error")], all);
    let told = gateway.log().iter().filter(|event| event["kind"] == "not_mongodb").count();
    assert!((1..=3).contains(&told), "logged {told} times");
}

#[test]
fn a_trusted_proxy_states_the_address_and_the_identity_of_its_client() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = behind_a_proxy(&mongod, "optional", "127.0.0.0/8");
    let version_1 = b"PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017\r\n";
    let rows: [(&[u8], &str, &str, &str); 5] = [
        (version_1, "10.1.3.7:8080", "narrow", "address"),
        (&proxied(&[]), "10.1.3.7:8080", "narrow", "address"),
        (&proxied(&[(0xD0, CART_URI.as_bytes())]), "10.1.3.7:8080", CART, "proxy"),
        (&proxied(&[(0xE4, CART.as_bytes())]), "10.1.3.7:8080", CART, "proxy"),
        (&proxied(&[(0x20, b"\x07\0\0\0\0\x22\0\x04cart")]), "10.1.3.7:8080", "CN=cart", "proxy"),
    ];
    for (header, client, principal, source) in rows {
        for cut in [1, 4096] {
            let mut connection = gateway.connect().unwrap();
            let bytes = [header, &op_msg(1, 0, &[body_section(&ping())])].concat();
            bytes.chunks(cut).for_each(|piece| connection.send(piece).unwrap());
            assert_eq!(connection.reply().unwrap().code(), None);
        }
        let logged = await_closed(&gateway, principal, source);
        assert_eq!(logged["client"], client, "{logged}");
        assert!(logged["proxy"].as_str().unwrap().starts_with("127.0.0.1:"), "{logged}");
    }
    // The proxy's own health check, and a client that connects directly.
    for header in [local_header(), Vec::new()] {
        let mut connection = gateway.connect().unwrap();
        connection.send(&header).unwrap();
        connection.run(&ping()).unwrap();
        drop(connection);
        let logged = await_closed(&gateway, "anybody", "listener");
        assert!(logged["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{logged}");
        assert_eq!(logged["proxy"], Value::Null);
    }
}

#[test]
fn forbidden_proxy_headers_are_rejected() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let header = b"PROXY TCP4 10.1.3.7 10.0.0.1 8080 27017\r\n".as_slice();
    let foreign = proxied(&[(0xD0, b"spiffe://other.local/ns/shop/sa/cart")]);
    let invalid = proxied(&[(0xD0, b"cart")]);
    let oversized = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF".as_slice(), &[0; 8000]].concat();
    let rows: [Forbidden<'_>; 8] = [
        ("off", "127.0.0.0/8", header, "proxy_header", "protocol_error", None),
        ("optional", "10.0.0.0/8", header, "proxy_untrusted", "rejected", Some("from its trusted proxies only")),
        ("required", "10.0.0.0/8", &[], "proxy_untrusted", "rejected", Some("from its trusted proxies only")),
        ("required", "127.0.0.0/8", &[], "proxy_missing", "rejected", Some("with a PROXY header")),
        ("required", "127.0.0.0/8", &foreign, "foreign_trust_domain", "rejected", Some("other.local")),
        ("required", "127.0.0.0/8", &invalid, "invalid_spiffe_id", "rejected", Some("cart is not a valid SPIFFE ID")),
        ("optional", "127.0.0.0/8", b"PROXY TCP4 1.2.3.4\r\n", "bad_proxy_header", "protocol_error", None),
        ("optional", "127.0.0.0/8", &oversized, "bad_proxy_header", "protocol_error", None),
    ];
    for (protocol, trusted, header, kind, outcome, told) in rows {
        let gateway = behind_a_proxy(&mongod, protocol, trusted);
        let mut connection = gateway.connect().unwrap();
        let _ = connection.send(&[header, &op_msg(1, 0, &[body_section(&ping())])].concat());
        match (told, connection.receive().unwrap()) {
            (Some(told), Received::Reply(reply)) => {
                assert_eq!(reply.code(), Some(13));
                assert!(reply.document.get_str("errmsg").unwrap().contains(told), "{}", reply.document);
            }
            (None, Received::Closed(_)) => {}
            (_, received) => panic!("{kind}: {received:?}"),
        }
        let logged = gateway.wait_for_log(LOG_TIMEOUT, |event| event["kind"] == kind).unwrap();
        assert_eq!((&logged["level"], &logged["outcome"]), (&"WARN".into(), &outcome.into()), "{logged}");
        assert!(logged["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{logged}");
    }
}

#[test]
fn a_probe_counts_as_a_probe_where_a_proxy_header_is_required() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = behind_a_proxy(&mongod, "required", "127.0.0.0/8");
    drop(TcpStream::connect(gateway.address()).unwrap());
    let mut health_check = TcpStream::connect(gateway.address()).unwrap();
    health_check.write_all(&local_header()).unwrap();
    health_check.shutdown(Shutdown::Write).unwrap();
    assert_eq!(health_check.read(&mut [0]).unwrap(), 0);
    gateway.await_metric("mongate_connections_total", &[("outcome", "probe")], |count| count > 1.5);
    assert!(gateway.log().iter().all(|event| event["message"] != "connection rejected"));
}

#[test]
fn the_client_certificate_of_tls_behind_a_proxy_header_decides_the_principal() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let pki = Pki::new().unwrap();
    let server = pki.issue("gateway", &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
    let options = GatewayOptions {
        top: "trust_domain = 'cluster.local'\n".to_owned(),
        listener: "mode = 'strict'\nproxy_protocol = 'required'\nproxy_trusted = ['127.0.0.1']\n".to_owned(),
        tables: format!(
            "[listener.test.tls]\ncertificate_file = '{}'\nca_file = '{}'\n",
            server.display(),
            pki.ca_file().display()
        ),
        ..GatewayOptions::to(&mongod)
    };
    let gateway = Gateway::start(&options);
    let cart = pki.issue("cart", &workload("cart", CART_URI)).unwrap();
    let config = client_config(&pki, Some(&cart), &[&TLS13]).unwrap();
    let header = proxied(&[(0xD0, b"spiffe://other.local/x")]);
    let mut client = Connection::tls_with(gateway.address(), &header, config).unwrap();
    client.run(&ping()).unwrap();
    check_status(&gateway, CART, "certificate", 1);
    drop(client);
    assert_eq!(await_closed(&gateway, CART, "certificate")["client"], "10.1.3.7:8080");
}

#[test]
fn the_peer_credentials_of_a_unix_socket_decide_the_principal() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("socket").unwrap();
    let path = directory.path().join("s.sock");
    let uid = owner(directory.path());
    let options = GatewayOptions {
        listener_address: Some(format!("unix:{}", path.display())),
        listener: "principal = 'anybody'\n".to_owned(),
        tables: format!("[[identity]]\nprincipal = '{CART}'\nuids = [{uid}]\n"),
        ..GatewayOptions::to(&mongod)
    };
    let gateway = Gateway::start(&options);
    gateway.connect().unwrap().run(&ping()).unwrap();
    let logged = await_closed(&gateway, CART, "unix_socket");
    assert_eq!((&logged["client"], &logged["uid"]), (&"unix".into(), &uid.into()), "{logged}");
    assert_eq!(logged["pid"], std::process::id(), "{logged}");
}

#[test]
fn a_source_address_decides_the_principal_and_metrics_name_only_listed_principals() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let options = GatewayOptions {
        top: "[metrics]\nprincipals = ['cluster.local/ns/shop/*']\n".to_owned(),
        tables: format!("[[identity]]\nprincipal = '{CART}'\nsources = ['127.0.0.0/8']\n"),
        ..GatewayOptions::to(&mongod)
    };
    let gateway = Gateway::start(&options);
    let mut connection = gateway.connect().unwrap();
    connection.run(&ping()).unwrap();
    check_status(&gateway, CART, "address", 1);
    drop(connection);
    await_closed(&gateway, CART, "address");
    let shop = ("principal", "cluster.local/ns/shop/*");
    assert!(is_at_least_one(gateway.metric("mongate_commands_total", &[("command", "ping"), shop])));
    assert!(is_at_least_one(gateway.metric("mongate_bytes_total", &[("direction", "to_client"), shop])));
    assert!(is_zero(gateway.metric("mongate_bytes_total", &[("principal", "other")])));
    assert!(
        gateway
            .metrics()
            .iter()
            .all(|sample| sample.name != "mongate_bytes_total" || !sample.label("principal").is_empty())
    );
}

/// A gateway that accepts PROXY headers. A client in 10.1.3.0/24 is `narrow`, every other client is `anybody`.
fn behind_a_proxy(mongod: &Mongod, protocol: &str, trusted: &str) -> Gateway {
    let options = GatewayOptions {
        top: "trust_domain = 'cluster.local'\n".to_owned(),
        listener: format!(
            "proxy_protocol = '{protocol}'\nproxy_trusted = ['{trusted}']\n\
             proxy_identity_tlv = 0xE4\nprincipal = 'anybody'\n"
        ),
        tables: "[[identity]]\nprincipal = 'narrow'\nsources = ['10.1.3.0/24']\n".to_owned(),
        ..GatewayOptions::to(mongod)
    };
    Gateway::start(&options)
}

/// A PROXY protocol v2 header for a client at 10.1.3.7:8080, with these TLVs.
fn proxied(values: &[(u8, &[u8])]) -> Vec<u8> {
    let mut body = vec![10, 1, 3, 7, 10, 0, 0, 1, 0x1F, 0x90, 0x69, 0x89];
    for (kind, value) in values {
        body.push(*kind);
        body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &u16::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

/// The PROXY protocol v2 header (LOCAL) that a proxy sends before its own health check.
fn local_header() -> Vec<u8> {
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec()
}

/// Pings every URI with both drivers, all at the same time, and returns what each driver reports.
async fn ping_with_both_drivers(uris: &[String]) -> Vec<Vec<Reported>> {
    let ping = ping();
    let rust = futures::future::join_all(uris.iter().map(|uri| reports::of_rust(&ping, uri))).await;
    let mut python = reports::of_pymongo(&ping, uris).unwrap_or_default().into_iter();
    rust.into_iter().map(|rust| std::iter::once(rust).chain(python.next()).collect()).collect()
}

fn check_served(reported: &[Reported]) {
    assert!(reported.iter().all(|reported| reported.kind.is_empty()), "{reported:?}");
}

fn check_told(reported: &[Reported], told: &str) {
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    for reported in reported {
        assert!(!reported.kind.is_empty(), "the client was served instead of rejected with {told:?}");
        assert!(letters(&reported.message).contains(&letters(told)), "{told:?} is not in {:?}", reported.message);
        assert!(reported.seconds < reports::ANSWER_SECONDS_MAX, "waited {} s", reported.seconds);
    }
}

/// The log line of a closed connection of this principal.
fn await_closed(gateway: &Gateway, principal: &str, source: &str) -> Value {
    let is = |event: &Value| event["principal"] == principal && event["principal_source"] == source;
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "connection closed" && is(event)).unwrap()
}

/// Compares the connected principals that `/status` shows.
fn check_status(gateway: &Gateway, principal: &str, source: &str, connections: u64) {
    let status: Value = serde_json::from_str(&gateway.get("/status").unwrap().body).unwrap();
    let expected = serde_json::json!([{ "principal": principal, "source": source, "connections": connections }]);
    assert_eq!(status["listeners"][0]["principals"], expected, "{status}");
}

/// The uid of this process, read from a file that it created.
fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
}

/// A command whose reply has eight documents of one megabyte each.
fn eight_megabytes() -> Document {
    let document = doc! { "number": "$$this", "text": "x".repeat(1_000_000) };
    let documents = doc! { "$map": { "input": [0, 1, 2, 3, 4, 5, 6, 7], "in": document } };
    doc! { "aggregate": 1, "pipeline": [{ "$documents": documents }], "cursor": {}, "$db": "admin" }
}

fn ping() -> Document {
    doc! { "ping": 1, "$db": "admin" }
}
