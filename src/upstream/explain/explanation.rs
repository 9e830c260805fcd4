//! The texts about one failed connection.

use crate::identity::DistinguishedName;

/// The texts about one failed connection.
#[derive(Debug)]
pub(in crate::upstream) struct ConnectExplanation {
    /// The value of the metric label and of the log field `reason`.
    pub(in crate::upstream) label: &'static str,
    /// Code and name of the command error that a client receives.
    pub(in crate::upstream) client_code: (i32, &'static str),
    /// State and cause, for clients and the operator: names the server, certificate subjects, and no file.
    pub(in crate::upstream) sentence: String,
    /// What the operator can do: names files and configuration keys.
    pub(in crate::upstream) remedy: String,
}

/// Drivers retry after this error.
pub(super) const HOST_UNREACHABLE: (i32, &str) = (6, "HostUnreachable");
pub(super) const AUTHENTICATION_FAILED: (i32, &str) = (18, "AuthenticationFailed");
pub(super) const SSL_HANDSHAKE_FAILED: (i32, &str) = (141, "SSLHandshakeFailed");

/// The first few of `names`, for a message.
pub(super) fn listed(names: &[DistinguishedName]) -> String {
    const SHOWN_MAX: usize = 5;
    let shown = names.iter().take(SHOWN_MAX).map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    match names.len().checked_sub(SHOWN_MAX) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}
