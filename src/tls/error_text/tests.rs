//! No text contains the debug output of Rust, for every error that can be made.

use std::sync::Arc;

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{
    CertRevocationListError, ContentType, ExtendedKeyPurpose, HandshakeType, InconsistentKeys, InvalidMessage,
    OtherError, PeerMisbehaved,
};

use super::*;
use crate::identity::DistinguishedName;
use crate::tls::{OcspDefect, ResponderError, SignerDefect};

/// Checks that a text has no form of Rust's debug output: names of variants, braces, quotes or paths.
#[track_caller]
fn check(text: &str) {
    const NAMES: [&str; 4] = ["ClientHello", "ChaCha20", "TLS", "X25519MLKEM768"];
    let is_name = |word: &str| NAMES.iter().any(|name| word.starts_with(name));
    // A capital letter after a small one, as in NoKeyShare; extendedKeyUsage and mongod's keys begin small.
    let is_variant = |word: &str| {
        word.starts_with(|letter: char| letter.is_ascii_uppercase())
            && word.as_bytes().windows(2).any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
    };
    let odd =
        text.split(|letter: char| !letter.is_ascii_alphanumeric()).find(|word| is_variant(word) && !is_name(word));
    assert_eq!(odd, None, "{text}");
    for shape in ["Some(", "None", "Ok(", "Err(", "Os {", "{", "}", "\"", "\\", "::", "[", "]"] {
        assert!(!text.contains(shape), "{shape} in {text}");
    }
    assert!(text.len() > 10 && !text.ends_with('.') && !text.contains("()"), "{text}");
}

#[test]
fn names_of_variants_become_words() {
    for (name, expected) in [
        ("HandshakeFailure", "handshake failure"),
        ("UnknownCA", "unknown CA"),
        ("ECHRequired", "ECH required"),
        ("Tls12NotOffered", "tls12 not offered"),
        ("UserCanceled", "user canceled"),
        ("InvalidCcs", "invalid ccs"),
    ] {
        assert_eq!(words_of_name(name), expected);
    }
    assert_eq!(words(&InvalidMessage::MissingData("CertificatePayload")), "missing data");
    assert_eq!(alert_text(AlertDescription::from(200)), "number 200");
}

#[test]
fn no_text_contains_debug_output() {
    for error in all_errors() {
        check(&tls_error_text(&error));
        check(&connection_error_text(&io::Error::other(error)));
    }
    for error in certificate_errors() {
        check(&certificate_error_text(&error));
    }
    for number in 0..=u8::MAX {
        check(&tls_error_text(&Error::AlertReceived(AlertDescription::from(number))));
    }
}

fn all_errors() -> Vec<Error> {
    let mut errors = vec![
        Error::InappropriateMessage {
            expect_types: vec![ContentType::Handshake],
            got_type: ContentType::ApplicationData,
        },
        Error::InappropriateHandshakeMessage {
            expect_types: vec![HandshakeType::ClientHello],
            got_type: HandshakeType::Finished,
        },
        Error::NoCertificatesPresented,
        Error::UnsupportedNameType,
        Error::DecryptError,
        Error::EncryptError,
        Error::General("the received data is too long".to_owned()),
        Error::FailedToGetCurrentTime,
        Error::FailedToGetRandomBytes,
        Error::HandshakeNotComplete,
        Error::PeerSentOversizedRecord,
        Error::NoApplicationProtocol,
        Error::BadMaxFragmentSize,
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch),
        Error::InconsistentKeys(InconsistentKeys::Unknown),
        Error::Other(OtherError(Arc::new(io::Error::other("x")))),
        InvalidMessage::MissingData("CertificatePayload").into(),
        InvalidMessage::TrailingData("ServerHello").into(),
        InvalidMessage::UnexpectedMessage("Finished").into(),
        InvalidMessage::IllegalEmptyList("NamedGroups").into(),
        InvalidMessage::DuplicateExtension(13).into(),
        PeerIncompatible::ServerRejectedEncryptedClientHello(None).into(),
    ];
    errors.extend(INVALID_MESSAGES.map(Error::from));
    errors.extend(MISBEHAVIOURS.map(Error::from));
    errors.extend(INCOMPATIBILITIES.map(Error::from));
    errors.extend(LIST_ERRORS.map(Error::from));
    errors.extend(certificate_errors().into_iter().map(Error::from));
    errors
}

