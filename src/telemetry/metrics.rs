//! Every metric of the gateway: name, labels, unit, help, and the handles that record it.
//!
//! Handles are looked up once, per listener, upstream or kind of command; recording is a few atomic operations and
//! never a search. Label values come from configured names and from the enums of this file. `docs/metrics.md` is the
//! same list for people.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::code_names::{CODE_NAMES, CodeName};
use crate::command::table::{COMMANDS, CommandId};

const CONNECTIONS_ACTIVE: &str = "mongate_connections_active";
const CONNECTIONS: &str = "mongate_connections_total";
const COMMANDS_TOTAL: &str = "mongate_commands_total";
const COMMAND_DURATION: &str = "mongate_command_duration_seconds";
const COMMAND_ERRORS: &str = "mongate_command_errors_total";
const BYTES: &str = "mongate_bytes_total";
const UNPARSED_MESSAGES: &str = "mongate_unparsed_messages_total";
const CLIENT_HANDSHAKES: &str = "mongate_client_handshakes_total";
const UPSTREAM_HANDSHAKES: &str = "mongate_upstream_handshakes_total";
const UPSTREAM_HANDSHAKE_DURATION: &str = "mongate_upstream_handshake_duration_seconds";
const UPSTREAM_WARM_CONNECTIONS: &str = "mongate_upstream_warm_connections";
const UPSTREAM_RECYCLED: &str = "mongate_upstream_recycled_total";
const UPSTREAM_MEMBERS: &str = "mongate_upstream_members";
const UPSTREAM_PRIMARY_CHANGES: &str = "mongate_upstream_primary_changes_total";
const CERTIFICATE_EXPIRY: &str = "mongate_certificate_expiry_timestamp_seconds";
pub(super) const POLICY_DECISIONS: &str = "mongate_policy_decisions_total";
const RELOADS: &str = "mongate_reloads_total";
const BUILD: &str = "mongate_build_info";

/// Upper bounds in seconds. A command answered from memory beside the server takes some 100 µs, one that sorts without
/// an index takes a minute: three bounds to a power of ten, with the edges where alerts are usually put.
const COMMAND_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Upper bounds in seconds. A resumed handshake in one rack takes 1 ms, and the default deadline is 5 s.
const HANDSHAKE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// One family of series, as it is described to Prometheus.
struct Family {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const FAMILIES: [Family; 18] = [
    Family {
        name: CONNECTIONS_ACTIVE,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Client connections that are open now.",
    },
    Family {
        name: CONNECTIONS,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Client connections that have ended, by how they ended.",
    },
    Family {
        name: COMMANDS_TOTAL,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Commands that were answered, refused, or sent without asking for an answer.",
    },
    Family {
        name: COMMAND_DURATION,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time from a command's arrival to its reply.",
    },
    Family {
        name: COMMAND_ERRORS,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Commands that MongoDB answered with an error, by its code.",
    },
    Family {
        name: BYTES,
        kind: Kind::Counter,
        unit: Unit::Bytes,
        help: "Plaintext bytes carried, without the TLS around them.",
    },
    Family {
        name: UNPARSED_MESSAGES,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Messages that could not be understood and were passed on as they were.",
    },
    Family {
        name: CLIENT_HANDSHAKES,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "TLS handshakes with clients, and clients without TLS where it is required, by outcome.",
    },
    Family {
        name: UPSTREAM_HANDSHAKES,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Attempts to open a proven connection to an upstream, by outcome.",
    },
    Family {
        name: UPSTREAM_HANDSHAKE_DURATION,
        kind: Kind::Histogram,
        unit: Unit::Seconds,
        help: "Time of a successful TLS handshake, without name lookup, TCP and proof.",
    },
    Family {
        name: UPSTREAM_WARM_CONNECTIONS,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Proven connections to an upstream that wait for a client.",
    },
    Family {
        name: UPSTREAM_RECYCLED,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Connections that left a replaced certificate set, by how.",
    },
    Family {
        name: UPSTREAM_MEMBERS,
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Members of a replica set or sharded cluster that are known, by what they are.",
    },
    Family {
        name: UPSTREAM_PRIMARY_CHANGES,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "How often another member has become primary.",
    },
    Family {
        name: CERTIFICATE_EXPIRY,
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        help: "When the certificate in use ends, in seconds since 1970.",
    },
    Family {
        name: POLICY_DECISIONS,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "What the policy decided on commands, by the rule that did.",
    },
    Family {
        name: RELOADS,
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Certificate sets and policies that changed in their files and were taken into use, or could not be.",
    },
    Family { name: BUILD, kind: Kind::Gauge, unit: Unit::Count, help: "Always 1; the version is in the label." },
];

/// What was recorded, readable.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Only one recorder can be installed in a process.
    #[error("another metrics recorder is already installed")]
    Taken,
    /// The buckets above were not accepted.
    #[error("cannot set up the metrics recorder")]
    Setup(#[from] BuildError),
}

impl Metrics {
    /// Installs the recorder for the whole process; handles made before that record nothing.
    pub fn install() -> Result<Self, InstallError> {
        let recorder = prometheus()?.build_recorder();
        let installed = Self { handle: recorder.handle() };
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Taken)?;
        describe();
        Ok(installed)
    }

