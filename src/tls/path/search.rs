//! Path validation: finds a path from a leaf certificate to a trust anchor, and verifies all of it.
//!
//! Every certificate of the path must be valid now, the trust anchor included. Signatures, CA fields, key usage, path
//! lengths, name constraints and policies must permit the path. If one path is not valid, the others are tried: a CA
//! that was signed by two roots has two.
//!
//! The amount of work is limited, whatever a peer sends.
//!
//! Spec: RFC 5280 § 6.1. As in OpenSSL, the trust anchor's own constraints count too, except its policies.

use std::collections::HashSet;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::super::certificate_defect::CertificateDefect;
use super::super::signature_problem::SignatureProblem;
use super::super::signed_der::Algorithms;
use super::anchors::PathAnchors;
use super::certificate::{CertificateOrigin, CertificatePurpose, PathCertificate};
use super::name::CanonicalName;
use super::name_constraints::{COMPARISONS_MAX, ConstraintViolation};
use super::policies::{self, InitialPolicies};
use crate::identity::{DistinguishedName, key_text, signature_text};

/// Intermediates between a leaf certificate and a trust anchor. Real chains have one or two.
pub(super) const INTERMEDIATES_MAX: usize = 10;

/// Signatures that are verified for one leaf certificate, however many issuers of one name a peer sends.
pub(super) const SIGNATURES_MAX: u32 = 32;

/// RSA keys with fewer bits are too weak.
const RSA_BITS_MIN: usize = 2048;

/// What a path is validated against.
pub(in crate::tls) struct PathContext<'a> {
    /// The certificates that the peer sent with its leaf certificate, in any order.
    pub(in crate::tls) intermediates: &'a [CertificateDer<'a>],
    pub(in crate::tls) anchors: &'a PathAnchors,
    pub(in crate::tls) algorithms: Algorithms<'a>,
    pub(in crate::tls) purpose: CertificatePurpose,
    /// Whether the leaf certificate may be of version 1 or 2, and a CA certificate if it is a trust anchor itself.
    pub(in crate::tls) accepts_legacy: bool,
    pub(in crate::tls) now: UnixTime,
    /// The policies that a path must be valid for.
    pub(in crate::tls) policies: InitialPolicies<'a>,
}

/// A path that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tls) struct VerifiedPath<'a> {
    /// The leaf certificate, its issuer and so on up to the trust anchor. A leaf certificate that is itself a trust
    /// anchor is alone.
    pub(in crate::tls) certificates: Vec<CertificateDer<'a>>,
    /// The first issuer on the path that has name constraints.
    pub(in crate::tls) constrained_issuer: Option<DistinguishedName>,
    /// How many signatures were verified to find the path.
    pub(in crate::tls) signatures: u32,
}

/// Finds a path from `end_entity` to a trust anchor.
pub(in crate::tls) fn verify<'a>(
    end_entity: &'a CertificateDer<'a>,
    context: &PathContext<'a>,
) -> Result<VerifiedPath<'a>, CertificateError> {
    let leaf = PathCertificate::from_der(end_entity, CertificateOrigin::Chain).ok_or(CertificateError::BadEncoding)?;
    if leaf.version() < 3 && !context.accepts_legacy {
        return Err(CertificateDefect::Version(leaf.version()).into());
    }
    let is_anchor = context.anchors.contains(end_entity);
    leaf.check_dates(context.now)?;
    leaf.check_as_leaf(context.purpose, is_anchor && context.accepts_legacy)?;
    if is_anchor {
        let certificates = vec![end_entity.clone()];
        return Ok(VerifiedPath { certificates, constrained_issuer: None, signatures: 0 });
    }
    let issuers = possible_issuers(&leaf, context);
    let mut search = PathSearch {
        context,
        issuers: &issuers,
        path: vec![&leaf],
        signatures_left: SIGNATURES_MAX,
        comparisons_left: COMPARISONS_MAX,
    };
    search.extend()?;
    let mut issuers = search.path.iter().skip(1);
    let constrained = issuers.find(|issuer| issuer.extensions.name_constraints.is_some());
    let named = constrained.map(|issuer| issuer.display_name().ok_or(CertificateError::BadEncoding));
    // `None` would say that no issuer has constraints.
    let constrained_issuer = named.transpose()?;
    let certificates = search.path.iter().map(|on_path| CertificateDer::from(on_path.der));
    Ok(VerifiedPath {
        certificates: certificates.collect(),
        constrained_issuer,
        signatures: SIGNATURES_MAX - search.signatures_left,
    })
}

