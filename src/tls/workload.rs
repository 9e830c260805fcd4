//! Certificates from the SPIFFE Workload API: an agent on this machine hands out certificate, key and authorities, and
//! sends new ones before the old ones end.
//!
//! Refuses to retry and to keep anything: what a lost agent means is for those to decide who follow it.
//! Spec: SPIFFE Workload API § 5 (X.509-SVID Profile).

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::transport::{Endpoint, TransportError};
use spiffe::{SpiffeId, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Context};

use super::credentials::Credentials;
use super::revocation::read_revocation_lists;
use super::trust_anchors::TrustAnchors;
use super::upstream_tls::{UpstreamTls, UpstreamTlsError, parse_server_name, section_of};
use crate::config::{EndpointConfig, WorkloadApi};
use crate::identity::printable;

/// What an agent sends, for as long as it does.
///
/// Dropping it ends the call.
pub struct WorkloadUpdates {
    socket: PathBuf,
    contexts: Pin<Box<dyn Stream<Item = Result<X509Context, WorkloadApiError>> + Send>>,
    /// The answer, until it is taken.
    first: Option<Result<WorkloadSet, WorkloadError>>,
}

/// What an agent has handed out: at least one certificate with its key, and authorities by trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSet {
    socket: PathBuf,
    context: X509Context,
}

/// Why an agent has given nothing, or nothing of use.
#[derive(Debug, thiserror::Error)]
#[error("the SPIFFE Workload API at unix:{} {problem}", socket.display())]
pub struct WorkloadError {
    /// Where the agent is looked for.
    pub socket: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: WorkloadProblem,
}

/// What is wrong with an agent, or with what it sent. Follows the agent's name in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadProblem {
    /// No connection.
    #[error("cannot be reached: {}", unreachable(*.0))]
    Unreachable(io::ErrorKind),
    /// The agent knows no identity for this process.
    #[error("has no certificate for this process: {message}")]
    Denied {
        /// Its own words.
        message: String,
    },
    /// No answer in time.
    #[error("has not answered within {}", humantime::format_duration(*limit))]
    Silent {
        /// The time that it had.
        limit: Duration,
    },
    /// The agent ended the call, as it does when it restarts.
    #[error("has ended the call")]
    Ended,
    /// The call failed: the agent was killed, or is none.
    #[error("has failed: {message}")]
    Failed {
        /// What gRPC says about it.
        message: String,
    },
    /// What came is not what the specification asks for.
    #[error("has sent what cannot be used: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// There is nothing to verify mongod's certificate with.
    #[error("has sent no authority of trust domain {}", trust_domains.join(" or "))]
    NoAuthority {
        /// Whose authorities were looked for.
        trust_domains: Vec<String>,
    },
}

