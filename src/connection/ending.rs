//! How a connection ended: one value that feeds its metric and its log line.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Route;
use crate::listener::ClientAddress;
use crate::relay::{RelayEnd, Side};
use crate::telemetry::metrics::ConnectionOutcome;
use crate::upstream::ConnectError;

/// How a connection ended, as its log line and its metric tell it.
pub(super) enum Ending {
    /// The socket could not be used at all.
    Unusable(io::Error),
    /// Not a byte came.
    Probe,
    /// What came was not MongoDB's protocol.
    Foreign(Foreign),
    /// All places of the listener were taken.
    Full,
    /// The process ends, and the client had not asked for anything.
    Draining,
    /// There was no upstream to put it on.
    NoUpstream(ConnectError),
    /// It was carried.
    Carried(SocketAddr, RelayEnd),
}

/// What came instead of MongoDB's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// A TLS handshake.
    Tls,
    /// An HTTP request.
    Http,
    /// Something else.
    Unknown,
    /// Too little to tell.
    Unfinished,
}

impl Ending {
    pub(super) fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Probe | Self::Draining => ConnectionOutcome::Probe,
            Self::Foreign(_) => ConnectionOutcome::ProtocolError,
            Self::Full => ConnectionOutcome::Rejected,
            Self::NoUpstream(_) => ConnectionOutcome::UpstreamFailed,
            Self::Carried(_, end) if end.is_protocol_error() => ConnectionOutcome::ProtocolError,
            Self::Carried(_, end) if end.ended_by == Side::Upstream && !end.is_orderly() => {
                ConnectionOutcome::UpstreamFailed
            }
            Self::Carried(..) | Self::Unusable(_) => ConnectionOutcome::Completed,
        }
    }

    /// One line; below info for what nobody needs to read.
    ///
    /// What is wrong with an upstream is not told here but once for all its connections.
    pub(super) fn log(&self, route: &Route, client: ClientAddress, duration: Duration) {
        let listener = &route.listener;
        let outcome = self.outcome().label();
        let remedy = self.remedy(listener);
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Probe | Self::Draining | Self::Unusable(_) => {
                tracing::debug!(listener, %client, outcome, reason = %self, duration_ms, "connection closed");
            }
            Self::Carried(upstream, end) => tracing::info!(
                listener,
                %client,
                %upstream,
                outcome,
                ended_by = %end.ended_by,
                reason = %self,
                remedy,
                commands = end.commands,
                errors = end.errors,
                unanswered = end.unanswered,
                to_upstream_bytes = end.to_upstream_bytes,
                to_client_bytes = end.to_client_bytes,
                duration_ms,
                "connection closed"
            ),
            Self::Foreign(_) | Self::Full => {
                tracing::warn!(listener, %client, outcome, reason = %self, remedy, duration_ms, "connection refused");
            }
            Self::NoUpstream(_) => {
                tracing::info!(listener, %client, outcome, reason = %self, duration_ms, "connection refused");
            }
        }
    }

    /// What to do about a client that could not be served.
    fn remedy(&self, listener: &str) -> Option<String> {
        match self {
            Self::Foreign(foreign) => Some(foreign.remedy().to_owned()),
            Self::Full => Some(format!(
                "raise listener.{listener}.max_connections, or let clients pool fewer connections (maxPoolSize)"
            )),
            Self::Carried(_, end) if end.is_protocol_error() => {
                Some("take `compressors` out of the client's connection string".to_owned())
            }
            _ => None,
        }
    }
}

impl Foreign {
    fn remedy(self) -> &'static str {
        match self {
            Self::Tls => "take tls=true out of the client's connection string: the gateway adds TLS itself",
            Self::Http => "point the browser or health check at the administration port",
            Self::Unknown | Self::Unfinished => "find out who this client is: only MongoDB clients belong here",
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS on a plaintext port",
            Self::Http => "HTTP on the MongoDB port",
            Self::Unknown => "not the MongoDB wire protocol",
            Self::Unfinished => "an incomplete first message",
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(error) => write!(f, "socket failed: {error}"),
            Self::Probe => f.write_str("sent nothing"),
            Self::Foreign(foreign) => write!(f, "{foreign}"),
            Self::Full => f.write_str("max_connections reached"),
            Self::Draining => f.write_str("drained"),
            Self::NoUpstream(error) => f.write_str(error.reason()),
            Self::Carried(_, end) => write!(f, "{}", end.reason),
        }
    }
}
