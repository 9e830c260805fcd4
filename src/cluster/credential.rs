//! A client certificate of an upstream, and the callers that it is for.

use std::sync::Arc;

use crate::config::{CredentialConfig, EndpointConfig, HostPort, UpstreamConfig};
use crate::identity::{Principal, PrincipalPattern};
use crate::lifecycle::renewal::Renewal;
use crate::tls::UpstreamTlsError;
use crate::upstream::ClientIdentity;

/// One client certificate with its CA certificates, used for certain callers or for all others.
pub struct Credential {
    /// Its number among `[[upstream.NAME.credential]]`, counted from 1, and that section. `None` for the certificate of
    /// `[upstream.NAME.tls]`.
    section: Option<(usize, CredentialConfig)>,
    principals: Vec<PrincipalPattern>,
    /// The certificate set that new connections use.
    pub identity: Arc<ClientIdentity>,
    /// Makes connections of a replaced certificate set end.
    pub renewal: Renewal,
}

impl Credential {
    /// Reads the certificates of all credentials of `upstream`: that of `[upstream.NAME.tls]` first, then those of
    /// `[[upstream.NAME.credential]]` in the order of the file.
    pub(super) fn all_of(upstream: &UpstreamConfig) -> Result<Vec<Self>, UpstreamTlsError> {
        let sections =
            upstream.credentials.iter().cloned().enumerate().map(|(index, section)| Some((index + 1, section)));
        std::iter::once(None).chain(sections).map(|section| Self::new(section, upstream)).collect()
    }

    fn new(section: Option<(usize, CredentialConfig)>, upstream: &UpstreamConfig) -> Result<Self, UpstreamTlsError> {
        // The members may be unknown as yet, but the files are the same for all of them.
        let endpoint = endpoint(section.as_ref(), upstream, &upstream.any_address());
        let identity = Arc::new(ClientIdentity::new(&endpoint)?);
        let renewal = Renewal::new(upstream.certificate_recycle_after);
        let texts = section.as_ref().map(|(_, section)| section.principals.as_slice()).unwrap_or_default();
        let principals = texts.iter().map(|text| PrincipalPattern::new(text)).collect();
        Ok(Self { section, principals, identity, renewal })
    }

    /// How the gateway connects to the member at `address` with this credential.
    pub fn endpoint(&self, upstream: &UpstreamConfig, address: &HostPort) -> EndpointConfig {
        endpoint(self.section.as_ref(), upstream, address)
    }

    /// Whether the configuration names `principal` for this credential.
    pub(super) fn is_for(&self, principal: &Principal) -> bool {
        self.principals.iter().any(|pattern| pattern.matches(principal))
    }

    /// The callers that it is for, as configured. Empty for the certificate of `[upstream.NAME.tls]`, which all other
    /// callers use.
    pub fn principals(&self) -> &[String] {
        self.section.as_ref().map(|(_, section)| section.principals.as_slice()).unwrap_or_default()
    }

    /// Its number among `[[upstream.NAME.credential]]`, counted from 1; `None` for the certificate of
    /// `[upstream.NAME.tls]`.
    pub fn number(&self) -> Option<usize> {
        self.section.as_ref().map(|(number, _)| *number)
    }
}

fn endpoint(
    section: Option<&(usize, CredentialConfig)>,
    upstream: &UpstreamConfig,
    address: &HostPort,
) -> EndpointConfig {
    match section {
        None => upstream.endpoint(address),
        Some((number, section)) => upstream.endpoint_with(*number, section, address),
    }
}
