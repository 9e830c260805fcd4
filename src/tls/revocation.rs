//! Certificate revocation lists (CRLs).
//!
//! A certificate is revoked if a CRL of its issuer, signed with the issuer's key, contains its serial number. A CRL
//! counts even after its next update is due, and a certificate without a CRL passes: the operator provides the CRLs
//! that exist. The check of webpki, the verifier of rustls, cannot be used: it accepts one CRL per issuer, no CRL of
//! version 1 (the default of `openssl ca -gencrl`), and no certificate of version 1. Names are compared as in path
//! validation.
//!
//! Delta CRLs and indirect CRLs are rejected.

use std::collections::HashSet;
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::der::{INTEGER, SEQUENCE, values};
use super::material_error::{Location, UnusableList};
use super::path::CanonicalName;
use super::signed_der::{Algorithms, SignedDer};
use crate::identity::{DistinguishedName, system_time};

/// CRL signatures that are verified for one chain. No real server sends a chain that needs more.
const SIGNATURES_MAX: u32 = 32;

/// One certificate revocation list (CRL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// The issuer of the certificates that it revokes.
    pub issuer: DistinguishedName,
    /// When it was issued.
    pub this_update: SystemTime,
    /// When the next list is due, if the list says so.
    pub next_update: Option<SystemTime>,
    /// Where it was read from.
    pub location: Location,
    issuer_name: CanonicalName,
    /// Serial numbers of the revoked certificates, without leading zeros.
    serials: HashSet<Vec<u8>>,
    der: Vec<u8>,
}

impl RevocationList {
    /// Parses the DER of one list.
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
            issuer_name: CanonicalName::new(list.issuer()),
            serials: serials(der).ok_or(UnusableList::Damaged)?,
            der: der.to_vec(),
        })
    }

    /// The number of revoked certificates.
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether it revokes no certificate.
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// Whether `ca` has the name of the issuer.
    pub(super) fn is_issued_under_name_of(&self, ca: &X509Certificate<'_>) -> bool {
        CanonicalName::new(ca.subject()) == self.issuer_name
    }

    /// Whether `ca` has the name of the issuer and made the signature.
    pub(super) fn is_signed_by(&self, ca: &X509Certificate<'_>, algorithms: Algorithms<'_>) -> bool {
        self.is_issued_under_name_of(ca)
            && SignedDer::from_der(&self.der).is_some_and(|list| list.verify(ca.public_key().raw, algorithms).is_ok())
    }

    fn contains(&self, certificate: &X509Certificate<'_>) -> bool {
        self.serials.contains(without_zeros(certificate.tbs_certificate.raw_serial()))
            && CanonicalName::new(certificate.issuer()) == self.issuer_name
    }
}

