//! Every table and key of the configuration.

use super::error::joined;

/// Every table and its keys. The first entry is the top of the file. `NAME` stands for a name that the operator
/// chooses. A table in brackets is repeated, as `[[identity]]`.
///
/// The meaning, unit, range and default of each key is documented at the fields in `sections/`.
pub(super) const SCHEMA: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "workers",
            "drain_timeout",
            "max_held_bytes",
            "trust_domain",
            "trust_domain_aliases",
            "admin",
            "control",
            "shutdown",
            "log",
            "metrics",
            "upstream",
            "listener",
            "identity",
            "token_issuer",
            "policy",
        ],
    ),
    ("admin", &["address"]),
    ("control", &["socket"]),
    ("shutdown", &["delay", "wait_for_clients"]),
    ("log", &["format", "level"]),
    ("metrics", &["principals"]),
    (
        "upstream.NAME",
        &[
            "address",
            "members",
            "srv",
            "replica_set",
            "sharded",
            "connect_timeout",
            "tcp_keepalive",
            "send_proxy",
            "warm_connections",
            "warm_connections_max",
            "pool",
            "certificate_recycle_after",
            "tls",
            "authentication",
            "credential",
        ],
    ),
    (
        "upstream.NAME.tls",
        &[
            "certificate_file",
            "private_key_file",
            "private_key_password_file",
            "spiffe_socket",
            "ca_file",
            "partial_chain",
            "crl_file",
            "server_name",
            "verify",
            "server_identities",
            "ocsp",
            "legacy_certificates",
            "min_version",
        ],
    ),
    ("upstream.NAME.pool", &["mode", "max_connections", "idle_timeout", "wait_timeout"]),
    ("upstream.NAME.authentication", &["mechanism"]),
    (
        "[upstream.NAME.credential]",
        &["principals", "certificate_file", "private_key_file", "private_key_password_file"],
    ),
    (
        "listener.NAME",
        &[
            "address",
            "upstream",
            "topology",
            "member_ports",
            "member_addresses",
            "advertise",
            "read_preference",
            "intercept",
            "mode",
            "principal",
            "authentication",
            "proxy_protocol",
            "proxy_trusted",
            "proxy_identity_tlv",
            "max_connections",
            "allow_remote_plaintext",
            "socket_permissions",
            "reuse_port",
            "idle_timeout",
            "max_lifetime",
            "half_close_timeout",
            "tcp_keepalive",
            "tls",
        ],
    ),
    (
        "listener.NAME.tls",
        &[
            "certificate_file",
            "private_key_file",
            "private_key_password_file",
            "ca_file",
            "partial_chain",
            "crl_file",
            "legacy_certificates",
            "min_version",
            "close_expired_clients",
        ],
    ),
    ("[identity]", &["principal", "sources", "uids", "may_forward"]),
    (
        "[token_issuer]",
        &[
            "issuer",
            "audiences",
            "jwks_url",
            "jwks_file",
            "spiffe_socket",
            "ca_file",
            "bearer_token_file",
            "trust_domain",
            "principal",
            "required_claims",
            "client_id",
            "request_scopes",
            "clock_skew",
            "expiry_grace",
        ],
    ),
    ("policy", &["enforcement", "deny_javascript", "known_commands", "rule"]),
    ("[policy.rule]", &["name", "action", "dry_run", "expires", "reason", "from", "to"]),
    (
        "[policy.rule.from]",
        &[
            "principals",
            "not_principals",
            "namespaces",
            "not_namespaces",
            "sources",
            "not_sources",
            "listeners",
            "not_listeners",
        ],
    ),
    ("[policy.rule.to]", &["commands", "not_commands", "databases", "not_databases", "collections", "not_collections"]),
];

/// Whether a table of the schema is repeated, as `[[identity]]`. Environment variables cannot set its keys.
pub(super) fn is_repeated(table: &str) -> bool {
    table.starts_with('[')
}

/// The schema name of the repeated table `key` in `table`.
pub(super) fn repeated(table: &str, key: &str) -> String {
    format!("[{}]", joined(table.trim_matches(['[', ']']), key))
}

/// The candidate that is most similar to `given`, if it is similar enough for a suggestion.
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Jaro-Winkler weighs the start of a word, so "cert_file" and "warning" get a suggestion. Below 0.85 it is a guess.
    let given = given.to_ascii_lowercase();
    let similarity = |candidate: &str| strsim::jaro_winkler(&given, &candidate.to_ascii_lowercase());
    let scored = candidates.into_iter().map(|candidate| (similarity(candidate), candidate));
    scored.filter(|(score, _)| *score >= 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