fn certificate_errors() -> Vec<CertificateError> {
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
    let mut errors = vec![
        CertificateError::BadEncoding,
        CertificateError::Expired,
        CertificateError::ExpiredContext { time, not_after: time },
        CertificateError::NotValidYet,
        CertificateError::NotValidYetContext { time, not_before: time },
        CertificateError::Revoked,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::UnknownIssuer,
        CertificateError::UnknownRevocationStatus,
        CertificateError::ExpiredRevocationList,
        CertificateError::ExpiredRevocationListContext { time, next_update: time },
        CertificateError::BadSignature,
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![6, 3, 42, 3, 4],
            supported_algorithms: Vec::new(),
        },
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![6, 3, 42, 3, 4],
            public_key_algorithm_id: vec![6, 3, 42, 3, 4],
        },
        CertificateError::NotValidForName,
        CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("mongo.example").unwrap(),
            presented: vec!["DnsName(\"x\")".to_owned()],
        },
        CertificateError::InvalidPurpose,
        CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![ExtendedKeyPurpose::ClientAuth],
        },
        CertificateError::InvalidOcspResponse,
        CertificateError::ApplicationVerificationFailure,
        CertificateError::Other(OtherError(Arc::new(io::Error::other("x")))),
    ];
    errors.extend(defects().into_iter().map(CertificateError::from));
    errors
}

fn defects() -> Vec<CertificateDefect> {
    let name = || DistinguishedName::from_der(&[0x30, 13, 49, 11, 48, 9, 6, 3, 85, 4, 3, 12, 2, 67, 65]).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH;
    let ocsp = [
        OcspDefect::Revoked { since: time },
        OcspDefect::Unknown,
        OcspDefect::Missing,
        OcspDefect::TooLong,
        OcspDefect::Malformed,
        OcspDefect::ResponderError(ResponderError::MalformedRequest),
        OcspDefect::ResponderError(ResponderError::Internal),
        OcspDefect::ResponderError(ResponderError::TryLater),
        OcspDefect::ResponderError(ResponderError::SignatureRequired),
        OcspDefect::ResponderError(ResponderError::Unauthorized),
        OcspDefect::ResponderError(ResponderError::Other(9)),
        OcspDefect::OtherCertificate,
        OcspDefect::NoIssuer,
        OcspDefect::Signer(SignerDefect::Unknown),
        OcspDefect::Signer(SignerDefect::OtherIssuer),
        OcspDefect::Signer(SignerDefect::Purpose),
        OcspDefect::Signer(SignerDefect::Dates),
        OcspDefect::Signer(SignerDefect::Revoked),
        OcspDefect::Signer(SignerDefect::Signature),
        OcspDefect::Outdated { until: time },
        OcspDefect::NotYetValid { from: time },
    ];
    let mut defects = vec![
        CertificateDefect::Version(1),
        CertificateDefect::CommonName,
        CertificateDefect::Identity,
        CertificateDefect::Issuer(name()),
        CertificateDefect::CaCertificate,
        CertificateDefect::KeyUsage,
        CertificateDefect::NetscapeType,
        CertificateDefect::TooManyIntermediates { limit: 10 },
        CertificateDefect::CriticalExtension { subject: name(), extension: "1.2.3.4".to_owned() },
        CertificateDefect::Signature { subject: name(), algorithm: "Ed448".to_owned() },
        CertificateDefect::Key { subject: name(), key: "RSA 1024".to_owned() },
        CertificateDefect::NameConstraint { subject: name(), issuer: name() },
        CertificateDefect::TooManyNames { subject: name(), issuer: name() },
        CertificateDefect::Policies,
    ];
    defects.extend(ocsp.map(CertificateDefect::Ocsp));
    defects
}

