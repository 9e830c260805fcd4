//! Why a token is not accepted, in words for the user of the client and for the operator.
//!
//! A problem repeats only names: of claims, keys, issuers and audiences. It never contains the token.

use std::time::Duration;

use super::json::NotAnObject;
use crate::identity::refusal::shortened;

/// Why a token is not accepted. The text is for the user of the client too, who reads it in the driver's error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    /// Longer than [`TOKEN_BYTES_MAX`](super::presented::TOKEN_BYTES_MAX).
    #[error("the token has more than {max} bytes")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// Not three parts in base64url.
    #[error("the token is not a signed JWT in its compact form (three parts in base64url with dots between them)")]
    NotCompact,
    /// The header cannot be read.
    #[error("the header of the token cannot be read: {0}")]
    Header(NotAnObject),
    /// A member of the header has another type, or is not understood.
    #[error("the header of the token has {0}")]
    HeaderMember(&'static str),
    /// The claims cannot be read.
    #[error("the claims of the token cannot be read: {0}")]
    Claims(NotAnObject),
    /// The algorithm of the header is not one of a public key, or not one of the key that the header names.
    #[error(
        "the token is signed with the algorithm {}, which {}; use RS256 or ES256", shortened(.algorithm),
        if *.is_known { "is not that of its key" } else { "is not accepted" }
    )]
    Algorithm {
        /// As the header has it.
        algorithm: String,
        /// Whether the algorithm is accepted with other keys.
        is_known: bool,
    },
    /// There is no such claim.
    #[error("the claim {} is missing", shortened(.claim))]
    MissingClaim {
        /// The claim, or its path.
        claim: String,
    },
    /// A claim has another type.
    #[error("the claim {claim} is not {expected}")]
    WrongType {
        /// The claim.
        claim: &'static str,
        /// The type that it must have.
        expected: &'static str,
    },
    /// No `[[token_issuer]]` is the issuer of the token.
    #[error("the issuer is {}, which this gateway does not know", shortened(.issuer))]
    Issuer {
        /// The claim `iss`, or the trust domain of a JWT-SVID.
        issuer: String,
    },
    /// The token is for another service.
    #[error("audience is {}, expected {}", listed(.found), listed(.expected))]
    Audience {
        /// The claim `aud`.
        found: Vec<String>,
        /// `audiences` of the issuer.
        expected: Vec<String>,
    },
    /// The token is a credential for the Kubernetes API.
    #[error(
        "audience is {}, that of the Kubernetes API server: send a token whose only audience is {} (a projected \
         service account token)", shortened(.audience), listed(.expected)
    )]
    ApiServerAudience {
        /// The audience of the API server.
        audience: String,
        /// `audiences` of the issuer.
        expected: Vec<String>,
    },
    /// The key of the token is not among the issuer's keys.
    #[error("key id {} is unknown to issuer {}", shortened(.kid), shortened(.issuer))]
    UnknownKey {
        /// The claim `kid` of the header.
        kid: String,
        /// The label of the issuer.
        issuer: String,
    },
    /// The keys of the issuer have never been read.
    #[error("the keys of issuer {} are not available; ask the operator of the gateway", shortened(.issuer))]
    NoKeys {
        /// The label of the issuer.
        issuer: String,
    },
    /// The signature was not made with the key that the header names.
    #[error("the signature of the token is not valid for key id {}", shortened(.kid))]
    Signature {
        /// Of the header.
        kid: String,
    },
    /// The token has expired.
    #[error("token expired {} ago", about(*.ago))]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// The token expires before a client could use it.
    #[error("token expires in less than a second")]
    AboutToExpire,
    /// The token is for later.
    #[error("token is not valid before {} from now", about(*.left))]
    NotYetValid {
        /// How long to wait.
        left: Duration,
    },
    /// A claim has not the value that `required_claims` demands.
    #[error("the claim {} has not the value that this gateway requires", shortened(.claim))]
    RequiredClaim {
        /// The path of the claim.
        claim: String,
    },
    /// A claim cannot be part of a principal.
    #[error("the principal cannot be made from the claim {}: {cause}", shortened(.claim))]
    NoPrincipal {
        /// The path of the claim.
        claim: String,
        /// What is wrong with its value.
        cause: String,
    },
    /// The SPIFFE ID of a JWT-SVID belongs to another trust domain than that of its issuer.
    #[error(
        "the SPIFFE ID in sub belongs to the trust domain {}, expected {}", shortened(.found), shortened(.expected)
    )]
    TrustDomain {
        /// Of `sub`.
        found: String,
        /// `trust_domain` of the issuer.
        expected: String,
    },
    /// A connection stays with the principal that it was authenticated as.
    #[error(
        "this connection belongs to {}, and the token is for another principal; open a new connection",
        shortened(.first)
    )]
    OtherPrincipal {
        /// The principal of the connection.
        first: String,
    },
    /// The certificate of the connection has another principal.
    #[error(
        "the certificate of this connection is that of {}, and the token is for another principal",
        shortened(.principal)
    )]
    OtherCertificate {
        /// The principal of the certificate.
        principal: String,
    },
}

