//! Errors of the SPIFFE Workload API.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spiffe::WorkloadApiError;
use spiffe::transport::TransportError;

use crate::identity::printable;

/// Why the SPIFFE Workload API provided nothing that can be used.
#[derive(Debug, thiserror::Error)]
#[error("the SPIFFE Workload API at unix:{} {problem}", socket.display())]
pub struct WorkloadError {
    /// The socket of the agent.
    pub socket: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: WorkloadProblem,
}

/// What is wrong with an agent, or with what it sent. `Display` completes a sentence about the agent.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadProblem {
    /// No connection could be made.
    #[error("cannot be reached: {}", unreachable(*.0))]
    Unreachable(io::ErrorKind),
    /// The agent has no identity for this process.
    #[error("has no certificate for this process: {message}")]
    Denied {
        /// The agent's message.
        message: String,
    },
    /// The agent did not answer in time.
    #[error("did not answer within {}", humantime::format_duration(*limit))]
    Silent {
        /// The timeout.
        limit: Duration,
    },
    /// The agent ended the call, as it does when it restarts.
    #[error("ended the call")]
    Ended,
    /// The call failed: the agent was killed, or the socket does not belong to an agent.
    #[error("failed: {message}")]
    Failed {
        /// The message of the gRPC library.
        message: String,
    },
    /// The agent sent something that the specification does not allow.
    #[error("sent certificates that cannot be used: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// The agent gives this process no keys of tokens.
    #[error("has no JWT bundle for this process: {message}")]
    KeysDenied {
        /// The agent's message.
        message: String,
    },
    /// The agent sent keys in a form that the specification does not allow.
    #[error("sent JWT bundles that cannot be used: {message}")]
    MalformedKeys {
        /// What is wrong with them.
        message: String,
    },
    /// The agent sent no keys of this trust domain.
    #[error("sent no JWT bundle of trust domain {trust_domain}")]
    NoKeys {
        /// The trust domain.
        trust_domain: String,
    },
    /// The agent sent no trust anchor for mongod's certificate.
    #[error("sent no CA certificate of trust domain {}", trust_domains.join(" or "))]
    NoTrustAnchor {
        /// The trust domains that need one.
        trust_domains: Vec<String>,
    },
}

impl WorkloadError {
    /// Whether the agent may send something better in the same call.
    pub fn is_about_content(&self) -> bool {
        matches!(
            self.problem,
            WorkloadProblem::Malformed { .. }
                | WorkloadProblem::NoTrustAnchor { .. }
                | WorkloadProblem::MalformedKeys { .. }
                | WorkloadProblem::NoKeys { .. }
        )
    }

    /// What the operator can do about it.
    pub fn remedy(&self) -> String {
        let socket = self.socket.display();
        match &self.problem {
            WorkloadProblem::Unreachable(io::ErrorKind::PermissionDenied) => {
                format!("allow the user that mongate runs as to open {socket}")
            }
            WorkloadProblem::Unreachable(_) | WorkloadProblem::Ended | WorkloadProblem::Failed { .. } => format!(
                "check that the agent runs, that spiffe_socket is its socket (SPIRE: socket_path of the agent), and, \
                 in a container, that the socket is mounted; the gateway keeps retrying {socket}"
            ),
            WorkloadProblem::Denied { .. } | WorkloadProblem::KeysDenied { .. } => {
                "register this process with the agent's server (spire-server entry create), with selectors that match \
                 its user, container or pod"
                    .to_owned()
            }
            WorkloadProblem::Silent { .. } => {
                "check the agent's log: it accepts calls and does not answer them".to_owned()
            }
            WorkloadProblem::Malformed { .. } => {
                "check the agent's log, and the output of `spire-agent api fetch x509` for this user".to_owned()
            }
            WorkloadProblem::MalformedKeys { .. } => {
                "check the agent's log, and the bundles of all trust domains that it federates with".to_owned()
            }
            WorkloadProblem::NoKeys { .. } => {
                "correct trust_domain, or let the entry of this process federate with that trust domain".to_owned()
            }
            WorkloadProblem::NoTrustAnchor { .. } => {
                "let the entry of this process federate with that trust domain, or set ca_file to the CA certificate \
                 of mongod"
                    .to_owned()
            }
        }
    }

    /// An error of the client library, for the agent at `socket`.
    pub(super) fn of(socket: &Path, cause: &WorkloadApiError) -> Self {
        Self { socket: socket.to_owned(), problem: WorkloadProblem::of(cause) }
    }
}

impl WorkloadProblem {
    fn of(cause: &WorkloadApiError) -> Self {
        let message = || printable(&cause.to_string());
        match cause {
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
                Self::Denied { message: message() }
            }
            WorkloadApiError::Transport(TransportError::Connect(cause)) => {
                Self::Unreachable(io_error(cause).map_or(io::ErrorKind::Other, io::Error::kind))
            }
            WorkloadApiError::Transport(_) | WorkloadApiError::EmptyResponse => Self::Failed { message: message() },
            _ => Self::Malformed { message: message() },
        }
    }
}

/// The error of the socket, below those of gRPC.
fn io_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

fn unreachable(kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::NotFound => "the socket does not exist".to_owned(),
        io::ErrorKind::ConnectionRefused => "no process listens on the socket".to_owned(),
        kind => kind.to_string(),
    }
}
