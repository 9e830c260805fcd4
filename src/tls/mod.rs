//! Key material and what rustls is built from.
//!
//! Everything that touches a private key is in here, and the session towards an upstream. Nothing here opens a connection,
//! but to the agent on this machine that hands out certificates.

mod certificate_defect;
mod chain_verifier;
mod client_certificate_rejection;
mod common_name;
mod credentials;
mod fingerprint;
mod inspect;
mod last_handshake;
mod legacy_path;
mod listener_tls;
mod material_error;
mod pem;
mod revocation;
mod session;
mod signed_der;
mod stream;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;
mod trust_anchors;
mod upstream_tls;
mod workload;

pub use certificate_defect::CertificateDefect;
pub use client_certificate_rejection::ClientCertificateRejection;
pub use credentials::{Credentials, KeyStorage};
pub use fingerprint::Fingerprint;
pub use inspect::{MaterialFinding, MaterialItem, MaterialSeverity, TlsSide, revocation_findings};
pub use last_handshake::{CertificateRequest, LastHandshake};
pub use listener_tls::{ListenerTls, ListenerTlsError};
pub use material_error::{Location, MaterialError, MaterialProblem};
pub use revocation::{RevocationList, UnusableList, read_revocation_lists};
pub use session::{KEPT_BYTES_MAX, RECORD_BYTES_MAX, Records, TlsSession};
pub use stream::TlsStream;
pub use trust_anchors::TrustAnchors;
pub use upstream_tls::{UpstreamTls, UpstreamTlsError, parse_server_name};
pub use workload::{WorkloadError, WorkloadProblem, WorkloadSet, WorkloadUpdates, check_beside_agent};
