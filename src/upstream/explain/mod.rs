//! Explains a failed connection: metric label, client's error code, sentence and remedy of each failure in one place.

mod client_certificate;
mod connect;
mod explanation;
mod server_certificate;
mod target;

pub(super) use connect::explain;
pub(super) use explanation::ConnectExplanation;
pub(super) use target::Target;
