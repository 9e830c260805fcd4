//! The authorities that a peer's certificate may come from.
//!
//! Refuses certificates that may not sign others, unless they stand for themselves.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::credentials::read_facts;
use super::pem::Source;
use super::problem::{Location, MaterialError, Problem};
use crate::config::TlsFiles;
use crate::identity::CertificateFacts;

/// The certificates that a peer's chain may end at.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// As rustls takes them; not empty.
    pub roots: Arc<RootCertStore>,
    /// The same, to be read.
    pub certificates: Vec<CertificateFacts>,
    /// The same, as they are.
    pub der: Arc<[CertificateDer<'static>]>,
    /// Where they come from.
    pub location: Location,
}

impl Authorities {
    /// Reads the authorities of a table such as `upstream.orders.tls`, whose path is `section`.
    ///
    /// Takes certificates that may sign others (version 1 cannot say so and is taken), and self-issued ones, which lets a
    /// server's own certificate stand for itself. Others in the file are passed over: rustls would let them sign.
    pub fn read(section: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        if let Some(problem) = own_certificate(section, files) {
            return Err(Source::new(section, "ca_file", &files.ca_file).error(problem));
        }
        Self::read_file(section, &files.ca_file)
    }

    /// Reads `ca_file` where our own certificate comes from elsewhere.
    pub fn read_file(section: &str, ca_file: &Path) -> Result<Self, MaterialError> {
        let source = Source::new(section, "ca_file", ca_file);
        let certificates = source.certificates()?;
        Self::taken(certificates, source.location())
    }

    /// Takes what came in another way than by files, as DER. `key` is the path of the configuration key that names where it
    /// came from.
    pub fn from_certificates(key: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, MaterialError> {
        let location = Location { key: key.to_owned(), file: None };
        match read_facts(certificates) {
            Ok(certificates) => Self::taken(certificates, location),
            Err(problem) => Err(MaterialError { location, problem }),
        }
    }

    /// The authority that `certificate` names as its issuer.
    pub fn issuer_of(&self, certificate: &CertificateFacts) -> Option<&CertificateFacts> {
        self.certificates.iter().find(|authority| authority.subject == certificate.issuer)
    }

    fn taken(
        certificates: Vec<(CertificateDer<'static>, CertificateFacts)>,
        location: Location,
    ) -> Result<Self, MaterialError> {
        let mut roots = RootCertStore::empty();
        let (mut taken, mut ders) = (Vec::new(), Vec::new());
        let mut first_subject = None;
        for (index, (der, facts)) in certificates.into_iter().enumerate() {
            first_subject.get_or_insert_with(|| facts.subject.to_string());
            if facts.is_ca || facts.version < 3 || facts.is_self_issued() {
                if roots.add(der.clone()).is_err() {
                    let problem = Problem::Damaged { position: index + 1, label: "CERTIFICATE".to_owned() };
                    return Err(MaterialError { location, problem });
                }
                taken.push(facts);
                ders.push(der);
            }
        }
        if taken.is_empty() {
            let subject = first_subject.unwrap_or_default();
            return Err(MaterialError { location, problem: Problem::NoAuthority { subject } });
        }
        Ok(Self { roots: Arc::new(roots), certificates: taken, der: ders.into(), location })
    }
}

/// Our own certificate, where it is all that the authorities' file holds and stands for nobody else: an error then, whether
/// the certificate says that it is no authority, or cannot say so for being of version 1.
fn own_certificate(section: &str, files: &TlsFiles) -> Option<Problem> {
    let first = |key, file| Source::new(section, key, file).certificates().ok()?.into_iter().next();
    let (own, facts) = first("certificate_file", &files.certificate_file)?;
    let named = Source::new(section, "ca_file", &files.ca_file).certificates().ok()?;
    let is_alone = matches!(named.as_slice(), [(only, _)] if *only == own);
    let subject = facts.subject.to_string();
    (is_alone && !facts.is_ca && !facts.is_self_issued()).then_some(Problem::OwnCertificate { subject })
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::tls::test_pki::{Authority, Folder, files_of};

    fn read_authorities(ca: impl AsRef<[u8]>) -> Result<Authorities, String> {
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &Authority::new("Acme CA").issue("unused", &[]), "");
        let files = files_of(&mut upstream);
        files.ca_file = folder.write("ca.pem", ca);
        let folder = format!("{}/", folder.path().display());
        Authorities::read("upstream.orders.tls", files).map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn self_signed(key: &KeyPair) -> String {
        rcgen::CertificateParams::default().self_signed(key).unwrap().pem()
    }

    #[test]
    fn authorities_are_certificates_that_may_sign_or_stand_for_themselves() {
        let acme = Authority::new("Acme CA");
        let leaf = acme.issue("mongod", &["mongo"]).certificate_pem;
        let pinned = self_signed(&KeyPair::generate().unwrap());
        let old = acme.issue_version_1("old root").certificate_pem;
        for (ca, count) in [
            (acme.pem.clone(), 1),
            (format!("{}{}", acme.pem, Authority::new("Other CA").pem), 2),
            (format!("{leaf}{}", acme.pem), 1),
            (pinned, 1),
            (old, 1),
        ] {
            let authorities = read_authorities(ca).unwrap();
            assert_eq!((authorities.roots.len(), authorities.certificates.len()), (count, count));
        }
    }

    #[test]
    fn files_without_an_authority_are_refused() {
        let client = Authority::new("Acme CA").issue("svc-a", &[]);
        let start = "upstream.orders.tls.ca_file: ca.pem: ";
        for (ca, expected) in [
            (String::new(), "the file holds no certificate (it has no PEM block)"),
            (client.key_pem, "the file holds no certificate (it has: PRIVATE KEY)"),
            (
                client.certificate_pem,
                "no certificate of the file is that of an authority; the first is that of CN=svc-a,O=Acme",
            ),
        ] {
            assert_eq!(read_authorities(ca).unwrap_err(), format!("{start}{expected}"));
        }
    }

    #[test]
    fn our_own_certificate_is_no_authority_even_where_its_version_cannot_say_so() {
        let acme = Authority::new("Acme CA");
        for own in [acme.issue("svc-a", &[]), acme.issue_version_1("svc-a")] {
            let folder = Folder::new();
            let upstream = folder.upstream(1, &own, &own.certificate_pem);
            let error = Authorities::read("upstream.orders.tls", upstream.tls.files().unwrap()).unwrap_err();
            assert!(matches!(&error.problem, Problem::OwnCertificate { subject } if subject == "CN=svc-a,O=Acme"));
            let beside = folder.upstream(1, &own, &format!("{}{}", own.certificate_pem, acme.pem));
            assert!(Authorities::read("upstream.orders.tls", beside.tls.files().unwrap()).is_ok());
        }
    }
}
