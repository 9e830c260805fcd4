//! Why a client that shows an identity is rejected.

use super::distinguished_name::printable;
use super::spiffe::SpiffeIdError;

/// Characters of a name from a certificate or a header that a message shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Why a client that shows an identity is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    /// The certificate has a SPIFFE ID and further URIs.
    #[error("the client certificate has {0} URI names; a SPIFFE certificate must have exactly one")]
    SeveralUris(usize),
    /// The text has the scheme of SPIFFE but is not a valid SPIFFE ID.
    #[error("{shown} is not a valid SPIFFE ID: {cause}")]
    NotSpiffe {
        /// The text, shortened.
        shown: String,
        /// What is wrong with the text. It is not the `source()`, because the message contains it.
        cause: SpiffeIdError,
    },
    /// The client's trust domain is not accepted.
    #[error("the client's trust domain {domain} is not accepted by this gateway")]
    ForeignTrustDomain {
        /// Trust domain of the client.
        domain: String,
        /// Trust domains that the gateway accepts.
        accepted: Vec<String>,
    },
    /// The gateway has no trust domain.
    #[error("the client's trust domain {domain} is not accepted: this gateway has no trust domain")]
    NoTrustDomain {
        /// Trust domain of the client.
        domain: String,
    },
}

impl IdentityRefusal {
    pub(super) fn not_spiffe(text: &str, cause: SpiffeIdError) -> Self {
        Self::NotSpiffe { shown: shortened(text), cause }
    }

    /// Label in metrics and log lines.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SeveralUris(_) | Self::NotSpiffe { .. } => "invalid_spiffe_id",
            Self::ForeignTrustDomain { .. } | Self::NoTrustDomain { .. } => "foreign_trust_domain",
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::SeveralUris(_) => "issue this client a certificate whose only URI name is its SPIFFE ID".to_owned(),
            Self::NotSpiffe { .. } => {
                "correct the identity at its issuer; a SPIFFE ID has the form spiffe://trust-domain/path".to_owned()
            }
            Self::ForeignTrustDomain { domain, accepted } => format!(
                "this gateway accepts {}; to accept {domain} as an alias, add it to trust_domain_aliases",
                accepted.join(", ")
            ),
            Self::NoTrustDomain { domain } => format!(
                "set trust_domain at the top of the configuration, for example to \"{domain}\" if that is this mesh"
            ),
        }
    }
}

pub(super) fn shortened(text: &str) -> String {
    let mut shown = printable(&text.chars().take(SHOWN_CHARS_MAX).collect::<String>());
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_names_shortened_and_without_control_characters() {
        let long = format!("spiffe://td/\u{1b}{}", "x".repeat(5000));
        let refusal = IdentityRefusal::not_spiffe(&long, SpiffeIdError::TooLong).to_string();
        assert!(refusal.len() < 300 && !refusal.contains('\u{1b}'), "{refusal}");
    }
}
