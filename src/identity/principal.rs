//! Who a client is: the best of what its connection shows, as a principal.
//!
//! Refuses to verify: the certificate has been verified by rustls, the source of a PROXY header by the listener. What is
//! decided here is which of them counts, and whether a SPIFFE id is one of ours.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::certificate::CertificateFacts;
use super::distinguished_name::{DistinguishedName, printable};
use super::spiffe::{SpiffeId, SpiffeIdError, is_meant_as_spiffe};

/// Characters of a name out of a certificate or a header that a sentence shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Who a client is.
///
/// As text it is a SPIFFE id without `spiffe://`, or a subject as mongod names users of `$external`, or what the operator
/// wrote. The first two never look alike: a subject has an equals sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A workload of a mesh.
    Spiffe(SpiffeId),
    /// A subject in RFC 2253 form, or a name of the operator's own; never empty.
    Name(String),
}

/// What a principal was learnt from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalSource {
    /// The client's TLS certificate.
    Certificate,
    /// The PROXY header of a trusted source.
    Proxy,
    /// The user at the other end of a unix socket.
    UnixSocket,
    /// Where the client's connection comes from.
    Address,
    /// The listener that it came to.
    Listener,
}

/// A client that is somebody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identified {
    /// Who.
    pub principal: Principal,
    /// How that is known.
    pub source: PrincipalSource,
}

/// What one connection shows of its client.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientFacts<'a> {
    /// The certificate that it proved to own, verified.
    pub certificate: Option<&'a CertificateFacts>,
    /// What a trusted PROXY header says of it.
    pub proxy: Option<&'a ProxyIdentity>,
    /// Its user, on a unix socket.
    pub uid: Option<u32>,
    /// Its address, from a trusted PROXY header where there is one.
    pub address: Option<IpAddr>,
}

/// What a PROXY header can say of who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyIdentity {
    /// The value that carries a SPIFFE id; with or without `spiffe://`, not looked at yet.
    Id(String),
    /// The common name of a certificate that the proxy verified; not empty.
    CommonName(String),
}

/// What the operator says of clients that show no certificate: one `[[identity]]`.
#[derive(Debug, Clone)]
pub struct KnownSource {
    /// Who they are.
    pub principal: String,
    /// Their networks.
    pub sources: Vec<IpNet>,
    /// Their users, on unix sockets.
    pub uids: Vec<u32>,
}

/// The trust domains whose SPIFFE ids are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustDomains {
    /// The gateway's own first.
    accepted: Vec<String>,
}

/// Everything that decides who the clients of one listener are.
#[derive(Debug, Clone)]
pub struct Identities {
    domains: TrustDomains,
    uids: Vec<(u32, Principal)>,
    /// The longest prefix first.
    networks: Vec<(IpNet, Principal)>,
    listener: Option<Principal>,
}

/// Why somebody who shows an identity is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    /// A SPIFFE certificate has exactly one URI.
    #[error("the client certificate has {0} URI names, and a SPIFFE certificate has exactly one")]
    SeveralUris(usize),
    /// It means to be a SPIFFE id, and is none.
    #[error("{shown} is no SPIFFE id: {cause}")]
    NotSpiffe {
        /// The text, shortened.
        shown: String,
        /// What is wrong with it. No `source()`: one sentence tells both.
        cause: SpiffeIdError,
    },
    /// Of a trust domain that is not ours.
    #[error("the client is of the trust domain {domain}, which is not this gateway's")]
    ForeignTrustDomain {
        /// The client's.
        domain: String,
        /// Ours.
        accepted: Vec<String>,
    },
    /// Nobody has said which trust domain is ours.
    #[error("the client is of the trust domain {domain}, and this gateway has no trust domain")]
    NoTrustDomain {
        /// The client's.
        domain: String,
    },
}

/// A principal, or several by their beginning or end; from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalPattern(String);

