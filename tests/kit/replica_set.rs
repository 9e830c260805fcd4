//! A real replica set: several mongod that take nothing but mutual TLS, with elections within a second or two.
//!
//! Members are named `localhost:PORT`, which a client of this machine could reach if it tried: whether one did can be
//! told for certain, see [`ReplicaSet::strangers`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
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

/// Starting takes about a second; a busy machine may need many.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// An election takes a second or two, an initial sync a few.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Between two looks at something that cannot be waited for.
const PACE: Duration = Duration::from_millis(50);
/// Programs may race for a free port; none loses so often.
const PORT_ATTEMPTS_MAX: usize = 5;
/// That of mongod, where it is not told another.
const USUAL_PORT: u16 = 27_017;
/// mongod's exit code when it cannot listen.
const EXIT_ADDRESS_IN_USE: i32 = 48;
/// mongod's numbers for lines of its log.
const LOG_ACCEPTED: i64 = 22_943;
const LOG_ENDED: i64 = 22_944;
const LOG_SHOWN_CERTIFICATE: i64 = 23_229;
const LOG_NETWORK_ERROR: i64 = 22_986;
/// What mongod says of a connection that began TLS and was then given up, the second where that was with bytes of
/// mongod's unread. It sends no byte to who speaks anything else, and has another error for him.
const TLS_GIVEN_UP: [&str; 2] = ["stream truncated", "Connection reset by peer"];
/// What makes mongod say whose certificate it was shown, and as little else as can be.
const LOG_VERBOSITY: &str =
    "logComponentVerbosity={network:{verbosity:2,asio:{verbosity:0},connectionPool:{verbosity:0}}}";

/// How a set is to be; the default has three members that hold data, and no users.
#[derive(Debug, Clone)]
pub struct SetOptions {
    /// Its name.
    pub name: &'static str,
    /// Its members at the start.
    pub members: Vec<MemberOptions>,
    /// Whether it knows users.
    pub users: Users,
    /// Any other arguments of every member.
    pub arguments: Vec<&'static str>,
    /// How long a primary may be silent before another one is elected. On a busy machine a short time is an election out
    /// of nothing now and then: for tests that are about elections.
    pub election_timeout: Duration,
}

/// How a member is to be; the default holds data, votes and may become primary.
#[derive(Debug, Clone, Default)]
pub struct MemberOptions {
    /// Votes and holds nothing.
    pub arbiter: bool,
    /// Never primary: what the set's hello calls passive.
    pub passive: bool,
    /// Passive, and left out of hello.
    pub hidden: bool,
    /// Its tags.
    pub tags: Vec<(&'static str, &'static str)>,
    /// A name of its own and MongoDB's usual port, instead of `localhost` and a free one; in a namespace that has the name.
    pub host: Option<&'static str>,
}

/// Whether a set knows users, and how its members know each other then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Everybody with a good certificate may do everything.
    Unknown,
    /// Authorization; the members share a key file.
    KeyFile,
    /// Authorization; who shows a certificate with the members' `O` and `OU` is one of them (`clusterAuthMode x509`).
    ClusterCertificates,
}

/// A running set; dropping it kills its members and removes their data.
#[derive(Debug)]
pub struct ReplicaSet {
    members: Vec<Member>,
    options: SetOptions,
    next_id: i32,
    /// The PKI of this set; issue further certificates from it.
    pub pki: Arc<Pki>,
    /// A client certificate that it takes; where the set knows users, it is none.
    pub client: Issued,
    /// The certificate of a user who may do everything, where the set knows users.
    operator: Issued,
}

#[derive(Debug)]
struct Member {
    // In this order: the process goes before its directory.
    process: Option<Process>,
    /// What processes before this one wrote.
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

    /// A member with a name of its own.
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
    /// Starts a set and waits until it has a primary and every member has its part; `None` where no mongod can be had,
    /// see [`provision::or_skip`].
    ///
    /// # Panics
    /// When a mongod is there but the set does not come to be.
    pub fn start(options: SetOptions) -> Option<Self> {
        Self::start_with(&Arc::new(Pki::new().expect("a directory for keys")), options)
    }

