//! A real replica set: several mongod that require mutual TLS, with elections within a second or two.
//!
//! Members are named `localhost:PORT`. A client on this machine could connect to them directly, past the gateway;
//! whether one did is determined by [`ReplicaSet::strangers`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bson::{Bson, Document, doc};
use serde_json::Value;
use tempfile::TempDir;

use super::certificates::{First, Issued, Pki, Wanted};
use super::mongod::SMALL_JOURNAL;
use super::mongod_binary;
use super::ports;
use super::process::Process;
use super::provision;
use super::raw::Connection;
use super::scratch;
use super::waiting;

/// Limit for the start of a mongod, which takes about a second and more on a busy machine.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Limit for elections and initial syncs, which take a few seconds.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Limit for connections that are being established to show their certificate.
const STRANGERS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two polls of the members.
const PACE: Duration = Duration::from_millis(50);
/// Attempts to start a mongod whose free port another program takes first.
const PORT_ATTEMPTS_MAX: usize = 5;
/// Default port of mongod.
const DEFAULT_PORT: u16 = 27_017;
/// Exit code of a mongod whose port is in use.
const EXIT_ADDRESS_IN_USE: i32 = 48;
/// IDs of mongod's log messages.
const LOG_ACCEPTED: i64 = 22_943;
const LOG_ENDED: i64 = 22_944;
const LOG_SHOWN_CERTIFICATE: i64 = 23_229;
const LOG_NETWORK_ERROR: i64 = 22_986;
/// Errors that mongod logs for a connection whose client began TLS and then closed it; the second if bytes of mongod
/// were unread. A client that does not speak TLS gets no byte, and mongod logs another error.
const TLS_ABANDONED: [&str; 2] = ["stream truncated", "Connection reset by peer"];
/// The error that mongod logs for a connection whose client closed it without a byte; mongod 6.0.27 also if the client
/// began TLS.
const CLOSED_BY_CLIENT: &str = "Connection closed by peer";
/// Makes mongod log the client certificates that it receives, and little else.
const LOG_VERBOSITY: &str =
    "logComponentVerbosity={network:{verbosity:2,asio:{verbosity:0},connectionPool:{verbosity:0}}}";

/// Options of a set. The default has three members with data, and no authorization.
#[derive(Debug, Clone)]
pub struct SetOptions {
    /// Name of the set.
    pub name: &'static str,
    /// Initial members.
    pub members: Vec<MemberOptions>,
    /// Whether the set has authorization.
    pub users: Users,
    /// Further arguments of every member.
    pub arguments: Vec<&'static str>,
    /// `electionTimeoutMillis`. A short timeout causes an unexpected election now and then on a busy machine, so use it
    /// for tests of elections only.
    pub election_timeout: Duration,
}

/// Options of a member. The default has data, votes and can become primary.
#[derive(Debug, Clone, Default)]
pub struct MemberOptions {
    /// An arbiter: votes and has no data.
    pub arbiter: bool,
    /// Cannot become primary, which hello calls passive.
    pub passive: bool,
    /// Passive, and not listed in hello.
    pub hidden: bool,
    /// Tags of the member.
    pub tags: Vec<(&'static str, &'static str)>,
    /// Host name of the member, with the default port of mongod; in a namespace that has the name. The default is
    /// `localhost` with a free port.
    pub host: Option<&'static str>,
}

/// Whether a set has authorization, and how its members authenticate each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// No authorization: every client with a valid certificate can do everything.
    Unknown,
    /// Authorization; the members share a key file.
    KeyFile,
    /// Authorization; a client certificate with the `O` and `OU` of the members is a member (`clusterAuthMode x509`).
    ClusterCertificates,
}

/// A running set. Dropping it kills its members and removes their data.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Member>,
    options: SetOptions,
    next_id: i32,
    /// The PKI of this set; issue further certificates from it.
    pub pki: Arc<Pki>,
    /// A valid client certificate. With authorization, it is not a user.
    pub client: Issued,
    /// With authorization: the certificate of a user with all rights.
    operator: Issued,
}

#[derive(Debug)]
struct Member {
    // Dropped in this order: the process ends before its directory is removed.
    process: Option<Process>,
    /// Output of the member's previous processes.
    earlier_logs: Vec<String>,
    directory: TempDir,
    options: MemberOptions,
    id: i32,
    port: u16,
}

