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
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::rejection::Rejection;
use super::signed::{Algorithms, Signed};
use crate::identity::{CertificateFacts, DistinguishedName};

/// Authorities between a certificate and one of ours. Real chains have one or two.
const INTERMEDIATES_MAX: u32 = 6;

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
pub(super) struct Ground<'a> {
    /// As the peer sent them, in any order.
    pub(super) intermediates: &'a [CertificateDer<'a>],
    /// Ours.
    pub(super) authorities: &'a [CertificateDer<'static>],
    pub(super) algorithms: Algorithms<'a>,
    pub(super) purpose: Purpose,
    pub(super) now: UnixTime,
}

/// Finds a way from `end_entity`, which is of version 1 or 2, to one of the authorities.
pub(super) fn verify(end_entity: &CertificateDer<'_>, ground: &Ground<'_>) -> Result<(), CertificateError> {
    let certificate = Node::from_der(end_entity, Place::Sent).ok_or(CertificateError::BadEncoding)?;
    // Extensions came with version 3: nobody would look at these.
    if certificate.version() >= 3 || !certificate.x509.extensions().is_empty() {
        return Err(CertificateError::BadEncoding);
    }
    certificate.judge_dates(ground.now)?;
    if is_ours(end_entity, ground.authorities) {
        return Ok(());
    }
    let ours = ground.authorities.iter().filter_map(|der| Node::from_der(der, Place::Ours));
    let sent = ground.intermediates.iter().filter_map(|der| Node::from_der(der, Place::Sent));
    // Ours first: they end the search.
    let issuers: Vec<_> = ours.chain(sent).collect();
    let mut climb = Climb { ground, issuers: &issuers, signatures_left: SIGNATURES_MAX };
    climb.above(&certificate, 0)
}

/// Judges `end_entity`, which is of version 3 and itself among the authorities: `openssl req -x509` makes such a
/// certificate, an authority and a server in one, which webpki refuses for a server's.
pub(super) fn verify_own(
    end_entity: &CertificateDer<'_>,
    facts: &CertificateFacts,
    ground: &Ground<'_>,
) -> Result<(), CertificateError> {
    let certificate = Node::from_der(end_entity, Place::Ours).ok_or(CertificateError::BadEncoding)?;
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

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ours,
    Sent,
}

struct Node<'a> {
    x509: X509Certificate<'a>,
    signed: Signed<'a>,
    place: Place,
}

struct Climb<'a> {
    ground: &'a Ground<'a>,
    issuers: &'a [Node<'a>],
    signatures_left: u32,
}

impl Climb<'_> {
    /// `below` counts the authorities between `certificate` and the one at the end, itself included.
    fn above(&mut self, certificate: &Node<'_>, below: u32) -> Result<(), CertificateError> {
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

    fn by(&mut self, certificate: &Node<'_>, issuer: &Node<'_>, below: u32) -> Result<(), CertificateError> {
        self.signatures_left = self.signatures_left.checked_sub(1).ok_or(CertificateError::UnknownIssuer)?;
        certificate.signed.verify(issuer.x509.public_key().raw, self.ground.algorithms)?;
        issuer.judge_as_issuer(below, self.ground.purpose)?;
        issuer.judge_dates(self.ground.now)?;
        match issuer.place {
            Place::Ours => Ok(()),
            Place::Sent if below < INTERMEDIATES_MAX => self.above(issuer, below + 1),
            Place::Sent => Err(CertificateError::UnknownIssuer),
        }
    }
}

impl<'a> Node<'a> {
    fn from_der(der: &'a [u8], place: Place) -> Option<Self> {
        let ([], x509) = X509Certificate::from_der(der).ok()? else { return None };
        Some(Self { x509, signed: Signed::from_der(der)?, place })
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
            name.map_or(CertificateError::BadEncoding, |name| Rejection::Issuer(name).into())
        };
        // Version 1 cannot say so; that it is among ours says it.
        if self.place == Place::Ours && self.version() < 3 && self.x509.extensions().is_empty() {
            return Ok(());
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
