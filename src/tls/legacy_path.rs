//! The way from a certificate of X.509 version 1 or 2 up to one of our authorities.
//!
//! webpki, which judges all others, does not read them; they are everywhere where somebody typed `openssl x509 -req`.
//! Only the certificate at the end may be that old, or the authority that we trust anyway: whatever signs in between
//! must say that it may.
//!
//! Stricter than RFC 5280 § 6.1 where that keeps it small: an issuer with name constraints, or with a critical extension
//! that is not known here, is refused. The work is bounded, whatever a peer sends.

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::certificate_defect::CertificateDefect;
use super::signed_der::{Algorithms, SignedDer};
use crate::identity::{CertificateFacts, DistinguishedName};

/// TrustAnchors between a certificate and one of ours. Real chains have one or two.
const INTERMEDIATES_MAX: u32 = 6;

const NAME_CONSTRAINTS: Oid<'static> = oid!(2.5.29.30);

/// Signatures that are checked for one certificate, however many authorities of one name a peer sends.
const SIGNATURES_MAX: u32 = 32;

/// What a certificate is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be a TLS server.
    Server,
    /// To be a TLS client.
    Client,
}

/// What a way leads along and up to.
pub(super) struct PathContext<'a> {
    /// As the peer sent them, in any order.
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// Ours.
    pub(super) authorities: &'a [CertificateDer<'static>],
    pub(super) algorithms: Algorithms<'a>,
    pub(super) purpose: Purpose,
    pub(super) now: UnixTime,
}

/// Finds a way from `end_entity`, which is of version 1 or 2, to one of the authorities.
pub(super) fn verify(end_entity: &CertificateDer<'_>, ground: &PathContext<'_>) -> Result<(), CertificateError> {
    let certificate =
        PathCertificate::from_der(end_entity, CertificateOrigin::Sent).ok_or(CertificateError::BadEncoding)?;
    // Extensions came with version 3: nobody would look at these.
    if certificate.version() >= 3 || !certificate.x509.extensions().is_empty() {
        return Err(CertificateError::BadEncoding);
    }
    certificate.judge_dates(ground.now)?;
    if is_ours(end_entity, ground.authorities) {
        return Ok(());
    }
    let ours = ground.authorities.iter().filter_map(|der| PathCertificate::from_der(der, CertificateOrigin::Ours));
    let sent = ground.intermediates.iter().filter_map(|der| PathCertificate::from_der(der, CertificateOrigin::Sent));
    // Ours first: they end the search.
    let issuers: Vec<_> = ours.chain(sent).collect();
    let mut climb = PathSearch { ground, issuers: &issuers, signatures_left: SIGNATURES_MAX };
    climb.above(&certificate, 0)
}

/// Judges `end_entity`, which is of version 3 and itself among the authorities, so that it needs no other: webpki would let
/// it sign. `openssl req -x509` makes one that is an authority and a server at once, which webpki refuses for a server's.
pub(super) fn verify_own(
    end_entity: &CertificateDer<'_>,
    facts: &CertificateFacts,
    ground: &PathContext<'_>,
) -> Result<(), CertificateError> {
    let certificate =
        PathCertificate::from_der(end_entity, CertificateOrigin::Ours).ok_or(CertificateError::BadEncoding)?;
    certificate.judge_dates(ground.now)?;
    let usage = match ground.purpose {
        Purpose::Server => "serverAuth",
        Purpose::Client => "clientAuth",
    };
    if facts.allows(usage) { Ok(()) } else { Err(CertificateError::InvalidPurpose) }
}

/// Whether `certificate` itself is among `authorities`.
pub(super) fn is_ours(certificate: &CertificateDer<'_>, authorities: &[CertificateDer<'static>]) -> bool {
    authorities.iter().any(|authority| authority.as_ref() == certificate.as_ref())
}

