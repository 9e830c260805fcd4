//! NIST's suite of test cases for path validation, PKITS, next to `openssl verify`.
//!
//! `docs/certificate-verification.md` lists every case in which the gateway or OpenSSL differs from the suite, and
//! these tests compare the list with what happens. See `pkits/README.md`.

use std::collections::HashMap;
use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::anchors::PathAnchors;
use super::certificate::CertificatePurpose;
use super::openssl;
use super::policies::{InitialPolicies, PolicyId};
use super::search::{PathContext, verify};

const CERTIFICATES: &str = include_str!("pkits/certificates.pem");
const CASES: &str = include_str!("pkits/cases.tsv");
const PAGE: &str = include_str!("../../../docs/certificate-verification.md");

/// The start of 2026: the certificates are valid from 2010 to 2030.
const NOW: u64 = 1_767_225_600;

struct Case<'a> {
    number: &'a str,
    is_valid: bool,
    inputs: Vec<&'a str>,
    chain: Vec<CertificateDer<'static>>,
}

fn certificates() -> HashMap<&'static str, CertificateDer<'static>> {
    let blocks = CERTIFICATES.split_inclusive("-----END CERTIFICATE-----\n");
    blocks
        .map(|block| {
            let (name, text) = block.split_once('\n').unwrap();
            (name, CertificateDer::from_pem_slice(text.as_bytes()).unwrap())
        })
        .collect()
}

fn cases(certificates: &HashMap<&str, CertificateDer<'static>>) -> Vec<Case<'static>> {
    let case = |line: &'static str| {
        let [number, result, inputs, chain] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let chain = chain.split(' ').map(|name| certificates[name].clone()).collect();
        let inputs = inputs.split(' ').filter(|input| *input != "-").collect();
        Case { number, is_valid: result == "valid", inputs, chain }
    };
    CASES.lines().skip(1).map(case).collect()
}

/// NIST-test-policy-N, 2.16.840.1.101.3.2.1.48.N
fn policy(number: u8) -> [u8; 10] {
    [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x02, 0x01, 0x30, number]
}

fn policy_numbers<'a>(inputs: &'a [&str]) -> impl Iterator<Item = u8> + 'a {
    inputs.iter().filter_map(|input| input.strip_prefix('P')).map(|number| number.parse().unwrap())
}

fn judge(case: &Case<'_>, anchor: &CertificateDer<'static>) -> Result<(), CertificateError> {
    let (leaf, sent) = case.chain.split_first().unwrap();
    let policies: Vec<_> = policy_numbers(&case.inputs).map(policy).collect();
    let context = PathContext {
        intermediates: sent,
        anchors: &PathAnchors::new(std::slice::from_ref(anchor), &[]),
        algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
        purpose: CertificatePurpose::Server,
        accepts_legacy: false,
        now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        policies: InitialPolicies {
            acceptable: policies.iter().map(|policy| policy as PolicyId<'_>).collect(),
            explicit: case.inputs.contains(&"explicit"),
            inhibit_mapping: case.inputs.contains(&"inhibit_map"),
            inhibit_any: case.inputs.contains(&"inhibit_any"),
        },
    };
    verify(leaf, &context).map(|_| ())
}

/// The result of OpenSSL with the policies of the case, or without any as mongod uses it, each also with
/// `-x509_strict`.
fn judge_with_openssl(case: &Case<'_>, anchor: &CertificateDer<'static>, strict: bool) -> Option<bool> {
    let (leaf, sent) = case.chain.split_first().unwrap();
    let sent: Vec<&[u8]> = sent.iter().map(AsRef::as_ref).collect();
    let mut arguments: Vec<String> = Vec::new();
    for number in policy_numbers(&case.inputs) {
        arguments.extend(["-policy".to_owned(), format!("2.16.840.1.101.3.2.1.48.{number}")]);
    }
    if arguments.is_empty() {
        arguments.extend(["-policy", "anyPolicy"].map(str::to_owned));
    }
    for (input, option) in
        [("explicit", "-explicit_policy"), ("inhibit_map", "-inhibit_map"), ("inhibit_any", "-inhibit_any")]
    {
        arguments.extend(case.inputs.contains(&input).then(|| option.to_owned()));
    }
    arguments.extend(strict.then(|| "-x509_strict".to_owned()));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    openssl::accepts(leaf, &sent, &[anchor], NOW, &arguments)
}

fn text(is_accepted: bool) -> &'static str {
    if is_accepted { "accepted" } else { "rejected" }
}

/// The rows of the page: the number of the case and the columns after it.
fn listed_rows() -> Vec<(&'static str, Vec<&'static str>)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| 4."));
    rows.map(|row| {
        let mut columns: Vec<_> = row.split('|').map(str::trim).skip(1).collect();
        let number = columns.remove(0);
        (number, columns)
    })
    .collect()
}

#[test]
fn each_case_has_the_result_of_the_suite_unless_the_page_says_otherwise() {
    let (certificates, listed) = (certificates(), listed_rows());
    let anchor = &certificates["TrustAnchorRootCertificate"];
    let cases = cases(&certificates);
    assert_eq!(cases.len(), 176);
    for case in cases {
        let own = judge(&case, anchor);
        let row = listed.iter().find(|(number, _)| *number == case.number);
        let expected = row.map_or_else(|| text(case.is_valid), |(_, columns)| columns[1]);
        assert_eq!(text(own.is_ok()), expected, "{}: {own:?}", case.number);
    }
}

#[test]
fn the_page_lists_every_difference() {
    let certificates = certificates();
    let anchor = &certificates["TrustAnchorRootCertificate"];
    let mut found = Vec::new();
    for case in &cases(&certificates) {
        let own = judge(case, anchor).is_ok();
        let Some(openssl) = judge_with_openssl(case, anchor, false) else { return };
        let strict = judge_with_openssl(case, anchor, true).unwrap();
        if [own, openssl, strict].iter().any(|result| *result != case.is_valid) {
            found.push((case.number, [case.is_valid, own, openssl, strict].map(text).to_vec()));
        }
    }
    let listed: Vec<_> = listed_rows().into_iter().map(|(number, columns)| (number, columns[..4].to_vec())).collect();
    assert_eq!(listed, found);
}
