//! The keys of token issuers: fetched, refreshed in the background, and used to validate tokens.
//!
//! What a valid token is says `identity::token`. This module has the keys for it, and counts validations.
//!
//! Each issuer has one task. It reads a file when it may have changed, asks an address every
//! five minutes or as often as its server wants, or has a SPIFFE
//! agent send all changes. A token with an unknown key makes it look at once, but every ten seconds at most. The last
//! usable keys stay in use while new ones cannot be had.

mod bundle_follower;
mod fetch;
mod follower;
mod freshness;
mod issuer_keys;
mod key_report;
mod load;
mod messages;
mod rules;
#[cfg(test)]
mod tests;
mod validator;

pub use fetch::FetchError;
pub use follower::TokenKeys;
pub use issuer_keys::IssuerKeys;
pub use load::{KeyLoadError, Loaded, load};
pub use rules::{TokenIssuerProblem, token_issuers};
pub use validator::TokenValidator;
