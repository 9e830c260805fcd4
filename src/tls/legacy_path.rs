//! Path validation for a leaf certificate of X.509 version 1 or 2: the path from it to a trust anchor.
//!
//! webpki, which verifies all other certificates, does not read these versions. They are common: `openssl x509 -req`
//! issues version 1 by default. Only the leaf certificate and the trust anchor may be that old. An intermediate must be
//! a CA certificate of version 3.
//!
//! The amount of work is limited, whatever a peer sends.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::path_certificate::{CertificateOrigin, CertificatePurpose, PathCertificate};
use super::signed_der::Algorithms;
use crate::identity::{CertificateFacts, DistinguishedName};

/// Intermediates between a leaf certificate and a trust anchor. Real chains have one or two.
const INTERMEDIATES_MAX: u32 = 6;

const NAME_CONSTRAINTS: Oid<'static> = oid!(2.5.29.30);

/// Signatures that are verified for one leaf certificate, however many issuers of one name a peer sends.
const SIGNATURES_MAX: u32 = 32;

/// What a path is validated against.
pub(super) struct PathContext<'a> {
    /// The certificates that the peer sent with its leaf certificate, in any order.
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) trust_anchors: &'a [CertificateDer<'static>],
    pub(super) algorithms: Algorithms<'a>,
    pub(super) purpose: CertificatePurpose,
    pub(super) now: UnixTime,
}

/// Finds a path from `end_entity`, which must be of version 1 or 2, to a trust anchor.
pub(super) fn verify(end_entity: &CertificateDer<'_>, context: &PathContext<'_>) -> Result<(), CertificateError> {
    let certificate =
        PathCertificate::from_der(end_entity, CertificateOrigin::Peer).ok_or(CertificateError::BadEncoding)?;
    // Extensions exist since version 3, and would not be checked here.
    if certificate.version() >= 3 || !certificate.x509.extensions().is_empty() {
        return Err(CertificateError::BadEncoding);
    }
    certificate.check_dates(context.now)?;
    if is_trust_anchor(end_entity, context.trust_anchors) {
        return Ok(());
    }
    let anchors =
        context.trust_anchors.iter().filter_map(|der| PathCertificate::from_der(der, CertificateOrigin::TrustAnchor));
    let sent = context.intermediates.iter().filter_map(|der| PathCertificate::from_der(der, CertificateOrigin::Peer));
    // Trust anchors first: they end the search.
    let issuers: Vec<_> = anchors.chain(sent).collect();
    let mut search = PathSearch { context, issuers: &issuers, signatures_left: SIGNATURES_MAX };
    search.find_path(&certificate, 0)
}

/// Verifies `end_entity`, a certificate of version 3 that is itself a trust anchor and so needs no issuer.
///
/// webpki would let it sign other certificates. It would also reject what `openssl req -x509` makes, a server
/// certificate with `CA:TRUE`.
pub(super) fn verify_pinned(
    end_entity: &CertificateDer<'_>,
    facts: &CertificateFacts,
    context: &PathContext<'_>,
) -> Result<(), CertificateError> {
    let certificate =
        PathCertificate::from_der(end_entity, CertificateOrigin::TrustAnchor).ok_or(CertificateError::BadEncoding)?;
    certificate.check_dates(context.now)?;
    let usage = context.purpose.extended_key_usage();
    if facts.allows(usage) { Ok(()) } else { Err(CertificateError::InvalidPurpose) }
}

/// Whether `certificate` itself is one of `trust_anchors`.
pub(super) fn is_trust_anchor(certificate: &CertificateDer<'_>, trust_anchors: &[CertificateDer<'static>]) -> bool {
    trust_anchors.iter().any(|anchor| anchor.as_ref() == certificate.as_ref())
}

