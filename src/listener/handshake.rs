//! The TLS handshake with a client, and the identity that the client shows in it.
//!
//! The whole handshake has one deadline, and a limit for what it may read. The verifier in the configuration decides
//! which certificates are valid. A client without a certificate completes the handshake, so that it can be rejected
//! with a MongoDB error that its driver reports.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_hello;
use super::client_hello::Measure;
use super::client_stream::{Prefixed, ReadLimitReached};
use crate::identity::CertificateFacts;
use crate::telemetry::metrics::ClientHandshake;
use crate::tls::{ClientCertificateRejection, alert_text, tls_error_text};

/// How many bytes a client may send after its `ClientHello` until the handshake is complete. Nearly all of them are its
/// certificate chain. The same number limits one handshake message in rustls.
const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// By how much the buffer of a `ClientHello` grows.
const READ_BYTES: usize = 2048;

/// What a client shows of itself in TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerTls {
    /// The connection is plaintext.
    Plaintext,
    /// TLS without a client certificate.
    Anonymous,
    /// A verified client certificate.
    Certificate(Box<CertificateFacts>),
    /// A verified client certificate whose names cannot be parsed.
    Unreadable,
}

/// Why a TLS handshake that the client began has failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// The client certificate is not valid.
    #[error("the client certificate was rejected: {cause}")]
    Certificate {
        /// Its kind.
        rejection: ClientCertificateRejection,
        /// What is wrong. Begins with "it", or with the name of another certificate.
        cause: String,
    },
    /// The client rejects the listener's server certificate, or another parameter of the handshake.
    #[error("the client ended the TLS handshake with the alert {}", alert_text(*.0))]
    Alert(AlertDescription),
    /// The client's bytes are not TLS, or not a version or parameter that the listener supports.
    #[error("the TLS handshake failed: {}", tls_error_text(.0))]
    Protocol(rustls::Error),
    /// The `ClientHello` has more than 16 KiB.
    #[error("the client's ClientHello has more than {} bytes", client_hello::HELLO_BYTES_MAX)]
    HelloTooLong,
    /// The client sent more than 64 KiB after its `ClientHello`.
    #[error("the client sent more than {HANDSHAKE_BYTES_MAX} bytes in the TLS handshake")]
    TooLong,
    /// The client closed the connection, or its socket failed.
    #[error("the client closed the connection during the TLS handshake")]
    Closed,
    /// The deadline passed.
    #[error("the client did not finish the TLS handshake in time")]
    TimedOut,
}

/// Performs the handshake on `stream`, whose first bytes are in `read`.
///
/// A failure returns the stream, so that the client can read the alert; not after the deadline.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    read: Vec<u8>,
    mut stream: S,
    deadline: Instant,
) -> Result<TlsStream<Prefixed<S>>, (HandshakeFailure, Option<S>)> {
    let (read, is_hello) = match timeout_at(deadline, read_hello(&mut stream, read)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(failure)) => return Err((failure, Some(stream))),
        Err(_) => return Err((HandshakeFailure::TimedOut, None)),
    };
    let stream = Prefixed::limited(read, stream, HANDSHAKE_BYTES_MAX);
    match timeout_at(deadline, TlsAcceptor::from(config).accept(stream).into_fallible()).await {
        Ok(Ok(mut stream)) => {
            stream.get_mut().0.lift_limit();
            Ok(stream)
        }
        Ok(Err((error, stream))) => Err((HandshakeFailure::of(&error, is_hello), Some(stream.into_inner()))),
        Err(_) => Err((HandshakeFailure::TimedOut, None)),
    }
}

/// Appends to `read` until it has the whole `ClientHello`, or bytes that are none. Returns the bytes, and whether they
/// are a `ClientHello`. Until then, the client costs no more memory than it has sent.
async fn read_hello(
    stream: &mut (impl AsyncRead + Unpin),
    mut read: Vec<u8>,
) -> Result<(Vec<u8>, bool), HandshakeFailure> {
    loop {
        match client_hello::measure(&read) {
            Measure::Whole => return Ok((read, true)),
            Measure::Invalid => return Ok((read, false)),
            Measure::TooLong => return Err(HandshakeFailure::HelloTooLong),
            Measure::Undecided => {}
        }
        if read.len() == read.capacity() {
            read.reserve_exact(READ_BYTES);
        }
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            return Err(HandshakeFailure::Closed);
        }
    }
}

/// What the client showed in a completed handshake.
pub(super) fn peer_tls<S>(stream: &TlsStream<S>) -> PeerTls {
    let (_, session) = stream.get_ref();
    match session.peer_certificates() {
        None | Some([]) => PeerTls::Anonymous,
        Some([leaf, ..]) => {
            CertificateFacts::from_der(leaf).map_or(PeerTls::Unreadable, |facts| PeerTls::Certificate(Box::new(facts)))
        }
    }
}