/// An authority with name constraints that may be on the way from `end_entity` up; by names alone, so that it may find one too
/// many and misses none.
pub(super) fn constrained_issuer(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'static>],
) -> Option<DistinguishedName> {
    if is_ours(end_entity, authorities) {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(end_entity).ok()?;
    let all = intermediates.iter().chain(authorities);
    let all: Vec<_> = all.filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed).collect();
    let mut names = vec![certificate.issuer().as_raw()];
    let mut climbed = 0;
    while let Some(name) = names.get(climbed).copied() {
        climbed += 1;
        for issuer in all.iter().filter(|issuer| issuer.subject().as_raw() == name) {
            if issuer.extensions().iter().any(|extension| extension.oid == NAME_CONSTRAINTS) {
                return DistinguishedName::from_der(name);
            }
            if !names.contains(&issuer.issuer().as_raw()) {
                names.push(issuer.issuer().as_raw());
            }
        }
    }
    None
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CertificateOrigin {
    Ours,
    Sent,
}

struct PathCertificate<'a> {
    x509: X509Certificate<'a>,
    signed: SignedDer<'a>,
    place: CertificateOrigin,
}

struct PathSearch<'a> {
    ground: &'a PathContext<'a>,
    issuers: &'a [PathCertificate<'a>],
    signatures_left: u32,
}

impl PathSearch<'_> {
    /// `below` counts the authorities between `certificate` and the one at the end, itself included.
    fn above(&mut self, certificate: &PathCertificate<'_>, below: u32) -> Result<(), CertificateError> {
        let mut problem = CertificateError::UnknownIssuer;
        for issuer in self.issuers {
            if issuer.x509.subject().as_raw() != certificate.x509.issuer().as_raw() {
                continue;
            }
            match self.by(certificate, issuer, below) {
                Ok(()) => return Ok(()),
                // An issuer that only has the name of the right one says less than what is wrong with the right one.
                Err(CertificateError::UnknownIssuer) => {}
                Err(CertificateError::BadSignature) if problem != CertificateError::UnknownIssuer => {}
                Err(more) => problem = more,
            }
        }
        Err(problem)
    }

    fn by(
        &mut self,
        certificate: &PathCertificate<'_>,
        issuer: &PathCertificate<'_>,
        below: u32,
    ) -> Result<(), CertificateError> {
        self.signatures_left = self.signatures_left.checked_sub(1).ok_or(CertificateError::UnknownIssuer)?;
        certificate.signed.verify(issuer.x509.public_key().raw, self.ground.algorithms)?;
        issuer.judge_as_issuer(below, self.ground.purpose)?;
        issuer.judge_dates(self.ground.now)?;
        match issuer.place {
            CertificateOrigin::Ours => Ok(()),
            CertificateOrigin::Sent if below < INTERMEDIATES_MAX => self.above(issuer, below + 1),
            CertificateOrigin::Sent => Err(CertificateError::UnknownIssuer),
        }
    }
}

impl<'a> PathCertificate<'a> {
    fn from_der(der: &'a [u8], place: CertificateOrigin) -> Option<Self> {
        let ([], x509) = X509Certificate::from_der(der).ok()? else { return None };
        Some(Self { x509, signed: SignedDer::from_der(der)?, place })
    }

    fn version(&self) -> u32 {
        self.x509.version().0.saturating_add(1)
    }

