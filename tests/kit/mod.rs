//! The test kit: a real mongod that requires client certificates, the gateway's binary, certificates, raw wire
//! messages, and drivers in other languages. It is included by `tests/it`, `benches` and `examples/quickstart.rs`.
//!
//! Everything is blocking (threads, `std::net`), so that a `#[test]` and a `#[tokio::test]` can use it. Every process
//! that the kit starts ends with the program, even if the program is killed. There are no fixed ports and no fixed
//! delays.
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
pub mod proxy_port;
pub mod raw;
pub mod replica_set;
pub mod scratch;
pub mod secret;
pub mod waiting;
pub mod workload_api;
