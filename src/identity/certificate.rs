//! The facts of an X.509 certificate.
//!
//! Does not verify: no signature is checked here, and dates are only reported.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::algorithms::{key_text, signature_text};
use super::distinguished_name::{DistinguishedName, printable};

/// Limit of one certificate in bytes. Real certificates have 1 to 4 KiB, and a TLS message cannot carry a larger chain.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// Tag of a URI in the subject alternative name.
const URI_TAG: u32 = 6;

/// The bytes are not an X.509 certificate, or it is larger than 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid X.509 certificate")]
pub struct MalformedCertificate;

/// The fields of a certificate that the gateway uses.
///
/// Names are unchecked text from the certificate. Pass them through [`printable`] before printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Subject.
    pub subject: DistinguishedName,
    /// Issuer.
    pub issuer: DistinguishedName,
    /// DNS names of the subject alternative name (SAN), unchanged, with wildcards.
    pub dns_names: Vec<String>,
    /// IP addresses of the SAN.
    pub addresses: Vec<IpAddr>,
    /// URIs of the SAN. A SPIFFE ID is one.
    pub uris: Vec<String>,
    /// Kinds of the other names of the SAN, each once, such as `an e-mail address`.
    pub other_names: Vec<&'static str>,
    /// Start of validity, in whole seconds.
    pub not_before: SystemTime,
    /// End of validity, in whole seconds.
    pub not_after: SystemTime,
    /// X.509 version: 1, 2 or 3.
    pub version: u32,
    /// `serverAuth`, `clientAuth` and others, or OIDs. `None` without the extension, which allows every use.
    pub extended_key_usages: Option<Vec<String>>,
    /// Whether the basic constraints mark a CA certificate; always `false` in version 1.
    pub is_ca: bool,
    /// Serial number in hex, as OpenSSL prints it.
    pub serial: String,
    /// The bits of the public key, without its algorithm.
    pub public_key: Vec<u8>,
    /// Type of the public key, for example `RSA 2048` or `ECDSA P-256`.
    pub key: String,
    /// Signature algorithm, for example `RSA and SHA-256`.
    pub signature: String,
}