impl Default for SetOptions {
    fn default() -> Self {
        Self {
            name: "rs0",
            members: vec![MemberOptions::default(); 3],
            users: Users::Unknown,
            arguments: Vec::new(),
            election_timeout: Duration::from_millis(1_500),
        }
    }
}

impl MemberOptions {
    /// A member with one tag.
    pub fn tagged(name: &'static str, value: &'static str) -> Self {
        Self { tags: vec![(name, value)], ..Self::default() }
    }

    /// A member with this host name.
    pub fn at(host: &'static str) -> Self {
        Self { host: Some(host), ..Self::default() }
    }

    /// An arbiter.
    pub fn arbiter() -> Self {
        Self { arbiter: true, ..Self::default() }
    }

    /// A passive member.
    pub fn passive() -> Self {
        Self { passive: true, ..Self::default() }
    }

    /// A hidden member.
    pub fn hidden() -> Self {
        Self { hidden: true, ..Self::default() }
    }
}

impl ReplicaSet {
    /// Starts a set and waits until it has a primary and all members are ready. `None` if there is no mongod, see
    /// [`provision::or_skip`].
    ///
    /// # Panics
    /// If there is a mongod but the set does not start.
    pub fn start(options: SetOptions) -> Option<Self> {
        Self::start_with(&Arc::new(Pki::new().expect("a directory for keys")), options)
    }

    /// As [`ReplicaSet::start`], with the PKI of another set, so that the same clients can connect.
    ///
    /// # Panics
    /// As [`ReplicaSet::start`].
    pub fn start_with(pki: &Arc<Pki>, options: SetOptions) -> Option<Self> {
        provision::or_skip("a real mongod", mongod_binary::locate())?;
        Some(Self::try_start(Arc::clone(pki), options).expect("the replica set starts"))
    }

