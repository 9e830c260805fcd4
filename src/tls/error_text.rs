//! The errors of rustls in plain words, for clients, logs and reports.
//!
//! rustls writes most of its errors as the names of Rust variants. The names that operators meet have texts of their
//! own here; the others are split into words.

#[cfg(test)]
mod tests;

use std::fmt::{Debug, Write};
use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::certificate_defect::CertificateDefect;

/// The error of a connection: an error of TLS in plain words, or that of the socket.
pub fn connection_error_text(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => tls_error_text(error),
        None => error.to_string(),
    }
}

/// An error of a TLS session. "The peer" is the other side.
pub fn tls_error_text(error: &Error) -> String {
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the peer sent a TLS message at a time when it may not".to_owned()
        }
        Error::InvalidMessage(cause) => format!("the peer sent a malformed TLS message ({})", words(cause)),
        Error::NoCertificatesPresented => "the peer sent no certificate".to_owned(),
        Error::DecryptError => "a TLS record of the peer cannot be decrypted".to_owned(),
        Error::PeerIncompatible(cause) => incompatibility_text(cause),
        Error::PeerMisbehaved(cause) => format!("the peer violates the TLS protocol ({})", words(cause)),
        Error::AlertReceived(alert) => format!("the peer sent the TLS alert {}", alert_text(*alert)),
        Error::InvalidCertificate(cause) => {
            format!("the certificate of the peer was rejected: {}", certificate_error_text(cause))
        }
        Error::InvalidCertRevocationList(cause) => format!("a revocation list cannot be used ({})", words(cause)),
        Error::PeerSentOversizedRecord => "the peer sent a TLS record that is too long".to_owned(),
        Error::General(text) => text.clone(),
        other => format!("TLS failed ({})", words(other)),
    }
}

fn incompatibility_text(cause: &PeerIncompatible) -> String {
    match cause {
        PeerIncompatible::NoCipherSuitesInCommon => {
            "the peer supports no cipher suite that the gateway does: ECDHE with AES-GCM or ChaCha20-Poly1305"
                .to_owned()
        }
        PeerIncompatible::NoKxGroupsInCommon => {
            "the peer supports no key exchange group that the gateway does: X25519, P-256, P-384 or X25519MLKEM768"
                .to_owned()
        }
        PeerIncompatible::ServerDoesNotSupportTls12Or13 | PeerIncompatible::Tls12NotOffered => {
            "the peer supports neither TLS 1.2 nor TLS 1.3".to_owned()
        }
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig | PeerIncompatible::Tls12NotOfferedOrEnabled => {
            "the peer supports no TLS version that min_version allows".to_owned()
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "the peer supports no signature algorithm for the gateway's certificate and key".to_owned()
        }
        other => format!("the peer does not support what the gateway requires ({})", words(other)),
    }
}

/// What is wrong with a certificate. Begins with "it", or with the name of another certificate.
pub fn certificate_error_text(error: &CertificateError) -> String {
    if let Some(defect) = CertificateDefect::of(error) {
        return defect.to_string();
    }
    match error {
        CertificateError::BadEncoding => "it cannot be read: its encoding is not valid".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::Revoked => "it is revoked".to_owned(),
        CertificateError::UnhandledCriticalExtension => "it has a critical extension that is not supported".to_owned(),
        CertificateError::UnknownIssuer => "it was not issued by a trust anchor".to_owned(),
        CertificateError::BadSignature => "its signature does not match".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its extendedKeyUsage does not allow this use".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            "it is signed with an algorithm that is not accepted".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its signature algorithm does not fit the key of its issuer".to_owned()
        }
        CertificateError::InvalidOcspResponse => "its stapled OCSP response is not valid".to_owned(),
        CertificateError::ApplicationVerificationFailure => "it was not accepted".to_owned(),
        other => format!("it cannot be verified ({})", words(other)),
    }
}

/// The name of an alert as other TLS libraries write it, such as `handshake failure`.
pub fn alert_text(alert: AlertDescription) -> String {
    match alert.as_str() {
        Some(name) => words_of_name(name),
        None => format!("number {}", u8::from(alert)),
    }
}

/// The name of a Rust variant as words: `NoKeyShare` becomes `no key share`. What the variant contains is left out.
fn words(variant: &impl Debug) -> String {
    // Only the first characters are needed, and a value may be long.
    let mut name = FirstWord(String::new());
    // The writer stops the formatting at the end of the first word.
    let _ = write!(name, "{variant:?}");
    words_of_name(&name.0)
}

/// Keeps the letters and digits at the beginning of what is written.
struct FirstWord(String);

impl Write for FirstWord {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric());
        self.0.push_str(&text[..end.unwrap_or(text.len())]);
        if end.is_some() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

fn words_of_name(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (at, &letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let after = letters.get(at + 1);
        let begins = letter.is_ascii_uppercase()
            && (before.is_some_and(|before| !before.is_ascii_uppercase())
                || (before.is_some() && after.is_some_and(char::is_ascii_lowercase)));
        if begins {
            text.push(' ');
        }
        // An abbreviation stays in upper case.
        let is_abbreviated = letter.is_ascii_uppercase()
            && (before.is_some_and(char::is_ascii_uppercase) || after.is_some_and(char::is_ascii_uppercase))
            && !(begins && after.is_some_and(char::is_ascii_lowercase));
        text.push(if is_abbreviated { letter } else { letter.to_ascii_lowercase() });
    }
    text
}
