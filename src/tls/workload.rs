//! Certificates from the SPIFFE Workload API: a local agent provides certificate, key and trust anchors, and sends new
//! ones before the old ones expire.
//!
//! Does not retry, and keeps no certificates: the caller decides what to do when the agent is lost.
//!
//! Spec: SPIFFE Workload API § 5 (X.509-SVID Profile).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::{SpiffeId, TrustDomain, X509Context};

use super::credentials::Credentials;
use super::server_name::section_of;
use super::trust_anchors::TrustAnchors;
use super::upstream_tls_error::UpstreamTlsError;
use super::workload_call::{Messages, WorkloadCall};
use super::workload_error::{WorkloadError, WorkloadProblem};
use crate::config::EndpointConfig;

/// A call to an agent, which sends a certificate set now and each time that it changes.
///
/// Dropping it ends the call.
pub struct WorkloadUpdates(WorkloadCall<X509Context>);

/// A certificate set of an agent: at least one certificate with its key, and trust anchors by trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSet {
    socket: PathBuf,
    context: X509Context,
}

impl WorkloadUpdates {
    /// Asks the agent that listens on `socket` for certificates, and waits at most `limit` for the first answer.
    ///
    /// Cancel safe.
    pub async fn ask(socket: &Path, limit: Duration) -> Result<Self, WorkloadError> {
        let call = WorkloadCall::begin(socket, limit, async |client| {
            Ok(Box::pin(client.stream_x509_contexts().await?) as Messages<X509Context>)
        });
        call.await.map(Self)
    }

    /// Waits for the next certificate set, which replaces the previous one. The first is available at once.
    ///
    /// After an error that [is about content](WorkloadError::is_about_content) the agent may send another set; after
    /// any other error the call has ended. Cancel safe.
    pub async fn next(&mut self) -> Result<WorkloadSet, WorkloadError> {
        let context = self.0.next().await?;
        Ok(WorkloadSet { socket: self.0.socket().to_owned(), context })
    }
}

impl WorkloadSet {
    /// The SPIFFE ID of this process.
    pub fn spiffe_id(&self) -> Option<String> {
        self.context.default_svid().map(|svid| svid.spiffe_id().to_string())
    }

    /// The gateway's client certificate with its chain and key. Of several certificates the first, which is the default
    /// according to the specification.
    pub fn credentials(&self, upstream: &EndpointConfig) -> Result<Credentials, UpstreamTlsError> {
        let no_certificate = || self.error(WorkloadProblem::Malformed { message: "no certificate".to_owned() });
        let svid = self.context.default_svid().ok_or_else(no_certificate)?;
        let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()).into();
        let chain = svid.cert_chain().iter().map(der).collect();
        Ok(Credentials::from_parts(&socket_key(upstream), chain, &key)?)
    }

    /// The trust anchors for mongod's certificate: those of the trust domains in `server_identities`, or of this
    /// process's own trust domain if that setting names none.
    ///
    /// The trust anchors of several trust domains are combined. This gives no CA additional power: each CA could
    /// already issue the identity of its own domain, and every configured identity is accepted.
    pub fn trust_anchors(&self, upstream: &EndpointConfig) -> Result<TrustAnchors, UpstreamTlsError> {
        let named = upstream.tls.server_identities.iter().filter_map(|uri| SpiffeId::new(uri).ok());
        let mut trust_domains: BTreeSet<TrustDomain> = named.map(|id| id.trust_domain().clone()).collect();
        if trust_domains.is_empty() {
            trust_domains.extend(self.context.default_svid().map(|svid| svid.spiffe_id().trust_domain().clone()));
        }
        let bundles = trust_domains.iter().filter_map(|trust_domain| self.context.bundle_set().get_ref(trust_domain));
        let anchors: Vec<_> = bundles.flat_map(|bundle| bundle.authorities()).map(der).collect();
        if anchors.is_empty() {
            let trust_domains = trust_domains.iter().map(ToString::to_string).collect();
            return Err(self.error(WorkloadProblem::NoTrustAnchor { trust_domains }).into());
        }
        Ok(TrustAnchors::from_certificates(&socket_key(upstream), anchors)?)
    }

    fn error(&self, problem: WorkloadProblem) -> WorkloadError {
        WorkloadError { socket: self.socket.clone(), problem }
    }
}

/// The configuration key that names the agent's socket.
fn socket_key(upstream: &EndpointConfig) -> String {
    format!("{}.spiffe_socket", section_of(upstream))
}