const INVALID_MESSAGES: [InvalidMessage; 22] = [
    InvalidMessage::CertificatePayloadTooLarge,
    InvalidMessage::HandshakePayloadTooLarge,
    InvalidMessage::InvalidCcs,
    InvalidMessage::InvalidContentType,
    InvalidMessage::InvalidCertificateStatusType,
    InvalidMessage::InvalidCertRequest,
    InvalidMessage::InvalidDhParams,
    InvalidMessage::InvalidEmptyPayload,
    InvalidMessage::InvalidKeyUpdate,
    InvalidMessage::InvalidServerName,
    InvalidMessage::MessageTooLarge,
    InvalidMessage::MessageTooShort,
    InvalidMessage::MissingKeyExchange,
    InvalidMessage::NoSignatureSchemes,
    InvalidMessage::UnknownProtocolVersion,
    InvalidMessage::UnsupportedCompression,
    InvalidMessage::UnsupportedCurveType,
    InvalidMessage::EmptyTicketValue,
    InvalidMessage::IllegalEmptyValue,
    InvalidMessage::PreSharedKeyIsNotFinalExtension,
    InvalidMessage::UnknownHelloRetryRequestExtension,
    InvalidMessage::UnknownCertificateExtension,
];

const MISBEHAVIOURS: [PeerMisbehaved; 78] = [
    PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported,
    PeerMisbehaved::BadCertChainExtensions,
    PeerMisbehaved::CipherSuiteDifferedOnRetry,
    PeerMisbehaved::DisallowedEncryptedExtension,
    PeerMisbehaved::DuplicateClientHelloExtensions,
    PeerMisbehaved::DuplicateEncryptedExtensions,
    PeerMisbehaved::DuplicateHelloRetryRequestExtensions,
    PeerMisbehaved::DuplicateNewSessionTicketExtensions,
    PeerMisbehaved::DuplicateServerHelloExtensions,
    PeerMisbehaved::DuplicateServerNameTypes,
    PeerMisbehaved::EarlyDataAttemptedInSecondClientHello,
    PeerMisbehaved::EarlyDataExtensionWithoutResumption,
    PeerMisbehaved::EarlyDataOfferedWithVariedCipherSuite,
    PeerMisbehaved::EchAcceptanceVariedAfterRetry,
    PeerMisbehaved::HandshakeHashVariedAfterRetry,
    PeerMisbehaved::IllegalHelloRetryRequestWithEmptyCookie,
    PeerMisbehaved::IllegalHelloRetryRequestWithNoChanges,
    PeerMisbehaved::IllegalHelloRetryRequestWithOfferedGroup,
    PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedCipherSuite,
    PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedNamedGroup,
    PeerMisbehaved::IllegalHelloRetryRequestWithUnsupportedVersion,
    PeerMisbehaved::IllegalHelloRetryRequestWithWrongSessionId,
    PeerMisbehaved::IllegalHelloRetryRequestWithInvalidEch,
    PeerMisbehaved::IllegalMiddleboxChangeCipherSpec,
    PeerMisbehaved::IllegalTlsInnerPlaintext,
    PeerMisbehaved::IncorrectBinder,
    PeerMisbehaved::InvalidCertCompression,
    PeerMisbehaved::InvalidMaxEarlyDataSize,
    PeerMisbehaved::InvalidKeyShare,
    PeerMisbehaved::KeyEpochWithPendingFragment,
    PeerMisbehaved::KeyUpdateReceivedInQuicConnection,
    PeerMisbehaved::MessageInterleavedWithHandshakeMessage,
    PeerMisbehaved::MissingBinderInPskExtension,
    PeerMisbehaved::MissingKeyShare,
    PeerMisbehaved::MissingPskExtensionInSecondClientHello,
    PeerMisbehaved::MissingPskModesExtension,
    PeerMisbehaved::MissingQuicTransportParameters,
    PeerMisbehaved::OfferedDuplicateCertificateCompressions,
    PeerMisbehaved::OfferedDuplicateKeyShares,
    PeerMisbehaved::OfferedEarlyDataWithOldProtocolVersion,
    PeerMisbehaved::OfferedEmptyApplicationProtocol,
    PeerMisbehaved::OfferedIncorrectCompressions,
    PeerMisbehaved::PskExtensionMustBeLast,
    PeerMisbehaved::PskExtensionWithMismatchedIdsAndBinders,
    PeerMisbehaved::RefusedToFollowHelloRetryRequest,
    PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage,
    PeerMisbehaved::ResumptionAttemptedWithVariedEms,
    PeerMisbehaved::ResumptionOfferedWithVariedCipherSuite,
    PeerMisbehaved::ResumptionOfferedWithVariedEms,
    PeerMisbehaved::ResumptionOfferedWithIncompatibleCipherSuite,
    PeerMisbehaved::SelectedDifferentCipherSuiteAfterRetry,
    PeerMisbehaved::SelectedInvalidPsk,
    PeerMisbehaved::SelectedTls12UsingTls13VersionExtension,
    PeerMisbehaved::SelectedUnofferedApplicationProtocol,
    PeerMisbehaved::SelectedUnofferedCertCompression,
    PeerMisbehaved::SelectedUnofferedCipherSuite,
    PeerMisbehaved::SelectedUnofferedCompression,
    PeerMisbehaved::SelectedUnofferedKxGroup,
    PeerMisbehaved::SelectedUnofferedPsk,
    PeerMisbehaved::SelectedUnusableCipherSuiteForVersion,
    PeerMisbehaved::ServerEchoedCompatibilitySessionId,
    PeerMisbehaved::ServerHelloMustOfferUncompressedEcPoints,
    PeerMisbehaved::ServerNameDifferedOnRetry,
    PeerMisbehaved::ServerNameMustContainOneHostName,
    PeerMisbehaved::SignedKxWithWrongAlgorithm,
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
    PeerMisbehaved::TooManyEmptyFragments,
    PeerMisbehaved::TooManyKeyUpdateRequests,
    PeerMisbehaved::TooManyRenegotiationRequests,
    PeerMisbehaved::TooManyWarningAlertsReceived,
    PeerMisbehaved::TooMuchEarlyDataReceived,
    PeerMisbehaved::UnexpectedCleartextExtension,
    PeerMisbehaved::UnsolicitedCertExtension,
    PeerMisbehaved::UnsolicitedEncryptedExtension,
    PeerMisbehaved::UnsolicitedSctList,
    PeerMisbehaved::UnsolicitedServerHelloExtension,
    PeerMisbehaved::WrongGroupForKeyShare,
    PeerMisbehaved::UnsolicitedEchExtension,
];

