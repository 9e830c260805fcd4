//! What one connection adds to the measurements, and what its log line will say.

use std::sync::Arc;
use std::time::Duration;

use crate::command::table::CommandId;
use crate::relay::in_flight::InFlightRequest;
use crate::telemetry::metrics::{CommandOutcome, Direction, ListenerMetrics};
use crate::wire::error_reply::CommandError;
use crate::wire::reply::ReplyFacts;
use crate::wire::sasl::SaslUser;

/// What mongod answers to a monitor's waiting hello when its client has closed: the ordinary end of every monitor, not an
/// error to count.
const CLIENT_DISCONNECT: i32 = 279;

/// Counts for one connection; every count goes to its listener's metrics as well.
pub struct ConnectionStats {
    metrics: Arc<ListenerMetrics>,
    /// Whether the debug log is on; asked once per connection.
    debug: bool,
    pub(super) to_upstream_bytes: u64,
    pub(super) to_client_bytes: u64,
    pub(super) commands: u64,
    pub(super) errors: u64,
    pub(super) denied: u64,
    /// Whom the client named last when it began to authenticate.
    pub(super) user: Option<Box<SaslUser>>,
}

impl ConnectionStats {
    /// Starts at zero.
    pub fn new(metrics: Arc<ListenerMetrics>) -> Self {
        let debug = tracing::enabled!(tracing::Level::DEBUG);
        Self { metrics, debug, to_upstream_bytes: 0, to_client_bytes: 0, commands: 0, errors: 0, denied: 0, user: None }
    }

    /// Whether a request's namespace will be logged.
    pub(super) fn wants_namespaces(&self) -> bool {
        self.debug
    }

    /// Whether this command is what monitors send: its stream of replies goes on for ever.
    pub(super) fn is_monitor(command: CommandId) -> bool {
        matches!(command.name(), "hello" | "isMaster")
    }

    pub(super) fn bytes(&mut self, direction: Direction, count: usize) {
        let total = match direction {
            Direction::ToUpstream => &mut self.to_upstream_bytes,
            Direction::ToClient => &mut self.to_client_bytes,
        };
        *total += count as u64;
        self.metrics.count_bytes(direction, count as u64);
    }

    /// A message, or all from here on, was passed on without being understood.
    pub(super) fn unparsed(&mut self, direction: Direction) {
        self.metrics.count_unparsed_message(direction);
    }

    /// The client begins to authenticate.
    pub(super) fn named(&mut self, user: SaslUser) {
        self.user = Some(Box::new(user));
    }

    /// A request that wants no reply has gone upstream, or was taken here.
    pub(super) fn unacknowledged(&mut self, command: CommandId) {
        self.commands += 1;
        self.metrics.count_command(command, CommandOutcome::Unacknowledged);
    }

    /// A request was refused, and did not go upstream.
    pub(super) fn denied(&mut self, command: CommandId) {
        self.denied += 1;
        self.metrics.count_command(command, CommandOutcome::Denied);
    }

    /// A request was answered here, and did not go upstream.
    pub(super) fn answered_here(&mut self, command: CommandId, error: Option<&CommandError>) {
        self.commands += 1;
        let Some(error) = error else {
            self.metrics.count_command(command, CommandOutcome::Ok(Duration::ZERO));
            return;
        };
        self.errors += 1;
        self.metrics.count_command(command, CommandOutcome::Error(Duration::ZERO));
        self.metrics.count_command_error(Some(error.code), Some(error.code_name.as_bytes()));
    }

    /// A reply is complete. Further replies of a stream are not commands of their own.
    pub(super) fn answered(&mut self, request: &InFlightRequest, reply: &ReplyFacts) {
        let gone = Self::is_monitor(request.command) && reply.code() == Some(CLIENT_DISCONNECT);
        if request.streaming || gone {
            return;
        }
        self.commands += 1;
        let duration = request.started.elapsed();
        if reply.ok() == Some(false) {
            self.errors += 1;
            self.metrics.count_command(request.command, CommandOutcome::Error(duration));
            self.metrics.count_command_error(reply.code(), reply.code_name());
        } else {
            self.metrics.count_command(request.command, CommandOutcome::Ok(duration));
        }
        if self.debug {
            tracing::debug!(
                command = request.command.name(),
                namespace = request.namespace.as_deref().unwrap_or_default(),
                ok = reply.ok(),
                code = reply.code(),
                duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                "command"
            );
        }
    }
}
