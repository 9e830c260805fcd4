//! Black-box tests: the gateway's binary between real clients and a real mongod that requires client certificates.
//!
//! Tests of interception, DNS and network partitions create network namespaces. They need root or subordinate user ids,
//! `ip` and `iptables`.
//!
//! Set `MONGATE_TEST_MONGOD` to use your own mongod. With `MONGATE_TEST_REQUIRE=1` a test fails instead of being
//! skipped when a program that it needs is missing.
//!
//! With `MONGATE_TEST_POOL=request` (or `session`) every gateway has a pool of this mode. Some tests are about what a
//! pool does otherwise, such as spare connections, and fail then.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(unreachable_pub, reason = "the modules of this test binary share items")]

#[path = "../kit/mod.rs"]
mod kit;

mod certificate_chains;
mod command_line;
mod control;
mod crowds;
mod doors;
mod drivers;
mod failures;
mod hand_over;
mod held_bodies;
mod intercept;
mod jwt_svids;
mod kit_itself;
mod leaving;
mod life;
mod listeners;
mod load;
mod log_floods;
mod log_reader;
mod matrix;
mod mistakes;
mod neighbour;
mod network_cut;
mod ocsp;
mod policy_commands;
mod policy_cursors;
mod policy_documents;
mod policy_drivers;
mod policy_expiry;
mod policy_lists;
mod policy_load;
mod policy_mesh;
mod policy_reload;
mod policy_rows;
mod policy_seen;
mod policy_sessions;
mod policy_stages;
mod policy_tools;
mod policy_vault;
mod pooling;
mod quickstart;
mod recipe;
mod refusals;
mod replica_balanced;
mod replica_drivers;
mod replica_elections;
mod replica_hello;
mod replica_mapping;
mod replica_members;
mod replica_sharded;
mod reports;
mod rotation;
mod rust_members;
mod rust_script;
mod seen;
mod send_proxy;
mod service_manager;
mod slow;
mod soak;
mod srv;
mod token_clients;
mod token_issuer;
#[path = "../../src/identity/token/test_keys.rs"]
mod token_keys;
mod token_numbers;
mod token_passwords;
mod tokens;
mod unsupported;
mod warm;
mod wire_own;
mod wire_rows;
mod wire_seen;
mod workload_api;
mod writers;
mod x509_connect;
mod x509_users;
