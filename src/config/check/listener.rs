//! `[listener.NAME]`: where clients come from, and what they must show.

use std::path::Path;

use ipnet::IpNet;

use super::claimed_addresses::ClaimedAddresses;
use super::identity_readers;
use super::readers;
use super::topology;
use super::upstream;
use crate::config::error::joined;
use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::schema::nearest;
use crate::config::section::Section;
use crate::config::sections::Deployment;
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
    taken: &mut ClaimedAddresses,
) -> Option<ListenerConfig> {
    const MODES: &[(&str, ListenerMode)] = &[
        ("plaintext", ListenerMode::Plaintext),
        ("permissive", ListenerMode::Permissive),
        ("strict", ListenerMode::Strict),
    ];
    let mode = section.or("mode", ListenerMode::Plaintext, |given| readers::choice(given, MODES));
    let allow_remote_plaintext = section.or("allow_remote_plaintext", false, readers::boolean);
    let address =
        section.required("address", "write where clients connect, as in address = \"127.0.0.1:27017\"", |given| {
            let address = readers::placed(readers::listen_address(given)?, directory)?;
            if mode != ListenerMode::Strict && !allow_remote_plaintext {
                check_reach(&address)?;
            }
            taken.claim(&joined(&joined("listener", &name), "address"), &address)?;
            Ok(address)
        });
    let names = upstreams.names;
    let example = quoted(names.first().map_or("orders", String::as_str));
    let what = format!("name the upstream that this listener leads to, as in upstream = {example}");
    let upstream = section.required("upstream", &what, |given| known_upstream(given, names));
    let deployment = upstream.as_deref().and_then(|name| upstreams.deployment(name));
    let intercept = section.or("intercept", false, |given| intercept(given, mode, address.as_ref()));
    let topology = if intercept {
        Some(topology::of_intercepted(&mut section))
    } else {
        topology::topology(&mut section, address.as_ref(), deployment, taken)
    };
    let principal = section.optional("principal", identity_readers::principal);
    let is_socket = matches!(address, Some(ListenAddress::Unix(_)));
    let proxy = proxy(&mut section, is_socket);
    let max_connections = section.or("max_connections", 10_000, |given| given.whole_number(1, 1_000_000));
    let socket_permissions = section.or("socket_permissions", 0o700, readers::permissions);
    let idle_timeout = section.or("idle_timeout", None, |given| readers::duration_or_off(given, readers::MONTH));
    let max_lifetime = section.or("max_lifetime", None, |given| readers::duration_or_off(given, readers::MONTH));
    let tcp_keepalive = readers::keepalive(&mut section);
    let tls = tls(&mut section, mode, directory);
    Some(ListenerConfig {
        name,
        address: address?,
        upstream: upstream?,
        mode,
        tls: tls?,
        principal,
        proxy_protocol: proxy.protocol,
        proxy_trusted: proxy.trusted,
        proxy_identity_tlv: proxy.identity_tlv,
        max_connections,
        allow_remote_plaintext,
        socket_permissions,
        idle_timeout,
        max_lifetime,
        tcp_keepalive,
        topology: topology?,
        intercept,
    })
}

/// A listener in plaintext never carries the TLS of the gateway's own connections, so that these cannot go in a circle
/// where they are redirected too.
fn intercept(given: &Given<'_>, mode: ListenerMode, address: Option<&ListenAddress>) -> Result<bool, String> {
    let intercept = readers::boolean(given)?;
    let sentence = match address {
        _ if !intercept => return Ok(false),
        _ if !cfg!(target_os = "linux") => {
            "needs Linux, whose kernel says where a redirected connection was on its way to"
        }
        Some(ListenAddress::Unix(_)) => {
            "needs an IP address and port in address; the kernel redirects connections to those only"
        }
        _ if mode != ListenerMode::Plaintext => {
            "needs mode = \"plaintext\"; clients with TLS of their own need no interception"
        }
        _ => return Ok(true),
    };
    Err(sentence.to_owned())
}

/// The upstreams that a listener may lead to.
pub(super) struct KnownUpstreams<'a> {
    /// Of all.
    pub(super) names: &'a [String],
    /// Those without a problem.
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
            "name the proxies that may say who their clients are, as in proxy_trusted = [\"127.0.0.0/8\"]",
        );
    }
    ProxySettings { protocol, trusted, identity_tlv: section.optional("proxy_identity_tlv", identity_readers::tlv) }
}

/// The outer `None` is a problem; the inner one is a listener without TLS.
#[expect(clippy::option_option, reason = "a section's value and its problem, as everywhere here")]
fn tls(section: &mut Section<'_>, mode: ListenerMode, directory: &Path) -> Option<Option<ListenerTlsConfig>> {
    if mode == ListenerMode::Plaintext {
        section.misplaced(
            "tls",
            "is not used in mode = \"plaintext\"; set the mode \"permissive\" or \"strict\", or remove it",
        );
        return Some(None);
    }
    let mut section = section.table("tls");
    let files = upstream::files(&mut section, directory, &upstream::LISTENER);
    let legacy_certificates = upstream::legacy_certificates(&mut section);
    let min_version = upstream::min_version(&mut section);
    Some(Some(ListenerTlsConfig { files: files?, min_version, legacy_certificates }))
}

fn check_reach(address: &ListenAddress) -> Result<(), String> {
    if address.is_local() {
        return Ok(());
    }
    Err("would take unencrypted MongoDB traffic from other machines; use a loopback address such as \"127.0.0.1:27017\", or \
         set allow_remote_plaintext = true in this table if the network in between is protected otherwise"
        .to_owned())
}

fn known_upstream(given: &Given<'_>, upstreams: &[String]) -> Result<String, String> {
    let name = given.text("the NAME of an [upstream.NAME] table")?;
    if upstreams.iter().any(|upstream| upstream == name) {
        return Ok(name.to_owned());
    }
    Err(match nearest(name, upstreams.iter().map(String::as_str)) {
        Some(near) => format!("names no upstream; did you mean {}?", quoted(near)),
        None if upstreams.is_empty() => "names no upstream, as there is none".to_owned(),
        None => {
            let names: Vec<String> = upstreams.iter().map(|name| quoted(name)).collect();
            format!("names no upstream; there are {}", names.join(", "))
        }
    })
}