impl Identities {
    /// Entries that name the same network or user: the first one counts.
    pub fn new(domains: TrustDomains, known: &[KnownSource], listener: Option<&str>) -> Self {
        let entry = |known: &KnownSource| Principal::configured(&known.principal);
        let uids = known.iter().flat_map(|known| known.uids.iter().map(move |uid| (*uid, entry(known)))).collect();
        let networks = known.iter().flat_map(|known| known.sources.iter().map(move |net| (*net, entry(known))));
        let mut networks: Vec<_> = networks.collect();
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Self { domains, uids, networks, listener: listener.map(Principal::configured) }
    }

    /// Who a client is by the best source that says so; `None` is nobody.
    ///
    /// A certificate or a header that says something which is not believed is a refusal: no other source is asked then.
    pub fn identify(&self, facts: &ClientFacts<'_>) -> Result<Option<Identified>, IdentityRefusal> {
        let certificate = facts.certificate.map(|shown| self.of_certificate(shown)).transpose()?.flatten();
        if let Some(principal) = certificate {
            return Ok(Some(Identified { principal, source: PrincipalSource::Certificate }));
        }
        if let Some(shown) = facts.proxy {
            let principal = self.of_proxy(shown)?;
            return Ok(Some(Identified { principal, source: PrincipalSource::Proxy }));
        }
        let by_uid = facts.uid.and_then(|uid| self.of_user(uid)).map(|known| (known, PrincipalSource::UnixSocket));
        let by_address =
            || facts.address.and_then(|at| self.of_address(at)).map(|known| (known, PrincipalSource::Address));
        let by_listener = || self.listener.as_ref().map(|known| (known, PrincipalSource::Listener));
        let known = by_uid.or_else(by_address).or_else(by_listener);
        Ok(known.map(|(principal, source)| Identified { principal: principal.clone(), source }))
    }

    /// The SPIFFE id, or else the subject; a certificate may have neither.
    fn of_certificate(&self, facts: &CertificateFacts) -> Result<Option<Principal>, IdentityRefusal> {
        if let Some(id) = spiffe_id(facts)? {
            return self.domains.judge(id).map(Some);
        }
        let subject = &facts.subject;
        Ok((!subject.is_empty()).then(|| Principal::Name(subject.to_string())))
    }

    fn of_proxy(&self, shown: &ProxyIdentity) -> Result<Principal, IdentityRefusal> {
        let id = match shown {
            ProxyIdentity::Id(text) if is_meant_as_spiffe(text) => SpiffeId::from_uri(text),
            ProxyIdentity::Id(text) => SpiffeId::from_principal(text),
            ProxyIdentity::CommonName(name) if is_meant_as_spiffe(name) => SpiffeId::from_uri(name),
            ProxyIdentity::CommonName(name) => {
                return Ok(Principal::Name(DistinguishedName::text_of_common_name(name)));
            }
        };
        let (ProxyIdentity::Id(text) | ProxyIdentity::CommonName(text)) = shown;
        self.domains.judge(id.map_err(|cause| IdentityRefusal::not_spiffe(text, cause))?)
    }

    fn of_user(&self, uid: u32) -> Option<&Principal> {
        self.uids.iter().find(|(known, _)| *known == uid).map(|(_, principal)| principal)
    }

    fn of_address(&self, address: IpAddr) -> Option<&Principal> {
        let address = address.to_canonical();
        self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, principal)| principal)
    }
}

/// The SPIFFE id of a certificate; `None` if none of its URIs means to be one.
fn spiffe_id(facts: &CertificateFacts) -> Result<Option<SpiffeId>, IdentityRefusal> {
    if !facts.uris.iter().any(|uri| is_meant_as_spiffe(uri)) {
        return Ok(None);
    }
    match facts.uris.as_slice() {
        [uri] => SpiffeId::from_uri(uri).map(Some).map_err(|cause| IdentityRefusal::not_spiffe(uri, cause)),
        several => Err(IdentityRefusal::SeveralUris(several.len())),
    }
}

