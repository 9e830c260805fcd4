//! Revocation lists: which certificates their authority has taken back.
//!
//! A certificate is revoked if a list of its issuer, signed with that issuer's key, has its number. That is all: a list
//! that is past its date still counts, a certificate without a list passes, since an operator gives the lists that there
//! are. Our own, and not webpki's, because that one takes a single list for each issuer, none of version 1 (which
//! `openssl ca -gencrl` writes unless told otherwise), and cannot judge certificates of version 1.
//!
//! Refuses lists that count for other authorities than the one that signed them, and those that only change another list.

use std::collections::HashSet;
use std::path::Path;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::pem::Source;
use super::problem::{Location, MaterialError};
use super::signed::{Algorithms, INTEGER, SEQUENCE, Signed, values};
use crate::identity::{DistinguishedName, system_time};

/// Signatures that are checked for one chain: beyond, somebody sends what no server has.
const SIGNATURES_MAX: u32 = 32;

/// One list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// Whose certificates it is about.
    pub issuer: DistinguishedName,
    /// When it was made.
    pub this_update: SystemTime,
    /// When the next one is due; a list need not say so.
    pub next_update: Option<SystemTime>,
    /// Where it was read from.
    pub location: Location,
    issuer_der: Vec<u8>,
    /// Without leading zeros.
    serials: HashSet<Vec<u8>>,
    der: Vec<u8>,
}

/// Why a list cannot be used although it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableList {
    /// Bytes that are no list.
    #[error("is damaged")]
    Damaged,
    /// Only what changed since another list.
    #[error("is a delta list, which is not read")]
    Delta,
    /// About certificates of others than its signer.
    #[error("is an indirect list, which is not read")]
    Indirect,
    /// A critical extension, so that one who does not know it would read it wrongly.
    #[error("has a critical extension that is not known")]
    UnknownExtension,
}

impl RevocationList {
    /// Reads the DER of one list.
    pub(super) fn from_der(der: &[u8], location: Location) -> Result<Self, UnusableList> {
        let Ok(([], list)) = CertificateRevocationList::from_der(der) else { return Err(UnusableList::Damaged) };
        for extension in list.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::IssuingDistributionPoint(point) if point.indirect_crl => {
                    return Err(UnusableList::Indirect);
                }
                ParsedExtension::IssuingDistributionPoint(_) => {}
                _ if extension.oid.to_id_string() == "2.5.29.27" => return Err(UnusableList::Delta),
                _ if extension.critical => return Err(UnusableList::UnknownExtension),
                _ => {}
            }
        }
        Ok(Self {
            issuer: DistinguishedName::from_der(list.issuer().as_raw()).ok_or(UnusableList::Damaged)?,
            this_update: system_time(list.last_update()),
            next_update: list.next_update().map(system_time),
            location,
            issuer_der: list.issuer().as_raw().to_vec(),
            serials: serials(der).ok_or(UnusableList::Damaged)?,
            der: der.to_vec(),
        })
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// Whether `authority` has the issuer's name.
    pub(super) fn is_about(&self, authority: &X509Certificate<'_>) -> bool {
        authority.subject().as_raw() == self.issuer_der
    }

    /// Whether `authority` has the issuer's name and made the signature.
    pub(super) fn is_signed_by(&self, authority: &X509Certificate<'_>, algorithms: Algorithms<'_>) -> bool {
        self.is_about(authority)
            && Signed::from_der(&self.der)
                .is_some_and(|list| list.verify(authority.public_key().raw, algorithms).is_ok())
    }

    fn names(&self, certificate: &X509Certificate<'_>) -> bool {
        certificate.issuer().as_raw() == self.issuer_der
            && self.serials.contains(without_zeros(certificate.tbs_certificate.raw_serial()))
    }
}

/// The numbers of a list. Read here because x509-parser takes a list with one odd entry for an empty one.
fn serials(der: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let list = Signed::from_der(der)?;
    // Behind algorithm and issuer.
    let Some(entries) = list.fields.iter().filter(|field| field.tag == SEQUENCE).nth(2) else {
        return Some(HashSet::new());
    };
    values(entries.content)
        .map(|entry| {
            let serial = values(entry?.content).next()??;
            (serial.tag == INTEGER).then(|| without_zeros(serial.content).to_vec())
        })
        .collect()
}

fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

/// Refuses the chain if one of `lists` names one of its certificates.
///
/// Looks at everything that the peer sent: a revoked certificate is refused even if the chain could do without it.
/// Signatures are checked only when a list names a certificate.
pub(super) fn check(
    lists: &[RevocationList],
    chain: &[&CertificateDer<'_>],
    authorities: &[CertificateDer<'static>],
    algorithms: Algorithms<'_>,
) -> Result<(), CertificateError> {
    if lists.is_empty() {
        return Ok(());
    }
    let certificates: Vec<_> = chain.iter().filter_map(|der| parsed(der)).collect();
    let ours: Vec<_> = authorities.iter().filter_map(|der| parsed(der)).collect();
    let issuers = || certificates.iter().skip(1).chain(&ours);
    let mut signatures_left = SIGNATURES_MAX;
    for certificate in &certificates {
        for list in lists.iter().filter(|list| list.names(certificate)) {
            for issuer in issuers().filter(|issuer| issuer.subject().as_raw() == certificate.issuer().as_raw()) {
                signatures_left = signatures_left.checked_sub(1).ok_or(CertificateError::Revoked)?;
                if list.is_signed_by(issuer, algorithms) {
                    return Err(CertificateError::Revoked);
                }
            }
        }
    }
    Ok(())
}

/// Reads `crl_file` of the table whose path is `section`; without one there are no lists.
pub fn read_revocation_lists(section: &str, crl_file: Option<&Path>) -> Result<Vec<RevocationList>, MaterialError> {
    match crl_file {
        Some(file) => Source::new(section, "crl_file", file).revocation_lists(),
        None => Ok(Vec::new()),
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}
