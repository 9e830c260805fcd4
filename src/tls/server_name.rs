//! The server name that an upstream's certificate is verified against.

use std::net::Ipv4Addr;

use rustls::pki_types::{DnsName, ServerName};

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

/// The name that a server's certificate must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    text: String,
    /// `None` for a name that rustls cannot represent.
    parsed: Option<ServerName<'static>>,
}

impl PeerName {
    /// The name without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The DNS name; `None` for an IP address.
    pub fn dns_name(&self) -> Option<&str> {
        match self.parsed {
            Some(ServerName::IpAddress(_)) => None,
            _ => Some(&self.text),
        }
    }

    /// The name as rustls has it; `None` if rustls cannot represent it, because one of its labels begins or ends with a
    /// hyphen. Such a name cannot be sent in the handshake (SNI).
    pub fn parsed(&self) -> Option<&ServerName<'static>> {
        self.parsed.as_ref()
    }

    /// What a handshake is made with. A name that rustls cannot represent is replaced by an IP address, which is never
    /// sent, and with which no certificate is compared.
    pub fn for_handshake(&self) -> ServerName<'static> {
        self.parsed.clone().unwrap_or_else(|| ServerName::from(Ipv4Addr::UNSPECIFIED))
    }
}

/// The name that an upstream's certificate must contain: `server_name`, or else the host of the address.
///
/// A trailing dot of a DNS name is removed: certificates have none.
pub fn parse_server_name(upstream: &EndpointConfig) -> Result<PeerName, ServerNameError> {
    let (key, value) = match &upstream.tls.server_name {
        Some(name) => ("tls.server_name", name),
        None => ("address", &upstream.address.host),
    };
    let name = value.strip_suffix('.').unwrap_or(value).to_owned();
    match ServerName::try_from(name.clone()) {
        Ok(parsed) => Ok(PeerName { text: name, parsed: Some(parsed) }),
        Err(_) if has_only_odd_hyphens(&name) => Ok(PeerName { text: name, parsed: None }),
        Err(_) => Err(ServerNameError { key: format!("upstream.{}.{key}", upstream.name), value: value.clone() }),
    }
}

/// Whether `name` would be a DNS name if its labels could begin and end with hyphens, which OpenSSL and the resolvers
/// of most systems accept.
fn has_only_odd_hyphens(name: &str) -> bool {
    name.is_ascii() && DnsName::try_from(name.replace('-', "x")).is_ok()
}

/// The path of the table with an upstream's trust anchors, as `upstream.orders.tls`.
pub(super) fn section_of(upstream: &EndpointConfig) -> String {
    format!("upstream.{}.tls", upstream.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::test_pki::{CertificateAuthority, Folder};

    fn endpoint(server_name: &str) -> EndpointConfig {
        let (folder, authority) = (Folder::new(), CertificateAuthority::new("ca"));
        let mut endpoint = folder.upstream(9, &authority.issue("client", &[]), &authority.pem);
        endpoint.tls.server_name = Some(server_name.to_owned());
        endpoint
    }

    #[test]
    fn every_name_that_openssl_compares_can_be_expected() {
        for (text, name, is_representable) in [
            ("mongo.example", "mongo.example", true),
            ("mongo_1.example.", "mongo_1.example", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
            ("1mongo-.local", "1mongo-.local", false),
            ("-mongo.local.", "-mongo.local", false),
            ("mongo.local-", "mongo.local-", false),
            ("a.-.b", "a.-.b", false),
        ] {
            let parsed = parse_server_name(&endpoint(text)).unwrap();
            assert_eq!((parsed.as_str(), parsed.parsed().is_some()), (name, is_representable), "{text}");
        }
        for text in ["", "a b", "a..b", "-..b", "m\u{fc}ller-.local", &format!("{}-.local", "a".repeat(63))] {
            assert!(parse_server_name(&endpoint(text)).is_err(), "{text:?}");
        }
    }
}
