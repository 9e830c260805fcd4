//! Determines the principal of a client from the strongest fact that its connection shows.
//!
//! Does not verify: rustls has verified the certificate, and the listener has checked the sender of a PROXY header.
//! This file decides which of them is used, and whether the trust domain of a SPIFFE ID is accepted.

use std::net::IpAddr;

use ipnet::IpNet;

use super::certificate::CertificateFacts;
use super::distinguished_name::DistinguishedName;
use super::principal::{Principal, PrincipalSource};
use super::refusal::IdentityRefusal;
use super::spiffe::{SpiffeId, is_meant_as_spiffe};
use super::trust_domains::{TrustDomains, spiffe_id};

/// A client with a principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identified {
    /// The principal.
    pub principal: Principal,
    /// The source of the principal.
    pub source: PrincipalSource,
}

/// What one connection shows of its client.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientFacts<'a> {
    /// The verified client certificate.
    pub certificate: Option<&'a CertificateFacts>,
    /// The identity in a PROXY header from a trusted address.
    pub proxy: Option<&'a ProxyIdentity>,
    /// The user ID of the client process, on a unix domain socket.
    pub uid: Option<u32>,
    /// The client's address; from the PROXY header if there is a trusted one.
    pub address: Option<IpAddr>,
}

/// The identity of a client in a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyIdentity {
    /// The value for a SPIFFE ID, with or without `spiffe://`; not parsed yet.
    Id(String),
    /// The common name of a certificate that the proxy has verified; not empty.
    CommonName(String),
}

/// One `[[identity]]`: the principal of clients without a certificate, by their address or user ID.
#[derive(Debug, Clone)]
pub struct KnownSource {
    /// The principal of these clients.
    pub principal: String,
    /// Networks of the clients.
    pub sources: Vec<IpNet>,
    /// User IDs of client processes, on unix domain sockets.
    pub uids: Vec<u32>,
}

/// Everything that determines the principals of the clients of one listener.
#[derive(Debug, Clone)]
pub struct Identities {
    domains: TrustDomains,
    uids: Vec<(u32, Principal)>,
    /// Sorted by prefix length, longest first.
    networks: Vec<(IpNet, Principal)>,
    listener: Option<Principal>,
}

impl Identities {
    /// If several entries have the same network or user ID, the first one is used. `listener` is the listener's
    /// principal.
    pub fn new(domains: TrustDomains, known: &[KnownSource], listener: Option<&str>) -> Self {
        let entry = |known: &KnownSource| Principal::configured(&known.principal);
        let uids = known.iter().flat_map(|known| known.uids.iter().map(move |uid| (*uid, entry(known)))).collect();
        let networks = known.iter().flat_map(|known| known.sources.iter().map(move |net| (*net, entry(known))));
        let mut networks: Vec<_> = networks.collect();
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Self { domains, uids, networks, listener: listener.map(Principal::configured) }
    }

    /// The principal of a client, from its strongest source; `None` if no source has one.
    ///
    /// A certificate or a PROXY header with an identity that is not accepted is an error. Weaker sources are not used
    /// then.
    pub fn identify(&self, facts: &ClientFacts<'_>) -> Result<Option<Identified>, IdentityRefusal> {
        let certificate = facts.certificate.map(|facts| self.of_certificate(facts)).transpose()?.flatten();
        if let Some(principal) = certificate {
            return Ok(Some(Identified { principal, source: PrincipalSource::Certificate }));
        }
        if let Some(identity) = facts.proxy {
            let principal = self.of_proxy(identity)?;
            return Ok(Some(Identified { principal, source: PrincipalSource::Proxy }));
        }
        let by_uid = facts.uid.and_then(|uid| self.of_user(uid)).map(|known| (known, PrincipalSource::UnixSocket));
        let by_address =
            || facts.address.and_then(|at| self.of_address(at)).map(|known| (known, PrincipalSource::Address));
        let by_listener = || self.listener.as_ref().map(|known| (known, PrincipalSource::Listener));
        let known = by_uid.or_else(by_address).or_else(by_listener);
        Ok(known.map(|(principal, source)| Identified { principal: principal.clone(), source }))
    }

    /// The SPIFFE ID, or else the subject. A certificate may have neither.
    fn of_certificate(&self, facts: &CertificateFacts) -> Result<Option<Principal>, IdentityRefusal> {
        if let Some(id) = spiffe_id(facts)? {
            return self.domains.check(id).map(Some);
        }
        let subject = &facts.subject;
        Ok((!subject.is_empty()).then(|| Principal::Name(subject.to_string())))
    }

