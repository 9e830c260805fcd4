//! Converts the tables to the checked [`Config`]: defaults, ranges, and rules between sections.
//!
//! Opens no file and resolves no DNS name. Certificates are read later, where they are used.

mod claimed_addresses;
mod identity_readers;
mod listener;
pub(super) mod policy;
mod readers;
mod token_issuer;
mod topology;
mod upstream;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use self::claimed_addresses::ClaimedAddresses;
use self::policy::KnownPrincipals;
use super::section::Section;
use super::sections::AdminConfig;
use super::sections::Config;
use super::sections::ControlConfig;
use super::sections::IdentityConfig;
use super::sections::LogConfig;
use super::sections::LogFormat;
use super::sections::LogLevel;
use super::sections::MetricsConfig;
use super::sections::ShutdownConfig;
use super::sections::UpstreamConfig;
use super::values::ListenAddress;

/// More threads than any machine can use.
const WORKERS_MAX: usize = 1024;

/// Room for the largest message, and for the beginnings of others.
const HELD_BYTES_MIN: u64 = 64 << 20;
/// More memory than any gateway needs.
const HELD_BYTES_MAX: u64 = 1 << 40;

/// Checks the whole configuration. Relative paths are relative to `directory`.
///
/// If a problem is recorded, the result is `None`, or a configuration with defaults in place of invalid values.
pub(super) fn check(mut top: Section<'_>, directory: &Path) -> Option<Config> {
    const IDENTITY: &str = "must be tables that begin with a line [[identity]]; environment variables cannot set them";
    const ISSUER: &str =
        "must be tables that begin with a line [[token_issuer]]; environment variables cannot set them";
    let mut claimed = ClaimedAddresses::default();
    let workers = top.or("workers", cores(), |given| given.whole_number(1, WORKERS_MAX).map(at_least_one));
    let drain_timeout = top
        .or("drain_timeout", Duration::from_secs(30), |given| readers::duration(given, Duration::ZERO, readers::HOUR));
    let max_held_bytes = top.optional("max_held_bytes", |given| readers::size(given, HELD_BYTES_MIN, HELD_BYTES_MAX));
    let trust_domain = top.optional("trust_domain", identity_readers::trust_domain);
    let trust_domain_aliases = top.or("trust_domain_aliases", Vec::new(), identity_readers::trust_domains);
    let admin = admin(top.table("admin"), &mut claimed);
    let control = control(top.table("control"), directory, &mut claimed);
    let shutdown = shutdown(top.table("shutdown"));
    let log = log(top.table("log"));
    let metrics = metrics(top.table("metrics"));

    let upstreams = top.named_tables("upstream");
    let names: Vec<String> = upstreams.iter().map(|(name, _)| name.clone()).collect();
    let upstreams: Vec<_> =
        upstreams.into_iter().map(|(name, section)| upstream::upstream(name, section, directory)).collect();
    let listeners = top.named_tables("listener");
    let listener_names: Vec<String> = listeners.iter().map(|(name, _)| name.clone()).collect();
    let known = listener::KnownUpstreams { names: &names, read: &upstreams };
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|(name, section)| listener::listener(name, section, &known, directory, &mut claimed))
        .collect();
    for upstream in upstreams.iter().flatten() {
        refuse_loops(&top, upstream, &claimed);
    }
    let identities = top.repeated_tables("identity", IDENTITY).unwrap_or_default();
    let identities: Option<Vec<_>> = identities.into_iter().map(identity).collect();
    let issuers = top.repeated_tables("token_issuer", ISSUER).unwrap_or_default();
    let has_issuer = !issuers.is_empty();
    let issuers: Option<Vec<_>> = issuers
        .into_iter()
        .map(|section| token_issuer::token_issuer(section, trust_domain.as_deref(), directory))
        .collect();
    token_issuer::refuse_twins(&top, issuers.as_deref().unwrap_or_default());
    for listener in listeners.iter().flatten() {
        token_issuer::check_listener(&top, listener, has_issuer);
    }
    let whole: Option<Vec<_>> = listeners.iter().map(Option::as_ref).collect();
    // The principals of a listener that has problems are not known.
    let known = whole.zip(identities.as_deref()).map(|(listeners, known)| KnownPrincipals::of(listeners, known));
    let context = policy::PolicyContext {
        listeners: &listener_names,
        principals: known.is_none_or(|known| known != KnownPrincipals::Only(Vec::new())),
    };
    let policy = policy::policy(top.table("policy"), &context);

    Some(Config {
        workers,
        drain_timeout,
        max_held_bytes,
        trust_domain,
        trust_domain_aliases,
        admin,
        control,
        shutdown,
        log,
        metrics,
        identities: identities?,
        token_issuers: issuers?,
        upstreams: upstreams.into_iter().map(|one| one.map(|one| (one.name.clone(), one))).collect::<Option<_>>()?,
        listeners: listeners.into_iter().map(|one| one.map(|one| (one.name.clone(), one))).collect::<Option<_>>()?,
        policy,
    })
}

