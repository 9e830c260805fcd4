//! The checked sections: what the rest of the gateway is built from, one struct per table of the file.
//!
//! Nothing here needs checking again; whoever is built from a section relies on the bounds written beside its fields.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{HostPort, ListenAddress};

/// The whole configuration after checking; every path is absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Threads that carry connections, each with a runtime of its own. Default: the number of cores; 1 to 1024.
    pub workers: NonZeroUsize,
    /// How long a drain waits for commands in flight before connections are cut. Default: 30 s; 0 to 1 h.
    pub drain_timeout: Duration,
    /// The administration port.
    pub admin: AdminConfig,
    /// Where log lines go and how they look.
    pub log: LogConfig,
    /// Upstreams by name; at least one, and every listener names one of them.
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// Listeners by name; at least one, no two with the same address.
    pub listeners: BTreeMap<String, ListenerConfig>,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Default: `127.0.0.1:9717`. Port 0 takes a free one.
    pub address: SocketAddr,
}

impl AdminConfig {
    /// Where administration listens unless the operator says otherwise, and where `healthcheck` asks.
    pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9717);
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Default: text.
    pub format: LogFormat,
    /// Default: info.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a record, for people.
    Text,
    /// One JSON object a record, for machines.
    Json,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs an operator now.
    Error,
    /// And what will need one.
    Warn,
    /// And one line per connection.
    Info,
    /// And one line per command (names only, never values).
    Debug,
    /// And the steps inside a connection.
    Trace,
}

/// `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The NAME of the table.
    pub name: String,
    /// The mongod or mongos. Required.
    pub address: HostPort,
    /// Name lookup, TCP, TLS and proof of one connection together. Default: 5 s; 100 ms to 5 min.
    pub connect_timeout: Duration,
    /// Idle time before the first keepalive probe towards mongod. `None` is off. Default: 2 min; 1 s to 9 h.
    pub tcp_keepalive: Option<Duration>,
    /// `[upstream.NAME.tls]`.
    pub tls: UpstreamTlsConfig,
}

/// `[upstream.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTlsConfig {
    /// Our certificate, then its chain, PEM; may also hold the key. Required.
    pub certificate_file: PathBuf,
    /// The key, PEM. Default: `certificate_file`.
    pub private_key_file: PathBuf,
    /// The authorities that a server certificate may come from, PEM. Required.
    pub ca_file: PathBuf,
    /// SNI, and the name that is verified; a DNS name or an IP address. Default: the host of the address.
    pub server_name: Option<String>,
    /// Default: full.
    pub verify: Verify,
    /// Default: 1.2.
    pub min_version: TlsVersion,
}

/// `verify`: what of a server certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Chain and name.
    Full,
    /// Chain only.
    Chain,
}

/// `min_version`: the oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// `[listener.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The NAME of the table.
    pub name: String,
    /// Where clients connect. Required. Port 0 takes a free one; a unix socket's path has at most 107 bytes.
    pub address: ListenAddress,
    /// Name of the upstream that this listener leads to. Required; must exist.
    pub upstream: String,
    /// Connections at one time; the one above gets an error. Default: 10,000; 1 to 1,000,000.
    pub max_connections: usize,
    /// Needed for an address other than loopback. Default: false.
    pub allow_remote_plaintext: bool,
    /// Mode of a unix socket's file, written `"0660"`. Default: 0700, as mongod's `filePermissions`; at most 0777.
    pub socket_permissions: u32,
    /// Close a connection on which nothing moved for so long. Default: off; 1 s to 30 days.
    pub idle_timeout: Option<Duration>,
    /// Close a connection that is so old, when no command is in flight. Default: off; 1 s to 30 days.
    pub max_lifetime: Option<Duration>,
    /// Idle time before the first keepalive probe towards a client; `None` is off. Default: 2 min; 1 s to 9 h.
    pub tcp_keepalive: Option<Duration>,
}
