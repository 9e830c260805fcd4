//! The gateway's binary, used as an operator uses it: with a configuration file, a process, a log and an exit code.
//!
//! It listens on free ports, which the kit reads from its JSON log: `listening` with `listener` and `address` for each
//! listener, `admin listening` with `address`, then `started`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::certificates::{First, Issued, Pki};
use super::http;
use super::mongod::Mongod;
use super::namespace;
use super::namespace::User;
use super::process;
use super::process::{Line, Process};
use super::raw::Connection;
use super::replica_set::ReplicaSet;
use super::scratch;
use super::waiting::{patiently, until};

/// Limit for the start of a gateway, which takes milliseconds, and more on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Name of the configuration file in the directory of a gateway.
const CONFIGURATION_FILE: &str = "config.toml";

/// Options of a gateway with one upstream and one listener, both named `test`.
///
/// The strings are TOML lines that are added to their tables.
#[derive(Debug, Clone, Default)]
pub struct GatewayOptions {
    /// Lines before the first table.
    pub top: String,
    /// `upstream.test.address`, if there are no members.
    pub upstream_address: String,
    /// `upstream.test.members`.
    pub upstream_members: Vec<String>,
    /// Further lines of `[upstream.test]`.
    pub upstream: String,
    /// All lines of `[upstream.test.tls]`.
    pub upstream_tls: String,
    /// `listener.test.address`; the default is a free port on 127.0.0.1.
    pub listener_address: Option<String>,
    /// Further lines of `[listener.test]`.
    pub listener: String,
    /// Further tables at the end.
    pub tables: String,
    /// `log.level`; the default is `info`.
    pub log_level: Option<&'static str>,
    /// Additional environment variables of the process.
    pub environment: Vec<(String, String)>,
    /// Limit of open file descriptors; the default is that of this program.
    pub descriptors_max: Option<u32>,
    /// User of the process; the default is that of this program.
    pub user: Option<User>,
    /// Listening sockets that the gateway inherits, and their names.
    pub passed_sockets: Vec<(String, Arc<OwnedFd>)>,
    /// Path of another build of the gateway, for comparison.
    pub build: Option<PathBuf>,
}

/// The variable that gives every gateway a pool of this mode, so that all tests can be run with pools.
const POOL_VARIABLE: &str = "MONGATE_TEST_POOL";

/// The lines for a pool, where the environment asks for one and `upstream` allows it.
fn pool_of_all_tests(upstream: &str) -> String {
    match env::var(POOL_VARIABLE) {
        Ok(mode) if !upstream.contains("pool.mode") && !upstream.contains("send_proxy") => {
            format!("pool.mode = {mode:?}\n")
        }
        _ => String::new(),
    }
}

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    // Dropped in this order: the process ends before its directory is removed.
    process: Process,
    directory: TempDir,
    address: String,
    admin_address: String,
}

/// One line of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name of the metric, with `_bucket`, `_sum` or `_count` for a histogram.
    pub name: String,
    /// Labels in the order of the line.
    pub labels: Vec<(String, String)>,
    /// Value of the sample.
    pub value: f64,
}

impl GatewayOptions {
    /// A gateway for this mongod, with the client certificate that the kit issued for it.
    pub fn to(mongod: &Mongod) -> Self {
        let mut options = Self { upstream_address: mongod.address(), ..Self::default() };
        options.credentials(&mongod.pki, &mongod.client);
        options
    }

    /// A gateway for this set, with the client certificate that the kit issued for it. The seed list has the first
    /// member only.
    pub fn to_set(set: &ReplicaSet) -> Self {
        let seeds = set.members().into_iter().take(1).collect();
        let upstream = format!("replica_set = {:?}\n", set.name());
        let mut options = Self { upstream_members: seeds, upstream, ..Self::default() };
        options.credentials(&set.pki, &set.client);
        options
    }

    /// Sets another client certificate.
    pub fn credentials(&mut self, pki: &Pki, client: &Issued) {
        let file = client.combined(First::Certificate).expect("the PKI's directory is writable");
        self.upstream_tls =
            format!("certificate_file = '{}'\nca_file = '{}'\n", file.display(), pki.ca_file().display());
    }