    /// The same with the PKI of another set, so that the same clients are let in.
    ///
    /// # Panics
    /// As [`ReplicaSet::start`].
    pub fn start_with(pki: &Arc<Pki>, options: SetOptions) -> Option<Self> {
        provision::or_skip("a real mongod", mongod_binary::locate())?;
        Some(Self::try_start(Arc::clone(pki), options).expect("the replica set starts"))
    }

    /// A set of three that tests which run at the same time share; the last user ends it. Use a database of your own, and
    /// leave its primary in peace.
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

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.options.name
    }

    /// The names of all members, as the set's configuration has them, in the order in which they came.
    pub fn members(&self) -> Vec<String> {
        self.members.iter().map(Member::name).collect()
    }

    /// The certificate of a user who may do everything, where the set knows users.
    pub fn operator(&self) -> &Issued {
        &self.operator
    }

    /// The connection string of a driver that reaches the set without a gateway.
    pub fn uri(&self) -> anyhow::Result<String> {
        let (ca, client) = (self.pki.ca_file(), self.client.combined(First::Certificate)?);
        let files = format!("tlsCAFile={}&tlsCertificateKeyFile={}", ca.display(), client.display());
        Ok(format!("mongodb://{}/?replicaSet={}&tls=true&{files}", self.members().join(","), self.name()))
    }

    /// A connection of raw bytes to a member; where the set knows users, as the one who may do everything.
    pub fn connect(&self, member: &str) -> anyhow::Result<Connection> {
        let mut connection = self.try_connect(self.member(member))?;
        if self.options.users != Users::Unknown && !self.member(member).options.arbiter {
            connection.run(&doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external" })?;
        }
        Ok(connection)
    }

    /// Runs one command on a member; `command` names its `$db`.
    pub fn run(&self, member: &str, command: &Document) -> anyhow::Result<Document> {
        self.connect(member)?.run(command)
    }

    /// Runs one command on the primary.
    pub fn run_on_primary(&self, command: &Document) -> anyhow::Result<Document> {
        self.run(&self.primary(), command)
    }

    /// The primary, waited for.
    ///
    /// # Panics
    /// When there is none for long.
    pub fn primary(&self) -> String {
        waiting::until("the set has a primary", || self.primary_now())
    }

    /// The primary, where there is one now.
    pub fn primary_now(&self) -> Option<String> {
        self.members.iter().find(|member| self.is_primary(member)).map(Member::name)
    }

    /// A member that holds data, may be asked, and is not primary now.
    ///
    /// # Panics
    /// When there is none for long.
    pub fn secondary(&self) -> String {
        let is_secondary = |member: &&Member| self.hello(member).is_some_and(|hello| truth(&hello, "secondary"));
        waiting::until("the set has a secondary", || self.members.iter().find(is_secondary).map(Member::name))
    }

    /// Makes the primary step down and returns the next one.
    pub fn step_down(&self) -> anyhow::Result<String> {
        let before = self.primary();
        let step_down = doc! { "replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 1, "$db": "admin" };
        // A secondary may lag when there is much to do, and another step-down may be under way.
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while let Err(error) = self.run(&before, &step_down) {
            if self.primary_now().is_some_and(|now| now != before) {
                break;
            }
            if Instant::now() > deadline {
                return Err(error).context("the primary does not step down");
            }
            std::thread::park_timeout(PACE);
        }
        Ok(waiting::until("another member is primary", || self.primary_now().filter(|now| *now != before)))
    }

    /// Kills a member (`SIGKILL`) and waits for its end.
    pub fn kill(&mut self, member: &str) {
        let member = self.member_mut(member);
        let Some(mut process) = member.process.take() else { return };
        process.kill();
        // Its output is complete when that has ended too.
        let _ = process.wait(START_TIMEOUT);
        member.earlier_logs.push(process.stdout());
    }

    /// Starts a member again on its port and with its data, after [`ReplicaSet::kill`]; it finds its part by itself.
    pub fn restart(&mut self, member: &str) -> anyhow::Result<()> {
        let at = self.position(member);
        let launched = self.launch(&self.members[at])?;
        let process = launched.with_context(|| format!("the port of {member} was taken meanwhile"))?;
        self.members[at].process = Some(process);
        Ok(())
    }

    /// Stops a member's threads where they are: it takes connections and answers nothing, as a machine that hangs.
    pub fn freeze(&self, member: &str) -> anyhow::Result<()> {
        self.member(member).process.as_ref().context("it does not run")?.signal(libc::SIGSTOP)
    }

    /// Lets it go on after [`ReplicaSet::freeze`].
    pub fn thaw(&self, member: &str) -> anyhow::Result<()> {
        self.member(member).process.as_ref().context("it does not run")?.signal(libc::SIGCONT)
    }

    /// Starts another member, takes it into the set, waits until it has its part, and returns its name.
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

    /// Takes a member that is not primary out of the set, and ends it.
    pub fn remove(&mut self, member: &str) -> anyhow::Result<()> {
        self.reconfigure(|configuration| {
            let members = configuration.get_array_mut("members").expect("a configuration has members");
            members.retain(|entry| entry.as_document().and_then(|entry| entry.get_str("host").ok()) != Some(member));
        })?;
        let at = self.position(member);
        self.members.remove(at);
        Ok(())
    }

    /// Changes the set's configuration; its version is counted on here.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Document)) -> anyhow::Result<()> {
        let mut current = self.run_on_primary(&doc! { "replSetGetConfig": 1, "$db": "admin" })?;
        let mut configuration = std::mem::take(current.get_document_mut("config")?);
        configuration.insert("version", configuration.get_i32("version")? + 1);
        change(&mut configuration);
        // One that is not yet known to a majority must not be followed by the next: mongod says so, and then it is time.
        let command = doc! { "replSetReconfig": configuration, "$db": "admin" };
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while let Err(error) = self.run_on_primary(&command) {
            if Instant::now() > deadline {
                return Err(error).context("the set takes no new configuration");
            }
            std::thread::park_timeout(PACE);
        }
        Ok(())
    }

    /// Waits until there is a primary and every member has its part.
    pub fn await_settled(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let states = self.states();
            if states.as_ref().is_ok_and(|states| self.is_settled(states)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the members do not find their parts: {states:?}");
            std::thread::park_timeout(PACE);
        }
    }

    /// Lets whoever shows a certificate of this name in, with these roles of `admin` or, written `role@database`, of others;
    /// on every member.
    pub fn create_user(&self, common_name: &str, roles: &[&str]) -> anyhow::Result<()> {
        let mut command = create_user(&subject_of(common_name), roles);
        command.insert("writeConcern", doc! { "w": self.with_data() });
        self.run_on_primary(&command).map(drop)
    }

    /// How many members hold data.
    fn with_data(&self) -> i32 {
        let count = self.members.iter().filter(|member| !member.options.arbiter).count();
        i32::try_from(count).expect("a set has few members")
    }

    /// What a member wrote to its log since it first started, one JSON object a line.
    pub fn log(&self, member: &str) -> String {
        self.member(member).log()
    }

    /// Every connection that a member took without being shown a good certificate.
    ///
    /// mongod logs each TCP connection when it takes it, whatever comes then, and each certificate that was shown and
    /// found good. So a client that is not told to speak TLS cannot come near a member without being seen here: that is
    /// certain, however short the visit was. Left out is who began TLS and then gave up, as a gateway does whose client
    /// has gone meanwhile, or that is killed. A connection of this very moment may be among them, whoever made it.
    pub fn strangers(&self) -> Vec<String> {
        self.visits().map(|visit| visit.remote).collect()
    }

    fn visits(&self) -> impl Iterator<Item = Visit> {
        self.members.iter().flat_map(Member::strangers)
    }

    /// Waits a moment for what connections of this moment still have to show.
    ///
    /// Who left without a byte does not count here: a client says hello first, and a connection that is given up while its
    /// machine is busy says nothing.
    ///
    /// # Panics
    /// When somebody without a certificate spoke to a member.
    pub fn assert_no_strangers(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let strangers: Vec<String> =
                self.visits().filter(|visit| !visit.left_silently).map(|visit| visit.remote).collect();
            if strangers.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "somebody without a certificate connected to members: {strangers:#?}");
            std::thread::park_timeout(PACE);
        }
    }

    fn initiate(&mut self) -> anyhow::Result<()> {
        let first = self.members.first().context("a set without members")?;
        let members: Vec<_> = self.members.iter().map(Member::configuration).collect();
        let set = doc! {
            "_id": self.options.name,
            "members": members,
            "writeConcernMajorityJournalDefault": false,
            "settings": { "electionTimeoutMillis": i32::try_from(self.options.election_timeout.as_millis())?, "heartbeatIntervalMillis": 300, "catchUpTimeoutMillis": 2_000 },
        };
        self.try_connect(first)?.run(&doc! { "replSetInitiate": set, "$db": "admin" })?;
        if self.options.users != Users::Unknown {
            let primary = self.primary();
            // The first user comes in by the localhost exception.
            self.try_connect(self.member(&primary))?.run(&create_user(&subject_of("operator"), &["root"]))?;
        }
        if self.options.members.iter().any(|member| member.arbiter) {
            // With an arbiter mongod asks for this to be said.
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
            member.port = if member.options.host.is_some() { USUAL_PORT } else { ports::free()? };
            if let Some(process) = self.launch(&member)? {
                member.process = Some(process);
                self.members.push(member);
                self.next_id += 1;
                return Ok(());
            }
        }
        bail!("every port that was free a moment before was taken")
    }

    /// Starts the process and waits until it listens; `None` where the port is taken.
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
        let who = if self.options.users == Users::Unknown { &self.client } else { &self.operator };
        let address = format!("{}:{}", member.options.host.unwrap_or("127.0.0.1"), member.port);
        Connection::tls(&address, &self.pki, who)
    }

    fn hello(&self, member: &Member) -> Option<Document> {
        member.process.as_ref()?;
        self.try_connect(member).ok()?.run(&doc! { "hello": 1, "$db": "admin" }).ok()
    }

    fn is_primary(&self, member: &Member) -> bool {
        self.hello(member).is_some_and(|hello| truth(&hello, "isWritablePrimary"))
    }

    /// The states of the members, as the primary knows them.
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
        position.unwrap_or_else(|| panic!("{member} is no member"))
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

    fn strangers(&self) -> Vec<Visit> {
        let current = self.process.as_ref().map(Process::stdout).unwrap_or_default();
        let mut all = unproven(&current, false);
        // What a member that was killed had just taken, nobody can tell about.
        all.extend(self.earlier_logs.iter().flat_map(|log| unproven(log, true)));
        for visit in &mut all {
            visit.remote = format!("{} to {}", visit.remote, self.name());
        }
        all
    }
}