impl WorkloadUpdates {
    /// Asks the agent that listens on `socket` for our certificates, and waits for its answer, `limit` at most.
    ///
    /// Cancel safe.
    pub async fn ask(socket: &Path, limit: Duration) -> Result<Self, WorkloadError> {
        let asked = async {
            let failed = |cause| WorkloadError::of(socket, &cause);
            let client = WorkloadApiClient::connect(Endpoint::Unix(socket.to_owned())).await.map_err(failed)?;
            let contexts = client.stream_x509_contexts().await.map_err(failed)?;
            let mut updates = Self { socket: socket.to_owned(), contexts: Box::pin(contexts), first: None };
            match updates.receive().await {
                Err(error) if !error.is_about_content() => Err(error),
                first => Ok(Self { first: Some(first), ..updates }),
            }
        };
        let silent = || WorkloadError { socket: socket.to_owned(), problem: WorkloadProblem::Silent { limit } };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(silent()))
    }

    /// The next set: the first is there already, and each further one replaces it, whenever it comes.
    ///
    /// After an error that [is about content](WorkloadError::is_about_content) more may come, after any other nothing
    /// does. Cancel safe.
    pub async fn next(&mut self) -> Result<WorkloadSet, WorkloadError> {
        match self.first.take() {
            Some(first) => first,
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Result<WorkloadSet, WorkloadError> {
        match poll_fn(|context| self.contexts.as_mut().poll_next(context)).await {
            Some(Ok(context)) => Ok(WorkloadSet { socket: self.socket.clone(), context }),
            Some(Err(cause)) => Err(WorkloadError::of(&self.socket, &cause)),
            None => Err(WorkloadError { socket: self.socket.clone(), problem: WorkloadProblem::Ended }),
        }
    }
}

impl UpstreamTls {
    /// Makes the configuration of an upstream from what its agent handed out, and from `ca_file` and `crl_file` where they
    /// are set. Blocks for as long as a file system takes to answer.
    pub fn from_workload(
        upstream: &EndpointConfig,
        agent: &WorkloadApi,
        set: &WorkloadSet,
    ) -> Result<Self, UpstreamTlsError> {
        let section = section_of(upstream);
        let credentials = set.credentials(upstream)?;
        let authorities = match &agent.ca_file {
            Some(ca_file) => TrustAnchors::read_file(&section, ca_file)?,
            None => set.authorities(upstream)?,
        };
        let revocation_lists = read_revocation_lists(&section, agent.crl_file.as_deref())?;
        Self::assemble(upstream, credentials, authorities, revocation_lists)
    }
}

/// Whether what is configured beside an agent can be used: the server's name, `ca_file` and `crl_file`. Blocks for as
/// long as a file system takes to answer.
pub fn check_beside_agent(upstream: &EndpointConfig, agent: &WorkloadApi) -> Result<(), UpstreamTlsError> {
    let section = section_of(upstream);
    parse_server_name(upstream)?;
    if let Some(ca_file) = &agent.ca_file {
        TrustAnchors::read_file(&section, ca_file)?;
    }
    read_revocation_lists(&section, agent.crl_file.as_deref())?;
    Ok(())
}

impl WorkloadSet {
    /// Our SPIFFE id.
    pub fn spiffe_id(&self) -> Option<String> {
        self.context.default_svid().map(|svid| svid.spiffe_id().to_string())
    }

    /// Our certificate, those of its issuers, and the key. Of several the first: the specification calls it the default.
    pub fn credentials(&self, upstream: &EndpointConfig) -> Result<Credentials, UpstreamTlsError> {
        let no_certificate = || self.error(WorkloadProblem::Malformed { message: "no certificate".to_owned() });
        let svid = self.context.default_svid().ok_or_else(no_certificate)?;
        let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()).into();
        let chain = svid.cert_chain().iter().map(der).collect();
        Ok(Credentials::from_parts(&key_of(upstream), chain, &key)?)
    }

    /// The authorities that mongod's certificate may come from: those of the trust domains of `server_identities`, and
    /// of our own domain where that names none.
    ///
    /// With ids of several domains the authorities of all of them stand in one list. That gives none of them more than it
    /// has: each could make a certificate of the id of its own domain, and any id of the list will do.
    pub fn authorities(&self, upstream: &EndpointConfig) -> Result<TrustAnchors, UpstreamTlsError> {
        let named = upstream.tls.server_identities.iter().filter_map(|uri| SpiffeId::new(uri).ok());
        let mut trust_domains: BTreeSet<TrustDomain> = named.map(|id| id.trust_domain().clone()).collect();
        if trust_domains.is_empty() {
            trust_domains.extend(self.context.default_svid().map(|svid| svid.spiffe_id().trust_domain().clone()));
        }
        let bundles = trust_domains.iter().filter_map(|trust_domain| self.context.bundle_set().get_ref(trust_domain));
        let authorities: Vec<_> = bundles.flat_map(|bundle| bundle.authorities()).map(der).collect();
        if authorities.is_empty() {
            let trust_domains = trust_domains.iter().map(ToString::to_string).collect();
            return Err(self.error(WorkloadProblem::NoAuthority { trust_domains }).into());
        }
        Ok(TrustAnchors::from_certificates(&key_of(upstream), authorities)?)
    }

    fn error(&self, problem: WorkloadProblem) -> WorkloadError {
        WorkloadError { socket: self.socket.clone(), problem }
    }
}

/// The configuration key that names the agent.
fn key_of(upstream: &EndpointConfig) -> String {
    format!("{}.spiffe_socket", section_of(upstream))
}

fn der(certificate: &spiffe::Certificate) -> CertificateDer<'static> {
    CertificateDer::from(certificate.as_bytes().to_vec())
}