const INCOMPATIBILITIES: [PeerIncompatible; 21] = [
    PeerIncompatible::EcPointsExtensionRequired,
    PeerIncompatible::ExtendedMasterSecretExtensionRequired,
    PeerIncompatible::IncorrectCertificateTypeExtension,
    PeerIncompatible::KeyShareExtensionRequired,
    PeerIncompatible::NamedGroupsExtensionRequired,
    PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
    PeerIncompatible::NoCipherSuitesInCommon,
    PeerIncompatible::NoEcPointFormatsInCommon,
    PeerIncompatible::NoKxGroupsInCommon,
    PeerIncompatible::NoSignatureSchemesInCommon,
    PeerIncompatible::NullCompressionRequired,
    PeerIncompatible::ServerDoesNotSupportTls12Or13,
    PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension,
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
    PeerIncompatible::SignatureAlgorithmsExtensionRequired,
    PeerIncompatible::SupportedVersionsExtensionRequired,
    PeerIncompatible::Tls12NotOffered,
    PeerIncompatible::Tls12NotOfferedOrEnabled,
    PeerIncompatible::Tls13RequiredForQuic,
    PeerIncompatible::UncompressedEcPointsRequired,
    PeerIncompatible::UnsolicitedCertificateTypeExtension,
];

const LIST_ERRORS: [CertRevocationListError; 10] = [
    CertRevocationListError::BadSignature,
    CertRevocationListError::InvalidCrlNumber,
    CertRevocationListError::InvalidRevokedCertSerialNumber,
    CertRevocationListError::IssuerInvalidForCrl,
    CertRevocationListError::ParseError,
    CertRevocationListError::UnsupportedCrlVersion,
    CertRevocationListError::UnsupportedCriticalExtension,
    CertRevocationListError::UnsupportedDeltaCrl,
    CertRevocationListError::UnsupportedIndirectCrl,
    CertRevocationListError::UnsupportedRevocationReason,
];
