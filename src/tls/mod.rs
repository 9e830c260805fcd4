//! TLS of both sides: certificates, keys and revocation lists, how peers are verified, and the rustls configurations.
//!
//! Every use of a private key is in this module, and so is the TLS session with an upstream. The only connection that
//! this module opens is to the local SPIFFE agent, which issues certificates
//! and knows the keys of JWT-SVIDs.

mod certificate_defect;
mod chain_verifier;
mod client_certificate_rejection;
mod client_verifier;
mod common_name;
mod credentials;
mod crypto;
mod der;
mod error_text;
mod finding;
mod fingerprint;
mod handshake_record;
mod https_client;
mod inspect;
mod jwt_bundles;
mod listener_tls;
mod material_error;
mod ocsp;
mod ocsp_defect;
mod path;
mod pem;
mod revocation;
mod revocation_files;
mod rsa_pss;
mod server_name;
mod server_verifier;
mod session;
mod session_store;
mod signature_problem;
mod signed_der;
mod stream;
mod subject_names;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;
mod trust_anchors;
mod upstream_tls;
mod upstream_tls_error;
mod workload;
mod workload_call;
mod workload_error;

pub use certificate_defect::CertificateDefect;
pub use client_certificate_rejection::ClientCertificateRejection;
pub use credentials::{Credentials, KeyStorage};
pub use error_text::{alert_text, certificate_error_text, connection_error_text, tls_error_text};
pub use finding::{MaterialFinding, MaterialItem, MaterialSeverity, TlsSide};
pub use fingerprint::Fingerprint;
pub use handshake_record::{CertificateRequest, HandshakeRecord, Staple};
pub use https_client::{HttpsError, https_client};
pub use inspect::revocation_findings;
pub use jwt_bundles::{JwtBundleUpdates, JwtBundles};
pub use listener_tls::{ListenerTls, ListenerTlsError};
pub use material_error::{Location, MaterialError, MaterialProblem, UnusableList};
pub use ocsp_defect::{OcspDefect, ResponderError, SignerDefect};
pub use revocation::RevocationList;
pub use revocation_files::read_revocation_lists;
pub use server_name::{PeerName, ServerNameError, parse_server_name};
pub use session::{KEPT_BYTES_MAX, RECORD_BYTES_MAX, Records, TlsSession};
pub use stream::TlsStream;
pub use trust_anchors::TrustAnchors;
pub use upstream_tls::{UpstreamTls, check_workload_config};
pub use upstream_tls_error::UpstreamTlsError;
pub use workload::{WorkloadSet, WorkloadUpdates};
pub use workload_error::{WorkloadError, WorkloadProblem};
