//! What the operator may set: one TOML file, the environment above it, checked as a whole before anything starts.

mod sections;
mod values;

pub use sections::{
    AdminConfig, Config, ListenerConfig, LogConfig, LogFormat, LogLevel, TlsVersion, UpstreamConfig, UpstreamTlsConfig,
    Verify,
};
pub use values::{HostPort, ListenAddress};
