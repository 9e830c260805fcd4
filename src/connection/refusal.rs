//! Why a client is not one that its listener takes, in words for both ends.

use std::fmt;

use crate::identity::IdentityRefusal;
use crate::listener::ProxyRefusal;
use crate::telemetry::metrics::ClientHandshake;
use crate::wire::error_reply::CommandError;

/// Why a client that speaks MongoDB's protocol is refused at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No TLS, where it is required.
    NotTls,
    /// TLS without a client certificate.
    NoCertificate,
    /// A client certificate whose names cannot be read.
    UnreadableCertificate,
    /// It says who it is, and is not believed.
    Identity(IdentityRefusal),
    /// Its PROXY header.
    Proxy(ProxyRefusal),
}

impl Refusal {
    /// What the client is told, with the code that `MongoDB` has for those who may not.
    pub(super) fn command_error(&self, listener: &str) -> CommandError {
        let what = match self {
            Self::NotTls => "requires mutual TLS (mode = \"strict\"): connect with tls=true and a client certificate",
            Self::NoCertificate => "requires a client certificate: set tlsCertificateKeyFile",
            Self::UnreadableCertificate => "cannot read the client certificate",
            Self::Identity(refusal) => {
                let message = format!("mongate: listener {listener}: {refusal}");
                return CommandError { code: 13, code_name: "Unauthorized", message };
            }
            Self::Proxy(ProxyRefusal::Untrusted) => "takes PROXY headers from its trusted proxies only",
            Self::Proxy(ProxyRefusal::Missing) => "takes clients through its proxies only, with a PROXY header",
        };
        CommandError { code: 13, code_name: "Unauthorized", message: format!("mongate: listener {listener} {what}") }
    }

    /// What it counts as among the handshakes, if it concerns TLS.
    pub(super) fn handshake(&self) -> Option<ClientHandshake> {
        match self {
            Self::NotTls => Some(ClientHandshake::NotTls),
            Self::NoCertificate => Some(ClientHandshake::NoCertificate),
            Self::UnreadableCertificate => Some(ClientHandshake::Invalid),
            Self::Identity(refusal) => Some(ClientHandshake::of_label(refusal.label())),
            Self::Proxy(_) => None,
        }
    }

    /// The word that tells it from the others.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NoCertificate => "no_certificate",
            Self::UnreadableCertificate => "invalid",
            Self::Identity(refusal) => refusal.label(),
            Self::Proxy(ProxyRefusal::Untrusted) => "proxy_untrusted",
            Self::Proxy(ProxyRefusal::Missing) => "proxy_missing",
        }
    }

    /// What the operator can do.
    pub(super) fn remedy(&self, listener: &str) -> String {
        match self {
            Self::NotTls => format!(
                "give the client a certificate and tls=true, or set listener.{listener}.mode to \"permissive\" until all have one"
            ),
            Self::NoCertificate => format!(
                "give the client a certificate of listener.{listener}.tls.ca_file (tlsCertificateKeyFile in its connection string)"
            ),
            Self::UnreadableCertificate => "have the client's certificate issued again".to_owned(),
            Self::Identity(refusal) => refusal.remedy(),
            Self::Proxy(ProxyRefusal::Untrusted) => {
                format!("if this is a proxy of yours, add its address to listener.{listener}.proxy_trusted")
            }
            Self::Proxy(ProxyRefusal::Missing) => {
                format!("have the proxy send PROXY headers, or set listener.{listener}.proxy_protocol to \"optional\"")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls => f.write_str("no TLS, which this listener requires"),
            Self::NoCertificate => f.write_str("TLS without a client certificate"),
            Self::UnreadableCertificate => f.write_str("the client certificate cannot be read"),
            Self::Identity(refusal) => write!(f, "{refusal}"),
            Self::Proxy(ProxyRefusal::Untrusted) => f.write_str("not one of the proxies that are trusted"),
            Self::Proxy(ProxyRefusal::Missing) => f.write_str("no PROXY header, which this listener requires"),
        }
    }
}