/// Every certificate that can be on a path from `leaf`, going by the names. Trust anchors come first: they end a path.
fn possible_issuers<'a>(leaf: &PathCertificate<'a>, context: &PathContext<'a>) -> Vec<PathCertificate<'a>> {
    let sent = context.intermediates.iter();
    let sent: Vec<_> = sent.filter_map(|der| PathCertificate::from_der(der, CertificateOrigin::Chain)).collect();
    let mut names: HashSet<CanonicalName> = HashSet::new();
    let mut open: Vec<CanonicalName> =
        std::iter::once(leaf).chain(&sent).map(|certificate| certificate.issuer.clone()).collect();
    let (mut anchors, mut known) = (Vec::new(), Vec::new());
    while let Some(name) = open.pop() {
        if names.contains(&name) {
            continue;
        }
        for stored in context.anchors.with_subject(&name) {
            match stored.origin {
                CertificateOrigin::TrustAnchor => anchors.push(stored),
                CertificateOrigin::Chain => {
                    open.push(stored.issuer.clone());
                    known.push(stored);
                }
            }
        }
        names.insert(name);
    }
    anchors.into_iter().chain(known).chain(sent).collect()
}

/// A depth-first search for a path to a trust anchor.
struct PathSearch<'s, 'a> {
    context: &'s PathContext<'a>,
    issuers: &'s [PathCertificate<'a>],
    /// From the leaf certificate up.
    path: Vec<&'s PathCertificate<'a>>,
    signatures_left: u32,
    comparisons_left: usize,
}

/// How likely it is that an issuer of the right name is the right one, going by the key identifiers.
#[derive(PartialEq, Eq)]
enum Likelihood {
    /// The identifier of its key is the one in the certificate.
    High,
    Unknown,
    /// It is another identifier.
    Low,
}

impl Likelihood {
    fn of(certificate: &PathCertificate<'_>, issuer: &PathCertificate<'_>) -> Self {
        match (certificate.extensions.authority_key, issuer.extensions.subject_key) {
            (Some(wanted), Some(key)) if wanted == key => Self::High,
            (Some(_), Some(_)) => Self::Low,
            _ => Self::Unknown,
        }
    }
}

impl<'s, 'a> PathSearch<'s, 'a> {
    /// Extends the path to a trust anchor.
    fn extend(&mut self) -> Result<(), CertificateError> {
        let mut problem = CertificateError::UnknownIssuer;
        let Some(certificate) = self.path.last().copied() else { return Err(problem) };
        for likelihood in [Likelihood::High, Likelihood::Unknown, Likelihood::Low] {
            for issuer in self.issuers {
                if issuer.subject != certificate.issuer || Likelihood::of(certificate, issuer) != likelihood {
                    continue;
                }
                match self.try_issuer(certificate, issuer) {
                    Ok(()) => return Ok(()),
                    // The error of an issuer that only has the right name is less helpful than that of the right one.
                    Err(CertificateError::UnknownIssuer) => {}
                    Err(CertificateError::BadSignature) if problem != CertificateError::UnknownIssuer => {}
                    Err(_) if !matches!(problem, CertificateError::UnknownIssuer | CertificateError::BadSignature) => {}
                    Err(more) => problem = more,
                }
            }
        }
        Err(problem)
    }

