//! The trust domains whose SPIFFE IDs are accepted.

use super::certificate::CertificateFacts;
use super::principal::Principal;
use super::refusal::{IdentityRefusal, shortened};
use super::spiffe::{SpiffeId, is_meant_as_spiffe};

/// The trust domains whose SPIFFE IDs are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustDomains {
    /// The gateway's trust domain, if it has one, then its aliases.
    accepted: Vec<String>,
}

/// The SPIFFE ID of a certificate; `None` if none of its URIs has the scheme of SPIFFE.
pub(super) fn spiffe_id(facts: &CertificateFacts) -> Result<Option<SpiffeId>, IdentityRefusal> {
    if !facts.uris.iter().any(|uri| is_meant_as_spiffe(uri)) {
        return Ok(None);
    }
    match facts.uris.as_slice() {
        [uri] => SpiffeId::from_uri(uri).map(Some).map_err(|cause| IdentityRefusal::not_spiffe(uri, cause)),
        several => Err(IdentityRefusal::SeveralUris(several.len())),
    }
}

impl TrustDomains {
    /// The gateway's trust domain is `configured`, or else that of `own_certificates`, the gateway's client
    /// certificates. Certificates without a SPIFFE ID are ignored. If the others have different trust domains, there is
    /// none.
    pub fn new<'a>(
        configured: Option<&str>,
        aliases: &[String],
        own_certificates: impl IntoIterator<Item = &'a CertificateFacts>,
    ) -> Self {
        let mut shown: Vec<String> = own_certificates
            .into_iter()
            .filter_map(|facts| spiffe_id(facts).ok().flatten())
            .map(|id| id.trust_domain().to_owned())
            .collect();
        shown.sort_unstable();
        shown.dedup();
        let agreed = if let [only] = shown.as_slice() { Some(only.as_str()) } else { None };
        let own = configured.or(agreed).map(str::to_owned);
        Self { accepted: own.into_iter().chain(aliases.iter().cloned()).collect() }
    }

    /// The gateway's trust domain, if it has one, and its aliases.
    pub fn accepted(&self) -> &[String] {
        &self.accepted
    }

    pub(super) fn check(&self, id: SpiffeId) -> Result<Principal, IdentityRefusal> {
        let domain = id.trust_domain();
        if self.accepted.iter().any(|accepted| accepted == domain) {
            return Ok(Principal::Spiffe(id));
        }
        let domain = shortened(domain);
        Err(match self.accepted.as_slice() {
            [] => IdentityRefusal::NoTrustDomain { domain },
            accepted => IdentityRefusal::ForeignTrustDomain { domain, accepted: accepted.to_vec() },
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::DnType;

    use super::super::identities::tests::certificate;
    use super::*;

    #[test]
    fn the_trust_domain_is_configured_or_that_of_the_gateways_certificates() {
        let of = |uri: &str| certificate(&[], &[uri]);
        let (a, also_a, b) = (of("spiffe://a.local/x"), of("spiffe://a.local/y"), of("spiffe://b.local/x"));
        let plain = certificate(&[(DnType::CommonName, "x")], &[]);
        let cases: [(Option<&str>, &[&CertificateFacts], &[&str]); 5] = [
            (Some("own.local"), &[&a], &["own.local", "old.local"]),
            (None, &[&a, &plain, &also_a], &["a.local", "old.local"]),
            (None, &[&a, &b], &["old.local"]),
            (None, &[&plain], &["old.local"]),
            (None, &[], &["old.local"]),
        ];
        for (configured, own, expected) in cases {
            let domains = TrustDomains::new(configured, &["old.local".to_owned()], own.iter().copied());
            assert_eq!(domains.accepted(), expected);
        }
    }
}
