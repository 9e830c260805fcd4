//! `[upstream.NAME.tls]`, and the types that it shares with `[listener.NAME.tls]`.

use std::path::PathBuf;

/// `[upstream.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTlsConfig {
    /// `certificate_file`, ... or `spiffe_socket`: the source of the gateway's client certificate and of the CA
    /// certificates. Required.
    pub source: MaterialSource,
    /// `server_name`: DNS name or IP address for SNI and for the verification of the server certificate. Default
    /// (`None`): the host of the server's address.
    pub server_name: Option<String>,
    /// `verify`. Default: `full`.
    pub verify: Verify,
    /// `server_identities`: accepted URI names of the server certificate. If set, the certificate must have one of
    /// them, and its DNS names are not checked. Default: none.
    pub server_identities: Vec<String>,
    /// `ocsp`. Default: `staple`.
    pub ocsp: Ocsp,
    /// `legacy_certificates`: whether server certificates of X.509 version 1, or without a SAN, are accepted. Default:
    /// `false`.
    pub legacy_certificates: bool,
    /// `min_version`. Default: `1.2`.
    pub min_version: TlsVersion,
}

impl UpstreamTlsConfig {
    /// The PEM files; `None` if the certificate comes from the SPIFFE Workload API.
    pub fn files(&self) -> Option<&TlsFiles> {
        match &self.source {
            MaterialSource::Files(files) => Some(files),
            MaterialSource::WorkloadApi(_) => None,
        }
    }
}

/// The source of a certificate, its private key and CA certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterialSource {
    /// PEM files.
    Files(TlsFiles),
    /// `spiffe_socket`: the SPIFFE Workload API.
    WorkloadApi(WorkloadApi),
}

/// The PEM files of an upstream or a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `certificate_file`: the certificate, followed by its intermediate certificates. It may also contain the private
    /// key. Required.
    pub certificate_file: PathBuf,
    /// `private_key_file`. Default: `certificate_file`.
    pub private_key_file: PathBuf,
    /// `private_key_password_file`: the password of an encrypted private key. Default: none.
    pub private_key_password_file: Option<PathBuf>,
    /// `ca_file`: CA certificates (trust anchors) that verify the certificate of the peer. Required.
    pub ca_file: PathBuf,
    /// `partial_chain`: whether an intermediate CA certificate in `ca_file` is a trust anchor. Default: `false`.
    pub partial_chain: bool,
    /// `crl_file`: revocation lists (CRLs) of these CAs. Default: none.
    pub crl_file: Option<PathBuf>,
}

/// The SPIFFE Workload API of an agent such as SPIRE's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// `spiffe_socket`: path of the agent's unix domain socket.
    pub socket: PathBuf,
    /// `ca_file`: CA certificates that verify the server certificate. Default (`None`): those of the agent.
    pub ca_file: Option<PathBuf>,
    /// `partial_chain`: as in [`TlsFiles`]; it has no meaning for the CA certificates of the agent. Default: `false`.
    pub partial_chain: bool,
    /// `crl_file`: revocation lists (CRLs) of the CAs. Default: none.
    pub crl_file: Option<PathBuf>,
}

/// `verify`: which parts of a server certificate are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// `full`: the certificate chain and the name.
    Full,
    /// `chain`: only the certificate chain.
    Chain,
}

/// `ocsp`: whether OCSP responses that a server staples are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ocsp {
    /// `staple`: a stapled response must say that the certificate is good. A server that staples none is accepted,
    /// unless its certificate requires a staple.
    Staple,
    /// `off`: stapled responses are ignored.
    Off,
}

/// `min_version`: the lowest TLS version that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// `1.2`.
    V1_2,
    /// `1.3`.
    V1_3,
}
