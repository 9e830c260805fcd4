//! A proven connection to one server: its TLS stream and what its handshake negotiated.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};
use tokio::net::TcpStream;

use super::mongo_user::MongoUser;
use crate::identity::CertificateFacts;
use crate::tls::{HandshakeRecord, TlsStream, UpstreamTls};

/// A proven connection: no message is in flight in either direction, and no byte of a client has been sent on it.
///
/// Dropping it closes the socket.
#[derive(Debug)]
pub struct UpstreamStream {
    /// The socket and its TLS session; `into_parts` separates them.
    pub tls: TlsStream<TcpStream>,
    /// The certificate set that it was made with.
    pub made_with: Arc<UpstreamTls>,
    /// The generation of that certificate set, counted from 0.
    pub generation: u64,
    /// The resolved address.
    pub address: SocketAddr,
    /// What the TLS handshake negotiated.
    pub handshake: HandshakeFacts,
    /// What the server showed in the TLS handshake.
    pub record: HandshakeRecord,
    /// The user that it is authenticated as, if the gateway authenticates.
    pub user: Option<Arc<MongoUser>>,
    /// Whether the gateway's own commands have to declare an API version.
    pub declares_api: bool,
}

/// What a TLS handshake negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher_suite: &'static str,
    /// Name of the key exchange group; `None` if a resumed session needed none.
    pub key_exchange: Option<&'static str>,
    /// Whether a session was resumed; then no certificate was exchanged.
    pub resumed: bool,
    /// Duration of the TLS handshake alone.
    pub duration: Duration,
}

impl UpstreamStream {
    /// The certificate that the server showed in this handshake, or in the handshake of the resumed session.
    pub fn server_certificate(&self) -> Option<CertificateFacts> {
        let leaf = self.tls.session().facts().peer_certificates()?.first()?;
        CertificateFacts::from_der(leaf).ok()
    }
}

impl HandshakeFacts {
    pub(super) fn of(tls: &TlsStream<TcpStream>, duration: Duration) -> Self {
        let session = tls.session().facts();
        Self {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            // rustls has names of its own for the suites of TLS 1.3.
            cipher_suite: match session.negotiated_cipher_suite().map(|suite| suite.suite()) {
                Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
                Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
                Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
                Some(suite) => suite.as_str().unwrap_or("unknown"),
                None => "unknown",
            },
            key_exchange: session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            duration,
        }
    }
}
