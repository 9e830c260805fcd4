//! Requests and replies, one JSON object on one line each.

use serde::{Deserialize, Serialize};

/// Longest request and longest reply, in bytes, with the end of the line.
pub(super) const LINE_MAX: u64 = 64 << 10;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Shows the level of the log, or changes it.
    LogLevel {
        /// A level as in `log.level`; `None` only shows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
        /// After this time, in seconds, the level is that of the configuration again. 1 s to 24 h.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Reads certificates and policy again, as SIGHUP does.
    Reload {},
    /// Begins the shutdown, as SIGTERM does.
    Drain {},
}

/// The answer of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Reply {
    /// The level of the log from now on.
    LogLevel {
        /// The level in use.
        level: String,
        /// `log.level` of the configuration.
        configured: String,
        /// Seconds until the level is the configured one again; `None` if it stays.
        for_seconds: Option<u64>,
    },
    /// All files have been read.
    Reloaded {
        /// Every certificate set, and the policy.
        files: Vec<Reloaded>,
    },
    /// The shutdown begins.
    Draining {},
    /// The request was not obeyed.
    Error {
        /// A sentence for the operator.
        error: String,
    },
}

/// The state of one certificate set or of the policy after a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The owner, as in `/status`.
    pub name: String,
    /// Why the files cannot be used; what was read before stays in use.
    pub problem: Option<String>,
}

impl Reply {
    pub(super) fn error(sentence: impl Into<String>) -> Self {
        Self::Error { error: sentence.into() }
    }
}
