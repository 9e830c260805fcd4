//! What is measured: the gateway, the proxies that are installed, and no proxy at all, all configured alike.
//!
//! TLS 1.3 with a client certificate towards the upstream, whose chain and name are verified; plain text towards the load.

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
pub(crate) const COPY: &str = "plain copy";
pub(crate) const DIRECT_TLS: &str = "direct TLS";
pub(crate) const DIRECT_PLAIN: &str = "direct plain";

/// Rules that are in force while the gateway is measured beside others.
const RULES: usize = 100;

/// Starting takes milliseconds; a busy machine may need long.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// One thing that the load can be put on.
pub(crate) struct Subject {
    /// As it stands in the table.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) target: Target,
    /// The mongod behind it, where that is one that counts.
    pub(crate) server: Option<u32>,
    version: String,
    kind: Kind,
    running: Running,
}

/// How it is started.
#[derive(Clone)]
enum Kind {
    Gateway { rules: usize, build: Option<PathBuf> },
    Peer(&'static Peer),
    Copy,
    Nothing,
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
    /// Gateways that are compared with each other only.
    pub(crate) variants: Vec<Subject>,
    /// What was not found on this machine, or does not start.
    pub(crate) missing: Vec<&'static str>,
    upstream: Upstream,
    /// Ends with the scene, and after the subjects.
    _kept: Vec<Box<dyn Any>>,
}

/// What all subjects lead to.
struct Upstream {
    /// Of the certificates.
    folder: PathBuf,
    /// With mutual TLS.
    sealed: String,
    /// Without.
    plain: String,
    cast: Cast,
}

/// Who takes part.
#[derive(Clone, Default)]
pub(crate) struct Cast {
    /// Only those of that name; all, where it is empty.
    pub(crate) only: Vec<String>,
    /// Other builds of the gateway beside this one, and what they are called.
    pub(crate) builds: Vec<(String, PathBuf)>,
    /// Whether a peer may be fetched.
    pub(crate) fetch: bool,
}

impl Cast {
    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}

impl Scene {
    /// Everything that is installed, before an upstream that answers at once.
    pub(crate) fn before_fast_upstream(cast: Cast) -> anyhow::Result<Self> {
        let (pki, directory) = (Pki::new()?, scratch::directory("bench")?);
        let folder = directory.path().to_owned();
        write_certificates(&pki, &folder)?;
        let (process, addresses) = child(&format!("upstream {}", folder.display()))?;
        let [sealed, plain] = addresses.try_into().ok().context("the upstream names no two ports")?;
        let upstream = Upstream { folder, sealed, plain, cast };
        let (mut subjects, missing) = upstream.start_all()?;
        if upstream.cast.has(COPY) {
            subjects.extend(upstream.start(&Kind::Copy)?);
        }
        for (name, is_sealed) in [(DIRECT_TLS, true), (DIRECT_PLAIN, false)] {
            if upstream.cast.has(name) {
                subjects.push(upstream.direct(name, is_sealed)?);
            }
        }
        let mut variants = Vec::new();
        // The same once more says by how much two differ that are equal.
        for (name, rules) in [("1 rule", 1), ("10,000 rules", 10_000), ("1 rule again", 1)] {
            let variant = upstream.start(&Kind::Gateway { rules, build: None })?;
            if let Some(variant) = &variant {
                variant.await_rest();
            }
            variants.extend(variant.map(|variant| Subject { name: name.to_owned(), ..variant }));
        }
        let kept: Vec<Box<dyn Any>> = vec![Box::new(process), Box::new(directory), Box::new(pki)];
        Ok(Self { subjects, variants, missing, upstream, _kept: kept })
    }

    /// Everything that is installed, before a real mongod; `None` where there is none to be had.
    pub(crate) fn before_mongod(cast: Cast) -> anyhow::Result<Option<Self>> {
        let transports = [Transport::MutualTls, Transport::Plain];
        let start = |transport| Mongod::start(MongodOptions { transport, ..MongodOptions::default() });
        let mongods: Vec<_> = transports.into_iter().filter_map(start).collect();
        let [sealed, plain] = mongods.as_slice() else { return Ok(None) };
        let directory = scratch::directory("bench")?;
        let folder = directory.path().to_owned();
        write_certificates(&sealed.pki, &folder)?;
        let upstream = Upstream { folder, sealed: sealed.address(), plain: plain.address(), cast };
        let (mut subjects, missing) = upstream.start_all()?;
        subjects.push(upstream.direct(DIRECT_TLS, true)?);
        for subject in &mut subjects {
            subject.server = sealed.process_id();
        }
        let version = report::version(Command::new(mongod_binary::locate()?).arg("--version"));
        let direct = upstream.direct(DIRECT_PLAIN, false)?;
        subjects.push(Subject { server: plain.process_id(), version, ..direct });
        let kept: Vec<Box<dyn Any>> = vec![Box::new(mongods), Box::new(directory)];
        Ok(Some(Self { subjects, variants: Vec::new(), missing, upstream, _kept: kept }))
    }

