//! What is measured: the gateway, the proxies that are installed, and no proxy at all, all configured alike.
//!
//! TLS 1.3 with a client certificate towards the upstream, whose chain and name are verified; plain text towards the load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::kit::certificates::{Pki, Wanted};
use super::kit::gateway::{Gateway, GatewayOptions};
use super::kit::process::Process;
use super::kit::{ports, scratch};
use super::load::Target;
use super::roles::ROLE;

/// Rules that are in force while the gateway is measured.
const RULES: usize = 100;

/// Starting takes milliseconds; a busy machine may need long.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at a port that is not open yet.
const PACE: Duration = Duration::from_millis(20);

/// One thing that the load can be put on.
pub(crate) struct Subject {
    /// As it stands in the table.
    pub(crate) name: &'static str,
    /// Where it is.
    pub(crate) target: Target,
    running: Running,
}

enum Running {
    Gateway(Gateway),
    Process(Process),
    /// The upstream itself.
    Nothing,
}

/// The upstream, its certificates, and everything that leads to it.
pub(crate) struct Scene {
    /// What is measured, the gateway first.
    pub(crate) subjects: Vec<Subject>,
    /// What was not found on this machine.
    pub(crate) missing: Vec<&'static str>,
    _upstream: Process,
    _directory: TempDir,
    _pki: Pki,
}

impl Scene {
    /// Starts everything that is installed.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (pki, directory) = (Pki::new()?, scratch::directory("bench")?);
        let folder = directory.path().to_owned();
        write_certificates(&pki, &folder)?;
        let (upstream, addresses) = child(&format!("upstream {}", folder.display()))?;
        let [sealed, plain] = addresses.as_slice() else { anyhow::bail!("the upstream names no two ports") };
        let copied = child(&format!("copy {plain}"))?;
        let mut subjects = vec![gateway(&folder, sealed)];
        let mut missing = Vec::new();
        for peer in PEERS {
            match peer.start(&folder, sealed)? {
                Some(subject) => subjects.push(subject),
                None => missing.push(peer.name),
            }
        }
        let (process, address) = (copied.0, copied.1.first().cloned().context("the copy names no port")?);
        let running = Running::Process(process);
        subjects.push(Subject { name: "plain copy", target: Target { address, tls: None }, running });
        let tls = Some(Arc::new(client_config(&folder)?));
        let target = Target { address: sealed.clone(), tls };
        subjects.push(Subject { name: "direct TLS", target, running: Running::Nothing });
        let target = Target { address: plain.clone(), tls: None };
        subjects.push(Subject { name: "direct plain", target, running: Running::Nothing });
        Ok(Self { subjects, missing, _upstream: upstream, _directory: directory, _pki: pki })
    }
}

impl Subject {
    /// Processor time of all its processes and threads so far; `None` where there is no process.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        let all = processes(self.id()?);
        Some(Duration::from_nanos(all.iter().filter_map(|id| nanoseconds(*id)).sum()))
    }

    /// Resident memory of all its processes, in KiB.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        let resident = |id: &u32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some(processes(self.id()?).iter().filter_map(resident).sum())
    }

    fn id(&self) -> Option<u32> {
        match &self.running {
            Running::Gateway(gateway) => Some(gateway.process_id()),
            Running::Process(process) => Some(process.id()),
            Running::Nothing => None,
        }
    }
}

/// A process and its children.
fn processes(id: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(id).chain(children.flat_map(processes).collect::<Vec<_>>()).collect()
}

/// Time on a processor: of the threads that there are to the nanosecond, or of all that there ever were to a tick, where
/// that is more.
fn nanoseconds(id: u32) -> Option<u64> {
    Some(of_threads(id)?.max(of_process(id)?))
}

fn of_process(id: u32) -> Option<u64> {
    const TICK: u64 = 10_000_000;
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = text.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    Some(ticks.sum::<u64>() * TICK)
}

fn of_threads(id: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?;
    let time = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(threads.flatten().filter_map(time).sum())
}

fn child(role: &str) -> anyhow::Result<(Process, Vec<String>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, role);
    let process = Process::start("bench", command)?;
    let addresses = process.wait_for_line(START_TIMEOUT, |line| {
        let ports = line.text.strip_prefix("listening ")?;
        Some(ports.split(' ').map(str::to_owned).collect::<Vec<_>>())
    })?;
    Ok((process, addresses))
}

