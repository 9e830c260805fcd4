//! The gateway's own binary, started as an operator starts it: a configuration file, a process, a log, an exit code.
//!
//! It takes free ports, and its log (JSON) says which: `listening` with `listener` and `address` for each listener,
//! `admin listening` with `address`, then `started`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::certificates::{First, Issued, Pki};
use super::http;
use super::mongod::Mongod;
use super::namespace;
use super::namespace::User;
use super::process::{Line, Process};
use super::raw::Connection;
use super::replica_set::ReplicaSet;
use super::scratch;
use super::waiting::{patiently, until};

/// Starting takes milliseconds; a busy machine may need long.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// In a directory of each gateway's own.
const CONFIGURATION_FILE: &str = "config.toml";

/// How a gateway is to be: one upstream and one listener, both named `test`.
///
/// The texts are TOML lines that are added to their tables.
#[derive(Debug, Clone, Default)]
pub struct GatewayOptions {
    /// Before the first table.
    pub top: String,
    /// `upstream.test.address`, where there are no members.
    pub upstream_address: String,
    /// `upstream.test.members`.
    pub upstream_members: Vec<String>,
    /// Into `[upstream.test]`.
    pub upstream: String,
    /// All of `[upstream.test.tls]`.
    pub upstream_tls: String,
    /// `listener.test.address`; the default is a free port on 127.0.0.1.
    pub listener_address: Option<String>,
    /// Into `[listener.test]`.
    pub listener: String,
    /// After everything.
    pub tables: String,
    /// `log.level`; the default is `info`.
    pub log_level: Option<&'static str>,
    /// Environment of the process, beside what every process has.
    pub environment: Vec<(String, String)>,
    /// How many descriptors the process may have open; the default is what this program may.
    pub descriptors_max: Option<u32>,
    /// Whom the process runs as; the default is who this program runs as.
    pub user: Option<User>,
    /// Another build than the one that is tested, to compare with.
    pub build: Option<PathBuf>,
}

/// A running gateway; dropping it kills it.
#[derive(Debug)]
pub struct Gateway {
    // In this order: the process goes before its directory.
    process: Process,
    directory: TempDir,
    address: String,
    admin_address: String,
}

/// One line of `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// With `_bucket`, `_sum`, `_count` where it is a histogram's.
    pub name: String,
    /// In the order of the line.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl GatewayOptions {
    /// Leads to this mongod, with the client certificate that the kit made for it.
    pub fn to(mongod: &Mongod) -> Self {
        let mut options = Self { upstream_address: mongod.address(), ..Self::default() };
        options.credentials(&mongod.pki, &mongod.client);
        options
    }

    /// Leads to this set, with the client certificate that the kit made for it; told of its first member only.
    pub fn to_set(set: &ReplicaSet) -> Self {
        let seeds = set.members().into_iter().take(1).collect();
        let upstream = format!("replica_set = {:?}\n", set.name());
        let mut options = Self { upstream_members: seeds, upstream, ..Self::default() };
        options.credentials(&set.pki, &set.client);
        options
    }

    /// Shows this certificate instead.
    pub fn credentials(&mut self, pki: &Pki, client: &Issued) {
        let file = client.combined(First::Certificate).expect("the PKI's directory is writable");
        self.upstream_tls =
            format!("certificate_file = '{}'\nca_file = '{}'\n", file.display(), pki.ca_file().display());
    }

    /// Runs `mongate check` on this configuration, with these arguments too, and returns exit code and standard output.
    pub fn check(&self, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), self.configuration())?;
        let mut command = command()?;
        command.arg("check").arg("--config").arg(file.path()).args(more);
        let (code, out, all) = finish(command)?;
        // What is said of the configuration itself is no report, and stands elsewhere.
        Ok((code, if out.is_empty() { all } else { out }))
    }

    /// The configuration file's text.
    pub fn configuration(&self) -> String {
        let mut text = self.top.clone();
        let level = self.log_level.unwrap_or("info");
        let listener = self.listener_address.as_deref().unwrap_or("127.0.0.1:0");
        let upstream = match (self.upstream_address.as_str(), self.upstream_members.as_slice()) {
            // Where the lines for this table say it in another way.
            ("", []) => String::new(),
            (address, []) => format!("address = {address:?}"),
            (_, members) => format!("members = {members:?}"),
        };
        let parts = [
            format!("\n[admin]\naddress = \"127.0.0.1:0\"\n\n[log]\nformat = \"json\"\nlevel = \"{level}\"\n"),
            format!("\n[upstream.test]\n{upstream}\n{}", self.upstream),
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

/// The most memory that a gateway had, and what it had when the watching began.
pub struct PeakMemory<'a> {
    gateway: &'a Gateway,
    before: u64,
}

impl PeakMemory<'_> {
    /// By how many KiB it grew. Linux's count of resident pages is exact to some hundred KiB only: the peak may even seem lower
    /// than what there was before.
    pub fn grown_kib(&self) -> anyhow::Result<u64> {
        Ok(self.gateway.status_kib("VmHWM:")?.saturating_sub(self.before))
    }
}

