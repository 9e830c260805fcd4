//! Path validation of certificates that are made for it: what is accepted, and with which error the rest is rejected.

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;

use super::anchors::PathAnchors;
use super::certificate::CertificatePurpose;
use super::policies::InitialPolicies;
use super::search::{INTERMEDIATES_MAX, PathContext, SIGNATURES_MAX, verify};
use crate::tls::CertificateDefect;
use crate::tls::test_pki::{CertificateAuthority, IssuedCertificate, der_children, der_parts, der_sequence, signed};
use rustls::CertificateError;
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, UnixTime,
};
use std::sync::atomic::{AtomicU32, Ordering};

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
        anchors: &PathAnchors::new(&anchors, &[]),
        algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
        purpose: CertificatePurpose::Server,
        accepts_legacy: true,
        now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        policies: InitialPolicies::default(),
    };
    verify(end_entity, &context).map(|_| ())
}

fn expired(params: &mut CertificateParams) {
    params.not_after = rcgen::date_time_ymd(2024, 2, 1);
}

fn early(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2090, 1, 1);
}

/// The sentence about a defect.
#[track_caller]
fn defect(result: &Result<(), CertificateError>) -> String {
    let Err(error) = result else { panic!("accepted") };
    CertificateDefect::of(error).unwrap_or_else(|| panic!("{error:?}")).to_string()
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
fn only_certificates_of_version_3_may_have_extensions() {
    let root = CertificateAuthority::new("Acme CA");
    let version_3 = root.issue("mongo", &["mongo.example"]).der;
    assert_eq!(check_path(&version_3, &[], &[root.der()]), Ok(()));
    let fields = der_children(der_parts(der_parts(&version_3).0).0);
    let with_extensions = signed(&fields[1..].concat(), fields[2], root.key());
    assert_eq!(check_path(&with_extensions.into(), &[], &[root.der()]), Err(CertificateError::BadEncoding));
    for (number, expected) in [(2, Ok(())), (3, Err(CertificateError::BadEncoding))] {
        let version = [0xa0, 3, 2, 1, number];
        let der = signed(&[&version, fields[1..].concat().as_slice()].concat(), fields[2], root.key());
        assert_eq!(check_path(&der.into(), &[], &[root.der()]), expected, "{number}");
    }
}

#[test]
fn weak_signatures_and_keys_are_rejected() {
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let old = read(include_str!("../test_certificates/old-ca.pem"));
    let small = read(include_str!("../test_certificates/small-ca.pem"));
    assert_eq!(check_path(&read(include_str!("../test_certificates/sha256-leaf.pem")), &[], &[&old]), Ok(()));
    for (leaf, algorithm) in [
        (include_str!("../test_certificates/sha1-leaf.pem"), "RSA and SHA-1"),
        (include_str!("../test_certificates/md5-leaf.pem"), "RSA and MD5"),
    ] {
        let result = check_path(&read(leaf), &[], &[&old]);
        assert_eq!(
            defect(&result),
            format!("the certificate CN=mongo.example,O=Acme is signed with {algorithm}, which is not accepted")
        );
    }
    let result = check_path(&read(include_str!("../test_certificates/small-leaf.pem")), &[], &[&small]);
    assert_eq!(defect(&result), "the key of its issuer CN=Small CA,O=Acme is RSA 1024, which is not accepted");
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
    assert_eq!(defect(&result), "its chain has more than 10 intermediates, which is the limit");
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

/// A path of version 3 certificates, with the number of verified signatures.
fn verified_signatures(
    end_entity: &CertificateDer<'_>,
    sent: &[CertificateDer<'static>],
    anchors: &[CertificateDer<'static>],
) -> Result<u32, CertificateError> {
    let (result, attempts) = counted_signatures(end_entity, sent, anchors);
    assert!(attempts <= SIGNATURES_MAX);
    result.inspect(|signatures| assert_eq!(*signatures, attempts))
}

/// Counts how often it verifies a signature.
#[derive(Debug)]
struct Counting {
    inner: &'static dyn SignatureVerificationAlgorithm,
    attempts: AtomicU32,
}

impl SignatureVerificationAlgorithm for Counting {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.inner.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
    }
}

/// The result, and the number of signatures that were verified, whatever the result.
fn counted_signatures(
    end_entity: &CertificateDer<'_>,
    sent: &[CertificateDer<'static>],
    anchors: &[CertificateDer<'static>],
) -> (Result<u32, CertificateError>, u32) {
    let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    // ECDSA with P-256 and SHA-256, which the certificates of these tests have.
    let counting = Counting { inner: known[0], attempts: AtomicU32::new(0) };
    let context = PathContext {
        intermediates: sent,
        anchors: &PathAnchors::new(anchors, &[]),
        algorithms: &[&counting],
        purpose: CertificatePurpose::Client,
        accepts_legacy: false,
        now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        policies: InitialPolicies::default(),
    };
    let result = verify(end_entity, &context).map(|path| path.signatures);
    (result, counting.attempts.load(Ordering::Relaxed))
}

#[test]
fn a_mesh_of_cas_ends_after_a_limited_number_of_signatures() {
    // Every CA of a layer is signed by every CA of the layer above: 4^6 paths, none of which ends at the trust anchor.
    let root = CertificateAuthority::new("Root");
    let layers: Vec<Vec<_>> = (0..6)
        .map(|layer| (0..4).map(|_| CertificateAuthority::new(&format!("Layer {layer}"))).collect::<Vec<_>>())
        .collect();
    let mut sent = Vec::new();
    for pair in layers.windows(2) {
        for lower in &pair[1] {
            sent.extend(pair[0].iter().map(|upper| upper.cross_sign(lower)));
        }
    }
    let leaf = layers[5][0].issue("cart", &[]).der;
    let (result, attempts) = counted_signatures(&leaf, &sent, std::slice::from_ref(root.der()));
    assert!(result.is_err());
    assert_eq!(attempts, SIGNATURES_MAX);
    // With a way to the root that is one of the first to be tried, the path is found.
    sent.extend(layers[0].iter().map(|top| root.cross_sign(top)));
    let result = verified_signatures(&leaf, &sent, std::slice::from_ref(root.der()));
    assert!(matches!(result, Ok(7..=SIGNATURES_MAX)), "{result:?}");
}

#[test]
fn cas_that_sign_each_other_are_no_path() {
    let (one, other) = (CertificateAuthority::new("One"), CertificateAuthority::new("Other"));
    let sent = [one.cross_sign(&other), other.cross_sign(&one), one.der.clone(), other.der.clone()];
    let leaf = one.issue("cart", &[]).der;
    let anchors = [CertificateAuthority::new("Root").der];
    assert_eq!(verified_signatures(&leaf, &sent, &anchors), Err(CertificateError::UnknownIssuer));
    assert_eq!(verified_signatures(&leaf, &sent[..2], std::slice::from_ref(other.der())), Ok(2));
}

#[test]
fn the_key_identifier_finds_the_issuer_among_a_hundred_of_the_same_name() {
    let root = CertificateAuthority::new("Root");
    let mut sent: Vec<_> = (0..100).map(|_| root.intermediate("Middle").der).collect();
    let middle = root.intermediate("Middle");
    sent.push(middle.der.clone());
    let named = |params: &mut CertificateParams| params.use_authority_key_identifier_extension = true;
    let leaf = middle.issue_with("cart", &[], named).der;
    assert_eq!(verified_signatures(&leaf, &sent, std::slice::from_ref(root.der())), Ok(2));
    let leaf = middle.issue("cart", &[]).der;
    let result = verified_signatures(&leaf, &sent, std::slice::from_ref(root.der()));
    assert_eq!(result, Err(CertificateError::BadSignature));
}

#[test]
fn many_names_and_constraints_are_compared_only_up_to_a_limit() {
    let constrained = |count: usize| {
        CertificateAuthority::new_with("Root", |params| {
            let subtree = |number| rcgen::GeneralSubtree::DnsName(format!("n{number}.example"));
            params.name_constraints = Some(rcgen::NameConstraints {
                permitted_subtrees: (0..count).map(subtree).collect(),
                excluded_subtrees: Vec::new(),
            });
        })
    };
    let names: Vec<_> = (0..1000).map(|_| "n0.example").collect();
    let (few, many) = (constrained(90), constrained(110));
    let result = verified_signatures(&few.issue("cart", &names).der, &[], std::slice::from_ref(few.der()));
    assert_eq!(result, Ok(1));
    let result = verified_signatures(&many.issue("cart", &names).der, &[], std::slice::from_ref(many.der()));
    let error = result.unwrap_err();
    assert!(matches!(CertificateDefect::of(&error), Some(CertificateDefect::TooManyNames { .. })), "{error:?}");
}

#[test]
fn a_ca_with_a_malformed_name_is_on_no_path() {
    let root = CertificateAuthority::new("Root");
    let constrained = |params: &mut CertificateParams| {
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("partner.example".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    };
    let upper = root.intermediate_with("Upper", constrained);
    let lower = upper.intermediate_with("Lower", constrained);
    // The server name would be read from the common name, to which no constraint applies.
    let leaf = lower.issue("mongo.victim.example", &[]).der;
    let fields = der_children(der_parts(der_parts(&lower.der).0).0);
    let with_subject = |subject: &[u8]| {
        let before = fields[..5].concat();
        CertificateDer::from(signed(&[&before, subject, &fields[6..].concat()].concat(), fields[2], upper.key()))
    };
    let rdns = der_parts(fields[5]).0;
    let good = with_subject(&der_sequence(rdns));
    assert_eq!(check_path(&leaf, &[&good, upper.der()], &[root.der()]), Ok(()));
    for tail in [&[5, 0][..], &[0x31, 0], &[0x31, 2, 0x30, 0]] {
        let malformed = with_subject(&der_sequence(&[rdns, tail].concat()));
        let result = check_path(&leaf, &[&malformed, upper.der()], &[root.der()]);
        assert_eq!(result, Err(CertificateError::UnknownIssuer), "{tail:?}");
    }
}

#[test]
fn any_bytes_are_rejected_without_a_panic() {
    let root = CertificateAuthority::new("Root");
    let middle = root.intermediate_with("Middle", |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example".to_owned())],
            excluded_subtrees: vec![rcgen::GeneralSubtree::DnsName("test".to_owned())],
        });
    });
    let leaf = middle.issue("cart", &["cart.example"]).der;
    assert_eq!(verified_signatures(&leaf, std::slice::from_ref(middle.der()), std::slice::from_ref(root.der())), Ok(2));
    // Each byte of the intermediate, changed and cut off.
    for position in 0..middle.der.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut der = middle.der.to_vec();
            der[position] ^= change;
            assert!(verified_signatures(&leaf, &[der.into()], std::slice::from_ref(root.der())).is_err());
        }
        let cut = middle.der[..position].to_vec();
        assert!(verified_signatures(&leaf, &[cut.into()], std::slice::from_ref(root.der())).is_err());
    }
}