impl TrustDomains {
    /// The gateway's own is `configured`, or else the one that `own_certificates` agree on: those that upstreams are
    /// shown, of which some may have no SPIFFE id. Where they differ, there is none.
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

    /// The gateway's own and its aliases.
    pub fn accepted(&self) -> &[String] {
        &self.accepted
    }

    fn judge(&self, id: SpiffeId) -> Result<Principal, IdentityRefusal> {
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

impl Principal {
    /// What the operator wrote; read as a SPIFFE id where it is one, with or without `spiffe://`.
    pub fn configured(text: &str) -> Self {
        let text = text.strip_prefix("spiffe://").unwrap_or(text);
        SpiffeId::from_principal(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Spiffe)
    }

    /// The text that rules, log lines and metrics have.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Spiffe(id) => id.as_str(),
            Self::Name(name) => name,
        }
    }

    /// The Kubernetes namespace of a SPIFFE id that has one.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Spiffe(id) => id.namespace(),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PrincipalSource {
    /// The word in log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Proxy => "proxy",
            Self::UnixSocket => "unix_socket",
            Self::Address => "address",
            Self::Listener => "listener",
        }
    }
}

impl fmt::Display for PrincipalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl IdentityRefusal {
    fn not_spiffe(text: &str, cause: SpiffeIdError) -> Self {
        Self::NotSpiffe { shown: shortened(text), cause }
    }

    /// The word in metrics and log lines.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SeveralUris(_) | Self::NotSpiffe { .. } => "invalid_spiffe_id",
            Self::ForeignTrustDomain { .. } | Self::NoTrustDomain { .. } => "foreign_trust_domain",
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::SeveralUris(_) => "give this client a certificate whose only URI name is its SPIFFE id".to_owned(),
            Self::NotSpiffe { .. } => {
                "a SPIFFE id is written spiffe://trust-domain/path: correct it where this client gets its identity from"
                    .to_owned()
            }
            Self::ForeignTrustDomain { domain, accepted } => format!(
                "this gateway takes {}; if {domain} is another name of it, add it to trust_domain_aliases",
                accepted.join(", ")
            ),
            Self::NoTrustDomain { domain } => format!(
                "set trust_domain at the top of the configuration, for instance to \"{domain}\" if that is this mesh"
            ),
        }
    }
}

impl PrincipalPattern {
    /// `text` as the operator wrote it: exact, `prefix*`, `*suffix`, or `*` for everybody who is somebody.
    pub fn new(text: &str) -> Self {
        Self(text.strip_prefix("spiffe://").unwrap_or(text).to_owned())
    }

    /// The text, as a label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes are compared, case counts.
    pub fn matches(&self, principal: &Principal) -> bool {
        let text = principal.as_str();
        match (self.0.strip_suffix('*'), self.0.strip_prefix('*')) {
            (Some(prefix), _) => text.starts_with(prefix),
            (None, Some(suffix)) => text.ends_with(suffix),
            (None, None) => text == self.0,
        }
    }
}

