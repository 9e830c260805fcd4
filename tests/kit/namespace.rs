//! Network, mounts and users of a test's own: it may bind any port, set firewall rules, and have its own `/etc`.
//!
//! A test that wants that runs a second time, in a child of this program that begins inside of new namespaces; there all
//! of the kit works as ever. What the machine has is not touched, and everything goes with the child.
//!
//! Nothing can be fetched from in there, as there is no network but loopback: what a test needs has to be had before.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{bail, ensure};
use tempfile::TempDir;

use super::process;
use super::process::Process;
use super::provision;
use super::scratch;

/// Set for the program inside.
const INSIDE: &str = "MONGATE_KIT_INSIDE_NAMESPACES";
/// For one test inside, whatever it does.
const TEST_TIMEOUT: Duration = Duration::from_mins(5);
/// For one small program.
const TOOL_TIMEOUT: Duration = Duration::from_secs(30);

/// Most of these tests have a replica set of their own: all at once would be too much for a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A user of the namespaces, who is nobody elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// As it stands in `/etc/passwd`.
    pub name: &'static str,
    id: u32,
}

/// The gateway, where it is to be told from its clients.
pub const GATEWAY: User = User { name: "mongate", id: 1337 };
/// A client, where it is to be told from the rest.
pub const CLIENT: User = User { name: "client", id: 1338 };

/// The namespaces, seen from inside.
#[derive(Debug)]
pub struct Namespace {
    // What stands in for files of `/etc`.
    directory: TempDir,
}

/// Runs `body` in namespaces of its own; `test` is the name of the test that calls this, as `module::function`.
///
/// Where none can be had, says so loudly, see [`provision::or_skip`].
///
/// # Panics
/// When the test fails inside; what it wrote is shown.
#[expect(clippy::print_stderr, reason = "the test harness captures it and shows it with the failed test")]
pub fn inside(test: &str, body: impl FnOnce(&Namespace)) {
    if env::var_os(INSIDE).is_some() {
        body(&Namespace::furnish().expect("the namespaces can be furnished"));
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut command) = provision::or_skip("own network namespaces", unshare()) else { return };
    let program = env::current_exe().expect("this program knows where it is");
    command.arg(program).args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(INSIDE, "1");
    let mut inner = Process::start(test, command).expect("the program starts a second time");
    let status = inner.wait(TEST_TIMEOUT);
    let lines: Vec<String> = inner.lines().into_iter().map(|line| line.text).collect();
    eprintln!("{}", lines.join("\n"));
    drop(inner);
    let succeeded = status.expect("it ends in time").success();
    assert!(succeeded, "{test} failed inside of its namespaces, see above");
    // A name that is spelt wrong would be a test that nobody ran.
    assert!(lines.iter().any(|line| line.contains("1 passed")), "there is no test {test}");
}

