//! Matches a server name against the subject alternative name (SAN) of a certificate.
//!
//! rustls could do it, but does not read certificates with critical extensions that the gateway evaluates itself.

use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName};

use super::common_name::matches_dns_name;
use super::server_name::PeerName;
use crate::identity::CertificateFacts;

/// Checks that `server_name` is a DNS name or an IP address of the SAN.
pub(super) fn check_server_name(
    certificate: &CertificateDer<'_>,
    server_name: &PeerName,
) -> Result<(), CertificateError> {
    let facts = CertificateFacts::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let is_named = match (server_name.dns_name(), server_name.parsed()) {
        (Some(name), _) => facts.dns_names.iter().any(|pattern| matches_dns_name(pattern, name)),
        (None, Some(ServerName::IpAddress(address))) => facts.addresses.contains(&IpAddr::from(*address)),
        (None, _) => false,
    };
    if is_named {
        return Ok(());
    }
    Err(match server_name.parsed() {
        Some(expected) => {
            CertificateError::NotValidForNameContext { expected: expected.clone(), presented: facts.names() }
        }
        // rustls cannot represent the name.
        None => CertificateError::NotValidForName,
    })
}
