//! Who somebody is, read from what a certificate says.
//!
//! Pure: bytes in, facts out. Whether a certificate is to be trusted is decided by rustls, never here.

mod algorithms;
mod certificate;
mod distinguished_name;

pub(crate) use certificate::system_time;
pub use certificate::{CertificateFacts, MalformedCertificate, Validity, date_text, public_key_bits, rfc3339};
pub use distinguished_name::{DistinguishedName, printable};
