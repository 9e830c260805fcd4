//! The trust anchors of a peer's certificate chain: the certificates in `ca_file`, or from the SPIFFE Workload API.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::credentials::{Certificate, read_facts};
use super::material_error::{Location, MaterialError, MaterialProblem};
use super::path::{CertificateOrigin, PathCertificate};
use super::pem::MaterialFile;
use crate::config::TlsFiles;
use crate::identity::CertificateFacts;

/// The certificates that a peer's chain may end at.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    /// The trust anchors, those that are accepted only as a leaf certificate included; never empty.
    pub certificates: Vec<CertificateFacts>,
    /// The DER of `certificates`, in the same order.
    pub der: Arc<[CertificateDer<'static>]>,
    /// Other CA certificates of the same source: they complete a chain, but do not end it.
    pub intermediates: Vec<CertificateFacts>,
    /// The DER of `intermediates`, in the same order.
    pub intermediates_der: Arc<[CertificateDer<'static>]>,
    /// Where they were read from.
    pub location: Location,
}

impl TrustAnchors {
    /// Reads `ca_file` of the table `section`, as `upstream.orders.tls`.
    ///
    /// Self-signed CA certificates may sign others: those with `CA:TRUE`, and certificates of version 1, which have no
    /// such field. Other CA certificates are trust anchors only with `partial_chain`; without it they complete a chain
    /// that a peer sends. Other self-signed certificates, and other certificates of version 1, are accepted only as a
    /// leaf certificate. The remaining certificates of the file are ignored, malformed extensions included.
    ///
    /// The leaf certificate of `certificate_file` is in `ca_file` by mistake, and is ignored unless it is its own
    /// issuer.
    pub fn read(section: &str, files: &TlsFiles) -> Result<Self, MaterialError> {
        let file = MaterialFile::new(section, "ca_file", &files.ca_file);
        let certificates = file.certificates()?;
        let own = MaterialFile::new(section, "certificate_file", &files.certificate_file);
        let own = own.certificates().unwrap_or_default();
        let is_own = |(der, facts): &Certificate| {
            own.first().is_some_and(|(own, _)| own == der) && !facts.is_ca && !facts.is_self_issued()
        };
        let (mistaken, others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(is_own);
        Self::select(others, file.location(), files.partial_chain).map_err(|error| {
            match (&error.problem, mistaken.first()) {
                (MaterialProblem::NoTrustAnchor { .. }, Some((_, own))) => {
                    file.error(MaterialProblem::OwnCertificate { subject: own.subject.to_string() })
                }
                _ => error,
            }
        })
    }

    /// Reads `ca_file` where the leaf certificate does not come from a file.
    pub fn read_ca_file(section: &str, ca_file: &Path, partial_chain: bool) -> Result<Self, MaterialError> {
        let file = MaterialFile::new(section, "ca_file", ca_file);
        let certificates = file.certificates()?;
        Self::select(certificates, file.location(), partial_chain)
    }

    /// Uses DER certificates that do not come from a file. `key` is the path of the configuration key that names their
    /// source.
    ///
    /// Every CA certificate is a trust anchor, self-signed or not: the bundle of a SPIFFE agent contains nothing else.
    pub fn from_certificates(key: &str, certificates: Vec<CertificateDer<'static>>) -> Result<Self, MaterialError> {
        let location = Location { key: key.to_owned(), file: None };
        match read_facts(certificates) {
            Ok(certificates) => Self::select(certificates, location, true),
            Err(problem) => Err(MaterialError { location, problem }),
        }
    }

    /// The trust anchor with the name of the certificate's issuer.
    pub fn issuer_of(&self, certificate: &CertificateFacts) -> Option<&CertificateFacts> {
        self.certificates.iter().find(|anchor| anchor.subject == certificate.issuer)
    }

    /// Whether both consist of the same trust anchors and the same other CA certificates.
    pub(super) fn has_same_certificates(&self, other: &Self) -> bool {
        self.der == other.der && self.intermediates_der == other.intermediates_der
    }

    fn select(certificates: Vec<Certificate>, location: Location, partial_chain: bool) -> Result<Self, MaterialError> {
        let (mut anchors, mut intermediates, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (der, facts)) in certificates.into_iter().enumerate() {
            let Some(parsed) = PathCertificate::from_der(&der, CertificateOrigin::TrustAnchor) else {
                if is_ignored_leaf(&der, &facts) {
                    others.push(facts);
                    continue;
                }
                let problem = MaterialProblem::Damaged { position: index + 1, label: "CERTIFICATE".to_owned() };
                return Err(MaterialError { location, problem });
            };
            let is_self_signed = parsed.is_self_signed();
            drop(parsed);
            match () {
                () if is_self_signed || facts.version < 3 || (facts.is_ca && partial_chain) => {
                    anchors.push((der, facts));
                }
                () if facts.is_ca => intermediates.push((der, facts)),
                () => others.push(facts),
            }
        }
        if anchors.is_empty() {
            let problem = match (intermediates.first(), others.first()) {
                (Some((_, first)), _) => MaterialProblem::OnlyIntermediates {
                    subject: first.subject.to_string(),
                    issuer: first.issuer.to_string(),
                },
                (None, first) => MaterialProblem::NoTrustAnchor {
                    subject: first.map(|facts| facts.subject.to_string()).unwrap_or_default(),
                },
            };
            return Err(MaterialError { location, problem });
        }
        let (der, certificates): (Vec<_>, Vec<_>) = anchors.into_iter().unzip();
        let (intermediates_der, intermediates): (Vec<_>, Vec<_>) = intermediates.into_iter().unzip();
        Ok(Self { certificates, der: der.into(), intermediates, intermediates_der: intermediates_der.into(), location })
    }
}

/// Whether a certificate is readable enough to say that it is neither a CA certificate nor its own issuer.
fn is_ignored_leaf(der: &CertificateDer<'_>, facts: &CertificateFacts) -> bool {
    let is_ca = X509Certificate::from_der(der)
        .map(|(_, parsed)| parsed.basic_constraints().map(|found| found.is_some_and(|found| found.value.ca)));
    facts.version == 3 && !facts.is_self_issued() && matches!(is_ca, Ok(Ok(false)))
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;
    use crate::tls::test_pki::{
        CertificateAuthority, Folder, IssuedCertificate, der_children, der_parts, der_value, files_of, pem, signed,
    };

    fn read_anchors(ca: impl AsRef<[u8]>) -> Result<TrustAnchors, String> {
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
    fn trust_anchors_are_cas_and_certificates_accepted_as_leaves() {
        let acme = CertificateAuthority::new("Acme CA");
        let leaf = acme.issue("mongod", &["mongo"]).certificate_pem;
        let pinned = self_signed(&KeyPair::generate().unwrap());
        let old = acme.issue_version_1("old root").certificate_pem;
        let old_root = CertificateAuthority::new_version_1("Old CA").pem;
        for (ca, expected) in [
            (acme.pem.clone(), 1),
            (format!("{}{}", acme.pem, CertificateAuthority::new("Other CA").pem), 2),
            (format!("{leaf}{}", acme.pem), 1),
            (format!("{}{pinned}", acme.pem), 2),
            (pinned, 1),
            (old_root, 1),
            (old, 1),
        ] {
            assert_eq!(read_anchors(ca).unwrap().certificates.len(), expected);
        }
    }

    #[test]
    fn a_malformed_certificate_that_is_ignored_in_any_case_does_not_fail_the_file() {
        let acme = CertificateAuthority::new("Acme CA");
        // extendedKeyUsage without a usage.
        let empty = [0x30, 9, 6, 3, 0x55, 0x1d, 0x25, 4, 2, 0x30, 0];
        let with_extension = |der: &[u8], more: &[u8]| {
            let fields = der_children(der_parts(der_parts(der).0).0);
            let extensions = der_parts(der_parts(fields[7]).0).0;
            let extensions = der_value(0xa3, &der_value(0x30, &[extensions, more].concat()));
            pem("CERTIFICATE", &signed(&[&fields[..7].concat(), extensions.as_slice()].concat(), fields[2], acme.key()))
        };
        let leaf = acme.issue("mongod", &["mongo"]).der;
        let malformed = with_extension(&leaf, &empty);
        assert_eq!(read_anchors(format!("{malformed}{}", acme.pem)).unwrap().certificates.len(), 1);
        // It may be a CA certificate if it has basicConstraints twice.
        let twice = [0x30, 9, 6, 3, 0x55, 0x1d, 0x13, 4, 2, 0x30, 0].repeat(2);
        let middle = acme.intermediate("Middle").der;
        for malformed in
            [with_extension(&middle, &empty), with_extension(&middle, &twice), with_extension(&leaf, &twice)]
        {
            let error = read_anchors(format!("{malformed}{}", acme.pem)).unwrap_err();
            assert!(error.contains("damaged"), "{error}");
        }
    }

    #[test]
    fn an_intermediate_is_a_trust_anchor_only_with_partial_chain() {
        let root = CertificateAuthority::new("Acme CA");
        let middle = root.intermediate("Middle");
        let (folder, both) = (Folder::new(), format!("{}{}", middle.pem, root.pem));
        let read = |text: &str, partial_chain| {
            let file = folder.write("ca.pem", text);
            let anchors = TrustAnchors::read_ca_file("upstream.orders.tls", &file, partial_chain);
            anchors.map(|anchors| (anchors.certificates.len(), anchors.intermediates.len()))
        };
        assert_eq!(read(&both, false).unwrap(), (1, 1));
        assert_eq!(read(&both, true).unwrap(), (2, 0));
        assert_eq!(read(&middle.pem, true).unwrap(), (1, 0));
        let error = read(&middle.pem, false).unwrap_err();
        assert_eq!(
            error.problem.to_string(),
            "the file contains only intermediate CA certificates; the first one is CN=Middle,O=Acme, issued by \
             CN=Acme CA,O=Acme"
        );
        assert!(error.remedy().contains("upstream.orders.tls.partial_chain = true"), "{}", error.remedy());
    }

    #[test]
    fn the_own_certificate_of_version_1_is_no_trust_anchor_unless_it_is_its_own_issuer() {
        let acme = CertificateAuthority::new("Acme CA");
        let (client, own) = (acme.issue_version_1("svc-a"), CertificateAuthority::new_version_1("svc-a"));
        let folder = Folder::new();
        let mut upstream = folder.upstream(1, &client, &client.combined());
        let error = TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).unwrap_err();
        assert_eq!(
            error.problem.to_string(),
            "this is the certificate of certificate_file (CN=svc-a,O=Acme), not a CA certificate"
        );
        let mut upstream = folder.upstream(1, &client, &format!("{}{}", client.certificate_pem, acme.pem));
        let anchors = TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).unwrap();
        assert_eq!(anchors.certificates.len(), 1);
        let old_root = CertificateAuthority::new_version_1("Old CA").pem;
        let mut upstream = folder.upstream(1, &client, &format!("{}{old_root}", client.certificate_pem));
        assert!(TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).is_ok());
        let mut upstream = folder.upstream(1, &IssuedCertificate::new(own.der().clone(), own.key()), &own.pem);
        assert!(TrustAnchors::read("upstream.orders.tls", files_of(&mut upstream)).is_ok());
    }

    #[test]
    fn files_without_a_trust_anchor_are_rejected() {
        let client = CertificateAuthority::new("Acme CA").issue("svc-a", &[]);
        let start = "upstream.orders.tls.ca_file: ca.pem: ";
        for (ca, expected) in [
            (String::new(), "the file contains no certificate (it contains no PEM block)"),
            (client.key_pem, "the file contains no certificate (it contains: PRIVATE KEY)"),
            (
                client.certificate_pem,
                "there is no CA certificate among the certificates; the first one is CN=svc-a,O=Acme",
            ),
        ] {
            assert_eq!(read_anchors(ca).unwrap_err(), format!("{start}{expected}"));
        }
    }
}
