//! The checked sections: what the rest of the gateway is built from, one struct per table of the file.
//!
//! Nothing here needs checking again; whoever is built from a section relies on the bounds written beside its fields.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

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

/// `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The NAME of the table.
    pub name: String,
    /// `address`, `members` or `srv`. Required.
    pub deployment: Deployment,
    /// Name lookup, TCP, TLS and proof of one connection together. Default: 5 s; 100 ms to 5 min.
    pub connect_timeout: Duration,
    /// Idle time before the first keepalive probe towards mongod. `None` is off. Default: 2 min; 1 s to 9 h.
    pub tcp_keepalive: Option<Duration>,
    /// Spare connections kept ready, for each member and credential; 0 is off. Default: 2; at most 1,000.
    pub warm_connections: usize,
    /// As many as that when many clients come. Default: 16, or `warm_connections` where that is more; at most 1,000 and
    /// never below `warm_connections`.
    pub warm_connections_max: usize,
    /// By when connections made with replaced certificates are gone. Default: 10 min; 1 s to 24 h.
    pub certificate_recycle_after: Duration,
    /// `[upstream.NAME.tls]`.
    pub tls: UpstreamTlsConfig,
    /// `[upstream.NAME.authentication]`; `None` where clients authenticate themselves.
    pub authentication: Option<Mechanism>,
    /// `[[upstream.NAME.credential]]`, in the order of the file.
    pub credentials: Vec<CredentialConfig>,
}

/// What an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployment {
    /// `address`: one mongod or mongos.
    Single(HostPort),
    /// `members` or `srv`: a replica set.
    ReplicaSet {
        /// Where its members are looked for first.
        seeds: Seeds,
        /// `replica_set`; `None` where the TXT record of `srv` may say it.
        name: Option<String>,
    },
    /// `sharded = true`: the mongos of a sharded cluster.
    Sharded {
        /// All of them.
        seeds: Seeds,
    },
}

/// The servers that an upstream is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seeds {
    /// `members`; not empty, no two alike.
    Members(Vec<HostPort>),
    /// `srv`: the DNS name whose SRV and TXT records tell them.
    Srv(String),
}

impl Deployment {
    /// Whether there can be several servers.
    pub fn has_members(&self) -> bool {
        !matches!(self, Self::Single(_))
    }

    /// The name whose records tell its servers, where they are not named here.
    pub fn srv(&self) -> Option<&str> {
        match self {
            Self::ReplicaSet { seeds: Seeds::Srv(name), .. } | Self::Sharded { seeds: Seeds::Srv(name) } => Some(name),
            _ => None,
        }
    }

    /// The servers that the configuration names; none with `srv`.
    pub fn listed(&self) -> &[HostPort] {
        match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::ReplicaSet { seeds: Seeds::Members(members), .. }
            | Self::Sharded { seeds: Seeds::Members(members) } => members,
            Self::ReplicaSet { .. } | Self::Sharded { .. } => &[],
        }
    }
}

/// `mechanism`: how the gateway authenticates the connections that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// With the certificate that a connection was made with.
    MongodbX509,
}

/// One `[[upstream.NAME.credential]]`: a certificate for some callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialConfig {
    /// For whom: exact, or with a `*` at one end; not empty.
    pub principals: Vec<String>,
    /// Its certificate and key, and the authorities of `[upstream.NAME.tls]`.
    pub files: TlsFiles,
}

impl UpstreamConfig {
    /// One of its servers, for what is the same with all of them; a stand-in where they are named in DNS.
    pub fn any_address(&self) -> HostPort {
        let stand_in = || HostPort { host: "localhost".to_owned(), port: 1 };
        self.deployment.listed().first().cloned().unwrap_or_else(stand_in)
    }

    /// How one server of it is reached with the certificate of `[upstream.NAME.tls]`.
    pub fn endpoint(&self, address: &HostPort) -> EndpointConfig {
        EndpointConfig {
            name: self.name.clone(),
            certificate_section: format!("upstream.{}.tls", self.name),
            address: address.clone(),
            connect_timeout: self.connect_timeout,
            tcp_keepalive: self.tcp_keepalive,
            tls: self.tls.clone(),
            authentication: self.authentication,
        }
    }

    /// The same with the certificate of the credential that stands at `index` in the file.
    pub fn endpoint_with(&self, index: usize, credential: &CredentialConfig, address: &HostPort) -> EndpointConfig {
        let endpoint = self.endpoint(address);
        let certificate_section = format!("upstream.{}.credential[{index}]", self.name);
        let tls = UpstreamTlsConfig { source: MaterialSource::Files(credential.files.clone()), ..endpoint.tls };
        EndpointConfig { certificate_section, tls, ..endpoint }
    }
}