/// The serial numbers of a list. x509-parser cannot be used: it reads a list with one malformed entry as an empty list.
fn serials(der: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let list = SignedDer::from_der(der)?;
    // After the algorithm and the issuer.
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

/// Rejects the chain if one of `lists` revokes one of its certificates.
///
/// Checks every certificate that the peer sent, needed for the chain or not. A certificate that cannot be parsed is
/// rejected, since it could be revoked. The signature of a list is verified only if the list contains a certificate.
pub(super) fn check_revocation(
    lists: &[RevocationList],
    chain: &[&CertificateDer<'_>],
    trust_anchors: &[CertificateDer<'static>],
    algorithms: Algorithms<'_>,
) -> Result<(), CertificateError> {
    if lists.is_empty() {
        return Ok(());
    }
    let certificates: Option<Vec<_>> = chain.iter().map(|der| parsed(der)).collect();
    let certificates = certificates.ok_or(CertificateError::BadEncoding)?;
    let anchors: Vec<_> = trust_anchors.iter().filter_map(|der| parsed(der)).collect();
    let issuers = || certificates.iter().skip(1).chain(&anchors);
    let mut signatures_left = SIGNATURES_MAX;
    for certificate in &certificates {
        for list in lists.iter().filter(|list| list.contains(certificate)) {
            for issuer in issuers().filter(|issuer| list.is_issued_under_name_of(issuer)) {
                signatures_left = signatures_left.checked_sub(1).ok_or(CertificateError::Revoked)?;
                if list.is_signed_by(issuer, algorithms) {
                    return Err(CertificateError::Revoked);
                }
            }
        }
    }
    Ok(())
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
    use super::super::revocation_files::read_revocation_lists;
    use super::*;
    use crate::identity::date_text;
    use crate::tls::test_pki::{CertificateAuthority, Folder, der_children, der_parts, pem, signed};

    fn read(text: &str) -> Result<Vec<RevocationList>, String> {
        let folder = Folder::new();
        let file = folder.write("crl.pem", text);
        read_revocation_lists("upstream.orders.tls", Some(&file)).map_err(|error| {
            assert!(!error.remedy().is_empty());
            error.to_string().replace(&format!("{}/", folder.path().display()), "")
        })
    }

    fn is_revoked(lists: &[RevocationList], chain: &[&CertificateDer<'_>], cas: &[&CertificateAuthority]) -> bool {
        let trust_anchors: Vec<_> = cas.iter().map(|ca| ca.der().clone()).collect();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        check_revocation(lists, chain, &trust_anchors, algorithms) == Err(CertificateError::Revoked)
    }

    #[test]
    fn only_certificates_in_a_list_are_revoked() {
        let acme = CertificateAuthority::new("Acme CA");
        let (good, bad) = (acme.issue("mongo", &["mongo"]).der, acme.issue("mongo", &["mongo"]).der);
        let old = acme.issue_version_1("mongo").der;
        for text in [
            acme.revocation_list(&[&bad, &old], 2090),
            acme.revocation_list(&[&bad, &old], 2025),
            acme.revocation_list_version_1(&[&bad, &old], 2090),
            format!("{}{}", acme.revocation_list(&[&bad], 2090), acme.revocation_list(&[&old], 2090)),
        ] {
            let lists = read(&text).unwrap();
            let revoked = [&good, &bad, &old].map(|der| is_revoked(&lists, &[der], &[&acme]));
            assert_eq!(revoked, [false, true, true], "{text}");
        }
    }

    #[test]
    fn a_list_counts_only_with_a_signature_of_the_issuer() {
        let acme = CertificateAuthority::new("Acme CA");
        let bad = acme.issue("mongo", &[]).der;
        let (renewed, other) = (CertificateAuthority::new("Acme CA"), CertificateAuthority::new("Other CA"));
        let stranger = read(&renewed.revocation_list(&[&bad], 2090)).unwrap();
        assert!(!is_revoked(&stranger, &[&bad], &[&acme, &renewed].map(|_| &acme)));
        let elsewhere = read(&other.revocation_list(&[&bad], 2090)).unwrap();
        assert!(!is_revoked(&elsewhere, &[&bad], &[&acme, &other]));
        let both =
            read(&format!("{}{}", renewed.revocation_list(&[], 2090), acme.revocation_list(&[&bad], 2090))).unwrap();
        assert!(is_revoked(&both, &[&bad], &[&renewed, &acme]));
    }

    #[test]
    fn an_intermediate_may_be_revoked_and_may_have_a_list() {
        let acme = CertificateAuthority::new("Acme CA");
        let upper = acme.intermediate("Upper");
        let leaf = upper.issue("mongo", &[]).der;
        let of_root = read(&acme.revocation_list(&[upper.der()], 2090)).unwrap();
        assert!(is_revoked(&of_root, &[&leaf, upper.der()], &[&acme]));
        let of_upper = read(&upper.revocation_list(&[&leaf], 2090)).unwrap();
        assert!(is_revoked(&of_upper, &[&leaf, upper.der()], &[&acme]));
    }

    #[test]
    fn a_certificate_that_cannot_be_parsed_is_rejected() {
        let acme = CertificateAuthority::new("Acme CA");
        let leaf = acme.issue("mongo", &[]).der;
        let lists = read(&acme.revocation_list(&[], 2090)).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let checked =
            |lists: &[RevocationList]| check_revocation(lists, &[&leaf, &b"junk".to_vec().into()], &[], algorithms);
        assert_eq!(checked(&lists), Err(CertificateError::BadEncoding));
        assert_eq!(checked(&[]), Ok(()));
    }

    #[test]
    fn issuer_and_next_update_of_a_list_are_read() {
        let acme = CertificateAuthority::new("Acme CA");
        let lists = read(&acme.revocation_list(&[acme.der()], 2031)).unwrap();
        let [list] = lists.as_slice() else { panic!("{lists:?}") };
        assert_eq!((list.issuer.as_str(), list.len()), ("CN=Acme CA,O=Acme", 1));
        assert_eq!(list.next_update.map(date_text).as_deref(), Some("2031-01-01 00:00:00 UTC"));
        let empty = read(&acme.revocation_list_version_1(&[], 2031)).unwrap();
        assert!(empty[0].is_empty());
    }

    /// A list with these extensions as DER: object identifier, critical flag, value.
    fn list_with(extension: &[u8]) -> String {
        let acme = CertificateAuthority::new("Acme CA");
        let list = acme.revocation_list(&[acme.der()], 2090);
        let der = {
            use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};
            CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap()
        };
        let fields = der_children(der_parts(der_parts(&der).0).0);
        let kept = fields.iter().filter(|field| field[0] != 0xa0).copied().collect::<Vec<_>>().concat();
        let length = u8::try_from(extension.len()).unwrap();
        let extensions = [&[0xa0, length + 2, 0x30, length], extension].concat();
        pem("X509 CRL", &signed(&[kept, extensions].concat(), fields[1], acme.key()))
    }

    #[test]
    fn lists_that_cannot_be_evaluated_are_rejected() {
        let delta = [0x30, 0x0d, 0x06, 0x03, 0x55, 0x1d, 0x1b, 0x01, 0x01, 0xff, 0x04, 0x03, 0x02, 0x01, 0x01];
        let indirect =
            [0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x1c, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x84, 0x01, 0xff];
        let unknown = [0x30, 0x0c, 0x06, 0x03, 0x2a, 0x03, 0x04, 0x01, 0x01, 0xff, 0x04, 0x02, 0x05, 0x00];
        let harmless = [0x30, 0x09, 0x06, 0x03, 0x2a, 0x03, 0x04, 0x04, 0x02, 0x05, 0x00];
        assert_eq!(read(&list_with(&harmless)).map(|lists| lists.len()), Ok(1));
        let start = "upstream.orders.tls.crl_file: crl.pem: ";
        let certificate = CertificateAuthority::new("Acme CA").pem;
        for (text, expected) in [
            (list_with(&delta), "block 1 (X509 CRL) is a delta CRL, which is not supported"),
            (list_with(&indirect), "block 1 (X509 CRL) is an indirect CRL, which is not supported"),
            (list_with(&unknown), "block 1 (X509 CRL) has an unknown critical extension"),
            (pem("X509 CRL", b"junk"), "block 1 (X509 CRL) is damaged"),
            (certificate, "the file contains no revocation list (it contains: CERTIFICATE)"),
            (String::new(), "the file contains no revocation list (it contains no PEM block)"),
        ] {
            assert_eq!(read(&text), Err(format!("{start}{expected}")));
        }
    }

    #[test]
    fn a_list_with_a_malformed_entry_is_damaged_and_not_empty() {
        let acme = CertificateAuthority::new("Acme CA");
        let list = acme.revocation_list_version_1(&[acme.der()], 2090);
        let der = {
            use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};
            CertificateRevocationListDer::from_pem_slice(list.as_bytes()).unwrap()
        };
        let mut fields: Vec<Vec<u8>> =
            der_children(der_parts(der_parts(&der).0).0).into_iter().map(<[u8]>::to_vec).collect();
        let algorithm = fields[0].clone();
        let entries = fields.last_mut().unwrap();
        // The serial number of the first entry becomes a string.
        let at = entries.iter().position(|byte| *byte == INTEGER).unwrap();
        entries[at] = 0x04;
        let odd = pem("X509 CRL", &signed(&fields.concat(), &algorithm, acme.key()));
        assert_eq!(read(&odd), Err("upstream.orders.tls.crl_file: crl.pem: block 1 (X509 CRL) is damaged".to_owned()));
    }
}
