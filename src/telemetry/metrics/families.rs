//! Every metric family: name, kind, unit, help text and histogram buckets.
//!
//! `docs/metrics.md` documents the same list.

use metrics::Unit;

pub(super) const CONNECTIONS_ACTIVE: &str = "mongate_connections_active";
pub(super) const CONNECTIONS: &str = "mongate_connections_total";
pub(super) const CONNECTIONS_OPENED: &str = "mongate_connections_opened_total";
pub(super) const READY: &str = "mongate_ready";
pub(super) const READY_CONDITION: &str = "mongate_ready_condition";
pub(super) const COMMANDS_TOTAL: &str = "mongate_commands_total";
pub(super) const COMMAND_DURATION: &str = "mongate_command_duration_seconds";
pub(super) const COMMAND_ERRORS: &str = "mongate_command_errors_total";
pub(super) const BYTES: &str = "mongate_bytes_total";
pub(super) const UNPARSED_MESSAGES: &str = "mongate_unparsed_messages_total";
pub(super) const CLIENT_HANDSHAKES: &str = "mongate_client_handshakes_total";
pub(super) const UPSTREAM_HANDSHAKES: &str = "mongate_upstream_handshakes_total";
pub(super) const UPSTREAM_HANDSHAKE_DURATION: &str = "mongate_upstream_handshake_duration_seconds";
pub(super) const UPSTREAM_WARM_CONNECTIONS: &str = "mongate_upstream_warm_connections";
pub(super) const POOL_CONNECTIONS: &str = "mongate_pool_connections";
pub(super) const POOL_WAIT: &str = "mongate_pool_wait_seconds";
pub(super) const POOL_REUSES: &str = "mongate_pool_reuses_total";
pub(super) const UPSTREAM_RECYCLED: &str = "mongate_upstream_recycled_total";
pub(super) const UPSTREAM_MEMBERS: &str = "mongate_upstream_members";
pub(super) const UPSTREAM_PRIMARY_CHANGES: &str = "mongate_upstream_primary_changes_total";
pub(super) const CERTIFICATE_EXPIRY: &str = "mongate_certificate_expiry_timestamp_seconds";
pub(in crate::telemetry) const POLICY_DECISIONS: &str = "mongate_policy_decisions_total";
pub(super) const RELOADS: &str = "mongate_reloads_total";
pub(super) const HELD_BYTES: &str = "mongate_held_bytes";
pub(super) const HELD_BYTES_MAX: &str = "mongate_held_bytes_max";
pub(super) const LOG_LINES_DROPPED: &str = "mongate_log_lines_dropped_total";
pub(super) const UPSTREAM_UP: &str = "mongate_upstream_up";
pub(super) const LISTENER_READY: &str = "mongate_listener_ready";
pub(super) const CONFIG_PENDING_RESTART: &str = "mongate_config_pending_restart";
pub(super) const NEXT_RULE_EXPIRY: &str = "mongate_policy_next_expiry_timestamp_seconds";
pub(super) const OVERLOADED: &str = "mongate_overloaded";
pub(super) const OVERLOAD_CONNECTIONS: &str = "mongate_overload_connections_total";
pub(super) const TOKEN_VALIDATIONS: &str = "mongate_token_validations_total";
pub(super) const JWKS_KEYS: &str = "mongate_jwks_keys";
pub(super) const BUILD: &str = "mongate_build_info";

/// Bucket bounds of command durations, in seconds. A command answered from memory on the same host takes about 100 µs;
/// one that sorts without an index takes a minute. Three bounds per power of ten, at values that alerts usually use.
pub(super) const COMMAND_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Bucket bounds of upstream TLS handshakes, in seconds. A resumed handshake within a rack takes 1 ms; the default
/// timeout is 5 s.
pub(super) const HANDSHAKE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Bucket bounds of waits for a shared upstream connection, in seconds. A command of another client takes about 100 µs,
/// a new connection a few milliseconds; the default `wait_timeout` is 10 s.
pub(super) const WAIT_SECONDS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];

/// One metric family, as it is described to Prometheus.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: FamilyKind,
    pub(super) unit: Unit,
    pub(super) help: &'static str,
}

pub(super) enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

