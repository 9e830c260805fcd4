//! OCSP stapling: the server sends, in the TLS handshake, what the issuer's responder says about its certificate.
//!
//! Spec: RFC 6960, RFC 6961 § 2.1 and RFC 7633 (a certificate that requires a staple). The gateway never asks a
//! responder itself.

mod response;
mod signer;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha384, Sha512};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use response::{BasicResponse, CertificateId, CertificateStatus, SingleResponse};
use signer::verify_signer;

use super::der::{INTEGER, SEQUENCE, values};
use super::ocsp_defect::OcspDefect;
use super::signed_der::Algorithms;

/// How far the clocks of the responder and of this host may differ.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// How long a response without a next update is accepted. RFC 6960 lets it mean that a newer one is always available.
const NO_NEXT_UPDATE_MAX: Duration = Duration::from_hours(24);

/// 1.3.6.1.5.5.7.1.24, the extension `id-pe-tlsfeature`.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// The TLS extensions `status_request` and `status_request_v2`.
const STATUS_REQUESTS: [&[u8]; 2] = [&[5], &[17]];

/// A response that says that the certificate is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoodStaple<'a> {
    /// Until when the response may be used.
    pub(super) until: SystemTime,
    /// The certificate of the responder, if it is not the issuer.
    pub(super) responder: Option<CertificateDer<'a>>,
}

/// Verifies a stapled response about `certificate`.
///
/// The signer must be `issuer`, the certificate of its issuer, or authorised by it. Whether the responder's certificate
/// is in a revocation list is left to the caller.
pub(super) fn verify_staple<'a>(
    response: &'a [u8],
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    now: UnixTime,
    algorithms: Algorithms<'_>,
) -> Result<GoodStaple<'a>, OcspDefect> {
    let basic = BasicResponse::from_der(response)?;
    let (Ok((_, certificate)), Ok((_, issuer))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return Err(OcspDefect::NoIssuer);
    };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    // First the signature: an attacker who made the response must not choose what the message says.
    let responder = verify_signer(&basic, &issuer, seconds, algorithms).map_err(OcspDefect::Signer)?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let about = |single: &&SingleResponse<'_>| is_about(&single.id, &certificate, &issuer);
    let until = judge(&basic, basic.responses.iter().filter(about), now)?;
    Ok(GoodStaple { until, responder })
}

/// Until when the certificate is good. Several statuses of the same certificate are possible, one for each hash: the
/// worst counts.
fn judge<'a>(
    basic: &BasicResponse<'_>,
    about: impl Iterator<Item = &'a SingleResponse<'a>> + Clone,
    now: SystemTime,
) -> Result<SystemTime, OcspDefect> {
    for single in about.clone() {
        match single.status {
            CertificateStatus::Revoked { since } => return Err(OcspDefect::Revoked { since }),
            CertificateStatus::Unknown => return Err(OcspDefect::Unknown),
            CertificateStatus::Good => {}
        }
    }
    let mut until = None;
    for single in about {
        let from = basic.produced_at.max(single.this_update);
        if from > now + CLOCK_SKEW {
            return Err(OcspDefect::NotYetValid { from });
        }
        let end = single.next_update.unwrap_or(single.this_update + NO_NEXT_UPDATE_MAX);
        if end + CLOCK_SKEW < now {
            return Err(OcspDefect::Outdated { until: end });
        }
        until = Some(until.map_or(end, |known: SystemTime| known.min(end)));
    }
    until.ok_or(OcspDefect::OtherCertificate)
}

/// Whether `id` names `certificate`, which `issuer` has issued. SHA-1 is the usual hash. It only identifies here.
fn is_about(id: &CertificateId<'_>, certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let hash: fn(&[u8]) -> Vec<u8> = match id.hash_algorithm {
        [0x2B, 0x0E, 0x03, 0x02, 0x1A] => |bytes| Sha1::digest(bytes).to_vec(),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01] => |bytes| Sha256::digest(bytes).to_vec(),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02] => |bytes| Sha384::digest(bytes).to_vec(),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03] => |bytes| Sha512::digest(bytes).to_vec(),
        _ => return false,
    };
    id.serial == certificate.tbs_certificate.raw_serial()
        && id.issuer_name_hash == hash(certificate.issuer().as_raw())
        && id.issuer_key_hash == hash(&issuer.public_key().subject_public_key.data)
}

/// Whether `certificate` requires a stapled response (must-staple). A certificate whose extension cannot be read does.
///
/// Spec: RFC 7633.
pub(super) fn requires_staple(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate.extensions().iter().filter(|extension| extension.oid.to_id_string() == TLS_FEATURE).any(|extension| {
        let features = || {
            let outer = values(extension.value).next()??;
            let inner = (outer.tag == SEQUENCE).then(|| values(outer.content).collect::<Option<Vec<_>>>())??;
            Some(inner.iter().any(|feature| feature.tag == INTEGER && STATUS_REQUESTS.contains(&feature.content)))
        };
        features().unwrap_or(true)
    })
}
