//! TLS handshakes of both sides without sockets: what is accepted, what is rejected, and with which error.

use std::io;
use std::sync::Arc;

use rcgen::{
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256, SanType,
};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, CertificateError, Error, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::test_pki::{CertificateAuthority, Folder, IssuedCertificate, files_of};
use super::*;
use crate::config::{EndpointConfig, ListenerTlsConfig, TlsVersion, Verify};

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// The result of a handshake followed by one byte in each direction, for both sides.
struct Outcome {
    client: io::Result<HandshakeKind>,
    server: io::Result<HandshakeKind>,
}

async fn handshake(client: &UpstreamTls, server: Arc<ServerConfig>) -> Outcome {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = async {
        let mut stream = client.connect(near).await.0?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(stream.session().facts().handshake_kind().unwrap())
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        // The client closes first, with any alert that it sends.
        let _ = stream.shutdown().await;
        Ok(kind)
    };
    let (client, server) = tokio::join!(connect, accept);
    Outcome { client, server }
}

fn tls_error(failed: &io::Error) -> &Error {
    failed.get_ref().and_then(|cause| cause.downcast_ref()).unwrap()
}

/// An upstream with a valid client certificate of `ca`, which is also its trust anchor.
fn upstream(folder: &Folder, ca: &CertificateAuthority, change: impl FnOnce(&mut EndpointConfig)) -> UpstreamTls {
    let mut upstream = folder.upstream(1, &ca.issue("svc-a", &[]), &ca.pem);
    upstream.tls.server_name = Some("mongo.test".to_owned());
    change(&mut upstream);
    UpstreamTls::load(&upstream).unwrap()
}

fn legacy(upstream: &mut EndpointConfig) {
    upstream.tls.legacy_certificates = true;
}