/// The command that runs what comes behind it in new namespaces: as root itself, or else as the root of a new user
/// namespace in which there are other users too (`newuidmap` and a line in `/etc/subuid`). It dies with us either way.
fn unshare() -> anyhow::Result<Command> {
    // Which capabilities one has changes on the way, and the kernel forgets then whom to die with.
    const DIE_WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
    const KINDS: [&[&str]; 2] = [&["--net", "--mount"], &["--net", "--mount", "--map-root-user", "--map-auto"]];
    static FITTING: OnceLock<Result<&[&str], String>> = OnceLock::new();
    let fitting = FITTING.get_or_init(|| {
        let mut reasons = Vec::new();
        for kind in KINDS {
            match try_out(kind) {
                Ok(()) => return Ok(kind),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        Err(reasons.join("; "))
    });
    let kind = fitting.as_ref().map_err(|reasons| anyhow::anyhow!("{reasons}"))?;
    let mut command = command();
    command.args(*kind).args(DIE_WITH_PARENT);
    Ok(command)
}

/// All that tests do in there.
fn try_out(kind: &[&str]) -> anyhow::Result<()> {
    const TRIAL: &str = r#"
        for tool in setpriv:util-linux ip:iproute2 iptables:iptables ip6tables:iptables; do
            command -v "${tool%:*}" >/dev/null || { echo "no ${tool%:*} (Debian: apt-get install ${tool#*:})" >&2; exit 1; }
        done
        ip link set lo up
        iptables -t nat -S
        ip6tables -t nat -S
        mount --bind /etc/hosts /etc/hosts
        setpriv --reuid 1337 --regid 1337 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search true
    "#;
    let mut command = command();
    command.args(kind).args(["sh", "-ec", TRIAL]);
    process::run("unshare", command, TOOL_TIMEOUT).map(drop)
}

/// `unshare`, which is for everybody, with the directories where the tools are that are not.
fn command() -> Command {
    let mut command = Command::new("unshare");
    command.env("PATH", env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}

impl Namespace {
    fn furnish() -> anyhow::Result<Self> {
        let namespace = Self { directory: scratch::directory("namespace")? };
        namespace.sh("ip link set lo up")?;
        let mut users = fs::read_to_string("/etc/passwd")?;
        for user in [GATEWAY, CLIENT] {
            writeln!(users, "{}:x:{1}:{1}::/:/bin/false", user.name, user.id)?;
        }
        namespace.replace("/etc/passwd", &users)?;
        Ok(namespace)
    }

    /// Runs a line of shell, and returns what it wrote to its standard output.
    #[expect(clippy::unused_self, reason = "only who has a namespace may change the network")]
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        let mut command = Command::new("sh");
        command.args(["-ec", line]);
        process::run(line, command, TOOL_TIMEOUT)
    }

    /// Gives loopback more addresses, and `/etc/hosts` their names.
    pub fn hosts(&self, hosts: &[(&str, &[&str])]) -> anyhow::Result<()> {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (name, addresses) in hosts {
            for address in *addresses {
                let prefix = if address.contains(':') { 128 } else { 32 };
                // It may be there already.
                self.sh(&format!("ip address replace {address}/{prefix} dev lo"))?;
                writeln!(text, "{address} {name}")?;
            }
        }
        self.replace("/etc/hosts", &text)
    }

    /// Has names looked up at this name server, port 53, or at none.
    pub fn name_server(&self, address: Option<&str>) -> anyhow::Result<()> {
        let line = address.map(|address| format!("nameserver {address}\n")).unwrap_or_default();
        self.replace("/etc/resolv.conf", &format!("{line}options timeout:1 attempts:2\n"))
    }

    /// Has another text stand in the place of a file, for everybody inside.
    fn replace(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let stand_in = self.stand_in(file);
        let is_new = !stand_in.exists();
        // Written in place where it is mounted already, and readable by all users.
        fs::write(&stand_in, text)?;
        if is_new {
            self.sh(&format!("chmod 644 {0}; mount --bind {0} {file}", stand_in.display()))?;
        }
        ensure!(fs::read_to_string(file)? == text, "{file} has not become another");
        Ok(())
    }

    fn stand_in(&self, file: &str) -> PathBuf {
        self.directory.path().join(file.replace('/', "_"))
    }
}

/// Runs `action` with the sockets and files that it makes belonging to this user.
pub fn as_user<T>(user: User, action: impl FnOnce() -> T) -> T {
    assert!(env::var_os(INSIDE).is_some(), "{} is a user of namespaces only", user.name);
    set_file_user(user.id);
    let result = action();
    set_file_user(0);
    result
}

fn set_file_user(id: u32) {
    // SAFETY: a system call with one integer argument, and for this thread alone.
    #[expect(unsafe_code, reason = "setfsuid(2) has no safe form in std")]
    unsafe {
        libc::setfsuid(id);
    }
}

/// The same command as this user, who may read everything as root may: the kit's files are for their owner only.
///
/// The command's directory and outputs are not taken over.
pub fn run_as(user: User, command: &Command) -> anyhow::Result<Command> {
    if env::var_os(INSIDE).is_none() {
        bail!("{} is a user of namespaces only", user.name);
    }
    let mut wrapped = Command::new("setpriv");
    let id = user.id.to_string();
    wrapped.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    wrapped.args(["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--pdeathsig", "KILL"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    Ok(wrapped)
}