impl TokenProblem {
    /// The labels of all problems, for metrics.
    pub const LABELS: [&'static str; 11] = [
        "malformed",
        "algorithm",
        "issuer",
        "audience",
        "unknown_key",
        "no_keys",
        "signature",
        "expired",
        "not_yet_valid",
        "claims",
        "other_principal",
    ];

    /// Label in metrics and log lines, from [`TokenProblem::LABELS`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::NotCompact | Self::Header(_) | Self::HeaderMember(_) | Self::Claims(_) => {
                "malformed"
            }
            Self::Algorithm { .. } => "algorithm",
            Self::Issuer { .. } => "issuer",
            Self::Audience { .. } | Self::ApiServerAudience { .. } => "audience",
            Self::UnknownKey { .. } => "unknown_key",
            Self::NoKeys { .. } => "no_keys",
            Self::Signature { .. } => "signature",
            Self::Expired { .. } | Self::AboutToExpire => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::MissingClaim { .. }
            | Self::WrongType { .. }
            | Self::RequiredClaim { .. }
            | Self::NoPrincipal { .. }
            | Self::TrustDomain { .. } => "claims",
            Self::OtherPrincipal { .. } | Self::OtherCertificate { .. } => "other_principal",
        }
    }

    /// What the operator can do, for log lines.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::NotCompact | Self::Header(_) | Self::HeaderMember(_) | Self::Claims(_) => {
                "check the file or callback that the client reads its token from"
            }
            Self::Algorithm { .. } => "have the issuer sign with a public key, as RS256 or ES256",
            Self::Issuer { .. } => "add a [[token_issuer]] with this issuer, or correct the client",
            Self::Audience { .. } => "request tokens for one of audiences, or add the audience",
            Self::ApiServerAudience { .. } => {
                "mount a projected token with its own audience; add the audience of the API server to audiences only \
                 if its tokens are really meant"
            }
            Self::UnknownKey { .. } => "check that jwks_url or jwks_file has the keys of this issuer",
            Self::NoKeys { .. } => "see the log lines about the keys of this issuer",
            Self::Signature { .. } => "the token is forged, or jwks_url has the keys of another issuer",
            Self::Expired { .. } | Self::AboutToExpire => {
                "check that the client reads its token again, and the clocks of both machines"
            }
            Self::NotYetValid { .. } => "check the clocks of issuer and gateway, or raise clock_skew",
            Self::MissingClaim { .. }
            | Self::WrongType { .. }
            | Self::RequiredClaim { .. }
            | Self::NoPrincipal { .. } => {
                "mongate check --token-file shows what is verified; compare principal and required_claims with it"
            }
            Self::TrustDomain { .. } => "correct trust_domain of this issuer",
            Self::OtherPrincipal { .. } => "one client may not use a connection of its pool for two identities",
            Self::OtherCertificate { .. } => {
                "if the certificate is that of a gateway in front of this one, set may_forward = true in an \
                 [[identity]] with its principal"
            }
        }
    }
}

/// At most four names, each shortened.
fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(4).map(|name| shortened(name)).collect();
    if names.len() > shown.len() {
        shown.push("...".to_owned());
    }
    if shown.is_empty() { "empty".to_owned() } else { shown.join(" or ") }
}

/// A duration as people say it: `5 minutes`.
fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_as_people_say_them() {
        for (seconds, expected) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (300, "5 minutes"),
            (7_200, "2 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn names_from_a_token_are_shortened_and_cannot_begin_a_line() {
        let odd = format!("a\n\u{1b}{}", "x".repeat(5_000));
        for problem in [
            TokenProblem::Issuer { issuer: odd.clone() },
            TokenProblem::Audience { found: vec![odd.clone(); 32], expected: vec!["mongodb://orders".to_owned()] },
            TokenProblem::UnknownKey { kid: odd.clone(), issuer: "i".to_owned() },
            TokenProblem::Algorithm { algorithm: odd, is_known: false },
        ] {
            let text = problem.to_string();
            assert!(text.len() < 1_000 && !text.contains(char::is_control), "{text}");
        }
    }

    #[test]
    fn the_text_of_an_audience_names_both_sides() {
        let problem =
            TokenProblem::Audience { found: vec!["x".to_owned()], expected: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(problem.to_string(), "audience is x, expected a or b");
        assert_eq!(
            TokenProblem::Audience { found: vec![], expected: vec!["a".to_owned()] }.to_string(),
            "audience is empty, expected a"
        );
    }
}