    /// The metrics of a recorder that nobody has installed, for tests of whoever shows them.
    #[cfg(test)]
    pub(crate) fn of_no_recorder() -> Self {
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, describe);
        Self { handle: recorder.handle() }
    }

    /// All series in Prometheus's text form, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds recorded durations into their buckets.
    ///
    /// Until then each keeps 16 bytes; call it every few seconds, or memory grows with the traffic between scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMAND_DURATION.to_owned()), &COMMAND_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(UPSTREAM_HANDSHAKE_DURATION.to_owned()), &HANDSHAKE_SECONDS)
}

fn describe() {
    for family in FAMILIES {
        match family.kind {
            Kind::Counter => metrics::describe_counter!(family.name, family.unit, family.help),
            Kind::Gauge => metrics::describe_gauge!(family.name, family.unit, family.help),
            Kind::Histogram => metrics::describe_histogram!(family.name, family.unit, family.help),
        }
    }
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// How a client connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOutcome {
    /// It carried traffic, or could have; either side closed it, or the gateway did for its age or at the end.
    Completed,
    /// The client sent no byte, or none before a drain.
    Probe,
    /// The gateway did not take it: `max_connections` was reached, or the client is not one that its listener takes.
    Rejected,
    /// There was no upstream to put it on, or the upstream was lost.
    UpstreamFailed,
    /// What the client sent is not MongoDB's protocol, or a part of it that is refused.
    ProtocolError,
}

/// What came of a client's TLS handshake, the judgement on its certificate included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHandshake {
    /// The client is let in.
    Ok,
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate comes from no authority of the listener.
    UnknownCa,
    /// Its certificate has ended.
    Expired,
    /// Its certificate has not begun.
    NotYetValid,
    /// Its authority has revoked the certificate.
    Revoked,
    /// Its certificate is not for clients.
    WrongUsage,
    /// Its certificate, or the proof that it owns it, is not acceptable otherwise.
    Invalid,
    /// Its SPIFFE id is none.
    InvalidSpiffeId,
    /// Its SPIFFE id is of another trust domain.
    ForeignTrustDomain,
    /// It spoke no TLS where TLS is required.
    NotTls,
    /// It does not accept the listener's certificate.
    RefusedByClient,
    /// What it sent is no TLS that is spoken here, or it closed.
    Failed,
    /// It did not finish in time.
    TimedOut,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to mongod.
    ToUpstream,
    /// From mongod to the client.
    ToClient,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandOutcome {
    /// Answered with `ok: 1` after this time.
    Ok(Duration),
    /// Answered with an error after this time.
    Error(Duration),
    /// Refused by the gateway; it never went upstream.
    Denied,
    /// The client asked for no reply.
    Unacknowledged,
}

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

/// How a connection left a certificate set that is no longer in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recycling {
    /// Its upstream connection was exchanged; the client did not notice.
    Moved,
    /// It was closed.
    Closed,
}

