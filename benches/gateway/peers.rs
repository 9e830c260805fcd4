//! Proxies of somebody else's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::envoy;
use super::kit::process::Process;
use super::kit::{mongod_binary, ports};
use super::report;

/// Starting takes milliseconds; a busy machine may need long.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a port that is not open yet.
const PACE: Duration = Duration::from_millis(20);

/// A proxy of somebody else's.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Where it may be.
    programs: &'static [&'static str],
    /// How it tells its version.
    version: &'static str,
    /// How it is started; `FILE` and `FOLDER` are filled in.
    arguments: &'static [&'static str],
    /// Its configuration; `LISTEN`, `UPSTREAM` (ports) and `FOLDER` are filled in.
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

/// The one that distributions do not have.
const ENVOY: &str = "envoy";

/// A peer that runs.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) address: String,
    pub(crate) version: String,
}

impl Peer {
    /// `None` where it is not installed, or not with what it needs.
    pub(crate) fn start(&self, folder: &Path, upstream: &str, fetch: bool) -> anyhow::Result<Option<Started>> {
        let Some(program) = self.program(fetch) else { return Ok(None) };
        let port = ports::free()?;
        let (_, upstream_port) = upstream.rsplit_once(':').context("an address has a port")?;
        let configuration = self
            .configuration
            .replace("LISTEN", &port.to_string())
            .replace("UPSTREAM", upstream_port)
            .replace("FOLDER", &folder.display().to_string());
        // By its port: there may be several at a time.
        let file = folder.join(format!("{}-{port}.yaml", self.name));
        fs::write(&file, configuration)?;
        let filled = |argument: &&str| {
            argument.replace("FILE", &file.display().to_string()).replace("FOLDER", &folder.display().to_string())
        };
        let mut command = Command::new(&program);
        command.args(self.arguments.iter().map(filled));
        // nginx has workers, which outlive a master that is killed.
        let mut process = Process::start_bound(self.name, command, libc::SIGTERM)?;
        let address = format!("127.0.0.1:{port}");
        // One that is installed without what it needs ends at once.
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            if process.wait(PACE).is_ok() || began.elapsed() > START_TIMEOUT {
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