pub(super) const FAMILIES: [Family; 35] = [
    Family {
        name: CONNECTIONS_ACTIVE,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Client connections that are open.",
    },
    Family {
        name: CONNECTIONS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Client connections that have ended, by how they ended.",
    },
    Family {
        name: COMMANDS_TOTAL,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Commands that were answered, denied, or forwarded without a reply being asked for.",
    },
    Family {
        name: COMMAND_DURATION,
        kind: FamilyKind::Histogram,
        unit: Unit::Seconds,
        help: "Time from a command's arrival to its reply.",
    },
    Family {
        name: COMMAND_ERRORS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Commands that MongoDB answered with an error, by error code.",
    },
    Family {
        name: BYTES,
        kind: FamilyKind::Counter,
        unit: Unit::Bytes,
        help: "Plaintext bytes forwarded, without TLS overhead.",
    },
    Family {
        name: UNPARSED_MESSAGES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Messages that could not be parsed and were forwarded unchanged.",
    },
    Family {
        name: CLIENT_HANDSHAKES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "TLS handshakes with clients, and clients without TLS where it is required, by outcome.",
    },
    Family {
        name: UPSTREAM_HANDSHAKES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Attempts to open and prove a connection to an upstream, by outcome.",
    },
    Family {
        name: UPSTREAM_HANDSHAKE_DURATION,
        kind: FamilyKind::Histogram,
        unit: Unit::Seconds,
        help: "Time of a successful TLS handshake, without name lookup, TCP connect and ping.",
    },
    Family {
        name: UPSTREAM_WARM_CONNECTIONS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Spare connections: proven connections to an upstream that no client uses yet.",
    },
    Family {
        name: POOL_CONNECTIONS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Upstream connections that clients share, by state: idle ones have no client.",
    },
    Family {
        name: POOL_WAIT,
        kind: FamilyKind::Histogram,
        unit: Unit::Seconds,
        help: "Time that clients waited for a shared upstream connection, if none was ready.",
    },
    Family {
        name: POOL_REUSES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Times that a shared upstream connection was ready for a client.",
    },
    Family {
        name: UPSTREAM_RECYCLED,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Connections that left a replaced certificate set: moved to a new upstream connection, or closed.",
    },
    Family {
        name: UPSTREAM_MEMBERS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Known members of a replica set or sharded cluster, by state.",
    },
    Family {
        name: UPSTREAM_PRIMARY_CHANGES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Times that another member became primary.",
    },
    Family {
        name: CERTIFICATE_EXPIRY,
        kind: FamilyKind::Gauge,
        unit: Unit::Seconds,
        help: "Expiry of the certificate in use, in seconds since 1970.",
    },
    Family {
        name: POLICY_DECISIONS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Policy decisions about commands, by rule.",
    },
    Family {
        name: RELOADS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Reloads of changed certificate sets and policies, by outcome.",
    },
    Family {
        name: HELD_BYTES,
        kind: FamilyKind::Gauge,
        unit: Unit::Bytes,
        help: "Memory that is reserved for long messages that are held for the policy.",
    },
    Family {
        name: HELD_BYTES_MAX,
        kind: FamilyKind::Gauge,
        unit: Unit::Bytes,
        help: "The limit of mongate_held_bytes.",
    },
    Family {
        name: LOG_LINES_DROPPED,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Log lines that were dropped because the reader of standard error did not take them.",
    },
    Family {
        name: UPSTREAM_UP,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "1 if the gateway can connect to this member, else 0.",
    },
    Family {
        name: CONNECTIONS_OPENED,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Client connections that were accepted.",
    },
    Family {
        name: READY,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "1 if the gateway can serve traffic, as /readyz says, else 0.",
    },
    Family {
        name: READY_CONDITION,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "1 if this condition of /readyz holds, else 0.",
    },
    Family {
        name: LISTENER_READY,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "1 if the listener can serve clients, as /readyz?listener=NAME says, else 0.",
    },
    Family {
        name: CONFIG_PENDING_RESTART,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Changed configuration keys that take effect at the next restart.",
    },
    Family {
        name: NEXT_RULE_EXPIRY,
        kind: FamilyKind::Gauge,
        unit: Unit::Seconds,
        help: "When the next rule of the policy expires, in seconds since 1970.",
    },
    Family {
        name: OVERLOADED,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "1 while the memory of the container is nearly used up and new connections are refused, else 0.",
    },
    Family {
        name: OVERLOAD_CONNECTIONS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Connections that were refused or closed because memory was nearly used up.",
    },
    Family {
        name: TOKEN_VALIDATIONS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Tokens that were validated, by issuer and outcome.",
    },
    Family {
        name: JWKS_KEYS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Keys of a token issuer that can verify tokens.",
    },
    Family { name: BUILD, kind: FamilyKind::Gauge, unit: Unit::Count, help: "Always 1; the version is in the label." },
];
