//! The metrics of one listener: its connections, TLS handshakes, commands and bytes.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

use super::super::code_names::{CODE_NAMES, CodeName};
use super::families::{
    BYTES, CLIENT_HANDSHAKES, COMMAND_DURATION, COMMAND_ERRORS, COMMANDS_TOTAL, CONNECTIONS, CONNECTIONS_ACTIVE,
    CONNECTIONS_OPENED, UNPARSED_MESSAGES,
};
use super::labels::{ClientHandshake, CommandOutcome, ConnectionOutcome, Direction};
use crate::command::table::{COMMANDS, CommandId};

/// The metric handles of one listener, shared by all its connections on all workers.
pub struct ListenerMetrics {
    /// `listener`, and `principal` if the operator lists principals to be counted.
    labels: Vec<Label>,
    connections_active: Gauge,
    connections_opened: Counter,
    /// By [`ConnectionOutcome`].
    connections: [Counter; 5],
    /// By [`Direction`].
    bytes: [Counter; 2],
    /// By [`Direction`].
    unparsed_messages: [Counter; 2],
    /// By [`ClientHandshake`].
    handshakes: [Counter; ClientHandshake::ALL.len()],
    /// By [`CommandId`]. Most commands are never used and have no series.
    commands: Box<[OnceLock<CommandMetrics>]>,
    /// By [`CodeName`]. Most codes never occur and have no series.
    command_errors: Box<[OnceLock<Counter>]>,
}

struct CommandMetrics {
    ok: Counter,
    error: Counter,
    denied: Counter,
    unacknowledged: Counter,
    duration: Histogram,
}

impl ListenerMetrics {
    /// Looks up the handles in the recorder that is installed now.
    pub fn new(listener: &str) -> Self {
        Self::with_labels(listener, vec![Label::new("listener", listener.to_owned())])
    }

    /// As [`Self::new`], with commands, errors and bytes counted for `principal`: one that the operator listed, or
    /// `other`. Connections and handshakes are counted for the listener as a whole.
    pub fn for_principal(listener: &str, principal: &str) -> Self {
        let label = |name, value: &str| Label::new(name, value.to_owned());
        Self::with_labels(listener, vec![label("listener", listener), label("principal", principal)])
    }

    fn with_labels(listener: &str, labels: Vec<Label>) -> Self {
        let of_listener = [Label::new("listener", listener.to_owned())];
        let by_outcome = |name, outcome| counter!(name, with_label(&of_listener, "outcome", outcome));
        let by_direction = |name, labels: &[Label]| {
            [Direction::ToUpstream, Direction::ToClient]
                .map(|direction| counter!(name, with_label(labels, "direction", direction.label())))
        };
        Self {
            connections_active: gauge!(CONNECTIONS_ACTIVE, "listener" => listener.to_owned()),
            connections_opened: counter!(CONNECTIONS_OPENED, "listener" => listener.to_owned()),
            connections: ConnectionOutcome::ALL.map(|outcome| by_outcome(CONNECTIONS, outcome.label())),
            handshakes: ClientHandshake::ALL.map(|outcome| by_outcome(CLIENT_HANDSHAKES, outcome.label())),
            bytes: by_direction(BYTES, &labels),
            unparsed_messages: by_direction(UNPARSED_MESSAGES, &of_listener),
            commands: std::iter::repeat_with(OnceLock::new).take(COMMANDS).collect(),
            command_errors: std::iter::repeat_with(OnceLock::new).take(CODE_NAMES).collect(),
            labels,
        }
    }

    /// Counts a connection as open until the returned value is dropped.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections_active.increment(1.0);
        self.connections_opened.increment(1);
        OpenConnection { metrics: Arc::clone(self), outcome: ConnectionOutcome::Completed }
    }

    /// Counts the outcome of a client's TLS handshake.
    pub fn count_handshake(&self, outcome: ClientHandshake) {
        self.handshakes[outcome as usize].increment(1);
    }

    /// Counts plaintext bytes forwarded in `direction`. Call it per read, not per message.
    pub fn count_bytes(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].increment(bytes);
    }

    /// Counts a message that was forwarded without being parsed.
    pub fn count_unparsed_message(&self, direction: Direction) {
        self.unparsed_messages[direction as usize].increment(1);
    }

    /// Counts one command, and records its duration if it was answered.
    pub fn count_command(&self, command: CommandId, outcome: CommandOutcome) {
        let metrics = self.command(command);
        let counter = match outcome {
            CommandOutcome::Ok(_) => &metrics.ok,
            CommandOutcome::Error(_) => &metrics.error,
            CommandOutcome::Denied => &metrics.denied,
            CommandOutcome::Unacknowledged => &metrics.unacknowledged,
        };
        counter.increment(1);
        if let CommandOutcome::Ok(duration) | CommandOutcome::Error(duration) = outcome {
            metrics.duration.record(duration);
        }
    }

    /// Counts an error reply by its code, in addition to [`count_command`](Self::count_command).
    ///
    /// The number decides. `code_name` is bytes from the wire and is only compared with known names.
    pub fn count_command_error(&self, code: Option<i32>, code_name: Option<&[u8]>) {
        let code_name = CodeName::of(code, code_name);
        self.command_errors[code_name.index()]
            .get_or_init(|| counter!(COMMAND_ERRORS, with_label(&self.labels, "code_name", code_name.label())))
            .increment(1);
    }

    fn command(&self, command: CommandId) -> &CommandMetrics {
        self.commands[command.index()].get_or_init(|| CommandMetrics::new(&self.labels, command.name()))
    }
}

impl CommandMetrics {
    fn new(labels: &[Label], command: &'static str) -> Self {
        let labels = with_label(labels, "command", command);
        let outcome = |outcome| counter!(COMMANDS_TOTAL, with_label(&labels, "outcome", outcome));
        Self {
            ok: outcome("ok"),
            error: outcome("error"),
            denied: outcome("denied"),
            unacknowledged: outcome("unacknowledged"),
            duration: histogram!(COMMAND_DURATION, labels),
        }
    }
}

fn with_label(labels: &[Label], name: &'static str, value: &'static str) -> Vec<Label> {
    labels.iter().cloned().chain([Label::from_static_parts(name, value)]).collect()
}

/// One open client connection. Dropping it counts its outcome, also if its task is cancelled or panics.
pub struct OpenConnection {
    metrics: Arc<ListenerMetrics>,
    outcome: ConnectionOutcome,
}

impl OpenConnection {
    /// Sets how the connection ended. The last call counts; the default is [`ConnectionOutcome::Completed`].
    pub fn set_outcome(&mut self, outcome: ConnectionOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connections_active.decrement(1.0);
        self.metrics.connections[self.outcome as usize].increment(1);
    }
}
