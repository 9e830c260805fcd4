//! Why a listener rejects a client that speaks the MongoDB wire protocol.

use super::explanation::EndingExplanation;
use crate::identity::IdentityRefusal;
use crate::listener::ProxyRefusal;
use crate::telemetry::metrics::ClientHandshake;

/// The MongoDB error for a client that is rejected.
const UNAUTHORIZED: (i32, &str) = (13, "Unauthorized");

/// Why a listener rejects a client that speaks the MongoDB wire protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientRejection {
    /// It does not use TLS, which the listener requires.
    NotTls,
    /// It uses TLS without a client certificate.
    NoCertificate,
    /// The names of its client certificate cannot be read.
    UnreadableCertificate,
    /// Its identity is invalid or of an unknown trust domain.
    Identity(IdentityRefusal),
    /// It sent a PROXY header without being a trusted proxy, or sent none where one is required.
    Proxy(ProxyRefusal),
}

impl ClientRejection {
    /// The explanation for the operator and the client.
    pub(super) fn explanation(&self, listener: &str) -> EndingExplanation {
        let (label, summary, remedy, message) = match self {
            Self::NotTls => (
                "not_tls",
                "no TLS, which this listener requires".to_owned(),
                format!(
                    "configure a client certificate and tls=true in the client, or set listener.{listener}.mode to \
                     \"permissive\" until all clients have one"
                ),
                "requires mutual TLS (mode = \"strict\"): connect with tls=true and a client certificate",
            ),
            Self::NoCertificate => (
                "no_certificate",
                "TLS without a client certificate".to_owned(),
                format!(
                    "configure a client certificate (tlsCertificateKeyFile) that a CA of \
                     listener.{listener}.tls.ca_file has issued"
                ),
                "requires a client certificate: set tlsCertificateKeyFile",
            ),
            Self::UnreadableCertificate => (
                "invalid",
                "the client certificate cannot be read".to_owned(),
                "have the client's certificate issued again".to_owned(),
                "cannot read the client certificate",
            ),
            Self::Identity(refusal) => {
                return EndingExplanation::new(refusal.label(), refusal.to_string())
                    .with_remedy(refusal.remedy())
                    .with_client_error(UNAUTHORIZED, &format!("listener {listener}: {refusal}"));
            }
            Self::Proxy(ProxyRefusal::Untrusted) => (
                "proxy_untrusted",
                "not a trusted proxy".to_owned(),
                format!("if this is one of your proxies, add its address to listener.{listener}.proxy_trusted"),
                "accepts PROXY headers from its trusted proxies only",
            ),
            Self::Proxy(ProxyRefusal::Missing) => (
                "proxy_missing",
                "no PROXY header, which this listener requires".to_owned(),
                format!("make the proxy send PROXY headers, or set listener.{listener}.proxy_protocol to \"optional\""),
                "accepts clients only through its proxies, with a PROXY header",
            ),
        };
        EndingExplanation::new(label, summary)
            .with_remedy(remedy)
            .with_client_error(UNAUTHORIZED, &format!("listener {listener} {message}"))
    }

    /// The outcome of the TLS handshake, if the rejection is about TLS.
    pub(super) fn handshake(&self) -> Option<ClientHandshake> {
        match self {
            Self::NotTls => Some(ClientHandshake::NotTls),
            Self::NoCertificate => Some(ClientHandshake::NoCertificate),
            Self::UnreadableCertificate => Some(ClientHandshake::Invalid),
            Self::Identity(refusal) => Some(ClientHandshake::of_label(refusal.label())),
            Self::Proxy(_) => None,
        }
    }
}
