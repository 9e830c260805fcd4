//! The command line: what each command does, what it prints, and how it exits.

mod config_file;
mod exit;
mod policy;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::admin;
use crate::check;
use crate::check::CheckScope;
use crate::config::{AdminConfig, Config, ConfigError, LoadedConfig};
use crate::gateway::{BoundGateway, StartError};
use crate::lifecycle::descriptors;
use crate::lifecycle::signals::Signals;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;

use self::config_file::ConfigFile;
use self::policy::PolicyCommand;

/// Descriptors that are not connections: listeners, administration, runtimes, and name lookups.
const DESCRIPTORS_BESIDES: usize = 256;

/// How long `healthcheck` waits for an answer.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// MongoDB gateway: plain wire protocol in, mutual TLS out.
///
/// Runs beside MongoDB clients, takes plain MongoDB wire protocol from them on loopback or a unix socket, and carries it
/// over mutual TLS to a mongod or mongos that requires client certificates. Applications need no certificate, no TLS
/// options and no new driver.
#[derive(Debug, Parser)]
#[command(name = "mongate", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every key of the configuration can be overridden by a variable, with two underscores between levels:
  MONGATE_LOG__LEVEL=debug mongate run
  MONGATE_UPSTREAM__ORDERS__ADDRESS=mongo.example:27017 mongate check

Exit codes: 0 done, 1 failed, 69 an upstream refused (check), 77 a command is denied (policy explain), 78 bad
configuration, 65 unreadable input (policy).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    ///
    /// Logs to stderr. The first SIGTERM or SIGINT stops accepting, lets commands in flight finish, and closes idle
    /// connections, for at most `drain_timeout`; a second one stops at once.
    Run(ConfigFile),
    /// Check files, certificates and upstreams, and say what to mend
    ///
    /// Reads everything that the configuration names, then connects to each upstream and shows the mutual handshake step
    /// by step, and what mongod says of itself. Every finding comes with a remedy. Exits with 0, with 78 when the
    /// configuration or a file is at fault, with 69 when an upstream refused or was not reached.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Look at the configuration and its files only; connect to nothing
        #[arg(long)]
        offline: bool,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the policy what it decides and why, test it, or make one of Istio's documents
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Ask a running gateway whether it is ready; for images without curl
    ///
    /// Asks `/readyz` of the administration port and prints what it says. Exits with 0 when ready, with 1 when not, or when
    /// nobody answers.
    Healthcheck {
        /// Administration port to ask; default: admin.address of the configuration, or 127.0.0.1:9717
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(config) => run(&config),
        Command::Check { config, offline, json } => check(&config, offline, json),
        Command::Policy { command } => policy::run(command),
        Command::Healthcheck { address, config } => healthcheck(address, &config),
    }
}

fn run(file: &ConfigFile) -> ExitCode {
    let loaded = match file.load() {
        Ok(loaded) => loaded,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    if let Err(error) = logs::install(loaded.config.log) {
        return exit::fail(exit::FAILED, &error);
    }
    tracing::info!(file = %loaded.file.display(), "configuration read");
    match serve(&loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error.downcast_ref::<StartError>() {
                Some(StartError::Tls(_) | StartError::ListenerTls(_) | StartError::Policy(_)) => exit::CONFIGURATION,
                _ => exit::FAILED,
            };
            exit::fail(code, &format!("{error:#}"))
        }
    }
}

/// Binds and runs the gateway on this thread; the workers have threads of their own.
fn serve(loaded: &LoadedConfig) -> anyhow::Result<()> {
    let LoadedConfig { config, file } = loaded;
    mind_descriptors(config);
    let metrics = Metrics::install()?;
    in_runtime(async {
        let mut signals = Signals::install()?;
        let gateway = BoundGateway::bind(config, Some(file), metrics)?;
        gateway.run(async || signals.next().await).await;
        Ok(())
    })?
}

/// A listener's places are worth what the system lets us open: two descriptors for each connection.
fn mind_descriptors(config: &Config) {
    let places: usize = config.listeners.values().map(|listener| listener.max_connections).sum();
    let wanted = places.saturating_mul(2).saturating_add(DESCRIPTORS_BESIDES);
    if let Some(limit) = descriptors::raise_limit().filter(|limit| *limit < wanted as u64) {
        tracing::warn!(
            limit,
            wanted,
            remedy = "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections",
            "the limit of open files is below what max_connections needs"
        );
    }
}

fn check(file: &ConfigFile, offline: bool, json: bool) -> ExitCode {
    let config = match file.load() {
        Ok(loaded) => loaded.config,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let scope = if offline { CheckScope::Offline } else { CheckScope::Online };
    match in_runtime(check::check(&config, scope)) {
        Ok(report) => {
            let text = if json { report.to_json() } else { report.to_string() };
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            ExitCode::from(report.exit_code())
        }
        Err(error) => exit::fail(exit::FAILED, &error),
    }
}

fn healthcheck(address: Option<SocketAddr>, file: &ConfigFile) -> ExitCode {
    let address = match address.map_or_else(|| admin_address(file), Ok) {
        Ok(address) => address,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let asked = match in_runtime(admin::healthcheck(address, HEALTHCHECK_TIMEOUT)) {
        Ok(asked) => asked,
        Err(error) => return exit::fail(exit::FAILED, &error),
    };
    match asked {
        Ok(report) => {
            let _ = writeln!(io::stdout(), "{report}");
            if report.ready { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
        }
        Err(error) => exit::fail(exit::FAILED, &error),
    }
}

/// Where the gateway of this configuration answers; the default where there is no configuration at all.
fn admin_address(file: &ConfigFile) -> Result<SocketAddr, ConfigError> {
    match file.load() {
        Ok(loaded) => Ok(loaded.config.admin.address),
        Err(ConfigError::NotFound { .. }) if !file.is_given() => Ok(AdminConfig::DEFAULT_ADDRESS),
        Err(error) => Err(error),
    }
}

/// Runs what needs sockets or timers on this thread.
fn in_runtime<T>(work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A name lookup that hangs in the system's resolver must not keep the process.
    runtime.shutdown_background();
    Ok(result)
}
