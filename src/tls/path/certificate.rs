//! One certificate on the path from a leaf certificate to a trust anchor, and what is checked of it alone.

use std::collections::BTreeSet;
use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::X509Extension;
use x509_parser::oid_registry::OID_PKCS9_EMAIL_ADDRESS;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::super::certificate_defect::CertificateDefect;
use super::super::der::{BIT_STRING, BOOLEAN, DerValue, INTEGER, OBJECT_ID, SEQUENCE, only_value, values};
use super::super::signed_der::SignedDer;
use super::name::CanonicalName;
use super::name_constraints::{Name, NameConstraints, unsigned, unsigned_value};
use super::policies::{ANY_POLICY, PolicyExtensions, PolicyId, PolicyStep};
use crate::identity::DistinguishedName;

/// Real certificates have 1 to 4 KiB, and a TLS message cannot carry a larger chain.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// What the leaf certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tls) enum CertificatePurpose {
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

impl CertificatePurpose {
    /// Each extendedKeyUsage that allows it, as the content of the DER of its object identifier.
    fn extended_key_usages(self) -> &'static [&'static [u8]] {
        match self {
            Self::Server => &[&[0x2b, 6, 1, 5, 5, 7, 3, 1], MICROSOFT_SGC, NETSCAPE_SGC],
            Self::Client => &[&[0x2b, 6, 1, 5, 5, 7, 3, 2]],
        }
    }

    /// The bit of `nsCertType` that a leaf certificate needs if it has that extension, as in OpenSSL.
    fn netscape_type(self) -> u8 {
        match self {
            Self::Server => NETSCAPE_SERVER,
            Self::Client => NETSCAPE_CLIENT,
        }
    }

    /// The bits of `keyUsage` of which a leaf certificate needs one, as in OpenSSL.
    fn key_usages(self) -> u8 {
        match self {
            Self::Server => DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT,
            Self::Client => DIGITAL_SIGNATURE | KEY_AGREEMENT,
        }
    }
}

/// `anyExtendedKeyUsage`
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

/// `msSGC` and `nsSGC` (server gated cryptography, 1.3.6.1.4.1.311.10.3.3 and 2.16.840.1.113730.4.1): old forms of
/// `serverAuth`, which OpenSSL accepts for servers.
const MICROSOFT_SGC: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3];
const NETSCAPE_SGC: &[u8] = &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1];

/// `nsCertType` (2.16.840.1.113730.1.1), which says what a certificate is for. Old private PKIs still write it.
const NETSCAPE_TYPE: &[u8] = &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 1, 1];

// The first byte of `nsCertType`.
const NETSCAPE_CLIENT: u8 = 0x80;
const NETSCAPE_SERVER: u8 = 0x40;

// The first byte of `keyUsage`.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tls) enum CertificateOrigin {
    /// It is a trust anchor.
    TrustAnchor,
    /// The peer sent it, or it is in `ca_file` without being a trust anchor.
    Chain,
}

/// A certificate that was parsed for path validation.
pub(in crate::tls) struct PathCertificate<'a> {
    pub(super) der: &'a [u8],
    pub(super) x509: X509Certificate<'a>,
    pub(super) signed: SignedDer<'a>,
    pub(super) origin: CertificateOrigin,
    pub(super) subject: CanonicalName,
    pub(super) issuer: CanonicalName,
    pub(super) extensions: PathExtensions<'a>,
}

/// The extensions that path validation evaluates.
#[derive(Debug, Default)]
pub(super) struct PathExtensions<'a> {
    pub(super) is_ca: bool,
    pub(super) path_length: Option<u32>,
    /// The first byte of `keyUsage`.
    key_usage: Option<u8>,
    extended_key_usages: Option<Vec<&'a [u8]>>,
    /// The first byte of `nsCertType`.
    netscape_type: Option<u8>,
    /// The subject alternative names.
    names: Vec<Name<'a>>,
    pub(super) name_constraints: Option<NameConstraints<'a>>,
    pub(super) policies: PolicyExtensions<'a>,
    pub(super) subject_key: Option<&'a [u8]>,
    pub(super) authority_key: Option<&'a [u8]>,
    /// The OID of a critical extension that is not evaluated.
    unknown_critical: Option<String>,
}

