//! Identities: the facts of certificates, SPIFFE IDs and subjects, and the principal of a client.
//!
//! Pure: takes bytes and facts, returns facts and decisions. Whether a certificate is trusted is decided by the module
//! `tls`.

mod algorithms;
mod certificate;
mod distinguished_name;
mod identities;
mod principal;
mod refusal;
mod spiffe;
pub mod token;
mod trust_domains;

pub(crate) use algorithms::{key_text, signature_text};
pub(crate) use certificate::system_time;
pub use certificate::{CertificateFacts, MalformedCertificate, Validity, date_text, public_key_bits, rfc3339};
pub(crate) use distinguished_name::attribute_text;
pub use distinguished_name::{DistinguishedName, printable};
pub use identities::{ClientFacts, Identified, Identities, KnownSource, ProxyIdentity};
pub use principal::{Principal, PrincipalPattern, PrincipalSource};
pub use refusal::IdentityRefusal;
pub use spiffe::{SpiffeId, SpiffeIdError, check_trust_domain};
pub use trust_domains::TrustDomains;
