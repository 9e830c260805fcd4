//! The interface between a connection and the keys of the issuers.

use std::fmt;
use std::pin::Pin;
use std::time::SystemTime;

use super::issuer::ValidToken;
use super::problem::TokenProblem;

/// The token, or why it is not accepted.
pub type TokenResult = Result<ValidToken, TokenProblem>;

/// A validation that waits for newer keys. It ends by itself, after 2 s at the latest. Dropping it ends the wait.
pub type PendingValidation = Pin<Box<dyn Future<Output = TokenResult> + Send>>;

/// A validation, which has ended in nearly all cases.
pub enum Validation {
    /// With this result.
    Ended(TokenResult),
    /// The key of the token is unknown: the keys of its issuer are fetched again.
    Pending(PendingValidation),
}

/// Validates tokens. Each validation is counted once: here if the token is not valid, and by
/// [`ValidateToken::count_valid`] if it is.
pub trait ValidateToken: fmt::Debug + Send + Sync {
    /// Validates a token at the time `now`.
    fn validate(&self, token: &str, now: SystemTime) -> Validation;

    /// Counts a valid token: as accepted, or with the reason why its connection does not accept it.
    fn count_valid(&self, token: &ValidToken, refusal: Option<&TokenProblem>);
}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(result) => f.debug_tuple("Ended").field(result).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}