impl<'a> PathCertificate<'a> {
    /// Parses `der`; `None` if it is malformed, or an extension that path validation evaluates is.
    pub(in crate::tls) fn from_der(der: &'a [u8], origin: CertificateOrigin) -> Option<Self> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return None;
        }
        let ([], x509) = X509Certificate::from_der(der).ok()? else { return None };
        let extensions = PathExtensions::read(x509.extensions())?;
        let signed = SignedDer::from_der(der)?;
        let name = |name: &X509Name<'_>| CanonicalName::from_der(name.as_raw());
        let (subject, issuer) = (name(x509.subject())?, name(x509.issuer())?);
        let certificate = Self { der, x509, signed, origin, subject, issuer, extensions };
        // Extensions exist since version 3, and would not be expected in older certificates. There is no version 4.
        let is_known = match certificate.version() {
            3 => true,
            version => version < 3 && certificate.x509.extensions().is_empty(),
        };
        is_known.then_some(certificate)
    }

    /// The X.509 version, counted from 1.
    pub(super) fn version(&self) -> u32 {
        self.x509.version().0.saturating_add(1)
    }

    /// Whether subject and issuer are the same name.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether nothing says that another certificate of the same name is its issuer, as in OpenSSL.
    pub(in crate::tls) fn is_self_signed(&self) -> bool {
        let is_own_key = |key: &[u8]| self.extensions.subject_key.is_none_or(|own| own == key);
        self.is_self_issued() && self.extensions.authority_key.is_none_or(is_own_key)
    }

    /// What the evaluation of policies needs.
    pub(super) fn policy_step(&self) -> PolicyStep<'_, 'a> {
        PolicyStep { own: &self.extensions.policies, is_self_issued: self.is_self_issued() }
    }

    /// The DER of its `SubjectPublicKeyInfo`.
    pub(super) fn public_key(&self) -> &'a [u8] {
        self.x509.tbs_certificate.subject_pki.raw
    }

    /// The size of its key, if it is an RSA key.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        match self.x509.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()),
            _ => None,
        }
    }

    pub(super) fn display_name(&self) -> Option<DistinguishedName> {
        DistinguishedName::from_der(self.x509.subject().as_raw())
    }

    /// Every name that name constraints apply to.
    pub(super) fn constrained_names(&self) -> Vec<Name<'a>> {
        let subject = (!self.subject.is_empty()).then(|| Name::directory(self.subject.clone()));
        let attributes = self.x509.tbs_certificate.subject.iter_by_oid(&OID_PKCS9_EMAIL_ADDRESS);
        let emails = attributes.map(|attribute| Name::email(std::str::from_utf8(attribute.attr_value().data).ok()));
        let emails: Vec<_> = emails.collect();
        let mut names = self.extensions.names.clone();
        names.extend(subject.into_iter().chain(emails));
        names
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

    /// Checks that it may be used as a leaf certificate. `may_be_ca` says whether a CA certificate may.
    pub(super) fn check_as_leaf(&self, purpose: CertificatePurpose, may_be_ca: bool) -> Result<(), CertificateError> {
        self.check_critical()?;
        if self.extensions.is_ca && !may_be_ca {
            return Err(CertificateDefect::CaCertificate.into());
        }
        if !self.allows(purpose) {
            return Err(CertificateError::InvalidPurpose);
        }
        // The bits for CAs do not count: a CA needs basicConstraints (RFC 5280 § 4.2.1.9).
        if self.extensions.netscape_type.is_some_and(|bits| bits & purpose.netscape_type() == 0) {
            return Err(CertificateDefect::NetscapeType.into());
        }
        match self.extensions.key_usage {
            Some(usage) if usage & purpose.key_usages() == 0 => Err(CertificateDefect::KeyUsage.into()),
            _ => Ok(()),
        }
    }

    /// Checks that it may sign certificates, with `below` intermediates that are not self-issued between it and the
    /// leaf certificate.
    pub(super) fn check_as_issuer(&self, below: u32, purpose: CertificatePurpose) -> Result<(), CertificateError> {
        let is_old_root = self.version() < 3 && self.is_self_issued();
        // Version 1 has no CA field. A root that is a trust anchor is a CA; a certificate with an issuer may be a leaf.
        if is_old_root && self.origin == CertificateOrigin::TrustAnchor {
            return Ok(());
        }
        // An unknown root is the more helpful error than a missing CA field.
        if is_old_root {
            return Err(CertificateError::UnknownIssuer);
        }
        self.check_critical()?;
        let may_sign = self.extensions.is_ca && self.extensions.key_usage.is_none_or(|usage| usage & KEY_CERT_SIGN > 0);
        let allows_depth = self.extensions.path_length.is_none_or(|most| below <= most);
        if may_sign && allows_depth && self.allows(purpose) {
            return Ok(());
        }
        let name = self.display_name().ok_or(CertificateError::BadEncoding)?;
        Err(CertificateDefect::Issuer(name).into())
    }

    fn check_critical(&self) -> Result<(), CertificateError> {
        let Some(extension) = &self.extensions.unknown_critical else { return Ok(()) };
        let subject = self.display_name().ok_or(CertificateError::BadEncoding)?;
        Err(CertificateDefect::CriticalExtension { subject, extension: extension.clone() }.into())
    }

    fn allows(&self, purpose: CertificatePurpose) -> bool {
        let wanted = |usage: &&[u8]| purpose.extended_key_usages().contains(usage) || *usage == ANY_USAGE;
        self.extensions.extended_key_usages.as_ref().is_none_or(|usages| usages.iter().any(wanted))
    }
}