    /// A set of three members that concurrent tests share. It ends with its last user. Use a database of your own, and
    /// do not disturb the primary.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<ReplicaSet>> = Mutex::new(Weak::new());
        let mut current = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = current.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start(SetOptions::default())?);
        *current = Arc::downgrade(&started);
        Some(started)
    }

    fn try_start(pki: Arc<Pki>, options: SetOptions) -> anyhow::Result<Self> {
        let client = pki.issue("client", &Wanted::default())?;
        let operator = pki.issue("operator", &Wanted { common_name: "operator", ..Wanted::default() })?;
        let mut server = Wanted::server();
        server.names.extend(options.members.iter().filter_map(|member| member.host));
        pki.issue("server", &server)?.combined(First::Certificate)?;
        let key_file = pki.directory().join("key-file");
        fs::write(&key_file, "bW9uZ2F0ZSBraXQ=\n")?;
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
        let mut set = Self { members: Vec::new(), options, next_id: 0, pki, client, operator };
        for member in set.options.members.clone() {
            set.launch_new(member)?;
        }
        set.initiate()?;
        Ok(set)
    }

    /// Name of the set.
    pub fn name(&self) -> &'static str {
        self.options.name
    }

    /// Names of all members in the configuration of the set, in the order in which they were added.
    pub fn members(&self) -> Vec<String> {
        self.members.iter().map(Member::name).collect()
    }

    /// With authorization: the certificate of a user with all rights.
    pub fn operator(&self) -> &Issued {
        &self.operator
    }

    /// A connection string to the set without a gateway.
    pub fn uri(&self) -> anyhow::Result<String> {
        let (ca, client) = (self.pki.ca_file(), self.client.combined(First::Certificate)?);
        let files = format!("tlsCAFile={}&tlsCertificateKeyFile={}", ca.display(), client.display());
        Ok(format!("mongodb://{}/?replicaSet={}&tls=true&{files}", self.members().join(","), self.name()))
    }

    /// A raw connection to a member. With authorization, it is authenticated as the user with all rights.
    pub fn connect(&self, member: &str) -> anyhow::Result<Connection> {
        let mut connection = self.try_connect(self.member(member))?;
        if self.options.users != Users::Unknown && !self.member(member).options.arbiter {
            connection.run(&doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" })?;
        }
        Ok(connection)
    }

    /// Runs one command on a member. `command` must have `$db`.
    pub fn run(&self, member: &str, command: &Document) -> anyhow::Result<Document> {
        self.connect(member)?.run(command)
    }

    /// Runs one command on the primary.
    pub fn run_on_primary(&self, command: &Document) -> anyhow::Result<Document> {
        self.run(&self.primary(), command)
    }

    /// Waits for a primary and returns its name.
    ///
    /// # Panics
    /// If there is none within the time limit.
    pub fn primary(&self) -> String {
        waiting::until("the set has a primary", || self.primary_now())
    }

    /// The current primary, if there is one.
    pub fn primary_now(&self) -> Option<String> {
        self.members.iter().find(|member| self.is_primary(member)).map(Member::name)
    }

    /// Waits for a secondary and returns its name.
    ///
    /// # Panics
    /// If there is none within the time limit.
    pub fn secondary(&self) -> String {
        let is_secondary = |member: &&Member| self.hello(member).is_some_and(|hello| truth(&hello, "secondary"));
        waiting::until("the set has a secondary", || self.members.iter().find(is_secondary).map(Member::name))
    }

    /// Makes the primary step down and returns the next primary.
    pub fn step_down(&self) -> anyhow::Result<String> {
        let before = self.primary();
        let step_down = doc! { "replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 1, "$db": "admin" };
        // The command fails while the secondaries lag or another step-down is in progress.
        let stepped_down = waiting::poll(SETTLE_TIMEOUT, PACE, || match self.run(&before, &step_down) {
            Err(error) if self.primary_now().is_none_or(|now| now == before) => Err(error),
            _ => Ok(()),
        });
        stepped_down.context("the primary does not step down")?;
        Ok(waiting::until("another member is primary", || self.primary_now().filter(|now| *now != before)))
    }

    /// Kills a member (`SIGKILL`) and waits for its end.
    pub fn kill(&mut self, member: &str) {
        let member = self.member_mut(member);
        let Some(mut process) = member.process.take() else { return };
        process.kill();
        // Waits until the output is complete.
        let _ = process.wait(START_TIMEOUT);
        member.earlier_logs.push(process.stdout());
    }

    /// Starts a member again on its port with its data, after [`ReplicaSet::kill`].
    pub fn restart(&mut self, member: &str) -> anyhow::Result<()> {
        let at = self.position(member);
        let launched = self.launch(&self.members[at])?;
        let process = launched.with_context(|| format!("another program uses the port of {member}"))?;
        self.members[at].process = Some(process);
        Ok(())
    }

    /// Stops a member (`SIGSTOP`): its kernel accepts connections and it never answers, like a machine that hangs.
    pub fn freeze(&self, member: &str) -> anyhow::Result<()> {
        self.member(member).process.as_ref().context("the member is not running")?.signal(libc::SIGSTOP)
    }

    /// Continues a member after [`ReplicaSet::freeze`].
    pub fn thaw(&self, member: &str) -> anyhow::Result<()> {
        self.member(member).process.as_ref().context("the member is not running")?.signal(libc::SIGCONT)
    }

    /// Starts another member, adds it to the set, waits until it is ready, and returns its name.
    pub fn add(&mut self, options: MemberOptions) -> anyhow::Result<String> {
        self.launch_new(options)?;
        let added = self.members.last().context("no member")?;
        let (name, entry) = (added.name(), added.configuration());
        self.reconfigure(|configuration| {
            let members = configuration.get_array_mut("members").expect("a configuration has members");
            members.push(Bson::Document(entry));
        })?;
        self.await_settled()?;
        Ok(name)
    }

    /// Removes a member that is not primary from the set, and ends it.
    pub fn remove(&mut self, member: &str) -> anyhow::Result<()> {
        self.reconfigure(|configuration| {
            let members = configuration.get_array_mut("members").expect("a configuration has members");
            members.retain(|entry| entry.as_document().and_then(|entry| entry.get_str("host").ok()) != Some(member));
        })?;
        let at = self.position(member);
        self.members.remove(at);
        Ok(())
    }

    /// Changes the configuration of the set, with the next version.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Document)) -> anyhow::Result<()> {
        let mut current = self.run_on_primary(&doc! { "replSetGetConfig": 1, "$db": "admin" })?;
        let mut configuration = std::mem::take(current.get_document_mut("config")?);
        configuration.insert("version", configuration.get_i32("version")? + 1);
        change(&mut configuration);
        // mongod rejects a configuration until a majority has the previous one.
        let command = doc! { "replSetReconfig": configuration, "$db": "admin" };
        let reconfigured = waiting::poll(SETTLE_TIMEOUT, PACE, || self.run_on_primary(&command));
        reconfigured.map(drop).context("the set does not accept the new configuration")
    }

    /// Waits until there is a primary and all members are ready.
    pub fn await_settled(&self) -> anyhow::Result<()> {
        let settled = waiting::poll(SETTLE_TIMEOUT, PACE, || match self.states() {
            Ok(states) if self.is_settled(&states) => Ok(()),
            states => Err(states),
        });
        settled.map_err(|states| anyhow!("the members do not become ready: {states:?}"))
    }

    /// Creates the user of a certificate with this common name, on every member. A role is one of `admin`, or of
    /// another database if it is written as `role@database`.
    pub fn create_user(&self, common_name: &str, roles: &[&str]) -> anyhow::Result<()> {
        let mut command = create_user(&subject_of(common_name), roles);
        command.insert("writeConcern", doc! { "w": self.with_data() });
        self.run_on_primary(&command).map(drop)
    }

    /// Number of members with data.
    fn with_data(&self) -> i32 {
        let count = self.members.iter().filter(|member| !member.options.arbiter).count();
        i32::try_from(count).expect("a set has few members")
    }

    /// The log of a member since its first start, one JSON object per line.
    pub fn log(&self, member: &str) -> String {
        self.member(member).log()
    }

    /// All connections to members on which no valid client certificate was shown.
    ///
    /// mongod logs every TCP connection when it accepts it, and every valid client certificate. A client that connects
    /// to a member past the gateway has no certificate, so it always appears here, however short its connection is.
    /// Excluded are connections that began TLS and were then closed, for example by a gateway whose client has gone, or
    /// that is killed. A connection that is being established is included until its certificate has arrived.
    pub fn strangers(&self) -> Vec<String> {
        self.unproven().map(|connection| connection.remote).collect()
    }

    fn unproven(&self) -> impl Iterator<Item = UnprovenConnection> {
        self.members.iter().flat_map(Member::unproven)
    }

    /// Asserts that there are no strangers, and waits for connections that are being established.
    ///
    /// A connection on which the client sent no byte does not count: a MongoDB client sends hello first, and a gateway
    /// on a busy machine may give up a connection before it sends anything.
    ///
    /// # Panics
    /// If a client without a certificate sent something to a member.
    pub fn assert_no_strangers(&self) {
        let checked = waiting::poll(STRANGERS_TIMEOUT, PACE, || {
            let strangers: Vec<String> = self
                .unproven()
                .filter(|connection| !connection.closed_silently)
                .map(|connection| connection.remote)
                .collect();
            if strangers.is_empty() { Ok(()) } else { Err(strangers) }
        });
        if let Err(strangers) = checked {
            panic!("clients without a certificate connected to members: {strangers:#?}");
        }
    }

    fn initiate(&mut self) -> anyhow::Result<()> {
        let first = self.members.first().context("a set without members")?;
        let members: Vec<_> = self.members.iter().map(Member::configuration).collect();
        let set = doc! {
            "_id": self.options.name,
            "members": members,
            "writeConcernMajorityJournalDefault": false,
            "settings": {
                "electionTimeoutMillis": i32::try_from(self.options.election_timeout.as_millis())?,
                "heartbeatIntervalMillis": 300,
                "catchUpTimeoutMillis": 2_000,
            },
        };
        self.try_connect(first)?.run(&doc! { "replSetInitiate": set, "$db": "admin" })?;
        if self.options.users != Users::Unknown {
            let primary = self.primary();
            // The localhost exception allows the creation of the first user.
            self.try_connect(self.member(&primary))?.run(&create_user(&subject_of("operator"), &["root"]))?;
        }
        if self.options.members.iter().any(|member| member.arbiter) {
            // mongod requires this for a set with an arbiter.
            let concern = doc! { "w": "majority", "wtimeout": 0 };
            let command = doc! { "setDefaultRWConcern": 1, "defaultWriteConcern": concern, "$db": "admin" };
            self.run_on_primary(&command)?;
        }
        self.await_settled()
    }

    fn launch_new(&mut self, options: MemberOptions) -> anyhow::Result<()> {
        let directory = scratch::directory("member")?;
        let id = self.next_id;
        let mut member = Member { process: None, earlier_logs: Vec::new(), directory, options, id, port: 0 };
        for _ in 0..PORT_ATTEMPTS_MAX {
            member.port = if member.options.host.is_some() { DEFAULT_PORT } else { ports::free()? };
            if let Some(process) = self.launch(&member)? {
                member.process = Some(process);
                self.members.push(member);
                self.next_id += 1;
                return Ok(());
            }
        }
        bail!("other programs took {PORT_ATTEMPTS_MAX} free ports before mongod could listen")
    }

    /// Starts the process and waits until it listens. `None` if the port is in use.
    fn launch(&self, member: &Member) -> anyhow::Result<Option<Process>> {
        let mut process = Process::start(&member.name(), self.command(member)?)?;
        let listens = process.wait_for_line(START_TIMEOUT, |line| {
            line.text.contains("\"msg\":\"Waiting for connections\"").then_some(())
        });
        if let Err(error) = listens {
            let ended = process.wait(Duration::ZERO).ok().and_then(|status| status.code());
            return if ended == Some(EXIT_ADDRESS_IN_USE) { Ok(None) } else { Err(error) };
        }
        Ok(Some(process))
    }

    fn command(&self, member: &Member) -> anyhow::Result<Command> {
        let mut command = Command::new(mongod_binary::locate()?);
        command.arg("--dbpath").arg(member.directory.path());
        let address = member.options.host.unwrap_or("127.0.0.1");
        command.args(["--port", &member.port.to_string(), "--bind_ip", address, "--nounixsocket"]);
        command.args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"]);
        command.args(["--wiredTigerEngineConfigString", SMALL_JOURNAL]);
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false", "--setParameter", LOG_VERBOSITY]);
        command.args(["--replSet", self.options.name, "--tlsMode", "requireTLS"]);
        command.arg("--tlsCAFile").arg(self.pki.ca_file());
        command.arg("--tlsCertificateKeyFile").arg(self.server_file());
        match self.options.users {
            Users::Unknown => {}
            Users::KeyFile => {
                command.arg("--auth").arg("--keyFile").arg(self.pki.directory().join("key-file"));
            }
            Users::ClusterCertificates => {
                command.args(["--auth", "--clusterAuthMode", "x509"]);
            }
        }
        command.args(&self.options.arguments);
        Ok(command)
    }

    fn server_file(&self) -> PathBuf {
        self.pki.directory().join("server-combined.pem")
    }

    fn try_connect(&self, member: &Member) -> anyhow::Result<Connection> {
        let certificate = if self.options.users == Users::Unknown { &self.client } else { &self.operator };
        let address = format!("{}:{}", member.options.host.unwrap_or("127.0.0.1"), member.port);
        Connection::tls(&address, &self.pki, certificate)
    }

    fn hello(&self, member: &Member) -> Option<Document> {
        member.process.as_ref()?;
        self.try_connect(member).ok()?.run(&doc! { "hello": 1, "$db": "admin" }).ok()
    }

    fn is_primary(&self, member: &Member) -> bool {
        self.hello(member).is_some_and(|hello| truth(&hello, "isWritablePrimary"))
    }

    /// The states of the members in the view of the primary.
    fn states(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let primary = self.primary_now().context("there is no primary")?;
        let status = self.run(&primary, &doc! { "replSetGetStatus": 1, "$db": "admin" })?;
        let members = status.get_array("members")?.iter().filter_map(Bson::as_document);
        members.map(|member| Ok((member.get_str("name")?.to_owned(), member.get_str("stateStr")?.to_owned()))).collect()
    }

    fn is_settled(&self, states: &BTreeMap<String, String>) -> bool {
        let running: Vec<_> = self.members.iter().filter(|member| member.process.is_some()).collect();
        running.iter().all(|member| {
            let state = states.get(&member.name()).map(String::as_str);
            if member.options.arbiter {
                state == Some("ARBITER")
            } else {
                matches!(state, Some("PRIMARY" | "SECONDARY"))
            }
        })
    }

    fn position(&self, member: &str) -> usize {
        let position = self.members.iter().position(|known| known.name() == member);
        position.unwrap_or_else(|| panic!("{member} is not a member of the set"))
    }

    fn member(&self, member: &str) -> &Member {
        &self.members[self.position(member)]
    }

    fn member_mut(&mut self, member: &str) -> &mut Member {
        let at = self.position(member);
        &mut self.members[at]
    }
}

