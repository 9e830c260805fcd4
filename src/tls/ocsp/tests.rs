//! Tests of stapled responses: made here for each defect, and by `openssl ocsp` for the forms of a real responder.

use std::process::Command;

use proptest::prelude::*;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs::default_provider;

use super::*;
use crate::tls::ocsp_defect::{ResponderError, SignerDefect};
use crate::tls::test_pki::{
    CertificateAuthority, Folder, IssuedCertificate, der_parts, der_sequence, der_value, signed,
};

/// 2026-07-01 12:00:00 UTC, the time of all tests.
const NOW: u64 = 1_782_907_200;
const ECDSA_WITH_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const SHA1_ID: &[u8] = &[0x30, 0x09, 0x06, 0x05, 0x2B, 0x0E, 0x03, 0x02, 0x1A, 0x05, 0x00];
const SHA256_ID: &[u8] = &[0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const GOOD: &[u8] = &[0x80, 0];
const UNKNOWN: &[u8] = &[0x82, 0];

/// Judges `response` for `certificate`, with an issuer that may be unknown.
fn judged(
    response: &[u8],
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
) -> Result<SystemTime, OcspDefect> {
    let algorithms = default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    verify_staple(response, certificate, issuer, now, algorithms).map(|good| good.until)
}

fn generalized(time: &str) -> Vec<u8> {
    der_value(0x18, time.as_bytes())
}

fn revoked(since: &str) -> Vec<u8> {
    der_value(0xA1, &[generalized(since), vec![0xA0, 3, 0x0A, 1, 1]].concat())
}

/// Extensions with one that is unknown, in the explicit tag 1.
fn extension(critical: bool) -> Vec<u8> {
    let flag: &[u8] = if critical { &[0x01, 0x01, 0xFF] } else { &[] };
    let extension = [&[0x06, 0x03, 0x2A, 0x03, 0x04], flag, &[0x04, 0x02, 0x05, 0x00]].concat();
    der_value(0xA1, &der_sequence(&der_sequence(&extension)))
}

/// The identifier of `certificate` with SHA-1 or SHA-256.
fn certificate_id(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>, sha256: bool) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    let (_, issuer) = X509Certificate::from_der(issuer).unwrap();
    let hash = |bytes: &[u8]| {
        let digest = if sha256 { Sha256::digest(bytes).to_vec() } else { Sha1::digest(bytes).to_vec() };
        der_value(0x04, &digest)
    };
    let algorithm = if sha256 { SHA256_ID } else { SHA1_ID };
    let key = hash(&issuer.public_key().subject_public_key.data);
    let serial = der_value(0x02, certificate.tbs_certificate.raw_serial());
    der_sequence(&[algorithm.to_vec(), hash(certificate.issuer().as_raw()), key, serial].concat())
}

/// A response to be made. The default is one that says "good" in the form of most responders.
struct Response<'a> {
    ca: &'a CertificateAuthority,
    leaf: &'a CertificateDer<'a>,
    /// The responder, if it is not the CA.
    delegate: Option<&'a IssuedCertificate>,
    /// The key that signs, if it is not that of the responder.
    key: Option<&'a KeyPair>,
    by_key_hash: bool,
    sha256: bool,
    status: Vec<u8>,
    produced: &'a str,
    this_update: &'a str,
    next_update: Option<&'a str>,
    /// Further single responses, before the one about the certificate.
    others: Vec<u8>,
    /// Extensions of the response and of the single response.
    extensions: [Vec<u8>; 2],
    with_certificate: bool,
}

impl<'a> Response<'a> {
    fn new(ca: &'a CertificateAuthority, leaf: &'a CertificateDer<'a>) -> Self {
        Self {
            ca,
            leaf,
            delegate: None,
            key: None,
            by_key_hash: false,
            sha256: false,
            status: GOOD.to_vec(),
            produced: "20260701110000Z",
            this_update: "20260701110000Z",
            next_update: Some("20260702110000Z"),
            others: Vec::new(),
            extensions: [Vec::new(), Vec::new()],
            with_certificate: true,
        }
    }

