//! The command line: the commands, what they print, and their exit codes.

mod config_file;
mod ctl;
mod exit;
mod policy;
mod runtime;
mod token_file;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::admin;
use crate::check;
use crate::check::{CheckScope, Report};
use crate::config::{AdminConfig, Config, ConfigError, LoadedConfig};
use crate::control::ControlSocket;
use crate::gateway::{BoundGateway, StartError};
use crate::lifecycle::descriptors;
use crate::lifecycle::service_manager::ServiceEnvironment;
use crate::lifecycle::signals::Signals;
use crate::telemetry::log_writer::LogWriter;
use crate::telemetry::logs;
use crate::telemetry::logs::LevelSwitch;
use crate::telemetry::metrics::Metrics;

use self::config_file::ConfigFile;
use self::ctl::CtlCommand;
use self::policy::PolicyCommand;
use self::runtime::in_runtime;

/// The timeout of `healthcheck`.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

const CONFIGURATION_READ: &str = "configuration read";

/// MongoDB gateway: plain wire protocol in, mutual TLS out.
///
/// Runs as a sidecar next to MongoDB clients. It accepts the plain MongoDB wire protocol on loopback or on a unix
/// domain socket, and forwards it over mutual TLS to a mongod or mongos that requires client certificates. Applications
/// need no certificate, no TLS options and no new driver.
#[derive(Debug, Parser)]
#[command(name = "mongate", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
An environment variable can override each key of the configuration. Two underscores separate levels:
  MONGATE_LOG__LEVEL=debug mongate run
  MONGATE_UPSTREAM__ORDERS__ADDRESS=mongo.example:27017 mongate check

Exit codes:
   0  success
   1  failure
   2  invalid options
  65  unreadable input (policy, --token-file)
  69  an upstream, the keys of a token issuer, or a token cannot be used (check)
  77  the command is denied (policy explain)
  78  invalid configuration, or a file that it names cannot be used";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    ///
    /// Logs to stderr. The first SIGTERM or SIGINT starts a graceful shutdown: the gateway stops accepting connections,
    /// lets commands in flight finish, and closes idle connections, for at most `drain_timeout`. A second signal stops
    /// the gateway immediately. Exits with 1 if a command was cut off.
    Run(ConfigFile),
    /// Check the configuration, certificates and upstreams
    ///
    /// Reads every file that the configuration names. Then connects to each upstream, and shows each step of the TLS
    /// handshake and the server's reply to hello. Every finding has a remedy. Exits with 0 if there is no error, with
    /// 78 if the configuration or a file cannot be used, and with 69 if an upstream cannot be used.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Check only the configuration and its files; open no connection
        #[arg(long)]
        offline: bool,
        /// Validate the token in this file as if a client had sent it, and show what is verified
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain or test the policy, or import one from Istio
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Control a running gateway through its control socket
    ///
    /// Needs `control.socket` in the configuration of the gateway, and the user of the gateway or root.
    Ctl {
        #[command(subcommand)]
        command: CtlCommand,
    },
    /// Ask a running gateway whether it is ready; a health check for images without curl
    ///
    /// Requests `/readyz` from the administration port and prints the reply. Exits with 0 if the gateway is ready, and
    /// with 1 if it is not ready or does not answer.
    Healthcheck {
        /// Address of the administration port; default: admin.address of the configuration, or 127.0.0.1:9717
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(config) => run(&config),
        Command::Check { config, offline, token_file, json } => check(&config, offline, token_file.as_deref(), json),
        Command::Policy { command } => policy::run(command),
        Command::Ctl { command } => ctl::run(command),
        Command::Healthcheck { address, config } => healthcheck(address, &config),
    }
}

fn run(file: &ConfigFile) -> ExitCode {
    #[expect(unsafe_code, reason = "changes the environment")]
    // SAFETY: this is the first thing that the process does after it has parsed its arguments: no other thread runs.
    let service = match unsafe { ServiceEnvironment::take() } {
        Ok(service) => service,
        Err(error) => return exit::fail(exit::FAILED, &error),
    };
    let loaded = match file.load() {
        Ok(loaded) => loaded,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let (log_writer, level) = match logs::install(loaded.config.log) {
        Ok(installed) => installed,
        Err(error) => return exit::fail(exit::FAILED, &error),
    };
    tracing::info!(file = %loaded.file.display(), "{CONFIGURATION_READ}");
    let served = serve(&loaded, service, &log_writer, level);
    log_writer.flush();
    match served {
        Ok(0) => ExitCode::SUCCESS,
        Ok(interrupted) => {
            let connections = if interrupted == 1 { "connection" } else { "connections" };
            exit::fail(exit::FAILED, &format!("{interrupted} {connections} closed with a command in flight"))
        }
        Err(error) => match error.downcast_ref::<StartError>() {
            Some(
                StartError::Tls(_) | StartError::ListenerTls(_) | StartError::Policy(_) | StartError::TokenIssuers(_),
            ) => exit::fail(exit::CONFIGURATION, &with_further_problems(&format!("{error:#}"), &loaded.config)),
            _ => exit::fail(exit::FAILED, &format!("{error:#}")),
        },
    }
}

/// The problems that prevented the start, and all others that `check --offline` finds: the start ends at the first file
/// of a table that cannot be used.
fn with_further_problems(start_problems: &str, config: &Config) -> String {
    let mut lines: Vec<String> = start_problems.lines().map(str::to_owned).collect();
    if let Ok(report) = in_runtime(check::check(config, CheckScope::Files)) {
        for problem in report.errors() {
            if !lines.iter().any(|line| problem.starts_with(line.as_str())) {
                lines.push(problem);
            }
        }
    }
    lines.join("\n")
}

/// Binds and runs the gateway on this thread. The workers have their own threads.
/// Returns the number of connections that were closed with a command in flight.
fn serve(
    loaded: &LoadedConfig,
    service: ServiceEnvironment,
    log_writer: &LogWriter,
    level: LevelSwitch,
) -> anyhow::Result<usize> {
    descriptors::raise_limit();
    let metrics = Metrics::install()?;
    in_runtime(async {
        let mut signals = Signals::install()?;
        let control = ControlSocket::bind(&loaded.config, level)?;
        let mut gateway = BoundGateway::bind(&loaded.config, Some(loaded), service, metrics)?;
        if let Some(control) = control {
            gateway.set_control(control)?;
        }
        tokio::select! {
            interrupted = gateway.run(async || signals.next().await) => Ok(interrupted),
            () = log_writer.report_dropped() => Ok(0),
        }
    })?
}

fn check(file: &ConfigFile, offline: bool, token_file: Option<&Path>, json: bool) -> ExitCode {
    let config = match file.load() {
        Ok(loaded) => loaded.config,
        Err(error) if json => {
            let _ = writeln!(io::stdout(), "{}", Report::of_unreadable(&error).to_json());
            return ExitCode::from(exit::CONFIGURATION);
        }
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let token = match token_file.map(token_file::read).transpose() {
        Ok(token) => token,
        Err(error) => return exit::fail(exit::DATA, &error),
    };
    let scope = if offline { CheckScope::Offline } else { CheckScope::Online };
    match in_runtime(check::check_with_token(&config, scope, token.as_deref())) {
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

/// The administration address of the configuration; the default address if there is no configuration.
fn admin_address(file: &ConfigFile) -> Result<SocketAddr, ConfigError> {
    match file.load() {
        Ok(loaded) => Ok(loaded.config.admin.address),
        Err(ConfigError::NotFound { .. }) if !file.is_given() => Ok(AdminConfig::DEFAULT_ADDRESS),
        Err(error) => Err(error),
    }
}