    fn judge_dates(&self, now: UnixTime) -> Result<(), CertificateError> {
        let validity = self.x509.validity();
        // Before 1970 is long ago.
        let seconds = |time: ASN1Time| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
        };
        let (not_before, not_after) = (seconds(validity.not_before), seconds(validity.not_after));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before });
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after });
        }
        Ok(())
    }

    /// Whether it may sign certificates, with `below` authorities between it and the one at the end.
    fn judge_as_issuer(&self, below: u32, purpose: Purpose) -> Result<(), CertificateError> {
        let forbidden = || {
            let name = DistinguishedName::from_der(self.x509.subject().as_raw());
            name.map_or(CertificateError::BadEncoding, |name| CertificateDefect::Issuer(name).into())
        };
        let is_old_root = self.version() < 3 && self.x509.subject().as_raw() == self.x509.issuer().as_raw();
        // Version 1 cannot say so; that it is among ours says it of a root, and of others only that we know them.
        if is_old_root && self.place == CertificateOrigin::Ours && self.x509.extensions().is_empty() {
            return Ok(());
        }
        // An authority that nobody here knows: that it cannot say what it is matters less.
        if is_old_root {
            return Err(CertificateError::UnknownIssuer);
        }
        if self.version() != 3 || self.x509.extensions().iter().any(|extension| !is_understood(extension)) {
            return Err(forbidden());
        }
        let constraints = self.x509.basic_constraints().ok().flatten().ok_or_else(forbidden)?.value;
        let usage = self.x509.key_usage().map_err(|_| forbidden())?;
        let extended = self.x509.extended_key_usage().map_err(|_| forbidden())?;
        let may_sign = constraints.ca && usage.is_none_or(|usage| usage.value.key_cert_sign());
        let is_deep_enough = constraints.path_len_constraint.is_none_or(|most| below <= most);
        let is_for_it = extended.is_none_or(|usage| match purpose {
            _ if usage.value.any => true,
            Purpose::Server => usage.value.server_auth,
            Purpose::Client => usage.value.client_auth,
        });
        if may_sign && is_deep_enough && is_for_it { Ok(()) } else { Err(forbidden()) }
    }
}

