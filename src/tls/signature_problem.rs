//! Why a signature is not accepted.

/// Why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureProblem {
    /// The key did not make the signature, or the key is too short.
    Invalid,
    /// The signature algorithm is not supported.
    Algorithm,
    /// The type of the key is not supported, or does not fit the algorithm.
    Key,
}
