//! Why the TLS configuration of an upstream could not be made.

use super::material_error::MaterialError;
use super::server_name::ServerNameError;
use super::workload_error::WorkloadError;

/// Why the TLS configuration of an upstream could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// A certificate, key or revocation list cannot be used.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The SPIFFE Workload API provided nothing that can be used.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The certificates do not come from files.
    #[error("upstream.{upstream}.tls: the certificate comes from the SPIFFE Workload API, not from files")]
    NoFiles {
        /// Name of the upstream.
        upstream: String,
    },
    /// No certificate can contain the server name.
    #[error(transparent)]
    ServerName(#[from] ServerNameError),
    /// rustls rejected the configuration.
    #[error("TLS cannot be configured")]
    Unusable(#[from] rustls::Error),
}

impl UpstreamTlsError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Material(error) => error.remedy(),
            Self::Workload(error) => error.remedy(),
            Self::NoFiles { .. } => "set certificate_file and ca_file in its table".to_owned(),
            Self::ServerName(error) => error.remedy(),
            Self::Unusable(_) => "this is a bug in mongate: please report it".to_owned(),
        }
    }
}