fn der(certificate: &spiffe::Certificate) -> CertificateDer<'static> {
    CertificateDer::from(certificate.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{IsCa, KeyUsagePurpose};
    use spiffe::{X509Bundle, X509BundleSet, X509Svid};
    use tokio::net::UnixListener;

    use super::*;
    use crate::config::{MaterialSource, WorkloadApi};
    use crate::tls::UpstreamTls;
    use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate};

    const OWN_DOMAIN: &str = "home.test";
    const OTHER_DOMAIN: &str = "other.test";

    /// A certificate as SPIRE issues it.
    fn svid(ca: &CertificateAuthority, id: &str) -> IssuedCertificate {
        ca.issue_with("svc-a", &[], |params| {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        })
    }

    fn set(
        certificate: &IssuedCertificate,
        key: &IssuedCertificate,
        bundles: &[(&str, &[&CertificateAuthority])],
    ) -> WorkloadSet {
        let svid = X509Svid::parse_from_der(&certificate.der, &key.key_der).unwrap();
        let bundles = bundles.iter().map(|(domain, cas)| {
            let cas: Vec<&[u8]> = cas.iter().map(|ca| ca.der.as_ref()).collect();
            X509Bundle::from_x509_authorities(TrustDomain::new(domain).unwrap(), &cas).unwrap()
        });
        let context = X509Context::new([Arc::new(svid)], bundles.collect::<X509BundleSet>());
        WorkloadSet { socket: "/run/agent.sock".into(), context }
    }

    fn agent() -> WorkloadApi {
        WorkloadApi { socket: "/run/agent.sock".into(), ca_file: None, partial_chain: false, crl_file: None }
    }

    fn upstream(folder: &Folder, agent: WorkloadApi, server_identities: &[&str]) -> EndpointConfig {
        let unused = CertificateAuthority::new("unused");
        let mut upstream = folder.upstream(1, &unused.issue("unused", &[]), &unused.pem);
        upstream.tls.source = MaterialSource::WorkloadApi(agent);
        upstream.tls.server_identities = server_identities.iter().map(|&id| id.to_owned()).collect();
        upstream
    }

    /// Subjects of the trust anchors for mongod's certificate, or the error.
    fn trusted(set: &WorkloadSet, agent: &WorkloadApi, server_identities: &[&str]) -> Result<Vec<String>, String> {
        let folder = Folder::new();
        let tls = UpstreamTls::from_workload(&upstream(&folder, agent.clone(), server_identities), agent, set);
        let tls = tls.map_err(|error| {
            assert!(!error.remedy().is_empty());
            error.to_string()
        })?;
        Ok(tls.trust_anchors.certificates.iter().map(|anchor| anchor.subject.to_string()).collect())
    }

    #[test]
    fn trust_anchors_are_those_of_the_server_identities_or_else_of_the_own_domain() {
        let (own, other) = (CertificateAuthority::new("Own"), CertificateAuthority::new("Other"));
        let svid = svid(&own, "spiffe://home.test/orders");
        let set = set(&svid, &svid, &[(OWN_DOMAIN, &[&own]), (OTHER_DOMAIN, &[&other])]);
        let (at_own, at_other) = ("spiffe://home.test/mongod", "spiffe://other.test/mongod");
        for (server_identities, expected) in [
            (&[][..], Ok(vec!["CN=Own,O=Acme".to_owned()])),
            (&[at_own], Ok(vec!["CN=Own,O=Acme".to_owned()])),
            (&[at_other], Ok(vec!["CN=Other,O=Acme".to_owned()])),
            (&[at_other, at_own], Ok(vec!["CN=Own,O=Acme".to_owned(), "CN=Other,O=Acme".to_owned()])),
            (&["https://mongod.test/"], Ok(vec!["CN=Own,O=Acme".to_owned()])),
            (
                &["spiffe://absent.test/mongod"],
                Err(
                    "the SPIFFE Workload API at unix:/run/agent.sock sent no CA certificate of trust domain absent.test"
                        .to_owned(),
                ),
            ),
        ] {
            assert_eq!(trusted(&set, &agent(), server_identities), expected, "{server_identities:?}");
        }
    }

    #[test]
    fn ca_file_replaces_the_trust_anchors_of_the_agent() {
        let (own, databases) = (CertificateAuthority::new("Own"), CertificateAuthority::new("Databases"));
        let svid = svid(&own, "spiffe://home.test/orders");
        let folder = Folder::new();
        let with_file = WorkloadApi { ca_file: Some(folder.write("databases.pem", &databases.pem)), ..agent() };
        for bundles in [&[(OWN_DOMAIN, &[&own][..])][..], &[]] {
            let set = set(&svid, &svid, bundles);
            assert_eq!(trusted(&set, &with_file, &[]), Ok(vec!["CN=Databases,O=Acme".to_owned()]));
        }
        let absent = WorkloadApi { ca_file: Some(folder.path().join("absent.pem")), ..agent() };
        let error = trusted(&set(&svid, &svid, &[(OWN_DOMAIN, &[&own])]), &absent, &[]).unwrap_err();
        assert!(error.starts_with("upstream.orders.tls.ca_file"), "{error}");
    }

    #[test]
    fn a_key_of_another_certificate_is_rejected() {
        let own = CertificateAuthority::new("Own");
        let (svid, other) = (svid(&own, "spiffe://home.test/orders"), svid(&own, "spiffe://home.test/orders"));
        let error = trusted(&set(&svid, &other, &[(OWN_DOMAIN, &[&own])]), &agent(), &[]).unwrap_err();
        assert!(error.contains("private key"), "{error}");
        assert!(error.contains("does not belong to the certificate"), "{error}");
    }

    #[tokio::test]
    async fn each_failure_to_ask_an_agent_has_its_own_message() {
        let folder = Folder::new();
        let check = async |name: &str, expected: &str| {
            let socket = folder.path().join(name);
            let error = WorkloadUpdates::ask(&socket, Duration::from_millis(200)).await.err().unwrap();
            assert!(!error.is_about_content());
            assert!(!error.remedy().is_empty());
            let error = error.to_string();
            let start = format!("the SPIFFE Workload API at unix:{} ", socket.display());
            assert_eq!(error.strip_prefix(&start), Some(expected), "{error}");
        };
        check("absent.sock", "cannot be reached: the socket does not exist").await;
        folder.write("file.sock", "");
        check("file.sock", "cannot be reached: no process listens on the socket").await;
        let _listener = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
        check("silent.sock", "did not answer within 200ms").await;
    }
}