    /// The same subject once more, in a process that has not done anything yet; `None` where there is no process.
    pub(crate) fn again(&self, subject: &Subject) -> anyhow::Result<Option<Subject>> {
        self.upstream.start(&subject.kind)
    }
}

impl Upstream {
    /// The gateway, and every peer.
    fn start_all(&self) -> anyhow::Result<(Vec<Subject>, Vec<&'static str>)> {
        let (mut subjects, mut missing) = (Vec::new(), Vec::new());
        if self.cast.has(GATEWAY) {
            subjects.extend(self.start(&Kind::Gateway { rules: RULES, build: None })?);
        }
        for (name, build) in &self.cast.builds {
            let other = self.start(&Kind::Gateway { rules: RULES, build: Some(build.clone()) })?;
            subjects.extend(other.map(|other| Subject { name: name.clone(), ..other }));
        }
        for peer in PEERS.iter().filter(|peer| self.cast.has(peer.name)) {
            match self.start(&Kind::Peer(peer))? {
                Some(subject) => subjects.push(subject),
                None => missing.push(peer.name),
            }
        }
        Ok((subjects, missing))
    }

    fn start(&self, kind: &Kind) -> anyhow::Result<Option<Subject>> {
        let (name, version, address, running) = match kind {
            Kind::Gateway { rules, build } => {
                let gateway = self.gateway(*rules, build.clone())?;
                let program = build.as_deref().unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_mongate")));
                let version = report::version(Command::new(program).arg("--version"));
                (GATEWAY, version, gateway.address().to_owned(), Running::Gateway(gateway))
            }
            Kind::Peer(peer) => {
                let Some(started) = peer.start(&self.folder, &self.sealed, self.cast.fetch)? else { return Ok(None) };
                (peer.name, started.version, started.address, Running::Process(started.process))
            }
            Kind::Copy => {
                let (process, addresses) = child(&format!("copy {}", self.plain))?;
                let address = addresses.first().cloned().context("the copy names no port")?;
                (COPY, "tokio, no TLS".to_owned(), address, Running::Process(process))
            }
            Kind::Nothing => return Ok(None),
        };
        let target = Target { address, tls: None };
        Ok(Some(Subject { name: name.to_owned(), target, server: None, version, kind: kind.clone(), running }))
    }

    fn direct(&self, name: &str, is_sealed: bool) -> anyhow::Result<Subject> {
        let tls = if is_sealed { Some((Arc::new(client_config(&self.folder)?), "localhost")) } else { None };
        let address = if is_sealed { &self.sealed } else { &self.plain };
        let target = Target { address: address.clone(), tls };
        let (version, kind, running) = (String::new(), Kind::Nothing, Running::Nothing);
        Ok(Subject { name: name.to_owned(), target, server: None, version, kind, running })
    }

    fn gateway(&self, rules: usize, build: Option<PathBuf>) -> anyhow::Result<Gateway> {
        // Each is another, every third refuses, and the last lets the load pass, so that none before it ends the search.
        let rule = |number: usize| {
            let (action, collections) = match number {
                last if last == rules => ("allow", String::new()),
                other if other.is_multiple_of(3) => ("deny", format!(", collections = [\"c-{other}\"]")),
                other => ("allow", format!(", collections = [\"c-{other}\", \"d-{other}.*\"]")),
            };
            format!(
                "[[policy.rule]]\nname = \"rule-{number}\"\naction = \"{action}\"\nto = [{{ databases = [\"shop\"]{collections} }}]\n"
            )
        };
        Gateway::try_start(&GatewayOptions {
            top: "workers = 2\n".to_owned(),
            upstream_address: self.sealed.replace("127.0.0.1", "localhost"),
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
    /// Somebody else's, somewhere else.
    pub(crate) fn elsewhere(name: &str, target: Target) -> Self {
        let (version, kind, running) = (String::new(), Kind::Nothing, Running::Nothing);
        Self { name: name.to_owned(), target, server: None, version, kind, running }
    }

    /// Processor time of all its processes and threads so far; `None` where there is no process.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        self.id().map(processes::processor_time)
    }

    /// Waits until it does nothing of its own any more: a gateway looks at its rules for some seconds when there are many.
    fn await_rest(&self) {
        let ticks = || self.processor_time().map(|time| time.as_millis() / 10);
        until_steady("the gateway rests", Duration::from_millis(500), ticks);
    }

    /// Resident memory of all its processes, in KiB.
    pub(crate) fn memory_kib(&self) -> Option<u64> {
        self.id().map(processes::memory_kib)
    }

    /// Who it is, and how its connections to the fast upstream are encrypted: that one tells where it is asked.
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

    /// What can be known of it without asking.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the load speaks to the upstream itself.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.kind, Kind::Nothing)
    }

    fn id(&self) -> Option<u32> {
        match &self.running {
            Running::Gateway(gateway) => Some(gateway.process_id()),
            Running::Process(process) => Some(process.id()),
            Running::Nothing => None,
        }
    }
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

/// From `ca.pem` and `client.pem` in `folder`.
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
