//! The authorities that a peer's certificate may come from.
//!
//! Refuses certificates that may not sign others, unless they stand for themselves.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::credentials::{Certificate, read_facts};
use super::material_error::{Location, MaterialError, MaterialProblem};
use super::pem::MaterialFile;
use crate::config::TlsFiles;
use crate::identity::CertificateFacts;

/// The certificates that a peer's chain may end at.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    /// Those that may sign others, as rustls takes them.
    pub roots: Arc<RootCertStore>,
    /// These and those that stand for themselves only, to be read; not empty.
    pub certificates: Vec<CertificateFacts>,
    /// The same as they are.
    pub der: Arc<[CertificateDer<'static>]>,
    /// Where they come from.
    pub location: Location,
}

impl TrustAnchors {
    /// Reads the authorities of a table such as `upstream.orders.tls`, whose path is `section`.
    ///
    /// Takes certificates that may sign others: those that say so, and self-issued ones of version 1, which cannot say it.
    /// Takes self-issued ones of version 3 that may not, and others of version 1, to stand for themselves: rustls would
    /// let them sign. Others in the file are passed over.
    ///
    /// Our own certificate does not count, unless it is its own issuer: it is there by mistake.
    pub fn read(section: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let source = MaterialFile::new(section, "ca_file", &files.ca_file);
        let certificates = source.certificates()?;
        let own =
            MaterialFile::new(section, "certificate_file", &files.certificate_file).certificates().unwrap_or_default();
        let is_own = |(der, facts): &Certificate| {
            own.first().is_some_and(|(own, _)| own == der) && !facts.is_ca && !facts.is_self_issued()
        };
        let (mistaken, others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(is_own);
        Self::taken(others, source.location()).map_err(|error| match (&error.problem, mistaken.first()) {
            (MaterialProblem::NoAuthority { .. }, Some((_, own))) => {
                source.error(MaterialProblem::OwnCertificate { subject: own.subject.to_string() })
            }
            _ => error,
        })
    }

    /// Reads `ca_file` where our own certificate comes from elsewhere.
    pub fn read_file(section: &str, ca_file: &Path) -> Result<Self, MaterialError> {
        let source = MaterialFile::new(section, "ca_file", ca_file);
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

    fn taken(certificates: Vec<Certificate>, location: Location) -> Result<Self, MaterialError> {
        let (mut roots, mut alone) = (RootCertStore::empty(), RootCertStore::empty());
        let (mut taken, mut ders) = (Vec::new(), Vec::new());
        let mut first_subject = None;
        for (index, (der, facts)) in certificates.into_iter().enumerate() {
            first_subject.get_or_insert_with(|| facts.subject.to_string());
            if facts.is_ca || facts.version < 3 || facts.is_self_issued() {
                let place = if may_sign(&facts) { &mut roots } else { &mut alone };
                if place.add(der.clone()).is_err() {
                    let problem = MaterialProblem::Damaged { position: index + 1, label: "CERTIFICATE".to_owned() };
                    return Err(MaterialError { location, problem });
                }
                taken.push(facts);
                ders.push(der);
            }
        }
        if taken.is_empty() {
            let subject = first_subject.unwrap_or_default();
            return Err(MaterialError { location, problem: MaterialProblem::NoAuthority { subject } });
        }
        Ok(Self { roots: Arc::new(roots), certificates: taken, der: ders.into(), location })
    }
}

/// As OpenSSL has it: of version 1 only a root is an authority.
fn may_sign(facts: &CertificateFacts) -> bool {
    facts.is_ca || (facts.version < 3 && facts.is_self_issued())
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::tls::test_pki::{CertificateAuthority, Folder, IssuedCertificate, files_of};

    fn read_authorities(ca: impl AsRef<[u8]>) -> Result<TrustAnchors, String> {
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &CertificateAuthority::new("Acme CA").issue("unused", &[]), "");
        let files = files_of(&mut upstream);
        files.ca_file = folder.write("ca.pem", ca);
        let folder = format!("{}/", folder.path().display());
        TrustAnchors::read("upstream.orders.tls", files).map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn self_signed(key: &KeyPair) -> String {
        rcgen::CertificateParams::default().self_signed(key).unwrap().pem()
    }

    #[test]
    fn authorities_are_certificates_that_may_sign_or_stand_for_themselves() {
        let acme = CertificateAuthority::new("Acme CA");
        let leaf = acme.issue("mongod", &["mongo"]).certificate_pem;
        let pinned = self_signed(&KeyPair::generate().unwrap());
        let old = acme.issue_version_1("old root").certificate_pem;
        let old_root = CertificateAuthority::new_version_1("Old CA").pem;
        for (ca, signing, all) in [
            (acme.pem.clone(), 1, 1),
            (format!("{}{}", acme.pem, CertificateAuthority::new("Other CA").pem), 2, 2),
            (format!("{leaf}{}", acme.pem), 1, 1),
            (format!("{}{pinned}", acme.pem), 1, 2),
            (pinned, 0, 1),
            (old_root, 1, 1),
            (old, 0, 1),
        ] {
            let authorities = read_authorities(ca).unwrap();
            assert_eq!((authorities.roots.len(), authorities.certificates.len()), (signing, all));
        }
    }

    #[test]
    fn our_own_certificate_of_version_1_is_no_authority_unless_it_is_its_own_issuer() {
        let acme = CertificateAuthority::new("Acme CA");
        let (client, own) = (acme.issue_version_1("svc-a"), CertificateAuthority::new_version_1("svc-a"));
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &client, &client.combined());
        let error = TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).unwrap_err();
        assert_eq!(
            error.problem.to_string(),
            "this is our own certificate (CN=svc-a,O=Acme), not that of an authority"
        );
        let mut upstream = folder.upstream(1, &client, &format!("{}{}", client.certificate_pem, acme.pem));
        let authorities = TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).unwrap();
        assert_eq!(authorities.certificates.len(), 1);
        let old_root = CertificateAuthority::new_version_1("Old CA").pem;
        let mut upstream = folder.upstream(1, &client, &format!("{}{old_root}", client.certificate_pem));
        assert!(TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).is_ok());
        let mut upstream = folder.upstream(1, &IssuedCertificate::new(own.der().clone(), own.key()), &own.pem);
        assert!(TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).is_ok());
    }

    #[test]
    fn files_without_an_authority_are_refused() {
        let client = CertificateAuthority::new("Acme CA").issue("svc-a", &[]);
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
}