    /// Runs `mongate check` with this configuration and further arguments. Returns exit code and standard output.
    pub fn check(&self, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), self.configuration())?;
        let mut command = command()?;
        command.arg("check").arg("--config").arg(file.path()).args(more);
        let (code, out, all) = finish(command)?;
        // Errors of the configuration are written to standard error.
        Ok((code, if out.is_empty() { all } else { out }))
    }

    /// The configuration file's text.
    pub fn configuration(&self) -> String {
        let mut text = self.top.clone();
        let level = self.log_level.unwrap_or("info");
        let listener = self.listener_address.as_deref().unwrap_or("127.0.0.1:0");
        let upstream = match (self.upstream_address.as_str(), self.upstream_members.as_slice()) {
            // The further lines of the table have the servers.
            ("", []) => String::new(),
            (address, []) => format!("address = {address:?}"),
            (_, members) => format!("members = {members:?}"),
        };
        let parts = [
            format!("\n[admin]\naddress = \"127.0.0.1:0\"\n\n[log]\nformat = \"json\"\nlevel = \"{level}\"\n"),
            format!("\n[upstream.test]\n{upstream}\n{}{}", pool_of_all_tests(&self.upstream), self.upstream),
            format!("\n[upstream.test.tls]\n{}", self.upstream_tls),
            format!(
                "\n[listener.test]\naddress = {listener:?}\nupstream = \"test\"\n{}\n{}",
                self.listener, self.tables
            ),
        ];
        text.extend(parts);
        text
    }
}

/// Measures the peak memory of a gateway since the measurement began.
pub struct PeakMemory<'a> {
    gateway: &'a Gateway,
    before: u64,
}

impl PeakMemory<'_> {
    /// Growth of the peak in KiB. Linux counts resident pages with an error of some hundred KiB, so the peak may even
    /// be lower than the value at the beginning; the result is then 0.
    pub fn grown_kib(&self) -> anyhow::Result<u64> {
        Ok(self.gateway.status_kib("VmHWM:")?.saturating_sub(self.before))
    }
}