/// An extension that is checked here, or that may be passed over.
fn is_understood(extension: &X509Extension<'_>) -> bool {
    match extension.parsed_extension() {
        ParsedExtension::NameConstraints(_) | ParsedExtension::ParseError { .. } => false,
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectAlternativeName(_) => true,
        _ => !extension.critical,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
        KeyUsagePurpose, NameConstraints,
    };
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate, der_children, der_parts, signed};

    /// 2030, when everything that rcgen makes by default is valid.
    const NOW: u64 = 1_893_456_000;

    fn way(
        end_entity: &CertificateDer<'_>,
        sent: &[&CertificateDer<'static>],
        ours: &[&CertificateDer<'static>],
    ) -> Result<(), CertificateError> {
        let sent: Vec<_> = sent.iter().map(|der| (*der).clone()).collect();
        let ours: Vec<_> = ours.iter().map(|der| (*der).clone()).collect();
        let ground = PathContext {
            intermediates: &sent,
            authorities: &ours,
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            purpose: Purpose::Server,
            now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        };
        verify(end_entity, &ground)
    }

    fn expired(params: &mut CertificateParams) {
        params.not_after = rcgen::date_time_ymd(2024, 2, 1);
    }

    fn early(params: &mut CertificateParams) {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    }

    fn is_forbidden(result: &Result<(), CertificateError>) -> bool {
        matches!(result, Err(error) if matches!(CertificateDefect::of(error), Some(CertificateDefect::Issuer(_))))
    }

    #[test]
    fn a_way_is_found_whatever_the_order_of_what_was_sent() {
        let root = CertificateAuthority::new("Acme CA");
        let old_root = CertificateAuthority::new_version_1("Old CA");
        let upper = root.intermediate("Upper");
        let lower = upper.intermediate_with("Lower", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let other = CertificateAuthority::new("Other CA");
        let namesake = CertificateAuthority::new("Upper");
        for (issuer, sent, ours) in [
            (&root, vec![], vec![&root]),
            (&root, vec![], vec![&other, &root]),
            (&root, vec![&root], vec![&root]),
            (&old_root, vec![], vec![&old_root]),
            (&upper, vec![&upper], vec![&root]),
            (&upper, vec![&upper], vec![&upper]),
            (&lower, vec![&upper, &lower], vec![&root]),
            (&lower, vec![&other, &namesake, &lower, &upper, &root], vec![&other, &root]),
        ] {
            let sent: Vec<_> = sent.into_iter().map(CertificateAuthority::der).collect();
            let ours: Vec<_> = ours.into_iter().map(CertificateAuthority::der).collect();
            assert_eq!(way(&issuer.issue_version_1("mongo").der, &sent, &ours), Ok(()));
        }
    }

    #[test]
    fn a_certificate_that_is_ours_needs_no_issuer() {
        let own = CertificateAuthority::new_version_1("mongo");
        assert_eq!(way(own.der(), &[], &[own.der()]), Ok(()));
        let other = CertificateAuthority::new_version_1("mongo");
        assert_eq!(way(other.der(), &[other.der()], &[own.der()]), Err(CertificateError::BadSignature));
    }

    #[test]
    fn without_a_way_it_is_refused() {
        let root = CertificateAuthority::new("Acme CA");
        let upper = root.intermediate("Upper");
        let leaf = root.issue_version_1("mongo").der;
        let below = upper.issue_version_1("mongo").der;
        for (end_entity, sent, ours) in [
            (&leaf, vec![], vec![]),
            (&leaf, vec![root.der()], vec![]),
            (&below, vec![], vec![root.der()]),
            (&below, vec![upper.der()], vec![CertificateAuthority::new("Other CA").der()]),
        ] {
            assert_eq!(way(end_entity, &sent, &ours), Err(CertificateError::UnknownIssuer));
        }
        let anew = CertificateAuthority::new("Acme CA");
        assert_eq!(way(&leaf, &[], &[anew.der()]), Err(CertificateError::BadSignature));
    }

    #[test]
    fn dates_count_at_every_step() {
        let is_expired = |result| matches!(result, Err(CertificateError::ExpiredContext { .. }));
        let root = CertificateAuthority::new("Acme CA");
        let upper = root.intermediate_with("Upper", expired);
        let old = CertificateAuthority::new_with("Acme CA", expired);
        let key = KeyPair::generate().unwrap();
        assert!(is_expired(way(&root.issue_version_1_for(&key, "mongo", expired).der, &[], &[root.der()])));
        assert!(is_expired(way(&upper.issue_version_1("mongo").der, &[upper.der()], &[root.der()])));
        assert!(is_expired(way(&old.issue_version_1("mongo").der, &[], &[old.der()])));
        let result = way(&root.issue_version_1_for(&key, "mongo", early).der, &[], &[root.der()]);
        assert!(matches!(result, Err(CertificateError::NotValidYetContext { .. })), "{result:?}");
    }

    #[test]
    fn who_may_not_sign_is_no_issuer() {
        let root = CertificateAuthority::new("Acme CA");
        let flat_root = CertificateAuthority::new_with("Flat CA", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        let critical = |params: &mut CertificateParams| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            params.custom_extensions = vec![extension];
        };
        let constrained = |params: &mut CertificateParams| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("example".to_owned())],
                excluded_subtrees: Vec::new(),
            });
        };
        for (case, issuer) in [
            ("a server", root.intermediate_with("I", |params| params.is_ca = IsCa::NoCa)),
            ("says that it is none", root.intermediate_with("I", |params| params.is_ca = IsCa::ExplicitNoCa)),
            (
                "only for lists",
                root.intermediate_with("I", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
            ),
            (
                "only for clients",
                root.intermediate_with("I", |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                }),
            ),
            ("critical", root.intermediate_with("I", critical)),
            ("constrained", root.intermediate_with("I", constrained)),
            ("too deep", flat_root.intermediate("I")),
        ] {
            let leaf = issuer.issue_version_1("mongo").der;
            let result = way(&leaf, &[issuer.der()], &[root.der(), flat_root.der()]);
            assert!(is_forbidden(&result), "{case}: {result:?}");
        }
        let old = CertificateAuthority::new_version_1("Old");
        let result = way(&old.issue_version_1("mongo").der, &[old.der()], &[root.der()]);
        assert_eq!(result, Err(CertificateError::UnknownIssuer));
        let middle = CertificateAuthority::new("Middle");
        let old = root.issue_version_1_for(middle.key(), "Middle", |_| {}).der;
        let result = way(&middle.issue_version_1("mongo").der, &[&old], &[root.der()]);
        assert!(is_forbidden(&result), "{result:?}");
        let pinned = CertificateAuthority::new_with("pinned", |params| params.is_ca = IsCa::NoCa);
        let result = way(&pinned.issue_version_1("mongo").der, &[], &[pinned.der()]);
        assert!(is_forbidden(&result), "{result:?}");
    }

    #[test]
    fn what_is_not_of_version_1_or_2_is_not_judged() {
        let root = CertificateAuthority::new("Acme CA");
        let version_3 = root.issue("mongo", &["mongo.example"]).der;
        assert_eq!(way(&version_3, &[], &[root.der()]), Err(CertificateError::BadEncoding));
        let fields = der_children(der_parts(der_parts(&version_3).0).0);
        let with_extensions = signed(&fields[1..].concat(), fields[2], root.key());
        assert_eq!(way(&with_extensions.into(), &[], &[root.der()]), Err(CertificateError::BadEncoding));
    }

    #[test]
    fn weak_signatures_and_keys_do_not_count() {
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let old = read(include_str!("test_certificates/old-ca.pem"));
        let small = read(include_str!("test_certificates/small-ca.pem"));
        assert_eq!(way(&read(include_str!("test_certificates/sha256-leaf.pem")), &[], &[&old]), Ok(()));
        for leaf in [include_str!("test_certificates/sha1-leaf.pem"), include_str!("test_certificates/md5-leaf.pem")] {
            let result = way(&read(leaf), &[], &[&old]);
            assert!(matches!(result, Err(CertificateError::UnsupportedSignatureAlgorithmContext { .. })), "{result:?}");
        }
        let result = way(&read(include_str!("test_certificates/small-leaf.pem")), &[], &[&small]);
        assert_eq!(result, Err(CertificateError::BadSignature), "signed by 1024 bits");
    }

    #[test]
    fn many_issuers_of_one_name_cost_a_bounded_number_of_signatures() {
        let root = CertificateAuthority::new("Acme CA");
        let mut crowd: Vec<_> = (0..SIGNATURES_MAX).map(|_| CertificateAuthority::new("Upper")).collect();
        let upper = root.intermediate("Upper");
        let leaf = upper.issue_version_1("mongo").der;
        crowd.push(upper);
        let sent: Vec<_> = crowd.iter().map(CertificateAuthority::der).collect();
        assert_eq!(way(&leaf, &sent, &[root.der()]), Err(CertificateError::BadSignature));
        assert_eq!(way(&leaf, &sent[2..], &[root.der()]), Ok(()));
    }

    #[test]
    fn a_long_way_is_given_up() {
        let root = CertificateAuthority::new("Acme CA");
        let mut chain = vec![root.intermediate("1")];
        for number in 2..=INTERMEDIATES_MAX + 1 {
            let below = chain[chain.len() - 1].intermediate(&number.to_string());
            chain.push(below);
        }
        let sent: Vec<_> = chain.iter().map(CertificateAuthority::der).collect();
        let (last, long_enough) = (&chain[chain.len() - 1], &chain[chain.len() - 2]);
        assert_eq!(way(&long_enough.issue_version_1("mongo").der, &sent, &[root.der()]), Ok(()));
        let result = way(&last.issue_version_1("mongo").der, &sent, &[root.der()]);
        assert_eq!(result, Err(CertificateError::UnknownIssuer));
    }

    #[test]
    fn the_algorithm_inside_must_be_the_one_outside() {
        let root = CertificateAuthority::new("Acme CA");
        let IssuedCertificate { der, .. } = root.issue_version_1("mongo");
        let parts = der_children(der_parts(&der).0);
        let p384_sha384 = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        let content = der_parts(parts[0]).0;
        let swapped = signed(content, &p384_sha384, root.key());
        assert_eq!(way(&swapped.into(), &[], &[root.der()]), Err(CertificateError::BadEncoding));
    }

    proptest! {
        #[test]
        fn a_changed_certificate_has_no_way(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let root = CertificateAuthority::new("Acme CA");
            let mut der = root.issue_version_1("mongo").der.to_vec();
            let index = place.index(der.len());
            der[index] ^= change;
            prop_assert!(way(&der.into(), &[], &[root.der()]).is_err());
        }

        #[test]
        fn a_changed_issuer_leads_nowhere(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let root = CertificateAuthority::new("Acme CA");
            let upper = root.intermediate("Upper");
            let leaf = upper.issue_version_1("mongo").der;
            let mut der = upper.der().to_vec();
            let index = place.index(der.len());
            der[index] ^= change;
            prop_assert!(way(&leaf, &[&der.into()], &[root.der()]).is_err());
        }
    }
}
