//! The checked sections of the configuration: one struct per table of the file.
//!
//! The rest of the gateway is built from these structs and relies on the ranges that their fields document.

mod listener;
mod policy;
mod tls;
mod tokens;
mod upstream;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use listener::{
    ListenerConfig, ListenerMode, ListenerTlsConfig, MemberAddress, MemberAddresses, ProxyProtocol, ReadPreference,
    Topology,
};
pub use policy::{Action, Enforcement, FromConfig, PolicyConfig, RuleConfig, ToConfig, Values};
pub use tls::{MaterialSource, Ocsp, TlsFiles, TlsVersion, UpstreamTlsConfig, Verify, WorkloadApi};
pub use tokens::{JwksUrl, KeySource, ListenerAuthentication, TokenIssuerConfig};
pub use upstream::{
    CredentialConfig, Deployment, EndpointConfig, Mechanism, PoolConfig, PoolMode, Seeds, SendProxy, UpstreamConfig,
};

/// The whole configuration. All paths are absolute.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `workers`: threads that serve connections, each with its own runtime. 1 to 1024; default: the number of CPU
    /// cores.
    pub workers: NonZeroUsize,
    /// `drain_timeout`: how long the drain waits for commands in flight before it closes their connections. 0 to 1 h;
    /// default: 30 s.
    pub drain_timeout: Duration,
    /// `max_held_bytes`: the memory for long commands that are held until the policy has judged them. 64 MiB to 1 TiB;
    /// by default it depends on the memory limit of the container.
    pub max_held_bytes: Option<u64>,
    /// `[admin]`: the administration port.
    pub admin: AdminConfig,
    /// `[control]`: the control socket.
    pub control: ControlConfig,
    /// `[shutdown]`: what happens between the signal and the drain.
    pub shutdown: ShutdownConfig,
    /// `[log]`: format and level of the log.
    pub log: LogConfig,
    /// `[metrics]`: optional labels of metrics.
    pub metrics: MetricsConfig,
    /// `trust_domain`: the gateway's trust domain, for example `cluster.local`. Default (`None`): the trust domain of
    /// the SPIFFE ID in the gateway's client certificate.
    pub trust_domain: Option<String>,
    /// `trust_domain_aliases`: further trust domains that are accepted. Default: none.
    pub trust_domain_aliases: Vec<String>,
    /// `[[identity]]`: principals of clients without a certificate, in the order of the file. Default: none.
    pub identities: Vec<IdentityConfig>,
    /// `[[token_issuer]]`: whose tokens are accepted, in the order of the file, each issuer once. Default: none.
    pub token_issuers: Vec<TokenIssuerConfig>,
    /// `[upstream.NAME]` by name. At least one.
    pub upstreams: BTreeMap<String, UpstreamConfig>,
    /// `[listener.NAME]` by name. At least one. Each refers to an existing upstream, and no two have the same address.
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// `[policy]`: which clients may run which commands. `None` if there is no rule and JavaScript is not denied: every
    /// command is allowed then.
    pub policy: Option<PolicyConfig>,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `address`: listen address of the administration port. With port 0, the kernel chooses a free port. Default:
    /// `127.0.0.1:9717`.
    pub address: SocketAddr,
}

impl AdminConfig {
    /// The default address of the administration port. `mongate healthcheck` uses it too.
    pub const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9717);
}

/// `[control]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlConfig {
    /// `socket`: absolute path of the unix domain socket of `mongate ctl`, at most 103 bytes. Default (`None`): none.
    pub socket: Option<PathBuf>,
}

/// `[shutdown]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShutdownConfig {
    /// `delay`: how long the gateway serves as before after the first signal, while `/readyz` says that it is not
    /// ready. 0 to 1 h; default: 0.
    pub delay: Duration,
    /// `wait_for_clients`: after `delay`, serves as before until no client is connected, for at most `drain_timeout`.
    /// Default: `false`.
    pub wait_for_clients: bool,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `format`. Default: `text`.
    pub format: LogFormat,
    /// `level`. Default: `info`.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `text`: one line per event, for people.
    Text,
    /// `json`: one JSON object per event, for programs.
    Json,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `error`: events that need an operator now.
    Error,
    /// `warn`: also events that will need an operator.
    Warn,
    /// `info`: also one line per connection.
    Info,
    /// `debug`: also one line per command (names, never values).
    Debug,
    /// `trace`: also the steps inside a connection.
    Trace,
}

impl LogLevel {
    /// Every level with its name, from the fewest log lines to the most.
    pub const ALL: &[(&str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// The level with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
    }

    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsConfig {
    /// `principals`: principals that have a label of their own, exact or with a `*` at one end. All others have the
    /// label `other`. Default: none, and the metrics have no label for principals.
    pub principals: Vec<String>,
}

/// One `[[identity]]`: the principal of clients without a certificate, or what a principal may do beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `principal`: a SPIFFE ID without `spiffe://`, or a distinguished name. Required.
    pub principal: String,
    /// `sources`: addresses and networks of the clients. This, `uids` or `may_forward` is required.
    pub sources: Vec<IpNet>,
    /// `uids`: user IDs of client processes on this machine that connect through a unix domain socket.
    pub uids: Vec<u32>,
    /// `may_forward`: whether clients with a certificate of this principal may show tokens of other principals: it is a
    /// gateway in front of this one. Default: `false`.
    pub may_forward: bool,
}