    fn single(&self) -> Vec<u8> {
        let next = self.next_update.map(|next| der_value(0xA0, &generalized(next))).unwrap_or_default();
        let id = certificate_id(self.leaf, self.ca.der(), self.sha256);
        let [_, extension] = &self.extensions;
        der_sequence(&[id, self.status.clone(), generalized(self.this_update), next, extension.clone()].concat())
    }

    fn der(&self) -> Vec<u8> {
        let responder = self.delegate.map_or(self.ca.der(), |delegate| &delegate.der);
        let (_, parsed) = X509Certificate::from_der(responder).unwrap();
        let name = if self.by_key_hash {
            let hash = Sha1::digest(&parsed.public_key().subject_public_key.data);
            der_value(0xA2, &der_value(0x04, &hash))
        } else {
            der_value(0xA1, parsed.subject().as_raw())
        };
        let singles = der_sequence(&[self.others.clone(), self.single()].concat());
        let [extension, _] = &self.extensions;
        let data = [name, generalized(self.produced), singles, extension.clone()].concat();
        let of_delegate = self.delegate.map(|delegate| KeyPair::from_pem(&delegate.key_pem).unwrap());
        let key = self.key.or(of_delegate.as_ref()).unwrap_or(self.ca.key());
        let basic = signed(&data, ECDSA_WITH_SHA256, key);
        let certificates = match self.delegate {
            Some(delegate) if self.with_certificate => der_value(0xA0, &der_sequence(&delegate.der)),
            _ => Vec::new(),
        };
        let basic = der_sequence(&[der_parts(&basic).0, &certificates].concat());
        let kind = der_value(0x06, &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01]);
        let bytes = der_sequence(&[kind, der_value(0x04, &basic)].concat());
        der_sequence(&[vec![0x0A, 1, 0], der_value(0xA0, &bytes)].concat())
    }

    fn judged(&self) -> Result<SystemTime, OcspDefect> {
        judged(&self.der(), self.leaf, self.ca.der())
    }
}

/// A responder that `ca` has authorised; `change` may spoil that.
fn delegate(ca: &CertificateAuthority, change: impl FnOnce(&mut rcgen::CertificateParams)) -> IssuedCertificate {
    ca.issue_with("responder", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(params);
    })
}

fn at(time: &str) -> SystemTime {
    humantime::parse_rfc3339(time).unwrap()
}

#[test]
fn a_good_certificate_is_accepted_in_every_form_of_a_response() {
    let ca = CertificateAuthority::new("Acme CA");
    let (leaf, neighbour) = (ca.issue("mongo", &["mongo"]).der, ca.issue("other", &["other"]).der);
    let responder = delegate(&ca, |_| {});
    let no_usage = delegate(&ca, |params| params.key_usages.clear());
    let until = Ok(at("2026-07-02T11:00:00Z"));
    let new = || Response::new(&ca, &leaf);
    assert_eq!(new().judged(), until);
    assert_eq!(Response { by_key_hash: true, ..new() }.judged(), until);
    assert_eq!(Response { sha256: true, ..new() }.judged(), until);
    for delegate in [&responder, &no_usage] {
        assert_eq!(Response { delegate: Some(delegate), ..new() }.judged(), until);
        assert_eq!(Response { delegate: Some(delegate), by_key_hash: true, ..new() }.judged(), until);
    }
    let others = Response { status: revoked("20260101000000Z"), ..Response::new(&ca, &neighbour) }.single();
    assert_eq!(Response { others, ..new() }.judged(), until);
    let twice = Response { sha256: true, next_update: Some("20260701190000Z"), ..new() }.single();
    assert_eq!(Response { others: twice, ..new() }.judged(), Ok(at("2026-07-01T19:00:00Z")), "the earlier one counts");
    assert_eq!(Response { next_update: None, ..new() }.judged(), until, "a day");
    assert_eq!(Response { extensions: [extension(false), extension(false)], ..new() }.judged(), until);
    // Clocks may differ by five minutes.
    let early = Response { produced: "20260701120459Z", this_update: "20260701120459Z", ..new() };
    assert_eq!(early.judged(), until);
    let late = Response { next_update: Some("20260701115501Z"), ..new() };
    assert_eq!(late.judged(), Ok(at("2026-07-01T11:55:01Z")));
}

