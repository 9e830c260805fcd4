//! From tables to the checked [`Config`]: defaults, bounds, and what one section says about another.
//!
//! Opens no file and looks up no name; certificates are read by whoever uses them.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::error::joined;
use super::error::quoted;
use super::raw::Given;
use super::raw::Section;
use super::raw::nearest;
use super::sections::AdminConfig;
use super::sections::Config;
use super::sections::ListenerConfig;
use super::sections::LogConfig;
use super::sections::LogFormat;
use super::sections::LogLevel;
use super::sections::TlsVersion;
use super::sections::UpstreamConfig;
use super::sections::UpstreamTlsConfig;
use super::sections::Verify;
use super::values::ListenAddress;
use super::values::is_host;
use super::values::parse_duration;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const MONTH: Duration = Duration::from_hours(30 * 24);

/// More threads than any machine has use for.
const WORKERS_MAX: usize = 1024;

/// `sockaddr_un.sun_path` has 108 bytes on Linux, the last one for the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Reads the whole file; relative paths begin at `directory`.
///
/// `None` or a configuration with placeholders if any problem was noted in the sections' journal.
pub(super) fn check(mut top: Section<'_>, directory: &Path) -> Option<Config> {
    let mut taken = Taken::default();
    let workers = top.or("workers", cores(), |given| given.whole_number(1, WORKERS_MAX).map(at_least_one));
    let drain_timeout = top.or("drain_timeout", Duration::from_secs(30), |given| duration(given, Duration::ZERO, HOUR));
    let admin = admin(top.table("admin"), &mut taken);
    let log = log(top.table("log"));

    let upstreams = top.named_tables("upstream");
    let names: Vec<String> = upstreams.iter().map(|(name, _)| name.clone()).collect();
    let upstreams: Vec<_> = upstreams.into_iter().map(|(name, section)| upstream(name, section, directory)).collect();
    let listeners = top.named_tables("listener").into_iter();
    let listeners: Vec<_> =
        listeners.map(|(name, section)| listener(name, section, &names, directory, &mut taken)).collect();

    Some(Config {
        workers,
        drain_timeout,
        admin,
        log,
        upstreams: upstreams.into_iter().map(|one| one.map(|one| (one.name.clone(), one))).collect::<Option<_>>()?,
        listeners: listeners.into_iter().map(|one| one.map(|one| (one.name.clone(), one))).collect::<Option<_>>()?,
    })
}

fn admin(mut section: Section<'_>, taken: &mut Taken) -> AdminConfig {
    let default = AdminConfig::DEFAULT_ADDRESS;
    let address = section.or("address", default, |given| match listen_address(given)? {
        ListenAddress::Tcp(address) => Ok(address),
        ListenAddress::Unix(_) => {
            Err("must be an IP address and port, as in \"127.0.0.1:9717\"; it cannot be a unix socket".to_owned())
        }
    });
    // The default is taken too: a listener cannot have it.
    taken.insert("admin.address", &ListenAddress::Tcp(address));
    AdminConfig { address }
}

fn log(mut section: Section<'_>) -> LogConfig {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    LogConfig {
        format: section.or("format", LogFormat::Text, |given| choice(given, FORMATS)),
        level: section.or("level", LogLevel::Info, |given| choice(given, LEVELS)),
    }
}

fn upstream(name: String, mut section: Section<'_>, directory: &Path) -> Option<UpstreamConfig> {
    let address = section.required(
        "address",
        "write host and port of a mongod or mongos, as in address = \"mongo.example:27017\"",
        |given| {
            let text = given.text("host:port, as in \"mongo.example:27017\"")?;
            text.parse().map_err(sentence)
        },
    );
    let connect_timeout = section
        .or("connect_timeout", Duration::from_secs(5), |given| duration(given, Duration::from_millis(100), 5 * MINUTE));
    let tls = upstream_tls(section.table("tls"), directory);
    let tcp_keepalive = keepalive(&mut section);
    Some(UpstreamConfig { name, address: address?, connect_timeout, tcp_keepalive, tls: tls? })
}

fn upstream_tls(mut section: Section<'_>, directory: &Path) -> Option<UpstreamTlsConfig> {
    const VERIFY: &[(&str, Verify)] = &[("full", Verify::Full), ("chain", Verify::Chain)];
    const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let certificate_file = section.required(
        "certificate_file",
        "name the PEM file of the certificate that is shown to mongod, as in certificate_file = \"certs/client.pem\"",
        |given| file(given, directory),
    );
    let private_key_file = section.optional("private_key_file", |given| file(given, directory));
    let ca_file = section.required(
        "ca_file",
        "name the PEM file of the authorities that mongod's certificate may come from, as in ca_file = \"certs/ca.pem\"",
        |given| file(given, directory),
    );
    let server_name = section.optional("server_name", server_name);
    let verify = section.or("verify", Verify::Full, |given| choice(given, VERIFY));
    let min_version = section.or("min_version", TlsVersion::V1_2, |given| choice(given, VERSIONS));
    let certificate_file = certificate_file?;
    Some(UpstreamTlsConfig {
        private_key_file: private_key_file.unwrap_or_else(|| certificate_file.clone()),
        certificate_file,
        ca_file: ca_file?,
        server_name,
        verify,
        min_version,
    })
}