/// The handles of one upstream.
pub struct UpstreamMetrics {
    /// By outcome: `ok`, and each reason that there is.
    handshakes: Vec<(&'static str, Counter)>,
    handshake_duration: Histogram,
    warm_connections: Gauge,
    /// By [`Recycling`].
    recycled: [Counter; 2],
}

impl UpstreamMetrics {
    /// Looks the handles up in the recorder of this moment; `reasons` are all that a failure can have.
    pub fn new(upstream: &str, reasons: &[&'static str]) -> Self {
        let outcome =
            |outcome| (outcome, counter!(UPSTREAM_HANDSHAKES, "upstream" => upstream.to_owned(), "outcome" => outcome));
        Self {
            handshakes: std::iter::once("ok").chain(reasons.iter().copied()).map(outcome).collect(),
            handshake_duration: histogram!(UPSTREAM_HANDSHAKE_DURATION, "upstream" => upstream.to_owned()),
            warm_connections: gauge!(UPSTREAM_WARM_CONNECTIONS, "upstream" => upstream.to_owned()),
            recycled: [Recycling::Moved, Recycling::Closed]
                .map(|how| counter!(UPSTREAM_RECYCLED, "upstream" => upstream.to_owned(), "how" => how.label())),
        }
    }

    /// Says that of the connections that wait for a client, `before` are `now` so many.
    pub fn change_warm_connections(&self, before: usize, now: usize) {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.warm_connections.increment(number(now) - number(before));
    }

    /// Counts a connection that left a replaced certificate set.
    pub fn count_recycled(&self, how: Recycling) {
        self.recycled[how as usize].increment(1);
    }

    /// Counts an attempt that gave a proven connection after this time.
    pub fn count_handshake(&self, duration: Duration) {
        self.count("ok");
        self.handshake_duration.record(duration);
    }

    /// Counts one that failed; its time would say more about deadlines than about servers.
    pub fn count_failed_handshake(&self, reason: &'static str) {
        self.count(reason);
    }

    fn count(&self, outcome: &'static str) {
        if let Some((_, counter)) = self.handshakes.iter().find(|(known, _)| *known == outcome) {
            counter.increment(1);
        }
    }
}

/// Handles of an upstream that has members.
pub struct SetMetrics {
    members: Vec<(&'static str, Gauge)>,
    primary_changes: Counter,
}

impl SetMetrics {
    /// Looks the handles up in the recorder of this moment; `states` are all that a member can be in.
    pub fn new(upstream: &str, states: &[&'static str]) -> Self {
        let gauge = |state: &&'static str| {
            (*state, gauge!(UPSTREAM_MEMBERS, "upstream" => upstream.to_owned(), "state" => *state))
        };
        Self {
            members: states.iter().map(gauge).collect(),
            primary_changes: counter!(UPSTREAM_PRIMARY_CHANGES, "upstream" => upstream.to_owned()),
        }
    }

    /// Says what the members are now, one state each.
    pub fn set_members(&self, states: &[&'static str]) {
        for (state, gauge) in &self.members {
            let count = states.iter().filter(|is| *is == state).count();
            gauge.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }

    /// Says how often another member has become primary.
    pub fn set_primary_changes(&self, count: u64) {
        self.primary_changes.absolute(count);
    }
}

/// What a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRole {
    /// Shown to an upstream.
    UpstreamClient,
    /// Verifies an upstream.
    UpstreamCa,
    /// Shown to the clients of a listener.
    Listener,
    /// Verifies the clients of a listener.
    ListenerCa,
}

/// Says when the certificate of `role` for the upstream or listener `name` ends, in seconds since 1970.
///
/// Of several certificates in one file, tell the one that ends first.
pub fn set_certificate_expiry(role: CertificateRole, name: &str, not_after_seconds: i64) {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 200 million years")]
    let seconds = not_after_seconds as f64;
    gauge!(CERTIFICATE_EXPIRY, "role" => role.label(), "name" => name.to_owned()).set(seconds);
}

/// The handles that count renewals of certificates.
#[derive(Clone)]
pub struct ReloadMetrics {
    ok: Counter,
    failed: Counter,
}

impl ReloadMetrics {
    /// Looks the handles up in the recorder of this moment.
    #[expect(clippy::new_without_default, reason = "a handle is looked up on purpose")]
    pub fn new() -> Self {
        Self { ok: counter!(RELOADS, "outcome" => "ok"), failed: counter!(RELOADS, "outcome" => "failed") }
    }

    /// A changed set is in use.
    pub fn count_ok(&self) {
        self.ok.increment(1);
    }

    /// A changed set cannot be used; the one before it stays.
    pub fn count_failed(&self) {
        self.failed.increment(1);
    }
}

impl ConnectionOutcome {
    /// In the order of their declaration, so that a variant is its own index.
    const ALL: [Self; 5] = [Self::Completed, Self::Probe, Self::Rejected, Self::UpstreamFailed, Self::ProtocolError];

    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Probe => "probe",
            Self::Rejected => "rejected",
            Self::UpstreamFailed => "upstream_failed",
            Self::ProtocolError => "protocol_error",
        }
    }
}

impl Recycling {
    fn label(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Closed => "closed",
        }
    }
}

impl ClientHandshake {
    /// In the order of their declaration, so that a variant is its own index.
    pub const ALL: [Self; 14] = [
        Self::Ok,
        Self::NoCertificate,
        Self::UnknownCa,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
        Self::WrongUsage,
        Self::Invalid,
        Self::InvalidSpiffeId,
        Self::ForeignTrustDomain,
        Self::NotTls,
        Self::RefusedByClient,
        Self::Failed,
        Self::TimedOut,
    ];

    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoCertificate => "no_certificate",
            Self::UnknownCa => "unknown_ca",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::WrongUsage => "wrong_usage",
            Self::Invalid => "invalid",
            Self::InvalidSpiffeId => "invalid_spiffe_id",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::NotTls => "not_tls",
            Self::RefusedByClient => "refused_by_client",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    /// The outcome of that word; [`Self::Invalid`] for a word that is none.
    pub fn of_label(label: &str) -> Self {
        Self::ALL.into_iter().find(|outcome| outcome.label() == label).unwrap_or(Self::Invalid)
    }
}

impl Direction {
    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::ToUpstream => "to_upstream",
            Self::ToClient => "to_client",
        }
    }
}

