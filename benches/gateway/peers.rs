//! The other proxies that the gateway is compared with: how to find, configure and start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::envoy;
use super::kit::process::Process;
use super::kit::{mongod_binary, ports};
use super::report;

/// Starting takes milliseconds; a busy machine may need much longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two attempts to connect to a proxy that is starting.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Another proxy.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Names on the `PATH`, or absolute paths, in the order in which they are tried.
    programs: &'static [&'static str],
    /// The argument that makes it print its version.
    version: &'static str,
    /// Arguments; `FILE` and `FOLDER` are placeholders.
    arguments: &'static [&'static str],
    /// Configuration; `LISTEN`, `UPSTREAM` (ports) and `FOLDER` are placeholders.
    configuration: &'static str,
}

pub(crate) const PEERS: [Peer; 4] = [
    Peer {
        name: "haproxy",
        programs: &["haproxy", "/usr/sbin/haproxy"],
        version: "-v",
        arguments: &["-db", "-f", "FILE"],
        configuration: include_str!("peers/haproxy.cfg"),
    },
    Peer {
        name: "nginx",
        programs: &["nginx", "/usr/sbin/nginx"],
        version: "-v",
        arguments: &["-p", "FOLDER", "-c", "FILE", "-e", "stderr"],
        configuration: include_str!("peers/nginx.conf"),
    },
    Peer {
        name: "stunnel",
        programs: &["stunnel4", "stunnel"],
        version: "-version",
        arguments: &["FILE"],
        configuration: include_str!("peers/stunnel.conf"),
    },
    Peer {
        name: ENVOY,
        programs: &[],
        version: "--version",
        arguments: &["-c", "FILE", "--concurrency", "2", "--disable-hot-restart", "-l", "error"],
        configuration: include_str!("peers/envoy.yaml"),
    },
];

/// The proxy that distributions do not package.
const ENVOY: &str = "envoy";

/// A running proxy.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) address: String,
    pub(crate) version: String,
}

impl Peer {
    /// Starts the proxy; `None` if it is not installed or does not start.
    pub(crate) fn start(&self, folder: &Path, upstream: &str, fetch: bool) -> anyhow::Result<Option<Started>> {
        let Some(program) = self.program(fetch) else { return Ok(None) };
        let port = ports::free()?;
        let (_, upstream_port) = upstream.rsplit_once(':').context("an address has a port")?;
        let configuration = self
            .configuration
            .replace("LISTEN", &port.to_string())
            .replace("UPSTREAM", upstream_port)
            .replace("FOLDER", &folder.display().to_string());
        // The port is in the name, because several may run at the same time.
        let file = folder.join(format!("{}-{port}.yaml", self.name));
        fs::write(&file, configuration)?;
        let filled = |argument: &&str| {
            argument.replace("FILE", &file.display().to_string()).replace("FOLDER", &folder.display().to_string())
        };
        let mut command = Command::new(&program);
        command.args(self.arguments.iter().map(filled));
        // SIGTERM, because nginx's workers survive if the master is killed.
        let mut process = Process::start_bound(self.name, command, libc::SIGTERM)?;
        let address = format!("127.0.0.1:{port}");
        // A proxy that is installed without a module it needs exits at once.
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            if process.wait(RETRY_INTERVAL).is_ok() || began.elapsed() > START_TIMEOUT {
                return Ok(None);
            }
        }
        let version = report::version(Command::new(program).arg(self.version));
        Ok(Some(Started { process, address, version }))
    }

    fn program(&self, fetch: bool) -> Option<PathBuf> {
        if self.name == ENVOY {
            return envoy::locate(fetch);
        }
        let installed = |program: &&str| {
            if !program.starts_with('/') {
                return mongod_binary::on_path(program);
            }
            Path::new(program).exists().then(|| program.into())
        };
        self.programs.iter().find_map(installed)
    }
}
