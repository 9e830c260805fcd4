//! Finds the certificate of the issuer of a leaf certificate, for whose key an OCSP response is verified.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::tls::signed_der::{Algorithms, SignedDer};

/// Signatures that are verified for one chain. No real server sends a chain that needs more.
const SIGNATURES_MAX: u32 = 32;

/// Certificates between a leaf certificate and a trust anchor. Real chains have one or two.
const INTERMEDIATES_MAX: u32 = 6;

/// The certificate whose key signed `certificate`, and that itself is, or leads to, a trust anchor.
///
/// A certificate that merely verifies the signature is not enough: to a given signature, an attacker can make another
/// key that verifies it.
pub(in crate::tls) fn find_issuer<'a>(
    certificate: &CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'a>],
    trust_anchors: &'a [CertificateDer<'static>],
    algorithms: Algorithms<'_>,
) -> Option<&'a CertificateDer<'a>> {
    let mut search = Search { intermediates, trust_anchors, algorithms, signatures_left: SIGNATURES_MAX };
    search.issuer_of(certificate, INTERMEDIATES_MAX)
}

struct Search<'a, 'b> {
    intermediates: &'a [CertificateDer<'a>],
    trust_anchors: &'a [CertificateDer<'static>],
    algorithms: Algorithms<'b>,
    signatures_left: u32,
}

impl<'a> Search<'a, '_> {
    fn issuer_of(
        &mut self,
        certificate: &CertificateDer<'_>,
        intermediates_left: u32,
    ) -> Option<&'a CertificateDer<'a>> {
        for anchor in self.trust_anchors {
            if self.has_signed(anchor, certificate)? {
                return Some(anchor);
            }
        }
        let left = intermediates_left.checked_sub(1)?;
        for intermediate in self.intermediates {
            if intermediate != certificate
                && self.has_signed(intermediate, certificate)?
                && self.issuer_of(intermediate, left).is_some()
            {
                return Some(intermediate);
            }
        }
        None
    }

    /// `None` when too many signatures have been verified.
    fn has_signed(&mut self, issuer: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> Option<bool> {
        let (Ok((_, above)), Ok((_, below))) =
            (X509Certificate::from_der(issuer), X509Certificate::from_der(certificate))
        else {
            return Some(false);
        };
        if above.subject().as_raw() != below.issuer().as_raw() {
            return Some(false);
        }
        self.signatures_left = self.signatures_left.checked_sub(1)?;
        let signed = SignedDer::from_der(certificate);
        Some(signed.is_some_and(|signed| signed.verify(above.public_key().raw, self.algorithms).is_ok()))
    }
}