#[test]
fn every_other_response_is_rejected_with_its_reason() {
    let ca = CertificateAuthority::new("Acme CA");
    let (namesake, stranger) = (CertificateAuthority::new("Acme CA"), CertificateAuthority::new("Other CA"));
    let (leaf, neighbour) = (ca.issue("mongo", &["mongo"]).der, ca.issue("other", &["other"]).der);
    let new = || Response::new(&ca, &leaf);
    let check = |response: Response<'_>, expected: OcspDefect| assert_eq!(response.judged(), Err(expected));
    let since = at("2026-06-30T08:00:00Z");
    let status = || revoked("20260630080000Z");
    check(Response { status: status(), ..new() }, OcspDefect::Revoked { since });
    check(Response { status: UNKNOWN.to_vec(), ..new() }, OcspDefect::Unknown);
    // A revocation counts, however old the response is, and whatever the other status says.
    let old = Response { status: status(), next_update: Some("20260630090000Z"), ..new() };
    check(old, OcspDefect::Revoked { since });
    let others = Response { status: status(), sha256: true, ..new() }.single();
    check(Response { others, ..new() }, OcspDefect::Revoked { since });

    let until = at("2026-07-01T11:54:59Z");
    check(Response { next_update: Some("20260701115459Z"), ..new() }, OcspDefect::Outdated { until });
    let without = Response { this_update: "20260630115459Z", next_update: None, ..new() };
    check(without, OcspDefect::Outdated { until });
    let from = at("2026-07-01T12:05:01Z");
    check(Response { this_update: "20260701120501Z", ..new() }, OcspDefect::NotYetValid { from });
    check(Response { produced: "20260701120501Z", ..new() }, OcspDefect::NotYetValid { from });

    let of_neighbour = Response::new(&ca, &neighbour).der();
    assert_eq!(judged(&of_neighbour, &leaf, ca.der()), Err(OcspDefect::OtherCertificate));
    for extensions in [[extension(true), Vec::new()], [Vec::new(), extension(true)]] {
        check(Response { extensions, ..new() }, OcspDefect::Malformed);
    }

    let signer = |defect| OcspDefect::Signer(defect);
    let key = KeyPair::generate().unwrap();
    check(Response { key: Some(&key), ..new() }, signer(SignerDefect::Signature));
    // The identifiers in these responses name the issuer that they are made for.
    for other in [&namesake, &stranger] {
        assert!(matches!(judged(&new().der(), &leaf, other.der()), Err(OcspDefect::Signer(_))));
    }
    for (responder, expected) in [
        (delegate(&ca, |params| params.extended_key_usages.clear()), SignerDefect::Purpose),
        (
            delegate(&ca, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            SignerDefect::Purpose,
        ),
        (
            delegate(&ca, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            SignerDefect::Purpose,
        ),
        (delegate(&ca, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), SignerDefect::Purpose),
        (
            delegate(&ca, |params| {
                let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                unknown.set_criticality(true);
                params.custom_extensions.push(unknown);
            }),
            SignerDefect::Purpose,
        ),
        (delegate(&ca, |params| params.not_after = rcgen::date_time_ymd(2026, 6, 1)), SignerDefect::Dates),
        (delegate(&ca, |params| params.not_before = rcgen::date_time_ymd(2026, 8, 1)), SignerDefect::Dates),
        (delegate(&namesake, |_| {}), SignerDefect::OtherIssuer),
        (delegate(&stranger, |_| {}), SignerDefect::OtherIssuer),
        (delegate(&ca.intermediate("Upper"), |_| {}), SignerDefect::OtherIssuer),
    ] {
        check(Response { delegate: Some(&responder), ..new() }, signer(expected));
    }
    let responder = delegate(&ca, |_| {});
    check(Response { delegate: Some(&responder), key: Some(&key), ..new() }, signer(SignerDefect::Signature));
    check(Response { delegate: Some(&responder), with_certificate: false, ..new() }, signer(SignerDefect::Unknown));
    // Another certificate of the same CA signs.
    let plain = ca.issue("plain", &[]);
    check(Response { delegate: Some(&plain), ..new() }, signer(SignerDefect::Purpose));
}

#[test]
fn what_is_no_basic_response_is_rejected() {
    let ca = CertificateAuthority::new("Acme CA");
    let leaf = ca.issue("mongo", &["mongo"]).der;
    let good = Response::new(&ca, &leaf).der();
    let rejected = |response: &[u8]| judged(response, &leaf, ca.der()).unwrap_err();
    for (status, expected) in [
        (1, ResponderError::MalformedRequest),
        (2, ResponderError::Internal),
        (3, ResponderError::TryLater),
        (5, ResponderError::SignatureRequired),
        (6, ResponderError::Unauthorized),
        (7, ResponderError::Other(7)),
    ] {
        assert_eq!(rejected(&[0x30, 3, 0x0A, 1, status]), OcspDefect::ResponderError(expected));
    }
    assert_eq!(rejected(&[0x30, 3, 0x0A, 1, 0]), OcspDefect::Malformed);
    assert_eq!(rejected(b"OCSP"), OcspDefect::Malformed);
    assert_eq!(rejected(&[good.as_slice(), &[0]].concat()), OcspDefect::Malformed);
    assert_eq!(rejected(&vec![0x30; 32 * 1024 + 1]), OcspDefect::TooLong);
    for end in 0..good.len() {
        assert_eq!(rejected(&good[..end]), OcspDefect::Malformed);
    }
    let mut other_type = good.clone();
    let at = good.windows(9).position(|bytes| bytes == [0x2B, 6, 1, 5, 5, 7, 0x30, 1, 1]).unwrap();
    other_type[at + 8] = 2;
    assert_eq!(rejected(&other_type), OcspDefect::Malformed);
}

#[test]
fn a_certificate_requires_a_staple_if_its_tls_features_say_so() {
    let ca = CertificateAuthority::new("Acme CA");
    let with = |content: &[u8]| {
        ca.issue_with("mongo", &["mongo"], |params| {
            let feature = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], content.to_vec());
            params.custom_extensions.push(feature);
        })
        .der
    };
    for (content, expected) in [
        (&[0x30, 3, 2, 1, 5][..], true),
        (&[0x30, 3, 2, 1, 17], true),
        (&[0x30, 6, 2, 1, 16, 2, 1, 5], true),
        (&[0x30, 3, 2, 1, 16], false),
        (&[0x30, 0], false),
        (&[5, 0], true),
        (&[], true),
    ] {
        assert_eq!(requires_staple(&with(content)), expected, "{content:?}");
    }
    assert!(!requires_staple(&ca.issue("mongo", &["mongo"]).der));
}

