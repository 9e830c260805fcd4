//! A real mongod in a directory of its own. It requires mutual TLS by default.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use bson::{Document, doc};
use tempfile::TempDir;

use super::certificates::{First, Issued, Pki, Wanted};
use super::mongod_binary;
use super::ports;
use super::process::Process;
use super::provision;
use super::raw::Connection;
use super::scratch;

/// Limit for the start of a mongod, which takes about a second, and more on a busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Attempts to start a mongod whose free port another program takes first.
const PORT_ATTEMPTS_MAX: usize = 5;
/// By default mongod preallocates three files of 100 MB. One file that fits the largest document is enough.
pub const SMALL_JOURNAL: &str = "log=(file_max=64MB,prealloc=false)";
/// Exit code of a mongod whose port is in use.
const EXIT_ADDRESS_IN_USE: i32 = 48;

/// Options of a mongod. The default requires mutual TLS and is not a member of a replica set.
#[derive(Debug, Clone)]
pub struct MongodOptions {
    /// How clients connect.
    pub transport: Transport,
    /// Standalone, or the only member of a replica set, which has transactions, retryable writes and change streams.
    pub role: Role,
    /// The server certificate.
    pub certificate: Wanted,
    /// Files of the test, instead of `certificate` and the CA of the kit.
    pub files: Option<ServerFiles>,
    /// `--tlsDisabledProtocols`, for example `TLS1_3`.
    pub disabled_protocols: Option<&'static str>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// The TLS files of a mongod.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// `--tlsCertificateKeyFile`.
    pub certificate_key: PathBuf,
    /// `--tlsCAFile`.
    pub ca: PathBuf,
}

/// How clients connect to a mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS with a client certificate.
    MutualTls,
    /// TLS; a client certificate is optional, but must be valid.
    Tls,
    /// Plain TCP.
    Plain,
}

/// Role of a mongod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Standalone.
    Standalone,
    /// Primary and only member of the replica set `kit`.
    ReplicaSet,
}

/// A running mongod. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Mongod {
    // Dropped in this order: the process ends before its directory is removed.
    process: Option<Process>,
    directory: TempDir,
    options: MongodOptions,
    port: u16,
    /// The PKI of this mongod; issue further certificates from it.
    pub pki: Pki,
    /// A valid client certificate.
    pub client: Issued,
}

impl Default for MongodOptions {
    fn default() -> Self {
        Self {
            transport: Transport::MutualTls,
            role: Role::Standalone,
            certificate: Wanted::server(),
            files: None,
            disabled_protocols: None,
            arguments: Vec::new(),
        }
    }
}

impl Mongod {
    /// Starts a mongod and waits until it is ready. `None` if there is no mongod, see [`provision::or_skip`].
    ///
    /// # Panics
    /// If there is a mongod but it does not start.
    pub fn start(options: MongodOptions) -> Option<Self> {
        provision::or_skip("a real mongod", mongod_binary::locate())?;
        Some(Self::try_start(options).expect("mongod starts"))
    }

    /// A standalone mongod that concurrent tests share. It ends with its last user. Use a database of your own.
    pub fn shared_standalone() -> Option<Arc<Self>> {
        static SHARED: Shared = Shared::new();
        SHARED.take(Role::Standalone)
    }

    /// As [`Mongod::shared_standalone`], but the only member of a replica set. Its hello has its own address, so
    /// connect with `directConnection=true`.
    pub fn shared_replica_set() -> Option<Arc<Self>> {
        static SHARED: Shared = Shared::new();
        SHARED.take(Role::ReplicaSet)
    }

    /// Starts a mongod and waits until it is ready.
    pub fn try_start(options: MongodOptions) -> anyhow::Result<Self> {
        let pki = Pki::new()?;
        let client = pki.issue("client", &Wanted::default())?;
        let directory = scratch::directory("mongod")?;
        pki.issue("server", &options.certificate)?.combined(First::Certificate)?;
        let mut mongod = Self { process: None, directory, options, port: 0, pki, client };
        for _ in 0..PORT_ATTEMPTS_MAX {
            mongod.port = ports::free()?;
            if mongod.launch()? {
                mongod.become_ready()?;
                return Ok(mongod);
            }
        }
        bail!("other programs took {PORT_ATTEMPTS_MAX} free ports before mongod could listen")
    }

