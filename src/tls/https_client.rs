//! The TLS configuration of the client that fetches the keys of token issuers over HTTPS.
//!
//! rustls verifies the server with its own rules: no server of MongoDB with old certificates is among them.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::material_error::MaterialError;
use super::pem::MaterialFile;

/// Why there are no CA certificates.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// `ca_file` cannot be used.
    #[error("{0}")]
    File(#[from] MaterialError),
    /// The system has none.
    #[error("the system has no CA certificates that can be read ({0})")]
    System(String),
    /// rustls does not take the configuration.
    #[error("TLS cannot be configured: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A configuration that trusts the CA certificates in `ca_file`, or those of the system. Blocks while it reads them.
pub fn https_client(ca_file: Option<&Path>) -> Result<ClientConfig, HttpsError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        for (der, _) in MaterialFile::new("token_issuer", "ca_file", file).certificates()? {
            roots.add(der)?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            let cause = found.errors.first().map_or_else(|| "none were found".to_owned(), ToString::to_string);
            return Err(HttpsError::System(cause));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
