//! The measured subjects: the gateway, the installed proxies, and direct connections, with the same configuration.
//!
//! All proxies accept plaintext from the load. To the upstream they use TLS 1.3 with a client certificate, and verify
//! the server's certificate chain and name.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bson::{RawDocument, rawdoc};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::kit::certificates::{Pki, Wanted};
use super::kit::gateway::{Gateway, GatewayOptions};
use super::kit::mongod::{Mongod, MongodOptions, Transport};
use super::kit::process::Process;
use super::kit::waiting::until_steady;
use super::kit::{mongod_binary, scratch};
use super::load::{Target, Work, message};
use super::peers::{PEERS, Peer};
use super::processes;
use super::report::{self, Facts};
use super::roles::ROLE;

/// Names in the tables.
pub(crate) const GATEWAY: &str = "mongate";
/// Names of the gateway with other pools than by default, and their modes.
pub(crate) const POOLS: [(&str, &str); 2] = [("mongate off", "off"), ("mongate request", "request")];
pub(crate) const COPY: &str = "plain copy";
pub(crate) const DIRECT_TLS: &str = "direct TLS";
pub(crate) const DIRECT_PLAIN: &str = "direct plain";

/// Number of policy rules of the gateway while it is compared with other proxies.
const RULES: usize = 100;

/// Starting takes milliseconds; a busy machine may need much longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A subject: something that the load can be put on.
pub(crate) struct Subject {
    /// Name in the tables.
    pub(crate) name: String,
    /// Where the load connects.
    pub(crate) target: Target,
    /// Process id of the mongod behind it, if that mongod's processor time is measured.
    pub(crate) server: Option<u32>,
    version: String,
    kind: Kind,
    running: Running,
}

/// How a subject is started.
#[derive(Clone)]
enum Kind {
    /// `pool` is the mode of its pool, if it is not the default.
    Gateway {
        rules: usize,
        build: Option<PathBuf>,
        pool: Option<&'static str>,
    },
    Peer(&'static Peer),
    Copy,
    Direct,
}

enum Running {
    Gateway(Gateway),
    Process(Process),
    /// No process: the load connects to the upstream.
    Direct,
}

/// An upstream, its certificates, and all running subjects in front of it.
pub(crate) struct Testbed {
    /// The subjects, the gateway first.
    pub(crate) subjects: Vec<Subject>,
    /// Gateways that are compared only with each other.
    pub(crate) variants: Vec<Subject>,
    /// Names of the proxies that are not installed or do not start.
    pub(crate) missing: Vec<&'static str>,
    upstream: Upstream,
    /// Processes and directories that must live as long as the subjects; dropped after them.
    _resources: Vec<Box<dyn Any>>,
}

/// The upstream of all subjects.
struct Upstream {
    /// Directory with the certificates.
    folder: PathBuf,
    /// Address with mutual TLS.
    tls: String,
    /// Address without TLS.
    plain: String,
    selection: Selection,
}

/// Which subjects are measured.
#[derive(Clone, Default)]
pub(crate) struct Selection {
    /// Names of the selected subjects; empty selects all.
    pub(crate) only: Vec<String>,
    /// Names and binaries of other builds of the gateway.
    pub(crate) builds: Vec<(String, PathBuf)>,
    /// Whether a missing proxy may be downloaded.
    pub(crate) fetch: bool,
}

impl Selection {
    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}

impl Testbed {
    /// Starts all selected subjects in front of a stub upstream that replies immediately.
    pub(crate) fn with_stub_upstream(selection: Selection) -> anyhow::Result<Self> {
        let (pki, directory) = (Pki::new()?, scratch::directory("bench")?);
        let folder = directory.path().to_owned();
        write_certificates(&pki, &folder)?;
        let (process, addresses) = child(&format!("upstream {}", folder.display()))?;
        let [tls, plain] = addresses.try_into().ok().context("the stub upstream did not print two addresses")?;
        let upstream = Upstream { folder, tls, plain, selection };
        let (mut subjects, missing) = upstream.start_all()?;
        if upstream.selection.has(COPY) {
            subjects.extend(upstream.start(&Kind::Copy)?);
        }
        for (name, uses_tls) in [(DIRECT_TLS, true), (DIRECT_PLAIN, false)] {
            if upstream.selection.has(name) {
                subjects.push(upstream.direct(name, uses_tls)?);
            }
        }
        let mut variants = Vec::new();
        // A second gateway with one rule shows by how much equal gateways differ.
        for (name, rules) in [("1 rule", 1), ("10,000 rules", 10_000), ("1 rule again", 1)] {
            let variant = upstream.start(&Kind::Gateway { rules, build: None, pool: None })?;
            if let Some(variant) = &variant {
                variant.await_idle();
            }
            variants.extend(variant.map(|variant| Subject { name: name.to_owned(), ..variant }));
        }
        let resources: Vec<Box<dyn Any>> = vec![Box::new(process), Box::new(directory), Box::new(pki)];
        Ok(Self { subjects, variants, missing, upstream, _resources: resources })
    }

