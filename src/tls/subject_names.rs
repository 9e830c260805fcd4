//! Matches a server name against the subject alternative name (SAN) of a certificate.
//!
//! rustls could do it, but does not read certificates with critical extensions that the gateway evaluates itself.

use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName};

use super::common_name::matches_dns_name;
use crate::identity::CertificateFacts;

/// Checks that `server_name` is a DNS name or an IP address of the SAN.
pub(super) fn check_server_name(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
) -> Result<(), CertificateError> {
    let facts = CertificateFacts::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let is_named = match server_name {
        ServerName::DnsName(name) => facts.dns_names.iter().any(|pattern| matches_dns_name(pattern, name.as_ref())),
        ServerName::IpAddress(address) => facts.addresses.contains(&IpAddr::from(*address)),
        _ => false,
    };
    if is_named {
        return Ok(());
    }
    Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented: facts.names() })
}
