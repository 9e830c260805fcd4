//! Key material and what rustls is built from.
//!
//! Everything that touches a private key is in here; nothing here opens a connection.

mod client;
mod material;
#[cfg(test)]
pub(crate) mod test_pki;

pub use client::{CertificateRequest, ClientTls, ClientTlsError, Witness, parse_server_name};
pub use material::{Authorities, Credentials, MaterialError, Problem};