impl Member {
    fn name(&self) -> String {
        format!("{}:{}", self.options.host.unwrap_or("localhost"), self.port)
    }

    fn configuration(&self) -> Document {
        let options = &self.options;
        let mut entry = doc! { "_id": self.id, "host": self.name() };
        if options.arbiter {
            entry.insert("arbiterOnly", true);
        }
        if options.passive || options.hidden {
            entry.insert("priority", 0);
        }
        if options.hidden {
            entry.insert("hidden", true);
        }
        if !options.tags.is_empty() {
            let tags = options.tags.iter().map(|(name, value)| ((*name).to_owned(), Bson::from(*value)));
            entry.insert("tags", tags.collect::<Document>());
        }
        entry
    }

    fn log(&self) -> String {
        let current = self.process.as_ref().map(Process::stdout).unwrap_or_default();
        self.earlier_logs.concat() + &current
    }

    fn unproven(&self) -> Vec<UnprovenConnection> {
        let current = self.process.as_ref().map(Process::stdout).unwrap_or_default();
        let mut all = unproven_in(&current, false);
        // Connections that were open when a member was killed are not known to be unproven.
        all.extend(self.earlier_logs.iter().flat_map(|log| unproven_in(log, true)));
        for connection in &mut all {
            connection.remote = format!("{} to {}", connection.remote, self.name());
        }
        all
    }
}

