//! Reads an OCSP response: the structure, and nothing about whether to trust it.
//!
//! Spec: RFC 6960 § 4.2.1. The crate `x509-ocsp` would bring a second version of each of the crates that it is made of,
//! so this uses the DER reader of x509-parser, as for revocation lists.

use std::time::SystemTime;

use x509_parser::asn1_rs::FromDer;
use x509_parser::time::ASN1Time;

use crate::identity::system_time;
use crate::tls::der::{BIT_STRING, DerValue, INTEGER, SEQUENCE, values};
use crate::tls::ocsp_defect::{OcspDefect, ResponderError};
use crate::tls::signed_der::SignedDer;

/// The longest response in bytes. Real ones have one to three KiB, most of it the responder's certificate.
const RESPONSE_BYTES_MAX: usize = 32 * 1024;

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const ENUMERATED: u8 = 0x0A;
const GENERALIZED_TIME: u8 = 0x18;
/// Context tags 0 to 2: of a value without content, and of a value that contains others.
const EMPTY: [u8; 3] = [0x80, 0x81, 0x82];
const NESTED: [u8; 3] = [0xA0, 0xA1, 0xA2];

/// 1.3.6.1.5.5.7.48.1.1, the only type of response that clients must support.
const ID_PKIX_OCSP_BASIC: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// A response of the basic type.
#[derive(Debug)]
pub(super) struct BasicResponse<'a> {
    pub(super) responder: ResponderId<'a>,
    pub(super) produced_at: SystemTime,
    pub(super) responses: Vec<SingleResponse<'a>>,
    /// For the signature.
    pub(super) signed: SignedDer<'a>,
    /// DER of the certificates that the responder added.
    pub(super) certificates: Vec<&'a [u8]>,
}

/// Who signed a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponderId<'a> {
    /// DER of the subject of its certificate.
    Name(&'a [u8]),
    /// SHA-1 of its public key.
    KeyHash(&'a [u8]),
}

/// The status of one certificate.
#[derive(Debug)]
pub(super) struct SingleResponse<'a> {
    pub(super) id: CertificateId<'a>,
    pub(super) status: CertificateStatus,
    pub(super) this_update: SystemTime,
    pub(super) next_update: Option<SystemTime>,
}

/// The certificate that a status is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CertificateId<'a> {
    /// The content of the object identifier.
    pub(super) hash_algorithm: &'a [u8],
    pub(super) issuer_name_hash: &'a [u8],
    pub(super) issuer_key_hash: &'a [u8],
    /// The content of the integer.
    pub(super) serial: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateStatus {
    Good,
    Revoked { since: SystemTime },
    Unknown,
}

/// The values of a DER structure, taken in their order.
struct Fields<'a>(std::iter::Peekable<std::vec::IntoIter<DerValue<'a>>>);

impl<'a> Fields<'a> {
    fn of(content: &'a [u8]) -> Option<Self> {
        Some(Self(values(content).collect::<Option<Vec<_>>>()?.into_iter().peekable()))
    }

    fn next(&mut self, tag: u8) -> Option<DerValue<'a>> {
        self.0.next_if(|value| value.tag == tag)
    }

    /// The value inside an explicit tag: `Some(None)` if the field is absent, `None` if it is malformed.
    #[expect(clippy::option_option, reason = "absent and malformed are different")]
    fn optional(&mut self, tag: u8, inner: u8) -> Option<Option<DerValue<'a>>> {
        match self.next(tag) {
            None => Some(None),
            Some(outer) => only_field(outer.content, inner).map(Some),
        }
    }

    /// Fails if a field is left.
    fn end(mut self) -> Option<()> {
        self.0.next().is_none().then_some(())
    }
}

fn only_field(content: &[u8], tag: u8) -> Option<DerValue<'_>> {
    let mut fields = Fields::of(content)?;
    let value = fields.next(tag)?;
    fields.end().map(|()| value)
}

impl<'a> BasicResponse<'a> {
    /// Reads a response. An error that the responder sent is an error.
    pub(super) fn from_der(der: &'a [u8]) -> Result<Self, OcspDefect> {
        if der.len() > RESPONSE_BYTES_MAX {
            return Err(OcspDefect::TooLong);
        }
        let (status, bytes) = outer(der).ok_or(OcspDefect::Malformed)?;
        if let Some(error) = responder_error(status) {
            return Err(OcspDefect::ResponderError(error));
        }
        bytes.and_then(Self::from_basic).ok_or(OcspDefect::Malformed)
    }