impl CertificateFacts {
    /// Parses a certificate in DER of at most 64 KiB.
    ///
    /// Unreadable names are an error: otherwise a client could hide its SPIFFE ID and be identified by something else.
    /// Any other unreadable extension counts as absent, because path validation rejects such a certificate
    /// where the extension matters.
    pub fn from_der(der: &[u8]) -> Result<Self, MalformedCertificate> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(MalformedCertificate);
        }
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Self::from_parsed(&certificate),
            _ => Err(MalformedCertificate),
        }
    }

    fn from_parsed(certificate: &X509Certificate<'_>) -> Result<Self, MalformedCertificate> {
        let mut facts = Self {
            subject: DistinguishedName::from_parsed(certificate.subject()),
            issuer: DistinguishedName::from_parsed(certificate.issuer()),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            uris: Vec::new(),
            other_names: Vec::new(),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            version: certificate.version().0.saturating_add(1),
            extended_key_usages: None,
            is_ca: certificate.is_ca(),
            serial: certificate.raw_serial_as_string(),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            key: key_text(certificate.public_key()),
            signature: signature_text(&certificate.signature_algorithm),
        };
        if let Some(names) = certificate.subject_alternative_name().map_err(|_| MalformedCertificate)? {
            for name in &names.value.general_names {
                facts.push_name(name)?;
            }
        }
        if let Ok(Some(usage)) = certificate.extended_key_usage() {
            facts.extended_key_usages = Some(usage_names(usage.value));
        }
        Ok(facts)
    }

    /// DNS names, addresses and URIs, in that order, in printable form.
    pub fn names(&self) -> Vec<String> {
        let dns = self.dns_names.iter().map(|name| printable(name));
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        let uris = self.uris.iter().map(|uri| printable(uri));
        dns.chain(addresses).chain(uris).collect()
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Whether the extended key usage allows `usage`: the extension contains it, contains `anyExtendedKeyUsage`, or is
    /// absent. `msSGC` and `nsSGC` are old forms of `serverAuth`.
    pub fn allows(&self, usage: &str) -> bool {
        const SGC: [&str; 2] = ["1.3.6.1.4.1.311.10.3.3", "2.16.840.1.113730.4.1"];
        let Some(usages) = &self.extended_key_usages else { return true };
        let is_other_form = |named: &str| usage == "serverAuth" && SGC.contains(&named);
        usages.iter().any(|named| named == usage || named == "anyExtendedKeyUsage" || is_other_form(named))
    }

    /// The state of the certificate's validity period at `now`.
    pub fn validity(&self, now: SystemTime) -> Validity {
        match () {
            () if now < self.not_before => Validity::NotYet,
            () if now > self.not_after => Validity::Expired,
            () if now + SOON > self.not_after => Validity::EndsSoon,
            () => Validity::Current,
        }
    }

    /// `expires 2027-01-01 00:00:00 UTC (in 41 days)`.
    pub fn expiry_text(&self, now: SystemTime) -> String {
        const DAY_SECONDS: u64 = 24 * 60 * 60;
        let date = date_text(self.not_after);
        let days = |distance: Duration| match distance.as_secs() / DAY_SECONDS {
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        match self.not_after.duration_since(now) {
            Ok(left) => format!("expires {date} (in {})", days(left)),
            Err(past) => format!("expired {date} ({} ago)", days(past.duration())),
        }
    }

    fn push_name(&mut self, name: &GeneralName<'_>) -> Result<(), MalformedCertificate> {
        match name {
            GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
            GeneralName::Invalid(Tag(URI_TAG), _) => return Err(MalformedCertificate),
            GeneralName::RFC822Name(_) => self.push_other("an e-mail address"),
            GeneralName::DirectoryName(_) => self.push_other("a directory name"),
            _ => self.push_other("a name of another kind"),
        }
        Ok(())
    }

    fn push_other(&mut self, kind: &'static str) {
        if !self.other_names.contains(&kind) {
            self.other_names.push(kind);
        }
    }
}

/// The state of a certificate's validity period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// The period has not begun.
    NotYet,
    /// The certificate is valid.
    Current,
    /// The certificate is valid and expires within 30 days. Manual renewals can take weeks.
    EndsSoon,
    /// The period has ended.
    Expired,
}

/// See [`Validity::EndsSoon`].
const SOON: Duration = Duration::from_hours(30 * 24);

/// The key bits of a DER `SubjectPublicKeyInfo`; `None` if `der` is not one.
pub fn public_key_bits(der: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = SubjectPublicKeyInfo::from_der(der).ok()?;
    Some(parsed.subject_public_key.data.to_vec())
}

