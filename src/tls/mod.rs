//! Key material and what rustls is built from.
//!
//! Everything that touches a private key is in here; nothing here opens a connection.

mod authorities;
mod client;
mod common_name;
mod credentials;
mod path;
mod pem;
mod problem;
mod rejection;
mod signed;
#[cfg(test)]
pub(crate) mod test_pki;

pub use authorities::Authorities;
pub use client::{CertificateRequest, ClientTls, ClientTlsError, Witness, parse_server_name};
pub use credentials::Credentials;
pub use problem::{MaterialError, Problem};
pub use rejection::Rejection;
