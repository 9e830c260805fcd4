//! mongate: a MongoDB gateway. It accepts the plain wire protocol from local clients, forwards it to mongod or mongos
//! over mutual TLS, authorizes every command by policy and measures it.

pub mod admin;
pub mod certs;
pub mod check;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod connection;
pub mod control;
pub mod gateway;
pub mod identity;
pub mod lifecycle;
pub mod listener;
pub mod policy;
pub mod relay;
pub mod review;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod topology;
pub mod upstream;
pub mod wire;