impl WorkloadError {
    /// Whether the agent may go on to send something better in the same call.
    pub fn is_about_content(&self) -> bool {
        matches!(self.problem, WorkloadProblem::Malformed { .. } | WorkloadProblem::NoAuthority { .. })
    }

    /// What to do about it, as a sentence for the operator.
    pub fn remedy(&self) -> String {
        let socket = self.socket.display();
        match &self.problem {
            WorkloadProblem::Unreachable(io::ErrorKind::PermissionDenied) => {
                format!("let the user that mongate runs as open {socket}")
            }
            WorkloadProblem::Unreachable(_) | WorkloadProblem::Ended | WorkloadProblem::Failed { .. } => format!(
                "check that the agent runs and that spiffe_socket is its socket (of SPIRE's agent: socket_path), mounted here \
                 if this is a container; {socket} is tried again and again"
            ),
            WorkloadProblem::Denied { .. } => {
                "register this process with the agent's server (spire-server entry create), with selectors that fit its \
                 user, container or pod"
                    .to_owned()
            }
            WorkloadProblem::Silent { .. } => "look into the agent's log: it takes calls and does not answer".to_owned(),
            WorkloadProblem::Malformed { .. } => {
                "look into the agent's log, and into what `spire-agent api fetch x509` shows for this user".to_owned()
            }
            WorkloadProblem::NoAuthority { .. } => {
                "let the entry of this process federate with that trust domain, or name the authority of mongod's \
                 certificate in ca_file"
                    .to_owned()
            }
        }
    }

    fn of(socket: &Path, cause: &WorkloadApiError) -> Self {
        Self { socket: socket.to_owned(), problem: WorkloadProblem::of(cause) }
    }
}

impl WorkloadProblem {
    fn of(cause: &WorkloadApiError) -> Self {
        let message = || printable(&cause.to_string());
        match cause {
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
                Self::Denied { message: message() }
            }
            WorkloadApiError::Transport(TransportError::Connect(cause)) => {
                Self::Unreachable(io_error(cause).map_or(io::ErrorKind::Other, io::Error::kind))
            }
            WorkloadApiError::Transport(_) | WorkloadApiError::EmptyResponse => Self::Failed { message: message() },
            _ => Self::Malformed { message: message() },
        }
    }
}

/// The socket's own error, below what gRPC makes of it.
fn io_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