    /// Starts all selected subjects in front of a real mongod; `None` if there is no mongod.
    pub(crate) fn with_mongod(selection: Selection) -> anyhow::Result<Option<Self>> {
        let transports = [Transport::MutualTls, Transport::Plain];
        let start = |transport| Mongod::start(MongodOptions { transport, ..MongodOptions::default() });
        let mongods: Vec<_> = transports.into_iter().filter_map(start).collect();
        let [tls, plain] = mongods.as_slice() else { return Ok(None) };
        let directory = scratch::directory("bench")?;
        let folder = directory.path().to_owned();
        write_certificates(&tls.pki, &folder)?;
        let upstream = Upstream { folder, tls: tls.address(), plain: plain.address(), selection };
        let (mut subjects, missing) = upstream.start_all()?;
        subjects.push(upstream.direct(DIRECT_TLS, true)?);
        for subject in &mut subjects {
            subject.server = tls.process_id();
        }
        let version = report::version(Command::new(mongod_binary::locate()?).arg("--version"));
        let direct = upstream.direct(DIRECT_PLAIN, false)?;
        subjects.push(Subject { server: plain.process_id(), version, ..direct });
        let resources: Vec<Box<dyn Any>> = vec![Box::new(mongods), Box::new(directory)];
        Ok(Some(Self { subjects, variants: Vec::new(), missing, upstream, _resources: resources }))
    }

    /// Starts the same subject again, in a new process; `None` if the subject has no process.
    pub(crate) fn start_again(&self, subject: &Subject) -> anyhow::Result<Option<Subject>> {
        self.upstream.start(&subject.kind)
    }
}

impl Upstream {
    /// Starts the gateway, its other builds and every selected proxy; also returns the names of the missing proxies.
    fn start_all(&self) -> anyhow::Result<(Vec<Subject>, Vec<&'static str>)> {
        let (mut subjects, mut missing) = (Vec::new(), Vec::new());
        if self.selection.has(GATEWAY) {
            subjects.extend(self.start(&Kind::Gateway { rules: RULES, build: None, pool: None })?);
        }
        for (name, pool) in POOLS.iter().filter(|(name, _)| self.selection.has(name)) {
            let other = self.start(&Kind::Gateway { rules: RULES, build: None, pool: Some(pool) })?;
            subjects.extend(other.map(|other| Subject { name: (*name).to_owned(), ..other }));
        }
        for (name, build) in &self.selection.builds {
            let other = self.start(&Kind::Gateway { rules: RULES, build: Some(build.clone()), pool: None })?;
            subjects.extend(other.map(|other| Subject { name: name.clone(), ..other }));
        }
        for peer in PEERS.iter().filter(|peer| self.selection.has(peer.name)) {
            match self.start(&Kind::Peer(peer))? {
                Some(subject) => subjects.push(subject),
                None => missing.push(peer.name),
            }
        }
        Ok((subjects, missing))
    }

    fn start(&self, kind: &Kind) -> anyhow::Result<Option<Subject>> {
        let (name, version, address, running) = match kind {
            Kind::Gateway { rules, build, pool } => {
                let gateway = self.gateway(*rules, build.clone(), *pool)?;
                let program = build.as_deref().unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_mongate")));
                let version = report::version(Command::new(program).arg("--version"));
                (GATEWAY, version, gateway.address().to_owned(), Running::Gateway(gateway))
            }
            Kind::Peer(peer) => {
                let Some(started) = peer.start(&self.folder, &self.tls, self.selection.fetch)? else { return Ok(None) };
                (peer.name, started.version, started.address, Running::Process(started.process))
            }
            Kind::Copy => {
                let (process, addresses) = child(&format!("copy {}", self.plain))?;
                let address = addresses.first().cloned().context("the copy did not print an address")?;
                (COPY, "tokio, no TLS".to_owned(), address, Running::Process(process))
            }
            Kind::Direct => return Ok(None),
        };
        let target = Target { address, tls: None };
        Ok(Some(Subject { name: name.to_owned(), target, server: None, version, kind: kind.clone(), running }))
    }

