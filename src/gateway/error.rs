//! Why the gateway cannot start.

use std::fmt::Display;
use std::io;

use crate::admin;
use crate::listener::BindError;
use crate::policy::PolicyProblem;
use crate::tls::{ListenerTlsError, UpstreamTlsError};
use crate::tokens::TokenIssuerProblem;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates, keys or server names of upstreams cannot be used: all problems.
    #[error("{}", lines(.0, |error| format!("{error}; {}", error.remedy())))]
    Tls(Vec<UpstreamTlsError>),
    /// Certificates or keys of listeners cannot be used: all problems.
    #[error("{}", lines(.0, |error| format!("{error}; {}", error.remedy())))]
    ListenerTls(Vec<ListenerTlsError>),
    /// The policy cannot be used: all problems.
    #[error("{}", policy_problems(.0))]
    Policy(Vec<PolicyProblem>),
    /// Values of `[[token_issuer]]` cannot be used: all problems.
    #[error("{}", lines(.0, |problem| format!("{} {}", problem.key, problem.sentence)))]
    TokenIssuers(Vec<TokenIssuerProblem>),
    /// The gateway cannot listen on an address.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The administration port cannot be opened.
    #[error(transparent)]
    Admin(#[from] admin::AdminBindError),
    /// The system provides no thread or no runtime.
    #[error("cannot start; check the limits on threads, open files and memory")]
    Worker(#[source] io::Error),
}

/// All problems of a policy, one on each line.
pub(super) fn policy_problems(problems: &[PolicyProblem]) -> String {
    lines(problems, |problem| format!("{} {}", problem.key, problem.sentence))
}

fn lines<T, D: Display>(problems: &[T], line: impl Fn(&T) -> D) -> String {
    problems.iter().map(|problem| line(problem).to_string()).collect::<Vec<_>>().join("\n")
}