    fn try_issuer(
        &mut self,
        certificate: &PathCertificate<'_>,
        issuer: &'s PathCertificate<'a>,
    ) -> Result<(), CertificateError> {
        let is_same = |on_path: &&PathCertificate<'_>| {
            on_path.subject == issuer.subject && on_path.public_key() == issuer.public_key()
        };
        if self.path.iter().skip(1).any(is_same) {
            return Err(CertificateError::UnknownIssuer);
        }
        self.signatures_left = self.signatures_left.checked_sub(1).ok_or(CertificateError::UnknownIssuer)?;
        verify_signature(certificate, issuer, self.context.algorithms)?;
        let below = self.path.iter().skip(1).filter(|on_path| !on_path.is_self_issued()).count();
        issuer.check_as_issuer(u32::try_from(below).unwrap_or(u32::MAX), self.context.purpose)?;
        issuer.check_dates(self.context.now)?;
        self.path.push(issuer);
        let result = match issuer.origin {
            CertificateOrigin::TrustAnchor => self.check_whole(),
            CertificateOrigin::Chain if self.path.len() <= INTERMEDIATES_MAX + 1 => self.extend(),
            CertificateOrigin::Chain => {
                Err(CertificateDefect::TooManyIntermediates { limit: INTERMEDIATES_MAX }.into())
            }
        };
        if result.is_err() {
            self.path.pop();
        }
        result
    }

    /// Checks what depends on the whole path.
    fn check_whole(&mut self) -> Result<(), CertificateError> {
        for (depth, certificate) in self.path.iter().enumerate() {
            // A self-issued CA certificate only carries a new key of the same CA.
            if depth > 0 && certificate.is_self_issued() {
                continue;
            }
            let names = certificate.constrained_names();
            for issuer in self.path.iter().skip(depth + 1) {
                let Some(constraints) = &issuer.extensions.name_constraints else { continue };
                if let Err(violation) = constraints.check(&names, &mut self.comparisons_left) {
                    return Err(name_defect(certificate, issuer, violation));
                }
            }
        }
        let below_anchor = self.path.split_last().map(|(_, below)| below).unwrap_or_default();
        let from_the_top: Vec<_> = below_anchor.iter().rev().map(|certificate| certificate.policy_step()).collect();
        if policies::are_valid(&from_the_top, &self.context.policies) {
            return Ok(());
        }
        Err(CertificateDefect::Policies.into())
    }
}

fn name_defect(
    certificate: &PathCertificate<'_>,
    issuer: &PathCertificate<'_>,
    violation: ConstraintViolation,
) -> CertificateError {
    let (Some(subject), Some(issuer)) = (certificate.display_name(), issuer.display_name()) else {
        return CertificateError::BadEncoding;
    };
    match violation {
        ConstraintViolation::Name => CertificateDefect::NameConstraint { subject, issuer }.into(),
        ConstraintViolation::TooMany => CertificateDefect::TooManyNames { subject, issuer }.into(),
    }
}

fn verify_signature(
    certificate: &PathCertificate<'_>,
    issuer: &PathCertificate<'_>,
    algorithms: Algorithms<'_>,
) -> Result<(), CertificateError> {
    let Err(problem) = certificate.signed.verify(issuer.public_key(), algorithms) else { return Ok(()) };
    let named = |name: Option<DistinguishedName>, defect: fn(DistinguishedName, String) -> CertificateDefect, text| {
        name.map_or(CertificateError::BadEncoding, |name| defect(name, text).into())
    };
    let key = issuer.x509.public_key();
    let is_weak = issuer.rsa_bits().is_some_and(|bits| bits < RSA_BITS_MIN);
    Err(match problem {
        SignatureProblem::Invalid if !is_weak => CertificateError::BadSignature,
        SignatureProblem::Invalid | SignatureProblem::Key => {
            named(issuer.display_name(), |subject, key| CertificateDefect::Key { subject, key }, key_text(key))
        }
        SignatureProblem::Algorithm => named(
            certificate.display_name(),
            |subject, algorithm| CertificateDefect::Signature { subject, algorithm },
            signature_text(&certificate.x509.signature_algorithm),
        ),
    })
}