fn write_certificates(pki: &Pki, folder: &Path) -> anyhow::Result<()> {
    for (name, wanted) in [("server", Wanted::server()), ("client", Wanted::default())] {
        let issued = pki.issue(name, &wanted)?;
        fs::write(folder.join(format!("{name}.crt")), &issued.certificate_pem)?;
        fs::write(folder.join(format!("{name}.key")), &issued.key_pem)?;
        fs::write(folder.join(format!("{name}.pem")), format!("{}{}", issued.certificate_pem, issued.key_pem))?;
    }
    fs::copy(pki.ca_file(), folder.join("ca.pem"))?;
    Ok(())
}

fn client_config(folder: &Path) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let chain = CertificateDer::pem_file_iter(folder.join("client.crt"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

fn gateway(folder: &Path, upstream: &str) -> Subject {
    let rule = |number: usize| {
        format!(
            "[[policy.rule]]\nname = \"rule-{number}\"\naction = \"allow\"\nto = [{{ databases = [\"shop\"], collections = [\"orders\", \"c{number}\"] }}]\n"
        )
    };
    let options = GatewayOptions {
        top: "workers = 2\n".to_owned(),
        upstream_address: upstream.replace("127.0.0.1", "localhost"),
        upstream_tls: format!(
            "certificate_file = '{0}/client.pem'\nca_file = '{0}/ca.pem'\nserver_name = 'localhost'\n",
            folder.display()
        ),
        tables: (0..RULES).map(rule).collect(),
        log_level: Some("info"),
        ..GatewayOptions::default()
    };
    let gateway = Gateway::start(&options);
    let target = Target { address: gateway.address().to_owned(), tls: None };
    Subject { name: "mongate", target, running: Running::Gateway(gateway) }
}

/// A proxy of somebody else's.
struct Peer {
    name: &'static str,
    /// Where it may be.
    programs: &'static [&'static str],
    /// How it is started; `FILE` and `FOLDER` are filled in.
    arguments: &'static [&'static str],
    /// Its configuration; `LISTEN`, `UPSTREAM` (ports) and `FOLDER` are filled in.
    configuration: &'static str,
}

const PEERS: [Peer; 4] = [
    Peer {
        name: "haproxy",
        programs: &["haproxy", "/usr/sbin/haproxy"],
        arguments: &["-db", "-f", "FILE"],
        configuration: include_str!("peers/haproxy.cfg"),
    },
    Peer {
        name: "nginx",
        programs: &["nginx", "/usr/sbin/nginx"],
        arguments: &["-p", "FOLDER", "-c", "FILE", "-e", "stderr"],
        configuration: include_str!("peers/nginx.conf"),
    },
    Peer {
        name: "stunnel",
        programs: &["stunnel4", "stunnel"],
        arguments: &["FILE"],
        configuration: include_str!("peers/stunnel.conf"),
    },
    Peer {
        name: "envoy",
        programs: &["envoy"],
        arguments: &["-c", "FILE", "--concurrency", "2", "--disable-hot-restart", "-l", "error"],
        configuration: include_str!("peers/envoy.yaml"),
    },
];

impl Peer {
    fn start(&self, folder: &Path, upstream: &str) -> anyhow::Result<Option<Subject>> {
        let Some(program) = self.programs.iter().find_map(|program| installed(program)) else { return Ok(None) };
        let port = ports::free()?;
        let (_, upstream_port) = upstream.rsplit_once(':').context("an address has a port")?;
        let configuration = self
            .configuration
            .replace("LISTEN", &port.to_string())
            .replace("UPSTREAM", upstream_port)
            .replace("FOLDER", &folder.display().to_string());
        let file = folder.join(format!("{}.yaml", self.name));
        fs::write(&file, configuration)?;
        let filled = |argument: &&str| {
            argument.replace("FILE", &file.display().to_string()).replace("FOLDER", &folder.display().to_string())
        };
        let mut command = Command::new(program);
        command.args(self.arguments.iter().map(filled));
        let mut process = Process::start(self.name, command)?;
        let address = format!("127.0.0.1:{port}");
        // One that is installed without what it needs ends at once.
        let began = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            if process.wait(PACE).is_ok() || began.elapsed() > START_TIMEOUT {
                return Ok(None);
            }
        }
        let target = Target { address, tls: None };
        Ok(Some(Subject { name: self.name, target, running: Running::Process(process) }))
    }
}

fn installed(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
