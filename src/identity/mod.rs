//! Who somebody is: what a certificate says, and which of several sources says best who a client is.
//!
//! Pure: bytes and facts in, facts and decisions out. Whether a certificate is to be trusted is decided by rustls, never
//! here.

mod algorithms;
mod certificate;
mod distinguished_name;
mod principal;
mod spiffe;

pub(crate) use certificate::system_time;
pub use certificate::{CertificateFacts, MalformedCertificate, Validity, date_text, public_key_bits, rfc3339};
pub use distinguished_name::{DistinguishedName, printable};
pub use principal::{
    ClientFacts, Identified, Identities, IdentityRefusal, KnownSource, Principal, PrincipalPattern, PrincipalSource,
    ProxyIdentity, TrustDomains,
};
pub use spiffe::{SpiffeId, SpiffeIdError, check_trust_domain};