impl Gateway {
    /// Starts a gateway for `mongod` and waits until it is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub fn to(mongod: &Mongod) -> Self {
        Self::start(&GatewayOptions::to(mongod))
    }

    /// Starts a gateway that is expected to fail. Returns its exit code and its output.
    pub fn start_in_vain(options: &GatewayOptions) -> anyhow::Result<(Option<i32>, String)> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), options.configuration())?;
        let mut command = if options.passed_sockets.is_empty() { command()? } else { passing(options)? };
        command.arg("run").arg("--config").arg(file.path());
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        let (code, _, all) = finish(command)?;
        Ok((code, all))
    }

    /// Starts a gateway and waits until it is ready.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(options: &GatewayOptions) -> Self {
        Self::try_start(options).expect("the gateway starts")
    }

    /// Starts a gateway and waits until it is ready, or returns why it is not.
    pub fn try_start(options: &GatewayOptions) -> anyhow::Result<Self> {
        let directory = scratch::directory("gateway")?;
        let file = directory.path().join(CONFIGURATION_FILE);
        fs::write(&file, options.configuration())?;
        let mut command = match (&options.build, options.descriptors_max) {
            (Some(build), _) => clean(Command::new(build)),
            (None, Some(limit)) => limited(limit)?,
            (None, None) => command()?,
        };
        if !options.passed_sockets.is_empty() {
            command = passing(options)?;
        }
        if let Some(user) = options.user {
            command = namespace::run_as(user, &command)?;
        }
        command.arg("run").arg("--config").arg(&file);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start("mongate", command)?;
        let mut gateway = Self { process, directory, address: String::new(), admin_address: String::new() };
        gateway.address = gateway.address_of("test")?;
        gateway.admin_address = gateway.logged_address(|event| event["message"] == "admin listening")?;
        gateway.wait_for_log(START_TIMEOUT, |event| event["message"] == "started")?;
        Ok(gateway)
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The address that clients connect to: `127.0.0.1:port`, or `unix:/path`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of another listener, which is defined in [`GatewayOptions::tables`].
    pub fn address_of(&self, listener: &str) -> anyhow::Result<String> {
        self.logged_address(|event| event["message"] == "listening" && event["listener"] == listener)
    }

    /// The connection string of an application.
    pub fn uri(&self) -> String {
        match self.address.strip_prefix("unix:") {
            Some(path) => format!("mongodb://{}", path.replace('/', "%2F")),
            None => format!("mongodb://{}", self.address),
        }
    }

    /// The connection string of an application for the replica set `set`.
    pub fn set_uri(&self, set: &str) -> String {
        format!("{}/?replicaSet={set}", self.uri())
    }

    /// The contents of `/status`.
    pub fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.get("/status")?.body)?)
    }

    /// The members at this listener and their addresses of the gateway.
    pub fn members_at(&self, listener: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let status = self.status()?;
        let listeners = status["listeners"].as_array().context("no listeners")?;
        let shown = listeners.iter().find(|shown| shown["name"] == listener).context("no such listener")?;
        let members = shown["members"].as_array().context("a listener without members")?.iter();
        let pairs = members
            .filter_map(|shown| Some((shown["member"].as_str()?.to_owned(), shown["address"].as_str()?.to_owned())));
        Ok(pairs.collect())
    }

    /// As [`Gateway::members_at`] for the listener `test`, once exactly these members have an address.
    ///
    /// # Panics
    /// If that does not happen within the time limit.
    pub fn await_members(&self, members: &[String]) -> BTreeMap<String, String> {
        let expected: BTreeSet<_> = members.iter().collect();
        until("the gateway has an address for each member", || {
            self.members_at("test").ok().filter(|known| known.keys().collect::<BTreeSet<_>>() == expected)
        })
    }

    /// Waits until the gateway reports this member as primary.
    ///
    /// # Panics
    /// If that does not happen within the time limit.
    pub fn await_primary(&self, member: &str) {
        let knows = |status: &Value| status["upstreams"][0]["set"]["primary"] == member;
        until("the gateway knows the primary", || self.status().ok().filter(knows));
    }

    /// Address of the administration port: `127.0.0.1:port`.
    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// The directory of the configuration file. It contains no other file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Path of the configuration file.
    pub fn configuration_file(&self) -> PathBuf {
        self.directory().join(CONFIGURATION_FILE)
    }

    /// A raw connection.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        match self.address.strip_prefix("unix:") {
            Some(path) => Connection::unix(Path::new(path)),
            None => Connection::plain(&self.address),
        }
    }

    /// Requests a page of the administration port.
    pub fn get(&self, path: &str) -> anyhow::Result<http::Answer> {
        http::get(&self.admin_address, path)
    }

    /// All samples of `/metrics`.
    ///
    /// # Panics
    /// If the administration port does not respond in the Prometheus text format.
    pub fn metrics(&self) -> Vec<Sample> {
        let answer = self.get("/metrics").expect("the administration port responds");
        answer.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(parse_sample).collect()
    }

    /// The sum of the samples with this name and all these labels; 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().iter().filter(|sample| sample.is(name, labels)).map(|sample| sample.value).sum()
    }

    /// Polls a metric until `accept` returns `true` for its value, and returns the value.
    ///
    /// The gateway counts an event after it has happened, so a client may have its reply a moment before.
    ///
    /// # Panics
    /// If no value is accepted within the time limit; the message has the last value.
    #[track_caller]
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], accept: impl Fn(f64) -> bool) -> f64 {
        let accepted = patiently(|| {
            let value = self.metric(name, labels);
            if accept(value) { Ok(value) } else { Err(value) }
        });
        match accepted {
            Ok(value) => value,
            Err(value) => panic!("{name} with {labels:?} is still {value}, which is not the expected value"),
        }
    }

    /// All events logged so far, with their fields at the top level. A line that is not JSON is `{"raw": line}`.
    pub fn log(&self) -> Vec<Value> {
        self.process.lines().iter().map(event).collect()
    }

    /// Waits for an event. Events that have already been logged are included.
    pub fn wait_for_log(&self, timeout: Duration, accept: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.process.wait_for_line(timeout, |line| Some(event(line)).filter(&accept))
    }

    /// Requests a graceful shutdown (`SIGTERM`).
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Stops reading the log, as a stuck log collector does, or reads on.
    pub fn read_log(&self, reading: bool) {
        self.process.read_outputs(reading);
    }

    /// Whether the process has ended, also while its log is not read.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        self.process.has_ended()
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(timeout)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// Begins a measurement of the peak resident memory.
    pub fn watch_memory(&self) -> anyhow::Result<PeakMemory<'_>> {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?;
        Ok(PeakMemory { gateway: self, before: self.status_kib("VmHWM:")? })
    }

    /// CPU time of the process, with a resolution of 10 ms.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name in brackets may contain any character. User and system time are the 12th and 13th field after it.
        let fields = stat.rsplit_once(") ").context("no process name in /proc/PID/stat")?.1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        // A tick in /proc is 10 ms on every architecture.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Number of open file descriptors.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    fn status_kib(&self, field: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .with_context(|| format!("no {field} in /proc/PID/status"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn logged_address(&self, accept: impl Fn(&Value) -> bool) -> anyhow::Result<String> {
        let logged = self.wait_for_log(START_TIMEOUT, accept)?;
        Ok(logged["address"].as_str().context("the address of the event is not a string")?.to_owned())
    }
}

