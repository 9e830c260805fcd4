//! The TLS handshake with a client, and what the client shows in it.
//!
//! Refuses to let go of the clock: the whole of it has one deadline. Which certificates are good is decided by the
//! verifier in the configuration; a client without one gets through, to be told so in words that it understands.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_stream::Prefixed;
use crate::identity::CertificateFacts;
use crate::telemetry::metrics::ClientHandshake;
use crate::tls::ClientCertificateRejection;

/// What a client shows of itself in TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerTls {
    /// It speaks no TLS.
    Plaintext,
    /// No certificate.
    Anonymous,
    /// Its certificate, verified.
    Certificate(Box<CertificateFacts>),
    /// A certificate that was verified, and whose names cannot be read here.
    Unreadable,
}

/// Why there is no TLS with a client that began it.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// Its certificate is not good.
    #[error("the client certificate was refused: {0}")]
    Certificate(ClientCertificateRejection),
    /// It does not accept the listener's certificate, or something else that it was offered.
    #[error("the client ended the TLS handshake with the alert {0:?}")]
    Alert(AlertDescription),
    /// What it sent is no TLS that is spoken here.
    #[error("the TLS handshake failed: {0}")]
    Protocol(rustls::Error),
    /// It closed, or its socket failed.
    #[error("closed during the TLS handshake")]
    Closed,
    /// It did not finish in time.
    #[error("did not finish the TLS handshake in time")]
    TimedOut,
}

/// Shakes hands on `stream`, of which `read` have been read already.
///
/// With a failure the stream comes back, so that the client gets to read the alert, unless time is over.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    read: Vec<u8>,
    stream: S,
    deadline: Instant,
) -> Result<TlsStream<Prefixed<S>>, (HandshakeFailure, Option<S>)> {
    let accept = TlsAcceptor::from(config).accept(Prefixed::new(read, stream)).into_fallible();
    match timeout_at(deadline, accept).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, stream))) => Err((HandshakeFailure::of(&error), Some(stream.into_inner()))),
        Err(_) => Err((HandshakeFailure::TimedOut, None)),
    }
}

/// What the client showed in a handshake that is done.
pub(super) fn shown<S>(stream: &TlsStream<S>) -> PeerTls {
    let (_, session) = stream.get_ref();
    match session.peer_certificates() {
        None | Some([]) => PeerTls::Anonymous,
        Some([own, ..]) => {
            CertificateFacts::from_der(own).map_or(PeerTls::Unreadable, |facts| PeerTls::Certificate(Box::new(facts)))
        }
    }
}

impl HandshakeFailure {
    fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Closed;
        };
        match (ClientCertificateRejection::of_tls(error), error) {
            (Some(refusal), _) => Self::Certificate(refusal),
            (None, rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            (None, error) => Self::Protocol(error.clone()),
        }
    }

    /// What it counts as.
    pub fn outcome(&self) -> ClientHandshake {
        match self {
            Self::Certificate(refusal) => ClientHandshake::of_label(refusal.label()),
            Self::Alert(_) => ClientHandshake::RefusedByClient,
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

    /// What comes of a client that sends these bytes and then nothing more; what it reads, and after how long.
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
    async fn a_client_that_stalls_is_cut_at_the_deadline() {
        let half_a_hello = [0x16, 3, 1, 0x02, 0, 1, 0, 1, 0xFC, 3, 3, 1, 2, 3];
        let (answer, waited) = check(&half_a_hello[..5], &half_a_hello[5..], ClientHandshake::TimedOut).await;
        assert_eq!((answer.as_slice(), waited), (&[][..], 30));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_tls_behind_a_record_header_is_refused_at_once() {
        for garbage in
            [&[0x16, 3, 1, 0, 8, 9, 9, 9, 9, 9, 9, 9, 9][..], &[0x16, 3, 1, 0xFF, 0xFF, 0], &[0x16, 3, 1, 0, 0]]
        {
            let (_, waited) = check(garbage, &[], ClientHandshake::Failed).await;
            assert_eq!(waited, 0, "{garbage:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_closes_has_failed() {
        let config = CertificateAuthority::new("mesh").issue("gateway", &["localhost"]).server(None, &[&TLS13]);
        let (client, gateway) = tokio::io::duplex(64);
        drop(client);
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        let failed = accept(config, vec![0x16, 3, 1], gateway, deadline).await;
        assert!(matches!(failed, Err((HandshakeFailure::Closed, Some(_)))));
    }

    #[test]
    fn every_refusal_of_a_certificate_has_an_outcome_of_its_own() {
        for refusal in ClientCertificateRejection::ALL {
            assert_eq!(HandshakeFailure::Certificate(refusal).outcome().label(), refusal.label());
        }
    }
}