    fn of_proxy(&self, identity: &ProxyIdentity) -> Result<Principal, IdentityRefusal> {
        let id = match identity {
            ProxyIdentity::Id(text) if is_meant_as_spiffe(text) => SpiffeId::from_uri(text),
            ProxyIdentity::Id(text) => SpiffeId::from_principal(text),
            ProxyIdentity::CommonName(name) if is_meant_as_spiffe(name) => SpiffeId::from_uri(name),
            ProxyIdentity::CommonName(name) => {
                return Ok(Principal::Name(DistinguishedName::text_of_common_name(name)));
            }
        };
        let (ProxyIdentity::Id(text) | ProxyIdentity::CommonName(text)) = identity;
        self.domains.check(id.map_err(|cause| IdentityRefusal::not_spiffe(text, cause))?)
    }

    fn of_user(&self, uid: u32) -> Option<&Principal> {
        self.uids.iter().find(|(known, _)| *known == uid).map(|(_, principal)| principal)
    }

    fn of_address(&self, address: IpAddr) -> Option<&Principal> {
        let address = address.to_canonical();
        self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, principal)| principal)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const OWN: &str = "cluster.local";

    pub(in crate::identity) fn certificate(subject: &[(DnType, &str)], uris: &[&str]) -> CertificateFacts {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        CertificateFacts::from_der(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn identities(own: Option<&str>) -> Identities {
        let known = |principal: &str, sources: &[&str], uids: &[u32]| KnownSource {
            principal: principal.to_owned(),
            sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
            uids: uids.to_vec(),
        };
        let known = [
            known("wide", &["10.0.0.0/8", "fd00::/8"], &[0]),
            known("cluster.local/ns/shop/sa/cart", &["10.1.3.0/24"], &[1001, 1002]),
            known("narrow", &["10.1.3.7/32"], &[1001]),
        ];
        let domains = TrustDomains::new(own, &["old.local".to_owned()], []);
        Identities::new(domains, &known, Some("of-listener"))
    }

    /// The principal with its source, or the label of the refusal.
    fn identify(identities: &Identities, facts: &ClientFacts<'_>) -> String {
        match identities.identify(facts) {
            Ok(Some(who)) => format!("{} by {}", who.principal, who.source),
            Ok(None) => "none".to_owned(),
            Err(refusal) => refusal.label().to_owned(),
        }
    }

    #[test]
    fn the_strongest_source_is_used() {
        let spiffe = certificate(&[(DnType::CommonName, "x")], &["spiffe://cluster.local/ns/a/sa/b"]);
        let named = certificate(&[(DnType::OrganizationName, "Acme"), (DnType::CommonName, "x")], &["https://x"]);
        let anonymous = certificate(&[], &[]);
        let proxy = ProxyIdentity::Id("cluster.local/ns/p/sa/q".to_owned());
        let address: IpAddr = "10.1.3.9".parse().unwrap();
        let all = ClientFacts { certificate: Some(&spiffe), proxy: Some(&proxy), uid: Some(0), address: Some(address) };
        let cases = [
            (all, "cluster.local/ns/a/sa/b by certificate"),
            (ClientFacts { certificate: Some(&named), ..all }, "CN=x,O=Acme by certificate"),
            (ClientFacts { certificate: Some(&anonymous), ..all }, "cluster.local/ns/p/sa/q by proxy"),
            (ClientFacts { certificate: None, ..all }, "cluster.local/ns/p/sa/q by proxy"),
            (ClientFacts { certificate: None, proxy: None, ..all }, "wide by unix_socket"),
            (
                ClientFacts { uid: Some(7), address: Some(address), ..Default::default() },
                "cluster.local/ns/shop/sa/cart by address",
            ),
            (ClientFacts { uid: Some(7), ..Default::default() }, "of-listener by listener"),
            (ClientFacts::default(), "of-listener by listener"),
        ];
        for (facts, expected) in cases {
            assert_eq!(identify(&identities(Some(OWN)), &facts), expected);
        }
        let empty = Identities::new(TrustDomains::default(), &[], None);
        assert_eq!(
            identify(&empty, &ClientFacts { uid: Some(0), address: Some(address), ..Default::default() }),
            "none"
        );
    }

    #[test]
    fn the_longest_prefix_and_the_first_entry_of_a_user_are_used() {
        for (address, expected) in [
            ("10.9.9.9", "wide"),
            ("10.1.3.8", "cluster.local/ns/shop/sa/cart"),
            ("10.1.3.7", "narrow"),
            ("::ffff:10.1.3.7", "narrow"),
            ("fd00::1", "wide"),
            ("11.0.0.1", "of-listener"),
        ] {
            let facts = ClientFacts { address: Some(address.parse().unwrap()), ..Default::default() };
            assert!(identify(&identities(None), &facts).starts_with(&format!("{expected} by")), "{address}");
        }
        for (uid, expected) in [(0, "wide"), (1001, "cluster.local/ns/shop/sa/cart"), (1003, "of-listener")] {
            let facts = ClientFacts { uid: Some(uid), ..Default::default() };
            assert!(identify(&identities(None), &facts).starts_with(expected), "{uid}");
        }
    }

    #[test]
    fn a_spiffe_id_must_be_of_an_accepted_trust_domain() {
        let by_certificate = |own, uris: &[&str]| {
            let shown = certificate(&[(DnType::CommonName, "x")], uris);
            identify(&identities(own), &ClientFacts { certificate: Some(&shown), ..Default::default() })
        };
        let cases: [(&[&str], &str); 9] = [
            (&["spiffe://cluster.local/x"], "cluster.local/x by certificate"),
            (&["spiffe://old.local/x"], "old.local/x by certificate"),
            (&["spiffe://other.local/x"], "foreign_trust_domain"),
            (&["spiffe://cluster.local.evil/x"], "foreign_trust_domain"),
            (&["spiffe://Cluster.local/x"], "invalid_spiffe_id"),
            (&["SPIFFE://cluster.local/x"], "invalid_spiffe_id"),
            (&["spiffe://cluster.local"], "invalid_spiffe_id"),
            (&["spiffe://cluster.local/x", "spiffe://cluster.local/y"], "invalid_spiffe_id"),
            (&["https://x", "https://y"], "CN=x by certificate"),
        ];
        for (uris, expected) in cases {
            assert_eq!(by_certificate(Some(OWN), uris), expected, "{uris:?}");
        }
        assert_eq!(by_certificate(Some(OWN), &["https://x", "spiffe://cluster.local/x"]), "invalid_spiffe_id");

        let shown = certificate(&[], &["spiffe://cluster.local/x"]);
        let without_domain = Identities::new(TrustDomains::default(), &[], None);
        let facts = ClientFacts { certificate: Some(&shown), ..Default::default() };
        let refusal = without_domain.identify(&facts).unwrap_err();
        assert_eq!(refusal, IdentityRefusal::NoTrustDomain { domain: OWN.to_owned() });
        assert!(refusal.remedy().contains("trust_domain"), "{}", refusal.remedy());
    }

    #[test]
    fn a_proxy_header_has_a_spiffe_id_or_a_verified_common_name() {
        let id = |text: &str| ProxyIdentity::Id(text.to_owned());
        let name = |text: &str| ProxyIdentity::CommonName(text.to_owned());
        for (shown, expected) in [
            (id("spiffe://cluster.local/ns/a/sa/b"), "cluster.local/ns/a/sa/b by proxy"),
            (id("cluster.local/ns/a/sa/b"), "cluster.local/ns/a/sa/b by proxy"),
            (id("other.local/x"), "foreign_trust_domain"),
            (id("-"), "invalid_spiffe_id"),
            (id(""), "invalid_spiffe_id"),
            (id("CN=x"), "invalid_spiffe_id"),
            (name("spiffe://cluster.local/x"), "cluster.local/x by proxy"),
            (name("spiffe://other.local/x"), "foreign_trust_domain"),
            (name("cluster.local/x"), "CN=cluster.local/x by proxy"),
            (name("Cart, \"Inc\""), "CN=Cart\\, \\\"Inc\\\" by proxy"),
            (name("a\nb"), "CN=a b by proxy"),
        ] {
            let facts = ClientFacts { proxy: Some(&shown), ..Default::default() };
            assert_eq!(identify(&identities(Some(OWN)), &facts), expected, "{shown:?}");
        }
    }

    proptest! {
        #[test]
        fn any_identity_of_a_proxy_is_a_principal_or_a_refusal(
            text in "\\PC{0,60}|spiffe://cluster.local/[a-z/.]{0,9}",
            named: bool,
        ) {
            let shown = if named { ProxyIdentity::CommonName(text) } else { ProxyIdentity::Id(text) };
            let identified = identities(Some(OWN)).identify(&ClientFacts { proxy: Some(&shown), ..Default::default() });
            if let Ok(identified) = identified {
                let identified = identified.unwrap();
                prop_assert_eq!(identified.source, PrincipalSource::Proxy);
                match identified.principal {
                    Principal::Spiffe(id) => prop_assert!(["cluster.local", "old.local"].contains(&id.trust_domain())),
                    Principal::Name(name) => prop_assert!(name.starts_with("CN=")),
                }
            }
        }
    }
}