impl Sample {
    /// Whether the sample has this name and all these labels.
    pub fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |expected: &(&str, &str)| self.labels.iter().any(|(name, value)| (&**name, &**value) == *expected);
        self.name == name && labels.iter().all(has)
    }

    /// The value of a label; empty if it is absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// Runs the gateway's binary until it ends. Returns exit code, standard output, and both outputs together.
pub fn run_to_end(arguments: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let mut command = command()?;
    command.args(arguments);
    finish(command)
}

fn finish(command: Command) -> anyhow::Result<(Option<i32>, String, String)> {
    let mut process = Process::start("mongate", command)?;
    let status = process.wait(START_TIMEOUT)?;
    let mut all = String::new();
    for line in process.lines() {
        writeln!(all, "{}", line.text)?;
    }
    Ok((status.code(), process.stdout(), all))
}

/// The gateway's binary, without the `MONGATE_` variables of this program.
fn command() -> anyhow::Result<Command> {
    Ok(clean(Command::new(binary()?)))
}

/// Removes the `MONGATE_` variables, which the gateway would read as configuration.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"MONGATE_")) {
        command.env_remove(name);
    }
    command
}

/// The gateway's binary with a limit of open file descriptors. The shell sets it, because setting it here needs unsafe
/// code.
fn limited(descriptors_max: u32) -> anyhow::Result<Command> {
    let gateway = command()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors_max.to_string()]).arg(gateway.get_program());
    for (name, _) in gateway.get_envs() {
        shell.env_remove(name);
    }
    Ok(shell)
}

/// The gateway's binary with the sockets of `options`. The shell becomes the gateway, and knows its process id before.
fn passing(options: &GatewayOptions) -> anyhow::Result<Command> {
    let gateway = command()?;
    let mut shell = clean(Command::new("sh"));
    shell.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(gateway.get_program());
    let names: Vec<_> = options.passed_sockets.iter().map(|(name, _)| name.as_str()).collect();
    shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    process::pass_sockets(&mut shell, options.passed_sockets.iter().map(|(_, socket)| Arc::clone(socket)).collect());
    Ok(shell)
}

/// Path of the gateway's binary: `MONGATE_TEST_BINARY` if it is set, else the binary that cargo built for this test.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("MONGATE_TEST_BINARY").filter(|named| !named.is_empty()) {
        return Ok(PathBuf::from(named));
    }
    // Cargo does not set this variable for an example, which runs the gateway in its own process.
    match option_env!("CARGO_BIN_EXE_mongate") {
        Some(built) => Ok(PathBuf::from(built)),
        None => bail!("cargo built no mongate binary for this program"),
    }
}

fn event(line: &Line) -> Value {
    let Ok(Value::Object(mut event)) = serde_json::from_str(&line.text) else {
        return serde_json::json!({ "raw": line.text });
    };
    if let Some(Value::Object(fields)) = event.remove("fields") {
        event.extend(fields);
    }
    Value::Object(event)
}

fn parse_sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    Sample { name: name.to_owned(), labels: parse_labels(labels.trim_end_matches('}')), value }
}

/// Parses `a="b",c="d"`. The gateway's label values contain no quotes and no backslashes.
fn parse_labels(text: &str) -> Vec<(String, String)> {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}
