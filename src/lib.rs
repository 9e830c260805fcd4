//! mongate: a MongoDB gateway. It accepts the plain wire protocol from clients and forwards it over mutual TLS to
//! mongod, with metrics for every command.

pub mod admin;
pub mod check;
pub mod cli;
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
