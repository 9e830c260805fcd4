//! Checks `[listener.NAME]`.

use std::path::Path;

use ipnet::IpNet;

use super::claimed_addresses::ClaimedAddresses;
use super::identity_readers;
use super::readers;
use super::token_issuer;
use super::topology;
use super::upstream;
use crate::config::error::joined;
use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::schema::nearest;
use crate::config::section::Section;
use crate::config::sections::Deployment;
use crate::config::sections::ListenerAuthentication;
use crate::config::sections::ListenerConfig;
use crate::config::sections::ListenerMode;
use crate::config::sections::ListenerTlsConfig;
use crate::config::sections::ProxyProtocol;
use crate::config::sections::UpstreamConfig;
use crate::config::values::ListenAddress;

pub(super) fn listener(
    name: String,
    mut section: Section<'_>,
    upstreams: &KnownUpstreams<'_>,
    directory: &Path,
    claimed: &mut ClaimedAddresses,
) -> Option<ListenerConfig> {
    const MODES: &[(&str, ListenerMode)] = &[
        ("plaintext", ListenerMode::Plaintext),
        ("permissive", ListenerMode::Permissive),
        ("strict", ListenerMode::Strict),
    ];
    let mode = section.or("mode", ListenerMode::Plaintext, |given| readers::choice(given, MODES));
    let allow_remote_plaintext = section.or("allow_remote_plaintext", false, readers::boolean);
    let address = section.required(
        "address",
        "set the address that clients connect to, as in address = \"127.0.0.1:27017\"",
        |given| {
            let address = readers::resolved(readers::listen_address(given)?, directory)?;
            if mode != ListenerMode::Strict && !allow_remote_plaintext {
                require_local(&address)?;
            }
            claimed.claim(&joined(&joined("listener", &name), "address"), &address)?;
            Ok(address)
        },
    );
    let names = upstreams.names;
    let example = quoted(names.first().map_or("orders", String::as_str));
    let what = format!("set the upstream of this listener, as in upstream = {example}");
    let upstream = section.required("upstream", &what, |given| known_upstream(given, names));
    let deployment = upstream.as_deref().and_then(|name| upstreams.deployment(name));
    let intercept = section.or("intercept", false, |given| intercept(given, mode, address.as_ref()));
    let topology = if intercept {
        Some(topology::of_intercepted(&mut section))
    } else {
        topology::topology(&mut section, address.as_ref(), deployment, claimed)
    };
    let principal = section.optional("principal", identity_readers::principal);
    let authentication = section.or("authentication", ListenerAuthentication::None, token_issuer::authentication);
    let is_socket = matches!(address, Some(ListenAddress::Unix(_)));
    let proxy = proxy(&mut section, is_socket);
    let max_connections = section.or("max_connections", 10_000, |given| given.whole_number(1, 1_000_000));
    let socket_permissions = section.or("socket_permissions", 0o700, readers::permissions);
    let reuse_port = section.or("reuse_port", false, readers::boolean);
    let idle_timeout = section.or("idle_timeout", None, |given| readers::duration_or_off(given, readers::MONTH));
    let max_lifetime = section.or("max_lifetime", None, |given| readers::duration_or_off(given, readers::MONTH));
    let half_close_timeout = section.or("half_close_timeout", Some(readers::MINUTE / 2), |given| {
        readers::duration_or_off(given, 24 * readers::HOUR)
    });
    let tcp_keepalive = readers::keepalive(&mut section);
    let tls = tls(&mut section, mode, directory);
    Some(ListenerConfig {
        name,
        address: address?,
        upstream: upstream?,
        mode,
        tls: tls?,
        principal,
        authentication,
        proxy_protocol: proxy.protocol,
        proxy_trusted: proxy.trusted,
        proxy_identity_tlv: proxy.identity_tlv,
        max_connections,
        allow_remote_plaintext,
        socket_permissions,
        reuse_port,
        idle_timeout,
        max_lifetime,
        half_close_timeout,
        tcp_keepalive,
        topology: topology?,
        intercept,
    })
}