impl<'a> PathExtensions<'a> {
    /// `None` if an extension is malformed or a duplicate.
    fn read(all: &[X509Extension<'a>]) -> Option<Self> {
        let mut read = Self::default();
        let mut seen = BTreeSet::new();
        for extension in all {
            if !seen.insert(extension.oid.as_bytes()) {
                return None;
            }
            let is_evaluated = match extension.oid.as_bytes() {
                // id-ce: 2.5.29
                [0x55, 0x1d, number] => read.read_one(*number, extension.value)?,
                NETSCAPE_TYPE => {
                    read.netscape_type = Some(first_byte(extension.value)?);
                    true
                }
                _ => false,
            };
            if extension.critical && !is_evaluated {
                read.unknown_critical.get_or_insert_with(|| extension.oid.to_id_string());
            }
        }
        Some(read)
    }

    /// Returns whether the extension is evaluated; `None` if it is malformed. `number` is the last part of its OID.
    fn read_one(&mut self, number: u8, der: &'a [u8]) -> Option<bool> {
        match number {
            14 => self.subject_key = only_value(der, OCTET_STRING),
            15 => self.key_usage = Some(first_byte(der)?),
            17 => self.names = list(der)?.map(|name| Name::from_der(name?)).collect::<Option<_>>()?,
            19 => (self.is_ca, self.path_length) = basic_constraints(der)?,
            30 => self.name_constraints = Some(NameConstraints::from_der(der)?),
            // Only says where revocation lists are; the gateway reads them from files.
            31 => {}
            32 => self.policies.policies = Some(policies(der)?),
            33 => self.policies.mappings = mappings(der)?,
            35 => self.authority_key = authority_key(der),
            36 => (self.policies.require_explicit, self.policies.inhibit_mapping) = policy_constraints(der)?,
            37 => {
                let usages: Vec<_> = list(der)?.map(object_id).collect::<Option<_>>()?;
                self.extended_key_usages = Some(usages).filter(|usages| !usages.is_empty());
                self.extended_key_usages.as_ref()?;
            }
            54 => self.policies.inhibit_any = Some(unsigned_value(der)?),
            _ => return Some(false),
        }
        // The key identifiers only help to find the issuer. RFC 5280 forbids to mark them as critical.
        Some(!matches!(number, 14 | 35))
    }
}

const OCTET_STRING: u8 = 0x04;

/// The values of a sequence.
fn list(der: &[u8]) -> Option<impl Iterator<Item = Option<DerValue<'_>>>> {
    Some(values(only_value(der, SEQUENCE)?))
}

fn object_id(der: Option<DerValue<'_>>) -> Option<&[u8]> {
    der.filter(|value| value.tag == OBJECT_ID && !value.content.is_empty()).map(|value| value.content)
}

/// The first byte of a bit string; 0 if it is empty.
fn first_byte(der: &[u8]) -> Option<u8> {
    let (unused, bits) = only_value(der, BIT_STRING)?.split_first()?;
    (*unused < 8).then(|| bits.first().copied().unwrap_or_default())
}

fn basic_constraints(der: &[u8]) -> Option<(bool, Option<u32>)> {
    let mut parts = list(der)?.peekable();
    let is_ca = match parts.next_if(|part| part.is_some_and(|part| part.tag == BOOLEAN)) {
        Some(part) => match part?.content {
            [0xff] => true,
            [0] => false,
            _ => return None,
        },
        None => false,
    };
    let path_length = match parts.next() {
        Some(part) => Some(part.filter(|part| part.tag == INTEGER).and_then(|part| unsigned(part.content))?),
        None => None,
    };
    parts.next().is_none().then_some((is_ca, path_length))
}

fn policies(der: &[u8]) -> Option<BTreeSet<PolicyId<'_>>> {
    let mut found = BTreeSet::new();
    for information in list(der)? {
        let information = information.filter(|information| information.tag == SEQUENCE)?;
        let policy = object_id(values(information.content).next()?)?;
        if !found.insert(policy) {
            return None;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// No policy may be mapped to or from `anyPolicy`.
fn mappings(der: &[u8]) -> Option<Vec<(PolicyId<'_>, PolicyId<'_>)>> {
    let mut found = Vec::new();
    for mapping in list(der)? {
        let mut parts = values(mapping.filter(|mapping| mapping.tag == SEQUENCE)?.content);
        let pair = (object_id(parts.next()?)?, object_id(parts.next()?)?);
        if parts.next().is_some() || pair.0 == ANY_POLICY || pair.1 == ANY_POLICY {
            return None;
        }
        found.push(pair);
    }
    (!found.is_empty()).then_some(found)
}

fn policy_constraints(der: &[u8]) -> Option<(Option<u32>, Option<u32>)> {
    let (mut explicit, mut mapping) = (None, None);
    for part in list(der)? {
        let part = part?;
        let target = match part.tag {
            0x80 if explicit.is_none() && mapping.is_none() => &mut explicit,
            0x81 if mapping.is_none() => &mut mapping,
            _ => return None,
        };
        *target = Some(unsigned(part.content)?);
    }
    (explicit.is_some() || mapping.is_some()).then_some((explicit, mapping))
}

fn authority_key(der: &[u8]) -> Option<&[u8]> {
    let first = list(der)?.next()??;
    (first.tag == 0x80).then_some(first.content)
}
