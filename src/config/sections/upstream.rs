//! The checked `[upstream.NAME]` tables.

use std::time::Duration;

use super::tls::{MaterialSource, TlsFiles, UpstreamTlsConfig};
use crate::config::values::HostPort;

/// `[upstream.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The NAME of the table.
    pub name: String,
    /// `address`, `members` or `srv`, with `replica_set` and `sharded`. Required.
    pub deployment: Deployment,
    /// `connect_timeout`: limit for DNS, TCP, TLS and the first command of one connection together. 100 ms to 5 min;
    /// default: 5 s.
    pub connect_timeout: Duration,
    /// `tcp_keepalive`: idle time before the first keepalive probe to the server. 1 s to 9 h, or `off` (`None`);
    /// default: 2 min.
    pub tcp_keepalive: Option<Duration>,
    /// `send_proxy`: `v2` sends a PROXY header before TLS on each connection. Default: `off`.
    pub send_proxy: SendProxy,
    /// `warm_connections`: spare connections that are kept ready for each member and credential. 0 (off) to 1,000;
    /// default: 2, or 0 with `send_proxy`, because the client of a spare connection is not known yet.
    pub warm_connections: usize,
    /// `warm_connections_max`: limit of spare connections when many clients connect. `warm_connections` to 1,000;
    /// default: 16, or `warm_connections` if that is more.
    pub warm_connections_max: usize,
    /// `[upstream.NAME.pool]`.
    pub pool: PoolConfig,
    /// `certificate_recycle_after`: after a reload, time by which connections with the old certificate are replaced or
    /// closed. 1 s to 24 h; default: 10 min.
    pub certificate_recycle_after: Duration,
    /// `[upstream.NAME.tls]`.
    pub tls: UpstreamTlsConfig,
    /// `[upstream.NAME.authentication]`. Default (`None`): clients authenticate themselves.
    pub authentication: Option<Mechanism>,
    /// `[[upstream.NAME.credential]]`, in the order of the file. Default: none.
    pub credentials: Vec<CredentialConfig>,
}

/// The servers of an upstream and their kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deployment {
    /// `address`: one mongod or mongos.
    Single(HostPort),
    /// `members` or `srv`: a replica set.
    ReplicaSet {
        /// The seed list.
        seeds: Seeds,
        /// `replica_set`. Required with `members`. `None` with `srv`: the name comes from the TXT record or the
        /// members.
        name: Option<String>,
    },
    /// `sharded = true`: the mongos of a sharded cluster.
    Sharded {
        /// All mongos.
        seeds: Seeds,
    },
}

/// The seed list of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seeds {
    /// `members`: at least one server, without duplicates.
    Members(Vec<HostPort>),
    /// `srv`: the DNS name whose SRV and TXT records have the servers.
    Srv(String),
}

impl Deployment {
    /// Whether the upstream can have several servers.
    pub fn has_members(&self) -> bool {
        !matches!(self, Self::Single(_))
    }

    /// The DNS name for SRV records, if the seed list comes from DNS.
    pub fn srv(&self) -> Option<&str> {
        match self {
            Self::ReplicaSet { seeds: Seeds::Srv(name), .. } | Self::Sharded { seeds: Seeds::Srv(name) } => Some(name),
            _ => None,
        }
    }

    /// The servers in the configuration; none with `srv`.
    pub fn listed(&self) -> &[HostPort] {
        match self {
            Self::Single(address) => std::slice::from_ref(address),
            Self::ReplicaSet { seeds: Seeds::Members(members), .. }
            | Self::Sharded { seeds: Seeds::Members(members) } => members,
            Self::ReplicaSet { .. } | Self::Sharded { .. } => &[],
        }
    }
}

/// `send_proxy`: whether the server receives the address of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendProxy {
    /// `off`: the server sees the gateway's address.
    Off,
    /// `v2`: a header of the PROXY protocol, version 2.
    V2,
}

