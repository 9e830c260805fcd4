//! What one connection adds to the metrics, and what its log line says.

use std::sync::Arc;
use std::time::Duration;

use crate::command::table::CommandId;
use crate::relay::in_flight::InFlightRequest;
use crate::telemetry::metrics::{CommandOutcome, Direction, ListenerMetrics};
use crate::wire::error_reply::CommandError;
use crate::wire::reply::ReplyFacts;
use crate::wire::sasl::SaslUser;

/// mongod's error code for a monitor's waiting hello whose client has closed: the ordinary end of every monitor, which
/// is not counted as an error.
const CLIENT_DISCONNECT: i32 = 279;

/// The log message of a command at level debug.
const COMMAND: &str = "command";

/// The counts of one connection. Each is added to the metrics of its listener as well.
pub struct ConnectionStats {
    metrics: Arc<ListenerMetrics>,
    /// Whether the debug log is on; determined once per connection.
    logs_commands: bool,
    pub(super) to_upstream_bytes: u64,
    pub(super) to_client_bytes: u64,
    pub(super) commands: u64,
    pub(super) errors: u64,
    pub(super) denied: u64,
    /// The user of the last authentication that the client has begun.
    pub(super) user: Option<Box<SaslUser>>,
}

impl ConnectionStats {
    /// Starts at zero.
    pub fn new(metrics: Arc<ListenerMetrics>) -> Self {
        Self {
            metrics,
            logs_commands: tracing::enabled!(tracing::Level::DEBUG),
            to_upstream_bytes: 0,
            to_client_bytes: 0,
            commands: 0,
            errors: 0,
            denied: 0,
            user: None,
        }
    }

    /// The client is another principal from now on, whose commands `metrics` count.
    pub(super) fn set_metrics(&mut self, metrics: Arc<ListenerMetrics>) {
        self.metrics = metrics;
    }

    /// Whether each command is logged.
    pub(super) fn logs_commands(&self) -> bool {
        self.logs_commands
    }

    /// Whether monitors send this command. Their stream of replies never ends by itself.
    pub(super) fn is_monitor(command: CommandId) -> bool {
        matches!(command.name(), "hello" | "isMaster")
    }

    /// Counts plaintext bytes that have been read.
    pub(super) fn bytes(&mut self, direction: Direction, count: usize) {
        let total = match direction {
            Direction::ToUpstream => &mut self.to_upstream_bytes,
            Direction::ToClient => &mut self.to_client_bytes,
        };
        *total += count as u64;
        self.metrics.count_bytes(direction, count as u64);
    }

    /// Counts a message, or everything from here on, that was forwarded without being understood.
    pub(super) fn unparsed(&mut self, direction: Direction) {
        self.metrics.count_unparsed_message(direction);
    }

    /// The client begins to authenticate as `user`.
    pub(super) fn named(&mut self, user: SaslUser) {
        self.user = Some(Box::new(user));
    }

    /// Counts a request that expects no reply.
    pub(super) fn unacknowledged(&mut self, command: CommandId) {
        self.commands += 1;
        self.metrics.count_command(command, CommandOutcome::Unacknowledged);
    }

    /// Counts a request that the policy has denied.
    pub(super) fn denied(&mut self, command: CommandId) {
        self.denied += 1;
        self.metrics.count_command(command, CommandOutcome::Denied);
    }

    /// Counts a request that got another local reply.
    pub(super) fn answered_locally(&mut self, command: CommandId, error: Option<&CommandError>) {
        self.commands += 1;
        let Some(error) = error else {
            self.metrics.count_command(command, CommandOutcome::Ok(Duration::ZERO));
            return;
        };
        self.errors += 1;
        self.metrics.count_command(command, CommandOutcome::Error(Duration::ZERO));
        self.metrics.count_command_error(Some(error.code), Some(error.code_name.as_bytes()));
    }

    /// Counts a command by its reply. Only the first reply of a stream counts.
    pub(super) fn answered(&mut self, request: &InFlightRequest, reply: &ReplyFacts) {
        let is_disconnect = Self::is_monitor(request.command) && reply.code() == Some(CLIENT_DISCONNECT);
        if request.is_streaming || is_disconnect {
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
        if self.logs_commands {
            tracing::debug!(
                command = request.command.name(),
                namespace = request.namespace.as_deref().unwrap_or_default(),
                ok = reply.ok(),
                code = reply.code(),
                duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                "{COMMAND}"
            );
        }
    }
}
