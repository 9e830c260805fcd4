//! mongate: a MongoDB gateway that takes the plain wire protocol from clients beside it and carries it over mutual TLS
//! to mongod, measuring every command on the way.

pub mod check;
pub mod config;
pub mod identity;
pub mod tls;
pub mod upstream;
pub mod wire;