proptest! {
    #[test]
    fn a_modified_response_is_never_accepted(position in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let ca = CertificateAuthority::new("Acme CA");
        let leaf = ca.issue("mongo", &["mongo"]).der;
        let responder = delegate(&ca, |_| {});
        for delegate in [None, Some(&responder)] {
            let mut der = Response { delegate, ..Response::new(&ca, &leaf) }.der();
            let index = position.index(der.len());
            der[index] ^= change;
            prop_assert!(judged(&der, &leaf, ca.der()).is_err(), "byte {index} of {}", der.len());
        }
    }

    #[test]
    fn no_bytes_cause_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let ca = CertificateAuthority::new("Acme CA");
        let leaf = ca.issue("mongo", &["mongo"]).der;
        prop_assert!(judged(&bytes, &leaf, ca.der()).is_err());
        let good = Response::new(&ca, &leaf).der();
        let at = cut.index(good.len());
        let spliced = [&good[..at], &bytes, &good[at..]].concat();
        prop_assert_eq!(judged(&spliced, &leaf, ca.der()).is_ok(), bytes.is_empty());
    }
}

/// The responses of `openssl ocsp`, the responder that test environments use.
#[test]
fn responses_of_openssl_are_understood() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("MONGATE_TEST_REQUIRE").is_none(), "there is no openssl on the PATH");
        return;
    }
    let ca = CertificateAuthority::new("Acme CA");
    let (leaf, other) = (ca.issue("mongo", &["mongo"]), ca.issue("other", &["other"]));
    let responder = delegate(&ca, |_| {});
    let folder = Folder::new();
    folder.write("ca.pem", &ca.pem);
    folder.write("ca.key", ca.key().serialize_pem());
    folder.write("leaf.pem", &leaf.certificate_pem);
    folder.write("other.pem", &other.certificate_pem);
    folder.write("responder.pem", &responder.certificate_pem);
    folder.write("responder.key", &responder.key_pem);
    let serial = |issued: &IssuedCertificate| {
        let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
        let digits = certificate.tbs_certificate.raw_serial_as_string().replace(':', "").to_uppercase();
        digits.strip_prefix("00").unwrap_or(&digits).to_owned()
    };
    let ask = |index: &str, arguments: &str| {
        folder.write("index.txt", index);
        let arguments = format!("ocsp -index index.txt -CA ca.pem -issuer ca.pem -respout out.der {arguments}");
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder.path()).output().unwrap();
        let response = std::fs::read(folder.path().join("out.der"));
        let response = response.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let algorithms = default_provider().signature_verification_algorithms.all;
        let now = UnixTime::now();
        verify_staple(&response, &leaf.der, ca.der(), now, algorithms).map(|good| good.responder.is_some())
    };
    let good = format!("V\t400101000000Z\t\t{}\tunknown\t/CN=mongo\n", serial(&leaf));
    let revoked = format!("R\t400101000000Z\t260102030405Z,keyCompromise\t{}\tunknown\t/CN=mongo\n", serial(&leaf));
    let (by_ca, by_responder) = ("-rsigner ca.pem -rkey ca.key", "-rsigner responder.pem -rkey responder.key");
    for (index, arguments, expected) in [
        (&good, format!("{by_ca} -ndays 7 -cert leaf.pem"), Ok(false)),
        (&good, format!("{by_ca} -cert leaf.pem"), Ok(false)),
        (&good, format!("{by_responder} -ndays 7 -cert leaf.pem"), Ok(true)),
        (&good, format!("{by_responder} -resp_key_id -nmin 5 -cert leaf.pem"), Ok(true)),
        (&good, format!("{by_responder} -ndays 7 -sha256 -cert leaf.pem"), Ok(true)),
        (&good, format!("{by_responder} -ndays 7 -cert other.pem -cert leaf.pem"), Ok(true)),
        (
            &good,
            format!("{by_responder} -ndays 7 -resp_no_certs -cert leaf.pem"),
            Err(OcspDefect::Signer(SignerDefect::Unknown)),
        ),
        (&good, format!("{by_ca} -ndays 7 -cert other.pem"), Err(OcspDefect::OtherCertificate)),
        (&String::new(), format!("{by_ca} -ndays 7 -cert leaf.pem"), Err(OcspDefect::Unknown)),
        (
            &revoked,
            format!("{by_responder} -ndays 7 -cert leaf.pem"),
            Err(OcspDefect::Revoked { since: at("2026-01-02T03:04:05Z") }),
        ),
    ] {
        assert_eq!(ask(index, &arguments), expected, "{arguments}");
    }
}
