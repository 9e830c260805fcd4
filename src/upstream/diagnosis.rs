//! Determines why a TLS handshake or the first command failed, from the errors of sockets and rustls.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::failure::{ConnectFailure, ServerCertificateRejection};
use super::own_commands::OwnCommandError;
use crate::identity::CertificateFacts;
use crate::tls::{CertificateDefect, UpstreamTls};

/// The failure that `cause`, the error of a handshake, means.
pub(super) fn of_handshake(cause: io::Error, tls: &UpstreamTls) -> ConnectFailure {
    match tls_error(&cause) {
        Some(TlsError::InvalidCertificate(error)) => {
            let certificate = tls.last_handshake.take_rejected().into_iter().next();
            let rejection = rejection_of(error.clone(), certificate.as_ref());
            ConnectFailure::ServerCertificate { rejection, certificate: certificate.map(Box::new) }
        }
        Some(TlsError::InvalidMessage(_)) => ConnectFailure::NotTls { cause },
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: tls.last_handshake.request() }
        }
        // A mongod without TLS closes the connection, or resets it if it did not read the whole ClientHello.
        None if is_closed(&cause) => ConnectFailure::NotTls { cause },
        _ => ConnectFailure::Handshake { cause },
    }
}

/// The failure that `cause`, the error of the first command after the handshake, means.
pub(super) fn of_proof(cause: OwnCommandError, tls: &UpstreamTls) -> ConnectFailure {
    let OwnCommandError::Closed(broken) = &cause else { return ConnectFailure::Proof { cause } };
    match tls_error(broken) {
        Some(TlsError::AlertReceived(alert)) if is_about_certificate(*alert) => {
            ConnectFailure::ClientCertificateRejected { alert: Some(*alert), request: tls.last_handshake.request() }
        }
        None if is_closed(broken) => {
            ConnectFailure::ClientCertificateRejected { alert: None, request: tls.last_handshake.request() }
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
