//! Tokens (JWT) that say who an application is: the keys of issuers, the validation of a token, and its principal.
//!
//! Pure: keys, token and time are arguments. Who fetches the keys is the module `tokens`; how a token arrives is
//! `relay::TokenSession`.

mod claim;
mod issuer;
mod issuers;
mod json;
mod key_set;
mod presented;
mod problem;
mod template;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the test kit has this file too")]
pub(crate) mod test_keys;
#[cfg(test)]
mod tests;
mod validator;

pub use claim::ClaimPath;
pub use issuer::{TokenIssuer, TokenStep, ValidToken};
pub use issuers::{TokenIssuers, Validated};
pub use json::NotAnObject;
pub use key_set::{KEY_SET_BYTES_MAX, KeySet, KeySetError, LeftOutKey};
pub use presented::TOKEN_BYTES_MAX;
pub use problem::TokenProblem;
pub use template::{KUBERNETES_PRINCIPAL, PrincipalTemplate};
pub use validator::{PendingValidation, TokenResult, ValidateToken, Validation};
