//! Verifies that an OCSP response is signed by the issuer of the certificate, or by a responder that the issuer has
//! authorised.
//!
//! Spec: RFC 6960 § 4.2.2.2.

use rustls::pki_types::CertificateDer;
use sha1::{Digest, Sha1};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::response::{BasicResponse, ResponderId};
use crate::tls::ocsp_defect::SignerDefect;
use crate::tls::path::CanonicalName;
use crate::tls::signed_der::{Algorithms, SignedDer};

/// Certificates of a response that are considered. Responders send one, and some add the issuer's.
const CERTIFICATES_MAX: usize = 8;

/// Verifies the signature of `response`. Returns the certificate of the responder, if it is not the issuer.
///
/// `now` is in seconds since 1970.
pub(super) fn verify_signer<'a>(
    response: &BasicResponse<'a>,
    issuer: &X509Certificate<'_>,
    now: i64,
    algorithms: Algorithms<'_>,
) -> Result<Option<CertificateDer<'a>>, SignerDefect> {
    let signed_with = |certificate: &X509Certificate<'_>| {
        response.signed.verify(certificate.public_key().raw, algorithms).map_err(|_| SignerDefect::Signature)
    };
    if names(response.responder, issuer) {
        return signed_with(issuer).map(|()| None);
    }
    let mut defect = SignerDefect::Unknown;
    for der in response.certificates.iter().take(CERTIFICATES_MAX) {
        let Ok(([], responder)) = X509Certificate::from_der(der) else { continue };
        if !names(response.responder, &responder) {
            continue;
        }
        // The cheapest question comes first.
        match authorised(der, &responder, issuer, now, algorithms).and_then(|()| signed_with(&responder)) {
            Ok(()) => return Ok(Some(CertificateDer::from(*der))),
            Err(found) => defect = found,
        }
    }
    Err(defect)
}

/// Whether `certificate` is that of the responder.
fn names(responder: ResponderId<'_>, certificate: &X509Certificate<'_>) -> bool {
    match responder {
        ResponderId::Name(name) => X509Name::from_der(name)
            .is_ok_and(|(_, name)| CanonicalName::new(&name) == CanonicalName::new(certificate.subject())),
        ResponderId::KeyHash(hash) => {
            Sha1::digest(&certificate.public_key().subject_public_key.data).as_slice() == hash
        }
    }
}

/// Whether `issuer` has authorised `responder` to sign responses.
fn authorised(
    der: &[u8],
    responder: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    now: i64,
    algorithms: Algorithms<'_>,
) -> Result<(), SignerDefect> {
    if !may_sign_responses(responder) {
        return Err(SignerDefect::Purpose);
    }
    let (from, until) = (responder.validity().not_before.timestamp(), responder.validity().not_after.timestamp());
    if !(from..=until).contains(&now) {
        return Err(SignerDefect::Dates);
    }
    let is_issued = CanonicalName::new(responder.issuer()) == CanonicalName::new(issuer.subject())
        && SignedDer::from_der(der).is_some_and(|signed| signed.verify(issuer.public_key().raw, algorithms).is_ok());
    if is_issued { Ok(()) } else { Err(SignerDefect::OtherIssuer) }
}

/// Whether its extensions allow to sign responses. It needs the extended key usage `OCSPSigning`; `anyExtendedKeyUsage`
/// does not authorise it.
fn may_sign_responses(responder: &X509Certificate<'_>) -> bool {
    let mut is_for_responses = false;
    for extension in responder.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::ExtendedKeyUsage(usage) => is_for_responses |= usage.ocsp_signing,
            ParsedExtension::KeyUsage(usage) if !usage.digital_signature() && !usage.non_repudiation() => return false,
            ParsedExtension::KeyUsage(_)
            | ParsedExtension::BasicConstraints(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::SubjectAlternativeName(_) => {}
            _ if extension.critical => return false,
            _ => {}
        }
    }
    is_for_responses
}