/// `[upstream.NAME.pool]`: upstream connections that several clients use one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// `mode`: when a connection may serve another client. Default: `session`, or `off` with `send_proxy`.
    pub mode: PoolMode,
    /// `max_connections`: limit of connections for each member and credential. 1 to 100,000, which is the default; in
    /// the mode `request` 100.
    pub max_connections: usize,
    /// `idle_timeout`: how long a connection without a client stays open; in the mode `request` also how long an idle
    /// client keeps its connection. 1 s to 24 h; default: 5 min.
    pub idle_timeout: Duration,
    /// `wait_timeout`: how long a client waits for a connection while all of them are in use. 100 ms to 5 min;
    /// default: 10 s.
    pub wait_timeout: Duration,
}

/// `mode` of a pool: when an upstream connection may serve another client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// `off`: never. Each client has an upstream connection of its own.
    Off,
    /// `session`: when its client has left.
    Session,
    /// `request`: between two requests of its client.
    Request,
}

impl PoolMode {
    /// The value of the key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Session => "session",
            Self::Request => "request",
        }
    }
}

/// `mechanism`: how the gateway authenticates its connections to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// `MONGODB-X509`: with the gateway's client certificate of the connection.
    MongodbX509,
}

/// One `[[upstream.NAME.credential]]`: a client certificate that the gateway uses for certain callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialConfig {
    /// `principals`: the callers, exact or with a `*` at one end. Required, at least one.
    pub principals: Vec<String>,
    /// `certificate_file` (required), `private_key_file` (default: `certificate_file`) and `private_key_password_file`,
    /// with the CA certificates and CRLs of `[upstream.NAME.tls]`.
    pub files: TlsFiles,
}

impl UpstreamConfig {
    /// One of the servers, where only properties that are equal for all servers are needed. With `srv`, a placeholder.
    pub fn any_address(&self) -> HostPort {
        let placeholder = || HostPort { host: "localhost".to_owned(), port: 1 };
        self.deployment.listed().first().cloned().unwrap_or_else(placeholder)
    }

    /// How to connect to the server at `address` with the certificate of `[upstream.NAME.tls]`.
    pub fn endpoint(&self, address: &HostPort) -> EndpointConfig {
        EndpointConfig {
            name: self.name.clone(),
            certificate_section: format!("upstream.{}.tls", self.name),
            address: address.clone(),
            connect_timeout: self.connect_timeout,
            tcp_keepalive: self.tcp_keepalive,
            send_proxy: self.send_proxy,
            tls: self.tls.clone(),
            authentication: self.authentication,
        }
    }

    /// How to connect to the server at `address` with a credential. `index` is its number in the file, from 1.
    pub fn endpoint_with(&self, index: usize, credential: &CredentialConfig, address: &HostPort) -> EndpointConfig {
        let endpoint = self.endpoint(address);
        let certificate_section = format!("upstream.{}.credential[{index}]", self.name);
        let tls = UpstreamTlsConfig { source: MaterialSource::Files(credential.files.clone()), ..endpoint.tls };
        EndpointConfig { certificate_section, tls, ..endpoint }
    }
}

/// How to connect to one mongod or mongos of an upstream with one client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Name of the upstream.
    pub name: String,
    /// The table with the gateway's client certificate, for messages: `upstream.NAME.tls` or
    /// `upstream.NAME.credential[1]`.
    pub certificate_section: String,
    /// Address of the server.
    pub address: HostPort,
    /// See [`UpstreamConfig::connect_timeout`].
    pub connect_timeout: Duration,
    /// See [`UpstreamConfig::tcp_keepalive`].
    pub tcp_keepalive: Option<Duration>,
    /// See [`UpstreamConfig::send_proxy`].
    pub send_proxy: SendProxy,
    /// See [`UpstreamConfig::tls`]; with the files of the credential, if there is one.
    pub tls: UpstreamTlsConfig,
    /// See [`UpstreamConfig::authentication`].
    pub authentication: Option<Mechanism>,
}
