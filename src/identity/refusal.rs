//! Why a client that shows an identity is rejected.

use super::distinguished_name::printable;
use super::spiffe::SpiffeIdError;

/// Characters of a name out of a certificate or a header that a sentence shows.
const SHOWN_CHARS_MAX: usize = 200;

/// Why somebody who shows an identity is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefusal {
    /// A SPIFFE certificate has exactly one URI.
    #[error("the client certificate has {0} URI names, and a SPIFFE certificate has exactly one")]
    SeveralUris(usize),
    /// It means to be a SPIFFE id, and is none.
    #[error("{shown} is no SPIFFE id: {cause}")]
    NotSpiffe {
        /// The text, shortened.
        shown: String,
        /// What is wrong with it. No `source()`: one sentence tells both.
        cause: SpiffeIdError,
    },
    /// Of a trust domain that is not ours.
    #[error("the client is of the trust domain {domain}, which is not this gateway's")]
    ForeignTrustDomain {
        /// The client's.
        domain: String,
        /// Ours.
        accepted: Vec<String>,
    },
    /// Nobody has said which trust domain is ours.
    #[error("the client is of the trust domain {domain}, and this gateway has no trust domain")]
    NoTrustDomain {
        /// The client's.
        domain: String,
    },
}

impl IdentityRefusal {
    pub(super) fn not_spiffe(text: &str, cause: SpiffeIdError) -> Self {
        Self::NotSpiffe { shown: shortened(text), cause }
    }

    /// The word in metrics and log lines.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SeveralUris(_) | Self::NotSpiffe { .. } => "invalid_spiffe_id",
            Self::ForeignTrustDomain { .. } | Self::NoTrustDomain { .. } => "foreign_trust_domain",
        }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::SeveralUris(_) => "give this client a certificate whose only URI name is its SPIFFE id".to_owned(),
            Self::NotSpiffe { .. } => {
                "a SPIFFE id is written spiffe://trust-domain/path: correct it where this client gets its identity from"
                    .to_owned()
            }
            Self::ForeignTrustDomain { domain, accepted } => format!(
                "this gateway takes {}; if {domain} is another name of it, add it to trust_domain_aliases",
                accepted.join(", ")
            ),
            Self::NoTrustDomain { domain } => format!(
                "set trust_domain at the top of the configuration, for instance to \"{domain}\" if that is this mesh"
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
    fn a_sentence_shows_names_in_part_and_without_control_characters() {
        let long = format!("spiffe://td/\u{1b}{}", "x".repeat(5000));
        let refusal = IdentityRefusal::not_spiffe(&long, SpiffeIdError::TooLong).to_string();
        assert!(refusal.len() < 300 && !refusal.contains('\u{1b}'), "{refusal}");
    }
}
