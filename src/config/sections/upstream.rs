//! `[upstream.NAME]`.

use std::time::Duration;

use super::tls::{MaterialSource, TlsFiles, UpstreamTlsConfig};
use crate::config::values::HostPort;

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