/// The subject of a certificate of the kit for this client, as MongoDB names its user.
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

/// A connection that showed no good certificate.
struct Visit {
    /// Where it came from, and then what mongod says of it.
    remote: String,
    /// Whether it ended, and mongod had nothing to say about what it had sent.
    left_silently: bool,
}

/// A log's connections that were taken and showed no good certificate; only those that ended too where `ended_only`.
fn unproven(log: &str, ended_only: bool) -> Vec<Visit> {
    let mut waiting = BTreeMap::new();
    let mut ended = Vec::new();
    // Most lines are of another kind, and reading them as JSON takes its time.
    let kinds = [LOG_ACCEPTED, LOG_ENDED, LOG_SHOWN_CERTIFICATE, LOG_NETWORK_ERROR].map(|id| format!("\"id\":{id},"));
    for line in log.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind))) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let connection = line["attr"]["connectionId"].as_u64().or_else(|| connection_of(&line));
        match line["id"].as_i64() {
            Some(LOG_ACCEPTED) => {
                let remote = line["attr"]["remote"].as_str().unwrap_or_default().to_owned();
                waiting.insert(connection, Visit { remote, left_silently: true });
            }
            Some(LOG_ENDED) => ended.extend(waiting.remove(&connection)),
            Some(LOG_NETWORK_ERROR) if !TLS_GIVEN_UP.map(Value::from).contains(&line["attr"]["error"]["errmsg"]) => {
                if let Some(visit) = waiting.get_mut(&connection) {
                    visit.remote = format!("{} ({})", visit.remote, line["attr"]["error"]["errmsg"]);
                    visit.left_silently = false;
                }
            }
            _ => drop(waiting.remove(&connection)),
        }
    }
    if !ended_only {
        ended.extend(waiting.into_values().map(|visit| Visit { left_silently: false, ..visit }));
    }
    ended
}

/// Whose thread wrote a line.
fn connection_of(line: &Value) -> Option<u64> {
    line["ctx"].as_str().unwrap_or_default().strip_prefix("conn").and_then(|id| id.parse().ok())
}

fn truth(document: &Document, field: &str) -> bool {
    document.get_bool(field).unwrap_or(false)
}