/// A gateway that connects to itself serves no client: its listener answers its own connection.
fn refuse_loops(top: &Section<'_>, upstream: &UpstreamConfig, claimed: &ClaimedAddresses) {
    for server in upstream.deployment.listed() {
        if let Some(own) = claimed.reached_by(server) {
            let key = if upstream.deployment.has_members() { "members" } else { "address" };
            let sentence = format!("has {server}, which is {own} of this gateway; set the address of mongod or mongos");
            top.note(&format!("upstream.{}.{key}", upstream.name), sentence);
        }
    }
}

fn admin(mut section: Section<'_>, claimed: &mut ClaimedAddresses) -> AdminConfig {
    let default = AdminConfig::DEFAULT_ADDRESS;
    let address = section.or("address", default, |given| match readers::listen_address(given)? {
        ListenAddress::Tcp(address) => Ok(address),
        ListenAddress::Unix(_) => {
            Err("must be an IP address and port, as in \"127.0.0.1:9717\", not a unix domain socket".to_owned())
        }
    });
    // The default address is in use too.
    claimed.insert("admin.address", &ListenAddress::Tcp(address));
    AdminConfig { address }
}

fn control(mut section: Section<'_>, directory: &Path, claimed: &mut ClaimedAddresses) -> ControlConfig {
    let socket = section.optional("socket", |given| readers::socket_path(given, directory));
    if let Some(path) = &socket {
        claimed.insert("control.socket", &ListenAddress::Unix(path.clone()));
    }
    ControlConfig { socket }
}

fn shutdown(mut section: Section<'_>) -> ShutdownConfig {
    ShutdownConfig {
        delay: section.or("delay", Duration::ZERO, |given| readers::duration(given, Duration::ZERO, readers::HOUR)),
        wait_for_clients: section.or("wait_for_clients", false, readers::boolean),
    }
}

fn log(mut section: Section<'_>) -> LogConfig {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig {
        format: section.or("format", LogFormat::Text, |given| readers::choice(given, FORMATS)),
        level: section.or("level", LogLevel::Info, |given| readers::choice(given, LogLevel::ALL)),
    }
}

fn metrics(mut section: Section<'_>) -> MetricsConfig {
    MetricsConfig { principals: section.or("principals", Vec::new(), identity_readers::principal_patterns) }
}

fn identity(mut section: Section<'_>) -> Option<IdentityConfig> {
    let what = "set the principal of these clients, as in principal = \"cluster.local/ns/shop/sa/cart\"";
    let principal = section.required("principal", what, identity_readers::principal);
    if !["sources", "uids", "may_forward"].iter().any(|key| section.has(key)) {
        section.missing("sources", "set the clients it applies to, as in sources = [\"10.1.3.0/24\"] or uids = [1001]");
    }
    let sources = section.or("sources", Vec::new(), identity_readers::networks);
    let uids = section.or("uids", Vec::new(), identity_readers::uids);
    let may_forward = section.or("may_forward", false, readers::boolean);
    Some(IdentityConfig { principal: principal?, sources, uids, may_forward })
}

fn cores() -> NonZeroUsize {
    at_least_one(std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS_MAX))
}

fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}
