//! Every metric family: name, kind, unit, help text and histogram buckets. `docs/metrics.md` is the same list for people.

use metrics::Unit;

pub(in crate::telemetry) const CONNECTIONS_ACTIVE: &str = "mongate_connections_active";
pub(in crate::telemetry) const CONNECTIONS: &str = "mongate_connections_total";
pub(in crate::telemetry) const COMMANDS_TOTAL: &str = "mongate_commands_total";
pub(in crate::telemetry) const COMMAND_DURATION: &str = "mongate_command_duration_seconds";
pub(in crate::telemetry) const COMMAND_ERRORS: &str = "mongate_command_errors_total";
pub(in crate::telemetry) const BYTES: &str = "mongate_bytes_total";
pub(in crate::telemetry) const UNPARSED_MESSAGES: &str = "mongate_unparsed_messages_total";
pub(in crate::telemetry) const CLIENT_HANDSHAKES: &str = "mongate_client_handshakes_total";
pub(in crate::telemetry) const UPSTREAM_HANDSHAKES: &str = "mongate_upstream_handshakes_total";
pub(in crate::telemetry) const UPSTREAM_HANDSHAKE_DURATION: &str = "mongate_upstream_handshake_duration_seconds";
pub(in crate::telemetry) const UPSTREAM_WARM_CONNECTIONS: &str = "mongate_upstream_warm_connections";
pub(in crate::telemetry) const UPSTREAM_RECYCLED: &str = "mongate_upstream_recycled_total";
pub(in crate::telemetry) const UPSTREAM_MEMBERS: &str = "mongate_upstream_members";
pub(in crate::telemetry) const UPSTREAM_PRIMARY_CHANGES: &str = "mongate_upstream_primary_changes_total";
pub(in crate::telemetry) const CERTIFICATE_EXPIRY: &str = "mongate_certificate_expiry_timestamp_seconds";
pub(in crate::telemetry) const POLICY_DECISIONS: &str = "mongate_policy_decisions_total";
pub(in crate::telemetry) const RELOADS: &str = "mongate_reloads_total";
pub(in crate::telemetry) const BUILD: &str = "mongate_build_info";

/// Upper bounds in seconds. A command answered from memory beside the server takes some 100 µs, one that sorts without
/// an index takes a minute: three bounds to a power of ten, with the edges where alerts are usually put.
pub(super) const COMMAND_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Upper bounds in seconds. A resumed handshake in one rack takes 1 ms, and the default deadline is 5 s.
pub(super) const HANDSHAKE_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// One family of series, as it is described to Prometheus.
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

pub(super) const FAMILIES: [Family; 18] = [
    Family {
        name: CONNECTIONS_ACTIVE,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Client connections that are open now.",
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
        help: "Commands that were answered, refused, or sent without asking for an answer.",
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
        help: "Commands that MongoDB answered with an error, by its code.",
    },
    Family {
        name: BYTES,
        kind: FamilyKind::Counter,
        unit: Unit::Bytes,
        help: "Plaintext bytes carried, without the TLS around them.",
    },
    Family {
        name: UNPARSED_MESSAGES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Messages that could not be understood and were passed on as they were.",
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
        help: "Attempts to open a proven connection to an upstream, by outcome.",
    },
    Family {
        name: UPSTREAM_HANDSHAKE_DURATION,
        kind: FamilyKind::Histogram,
        unit: Unit::Seconds,
        help: "Time of a successful TLS handshake, without name lookup, TCP and proof.",
    },
    Family {
        name: UPSTREAM_WARM_CONNECTIONS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Proven connections to an upstream that wait for a client.",
    },
    Family {
        name: UPSTREAM_RECYCLED,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Connections that left a replaced certificate set, by how.",
    },
    Family {
        name: UPSTREAM_MEMBERS,
        kind: FamilyKind::Gauge,
        unit: Unit::Count,
        help: "Members of a replica set or sharded cluster that are known, by what they are.",
    },
    Family {
        name: UPSTREAM_PRIMARY_CHANGES,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "How often another member has become primary.",
    },
    Family {
        name: CERTIFICATE_EXPIRY,
        kind: FamilyKind::Gauge,
        unit: Unit::Seconds,
        help: "When the certificate in use ends, in seconds since 1970.",
    },
    Family {
        name: POLICY_DECISIONS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "What the policy decided on commands, by the rule that did.",
    },
    Family {
        name: RELOADS,
        kind: FamilyKind::Counter,
        unit: Unit::Count,
        help: "Certificate sets and policies that changed in their files and were taken into use, or could not be.",
    },
    Family { name: BUILD, kind: FamilyKind::Gauge, unit: Unit::Count, help: "Always 1; the version is in the label." },
];
