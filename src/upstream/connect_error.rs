//! The error of a connection that could not be made: what failed, and the texts about it.

use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;

use super::explain::{ConnectExplanation, Target, explain};
use super::failure::ConnectFailure;

/// The values of [`ConnectError::reason`] that a metric counts.
pub const REASONS: [&str; 21] = [
    "no_certificate",
    "not_resolvable",
    "unreachable",
    "timed_out",
    "server_certificate_unknown_issuer",
    "server_certificate_name_mismatch",
    "server_certificate_no_names",
    "server_certificate_identity_mismatch",
    "server_certificate_expired",
    "server_certificate_not_yet_valid",
    "server_certificate_revoked",
    "server_certificate_ocsp",
    "server_certificate_version_1",
    "server_certificate_invalid",
    "not_tls",
    "handshake_failed",
    "client_certificate_refused",
    "ping_failed",
    "authentication_failed",
    "wrong_user",
    "cluster_member",
];

/// A connection that could not be made.
///
/// `Display` may be sent to a client: it names the server, the cause and certificate subjects, but no file.
/// [`Self::remedy`] is for the operator.
#[derive(Debug)]
pub struct ConnectError {
    address: Option<SocketAddr>,
    failure: Box<ConnectFailure>,
    explanation: Box<ConnectExplanation>,
}

impl ConnectError {
    pub(super) fn new(target: &Target, address: Option<SocketAddr>, failure: ConnectFailure) -> Self {
        let explanation = Box::new(explain(target, address, &failure));
        Self { address, failure: Box::new(failure), explanation }
    }

    pub(super) fn into_failure(self) -> ConnectFailure {
        *self.failure
    }

    /// What failed.
    pub fn failure(&self) -> &ConnectFailure {
        &self.failure
    }

    /// The address that the failure is about, if it is about one address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// One of [`REASONS`], or `monitor_lost`, which is not about an attempt to connect.
    pub fn reason(&self) -> &'static str {
        self.explanation.label
    }

    /// Whether a connection could not be made, as opposed to a monitor's connection that was lost.
    pub fn is_attempt(&self) -> bool {
        !matches!(self.failure(), ConnectFailure::Lost { .. })
    }

    /// Whether the server did not answer in time, as when the network or the machine is gone.
    pub fn is_timeout(&self) -> bool {
        match self.failure() {
            ConnectFailure::TimedOut { .. } => true,
            ConnectFailure::Unreachable { attempts } => {
                attempts.iter().any(|(_, cause)| cause.kind() == std::io::ErrorKind::TimedOut)
            }
            _ => false,
        }
    }

    /// Whether the server works, and only the gateway's user does not.
    pub fn is_user_failure(&self) -> bool {
        self.failure.is_user_failure()
    }

    /// Whether the server is reachable but rejects the gateway's client certificate or its user. It may accept others.
    pub fn is_identity_failure(&self) -> bool {
        self.failure.is_identity_failure()
    }

    /// Code and name of the command error that a client receives.
    pub fn client_code(&self) -> (i32, &'static str) {
        self.explanation.client_code
    }

    /// What the operator can do about it. Names files and configuration keys.
    pub fn remedy(&self) -> String {
        self.explanation.remedy.clone()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explanation.sentence)
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.failure() {
            ConnectFailure::NotResolvable { cause } | ConnectFailure::NotTls { cause } => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_page_lists_every_reason() {
        let page = include_str!("../../docs/metrics.md");
        for reason in REASONS {
            assert!(page.contains(&format!("`{reason}`")), "{reason} is not in docs/metrics.md");
        }
    }
}
