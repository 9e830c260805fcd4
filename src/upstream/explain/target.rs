//! The facts about an upstream server that messages name.

use std::net::SocketAddr;

use crate::config::{EndpointConfig, HostPort, MaterialSource, SendProxy};
use crate::identity::{CertificateFacts, DistinguishedName};
use crate::tls::UpstreamTls;

/// The facts about an upstream server that messages name.
#[derive(Debug)]
pub(in crate::upstream) struct Target {
    pub(super) upstream: String,
    pub(super) address: HostPort,
    pub(super) server_name: String,
    /// `send_proxy`.
    pub(super) send_proxy: SendProxy,
    /// `server_identities`.
    pub(super) identities: Vec<String>,
    /// The file of the client certificate, or the socket of the SPIFFE agent.
    pub(super) certificate_source: String,
    /// The file of the trust anchors, or that the SPIFFE agent provides them.
    pub(super) trust_anchors_source: String,
    /// The gateway's client certificate; `None` until there is one.
    pub(super) certificate: Option<CertificateFacts>,
    /// Issuers of the client certificate and of its chain.
    pub(super) issuers: Vec<DistinguishedName>,
    /// Subjects of the trust anchors.
    pub(super) trust_anchors: Vec<DistinguishedName>,
    /// Subjects of the CA certificates in the same file that are no trust anchors.
    pub(super) intermediates: Vec<DistinguishedName>,
}

impl Target {
    /// `tls` is the current certificate set, if there is one.
    pub(in crate::upstream) fn new(upstream: &EndpointConfig, tls: Option<&UpstreamTls>) -> Self {
        let chain = || tls.into_iter().flat_map(|tls| tls.credentials.certificates());
        let trust_anchors = tls.into_iter().flat_map(|tls| &tls.trust_anchors.certificates);
        let intermediates = tls.into_iter().flat_map(|tls| &tls.trust_anchors.intermediates);
        let server_name = upstream.tls.server_name.as_ref().unwrap_or(&upstream.address.host);
        let (certificate_source, trust_anchors_source) = sources(&upstream.tls.source);
        Self {
            upstream: upstream.name.clone(),
            address: upstream.address.clone(),
            server_name: server_name.strip_suffix('.').unwrap_or(server_name).to_owned(),
            send_proxy: upstream.send_proxy,
            identities: upstream.tls.server_identities.clone(),
            certificate_source,
            trust_anchors_source,
            certificate: chain().next().cloned(),
            issuers: chain().map(|facts| facts.issuer.clone()).collect(),
            trust_anchors: trust_anchors.map(|facts| facts.subject.clone()).collect(),
            intermediates: intermediates.map(|facts| facts.subject.clone()).collect(),
        }
    }

    /// The path of a configuration key of the upstream.
    pub(super) fn key(&self, name: &str) -> String {
        format!("upstream.{}.{name}", self.upstream)
    }

    /// The configured address, followed by the resolved address if it is different.
    pub(super) fn peer(&self, address: Option<SocketAddr>) -> String {
        let name = &self.address;
        match address {
            Some(address) if address.to_string() != name.to_string() => format!("{name} ({address})"),
            _ => name.to_string(),
        }
    }

    /// The user in `$external` that the gateway's client certificate is for.
    pub(super) fn user(&self) -> String {
        self.certificate.as_ref().map(|certificate| certificate.subject.to_string()).unwrap_or_default()
    }
}

/// Where the client certificate and the trust anchors come from.
fn sources(source: &MaterialSource) -> (String, String) {
    match source {
        MaterialSource::Files(files) => {
            (files.certificate_file.display().to_string(), files.ca_file.display().to_string())
        }
        MaterialSource::WorkloadApi(agent) => {
            let socket = format!("unix:{}", agent.socket.display());
            let ca_file = agent.ca_file.as_ref().map(|file| file.display().to_string());
            let provided = || format!("not set: the agent at {socket} provides the trust anchors");
            (socket.clone(), ca_file.unwrap_or_else(provided))
        }
    }
}
