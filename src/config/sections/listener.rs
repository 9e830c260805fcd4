//! The checked `[listener.NAME]` tables.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::tls::{TlsFiles, TlsVersion};
use super::tokens::ListenerAuthentication;
use crate::config::values::{HostPort, ListenAddress};

/// `[listener.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The NAME of the table.
    pub name: String,
    /// `address`: the address that clients connect to. With port 0, the kernel chooses a free port. The path of a unix
    /// domain socket has at most 107 bytes. Required.
    pub address: ListenAddress,
    /// `upstream`: name of an existing upstream. Required.
    pub upstream: String,
    /// `mode`. Default: `plaintext`.
    pub mode: ListenerMode,
    /// `[listener.NAME.tls]`. Required unless the mode is `plaintext`, and not allowed then.
    pub tls: Option<ListenerTlsConfig>,
    /// `principal`: the principal of clients that have no other. Default: none.
    pub principal: Option<String>,
    /// `authentication`: whether clients show who they are by tokens. Default: `none`.
    pub authentication: ListenerAuthentication,
    /// `proxy_protocol`. Default: `off`.
    pub proxy_protocol: ProxyProtocol,
    /// `proxy_trusted`: addresses of the proxies that may send a PROXY header. Required unless `proxy_protocol` is
    /// `off`, or the address is a unix domain socket, where the file mode restricts the proxies.
    pub proxy_trusted: Vec<IpNet>,
    /// `proxy_identity_tlv`: TLV type in a PROXY header with the client's SPIFFE ID, in addition to 0xD0. 224 to 247
    /// (0xE0 to 0xF7); default: none.
    pub proxy_identity_tlv: Option<u8>,
    /// `max_connections`: the connection limit. Further clients get an error. 1 to 1,000,000; default: 10,000.
    pub max_connections: usize,
    /// `allow_remote_plaintext`: required for an address other than loopback, unless the mode is `strict`. Default:
    /// `false`.
    pub allow_remote_plaintext: bool,
    /// `socket_permissions`: file mode of a unix domain socket, as an octal string. `"0000"` to `"0777"`; default:
    /// `"0700"`, like `filePermissions` of mongod.
    pub socket_permissions: u32,
    /// `reuse_port`: another process of the same user may listen on the address too, and takes over its new clients.
    /// Default: `false`.
    pub reuse_port: bool,
    /// `idle_timeout`: closes a connection when no bytes have moved for this duration. 1 s to 30 days, or `off`
    /// (`None`); default: `off`.
    pub idle_timeout: Option<Duration>,
    /// `max_lifetime`: closes a connection at this age, once no command is in flight. 1 s to 30 days, or `off`
    /// (`None`); default: `off`.
    pub max_lifetime: Option<Duration>,
    /// `half_close_timeout`: closes a connection this long after the client has closed its side, even if a command is
    /// in flight. 1 s to 1 day, or `off` (`None`); default: 30 s.
    pub half_close_timeout: Option<Duration>,
    /// `tcp_keepalive`: idle time before the first keepalive probe to a client. 1 s to 9 h, or `off` (`None`); default:
    /// 2 min.
    pub tcp_keepalive: Option<Duration>,
    /// `topology`, with `member_ports`, `member_addresses`, `advertise` and `read_preference`. Default: `members` if
    /// the upstream has members, else `direct`.
    pub topology: Topology,
    /// `intercept`: accepts connections that the kernel redirects, and forwards each to the member that is its original
    /// destination (`SO_ORIGINAL_DST`). The address is then TCP, the mode `plaintext` and the topology `direct`.
    /// Default: `false`.
    pub intercept: bool,
}

/// `mode`: which clients a listener accepts, named as in Istio's `PeerAuthentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerMode {
    /// `plaintext`: clients without TLS.
    Plaintext,
    /// `permissive`: clients with mutual TLS and clients without TLS.
    Permissive,
    /// `strict`: clients with mutual TLS only.
    Strict,
}

impl ListenerMode {
    /// The value in the configuration.
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
    /// `off`: a PROXY header is an error.
    Off,
    /// `optional`: connections from trusted proxies may begin with one.
    Optional,
    /// `required`: every connection must come from a trusted proxy and begin with one.
    Required,
}

/// `[listener.NAME.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTlsConfig {
    /// `certificate_file`, ...: the listener's server certificate, and the CA certificates that verify client
    /// certificates.
    pub files: TlsFiles,
    /// `min_version`. Default: `1.2`.
    pub min_version: TlsVersion,
    /// `legacy_certificates`: whether client certificates of X.509 version 1 are accepted. Default: `false`.
    pub legacy_certificates: bool,
    /// `close_expired_clients`: whether the connection of a client whose certificate expires is closed once it is idle.
    /// Default: `true`.
    pub close_expired_clients: bool,
}

impl ListenerConfig {
    /// The addresses that the listener binds: those of its members, in their configured order, or its own.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        match &self.topology {
            Topology::Members(members) => members.slots.iter().map(|slot| ListenAddress::Tcp(slot.address)).collect(),
            Topology::Direct | Topology::LoadBalanced(_) => vec![self.address.clone()],
        }
    }
}

/// `topology`: how clients see the servers of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// `direct`: clients see the replies of one server unchanged.
    Direct,
    /// `members`: each member has its own address of the gateway.
    Members(MemberAddresses),
    /// `load_balanced`: clients see one server behind a load balancer, chosen by `read_preference`.
    LoadBalanced(ReadPreference),
}

/// `member_ports` or `member_addresses`, and `advertise`: the addresses of a listener that stand for members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddresses {
    /// The addresses in order, without duplicates. The first is the listener's own. With port 0, the kernel chooses a
    /// free port for each.
    pub slots: Vec<MemberAddress>,
    /// `advertise`: the host that clients receive for all members. Default (`None`): the IP address of each slot.
    pub advertise: Option<String>,
}

impl MemberAddresses {
    /// The `host:port` that clients receive for `address`.
    pub fn advertised(&self, address: SocketAddr) -> String {
        match &self.advertise {
            Some(host) => HostPort { host: host.clone(), port: address.port() }.to_string(),
            None => address.to_string(),
        }
    }
}

/// One address of a listener that stands for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// The address that clients connect to.
    pub address: SocketAddr,
    /// The only member that may have the address (`member_addresses`); `None` allows any member (`member_ports`).
    pub member: Option<HostPort>,
}

/// `read_preference`: the member that a load-balanced listener chooses for a connection, named as in MongoDB. Default:
/// `primary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPreference {
    /// `primary`: the primary.
    Primary,
    /// `primaryPreferred`: the primary, or a secondary if there is no primary.
    PrimaryPreferred,
    /// `secondary`: a secondary.
    Secondary,
    /// `secondaryPreferred`: a secondary, or the primary if there is no secondary.
    SecondaryPreferred,
    /// `nearest`: the primary or a secondary.
    Nearest,
}
