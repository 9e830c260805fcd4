//! Why a stapled OCSP response, or its absence, makes the gateway reject a certificate.

use std::time::SystemTime;

use crate::identity::date_text;

/// Why a stapled OCSP response, or its absence, makes the gateway reject a certificate.
///
/// `Display` continues a sentence about the certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OcspDefect {
    /// The response says that the certificate is revoked.
    #[error("it is revoked since {}, as the OCSP response that mongod staples says", date_text(*.since))]
    Revoked {
        /// When it was revoked.
        since: SystemTime,
    },
    /// The responder does not know the certificate.
    #[error("the OCSP response that mongod staples says that the responder does not know it")]
    Unknown,
    /// The certificate requires a stapled response, and there is none.
    #[error("it requires a stapled OCSP response (TLS feature status_request), and mongod staples none")]
    Missing,
    /// The response is longer than the gateway reads.
    #[error("the OCSP response that mongod staples is too long")]
    TooLong,
    /// The response is no OCSP response of the basic type.
    #[error("the OCSP response that mongod staples cannot be read")]
    Malformed,
    /// The responder answered with an error.
    #[error("the OCSP response that mongod staples is the error {0}")]
    ResponderError(ResponderError),
    /// The response is about other certificates.
    #[error("the OCSP response that mongod staples is about another certificate")]
    OtherCertificate,
    /// The certificate that signed the server certificate is not known.
    #[error(
        "the OCSP response that mongod staples cannot be verified, because the certificate of the issuer is missing"
    )]
    NoIssuer,
    /// The response is signed by neither the issuer nor a responder that the issuer has authorised.
    #[error("the OCSP response that mongod staples is signed by {0}")]
    Signer(SignerDefect),
    /// The response was replaced by a newer one.
    #[error("the OCSP response that mongod staples was valid until {}", date_text(*.until))]
    Outdated {
        /// Its next update, or a day after it was made if it names none.
        until: SystemTime,
    },
    /// The response is not valid yet.
    #[error("the OCSP response that mongod staples is not valid before {}", date_text(*.from))]
    NotYetValid {
        /// When it was made, or its update.
        from: SystemTime,
    },
}

/// The status of a response that is an error.
///
/// Spec: RFC 6960 § 4.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponderError {
    /// The request was malformed.
    #[error("malformedRequest")]
    MalformedRequest,
    /// The responder failed.
    #[error("internalError")]
    Internal,
    /// The responder asks to try again.
    #[error("tryLater")]
    TryLater,
    /// The request must be signed.
    #[error("sigRequired")]
    SignatureRequired,
    /// The responder does not answer this client.
    #[error("unauthorized")]
    Unauthorized,
    /// A status that the specification does not have.
    #[error("{0}")]
    Other(u8),
}

/// What is wrong with the signer of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerDefect {
    /// Its certificate is neither that of the issuer nor in the response.
    #[error("an unknown responder")]
    Unknown,
    /// Another authority issued its certificate.
    #[error("a responder that the issuer did not authorise")]
    OtherIssuer,
    /// Its certificate is not for signing OCSP responses.
    #[error("a responder whose certificate is not for signing OCSP responses")]
    Purpose,
    /// Its certificate is not valid at this time.
    #[error("a responder whose certificate is not valid at this time")]
    Dates,
    /// Its certificate is revoked.
    #[error("a responder whose certificate is revoked")]
    Revoked,
    /// Its certificate has the right name, but its key did not make the signature.
    #[error("another key than that of the responder that it names")]
    Signature,
}

impl OcspDefect {
    /// Whether the certificate is revoked.
    pub fn is_revocation(&self) -> bool {
        matches!(self, Self::Revoked { .. })
    }
}
