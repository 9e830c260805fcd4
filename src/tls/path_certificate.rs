//! One certificate on the path from a legacy leaf certificate to a trust anchor, and what is checked of it.
//!
//! Stricter than RFC 5280 § 6.1 to keep the code small: an issuer with name constraints, or with an unknown critical
//! extension, is rejected.

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::certificate_defect::CertificateDefect;
use super::signed_der::SignedDer;
use crate::identity::DistinguishedName;

/// What the leaf certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificatePurpose {
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

impl CertificatePurpose {
    /// The extendedKeyUsage that allows it.
    pub(super) fn extended_key_usage(self) -> &'static str {
        match self {
            Self::Server => "serverAuth",
            Self::Client => "clientAuth",
        }
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateOrigin {
    /// It is a trust anchor.
    TrustAnchor,
    /// The peer sent it.
    Peer,
}

/// A certificate that was parsed for path validation.
pub(super) struct PathCertificate<'a> {
    pub(super) x509: X509Certificate<'a>,
    pub(super) signed: SignedDer<'a>,
    pub(super) origin: CertificateOrigin,
}

impl<'a> PathCertificate<'a> {
    /// Parses `der`; `None` if it is malformed.
    pub(super) fn from_der(der: &'a [u8], origin: CertificateOrigin) -> Option<Self> {
        let ([], x509) = X509Certificate::from_der(der).ok()? else { return None };
        Some(Self { x509, signed: SignedDer::from_der(der)?, origin })
    }

    /// The X.509 version, counted from 1.
    pub(super) fn version(&self) -> u32 {
        self.x509.version().0.saturating_add(1)
    }

    /// Checks that `now` is within the validity period.
    pub(super) fn check_dates(&self, now: UnixTime) -> Result<(), CertificateError> {
        let validity = self.x509.validity();
        // A date before 1970 is in the past in any case.
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

    /// Checks that it may sign certificates, with `below` intermediates between it and the leaf certificate.
    pub(super) fn check_as_issuer(&self, below: u32, purpose: CertificatePurpose) -> Result<(), CertificateError> {
        let forbidden = || {
            let name = DistinguishedName::from_der(self.x509.subject().as_raw());
            name.map_or(CertificateError::BadEncoding, |name| CertificateDefect::Issuer(name).into())
        };
        let is_old_root = self.version() < 3 && self.x509.subject().as_raw() == self.x509.issuer().as_raw();
        // Version 1 has no CA field. A root that is a trust anchor is a CA; a certificate with an issuer may be a leaf.
        if is_old_root && self.origin == CertificateOrigin::TrustAnchor && self.x509.extensions().is_empty() {
            return Ok(());
        }
        // An unknown root is the more helpful error than a missing CA field.
        if is_old_root {
            return Err(CertificateError::UnknownIssuer);
        }
        if self.version() != 3 || self.x509.extensions().iter().any(|extension| !is_evaluated(extension)) {
            return Err(forbidden());
        }
        let constraints = self.x509.basic_constraints().ok().flatten().ok_or_else(forbidden)?.value;
        let usage = self.x509.key_usage().map_err(|_| forbidden())?;
        let extended = self.x509.extended_key_usage().map_err(|_| forbidden())?;
        let may_sign = constraints.ca && usage.is_none_or(|usage| usage.value.key_cert_sign());
        let allows_depth = constraints.path_len_constraint.is_none_or(|most| below <= most);
        let allows_purpose = extended.is_none_or(|usage| match purpose {
            _ if usage.value.any => true,
            CertificatePurpose::Server => usage.value.server_auth,
            CertificatePurpose::Client => usage.value.client_auth,
        });
        if may_sign && allows_depth && allows_purpose { Ok(()) } else { Err(forbidden()) }
    }
}

/// Whether an extension is checked here, or may be ignored.
fn is_evaluated(extension: &X509Extension<'_>) -> bool {
    match extension.parsed_extension() {
        ParsedExtension::NameConstraints(_) | ParsedExtension::ParseError { .. } => false,
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectAlternativeName(_) => true,
        _ => !extension.critical,
    }
}
