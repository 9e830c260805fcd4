//! `[listener.NAME]`.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::tls::{TlsFiles, TlsVersion};
use crate::config::values::{HostPort, ListenAddress};

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
    pub mode: ListenerMode,
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
    /// ListenerMode of a unix socket's file, written `"0660"`. Default: 0700, as mongod's `filePermissions`; at most 0777.
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

/// `mode`: what a listener takes, as in a mesh's `PeerAuthentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerMode {
    /// Clients without TLS.
    Plaintext,
    /// Clients with mutual TLS, and clients without TLS.
    Permissive,
    /// Clients with mutual TLS.
    Strict,
}

impl ListenerMode {
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
