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

use super::material_error::{Location, MaterialError};
use super::pem::MaterialFile;
use super::signed_der::{Algorithms, INTEGER, SEQUENCE, SignedDer, values};
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
            && SignedDer::from_der(&self.der)
                .is_some_and(|list| list.verify(authority.public_key().raw, algorithms).is_ok())
    }

    fn names(&self, certificate: &X509Certificate<'_>) -> bool {
        certificate.issuer().as_raw() == self.issuer_der
            && self.serials.contains(without_zeros(certificate.tbs_certificate.raw_serial()))
    }
}

/// The numbers of a list. Read here because x509-parser takes a list with one odd entry for an empty one.
fn serials(der: &[u8]) -> Option<HashSet<Vec<u8>>> {
    let list = SignedDer::from_der(der)?;
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
/// Looks at everything that the peer sent: a revoked certificate is refused even if the chain could do without it, and so is
/// what cannot be read, since it could be one.
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
    let certificates: Option<Vec<_>> = chain.iter().map(|der| parsed(der)).collect();
    let certificates = certificates.ok_or(CertificateError::BadEncoding)?;
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
        Some(file) => MaterialFile::new(section, "crl_file", file).revocation_lists(),
        None => Ok(Vec::new()),
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
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

    fn is_revoked(
        lists: &[RevocationList],
        chain: &[&CertificateDer<'_>],
        authorities: &[&CertificateAuthority],
    ) -> bool {
        let authorities: Vec<_> = authorities.iter().map(|authority| authority.der().clone()).collect();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        check(lists, chain, &authorities, algorithms) == Err(CertificateError::Revoked)
    }

    #[test]
    fn what_a_list_names_is_revoked_and_nothing_else() {
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
    fn a_list_counts_only_with_the_signature_of_the_issuer() {
        let acme = CertificateAuthority::new("Acme CA");
        let bad = acme.issue("mongo", &[]).der;
        let (anew, other) = (CertificateAuthority::new("Acme CA"), CertificateAuthority::new("Other CA"));
        let stranger = read(&anew.revocation_list(&[&bad], 2090)).unwrap();
        assert!(!is_revoked(&stranger, &[&bad], &[&acme, &anew].map(|_| &acme)));
        let elsewhere = read(&other.revocation_list(&[&bad], 2090)).unwrap();
        assert!(!is_revoked(&elsewhere, &[&bad], &[&acme, &other]));
        let both =
            read(&format!("{}{}", anew.revocation_list(&[], 2090), acme.revocation_list(&[&bad], 2090))).unwrap();
        assert!(is_revoked(&both, &[&bad], &[&anew, &acme]));
    }

    #[test]
    fn an_intermediate_is_looked_up_too_and_may_have_a_list() {
        let acme = CertificateAuthority::new("Acme CA");
        let upper = acme.intermediate("Upper");
        let leaf = upper.issue("mongo", &[]).der;
        let of_root = read(&acme.revocation_list(&[upper.der()], 2090)).unwrap();
        assert!(is_revoked(&of_root, &[&leaf, upper.der()], &[&acme]));
        let of_upper = read(&upper.revocation_list(&[&leaf], 2090)).unwrap();
        assert!(is_revoked(&of_upper, &[&leaf, upper.der()], &[&acme]));
    }

    #[test]
    fn what_cannot_be_read_could_be_revoked() {
        let acme = CertificateAuthority::new("Acme CA");
        let leaf = acme.issue("mongo", &[]).der;
        let lists = read(&acme.revocation_list(&[], 2090)).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let judged = |lists: &[RevocationList]| check(lists, &[&leaf, &b"junk".to_vec().into()], &[], algorithms);
        assert_eq!(judged(&lists), Err(CertificateError::BadEncoding));
        assert_eq!(judged(&[]), Ok(()));
    }

    #[test]
    fn a_list_says_whose_it_is_and_when_the_next_is_due() {
        let acme = CertificateAuthority::new("Acme CA");
        let lists = read(&acme.revocation_list(&[acme.der()], 2031)).unwrap();
        let [list] = lists.as_slice() else { panic!("{lists:?}") };
        assert_eq!((list.issuer.as_str(), list.len()), ("CN=Acme CA,O=Acme", 1));
        assert_eq!(list.next_update.map(date_text).as_deref(), Some("2031-01-01 00:00:00 UTC"));
        let empty = read(&acme.revocation_list_version_1(&[], 2031)).unwrap();
        assert!(empty[0].is_empty());
    }

    /// A list with these extensions, each an object identifier, whether it is critical, and its value.
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
    fn lists_that_would_be_read_wrongly_are_refused() {
        let delta = [0x30, 0x0d, 0x06, 0x03, 0x55, 0x1d, 0x1b, 0x01, 0x01, 0xff, 0x04, 0x03, 0x02, 0x01, 0x01];
        let indirect =
            [0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x1c, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x84, 0x01, 0xff];
        let unknown = [0x30, 0x0c, 0x06, 0x03, 0x2a, 0x03, 0x04, 0x01, 0x01, 0xff, 0x04, 0x02, 0x05, 0x00];
        let harmless = [0x30, 0x09, 0x06, 0x03, 0x2a, 0x03, 0x04, 0x04, 0x02, 0x05, 0x00];
        assert_eq!(read(&list_with(&harmless)).map(|lists| lists.len()), Ok(1));
        let start = "upstream.orders.tls.crl_file: crl.pem: ";
        let certificate = CertificateAuthority::new("Acme CA").pem;
        for (text, expected) in [
            (list_with(&delta), "block 1 of the file, X509 CRL, is a delta list, which is not read"),
            (list_with(&indirect), "block 1 of the file, X509 CRL, is an indirect list, which is not read"),
            (list_with(&unknown), "block 1 of the file, X509 CRL, has a critical extension that is not known"),
            (pem("X509 CRL", b"junk"), "block 1 of the file, X509 CRL, is damaged"),
            (certificate, "the file holds no revocation list (it has: CERTIFICATE)"),
            (String::new(), "the file holds no revocation list (it has no PEM block)"),
        ] {
            assert_eq!(read(&text), Err(format!("{start}{expected}")));
        }
    }

    #[test]
    fn a_list_with_an_entry_that_cannot_be_read_is_not_an_empty_one() {
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
        // The number of the first entry becomes a string.
        let at = entries.iter().position(|byte| *byte == INTEGER).unwrap();
        entries[at] = 0x04;
        let odd = pem("X509 CRL", &signed(&fields.concat(), &algorithm, acme.key()));
        assert_eq!(
            read(&odd),
            Err("upstream.orders.tls.crl_file: crl.pem: block 1 of the file, X509 CRL, is damaged".to_owned())
        );
    }
}
