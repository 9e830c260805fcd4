//! The checked sections: what the rest of the gateway is built from, one struct per table of the file.
//!
//! Nothing here needs checking again; whoever is built from a section relies on the bounds written beside its fields.

mod listener;
mod policy;
mod tls;
mod upstream;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;

pub use listener::{
    ListenerConfig, ListenerMode, ListenerTlsConfig, MemberAddress, MemberAddresses, ProxyProtocol, ReadPreference,
    Topology,
};
pub use policy::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig, Values};
pub use tls::{MaterialSource, TlsFiles, TlsVersion, UpstreamTlsConfig, Verify, WorkloadApi};
pub use upstream::{CredentialConfig, Deployment, EndpointConfig, Mechanism, Seeds, UpstreamConfig};

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
    /// What metrics show beyond their fixed labels.
    pub metrics: MetricsConfig,
    /// Our own trust domain, as `cluster.local`. `None`: that of the SPIFFE id in our upstream client certificate.
    pub trust_domain: Option<String>,
    /// Trust domains that count as our own.
    pub trust_domain_aliases: Vec<String>,
    /// Who sources are that show no certificate, in the order of the file.
    pub identities: Vec<IdentityConfig>,
    /// Upstreams by name; at least one, and every listener names one of them.
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// Listeners by name; at least one, no two with the same address.
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// Who may do what; `None` where no rule is given, and everything passes.
    pub policy: Option<PolicyConfig>,
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

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsConfig {
    /// Principals that metrics name, exact or with a `*` at one end; all others count as `other`. Default: none, and no
    /// such label.
    pub principals: Vec<String>,
}

/// One `[[identity]]`: who a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// A SPIFFE id without `spiffe://`, or a distinguished name.
    pub principal: String,
    /// Addresses that it is for; with `uids`, never both empty.
    pub sources: Vec<IpNet>,
    /// Users of this machine that it is for, when they connect through a unix socket.
    pub uids: Vec<u32>,
}