impl Gateway {
    /// Starts a gateway to `mongod` and waits until it serves.
    ///
    /// # Panics
    /// When it does not start.
    pub fn to(mongod: &Mongod) -> Self {
        Self::start(&GatewayOptions::to(mongod))
    }

    /// Starts a gateway that is not to serve, and returns its exit code and all that it wrote.
    pub fn start_in_vain(options: &GatewayOptions) -> anyhow::Result<(Option<i32>, String)> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), options.configuration())?;
        let mut command = command()?;
        command.arg("run").arg("--config").arg(file.path());
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));
        let (code, _, all) = finish(command)?;
        Ok((code, all))
    }

    /// Starts a gateway and waits until it serves.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(options: &GatewayOptions) -> Self {
        Self::try_start(options).expect("the gateway starts")
    }

    /// Starts a gateway and waits until it serves, or says why it does not.
    pub fn try_start(options: &GatewayOptions) -> anyhow::Result<Self> {
        let directory = scratch::directory("gateway")?;
        let file = directory.path().join(CONFIGURATION_FILE);
        fs::write(&file, options.configuration())?;
        let mut command = match (&options.build, options.descriptors_max) {
            (Some(build), _) => clean(Command::new(build)),
            (None, Some(limit)) => limited(limit)?,
            (None, None) => command()?,
        };
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

    /// What clients connect to: `127.0.0.1:port`, or `unix:/path`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The address of another listener, of which the options' tables tell.
    pub fn address_of(&self, listener: &str) -> anyhow::Result<String> {
        self.logged_address(|event| event["message"] == "listening" && event["listener"] == listener)
    }

    /// The connection string that an application would use.
    pub fn uri(&self) -> String {
        match self.address.strip_prefix("unix:") {
            Some(path) => format!("mongodb://{}", path.replace('/', "%2F")),
            None => format!("mongodb://{}", self.address),
        }
    }

    /// The same for who wants the whole set of that name.
    pub fn set_uri(&self, set: &str) -> String {
        format!("{}/?replicaSet={set}", self.uri())
    }

    /// What `/status` tells.
    pub fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.get("/status")?.body)?)
    }

    /// Each member that clients of this listener are told of, and the address that stands for it.
    pub fn members_at(&self, listener: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let status = self.status()?;
        let listeners = status["listeners"].as_array().context("no listeners")?;
        let shown = listeners.iter().find(|shown| shown["name"] == listener).context("no such listener")?;
        let members = shown["members"].as_array().context("a listener without members")?.iter();
        let pairs = members
            .filter_map(|shown| Some((shown["member"].as_str()?.to_owned(), shown["address"].as_str()?.to_owned())));
        Ok(pairs.collect())
    }

    /// The same, once all of these members have an address and no other has.
    ///
    /// # Panics
    /// When that does not come to be.
    pub fn await_members(&self, members: &[String]) -> BTreeMap<String, String> {
        let wanted: BTreeSet<_> = members.iter().collect();
        until("the gateway has an address for each member", || {
            self.members_at("test").ok().filter(|known| known.keys().collect::<BTreeSet<_>>() == wanted)
        })
    }

    /// Waits until the gateway knows that this member is primary.
    ///
    /// # Panics
    /// When it does not come to know.
    pub fn await_primary(&self, member: &str) {
        let knows = |status: &Value| status["upstreams"][0]["set"]["primary"] == member;
        until("the gateway knows the primary", || self.status().ok().filter(knows));
    }

    /// The administration port: `127.0.0.1:port`.
    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// Where its configuration file is, and nothing else.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file that it was started with.
    pub fn configuration_file(&self) -> PathBuf {
        self.directory().join(CONFIGURATION_FILE)
    }

    /// A connection of raw bytes.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        match self.address.strip_prefix("unix:") {
            Some(path) => Connection::unix(Path::new(path)),
            None => Connection::plain(&self.address),
        }
    }

    /// Asks the administration port.
    pub fn get(&self, path: &str) -> anyhow::Result<http::Answer> {
        http::get(&self.admin_address, path)
    }

    /// All samples of `/metrics`.
    ///
    /// # Panics
    /// When the administration port does not answer as Prometheus expects.
    pub fn metrics(&self) -> Vec<Sample> {
        let answer = self.get("/metrics").expect("the administration port answers");
        answer.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(parse_sample).collect()
    }

    /// The sum of the samples of this name that carry all these labels; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().iter().filter(|sample| sample.is(name, labels)).map(|sample| sample.value).sum()
    }

    /// Looks at a metric until `accept` takes it, and returns it.
    ///
    /// The gateway counts when it has done something, and the client may have its answer a moment before.
    ///
    /// # Panics
    /// When it never takes it; the value is then told.
    #[track_caller]
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], accept: impl Fn(f64) -> bool) -> f64 {
        let mut value = f64::NAN;
        let accepted = patiently(|| {
            value = self.metric(name, labels);
            accept(value).then_some(())
        });
        assert!(accepted.is_some(), "{name} with {labels:?} stays {value}, which is not what was waited for");
        value
    }

    /// Every event logged so far, its fields lifted to the top; lines that are no JSON come as `{"raw": line}`.
    pub fn log(&self) -> Vec<Value> {
        self.process.lines().iter().map(event).collect()
    }

    /// Waits for an event, those already logged included.
    pub fn wait_for_log(&self, timeout: Duration, accept: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.process.wait_for_line(timeout, |line| Some(event(line)).filter(&accept))
    }

    /// Asks it to drain and end.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Sends any signal.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(timeout)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        self.status_kib("VmRSS:")
    }

    /// Watches for the most resident memory from now on.
    pub fn watch_memory(&self) -> anyhow::Result<PeakMemory<'_>> {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?;
        Ok(PeakMemory { gateway: self, before: self.status_kib("VmHWM:")? })
    }

    /// Processor time so far, to a hundredth of a second.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
        let fields = stat.rsplit_once(") ").context("no name in it")?.1.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        // Linux shows it in hundredths on every architecture.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count())
    }

    fn status_kib(&self, field: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn logged_address(&self, accept: impl Fn(&Value) -> bool) -> anyhow::Result<String> {
        let logged = self.wait_for_log(START_TIMEOUT, accept)?;
        Ok(logged["address"].as_str().context("an address that is no text")?.to_owned())
    }
}

