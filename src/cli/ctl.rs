//! `mongate ctl`: controls a running gateway through its control socket.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::config_file::ConfigFile;
use super::exit;
use crate::control::{Reloaded, Reply, Request, ask};

#[derive(Debug, Subcommand)]
pub(super) enum CtlCommand {
    /// Show the level of the log, or change it until the next start
    LogLevel {
        /// The new level; without it, the level is shown
        #[arg(value_parser = PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]))]
        level: Option<String>,
        /// After this time, the level is that of the configuration again; 1s to 24h
        #[arg(long = "for", value_name = "TIME", requires = "level", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
        #[command(flatten)]
        gateway: GatewaySocket,
    },
    /// Read certificates and policy again, as SIGHUP does, and wait for the result
    Reload(GatewaySocket),
    /// Begin a graceful shutdown, as SIGTERM does
    Drain(GatewaySocket),
}

/// Which gateway is asked.
#[derive(Debug, Args)]
pub(super) struct GatewaySocket {
    /// The control socket of the gateway; default: control.socket of the configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(command: CtlCommand) -> ExitCode {
    let (request, gateway) = match command {
        CtlCommand::LogLevel { level, time, gateway } => {
            (Request::LogLevel { level, for_seconds: time.map(|time| time.as_secs()) }, gateway)
        }
        CtlCommand::Reload(gateway) => (Request::Reload {}, gateway),
        CtlCommand::Drain(gateway) => (Request::Drain {}, gateway),
    };
    let socket = match gateway.path() {
        Ok(socket) => socket,
        Err(sentence) => return exit::fail(exit::CONFIGURATION, &sentence),
    };
    match ask(&socket, &request) {
        Ok(reply) => report(&reply),
        Err(error) => exit::fail(exit::FAILED, &error),
    }
}

impl GatewaySocket {
    fn path(self) -> Result<PathBuf, String> {
        if let Some(socket) = self.socket {
            return Ok(socket);
        }
        let loaded = self.config.load().map_err(|error| error.to_string())?;
        loaded.config.control.socket.ok_or_else(|| {
            format!(
                "control.socket is not set in {}; set it, as in [control] socket = \"/run/mongate/control.sock\", and \
                 restart the gateway; or use --socket",
                loaded.file.display()
            )
        })
    }
}

fn report(reply: &Reply) -> ExitCode {
    let mut out = io::stdout();
    match reply {
        Reply::LogLevel { level, configured, for_seconds: Some(seconds) } => {
            let left = humantime::format_duration(Duration::from_secs(*seconds));
            let _ = writeln!(out, "{level}, in {left} {configured} again");
        }
        Reply::LogLevel { level, configured, .. } if level == configured => {
            let _ = writeln!(out, "{level}");
        }
        Reply::LogLevel { level, configured, .. } => {
            let _ = writeln!(out, "{level} until the next start or change; configured: {configured}");
        }
        Reply::Reloaded { files } => return report_files(files),
        Reply::Draining {} => {
            let _ = writeln!(out, "the shutdown has begun");
        }
        Reply::Error { error } => return exit::fail(exit::FAILED, error),
    }
    ExitCode::SUCCESS
}

fn report_files(files: &[Reloaded]) -> ExitCode {
    for file in files {
        let _ = match &file.problem {
            None => writeln!(io::stdout(), "{}: in use", file.name),
            Some(problem) => writeln!(io::stdout(), "{}: not reloaded: {problem}", file.name),
        };
    }
    if files.iter().all(|file| file.problem.is_none()) { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}