/// One mongod or mongos of an upstream, and how it is reached with one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Name of the upstream.
    pub name: String,
    /// The table that names our certificate, for sentences.
    pub certificate_section: String,
    /// Where the server is.
    pub address: HostPort,
    /// As [`UpstreamConfig::connect_timeout`].
    pub connect_timeout: Duration,
    /// As [`UpstreamConfig::tcp_keepalive`].
    pub tcp_keepalive: Option<Duration>,
    /// As [`UpstreamConfig::tls`], with the certificate in question.
    pub tls: UpstreamTlsConfig,
    /// As [`UpstreamConfig::authentication`].
    pub authentication: Option<Mechanism>,
}

/// `[upstream.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTlsConfig {
    /// Where our certificate and the authorities come from. Required.
    pub source: MaterialSource,
    /// SNI, and the name that is verified; a DNS name or an IP address. Default: the host of the address.
    pub server_name: Option<String>,
    /// Default: full.
    pub verify: Verify,
    /// URIs of which a server certificate must have one, instead of the name. Default: none.
    pub server_identities: Vec<String>,
    /// Whether server certificates of X.509 version 1, and those with a common name only, are taken. Default: false.
    pub legacy_certificates: bool,
    /// Default: 1.2.
    pub min_version: TlsVersion,
}

impl UpstreamTlsConfig {
    /// The files of our certificate, unless it comes from elsewhere.
    pub fn files(&self) -> Option<&TlsFiles> {
        match &self.source {
            MaterialSource::Files(files) => Some(files),
            MaterialSource::WorkloadApi(_) => None,
        }
    }
}

/// Where certificates and keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterialSource {
    /// PEM files.
    Files(TlsFiles),
    /// The SPIFFE Workload API: `spiffe_socket`.
    WorkloadApi(WorkloadApi),
}

/// The PEM files of one side of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then its chain; may also hold the key. Required.
    pub certificate_file: PathBuf,
    /// The key. Default: `certificate_file`.
    pub private_key_file: PathBuf,
    /// What the key is encrypted with, where it is.
    pub private_key_password_file: Option<PathBuf>,
    /// The authorities that the other side's certificate may come from. Required.
    pub ca_file: PathBuf,
    /// Revocation lists of these authorities.
    pub crl_file: Option<PathBuf>,
}

/// An agent that hands out certificates, as SPIRE's does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// Its unix socket.
    pub socket: PathBuf,
    /// The authorities that mongod's certificate may come from. Default: those that the agent names.
    pub ca_file: Option<PathBuf>,
    /// Revocation lists of the authorities.
    pub crl_file: Option<PathBuf>,
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

/// `mode`: what a listener takes, as in a mesh's `PeerAuthentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Clients without TLS.
    Plaintext,
    /// Clients with mutual TLS, and clients without TLS.
    Permissive,
    /// Clients with mutual TLS.
    Strict,
}

impl Mode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }
}

/// `proxy_protocol`: whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does.
    Off,
    /// Those of trusted sources may.
    Optional,
    /// All do, and come from trusted sources.
    Required,
}

/// `[listener.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTlsConfig {
    /// What clients are shown, and the authorities that their certificates may come from.
    pub files: TlsFiles,
    /// Default: 1.2.
    pub min_version: TlsVersion,
    /// Whether client certificates of X.509 version 1 are taken. Default: false.
    pub legacy_certificates: bool,
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
    /// Default: plaintext.
    pub mode: Mode,
    /// `[listener.NAME.tls]`; there unless the mode is plaintext.
    pub tls: Option<ListenerTlsConfig>,
    /// Who a client of this listener is, where nothing better says so.
    pub principal: Option<String>,
    /// Default: off.
    pub proxy_protocol: ProxyProtocol,
    /// Sources that may send a PROXY header; not empty unless `proxy_protocol` is off or the address a unix socket, whose
    /// file's mode decides.
    pub proxy_trusted: Vec<IpNet>,
    /// Type of the TLV that holds a client's SPIFFE id, beside 0xD0.
    pub proxy_identity_tlv: Option<u8>,
    /// Connections at one time; the one above gets an error. Default: 10,000; 1 to 1,000,000.
    pub max_connections: usize,
    /// Needed for an address other than loopback, unless the mode is strict. Default: false.
    pub allow_remote_plaintext: bool,
    /// Mode of a unix socket's file, written `"0660"`. Default: 0700, as mongod's `filePermissions`; at most 0777.
    pub socket_permissions: u32,
    /// Close a connection on which nothing moved for so long. Default: off; 1 s to 30 days.
    pub idle_timeout: Option<Duration>,
    /// Close a connection that is so old, when no command is in flight. Default: off; 1 s to 30 days.
    pub max_lifetime: Option<Duration>,
    /// Idle time before the first keepalive probe towards a client; `None` is off. Default: 2 min; 1 s to 9 h.
    pub tcp_keepalive: Option<Duration>,
    /// How its clients see the upstream. Default: members where the upstream has members, else direct.
    pub topology: Topology,
    /// Takes connections that the kernel redirected to it, each for the member that it was on its way to; then the address
    /// is TCP, the mode plaintext and the topology direct. Default: false.
    pub intercept: bool,
}

