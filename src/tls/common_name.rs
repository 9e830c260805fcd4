//! Matches a server name against the common name of a certificate without a subject alternative name (SAN).
//!
//! Used only if the operator sets `legacy_certificates`: RFC 6125 deprecated the common name, but mongod accepts it.
//! The common name of a certificate with a SAN is never used.

use std::net::IpAddr;

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const SUBJECT_ALTERNATIVE_NAME: Oid<'static> = oid!(2.5.29.17);

/// Whether the certificate `der` has no SAN.
pub(super) fn is_only_name(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| has_no_san(&certificate))
}

fn has_no_san(certificate: &X509Certificate<'_>) -> bool {
    !certificate.extensions().iter().any(|extension| extension.oid == SUBJECT_ALTERNATIVE_NAME)
}

/// Whether the certificate `der` has no SAN, and its last common name, the most specific one, is `server_name`.
pub(super) fn matches(der: &[u8], server_name: &str) -> bool {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else { return false };
    if !has_no_san(&certificate) {
        return false;
    }
    let Some(common_name) = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok()) else {
        return false;
    };
    match server_name.parse::<IpAddr>() {
        Ok(address) => common_name.parse() == Ok(address),
        Err(_) => matches_dns_name(common_name, server_name),
    }
}

/// Matches `name`, a valid DNS name, like a DNS name of a SAN: without regard to case, and `*` matches the whole first
/// label if at least two labels follow.
///
/// Spec: RFC 6125 § 6.4.3, and as strict as webpki, the verifier of rustls.
pub(super) fn matches_dns_name(pattern: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let (pattern, name) = match pattern.strip_prefix("*.") {
        Some(rest) if rest.contains('.') => match name.split_once('.') {
            Some((_, parent)) => (rest, parent),
            None => return false,
        },
        Some(_) => return false,
        None => (pattern, name),
    };
    pattern.eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::CertificateAuthority;

    #[track_caller]
    fn check(common_name: &str, names: &[&str], server_name: &str, expected: bool) {
        let ca = CertificateAuthority::new("Acme CA");
        let der = ca.issue(common_name, names).der;
        assert_eq!(matches(&der, server_name), expected, "{common_name} {names:?} {server_name}");
        if names.is_empty() {
            let der = ca.issue_version_1(common_name).der;
            assert_eq!(matches(&der, server_name), expected, "version 1 {common_name} {server_name}");
        }
    }

    #[test]
    fn a_common_name_is_a_dns_name_or_an_address() {
        for (common_name, server_name, expected) in [
            ("mongo.example", "mongo.example", true),
            ("Mongo.Example", "mongo.EXAMPLE", true),
            ("mongo.example", "mongo.example.", true),
            ("mongo", "mongo", true),
            ("mongo.example", "other.example", false),
            ("mongo.example", "example", false),
            ("example", "mongo.example", false),
            ("*.mongo.example", "a.mongo.example", true),
            ("*.mongo.example", "a.b.mongo.example", false),
            ("*.mongo.example", "mongo.example", false),
            ("*.example", "mongo.example", false),
            ("*", "mongo", false),
            ("m*.mongo.example", "mm.mongo.example", false),
            ("*.*.example", "a.b.example", false),
            ("mongo.example\0.evil", "mongo.example", false),
            (" mongo.example", "mongo.example", false),
            ("", "mongo.example", false),
            ("Some Server", "some.server", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0:0:0:0:0:0:0:1", "::1", true),
            ("mongo.example", "127.0.0.1", false),
            ("1mongo-.example", "1mongo-.example", true),
            ("*.-mongo.example", "a.-mongo.example", true),
        ] {
            check(common_name, &[], server_name, expected);
        }
    }

    #[test]
    fn the_common_name_of_a_certificate_with_a_san_is_ignored() {
        check("mongo.example", &["other.example"], "mongo.example", false);
        check("mongo.example", &["127.0.0.1"], "mongo.example", false);
        check("mongo.example", &["mongo.example"], "mongo.example", false);
    }

    #[test]
    fn the_last_common_name_is_used() {
        let ca = CertificateAuthority::new("Acme CA");
        let names = ["first.example", "last.example"];
        let der = ca
            .issue_with("first.example", &[], |params| {
                params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "last.example");
            })
            .der;
        let matched = names.map(|name| matches(&der, name));
        assert_eq!(matched, [false, true]);
    }
}