fn unreachable(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens on that socket".to_owned(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{IsCa, KeyUsagePurpose};
    use spiffe::{X509Bundle, X509BundleSet, X509Svid};
    use tokio::net::UnixListener;

    use super::*;
    use crate::config::MaterialSource;
    use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate};

    const OURS: &str = "ours.test";
    const THEIRS: &str = "theirs.test";

    /// As SPIRE issues it.
    fn svid(authority: &CertificateAuthority, id: &str) -> IssuedCertificate {
        authority.issue_with("svc-a", &[], |params| {
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
        let bundles = bundles.iter().map(|(domain, authorities)| {
            let authorities: Vec<&[u8]> = authorities.iter().map(|authority| authority.der.as_ref()).collect();
            X509Bundle::from_x509_authorities(TrustDomain::new(domain).unwrap(), &authorities).unwrap()
        });
        let context = X509Context::new([Arc::new(svid)], bundles.collect::<X509BundleSet>());
        WorkloadSet { socket: "/run/agent.sock".into(), context }
    }

    fn agent() -> WorkloadApi {
        WorkloadApi { socket: "/run/agent.sock".into(), ca_file: None, crl_file: None }
    }

    fn upstream(folder: &Folder, agent: WorkloadApi, server_identities: &[&str]) -> EndpointConfig {
        let unused = CertificateAuthority::new("unused");
        let mut upstream = folder.upstream(1, &unused.issue("unused", &[]), &unused.pem);
        upstream.tls.source = MaterialSource::WorkloadApi(agent);
        upstream.tls.server_identities = server_identities.iter().map(|&id| id.to_owned()).collect();
        upstream
    }

    /// Subjects of the authorities that verify mongod, or the error.
    fn trusted(set: &WorkloadSet, agent: &WorkloadApi, server_identities: &[&str]) -> Result<Vec<String>, String> {
        let folder = Folder::new();
        let tls = UpstreamTls::from_workload(&upstream(&folder, agent.clone(), server_identities), agent, set);
        let tls = tls.map_err(|error| {
            assert!(!error.remedy().is_empty());
            error.to_string()
        })?;
        Ok(tls.authorities.certificates.iter().map(|authority| authority.subject.to_string()).collect())
    }

    #[test]
    fn the_trust_domains_of_the_servers_ids_verify_mongod_and_else_our_own() {
        let (ours, theirs) = (CertificateAuthority::new("Ours"), CertificateAuthority::new("Theirs"));
        let svid = svid(&ours, "spiffe://ours.test/orders");
        let set = set(&svid, &svid, &[(OURS, &[&ours]), (THEIRS, &[&theirs])]);
        let (at_ours, at_theirs) = ("spiffe://ours.test/mongod", "spiffe://theirs.test/mongod");
        for (server_identities, expected) in [
            (&[][..], Ok(vec!["CN=Ours,O=Acme".to_owned()])),
            (&[at_ours], Ok(vec!["CN=Ours,O=Acme".to_owned()])),
            (&[at_theirs], Ok(vec!["CN=Theirs,O=Acme".to_owned()])),
            (&[at_theirs, at_ours], Ok(vec!["CN=Ours,O=Acme".to_owned(), "CN=Theirs,O=Acme".to_owned()])),
            (&["https://mongod.test/"], Ok(vec!["CN=Ours,O=Acme".to_owned()])),
            (
                &["spiffe://absent.test/mongod"],
                Err(
                    "the SPIFFE Workload API at unix:/run/agent.sock has sent no authority of trust domain absent.test"
                        .to_owned(),
                ),
            ),
        ] {
            assert_eq!(trusted(&set, &agent(), server_identities), expected, "{server_identities:?}");
        }
    }

    #[test]
    fn a_file_of_authorities_counts_instead_of_the_agents() {
        let (ours, databases) = (CertificateAuthority::new("Ours"), CertificateAuthority::new("Databases"));
        let svid = svid(&ours, "spiffe://ours.test/orders");
        let folder = Folder::new();
        let with_file = WorkloadApi { ca_file: Some(folder.write("databases.pem", &databases.pem)), ..agent() };
        for bundles in [&[(OURS, &[&ours][..])][..], &[]] {
            let set = set(&svid, &svid, bundles);
            assert_eq!(trusted(&set, &with_file, &[]), Ok(vec!["CN=Databases,O=Acme".to_owned()]));
        }
        let absent = WorkloadApi { ca_file: Some(folder.path().join("absent.pem")), ..agent() };
        let error = trusted(&set(&svid, &svid, &[(OURS, &[&ours])]), &absent, &[]).unwrap_err();
        assert!(error.starts_with("upstream.orders.tls.ca_file"), "{error}");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ours = CertificateAuthority::new("Ours");
        let (svid, other) = (svid(&ours, "spiffe://ours.test/orders"), svid(&ours, "spiffe://ours.test/orders"));
        let error = trusted(&set(&svid, &other, &[(OURS, &[&ours])]), &agent(), &[]).unwrap_err();
        assert!(error.contains("private key"), "{error}");
        assert!(error.contains("does not belong to the certificate"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_cannot_be_asked_is_told_apart() {
        let folder = Folder::new();
        let check = async |name: &str, expected: &str| {
            let socket = folder.path().join(name);
            let error = WorkloadUpdates::ask(&socket, Duration::from_millis(200)).await.err().unwrap();
            assert!(!error.is_about_content());
            assert!(!error.remedy().is_empty());
            let error = error.to_string();
            let place = format!("the SPIFFE Workload API at unix:{} ", socket.display());
            assert_eq!(error.strip_prefix(&place), Some(expected), "{error}");
        };
        check("absent.sock", "cannot be reached: there is no such socket").await;
        folder.write("file.sock", "");
        check("file.sock", "cannot be reached: nobody listens on that socket").await;
        let _listener = UnixListener::bind(folder.path().join("silent.sock")).unwrap();
        check("silent.sock", "has not answered within 200ms").await;
    }
}