/// `topology`: how the clients of a listener see the servers of its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// As they are; the listener leads to one server.
    Direct,
    /// Each member has an address of the gateway's.
    Members(MemberAddresses),
    /// As one server, which a load balancer is in front of.
    LoadBalanced(ReadPreference),
}

/// The addresses of the gateway that stand for members, of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddresses {
    /// In order; the first is the listener's own, and no two are alike. Ports 0 take free ones.
    pub slots: Vec<MemberAddress>,
    /// `advertise`: the host that clients are told. `None`: that of each address.
    pub advertise: Option<String>,
}

impl MemberAddresses {
    /// What clients are told of one of them, as `host:port`.
    pub fn advertised(&self, address: SocketAddr) -> String {
        match &self.advertise {
            Some(host) => HostPort { host: host.clone(), port: address.port() }.to_string(),
            None => address.to_string(),
        }
    }
}

/// One of these addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Where clients connect.
    pub address: SocketAddr,
    /// The only member that it may stand for; `None`: whoever comes next.
    pub member: Option<HostPort>,
}

/// `read_preference`: which member connections of a load-balanced listener are put on, as MongoDB names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPreference {
    /// The primary.
    Primary,
    /// The primary, or a secondary where there is none.
    PrimaryPreferred,
    /// A secondary.
    Secondary,
    /// A secondary, or the primary where there is none.
    SecondaryPreferred,
    /// Any of them.
    Nearest,
}

/// `[policy]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Default: enforce.
    pub enforcement: Enforcement,
    /// Whether commands that run JavaScript on the server are refused. Default: false.
    pub deny_javascript: bool,
    /// Commands, and stages with `$` in front, that the gateway's tables lack, with the class of each. Which classes there
    /// are is for the policy to say. Default: none.
    pub known_commands: BTreeMap<String, String>,
    /// In the order of the file; their names differ.
    pub rules: Vec<RuleConfig>,
}

/// `policy.enforcement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// What is refused does not go upstream.
    Enforce,
    /// Everything goes upstream; what would be refused is counted and logged.
    DryRun,
}

/// One `[[policy.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleConfig {
    /// Of letters, digits, `-`, `_` and `.`; at most 128 bytes. Required.
    pub name: String,
    /// Required.
    pub action: Action,
    /// Only counts and logs what it would refuse. Default: false.
    pub dry_run: bool,
    /// Who; any entry suffices. `None` is everybody, an empty list nobody.
    pub from: Option<Vec<FromConfig>>,
    /// What; any entry suffices. `None` is everything, an empty list nothing.
    pub to: Option<Vec<ToConfig>>,
}

/// `action` of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Refuses what it matches.
    Deny,
    /// Lets pass what it matches, and makes every command need such a rule.
    Allow,
    /// Counts and logs what it matches.
    Audit,
}

/// A key and its `not_`: values are exact, `prefix*`, `*suffix`, or `*`; `None` is an absent key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// One of them has to match.
    pub any: Option<Vec<String>>,
    /// None of them may match.
    pub not: Option<Vec<String>>,
}

/// One entry of `from`; all keys must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FromConfig {
    /// Who: a SPIFFE id without `spiffe://`, or a distinguished name.
    pub principals: Values,
    /// Kubernetes namespaces of SPIFFE ids.
    pub namespaces: Values,
    /// Networks that the client's address is in.
    pub sources: Option<Vec<IpNet>>,
    /// Networks that the client's address is not in.
    pub not_sources: Option<Vec<IpNet>>,
    /// Names of listeners.
    pub listeners: Values,
}

/// One entry of `to`; all keys must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToConfig {
    /// Names and `@classes`; whether they exist is for the policy to say, which knows the commands.
    pub commands: Values,
    /// Databases.
    pub databases: Values,
    /// Collections.
    pub collections: Values,
}
