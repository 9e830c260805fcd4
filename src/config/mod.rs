//! The configuration: one TOML file, overridden by environment variables, checked as a whole before anything starts.
//!
//! Reads only the configuration file, with figment. Certificates, sockets and DNS names are not used here. All problems
//! are reported at once, each with its key, its origin and a remedy. An unknown key is a problem, because a misspelt
//! key would otherwise silently have its default.

mod check;
mod environment;
mod error;
mod given;
mod key_values;
mod problems;
mod schema;
mod section;
mod sections;
mod values;
mod warnings;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use figment::Figment;
use figment::Profile;
use figment::Provider;
use figment::error::Kind;
use figment::providers::Format;
use figment::providers::Toml;
use figment::value::Dict;

pub use error::ConfigError;
pub use error::ConfigProblem;
pub use error::Origin;
pub use key_values::KeyValues;
pub use sections::Action;
pub use sections::AdminConfig;
pub use sections::Config;
pub use sections::ControlConfig;
pub use sections::CredentialConfig;
pub use sections::Deployment;
pub use sections::EndpointConfig;
pub use sections::Enforcement;
pub use sections::FromConfig;
pub use sections::IdentityConfig;
pub use sections::JwksUrl;
pub use sections::KeySource;
pub use sections::ListenerAuthentication;
pub use sections::ListenerConfig;
pub use sections::ListenerMode;
pub use sections::ListenerTlsConfig;
pub use sections::LogConfig;
pub use sections::LogFormat;
pub use sections::LogLevel;
pub use sections::MaterialSource;
pub use sections::Mechanism;
pub use sections::MemberAddress;
pub use sections::MemberAddresses;
pub use sections::MetricsConfig;
pub use sections::Ocsp;
pub use sections::PolicyConfig;
pub use sections::PoolConfig;
pub use sections::PoolMode;
pub use sections::ProxyProtocol;
pub use sections::ReadPreference;
pub use sections::RuleConfig;
pub use sections::Seeds;
pub use sections::SendProxy;
pub use sections::ShutdownConfig;
pub use sections::TlsFiles;
pub use sections::TlsVersion;
pub use sections::ToConfig;
pub use sections::TokenIssuerConfig;
pub use sections::Topology;
pub use sections::UpstreamConfig;
pub use sections::UpstreamTlsConfig;
pub use sections::Values;
pub use sections::Verify;
pub use sections::WorkloadApi;
pub use values::HostPort;
pub use values::HostPortError;
pub use values::ListenAddress;
pub use values::ListenAddressError;
pub use warnings::Warning;

/// Where the file is searched if none is given, in this order.
const DEFAULT_FILES: [&str; 2] = ["config.toml", "/etc/mongate/config.toml"];

/// A configuration and the file that it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedConfig {
    /// The checked configuration.
    pub config: Config,
    /// The keys that are set, with their values.
    pub keys: KeyValues,
    /// Path of the file, as given or found: absolute, or relative to the working directory.
    pub file: PathBuf,
}

impl Config {
    /// Reads the file `named`, or the first default file that exists, and overrides it with the environment of the
    /// process.
    ///
    /// Blocks while it reads the file.
    pub fn load(named: Option<&Path>) -> Result<LoadedConfig, ConfigError> {
        let file = find(named)?;
        let (config, keys) = read(Toml::file_exact(&file), &file, std::env::vars_os())?;
        Ok(LoadedConfig { config, keys, file })
    }

    /// Reads `text` as the contents of `file` and overrides it with `environment`. Opens no file.
    pub fn parse(
        text: &str,
        file: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        read(Toml::string(text), file, environment).map(|(config, _)| config)
    }
}

fn find(named: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let files: Vec<PathBuf> = match named {
        Some(file) => vec![file.to_owned()],
        None => DEFAULT_FILES.map(PathBuf::from).into(),
    };
    // A file whose existence cannot be checked counts as found: reading it gives the error.
    match files.iter().find(|file| file.try_exists().unwrap_or(true)) {
        Some(file) => Ok(file.clone()),
        None => Err(ConfigError::NotFound { looked_for: files.iter().map(|file| absolute(file)).collect() }),
    }
}

/// The absolute path, without a check whether it exists. A path that cannot be made absolute is returned unchanged.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn read(
    toml: impl Provider,
    file: &Path,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Config, KeyValues), ConfigError> {
    let (variables, problems) = environment::variables(environment);
    // One provider per variable, so that figment records which variable a value comes from.
    let figment = variables.into_iter().fold(Figment::from(toml), Figment::merge);
    let mut profiles = figment.data().map_err(|error| not_toml(file, error))?;
    let values: Dict = profiles.remove(&Profile::Default).unwrap_or_default();

    let keys = KeyValues::of(&values);
    let problems = problems::ProblemCollector::new(&figment, file, problems);
    let directory = absolute(file).parent().map(Path::to_owned).unwrap_or_default();
    let config = check::check(section::Section::top(&problems, values), &directory);
    match (config, problems.into_problems()) {
        (Some(config), problems) if problems.is_empty() => Ok((config, keys)),
        (_, problems) => Err(ConfigError::Invalid { file: file.to_owned(), problems }),
    }
}

/// Converts a TOML error. figment returns it as text: a position, lines that show the source, and the error.
///
/// The source is not repeated, because it may contain a secret.
fn not_toml(file: &Path, error: figment::Error) -> ConfigError {
    let Kind::Message(text) = error.kind else {
        return ConfigError::Unreadable { file: file.to_owned(), reason: error.to_string() };
    };
    let mut lines = text.lines();
    let Some((line, column)) = lines.next().and_then(position) else {
        return ConfigError::Unreadable { file: file.to_owned(), reason: text.trim().to_owned() };
    };
    let shown: Vec<_> = lines.by_ref().take(3).collect();
    let sentence = if shown.iter().any(|line| has_leading_zero(line)) {
        "a number cannot begin with 0; write a file mode in quotes, as in socket_permissions = \"0660\"".to_owned()
    } else {
        lines.collect::<Vec<_>>().join("; ")
    };
    ConfigError::Syntax { file: file.to_owned(), line, column, sentence }
}

/// Whether a line that the parser shows assigns a number such as 0660, which is no number in TOML.
fn has_leading_zero(line: &str) -> bool {
    let value = line.split_once('=').map_or("", |(_, value)| value.trim_start());
    matches!(value.as_bytes(), [b'0', b'0'..=b'9' | b'_', ..])
}

fn position(heading: &str) -> Option<(usize, usize)> {
    let (line, column) = heading.strip_prefix("TOML parse error at line ")?.split_once(", column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}