fn listener(
    name: String,
    mut section: Section<'_>,
    upstreams: &[String],
    directory: &Path,
    taken: &mut Taken,
) -> Option<ListenerConfig> {
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's name alone has one lifetime only")]
    let allow_remote_plaintext = section.or("allow_remote_plaintext", false, |given| given.boolean());
    let address =
        section.required("address", "write where clients connect, as in address = \"127.0.0.1:27017\"", |given| {
            let address = placed(listen_address(given)?, directory)?;
            check_reach(&address, allow_remote_plaintext)?;
            taken.claim(&joined(&joined("listener", &name), "address"), &address)?;
            Ok(address)
        });
    let example = quoted(upstreams.first().map_or("orders", String::as_str));
    let what = format!("name the upstream that this listener leads to, as in upstream = {example}");
    let upstream = section.required("upstream", &what, |given| known_upstream(given, upstreams));
    let max_connections = section.or("max_connections", 10_000, |given| given.whole_number(1, 1_000_000));
    let socket_permissions = section.or("socket_permissions", 0o700, permissions);
    let idle_timeout = section.or("idle_timeout", None, |given| duration_or_off(given, MONTH));
    let max_lifetime = section.or("max_lifetime", None, |given| duration_or_off(given, MONTH));
    let tcp_keepalive = keepalive(&mut section);
    Some(ListenerConfig {
        name,
        address: address?,
        upstream: upstream?,
        max_connections,
        allow_remote_plaintext,
        socket_permissions,
        idle_timeout,
        max_lifetime,
        tcp_keepalive,
    })
}

/// The same for both sides. Linux keeps this time in seconds and takes at most 32767 of them.
fn keepalive(section: &mut Section<'_>) -> Option<Duration> {
    section.or("tcp_keepalive", Some(2 * MINUTE), |given| duration_or_off(given, 9 * HOUR))
}

/// The addresses that are spoken for, and by which key.
#[derive(Default)]
struct Taken(Vec<(ListenAddress, String)>);

impl Taken {
    fn claim(&mut self, key: &str, address: &ListenAddress) -> Result<(), String> {
        let first = self.0.iter().find(|(taken, _)| taken == address).map(|(_, key)| key.clone());
        self.insert(key, address);
        first.map_or(Ok(()), |first| Err(format!("is the same as {first}; each needs an address of its own")))
    }

    fn insert(&mut self, key: &str, address: &ListenAddress) {
        // Port 0 is a different free port for each.
        if !matches!(address, ListenAddress::Tcp(tcp) if tcp.port() == 0) {
            self.0.push((address.clone(), key.to_owned()));
        }
    }
}

fn cores() -> NonZeroUsize {
    at_least_one(std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS_MAX))
}

fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}

fn sentence(error: impl Display) -> String {
    error.to_string()
}

fn choice<T: Copy>(given: &Given<'_>, choices: &[(&str, T)]) -> Result<T, String> {
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let words = words.join(", ");
    // "a", "b" or "c"
    let words = words.rsplit_once(", ").map_or(words.clone(), |(most, last)| format!("{most} or {last}"));
    let text = given.text(&words)?;
    match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => Err(match nearest(text, choices.iter().map(|(word, _)| *word)) {
            Some(near) => format!("must be {words}; did you mean \"{near}\"?"),
            None => format!("must be {words}"),
        }),
    }
}

fn duration(given: &Given<'_>, min: Duration, max: Duration) -> Result<Duration, String> {
    let (shown_min, shown_max) = (humantime::format_duration(min), humantime::format_duration(max));
    let what = format!("a time from {shown_min} to {shown_max} with its unit, as in \"5s\" or \"2min\"");
    let duration = parse_duration(given.text(&what)?).ok();
    duration.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| format!("must be {what}"))
}

fn duration_or_off(given: &Given<'_>, max: Duration) -> Result<Option<Duration>, String> {
    if given.text("").is_ok_and(|text| text == "off") {
        return Ok(None);
    }
    duration(given, Duration::from_secs(1), max).map(Some).map_err(|sentence| format!("{sentence}, or \"off\""))
}

fn file(given: &Given<'_>, directory: &Path) -> Result<PathBuf, String> {
    let text = given.text("the name of a PEM file")?;
    if text.contains("-----BEGIN") {
        return Err("holds PEM text; write it to a file and give the file's name".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("must be the name of a PEM file, without control characters".to_owned());
    }
    Ok(directory.join(text))
}

fn server_name(given: &Given<'_>) -> Result<String, String> {
    let what = "a DNS name or an IP address without port, as in \"mongo.example\"";
    let text = given.text(what)?;
    let fits = is_host(text) || text.parse::<std::net::Ipv6Addr>().is_ok();
    if fits { Ok(text.to_owned()) } else { Err(format!("must be {what}")) }
}

fn listen_address(given: &Given<'_>) -> Result<ListenAddress, String> {
    given.text("an IP address and port, as in \"127.0.0.1:27017\"")?.parse().map_err(sentence)
}

/// Puts a relative socket path below `directory`, and sees that the system can take it.
fn placed(address: ListenAddress, directory: &Path) -> Result<ListenAddress, String> {
    let ListenAddress::Unix(path) = address else { return Ok(address) };
    let path = directory.join(path);
    if !path.is_absolute() {
        return Err("must be an absolute path, as in \"unix:/run/mongate/mongodb-27017.sock\"".to_owned());
    }
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(format!(
            "makes a path of {length} bytes; the system takes at most {SOCKET_PATH_MAX} for a unix socket, so choose a \
             shorter one, as in \"unix:/run/mongate/mongodb-27017.sock\""
        ));
    }
    Ok(ListenAddress::Unix(path))
}

fn check_reach(address: &ListenAddress, allow_remote_plaintext: bool) -> Result<(), String> {
    if allow_remote_plaintext || address.is_local() {
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

fn permissions(given: &Given<'_>) -> Result<u32, String> {
    let what = "the octal mode of a file, from \"0000\" to \"0777\", as in \"0660\"";
    let text = given.text(what)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = if digits { u32::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o777).ok_or_else(|| format!("must be {what}"))
}
