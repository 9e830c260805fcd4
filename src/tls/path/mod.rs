//! Validation of certification paths: from the leaf certificate of a peer to a trust anchor.
//!
//! The only judgement about certificate chains, for servers and clients and for every version of X.509. Handshake
//! signatures, revocation and the names that a caller expects are not part of it.

mod anchors;
#[cfg(test)]
mod beside_openssl;
mod certificate;
mod name;
mod name_constraints;
#[cfg(test)]
mod openssl;
#[cfg(test)]
mod pkits;
mod policies;
mod search;
#[cfg(test)]
mod tests;

pub(super) use anchors::PathAnchors;
pub(super) use certificate::{CertificateOrigin, CertificatePurpose, PathCertificate};
pub(super) use name::CanonicalName;
pub(super) use policies::InitialPolicies;
pub(super) use search::{PathContext, VerifiedPath, verify};