/// The subject of a client certificate of the kit, which is the name of its MongoDB user.
pub fn subject_of(common_name: &str) -> String {
    format!("CN={common_name},OU=clients,O=mongate kit")
}

fn create_user(subject: &str, roles: &[&str]) -> Document {
    let role = |role: &&str| {
        let (role, database) = role.split_once('@').unwrap_or((role, "admin"));
        Bson::Document(doc! { "role": role, "db": database })
    };
    doc! { "createUser": subject, "roles": roles.iter().map(role).collect::<Vec<_>>(), "$db": "$external" }
}

/// A connection on which no valid client certificate was shown.
struct UnprovenConnection {
    /// Address of the client, with the error that mongod logged, if any.
    remote: String,
    /// Whether the connection ended without an error about bytes that the client sent.
    closed_silently: bool,
}

/// The connections in a log on which no valid client certificate was shown. With `ended_only`, only those that ended.
fn unproven_in(log: &str, ended_only: bool) -> Vec<UnprovenConnection> {
    let mut open = BTreeMap::new();
    let mut ended = Vec::new();
    // Parsing JSON is slow and most lines are others, so the lines are filtered by text first.
    let kinds = [LOG_ACCEPTED, LOG_ENDED, LOG_SHOWN_CERTIFICATE, LOG_NETWORK_ERROR].map(|id| format!("\"id\":{id},"));
    for line in log.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind))) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let connection = line["attr"]["connectionId"].as_u64().or_else(|| connection_of(&line));
        match line["id"].as_i64() {
            Some(LOG_ACCEPTED) => {
                let remote = line["attr"]["remote"].as_str().unwrap_or_default().to_owned();
                open.insert(connection, UnprovenConnection { remote, closed_silently: true });
            }
            Some(LOG_ENDED) => ended.extend(open.remove(&connection)),
            Some(LOG_NETWORK_ERROR) if line["attr"]["error"]["errmsg"] == CLOSED_BY_CLIENT => {}
            Some(LOG_NETWORK_ERROR) if !TLS_ABANDONED.map(Value::from).contains(&line["attr"]["error"]["errmsg"]) => {
                if let Some(unproven) = open.get_mut(&connection) {
                    unproven.remote = format!("{} ({})", unproven.remote, line["attr"]["error"]["errmsg"]);
                    unproven.closed_silently = false;
                }
            }
            _ => drop(open.remove(&connection)),
        }
    }
    if !ended_only {
        ended.extend(open.into_values().map(|unproven| UnprovenConnection { closed_silently: false, ..unproven }));
    }
    ended
}

/// The connection whose thread wrote the log line.
fn connection_of(line: &Value) -> Option<u64> {
    line["ctx"].as_str().unwrap_or_default().strip_prefix("conn").and_then(|id| id.parse().ok())
}

fn truth(document: &Document, field: &str) -> bool {
    document.get_bool(field).unwrap_or(false)
}
