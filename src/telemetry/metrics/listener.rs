//! The metrics of one listener: its connections, handshakes, commands and bytes.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, Label, counter, gauge, histogram};

use super::super::code_names::{CODE_NAMES, CodeName};
use super::families::{
    BYTES, CLIENT_HANDSHAKES, COMMAND_DURATION, COMMAND_ERRORS, COMMANDS_TOTAL, CONNECTIONS, CONNECTIONS_ACTIVE,
    UNPARSED_MESSAGES,
};
use super::labels::{ClientHandshake, CommandOutcome, ConnectionOutcome, Direction};
use crate::command::table::{COMMANDS, CommandId};

/// The handles of one listener; shared by all its connections on all workers.
pub struct ListenerMetrics {
    /// `listener`, and `principal` where the operator lists any.
    labels: Vec<Label>,
    connections_active: Gauge,
    /// By [`ConnectionOutcome`].
    connections: [Counter; 5],
    /// By [`Direction`].
    bytes: [Counter; 2],
    /// By [`Direction`].
    unparsed_messages: [Counter; 2],
    /// By [`ClientHandshake`].
    handshakes: [Counter; ClientHandshake::ALL.len()],
    /// By [`CommandId`]; most commands are never seen and cost no series.
    commands: Box<[OnceLock<CommandMetrics>]>,
    /// By [`CodeName`]; as above.
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
    /// Looks the handles up in the recorder of this moment.
    pub fn new(listener: &str) -> Self {
        Self::with_labels(listener, vec![Label::new("listener", listener.to_owned())])
    }

    /// The same, with commands, errors and bytes counted for one principal of those that the operator listed, or for
    /// `other`. What concerns connections and handshakes is counted for the listener as a whole.
    pub fn of_principal(listener: &str, principal: &str) -> Self {
        let label = |name, value: &str| Label::new(name, value.to_owned());
        Self::with_labels(listener, vec![label("listener", listener), label("principal", principal)])
    }

    fn with_labels(listener: &str, labels: Vec<Label>) -> Self {
        let outcome = |outcome: ConnectionOutcome| counter!(CONNECTIONS, "listener" => listener.to_owned(), "outcome" => outcome.label());
        let handshake = |outcome: ClientHandshake| counter!(CLIENT_HANDSHAKES, "listener" => listener.to_owned(), "outcome" => outcome.label());
        let ways = [Direction::ToUpstream, Direction::ToClient];
        Self {
            connections_active: gauge!(CONNECTIONS_ACTIVE, "listener" => listener.to_owned()),
            connections: ConnectionOutcome::ALL.map(outcome),
            handshakes: ClientHandshake::ALL.map(handshake),
            bytes: ways.map(|way| counter!(BYTES, with(&labels, "direction", way.label()))),
            unparsed_messages: ways
                .map(|way| counter!(UNPARSED_MESSAGES, "listener" => listener.to_owned(), "direction" => way.label())),
            commands: std::iter::repeat_with(OnceLock::new).take(COMMANDS).collect(),
            command_errors: std::iter::repeat_with(OnceLock::new).take(CODE_NAMES).collect(),
            labels,
        }
    }

    /// Counts a connection as open until the guard is dropped, whatever ends it.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections_active.increment(1.0);
        OpenConnection { metrics: Arc::clone(self), outcome: ConnectionOutcome::Completed }
    }

    /// Counts what came of a client's handshake.
    pub fn count_handshake(&self, outcome: ClientHandshake) {
        self.handshakes[outcome as usize].increment(1);
    }

    /// Counts bytes that go in `direction`; call it per piece, not per message.
    pub fn count_bytes(&self, direction: Direction, bytes: u64) {
        self.bytes[direction as usize].increment(bytes);
    }

    /// Counts a message that was passed on without being understood.
    pub fn count_unparsed_message(&self, direction: Direction) {
        self.unparsed_messages[direction as usize].increment(1);
    }

    /// Counts one command, and times it if it was answered.
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

    /// Counts an error reply by its code; beside [`count_command`](Self::count_command), not instead of it.
    ///
    /// The number decides. The name, which is bytes from the wire, is only compared with known names.
    pub fn count_command_error(&self, code: Option<i32>, code_name: Option<&[u8]>) {
        let code_name = CodeName::of(code, code_name);
        self.command_errors[code_name.index()]
            .get_or_init(|| counter!(COMMAND_ERRORS, with(&self.labels, "code_name", code_name.label())))
            .increment(1);
    }

    fn command(&self, command: CommandId) -> &CommandMetrics {
        self.commands[command.index()].get_or_init(|| CommandMetrics::new(&self.labels, command.name()))
    }
}

impl CommandMetrics {
    fn new(labels: &[Label], command: &'static str) -> Self {
        let labels = with(labels, "command", command);
        let outcome = |outcome| counter!(COMMANDS_TOTAL, with(&labels, "outcome", outcome));
        Self {
            ok: outcome("ok"),
            error: outcome("error"),
            denied: outcome("denied"),
            unacknowledged: outcome("unacknowledged"),
            duration: histogram!(COMMAND_DURATION, labels),
        }
    }
}

fn with(labels: &[Label], name: &'static str, value: &'static str) -> Vec<Label> {
    labels.iter().cloned().chain([Label::from_static_parts(name, value)]).collect()
}

/// One open client connection. Counts its outcome when dropped, also when its task is cancelled or panics.
pub struct OpenConnection {
    metrics: Arc<ListenerMetrics>,
    outcome: ConnectionOutcome,
}

impl OpenConnection {
    /// Says how the connection ended; [`ConnectionOutcome::Completed`] if nobody does. The last word counts.
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
