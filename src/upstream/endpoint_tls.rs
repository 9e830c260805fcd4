//! The current certificate set, configured for one server of the upstream.

use std::sync::Arc;

use super::client_identity::CertificateGeneration;
use super::explain::Target;
use crate::config::EndpointConfig;
use crate::tls::{UpstreamTls, UpstreamTlsError};

/// The current certificate set, configured for one server: with the name to verify and the sessions to resume.
#[derive(Debug)]
pub(super) struct EndpointTls {
    /// The certificate set that it was made from; `None` until the first set is available.
    set: Option<Arc<CertificateGeneration>>,
    /// The TLS configuration, or why there is none; `None` until the first set is available.
    pub(super) tls: Option<Result<Arc<UpstreamTls>, Arc<UpstreamTlsError>>>,
    /// What messages about the server name.
    pub(super) target: Target,
}

impl EndpointTls {
    pub(super) fn new(endpoint: &EndpointConfig, set: Option<Arc<CertificateGeneration>>) -> Self {
        let tls = set.as_ref().map(|set| set.tls.for_endpoint(endpoint).map(Arc::new).map_err(Arc::new));
        let usable = tls.as_ref().and_then(|tls| tls.as_ref().ok());
        let target = Target::new(endpoint, usable.map(Arc::as_ref));
        Self { set, tls, target }
    }

    /// Whether it was made from `set`.
    pub(super) fn is_made_from(&self, set: Option<&CertificateGeneration>) -> bool {
        self.set.as_ref().map(|set| set.generation) == set.map(|set| set.generation)
    }
}
