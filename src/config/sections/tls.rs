//! TLS of upstreams and listeners: `[upstream.NAME.tls]` and what it has in common with `[listener.NAME.tls]`.

use std::path::PathBuf;

/// `[upstream.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTlsConfig {
    /// Where our certificate and the authorities come from. Required.
    pub source: MaterialSource,
    /// SNI, and the name that is verified; a DNS name or an IP address. Default: the host of the address.
    pub server_name: Option<String>,
    /// Default: full.
    pub verify: Verify,
    /// URIs of which a server certificate must have one, instead of the name. Default: none.
    pub server_identities: Vec<String>,
    /// Whether server certificates of X.509 version 1, and those with a common name only, are taken. Default: false.
    pub legacy_certificates: bool,
    /// Default: 1.2.
    pub min_version: TlsVersion,
}

impl UpstreamTlsConfig {
    /// The files of our certificate, unless it comes from elsewhere.
    pub fn files(&self) -> Option<&TlsFiles> {
        match &self.source {
            MaterialSource::Files(files) => Some(files),
            MaterialSource::WorkloadApi(_) => None,
        }
    }
}

/// Where certificates and keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterialSource {
    /// PEM files.
    Files(TlsFiles),
    /// The SPIFFE Workload API: `spiffe_socket`.
    WorkloadApi(WorkloadApi),
}

/// The PEM files of one side of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then its chain; may also hold the key. Required.
    pub certificate_file: PathBuf,
    /// The key. Default: `certificate_file`.
    pub private_key_file: PathBuf,
    /// What the key is encrypted with, where it is.
    pub private_key_password_file: Option<PathBuf>,
    /// The authorities that the other side's certificate may come from. Required.
    pub ca_file: PathBuf,
    /// Revocation lists of these authorities.
    pub crl_file: Option<PathBuf>,
}

/// An agent that hands out certificates, as SPIRE's does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// Its unix socket.
    pub socket: PathBuf,
    /// The authorities that mongod's certificate may come from. Default: those that the agent names.
    pub ca_file: Option<PathBuf>,
    /// Revocation lists of the authorities.
    pub crl_file: Option<PathBuf>,
}

/// `verify`: what of a server certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Chain and name.
    Full,
    /// Chain only.
    Chain,
}

/// `min_version`: the oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}