/// Why `client` rejects a server with this certificate, in both versions of TLS.
#[track_caller]
fn rejection(client: &UpstreamTls, server: &IssuedCertificate) -> CertificateError {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let [older, newer] = VERSIONS.map(|versions| {
        let outcome = runtime.block_on(handshake(client, server.server(None, versions)));
        match tls_error(&outcome.client.unwrap_err()) {
            Error::InvalidCertificate(cause) => cause.clone(),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(format!("{older:?}"), format!("{newer:?}"));
    newer
}

#[tokio::test]
async fn legacy_servers_are_accepted_with_every_type_of_key_in_both_versions() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    for kind in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(kind).unwrap();
        let old = ca.issue_version_1_for(&key, "mongo.test", |_| {});
        let nameless = ca.issue_for(&key, "mongo.test", &[], |_| {});
        for (server, verify) in
            [(&old, Verify::Full), (&old, Verify::Chain), (&nameless, Verify::Full), (&nameless, Verify::Chain)]
        {
            let client = upstream(&folder, &ca, |upstream| {
                legacy(upstream);
                upstream.tls.verify = verify;
            });
            for versions in VERSIONS {
                let outcome = handshake(&client, server.server(Some(&ca), versions)).await;
                assert_eq!(outcome.client.unwrap(), HandshakeKind::Full);
                outcome.server.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_legacy_server_without_the_key_of_its_certificate_is_rejected() {
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Thief {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let client = upstream(&folder, &ca, legacy);
    let victim = ca.issue_version_1("mongo.test");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256, &PKCS_ED25519] {
        let key = rustls::pki_types::PrivateKeyDer::try_from(KeyPair::generate_for(kind).unwrap().serialize_der());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key.unwrap()).unwrap();
        let thief = Thief(Arc::new(CertifiedKey::new(vec![victim.der.clone()], key)));
        for versions in VERSIONS {
            let mut config = Arc::unwrap_or_clone(victim.server(None, versions));
            config.cert_resolver = Arc::new(Thief(Arc::clone(&thief.0)));
            let outcome = handshake(&client, Arc::new(config)).await;
            let failed = outcome.client.unwrap_err();
            assert!(matches!(tls_error(&failed), Error::InvalidCertificate(_)), "{failed:?}");
        }
    }
}

#[test]
fn without_legacy_certificates_each_legacy_server_has_its_own_error() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let strict = upstream(&folder, &ca, |_| {});
    let old = ca.issue_version_1("mongo.test");
    assert_eq!(CertificateDefect::of(&rejection(&strict, &old)), Some(&CertificateDefect::Version(1)));
    let nameless = ca.issue("mongo.test", &[]);
    assert!(matches!(rejection(&strict, &nameless), CertificateError::NotValidForNameContext { .. }));
}

#[test]
fn legacy_servers_are_verified() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let client = upstream(&folder, &ca, legacy);
    let key = KeyPair::generate().unwrap();
    let common_name = Some(&CertificateDefect::CommonName);
    assert_eq!(CertificateDefect::of(&rejection(&client, &ca.issue_version_1("other.test"))), common_name);
    assert_eq!(CertificateDefect::of(&rejection(&client, &ca.issue("other.test", &[]))), common_name);
    // The common name matches, but it is ignored because the certificate has a SAN.
    let named = ca.issue("mongo.test", &["other.test"]);
    assert!(matches!(rejection(&client, &named), CertificateError::NotValidForNameContext { .. }));
    let expired = ca.issue_version_1_for(&key, "mongo.test", |params| {
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    });
    assert!(matches!(rejection(&client, &expired), CertificateError::ExpiredContext { .. }));
    let foreign = CertificateAuthority::new("Other CA").issue_version_1("mongo.test");
    assert_eq!(rejection(&client, &foreign), CertificateError::UnknownIssuer);
    let forged = CertificateAuthority::new("Acme CA").issue_version_1("mongo.test");
    assert_eq!(rejection(&client, &forged), CertificateError::BadSignature);
}

#[tokio::test]
async fn a_server_certificate_may_be_a_trust_anchor_itself() {
    let folder = Folder::new();
    let key = KeyPair::generate().unwrap();
    let textbook = CertificateAuthority::new_with("mongo.test", |params| params.is_ca = IsCa::NoCa);
    let authority_too = CertificateAuthority::new("mongo.test");
    let old = CertificateAuthority::new_version_1("mongo.test");
    for (server, accepted_without_legacy) in [(&textbook, false), (&authority_too, false), (&old, false)] {
        let pair = IssuedCertificate::new(server.der().clone(), server.key());
        let client = upstream(&folder, server, legacy);
        for versions in VERSIONS {
            handshake(&client, pair.server(None, versions)).await.client.unwrap();
        }
        let strict = upstream(&folder, server, |_| {});
        assert_eq!(handshake(&strict, pair.server(None, VERSIONS[1])).await.client.is_ok(), accepted_without_legacy);
    }
    // No other server is accepted because of such a trust anchor.
    let client = upstream(&folder, &old, legacy);
    let impostor = IssuedCertificate::new(CertificateAuthority::new_version_1("mongo.test").der().clone(), &key);
    assert!(handshake(&client, impostor.server(None, VERSIONS[1])).await.client.is_err());
}

#[test]
fn a_pinned_server_certificate_signs_no_other() {
    let folder = Folder::new();
    let alone = CertificateAuthority::new_with("mongo.test", |params| params.is_ca = IsCa::NoCa);
    let (root, key_holder) = (CertificateAuthority::new("Acme CA"), CertificateAuthority::new("Middle"));
    let old_leaf = root.issue_version_1_for(key_holder.key(), "Middle", |_| {});
    for (anchor, signer) in [(&alone.pem, &alone), (&old_leaf.certificate_pem, &key_holder)] {
        let ca_file = folder.write("alone.pem", anchor);
        let client = upstream(&folder, &root, |upstream| files_of(upstream).ca_file = ca_file.clone());
        let lenient = upstream(&folder, &root, |upstream| {
            legacy(upstream);
            files_of(upstream).ca_file = ca_file;
        });
        let forged = signer.issue("mongo.test", &["mongo.test"]);
        for forged in [
            rejection(&client, &forged),
            rejection(&lenient, &forged),
            rejection(&lenient, &signer.issue_version_1("mongo.test")),
        ] {
            assert!(matches!(CertificateDefect::of(&forged), Some(CertificateDefect::Issuer(_))), "{forged:?}");
        }
    }
}

#[test]
fn a_common_name_is_rejected_if_a_ca_has_name_constraints() {
    let (folder, root) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let limits = |params: &mut rcgen::CertificateParams| {
        let within = rcgen::GeneralSubtree::DnsName("example".to_owned());
        params.name_constraints =
            Some(rcgen::NameConstraints { permitted_subtrees: vec![within], excluded_subtrees: Vec::new() });
    };
    let limited_root = CertificateAuthority::new_with("Limited CA", limits);
    let limited = root.intermediate_with("Limited", limits);
    let below = limited.intermediate("Below");
    let (to_root, to_limited) = (upstream(&folder, &root, legacy), upstream(&folder, &limited_root, legacy));
    for (client, server) in [
        (&to_root, limited.issue("mongo.test", &[]).chained(&limited)),
        (&to_root, below.issue("mongo.test", &[]).chained(&below).chained(&limited)),
        (&to_limited, limited_root.issue("mongo.test", &[])),
    ] {
        let rejected = rejection(client, &server);
        assert!(matches!(CertificateDefect::of(&rejected), Some(CertificateDefect::Issuer(_))), "{rejected:?}");
    }
}

/// rustls cannot represent a label that ends or begins with a hyphen; OpenSSL, and with it mongod and drivers, can.
#[tokio::test]
async fn a_name_that_rustls_cannot_represent_is_compared_with_the_names_of_the_certificate() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    for (expected, names, common_name, is_accepted) in [
        ("1mongo-.local", &["other.test", "1mongo-.local"][..], "", true),
        ("1mongo-.local", &["1Mongo-.LOCAL"], "", true),
        ("1mongo-.local.", &["1mongo-.local"], "", true),
        ("a.-mongo.local", &["*.-mongo.local"], "", true),
        ("1mongo-.local", &["*.local"], "", false),
        ("1mongo-.local", &["1mongo.local"], "1mongo-.local", false),
        ("1mongo-.local", &["0.0.0.0"], "", false),
        ("1mongo-.local", &[], "1mongo-.local", true),
        ("1mongo-.local", &[], "1mongo.local", false),
    ] {
        let server = ca.issue(common_name, names);
        let client = upstream(&folder, &ca, |upstream| {
            legacy(upstream);
            upstream.tls.server_name = Some(expected.to_owned());
        });
        for versions in VERSIONS {
            let outcome = handshake(&client, server.server(None, versions)).await;
            assert_eq!(outcome.client.is_ok(), is_accepted, "{expected} {names:?} {common_name}");
            if !is_accepted && !names.is_empty() {
                let cause = outcome.client.unwrap_err();
                assert_eq!(*tls_error(&cause), Error::InvalidCertificate(CertificateError::NotValidForName));
            }
        }
    }
}

#[tokio::test]
async fn server_identities_replace_the_server_name() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let server = ca.issue_with("", &["elsewhere.test"], |params| {
        for uri in ["https://mongo.test/x", "spiffe://cluster.local/ns/mongo/sa/mongod"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
    });
    for (accepted, verify, expected) in [
        (vec!["spiffe://cluster.local/ns/mongo/sa/mongod"], Verify::Full, true),
        (vec!["SPIFFE://Cluster.Local/ns/mongo/sa/mongod"], Verify::Full, true),
        (vec!["spiffe://a.test/b", "https://mongo.test/x"], Verify::Full, true),
        (vec!["spiffe://cluster.local/ns/mongo/sa/Mongod"], Verify::Full, false),
        (vec!["spiffe://cluster.local/ns/mongo/sa"], Verify::Full, false),
        (vec!["spiffe://cluster.local/ns/mongo/sa/mongod/"], Verify::Chain, false),
        (vec!["spiffe://other.local/ns/mongo/sa/mongod"], Verify::Chain, false),
    ] {
        let client = upstream(&folder, &ca, |upstream| {
            upstream.tls.server_identities = accepted.iter().map(|uri| (*uri).to_owned()).collect();
            upstream.tls.verify = verify;
        });
        let outcome = handshake(&client, server.server(None, VERSIONS[1])).await;
        assert_eq!(outcome.client.is_ok(), expected, "{accepted:?}");
    }
    let client = upstream(&folder, &ca, |upstream| {
        upstream.tls.server_identities = vec!["spiffe://cluster.local/x".to_owned()];
    });
    let named = ca.issue("mongod", &["mongo.test"]);
    let runtime = std::thread::spawn(move || rejection(&client, &named)).join().unwrap();
    assert_eq!(CertificateDefect::of(&runtime), Some(&CertificateDefect::Identity));
}

#[test]
fn a_revoked_ca_of_ca_file_is_rejected_as_intermediate_and_as_trust_anchor() {
    let (folder, root) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let middle = root.intermediate("Middle");
    let server = middle.issue("mongod", &["mongo.test"]);
    let text = format!("{}{}", root.pem, middle.pem);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let client = |partial_chain: bool, revoked: &CertificateAuthority| {
        let list = root.revocation_list(&[revoked.der()], 2090);
        upstream(&folder, &root, |upstream| {
            let files = files_of(upstream);
            files.ca_file = folder.write("both.pem", &text);
            files.partial_chain = partial_chain;
            files.crl_file = Some(folder.write("crl.pem", list));
        })
    };
    for partial_chain in [false, true] {
        assert_eq!(rejection(&client(partial_chain, &middle), &server), CertificateError::Revoked, "{partial_chain}");
        // The list of a root does not concern the root itself.
        let outcome = runtime.block_on(handshake(&client(partial_chain, &root), server.server(None, VERSIONS[1])));
        outcome.client.unwrap();
    }
}

#[test]
fn a_revoked_server_is_rejected_whatever_its_version() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let (modern, old) = (ca.issue("mongod", &["mongo.test"]), ca.issue_version_1("mongo.test"));
    let list = folder.write("crl.pem", ca.revocation_list(&[&modern.der, &old.der], 2025));
    let client = upstream(&folder, &ca, |upstream| {
        legacy(upstream);
        files_of(upstream).crl_file = Some(list);
    });
    for server in [&modern, &old] {
        assert_eq!(rejection(&client, server), CertificateError::Revoked);
    }
    let findings = client.findings(std::time::SystemTime::now());
    assert!(findings.iter().any(|finding| finding.item == MaterialItem::RevocationList(0)), "{findings:?}");
}

