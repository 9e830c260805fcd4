//! The server name that an upstream's certificate is verified against.

use rustls::pki_types::ServerName;

use crate::config::EndpointConfig;

/// A configured server name that no certificate can contain.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {value:?} is neither a DNS name nor an IP address")]
pub struct ServerNameError {
    /// Path of the configuration key.
    pub key: String,
    /// The configured value.
    pub value: String,
}

impl ServerNameError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        "set server_name to a name in the certificate of mongod".to_owned()
    }
}

/// The name that an upstream's certificate must contain: `server_name`, or else the host of the address.
///
/// A trailing dot of a DNS name is removed: certificates have none.
pub fn parse_server_name(upstream: &EndpointConfig) -> Result<ServerName<'static>, ServerNameError> {
    let (key, value) = match &upstream.tls.server_name {
        Some(name) => ("tls.server_name", name),
        None => ("address", &upstream.address.host),
    };
    let name = value.strip_suffix('.').unwrap_or(value).to_owned();
    ServerName::try_from(name)
        .map_err(|_| ServerNameError { key: format!("upstream.{}.{key}", upstream.name), value: value.clone() })
}

/// The path of the table with an upstream's trust anchors, as `upstream.orders.tls`.
pub(super) fn section_of(upstream: &EndpointConfig) -> String {
    format!("upstream.{}.tls", upstream.name)
}
