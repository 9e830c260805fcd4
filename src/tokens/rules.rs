//! From `[[token_issuer]]` to the rules of `identity::token`.

use crate::config::TokenIssuerConfig;
use crate::identity::token::{ClaimPath, PrincipalTemplate, TokenIssuer, TokenIssuers};

/// A key of `[[token_issuer]]` whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuerProblem {
    /// Path of the key, as `token_issuer[1].principal`.
    pub key: String,
    /// What is wrong and what is allowed. It continues a sentence that begins with the key.
    pub sentence: String,
}

/// The rules of all issuers, or all problems.
pub fn token_issuers(sections: &[TokenIssuerConfig]) -> Result<TokenIssuers, Vec<TokenIssuerProblem>> {
    let (mut issuers, mut problems) = (Vec::new(), Vec::new());
    for (at, section) in sections.iter().enumerate() {
        let mut note = |key: &str, sentence: String| {
            problems.push(TokenIssuerProblem { key: format!("token_issuer[{}].{key}", at + 1), sentence });
        };
        let domain = section.trust_domain.as_deref();
        let principal = match &section.principal {
            Some(text) => PrincipalTemplate::parse(text, domain),
            None => PrincipalTemplate::kubernetes(domain),
        };
        let principal = principal.map_err(|sentence| note("principal", sentence)).ok();
        let mut required_claims = Vec::new();
        for (claim, values) in &section.required_claims {
            match ClaimPath::parse(claim) {
                Ok(path) => required_claims.push((path, values.clone())),
                Err(sentence) => note("required_claims", format!("has \"{claim}\", which {sentence}")),
            }
        }
        issuers.extend(principal.map(|principal| TokenIssuer {
            issuer: section.issuer.clone(),
            audiences: section.audiences.clone(),
            trust_domain: section.trust_domain.clone(),
            principal,
            required_claims,
            clock_skew: section.clock_skew,
            expiry_grace: section.expiry_grace,
        }));
    }
    if problems.is_empty() { Ok(TokenIssuers::new(issuers)) } else { Err(problems) }
}
