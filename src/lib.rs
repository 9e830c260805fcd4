//! mongate: a MongoDB gateway that takes the plain wire protocol from clients beside it and carries it over mutual TLS
//! to mongod, measuring every command on the way.

pub mod admin;
pub mod certs;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod connection;
pub mod gateway;
pub mod identity;
pub mod lifecycle;
pub mod listener;
pub mod policy;
pub mod relay;
pub mod review;
pub mod telemetry;
pub mod tls;
pub mod topology;
pub mod upstream;
pub mod wire;
