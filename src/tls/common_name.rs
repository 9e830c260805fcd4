//! Whether a server is who we asked for by its subject's common name: what certificates without names have instead.
//!
//! Only for certificates without a subject alternative name, and only where the operator says so: no standard has allowed
//! it since RFC 6125, and mongod takes it. Refuses to look at the common name of a certificate that has names, whatever they
//! are.

use std::net::IpAddr;

use rustls::pki_types::{DnsName, ServerName};
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

const SUBJECT_ALTERNATIVE_NAME: Oid<'static> = oid!(2.5.29.17);

/// Whether the certificate `der` has no subject alternative name.
pub(super) fn is_all_there_is(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| has_no_names(&certificate))
}

fn has_no_names(certificate: &X509Certificate<'_>) -> bool {
    !certificate.extensions().iter().any(|extension| extension.oid == SUBJECT_ALTERNATIVE_NAME)
}

/// Whether the certificate `der` has no subject alternative name, and its last common name, the most specific one, is
/// `server_name`.
pub(super) fn is_for(der: &[u8], server_name: &ServerName<'_>) -> bool {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else { return false };
    if !has_no_names(&certificate) {
        return false;
    }
    let Some(common_name) = certificate.subject().iter_common_name().last().and_then(|name| name.as_str().ok()) else {
        return false;
    };
    match server_name {
        ServerName::DnsName(name) => is_dns_name(common_name, name.as_ref()),
        ServerName::IpAddress(address) => common_name.parse() == Ok(IpAddr::from(*address)),
        _ => false,
    }
}

/// As for a DNS name of the subject alternative name: case does not count, and `*` stands for the whole first label of a
/// name that goes on with two labels or more.
///
/// Spec: RFC 6125 § 6.4.3, as narrow as webpki reads it.
fn is_dns_name(pattern: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let (pattern, name) = match pattern.strip_prefix("*.") {
        Some(rest) if rest.contains('.') => match name.split_once('.') {
            Some((_, parent)) => (rest, parent),
            None => return false,
        },
        Some(_) => return false,
        None => (pattern, name),
    };
    DnsName::try_from(pattern).is_ok() && pattern.eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::CertificateAuthority;

    #[track_caller]
    fn check(common_name: &str, names: &[&str], asked: &str, expected: bool) {
        let authority = CertificateAuthority::new("Acme CA");
        let asked = ServerName::try_from(asked.to_owned()).unwrap();
        let der = authority.issue(common_name, names).der;
        assert_eq!(is_for(&der, &asked), expected, "{common_name} {names:?} {asked:?}");
        if names.is_empty() {
            let der = authority.issue_version_1(common_name).der;
            assert_eq!(is_for(&der, &asked), expected, "version 1 {common_name} {asked:?}");
        }
    }

    #[test]
    fn a_common_name_counts_as_a_dns_name_or_address() {
        for (common_name, asked, expected) in [
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
        ] {
            check(common_name, &[], asked, expected);
        }
    }

    #[test]
    fn a_common_name_beside_names_does_not_count() {
        check("mongo.example", &["other.example"], "mongo.example", false);
        check("mongo.example", &["127.0.0.1"], "mongo.example", false);
        check("mongo.example", &["mongo.example"], "mongo.example", false);
    }

    #[test]
    fn the_last_common_name_counts() {
        let authority = CertificateAuthority::new("Acme CA");
        let names = ["first.example", "last.example"];
        let der = authority
            .issue_with("first.example", &[], |params| {
                params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "last.example");
            })
            .der;
        let counted = names.map(|name| is_for(&der, &ServerName::try_from(name).unwrap()));
        assert_eq!(counted, [false, true]);
    }
}