/// A listener with `clients` as its trust anchor.
fn listener(
    folder: &Folder,
    clients: &CertificateAuthority,
    change: impl FnOnce(&mut ListenerTlsConfig),
) -> ListenerTls {
    let own = CertificateAuthority::new("Gateway CA").issue("mongate", &["mongo.test"]);
    let mut scratch = folder.upstream(1, &own, &clients.pem);
    let mut files = files_of(&mut scratch).clone();
    files.certificate_file = folder.write("own.pem", own.combined());
    files.private_key_file = files.certificate_file.clone();
    let mut listener = ListenerTlsConfig {
        files,
        min_version: TlsVersion::V1_2,
        legacy_certificates: false,
        close_expired_clients: true,
    };
    change(&mut listener);
    ListenerTls::load("shop", &listener).unwrap()
}

/// A client that trusts every server and shows this certificate, or none.
fn client_config(
    shown: Option<&IssuedCertificate>,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ClientConfig {
    #[derive(Debug)]
    struct Trusting;
    impl rustls::client::danger::ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    match shown {
        Some(pair) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair.certified_key())))
        }
        None => builder.with_no_client_auth(),
    }
}

/// Handshakes of a client with this certificate, in both versions of TLS.
async fn connect_client(server: &ListenerTls, shown: Option<&IssuedCertificate>) -> [Outcome; 2] {
    let mut outcomes = Vec::new();
    for versions in VERSIONS {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let config = Arc::new(client_config(shown, versions));
        let name = rustls::pki_types::ServerName::try_from("mongo.test").unwrap();
        let client = async {
            let mut stream = TlsConnector::from(config).connect(name, near).await?;
            stream.write_all(b"?").await?;
            stream.read_u8().await?;
            Ok(stream.get_ref().1.handshake_kind().unwrap())
        };
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::clone(&server.config)).accept(far).await?;
            stream.read_u8().await?;
            stream.write_all(b"!").await?;
            Ok(stream.get_ref().1.handshake_kind().unwrap())
        };
        let (client, server) = tokio::join!(client, accept);
        outcomes.push(Outcome { client, server });
    }
    outcomes.try_into().ok().unwrap()
}