impl HandshakeFailure {
    /// `is_hello`: whether the client began with a `ClientHello`, so that its bytes are TLS.
    fn of(error: &io::Error, is_hello: bool) -> Self {
        if error.get_ref().and_then(|inner| inner.downcast_ref::<ReadLimitReached>()).is_some() {
            return Self::TooLong;
        }
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Closed;
        };
        match (ClientCertificateRejection::of_tls(error), error) {
            (Some(rejection), _) => Self::Certificate { rejection, cause: rejection.cause(error) },
            (None, rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            (None, rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)) if is_hello => {
                Self::TooLong
            }
            (None, error) => Self::Protocol(error.clone()),
        }
    }

    /// The outcome in the metric of client handshakes.
    pub fn outcome(&self) -> ClientHandshake {
        match self {
            Self::Certificate { rejection, .. } => ClientHandshake::of_label(rejection.label()),
            Self::Alert(_) => ClientHandshake::RefusedByClient,
            Self::HelloTooLong | Self::TooLong => ClientHandshake::TooLong,
            Self::Protocol(_) | Self::Closed => ClientHandshake::Failed,
            Self::TimedOut => ClientHandshake::TimedOut,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::version::{TLS12, TLS13};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tls::test_pki::CertificateAuthority;

    /// Checks the outcome for a client that sends these bytes and nothing more. Returns what the client reads, and the
    /// seconds that passed.
    async fn check(read: &[u8], sent: &[u8], expected: ClientHandshake) -> (Vec<u8>, u64) {
        let config = CertificateAuthority::new("mesh").issue("gateway", &["localhost"]).server(None, &[&TLS12, &TLS13]);
        let (mut client, gateway) = tokio::io::duplex(64 * 1024);
        client.write_all(sent).await.unwrap();
        let started = Instant::now();
        let deadline = started + std::time::Duration::from_secs(30);
        let failed = accept(config, read.to_vec(), gateway, deadline).await;
        let waited = started.elapsed().as_secs();
        let (failure, stream) = failed.err().unwrap();
        assert_eq!(failure.outcome(), expected, "{failure}");
        drop(stream);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        (answer, waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_disconnected_at_the_deadline() {
        let half_a_hello = [0x16, 3, 1, 0x02, 0, 1, 0, 1, 0xFC, 3, 3, 1, 2, 3];
        let (answer, waited) = check(&half_a_hello[..5], &half_a_hello[5..], ClientHandshake::TimedOut).await;
        assert_eq!((answer.as_slice(), waited), (&[][..], 30));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_not_tls_after_a_record_header_fail_immediately() {
        for garbage in
            [&[0x16, 3, 1, 0, 8, 9, 9, 9, 9, 9, 9, 9, 9][..], &[0x16, 3, 1, 0xFF, 0xFF, 0], &[0x16, 3, 1, 0, 0]]
        {
            let (_, waited) = check(garbage, &[], ClientHandshake::Failed).await;
            assert_eq!(waited, 0, "{garbage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_hello_is_refused_immediately() {
        let announced = [0x16, 3, 1, 0x40, 0, 1, 0, 0xEA, 0x60, 3, 3];
        let (_, waited) = check(&announced[..5], &announced[5..], ClientHandshake::TooLong).await;
        assert_eq!(waited, 0);
    }

    /// The handshake with a client that sends its CA certificate this many times.
    async fn handshake_with_chain(intermediates: usize) -> Result<(), HandshakeFailure> {
        let authority = CertificateAuthority::new("mesh");
        let config = authority.issue("gateway", &["localhost"]).server(Some(&authority), &[&TLS12, &TLS13]);
        let mut client = authority.issue("client", &[]);
        client.chain = vec![authority.der().clone(); intermediates];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
        let resolver = rustls::sign::SingleCertAndKey::from(client.certified_key());
        let builder = builder.with_root_certificates(roots).with_client_cert_resolver(Arc::new(resolver));
        let (client, gateway) = tokio::io::duplex(1024 * 1024);
        let talk = async move {
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let connecting = tokio_rustls::TlsConnector::from(Arc::new(builder)).connect(name, client);
            let mut stream = connecting.await.unwrap();
            let _ = stream.write_all(b"x").await;
            let _ = stream.read(&mut [0]).await;
        };
        let accepted = async {
            let deadline = Instant::now() + std::time::Duration::from_secs(30);
            let accepted = accept(config, Vec::new(), gateway, deadline).await.map_err(|(failure, _)| failure);
            accepted?.read_exact(&mut [0]).await.unwrap();
            Ok(())
        };
        tokio::join!(accepted, talk).0
    }

    #[tokio::test]
    async fn a_long_certificate_chain_fits_and_a_huge_one_does_not() {
        handshake_with_chain(100).await.unwrap();
        assert!(matches!(handshake_with_chain(500).await, Err(HandshakeFailure::TooLong)));
    }

    #[tokio::test]
    async fn a_client_that_closes_is_a_failed_handshake() {
        let config = CertificateAuthority::new("mesh").issue("gateway", &["localhost"]).server(None, &[&TLS13]);
        let (client, gateway) = tokio::io::duplex(64);
        drop(client);
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        let failed = accept(config, vec![0x16, 3, 1], gateway, deadline).await;
        assert!(matches!(failed, Err((HandshakeFailure::Closed, Some(_)))));
    }

    #[test]
    fn every_certificate_refusal_has_its_own_outcome() {
        for rejection in ClientCertificateRejection::ALL {
            let failure = HandshakeFailure::Certificate { rejection, cause: String::new() };
            assert_eq!(failure.outcome().label(), rejection.label());
        }
    }
}
