//! Key material and what rustls is built from.
//!
//! Everything that touches a private key is in here, and the session towards an upstream. Nothing here opens a connection,
//! but to the agent on this machine that hands out certificates.

mod authorities;
mod client;
mod common_name;
mod credentials;
mod fingerprint;
mod inspect;
mod path;
mod pem;
mod problem;
mod refusal;
mod rejection;
mod revocation;
mod server;
mod session;
mod signed;
mod stream;
#[cfg(test)]
pub(crate) mod test_pki;
#[cfg(test)]
mod tests;
mod trust;
mod witness;
mod workload;

pub use authorities::Authorities;
pub use client::{UpstreamTlsConfig, UpstreamTlsError, parse_server_name};
pub use credentials::{Credentials, KeyKeeping};
pub use fingerprint::Fingerprint;
pub use inspect::{Concern, MaterialFinding, Severity, Side, revocation_findings};
pub use problem::{Location, MaterialError, Problem};
pub use refusal::ClientCertificateRefusal;
pub use rejection::Rejection;
pub use revocation::{RevocationList, UnusableList, read_revocation_lists};
pub use server::{ServerTls, ServerTlsError};
pub use session::{KEPT_BYTES_MAX, RECORD_BYTES_MAX, Records, Session};
pub use stream::TlsStream;
pub use witness::{CertificateRequest, Witness};
pub use workload::{WorkloadError, WorkloadProblem, WorkloadSet, WorkloadUpdates, check_beside_agent};