#[tokio::test]
async fn each_handshake_has_its_own_record() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let (one, other) = (CertificateAuthority::new("One"), CertificateAuthority::new("Other"));
    let client = upstream(&folder, &ca, |_| {});
    let good = ca.issue("mongod", &["mongo.test"]);
    for versions in VERSIONS {
        let rejected = ["a", "b"].map(|name| one.issue(name, &["mongo.test"]).server(None, versions));
        let accepted = [&one, &other].map(|clients| good.server(Some(clients), versions));
        // All of them are under way before the first record is read.
        let records = futures::future::join_all(rejected.into_iter().chain(accepted).map(|server| async {
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::join!(client.connect(near), TlsAcceptor::from(server).accept(far)).0.1
        }));
        let seen = records.await.into_iter().map(|record| {
            let subject = record.rejected().first().map(|leaf| leaf.subject.as_str().to_owned());
            let request = record.request().map(|request| request.acceptable_cas[0].as_str().to_owned());
            (subject, request)
        });
        let expected = [
            (Some("CN=a,O=Acme"), None),
            (Some("CN=b,O=Acme"), None),
            (None, Some("CN=One,O=Acme")),
            (None, Some("CN=Other,O=Acme")),
        ];
        let expected = expected.map(|(subject, request)| (subject.map(str::to_owned), request.map(str::to_owned)));
        assert_eq!(seen.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn clients_are_accepted_with_a_valid_certificate_or_none() {
    let (folder, clients) = (Folder::new(), CertificateAuthority::new("Clients CA"));
    let server = listener(&folder, &clients, |_| {});
    let good = clients.issue_with("cart", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for shown in [Some(&good), Some(&clients.issue("cart", &[])), None] {
        for outcome in connect_client(&server, shown).await {
            outcome.client.unwrap();
            outcome.server.unwrap();
        }
    }
    let lenient = listener(&folder, &clients, |listener| listener.legacy_certificates = true);
    for outcome in connect_client(&lenient, Some(&clients.issue_version_1("cart"))).await {
        outcome.server.unwrap();
    }
}

#[tokio::test]
async fn a_pinned_client_certificate_signs_no_other() {
    let folder = Folder::new();
    let alone = CertificateAuthority::new_with("cart", |params| params.is_ca = IsCa::NoCa);
    let server = listener(&folder, &alone, |_| {});
    for outcome in connect_client(&server, Some(&IssuedCertificate::new(alone.der().clone(), alone.key()))).await {
        outcome.client.unwrap();
        outcome.server.unwrap();
    }
    let made = [alone.issue("admin", &[]), alone.issue("admin", &[]).chained(&alone)];
    for outcome in [connect_client(&server, Some(&made[0])).await, connect_client(&server, Some(&made[1])).await]
        .into_iter()
        .flatten()
    {
        let rejection = ClientCertificateRejection::of_tls(tls_error(&outcome.server.unwrap_err()));
        assert_eq!(rejection, Some(ClientCertificateRejection::UnknownCa));
    }
}

#[tokio::test]
async fn each_invalid_client_certificate_has_its_own_alert_and_label() {
    use AlertDescription as Alert;
    use ClientCertificateRejection as Rejection;
    let (folder, clients) = (Folder::new(), CertificateAuthority::new("Clients CA"));
    let revoked = clients.issue("cart", &[]);
    let list = clients.revocation_list(&[&revoked.der], 2090);
    let server = listener(&folder, &clients, |listener| {
        listener.files.crl_file = Some(folder.write("crl.pem", list));
    });
    let made = |change: fn(&mut rcgen::CertificateParams)| clients.issue_with("cart", &[], change);
    for (shown, rejection, alert) in [
        (CertificateAuthority::new("Other CA").issue("cart", &[]), Rejection::UnknownCa, Alert::UnknownCA),
        (
            made(|params| params.not_after = rcgen::date_time_ymd(2024, 2, 1)),
            Rejection::Expired,
            Alert::CertificateExpired,
        ),
        (
            made(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1)),
            Rejection::NotYetValid,
            Alert::CertificateExpired,
        ),
        (revoked, Rejection::Revoked, Alert::CertificateRevoked),
        (
            made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Rejection::WrongUsage,
            Alert::UnsupportedCertificate,
        ),
        (clients.issue_version_1("cart"), Rejection::Invalid, Alert::CertificateUnknown),
    ] {
        let outcomes = connect_client(&server, Some(&shown)).await;
        for outcome in outcomes {
            let failed = outcome.server.unwrap_err();
            assert_eq!(Rejection::of_tls(tls_error(&failed)), Some(rejection), "{failed:?}");
            let cause = rejection.cause(tls_error(&failed));
            let is_version_1 = rejection == Rejection::Invalid;
            assert_eq!(cause == "it is an X.509 version 1 certificate", is_version_1, "{cause}");
            assert!(is_version_1 || cause == rejection.to_string(), "{cause}");
            let received = outcome.client.unwrap_err();
            assert!(matches!(tls_error(&received), Error::AlertReceived(got) if *got == alert), "{received:?}");
        }
    }
    let labels = ["unknown_ca", "expired", "not_yet_valid", "revoked", "wrong_usage", "invalid"];
    assert_eq!(Rejection::ALL.map(Rejection::label), labels);
    assert_eq!(Rejection::of_tls(&Error::HandshakeNotComplete), None);
}

#[tokio::test]
async fn no_session_of_a_client_is_resumed() {
    let (folder, clients) = (Folder::new(), CertificateAuthority::new("Clients CA"));
    let server = listener(&folder, &clients, |_| {});
    let good = clients.issue("cart", &[]);
    for versions in VERSIONS {
        let config = Arc::new(client_config(Some(&good), versions));
        for _ in 0..2 {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let name = rustls::pki_types::ServerName::try_from("mongo.test").unwrap();
            let client = async {
                let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, near).await.unwrap();
                stream.read_u8().await.unwrap();
            };
            let accept = async {
                let mut stream = TlsAcceptor::from(Arc::clone(&server.config)).accept(far).await.unwrap();
                stream.write_all(b"!").await.unwrap();
                stream.get_ref().1.handshake_kind().unwrap()
            };
            let ((), kind) = tokio::join!(client, accept);
            // Not HandshakeKind::Full: a TLS 1.3 server may ask for another key share.
            assert_ne!(kind, HandshakeKind::Resumed);
        }
    }
}

#[test]
fn unchanged_files_are_the_same_material_and_a_changed_file_is_not() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let pair = ca.issue("svc-a", &[]);
    let mut config = folder.upstream(1, &pair, &ca.pem);
    let first = UpstreamTls::load(&config).unwrap();
    assert!(first.is_same_material(&UpstreamTls::load(&config).unwrap()));
    files_of(&mut config).crl_file = Some(folder.write("crl.pem", ca.revocation_list(&[], 2090)));
    assert!(!first.is_same_material(&UpstreamTls::load(&config).unwrap()), "a list was added");
    let config = folder.upstream(1, &pair, &format!("{}{}", ca.pem, CertificateAuthority::new("Other").pem));
    assert!(!first.is_same_material(&UpstreamTls::load(&config).unwrap()), "a CA certificate was added");
    let with_middle = |name| folder.upstream(1, &pair, &format!("{}{}", ca.pem, ca.intermediate(name).pem));
    let with_one = UpstreamTls::load(&with_middle("One")).unwrap();
    assert!(!first.is_same_material(&with_one) && !with_one.is_same_material(&first), "an intermediate was added");
    let with_other = UpstreamTls::load(&with_middle("Other")).unwrap();
    assert!(!with_one.is_same_material(&with_other), "an intermediate was replaced");
    let config = folder.upstream(1, &ca.issue("svc-a", &[]), &ca.pem);
    assert!(!first.is_same_material(&UpstreamTls::load(&config).unwrap()), "another certificate");
}