impl CertificateRole {
    /// The word in labels and log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::UpstreamClient => "upstream_client",
            Self::UpstreamCa => "upstream_ca",
            Self::Listener => "listener",
            Self::ListenerCa => "listener_ca",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::command::table::{OTHER, find};

    /// Everything that `record` did, as Prometheus sees it.
    fn rendered(record: impl FnOnce()) -> String {
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            record();
        });
        recorder.handle().render()
    }

    fn check(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn a_connection_is_counted_once_however_it_ends() {
        let text = rendered(|| {
            let metrics = Arc::new(ListenerMetrics::new("orders"));
            let open = metrics.open_connection();
            let mut probe = metrics.open_connection();
            probe.set_outcome(ConnectionOutcome::Probe);
            drop(probe);
            let panicking = std::thread::spawn(move || {
                let _open = open;
                std::panic::resume_unwind(Box::new("a panic in a connection"));
            });
            assert!(panicking.join().is_err());
            drop(metrics.open_connection());
        });
        check(
            &text,
            &[
                r#"mongate_connections_active{listener="orders"} 0"#,
                r#"mongate_connections_total{listener="orders",outcome="completed"} 2"#,
                r#"mongate_connections_total{listener="orders",outcome="probe"} 1"#,
                r#"mongate_connections_total{listener="orders",outcome="rejected"} 0"#,
            ],
        );
    }

    #[test]
    fn commands_are_counted_by_name_and_outcome_and_timed_when_answered() {
        let text = rendered(|| {
            let metrics = ListenerMetrics::new("orders");
            let command = find(b"find").unwrap().id;
            metrics.count_command(command, CommandOutcome::Ok(Duration::from_micros(300)));
            metrics.count_command(command, CommandOutcome::Error(Duration::from_secs(2)));
            metrics.count_command(command, CommandOutcome::Denied);
            metrics.count_command(OTHER, CommandOutcome::Unacknowledged);
        });
        check(
            &text,
            &[
                r#"mongate_commands_total{listener="orders",command="find",outcome="ok"} 1"#,
                r#"mongate_commands_total{listener="orders",command="find",outcome="error"} 1"#,
                r#"mongate_commands_total{listener="orders",command="find",outcome="denied"} 1"#,
                r#"mongate_commands_total{listener="orders",command="other",outcome="unacknowledged"} 1"#,
                r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="0.00025"} 0"#,
                r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="0.0005"} 1"#,
                r#"mongate_command_duration_seconds_bucket{listener="orders",command="find",le="5"} 2"#,
                r#"mongate_command_duration_seconds_count{listener="orders",command="find"} 2"#,
                r#"mongate_command_duration_seconds_sum{listener="orders",command="find"} 2.0003"#,
                r#"mongate_command_duration_seconds_count{listener="orders",command="other"} 0"#,
            ],
        );
        assert!(!text.contains("insert"), "a command that was never seen has no series");
    }

    #[test]
    fn an_error_name_from_the_wire_is_no_label_unless_it_is_known() {
        let text = rendered(|| {
            let metrics = ListenerMetrics::new("orders");
            metrics.count_command_error(Some(11000), Some(b"DuplicateKey"));
            metrics.count_command_error(None, Some(b"forged\"} 1\nmongate_forged 1"));
            metrics.count_command_error(Some(4_242_424), None);
        });
        check(
            &text,
            &[
                r#"mongate_command_errors_total{listener="orders",code_name="DuplicateKey"} 1"#,
                r#"mongate_command_errors_total{listener="orders",code_name="other"} 2"#,
            ],
        );
        assert!(!text.contains("forged"));
    }

    #[test]
    fn bytes_handshakes_certificates_and_build_are_told() {
        let text = rendered(|| {
            let metrics = ListenerMetrics::new("orders");
            metrics.count_bytes(Direction::ToUpstream, 70_000);
            metrics.count_bytes(Direction::ToClient, 5);
            metrics.count_unparsed_message(Direction::ToClient);
            let upstream = UpstreamMetrics::new("shop", &["client_certificate_refused"]);
            upstream.count_handshake(Duration::from_millis(2));
            upstream.count_failed_handshake("client_certificate_refused");
            upstream.change_warm_connections(0, 3);
            upstream.change_warm_connections(3, 2);
            upstream.count_recycled(Recycling::Closed);
            set_certificate_expiry(CertificateRole::UpstreamClient, "shop", 1_900_000_000);
        });
        check(
            &text,
            &[
                r#"mongate_bytes_total{listener="orders",direction="to_upstream"} 70000"#,
                r#"mongate_bytes_total{listener="orders",direction="to_client"} 5"#,
                r#"mongate_unparsed_messages_total{listener="orders",direction="to_client"} 1"#,
                r#"mongate_upstream_handshakes_total{upstream="shop",outcome="ok"} 1"#,
                r#"mongate_upstream_handshakes_total{upstream="shop",outcome="client_certificate_refused"} 1"#,
                r#"mongate_upstream_handshake_duration_seconds_count{upstream="shop"} 1"#,
                r#"mongate_upstream_warm_connections{upstream="shop"} 2"#,
                r#"mongate_upstream_recycled_total{upstream="shop",how="moved"} 0"#,
                r#"mongate_upstream_recycled_total{upstream="shop",how="closed"} 1"#,
                r#"mongate_certificate_expiry_timestamp_seconds{role="upstream_client",name="shop"} 1900000000"#,
                concat!(r#"mongate_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
            ],
        );
    }

    #[test]
    fn a_listed_principal_has_series_of_its_own_for_what_it_does() {
        let text = rendered(|| {
            let shop = Arc::new(ListenerMetrics::of_principal("orders", "cluster.local/ns/shop/*"));
            let other = Arc::new(ListenerMetrics::of_principal("orders", "other"));
            for metrics in [&shop, &other] {
                metrics.count_command(find(b"find").unwrap().id, CommandOutcome::Ok(Duration::from_micros(300)));
                metrics.count_command_error(Some(11000), None);
                metrics.count_bytes(Direction::ToClient, 5);
                metrics.count_handshake(ClientHandshake::Revoked);
                drop(metrics.open_connection());
            }
        });
        check(
            &text,
            &[
                r#"mongate_commands_total{listener="orders",principal="cluster.local/ns/shop/*",command="find",outcome="ok"} 1"#,
                r#"mongate_commands_total{listener="orders",principal="other",command="find",outcome="ok"} 1"#,
                r#"mongate_command_duration_seconds_count{listener="orders",principal="other",command="find"} 1"#,
                r#"mongate_command_errors_total{listener="orders",principal="other",code_name="DuplicateKey"} 1"#,
                r#"mongate_bytes_total{listener="orders",principal="other",direction="to_client"} 5"#,
                r#"mongate_client_handshakes_total{listener="orders",outcome="revoked"} 2"#,
                r#"mongate_connections_total{listener="orders",outcome="completed"} 2"#,
            ],
        );
    }

    #[test]
    fn the_page_lists_every_outcome_of_a_clients_handshake() {
        let page = include_str!("../../docs/metrics.md");
        let row = page.lines().find(|line| line.starts_with("| `outcome` of a client's handshake |")).unwrap();
        for outcome in ClientHandshake::ALL {
            assert!(row.contains(&format!("`{}`", outcome.label())), "{} is not on the page", outcome.label());
            assert_eq!(ClientHandshake::of_label(outcome.label()), outcome);
        }
    }

    #[test]
    fn a_variant_is_its_own_index() {
        assert!(ConnectionOutcome::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
        assert!(ClientHandshake::ALL.iter().enumerate().all(|(at, outcome)| *outcome as usize == at));
        assert_eq!([Direction::ToUpstream as usize, Direction::ToClient as usize], [0, 1]);
        assert_eq!([Recycling::Moved as usize, Recycling::Closed as usize], [0, 1]);
    }

    #[test]
    fn the_page_lists_the_same_names_as_the_code() {
        let page = include_str!("../../docs/metrics.md");
        let listed: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `mongate_"))
            .filter_map(|rest| rest.split('`').next())
            .collect();
        let known: BTreeSet<&str> = FAMILIES.iter().filter_map(|family| family.name.strip_prefix("mongate_")).collect();
        assert_eq!(listed, known);
    }
}