    fn direct(&self, name: &str, uses_tls: bool) -> anyhow::Result<Subject> {
        let tls = if uses_tls { Some((Arc::new(client_config(&self.folder)?), "localhost")) } else { None };
        let address = if uses_tls { &self.tls } else { &self.plain };
        let target = Target { address: address.clone(), tls };
        let (version, kind, running) = (String::new(), Kind::Direct, Running::Direct);
        Ok(Subject { name: name.to_owned(), target, server: None, version, kind, running })
    }

    fn gateway(&self, rules: usize, build: Option<PathBuf>, pool: Option<&str>) -> anyhow::Result<Gateway> {
        // All rules differ and every third one denies. The last one allows the load, so that none before it ends the
        // search.
        let rule = |number: usize| {
            let (action, collections) = match number {
                last if last == rules => ("allow", String::new()),
                other if other.is_multiple_of(3) => ("deny", format!(", collections = [\"c-{other}\"]")),
                other => ("allow", format!(", collections = [\"c-{other}\", \"d-{other}.*\"]")),
            };
            format!(
                "[[policy.rule]]\nname = \"rule-{number}\"\naction = \"{action}\"\n\
                 to = [{{ databases = [\"shop\"]{collections} }}]\n"
            )
        };
        Gateway::try_start(&GatewayOptions {
            top: "workers = 2\n".to_owned(),
            upstream: pool.map(|mode| format!("pool.mode = {mode:?}\n")).unwrap_or_default(),
            upstream_address: self.tls.replace("127.0.0.1", "localhost"),
            upstream_tls: format!(
                "certificate_file = '{0}/client.pem'\nca_file = '{0}/ca.pem'\nserver_name = 'localhost'\n",
                self.folder.display()
            ),
            tables: (1..=rules).map(rule).collect(),
            log_level: Some("info"),
            build,
            ..GatewayOptions::default()
        })
    }
}

impl Subject {
    /// A subject that others have started, possibly on another machine.
    pub(crate) fn external(name: &str, target: Target) -> Self {
        let (version, kind, running) = (String::new(), Kind::Direct, Running::Direct);
        Self { name: name.to_owned(), target, server: None, version, kind, running }
    }

    /// Returns the processor time of all its processes and threads so far; `None` if it has no process.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        self.id().map(processes::processor_time)
    }

    /// Waits until it uses no processor time: a gateway with many rules checks them for some seconds after its start.
    fn await_idle(&self) {
        let ticks = || self.processor_time().map(|time| time.as_millis() / 10);
        until_steady("the gateway is idle", Duration::from_millis(500), ticks);
    }

    /// Returns the resident memory of all its processes in KiB; `None` if it has no process.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        self.id().map(processes::memory_kib)
    }

    /// Returns name, version and the cipher suite of its connections to the stub upstream. The stub upstream reports
    /// the suite in its reply to a find without a size.
    pub(crate) async fn facts(&self) -> anyhow::Result<Facts> {
        let (mut connection, mut reply) = (self.target.connect().await?, Vec::new());
        connection.ask(&Work::Connection.request(), &mut reply).await?;
        connection.ask(&message(&rawdoc! { "find": "orders", "filter": {}, "$db": "shop" }), &mut reply).await?;
        let body = RawDocument::from_bytes(reply.get(5..).context("a reply without a body")?)?;
        let batch = body.get_document("cursor")?.get_array("firstBatch")?;
        let first = batch.into_iter().next().context("an empty batch")??;
        let suite = first.as_document().context("no document")?.get_str("suite")?.to_owned();
        Ok(Facts { name: self.name.clone(), version: self.version.clone(), suite })
    }

    /// Returns its version; empty if unknown.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the load connects to the upstream without a proxy.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.kind, Kind::Direct)
    }

    fn id(&self) -> Option<u32> {
        match &self.running {
            Running::Gateway(gateway) => Some(gateway.process_id()),
            Running::Process(process) => Some(process.id()),
            Running::Direct => None,
        }
    }
}

/// Starts this program as a child with a role, and returns the addresses that it listens on.
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

/// Returns a TLS configuration from `ca.pem` and `client.pem` in `folder`.
pub(crate) fn client_config(folder: &Path) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let file = folder.join("client.pem");
    let chain = CertificateDer::pem_file_iter(&file)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&file)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}