/// Interception requires plaintext: if the kernel redirects the gateway's own TLS connections too, a plaintext listener
/// rejects them, and they do not loop.
fn intercept(given: &Given<'_>, mode: ListenerMode, address: Option<&ListenAddress>) -> Result<bool, String> {
    let intercept = readers::boolean(given)?;
    let sentence = match address {
        _ if !intercept => return Ok(false),
        _ if !cfg!(target_os = "linux") => {
            "requires Linux, whose kernel has the original destination of a redirected connection; remove intercept"
        }
        Some(ListenAddress::Unix(_)) => {
            "requires an IP address and port in address, because the kernel redirects connections to TCP ports only"
        }
        _ if mode != ListenerMode::Plaintext => {
            "requires mode = \"plaintext\"; intercepted connections with TLS are not supported"
        }
        _ => return Ok(true),
    };
    Err(sentence.to_owned())
}

/// The upstreams of the configuration.
pub(super) struct KnownUpstreams<'a> {
    /// Names of all upstreams, also of those with problems.
    pub(super) names: &'a [String],
    /// The upstreams; `None` for one with problems.
    pub(super) read: &'a [Option<UpstreamConfig>],
}

impl KnownUpstreams<'_> {
    fn deployment(&self, name: &str) -> Option<&Deployment> {
        self.read.iter().flatten().find(|upstream| upstream.name == name).map(|upstream| &upstream.deployment)
    }
}

struct ProxySettings {
    protocol: ProxyProtocol,
    trusted: Vec<IpNet>,
    identity_tlv: Option<u8>,
}

fn proxy(section: &mut Section<'_>, is_socket: bool) -> ProxySettings {
    const CHOICES: &[(&str, ProxyProtocol)] =
        &[("off", ProxyProtocol::Off), ("optional", ProxyProtocol::Optional), ("required", ProxyProtocol::Required)];
    let protocol = section.or("proxy_protocol", ProxyProtocol::Off, |given| readers::choice(given, CHOICES));
    let given = section.has("proxy_trusted");
    let trusted = section.or("proxy_trusted", Vec::new(), identity_readers::networks);
    if protocol != ProxyProtocol::Off && !given && !is_socket {
        section.missing(
            "proxy_trusted",
            "set the addresses of the proxies that may send a PROXY header, as in proxy_trusted = [\"127.0.0.0/8\"]",
        );
    }
    ProxySettings { protocol, trusted, identity_tlv: section.optional("proxy_identity_tlv", identity_readers::tlv) }
}

/// The outer `None` means that there is a problem; the inner `None` is a listener without TLS.
#[expect(clippy::option_option, reason = "the outer option is a problem, as in all functions here")]
fn tls(section: &mut Section<'_>, mode: ListenerMode, directory: &Path) -> Option<Option<ListenerTlsConfig>> {
    if mode == ListenerMode::Plaintext {
        section.misplaced(
            "tls",
            "is not used with mode = \"plaintext\"; set mode = \"permissive\" or \"strict\", or remove this table",
        );
        return Some(None);
    }
    let mut section = section.table("tls");
    let files = upstream::files(&mut section, directory, &upstream::LISTENER);
    let legacy_certificates = upstream::legacy_certificates(&mut section);
    let min_version = upstream::min_version(&mut section);
    let close_expired_clients = section.or("close_expired_clients", true, readers::boolean);
    Some(Some(ListenerTlsConfig { files: files?, min_version, legacy_certificates, close_expired_clients }))
}

fn require_local(address: &ListenAddress) -> Result<(), String> {
    if address.is_local() {
        return Ok(());
    }
    Err("would accept unencrypted MongoDB traffic from other machines; use a loopback address such as \
         \"127.0.0.1:27017\", \
         or set allow_remote_plaintext = true in this table if the network is protected by other means"
        .to_owned())
}

fn known_upstream(given: &Given<'_>, upstreams: &[String]) -> Result<String, String> {
    let name = given.text("the NAME of an [upstream.NAME] table")?;
    if upstreams.iter().any(|upstream| upstream == name) {
        return Ok(name.to_owned());
    }
    Err(match nearest(name, upstreams.iter().map(String::as_str)) {
        Some(near) => format!("is not the name of an upstream; did you mean {}?", quoted(near)),
        None if upstreams.is_empty() => "is not the name of an upstream; there is no upstream".to_owned(),
        None => {
            let names: Vec<String> = upstreams.iter().map(|name| quoted(name)).collect();
            format!("is not the name of an upstream; choose one of {}", names.join(", "))
        }
    })
}
