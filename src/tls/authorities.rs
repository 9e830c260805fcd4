//! The authorities that a peer's certificate may come from.
//!
//! Refuses certificates that may not sign others, unless they stand for themselves.

use std::sync::Arc;

use rustls::RootCertStore;

use super::pem::Source;
use super::problem::{MaterialError, Problem};
use crate::config::TlsFiles;
use crate::identity::CertificateFacts;

/// The certificates that a server's chain may end at.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// As rustls takes them; not empty.
    pub roots: Arc<RootCertStore>,
    /// The same, to be read.
    pub certificates: Vec<CertificateFacts>,
}

impl Authorities {
    /// Reads the authorities of a table such as `upstream.orders.tls`, whose path is `section`.
    ///
    /// Takes certificates that may sign others (version 1 cannot say so and is taken), and self-issued ones, which lets a
    /// server's own certificate stand for itself. Others in the file are passed over: rustls would let them sign.
    pub fn read(section: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let source = Source::new(section, "ca_file", &files.ca_file);
        let mut roots = RootCertStore::empty();
        let mut taken = Vec::new();
        let mut first_subject = None;
        for (index, (der, facts)) in source.certificates()?.into_iter().enumerate() {
            first_subject.get_or_insert_with(|| facts.subject.to_string());
            if facts.is_ca || facts.version < 3 || facts.is_self_issued() {
                roots.add(der).map_err(|_| source.damaged(index + 1, "CERTIFICATE"))?;
                taken.push(facts);
            }
        }
        if taken.is_empty() {
            let subject = first_subject.unwrap_or_default();
            return Err(source.error(Problem::NoAuthority { subject }));
        }
        Ok(Self { roots: Arc::new(roots), certificates: taken })
    }

    /// The authority that `certificate` names as its issuer.
    pub fn issuer_of(&self, certificate: &CertificateFacts) -> Option<&CertificateFacts> {
        self.certificates.iter().find(|authority| authority.subject == certificate.issuer)
    }
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
}