    /// Starts the mongod again on its port with its data, after [`Mongod::stop`] or [`Mongod::kill`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if !self.launch()? {
            bail!("another program uses port {}", self.port);
        }
        if self.options.role == Role::ReplicaSet {
            self.await_primary()?;
        }
        Ok(())
    }

    /// Replaces the server certificate of the running mongod. Existing connections keep the old one.
    pub fn renew(&self, server: &Issued) -> anyhow::Result<()> {
        let file = server.combined(First::Certificate)?;
        let configured = self.server_file();
        if file != configured {
            std::fs::rename(file, configured)?;
        }
        self.run(&doc! { "rotateCertificates": 1, "$db": "admin" })?;
        Ok(())
    }

    /// Shuts the mongod down (`SIGTERM`) and waits for its end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(libc::SIGTERM)?;
            process.wait(START_TIMEOUT)?;
        }
        Ok(())
    }

    /// Kills the mongod (`SIGKILL`) and waits for its end.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the mongod (`SIGSTOP`): its kernel accepts connections and it never answers, like a machine that hangs.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.as_ref().context("mongod is not running")?.signal(libc::SIGSTOP)
    }

    /// Continues the mongod after [`Mongod::freeze`].
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process.as_ref().context("mongod is not running")?.signal(libc::SIGCONT)
    }

    /// The process ID, while it is running.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection string to the mongod without a gateway.
    pub fn uri(&self) -> anyhow::Result<String> {
        let address = self.address();
        if self.options.transport == Transport::Plain {
            return Ok(format!("mongodb://{address}/?directConnection=true"));
        }
        let (ca, client) = (self.pki.ca_file(), self.client.combined(First::Certificate)?);
        let files = format!("tlsCAFile={}&tlsCertificateKeyFile={}", ca.display(), client.display());
        Ok(format!("mongodb://{address}/?directConnection=true&tls=true&{files}"))
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A raw connection, with TLS unless the transport is plain.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        match self.options.transport {
            Transport::Plain => Connection::plain(&self.address()),
            Transport::MutualTls | Transport::Tls => Connection::tls(&self.address(), &self.pki, &self.client),
        }
    }

    /// Runs one command on a new connection. `command` must have `$db`.
    pub fn run(&self, command: &Document) -> anyhow::Result<Document> {
        self.connect()?.run(command)
    }

    /// The log, one JSON object per line.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::stdout).unwrap_or_default()
    }

    /// Starts the process and waits until it listens. `false` if the port is in use.
    fn launch(&mut self) -> anyhow::Result<bool> {
        let mut process = Process::start("mongod", self.command()?)?;
        let listens = process.wait_for_line(START_TIMEOUT, |line| {
            line.text.contains("\"msg\":\"Waiting for connections\"").then_some(())
        });
        if let Err(error) = listens {
            let ended = process.wait(Duration::ZERO).ok().and_then(|status| status.code());
            return if ended == Some(EXIT_ADDRESS_IN_USE) { Ok(false) } else { Err(error) };
        }
        self.process = Some(process);
        Ok(true)
    }

    fn server_file(&self) -> PathBuf {
        self.server_files().certificate_key
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(mongod_binary::locate()?);
        command.arg("--dbpath").arg(self.directory.path());
        command.args(["--port", &self.port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"]);
        command.args(["--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"]);
        command.args(["--wiredTigerEngineConfigString", SMALL_JOURNAL]);
        if self.options.transport != Transport::Plain {
            let files = self.server_files();
            command.args(["--tlsMode", "requireTLS", "--tlsCAFile"]).arg(files.ca);
            command.arg("--tlsCertificateKeyFile").arg(files.certificate_key);
        }
        if self.options.transport == Transport::Tls {
            command.arg("--tlsAllowConnectionsWithoutCertificates");
        }
        if let Some(protocols) = self.options.disabled_protocols {
            command.args(["--tlsDisabledProtocols", protocols]);
        }
        if self.options.role == Role::ReplicaSet {
            command.args(["--replSet", "kit"]);
        }
        command.args(&self.options.arguments);
        Ok(command)
    }

    fn server_files(&self) -> ServerFiles {
        self.options.files.clone().unwrap_or_else(|| ServerFiles {
            certificate_key: self.pki.directory().join("server-combined.pem"),
            ca: self.pki.ca_file(),
        })
    }

    fn become_ready(&self) -> anyhow::Result<()> {
        if self.options.files.is_some() {
            // The kit's client certificate is not from the CA of these files, so it cannot connect. mongod listens.
            return Ok(());
        }
        self.run(&doc! { "ping": 1, "$db": "admin" })?;
        if self.options.role == Role::ReplicaSet {
            let members = vec![doc! { "_id": 0, "host": self.address() }];
            let set = doc! { "_id": "kit", "members": members, "writeConcernMajorityJournalDefault": false };
            self.run(&doc! { "replSetInitiate": set, "$db": "admin" })?;
            self.await_primary()?;
        }
        Ok(())
    }

    /// Waits for the primary with hello: mongod replies to a hello with the last `topologyVersion` when its role
    /// changes.
    fn await_primary(&self) -> anyhow::Result<()> {
        let mut connection = self.connect()?;
        let mut hello = doc! { "hello": 1, "$db": "admin" };
        for _ in 0..20 {
            let reply = connection.run(&hello)?;
            if reply.get_bool("isWritablePrimary").unwrap_or(false) {
                return Ok(());
            }
            hello.insert("topologyVersion", reply.get_document("topologyVersion")?.clone());
            hello.insert("maxAwaitTimeMS", 5_000);
        }
        bail!("mongod does not become primary")
    }
}

/// A mongod that runs as long as it has users.
struct Shared(Mutex<Weak<Mongod>>);

impl Shared {
    const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    fn take(&self, role: Role) -> Option<Arc<Mongod>> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = current.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Mongod::start(MongodOptions { role, ..MongodOptions::default() })?);
        *current = Arc::downgrade(&started);
        Some(started)
    }
}
