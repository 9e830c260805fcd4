//! Determines why a TLS handshake or the first command failed, from the errors of sockets and rustls.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::failure::{ConnectFailure, ServerCertificateRejection};
use super::own_commands::OwnCommandError;
use crate::identity::CertificateFacts;
use crate::tls::{CertificateDefect, HandshakeRecord, UpstreamTls};

/// The failure that `cause`, the error of a handshake, means. `record` is of this handshake.
pub(super) fn of_handshake(cause: io::Error, record: &HandshakeRecord, tls: &UpstreamTls) -> ConnectFailure {
    match tls_error(&cause) {
        Some(TlsError::InvalidCertificate(error)) => {
            let chain = record.rejected();
            let by_issuer = issuer_dates(error, &chain, tls);
            let certificate = chain.into_iter().next();
            let rejection = by_issuer.unwrap_or_else(|| rejection_of(error.clone(), certificate.as_ref()));
            ConnectFailure::ServerCertificate { rejection, certificate: certificate.map(Box::new) }
        }
        Some(TlsError::InvalidMessage(_)) => ConnectFailure::NotTls { cause },
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: record.request() }
        }
        // A mongod without TLS closes the connection, or resets it if it did not read the whole ClientHello.
        None if is_closed(&cause) => ConnectFailure::NotTls { cause },
        _ => ConnectFailure::Handshake { cause },
    }
}

/// The failure that `cause`, the error of the first command after the handshake, means.
pub(super) fn of_proof(cause: OwnCommandError, record: &HandshakeRecord) -> ConnectFailure {
    let OwnCommandError::Closed(broken) = &cause else { return ConnectFailure::Proof { cause } };
    match tls_error(broken) {
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: record.request() }
        }
        None if is_closed(broken) => {
            ConnectFailure::ClientCertificateRejected { alert: None, request: record.request() }
        }
        _ => ConnectFailure::Proof { cause },
    }
}

fn rejection_of(cause: CertificateError, certificate: Option<&CertificateFacts>) -> ServerCertificateRejection {
    use ServerCertificateRejection as Rejection;
    match CertificateDefect::of(&cause) {
        Some(CertificateDefect::Version(_)) => return Rejection::Version1,
        Some(CertificateDefect::CommonName) => return Rejection::CommonNameMismatch,
        Some(CertificateDefect::Identity) => return Rejection::IdentityMismatch,
        Some(CertificateDefect::Ocsp(defect)) => return Rejection::Ocsp(defect.clone()),
        Some(CertificateDefect::CaCertificate) => return Rejection::CaCertificate,
        Some(_) | None => {}
    }
    match cause {
        CertificateError::UnknownIssuer => Rejection::UnknownIssuer,
        // A CA certificate of the right name with another key. Without a certificate it is the handshake's own
        // signature.
        CertificateError::BadSignature if certificate.is_some() => Rejection::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => match certificate {
            Some(facts) if facts.names().is_empty() => Rejection::NoNames,
            _ => Rejection::NameMismatch,
        },
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Rejection::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Rejection::NotYetValid,
        CertificateError::Revoked => Rejection::Revoked,
        other => Rejection::Invalid(other),
    }
}

/// The issuer whose dates caused `error`; `None` for another error, and if the dates are those of the leaf certificate.
///
/// The error contains the date, which finds the certificate.
fn issuer_dates(
    error: &CertificateError,
    chain: &[CertificateFacts],
    tls: &UpstreamTls,
) -> Option<ServerCertificateRejection> {
    let time = |time: &UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    let is_blamed = |facts: &CertificateFacts| match error {
        CertificateError::ExpiredContext { not_after, .. } => facts.not_after == time(not_after),
        CertificateError::NotValidYetContext { not_before, .. } => facts.not_before == time(not_before),
        _ => false,
    };
    let (leaf, sent) = chain.split_first()?;
    if is_blamed(leaf) {
        return None;
    }
    let anchors = tls.trust_anchors.certificates.iter().map(|facts| (facts, true));
    let others = sent.iter().chain(&tls.trust_anchors.intermediates).map(|facts| (facts, false));
    let (issuer, is_trust_anchor) = anchors.chain(others).find(|(facts, _)| is_blamed(facts))?;
    Some(ServerCertificateRejection::IssuerDates { issuer: Box::new(issuer.clone()), is_trust_anchor })
}

fn tls_error(cause: &io::Error) -> Option<&TlsError> {
    cause.get_ref()?.downcast_ref()
}

fn is_closed(cause: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(cause.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // The signature of the certificate, or the proof that the gateway has its key, is wrong.
            | AlertDescription::DecryptError
    )
}