/// `2027-03-01T12:00:00Z`, for programs. Times before 1970 and after 9999 are clamped.
pub fn rfc3339(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(LAST_SECOND_OF_9999);
    humantime::format_rfc3339_seconds(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// `2027-03-01 12:00:00 UTC`, for people. Clamped as [`rfc3339`].
pub fn date_text(time: SystemTime) -> String {
    rfc3339(time).replace('T', " ").replace('Z', " UTC")
}

/// humantime panics for later times.
const LAST_SECOND_OF_9999: u64 = 253_402_300_799;

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A time of a certificate or a CRL; 1970 if `SystemTime` cannot represent it.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moved.unwrap_or(UNIX_EPOCH)
}

fn usage_names(usage: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let known = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let named = known.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned());
    named.chain(usage.other.iter().map(x509_parser::asn1_rs::Oid::to_id_string)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mongo.mongo".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("::1".parse().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Acme");
        params.distinguished_name.push(DnType::CommonName, "mongod");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(2024, 1, 2);
        params.not_after = rcgen::date_time_ymd(2051, 3, 4);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serial_number = Some(vec![0x4a, 0x01].into());
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_fields_of_a_certificate_are_parsed() {
        let facts = CertificateFacts::from_der(&sample()).unwrap();
        assert_eq!(facts.subject.as_str(), "CN=mongod,O=Acme");
        assert!(facts.is_self_issued());
        assert_eq!(facts.names(), ["mongo.mongo", "127.0.0.1", "::1", "spiffe://cluster.local/ns/a/sa/b"]);
        assert_eq!(date_text(facts.not_before), "2024-01-02 00:00:00 UTC");
        assert_eq!(date_text(facts.not_after), "2051-03-04 00:00:00 UTC");
        assert_eq!((facts.version, facts.is_ca, facts.serial.as_str()), (3, true, "4a:01"));
        assert!(facts.allows("serverAuth") && !facts.allows("clientAuth"));
        let facts = CertificateFacts { extended_key_usages: Some(vec!["2.16.840.1.113730.4.1".to_owned()]), ..facts };
        assert!(facts.allows("serverAuth") && !facts.allows("clientAuth"));
    }

    #[test]
    fn algorithms_of_keys_and_signatures_have_names() {
        for (algorithm, key, signature) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA P-256", "ECDSA and SHA-256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA P-384", "ECDSA and SHA-384"),
            (&rcgen::PKCS_ED25519, "Ed25519", "Ed25519"),
            (&rcgen::PKCS_RSA_SHA256, "RSA 2048", "RSA and SHA-256"),
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let der = CertificateParams::default().self_signed(&pair).unwrap().der().to_vec();
            let facts = CertificateFacts::from_der(&der).unwrap();
            assert_eq!((facts.key.as_str(), facts.signature.as_str()), (key, signature));
        }
    }

    #[test]
    fn the_public_key_of_a_certificate_equals_that_of_its_key_pair() {
        let key = KeyPair::generate().unwrap();
        let der = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        let facts = CertificateFacts::from_der(&der).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        assert_eq!(public_key_bits(&spki), Some(facts.public_key));
    }

    #[test]
    fn dates_that_cannot_be_formatted_are_clamped() {
        assert_eq!(date_text(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01 00:00:00 UTC");
        assert_eq!(date_text(UNIX_EPOCH + Duration::from_secs(LAST_SECOND_OF_9999 + 1)), "9999-12-31 23:59:59 UTC");
    }

    #[test]
    fn trailing_bytes_and_huge_certificates_are_errors() {
        let mut trailing = sample();
        trailing.push(0);
        for der in [trailing, vec![0x30; CERTIFICATE_BYTES_MAX + 1], Vec::new()] {
            assert_eq!(CertificateFacts::from_der(&der), Err(MalformedCertificate));
        }
    }

    #[test]
    fn unreadable_names_are_errors() {
        let with_names = |content: &[u8]| {
            let mut params = CertificateParams::default();
            params.custom_extensions =
                vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec())];
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            CertificateFacts::from_der(&der).map(|facts| facts.uris)
        };
        assert_eq!(with_names(b"\x30\x0f\x86\x0dspiffe://td/x"), Ok(vec!["spiffe://td/x".to_owned()]));
        for content in [
            b"\x30\x0f\x86\x0dspiffe://td/\xff".as_slice(),
            b"\x30\x12\x86\x0dspiffe://td/x\x86\x01\xff",
            b"\x30\x20\x86\x0dspiffe://td/x",
            b"\x05\x00",
        ] {
            assert_eq!(with_names(content), Err(MalformedCertificate), "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_facts_or_an_error(der in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = CertificateFacts::from_der(&der);
            let _ = public_key_bits(&der);
        }

        #[test]
        fn a_damaged_certificate_gives_facts_or_an_error(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut der = sample();
            for (index, byte) in damage {
                let index = index.index(der.len());
                der[index] = byte;
            }
            let _ = CertificateFacts::from_der(&der);
        }
    }
}