impl Sample {
    /// Whether it has this name and all these labels.
    pub fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let carries = |wanted: &(&str, &str)| self.labels.iter().any(|(name, value)| (&**name, &**value) == *wanted);
        self.name == name && labels.iter().all(carries)
    }

    /// The value of a label, empty where it is absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// Runs the gateway's binary to its end and returns exit code, standard output and all that it wrote.
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

/// The gateway's binary without any `MONGATE_` of our own environment, which it would take for configuration.
fn command() -> anyhow::Result<Command> {
    Ok(clean(Command::new(binary()?)))
}

/// Without what is set for the gateway here.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"MONGATE_")) {
        command.env_remove(name);
    }
    command
}

/// The same with a limit of open descriptors, by way of the shell: setting one from here would need unsafe code.
fn limited(descriptors_max: u32) -> anyhow::Result<Command> {
    let gateway = command()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors_max.to_string()]).arg(gateway.get_program());
    for (name, _) in gateway.get_envs() {
        shell.env_remove(name);
    }
    Ok(shell)
}

/// `MONGATE_TEST_BINARY`, to try one that was built elsewhere; else what cargo built for this test.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("MONGATE_TEST_BINARY").filter(|named| !named.is_empty()) {
        return Ok(PathBuf::from(named));
    }
    // An example has no such variable: it runs the gateway inside itself.
    match option_env!("CARGO_BIN_EXE_mongate") {
        Some(built) => Ok(PathBuf::from(built)),
        None => bail!("cargo built no mongate beside this program"),
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

/// `a="b",c="d"`; values of the gateway hold neither quotes nor backslashes.
fn parse_labels(text: &str) -> Vec<(String, String)> {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}
