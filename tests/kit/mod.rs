//! The test kit: a real mongod that requires client certificates, the gateway's binary, certificates, raw wire bytes,
//! and other languages' drivers; `tests/it` and `examples/quickstart.rs` include it.
//!
//! Everything is blocking (threads, `std::net`), so that it serves a `#[test]` and a `#[tokio::test]` alike. Nothing
//! that is started here outlives the program that started it, however that ends. No fixed ports, no waiting by the clock.
#![allow(dead_code, unreachable_pub, reason = "each program that includes the kit uses its own part of it")]

pub mod certificates;
pub mod drivers;
pub mod gateway;
pub mod http;
pub mod mongod;
pub mod mongod_binary;
pub mod mongos;
pub mod name_server;
pub mod namespace;
pub mod openssl;
pub mod ports;
pub mod process;
pub mod provision;
pub mod raw;
pub mod replica_set;
pub mod scratch;
pub mod secret;
pub mod waiting;
pub mod workload_api;