    fn from_basic(der: &'a [u8]) -> Option<Self> {
        let mut parts = Fields::of(only_field(der, SEQUENCE)?.content)?;
        let (data, algorithm) = (parts.next(SEQUENCE)?, parts.next(SEQUENCE)?);
        let signature = parts.next(BIT_STRING)?;
        let certificates = parts.optional(NESTED[0], SEQUENCE)?;
        parts.end()?;
        let certificates = certificates.map_or(&[][..], |list| list.content);
        let certificates = values(certificates).map(|value| Some(value?.whole)).collect::<Option<_>>()?;

        let mut fields = Fields::of(data.content)?;
        // Version 1 is the only one, and the default.
        if fields.optional(NESTED[0], INTEGER)?.is_some_and(|version| version.content != [0]) {
            return None;
        }
        let responder = match fields.optional(NESTED[1], SEQUENCE)? {
            Some(name) => ResponderId::Name(name.whole),
            None => ResponderId::KeyHash(fields.optional(NESTED[2], OCTET_STRING)??.content),
        };
        let produced_at = time(fields.next(GENERALIZED_TIME)?)?;
        let responses = fields.next(SEQUENCE)?.content;
        let responses = values(responses).map(|single| SingleResponse::read(single?)).collect::<Option<_>>()?;
        no_critical_extension(fields.optional(NESTED[1], SEQUENCE)?)?;
        fields.end()?;
        let signed = SignedDer::from_parts(data, algorithm, signature)?;
        Some(Self { responder, produced_at, responses, signed, certificates })
    }
}

impl<'a> SingleResponse<'a> {
    fn read(value: DerValue<'a>) -> Option<Self> {
        if value.tag != SEQUENCE {
            return None;
        }
        let mut fields = Fields::of(value.content)?;
        let id = CertificateId::read(fields.next(SEQUENCE)?)?;
        let status = if let Some(revoked) = fields.next(NESTED[1]) {
            let mut revoked = Fields::of(revoked.content)?;
            let since = time(revoked.next(GENERALIZED_TIME)?)?;
            revoked.optional(NESTED[0], ENUMERATED)?;
            revoked.end()?;
            CertificateStatus::Revoked { since }
        } else if let Some(good) = fields.next(EMPTY[0]) {
            good.content.is_empty().then_some(CertificateStatus::Good)?
        } else {
            fields.next(EMPTY[2])?.content.is_empty().then_some(CertificateStatus::Unknown)?
        };
        let this_update = time(fields.next(GENERALIZED_TIME)?)?;
        let next_update = match fields.optional(NESTED[0], GENERALIZED_TIME)? {
            Some(next) => Some(time(next)?),
            None => None,
        };
        no_critical_extension(fields.optional(NESTED[1], SEQUENCE)?)?;
        fields.end()?;
        Some(Self { id, status, this_update, next_update })
    }
}

impl<'a> CertificateId<'a> {
    fn read(value: DerValue<'a>) -> Option<Self> {
        let mut fields = Fields::of(value.content)?;
        let hash_algorithm = Fields::of(fields.next(SEQUENCE)?.content)?.next(OBJECT_IDENTIFIER)?.content;
        let (name, key) = (fields.next(OCTET_STRING)?, fields.next(OCTET_STRING)?);
        let serial = fields.next(INTEGER)?;
        fields.end()?;
        let (issuer_name_hash, issuer_key_hash) = (name.content, key.content);
        Some(Self { hash_algorithm, issuer_name_hash, issuer_key_hash, serial: serial.content })
    }
}

/// The status, and the DER of the basic response.
fn outer(der: &[u8]) -> Option<(u8, Option<&[u8]>)> {
    let mut fields = Fields::of(only_field(der, SEQUENCE)?.content)?;
    let [status] = fields.next(ENUMERATED)?.content else { return None };
    let bytes = fields.optional(NESTED[0], SEQUENCE)?;
    fields.end()?;
    let Some(bytes) = bytes else { return Some((*status, None)) };
    let mut bytes = Fields::of(bytes.content)?;
    let is_basic = bytes.next(OBJECT_IDENTIFIER)?.content == ID_PKIX_OCSP_BASIC;
    let response = bytes.next(OCTET_STRING)?.content;
    bytes.end()?;
    Some((*status, is_basic.then_some(response)))
}

fn responder_error(status: u8) -> Option<ResponderError> {
    Some(match status {
        0 => return None,
        1 => ResponderError::MalformedRequest,
        2 => ResponderError::Internal,
        3 => ResponderError::TryLater,
        5 => ResponderError::SignatureRequired,
        6 => ResponderError::Unauthorized,
        other => ResponderError::Other(other),
    })
}

/// Fails if an extension is critical: the gateway evaluates none. A nonce would be for another client's request.
fn no_critical_extension(extensions: Option<DerValue<'_>>) -> Option<()> {
    for extension in values(extensions.map_or(&[][..], |list| list.content)) {
        let mut fields = Fields::of(extension?.content)?;
        fields.next(OBJECT_IDENTIFIER)?;
        if fields.next(BOOLEAN).is_some_and(|critical| critical.content != [0]) {
            return None;
        }
    }
    Some(())
}

fn time(value: DerValue<'_>) -> Option<SystemTime> {
    match ASN1Time::from_der(value.whole) {
        Ok(([], time)) => Some(system_time(time)),
        _ => None,
    }
}