#[test]
fn a_listener_with_another_intermediate_accepts_other_clients() {
    let (folder, clients) = (Folder::new(), CertificateAuthority::new("Clients CA"));
    let middle = clients.intermediate("Middle");
    let loaded = |text: String| {
        listener(&folder, &clients, |listener| listener.files.ca_file = folder.write("clients.pem", text))
    };
    let (without, with) = (loaded(clients.pem.clone()), loaded(format!("{}{}", clients.pem, middle.pem)));
    let now = std::time::SystemTime::now();
    let client = [middle.issue("cart", &[]).der];
    assert!(!without.would_accept(&client, now) && with.would_accept(&client, now));
    assert!(!without.accepts_same_clients(&with) && !with.is_same_material(&without));
}

#[tokio::test]
async fn material_that_does_not_come_from_files_is_checked_and_used_alike() {
    let (folder, ca) = (Folder::new(), CertificateAuthority::new("Acme CA"));
    let pair = ca.issue("svc-a", &[]);
    let upstream = folder.upstream(1, &pair, &ca.pem);
    let key = |der: &[u8]| rustls::pki_types::PrivateKeyDer::try_from(der.to_vec()).unwrap();
    let key_path = "upstream.orders.tls.spiffe_socket";
    let credentials = Credentials::from_parts(key_path, vec![pair.der.clone()], &key(&pair.key_der)).unwrap();
    let trust_anchors = TrustAnchors::from_certificates(key_path, vec![ca.der().clone()]).unwrap();
    let tls = UpstreamTls::assemble(&upstream, credentials, trust_anchors, Vec::new()).unwrap();
    assert!(tls.is_same_material(&UpstreamTls::load(&upstream).unwrap()));
    let server = ca.issue("mongod", &["127.0.0.1"]);
    handshake(&tls, server.server(Some(&ca), VERSIONS[1])).await.client.unwrap();

    let other = ca.issue("svc-b", &[]);
    let wrong = Credentials::from_parts(key_path, vec![pair.der.clone()], &key(&other.key_der)).unwrap_err();
    let sentence = "the private key does not belong to the certificate in upstream.orders.tls.spiffe_socket";
    assert_eq!(wrong.to_string(), format!("{key_path}: {sentence}"));
    let none = Credentials::from_parts(key_path, Vec::new(), &key(&pair.key_der)).unwrap_err();
    assert_eq!(none.to_string(), format!("{key_path}: there is no certificate"));
    let none = TrustAnchors::from_certificates(key_path, vec![pair.der]).unwrap_err();
    assert!(none.to_string().contains("there is no CA certificate among the certificates"), "{none}");
}