fn shortened(text: &str) -> String {
    let mut shown = printable(&text.chars().take(SHOWN_CHARS_MAX).collect::<String>());
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    const OWN: &str = "cluster.local";

    fn certificate(subject: &[(DnType, &str)], uris: &[&str]) -> CertificateFacts {
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
        Identities::new(domains, &known, Some("door"))
    }

    /// The principal with its source, or the refusal.
    fn told(identities: &Identities, facts: &ClientFacts<'_>) -> String {
        match identities.identify(facts) {
            Ok(Some(who)) => format!("{} by {}", who.principal, who.source),
            Ok(None) => "nobody".to_owned(),
            Err(refusal) => refusal.label().to_owned(),
        }
    }

    #[test]
    fn the_best_source_counts() {
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
            (ClientFacts { uid: Some(7), ..Default::default() }, "door by listener"),
            (ClientFacts::default(), "door by listener"),
        ];
        for (facts, expected) in cases {
            assert_eq!(told(&identities(Some(OWN)), &facts), expected);
        }
        let nobody = Identities::new(TrustDomains::default(), &[], None);
        assert_eq!(
            told(&nobody, &ClientFacts { uid: Some(0), address: Some(address), ..Default::default() }),
            "nobody"
        );
    }

    #[test]
    fn the_longest_prefix_and_the_first_user_entry_count() {
        for (address, expected) in [
            ("10.9.9.9", "wide"),
            ("10.1.3.8", "cluster.local/ns/shop/sa/cart"),
            ("10.1.3.7", "narrow"),
            ("::ffff:10.1.3.7", "narrow"),
            ("fd00::1", "wide"),
            ("11.0.0.1", "door"),
        ] {
            let facts = ClientFacts { address: Some(address.parse().unwrap()), ..Default::default() };
            assert!(told(&identities(None), &facts).starts_with(&format!("{expected} by")), "{address}");
        }
        for (uid, expected) in [(0, "wide"), (1001, "cluster.local/ns/shop/sa/cart"), (1003, "door")] {
            let facts = ClientFacts { uid: Some(uid), ..Default::default() };
            assert!(told(&identities(None), &facts).starts_with(expected), "{uid}");
        }
    }

    #[test]
    fn a_spiffe_id_must_be_of_our_trust_domain() {
        let by_certificate = |own, uris: &[&str]| {
            let shown = certificate(&[(DnType::CommonName, "x")], uris);
            told(&identities(own), &ClientFacts { certificate: Some(&shown), ..Default::default() })
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
        let nobodys = Identities::new(TrustDomains::default(), &[], None);
        let facts = ClientFacts { certificate: Some(&shown), ..Default::default() };
        let refusal = nobodys.identify(&facts).unwrap_err();
        assert_eq!(refusal, IdentityRefusal::NoTrustDomain { domain: OWN.to_owned() });
        assert!(refusal.remedy().contains("trust_domain"), "{}", refusal.remedy());
    }

    #[test]
    fn what_a_proxy_says_is_an_id_or_the_common_name_that_it_verified() {
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
            assert_eq!(told(&identities(Some(OWN)), &facts), expected, "{shown:?}");
        }
    }

    #[test]
    fn our_trust_domain_is_the_configured_one_or_that_of_our_certificates() {
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

    #[test]
    fn patterns_match_as_a_whole_at_the_beginning_or_at_the_end() {
        for (pattern, text, expected) in [
            ("a/b", "a/b", true),
            ("spiffe://a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/b", true),
            ("a/*", "A/b", false),
            ("*/cart", "a/cart", true),
            ("*/cart", "a/carts", false),
            ("*", "anybody", true),
            ("CN=x", "CN=x", true),
        ] {
            let principal = Principal::configured(text);
            assert_eq!(PrincipalPattern::new(pattern).matches(&principal), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_sentence_shows_names_in_part_and_without_control_characters() {
        let long = format!("spiffe://td/\u{1b}{}", "x".repeat(5000));
        let refusal = IdentityRefusal::not_spiffe(&long, SpiffeIdError::TooLong).to_string();
        assert!(refusal.len() < 300 && !refusal.contains('\u{1b}'), "{refusal}");
    }

    proptest! {
        #[test]
        fn whatever_a_proxy_says_is_somebody_or_a_refusal(text in "\\PC{0,60}|spiffe://cluster.local/[a-z/.]{0,9}", named: bool) {
            let shown = if named { ProxyIdentity::CommonName(text) } else { ProxyIdentity::Id(text) };
            let who = identities(Some(OWN)).identify(&ClientFacts { proxy: Some(&shown), ..Default::default() });
            if let Ok(who) = who {
                let who = who.unwrap();
                prop_assert_eq!(who.source, PrincipalSource::Proxy);
                match who.principal {
                    Principal::Spiffe(id) => prop_assert!(["cluster.local", "old.local"].contains(&id.trust_domain())),
                    Principal::Name(name) => prop_assert!(name.starts_with("CN=")),
                }
            }
        }
    }
}