/// The name of an issuer with name constraints that may be on the path from `end_entity` to a trust anchor.
///
/// Follows names without verifying signatures, so it may return an issuer that is not on the path, but it never misses
/// one that is.
pub(super) fn constrained_issuer(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust_anchors: &[CertificateDer<'static>],
) -> Option<DistinguishedName> {
    if is_trust_anchor(end_entity, trust_anchors) {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(end_entity).ok()?;
    let all = intermediates.iter().chain(trust_anchors);
    let all: Vec<_> = all.filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed).collect();
    let mut names = vec![certificate.issuer().as_raw()];
    let mut visited = 0;
    while let Some(name) = names.get(visited).copied() {
        visited += 1;
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

/// A depth-first search for a path to a trust anchor.
struct PathSearch<'a> {
    context: &'a PathContext<'a>,
    issuers: &'a [PathCertificate<'a>],
    signatures_left: u32,
}

impl PathSearch<'_> {
    /// Finds a path from `certificate`. `below` counts the intermediates between it and the leaf certificate, itself
    /// included.
    fn find_path(&mut self, certificate: &PathCertificate<'_>, below: u32) -> Result<(), CertificateError> {
        let mut problem = CertificateError::UnknownIssuer;
        for issuer in self.issuers {
            if issuer.x509.subject().as_raw() != certificate.x509.issuer().as_raw() {
                continue;
            }
            match self.try_issuer(certificate, issuer, below) {
                Ok(()) => return Ok(()),
                // The error of an issuer that only has the right name is less helpful than that of the right issuer.
                Err(CertificateError::UnknownIssuer) => {}
                Err(CertificateError::BadSignature) if problem != CertificateError::UnknownIssuer => {}
                Err(more) => problem = more,
            }
        }
        Err(problem)
    }

    fn try_issuer(
        &mut self,
        certificate: &PathCertificate<'_>,
        issuer: &PathCertificate<'_>,
        below: u32,
    ) -> Result<(), CertificateError> {
        self.signatures_left = self.signatures_left.checked_sub(1).ok_or(CertificateError::UnknownIssuer)?;
        certificate.signed.verify(issuer.x509.public_key().raw, self.context.algorithms)?;
        issuer.check_as_issuer(below, self.context.purpose)?;
        issuer.check_dates(self.context.now)?;
        match issuer.origin {
            CertificateOrigin::TrustAnchor => Ok(()),
            CertificateOrigin::Peer if below < INTERMEDIATES_MAX => self.find_path(issuer, below + 1),
            CertificateOrigin::Peer => Err(CertificateError::UnknownIssuer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
        KeyUsagePurpose, NameConstraints,
    };
    use rustls::pki_types::pem::PemObject as _;

    use super::super::certificate_defect::CertificateDefect;
    use super::*;
    use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate, der_children, der_parts, signed};

    /// 2030, when every certificate that rcgen makes by default is valid.
    const NOW: u64 = 1_893_456_000;

    fn check_path(
        end_entity: &CertificateDer<'_>,
        sent: &[&CertificateDer<'static>],
        anchors: &[&CertificateDer<'static>],
    ) -> Result<(), CertificateError> {
        let sent: Vec<_> = sent.iter().map(|der| (*der).clone()).collect();
        let anchors: Vec<_> = anchors.iter().map(|der| (*der).clone()).collect();
        let context = PathContext {
            intermediates: &sent,
            trust_anchors: &anchors,
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            purpose: CertificatePurpose::Server,
            now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        };
        verify(end_entity, &context)
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
    fn a_path_is_found_whatever_the_order_of_the_intermediates() {
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
        for (issuer, sent, anchors) in [
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
            let anchors: Vec<_> = anchors.into_iter().map(CertificateAuthority::der).collect();
            assert_eq!(check_path(&issuer.issue_version_1("mongo").der, &sent, &anchors), Ok(()));
        }
    }

    #[test]
    fn a_trust_anchor_needs_no_issuer() {
        let own = CertificateAuthority::new_version_1("mongo");
        assert_eq!(check_path(own.der(), &[], &[own.der()]), Ok(()));
        let other = CertificateAuthority::new_version_1("mongo");
        assert_eq!(check_path(other.der(), &[other.der()], &[own.der()]), Err(CertificateError::BadSignature));
    }

    #[test]
    fn without_a_path_a_certificate_is_rejected() {
        let root = CertificateAuthority::new("Acme CA");
        let upper = root.intermediate("Upper");
        let leaf = root.issue_version_1("mongo").der;
        let below = upper.issue_version_1("mongo").der;
        for (end_entity, sent, anchors) in [
            (&leaf, vec![], vec![]),
            (&leaf, vec![root.der()], vec![]),
            (&below, vec![], vec![root.der()]),
            (&below, vec![upper.der()], vec![CertificateAuthority::new("Other CA").der()]),
        ] {
            assert_eq!(check_path(end_entity, &sent, &anchors), Err(CertificateError::UnknownIssuer));
        }
        let renewed = CertificateAuthority::new("Acme CA");
        assert_eq!(check_path(&leaf, &[], &[renewed.der()]), Err(CertificateError::BadSignature));
    }

    #[test]
    fn dates_are_checked_along_the_path() {
        let is_expired = |result| matches!(result, Err(CertificateError::ExpiredContext { .. }));
        let root = CertificateAuthority::new("Acme CA");
        let upper = root.intermediate_with("Upper", expired);
        let old = CertificateAuthority::new_with("Acme CA", expired);
        let key = KeyPair::generate().unwrap();
        assert!(is_expired(check_path(&root.issue_version_1_for(&key, "mongo", expired).der, &[], &[root.der()])));
        assert!(is_expired(check_path(&upper.issue_version_1("mongo").der, &[upper.der()], &[root.der()])));
        assert!(is_expired(check_path(&old.issue_version_1("mongo").der, &[], &[old.der()])));
        let result = check_path(&root.issue_version_1_for(&key, "mongo", early).der, &[], &[root.der()]);
        assert!(matches!(result, Err(CertificateError::NotValidYetContext { .. })), "{result:?}");
    }

    #[test]
    fn a_certificate_that_may_not_sign_is_no_issuer() {
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
            ("CA:FALSE", root.intermediate_with("I", |params| params.is_ca = IsCa::ExplicitNoCa)),
            ("only for CRLs", root.intermediate_with("I", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign])),
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
            let result = check_path(&leaf, &[issuer.der()], &[root.der(), flat_root.der()]);
            assert!(is_forbidden(&result), "{case}: {result:?}");
        }
        let old = CertificateAuthority::new_version_1("Old");
        let result = check_path(&old.issue_version_1("mongo").der, &[old.der()], &[root.der()]);
        assert_eq!(result, Err(CertificateError::UnknownIssuer));
        let middle = CertificateAuthority::new("Middle");
        let old = root.issue_version_1_for(middle.key(), "Middle", |_| {}).der;
        let result = check_path(&middle.issue_version_1("mongo").der, &[&old], &[root.der()]);
        assert!(is_forbidden(&result), "{result:?}");
        let pinned = CertificateAuthority::new_with("pinned", |params| params.is_ca = IsCa::NoCa);
        let result = check_path(&pinned.issue_version_1("mongo").der, &[], &[pinned.der()]);
        assert!(is_forbidden(&result), "{result:?}");
    }

    #[test]
    fn certificates_of_version_3_and_with_extensions_are_rejected() {
        let root = CertificateAuthority::new("Acme CA");
        let version_3 = root.issue("mongo", &["mongo.example"]).der;
        assert_eq!(check_path(&version_3, &[], &[root.der()]), Err(CertificateError::BadEncoding));
        let fields = der_children(der_parts(der_parts(&version_3).0).0);
        let with_extensions = signed(&fields[1..].concat(), fields[2], root.key());
        assert_eq!(check_path(&with_extensions.into(), &[], &[root.der()]), Err(CertificateError::BadEncoding));
    }

    #[test]
    fn weak_signatures_and_keys_are_rejected() {
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let old = read(include_str!("test_certificates/old-ca.pem"));
        let small = read(include_str!("test_certificates/small-ca.pem"));
        assert_eq!(check_path(&read(include_str!("test_certificates/sha256-leaf.pem")), &[], &[&old]), Ok(()));
        for leaf in [include_str!("test_certificates/sha1-leaf.pem"), include_str!("test_certificates/md5-leaf.pem")] {
            let result = check_path(&read(leaf), &[], &[&old]);
            assert!(matches!(result, Err(CertificateError::UnsupportedSignatureAlgorithmContext { .. })), "{result:?}");
        }
        let result = check_path(&read(include_str!("test_certificates/small-leaf.pem")), &[], &[&small]);
        assert_eq!(result, Err(CertificateError::BadSignature), "signed by 1024 bits");
    }

    #[test]
    fn the_number_of_verified_signatures_is_limited() {
        let root = CertificateAuthority::new("Acme CA");
        let mut crowd: Vec<_> = (0..SIGNATURES_MAX).map(|_| CertificateAuthority::new("Upper")).collect();
        let upper = root.intermediate("Upper");
        let leaf = upper.issue_version_1("mongo").der;
        crowd.push(upper);
        let sent: Vec<_> = crowd.iter().map(CertificateAuthority::der).collect();
        assert_eq!(check_path(&leaf, &sent, &[root.der()]), Err(CertificateError::BadSignature));
        assert_eq!(check_path(&leaf, &sent[2..], &[root.der()]), Ok(()));
    }

    #[test]
    fn a_path_that_is_too_long_is_rejected() {
        let root = CertificateAuthority::new("Acme CA");
        let mut chain = vec![root.intermediate("1")];
        for number in 2..=INTERMEDIATES_MAX + 1 {
            let below = chain[chain.len() - 1].intermediate(&number.to_string());
            chain.push(below);
        }
        let sent: Vec<_> = chain.iter().map(CertificateAuthority::der).collect();
        let (too_long, long_enough) = (&chain[chain.len() - 1], &chain[chain.len() - 2]);
        assert_eq!(check_path(&long_enough.issue_version_1("mongo").der, &sent, &[root.der()]), Ok(()));
        let result = check_path(&too_long.issue_version_1("mongo").der, &sent, &[root.der()]);
        assert_eq!(result, Err(CertificateError::UnknownIssuer));
    }

    #[test]
    fn the_signed_algorithm_must_be_the_algorithm_of_the_signature() {
        let root = CertificateAuthority::new("Acme CA");
        let IssuedCertificate { der, .. } = root.issue_version_1("mongo");
        let parts = der_children(der_parts(&der).0);
        let p384_sha384 = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        let content = der_parts(parts[0]).0;
        let swapped = signed(content, &p384_sha384, root.key());
        assert_eq!(check_path(&swapped.into(), &[], &[root.der()]), Err(CertificateError::BadEncoding));
    }

    proptest! {
        #[test]
        fn a_modified_certificate_has_no_path(position in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let root = CertificateAuthority::new("Acme CA");
            let mut der = root.issue_version_1("mongo").der.to_vec();
            let index = position.index(der.len());
            der[index] ^= change;
            prop_assert!(check_path(&der.into(), &[], &[root.der()]).is_err());
        }

        #[test]
        fn a_modified_issuer_ends_the_path(position in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let root = CertificateAuthority::new("Acme CA");
            let upper = root.intermediate("Upper");
            let leaf = upper.issue_version_1("mongo").der;
            let mut der = upper.der().to_vec();
            let index = position.index(der.len());
            der[index] ^= change;
            prop_assert!(check_path(&leaf, &[&der.into()], &[root.der()]).is_err());
        }
    }
}
