//! Linux namespaces for a test, with its own network, mounts and users: the test can bind any port, set firewall rules,
//! and have its own `/etc`.
//!
//! The test runs a second time in a child of this program that starts in new namespaces. The kit works there as usual.
//! The machine is not changed, and the namespaces end with the child.
//!
//! The only network in the namespaces is loopback, so nothing can be downloaded there. The test must download before.

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

/// Environment variable of the program in the namespaces.
const INSIDE: &str = "MONGATE_KIT_INSIDE_NAMESPACES";
/// Limit for one test in its namespaces.
const TEST_TIMEOUT: Duration = Duration::from_mins(5);
/// Limit for one small program.
const TOOL_TIMEOUT: Duration = Duration::from_secs(30);

/// Most of these tests have their own replica set. Running them concurrently would overload a small machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A user that exists in the namespaces only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Name in `/etc/passwd`.
    pub name: &'static str,
    id: u32,
}

/// The user of the gateway, to distinguish it from its clients.
pub const GATEWAY: User = User { name: "mongate", id: 1337 };
/// The user of a client, to distinguish it from other processes.
pub const CLIENT: User = User { name: "client", id: 1338 };

/// Access to the namespaces that this program runs in.
#[derive(Debug)]
pub struct Namespace {
    // The files that replace files of `/etc`.
    directory: TempDir,
}

/// Runs `body` in new namespaces. `test` is the name of the calling test, as `module::function`.
///
/// If namespaces are not available, the test is skipped, see [`provision::or_skip`].
///
/// # Panics
/// If the test fails in the namespaces. Its output is shown.
#[expect(clippy::print_stderr, reason = "the test harness captures it and shows it with the failed test")]
pub fn inside(test: &str, body: impl FnOnce(&Namespace)) {
    if env::var_os(INSIDE).is_some() {
        body(&Namespace::set_up().expect("the namespaces can be set up"));
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut command) = provision::or_skip("own network namespaces", unshare()) else { return };
    let program = env::current_exe().expect("the path of this program is known");
    command.arg(program).args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(INSIDE, "1");
    let mut inner = Process::start(test, command).expect("the program starts in the namespaces");
    let status = inner.wait(TEST_TIMEOUT);
    let lines: Vec<String> = inner.lines().into_iter().map(|line| line.text).collect();
    eprintln!("{}", lines.join("\n"));
    drop(inner);
    let succeeded = status.expect("the test ends in time").success();
    assert!(succeeded, "{test} failed in its namespaces; its output is above");
    // With a misspelt name, no test would run.
    assert!(lines.iter().any(|line| line.contains("1 passed")), "there is no test {test}");
}

/// A command that runs its arguments in new namespaces: as root, or else as root of a new user namespace that has other
/// users too (which needs `newuidmap` and a line in `/etc/subuid`). It dies with this program.
fn unshare() -> anyhow::Result<Command> {
    // The kernel clears the signal for the parent's death when the capabilities of the process change, so it is set
    // again.
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

/// Runs everything that tests do in the namespaces.
fn try_out(kind: &[&str]) -> anyhow::Result<()> {
    const TRIAL: &str = r#"
        for tool in setpriv:util-linux ip:iproute2 iptables:iptables ip6tables:iptables; do
            command -v "${tool%:*}" >/dev/null && continue
            echo "no ${tool%:*} (Debian: apt-get install ${tool#*:})" >&2
            exit 1
        done
        ip link set lo up
        iptables -t nat -S
        ip6tables -t nat -S
        mount --bind /etc/hosts /etc/hosts
        setpriv --reuid 1337 --regid 1337 --clear-groups \
            --inh-caps +dac_read_search --ambient-caps +dac_read_search true
    "#;
    let mut command = command();
    command.args(kind).args(["sh", "-ec", TRIAL]);
    process::run("unshare", command, TOOL_TIMEOUT).map(drop)
}

/// `unshare`, with the directories of administration tools added to the `PATH`.
fn command() -> Command {
    let mut command = Command::new("unshare");
    command.env("PATH", env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}

impl Namespace {
    fn set_up() -> anyhow::Result<Self> {
        let namespace = Self { directory: scratch::directory("namespace")? };
        namespace.sh("ip link set lo up")?;
        let mut users = fs::read_to_string("/etc/passwd")?;
        for user in [GATEWAY, CLIENT] {
            writeln!(users, "{}:x:{1}:{1}::/:/bin/false", user.name, user.id)?;
        }
        namespace.replace("/etc/passwd", &users)?;
        Ok(namespace)
    }

    /// Runs a shell command and returns its standard output.
    #[expect(clippy::unused_self, reason = "a caller without a namespace must not change the network")]
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        let mut command = Command::new("sh");
        command.args(["-ec", line]);
        process::run(line, command, TOOL_TIMEOUT)
    }

    /// Adds addresses to the loopback interface, and their names to `/etc/hosts`.
    pub fn hosts(&self, hosts: &[(&str, &[&str])]) -> anyhow::Result<()> {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (name, addresses) in hosts {
            for address in *addresses {
                let prefix = if address.contains(':') { 128 } else { 32 };
                // The address may exist already.
                self.sh(&format!("ip address replace {address}/{prefix} dev lo"))?;
                writeln!(text, "{address} {name}")?;
            }
        }
        self.replace("/etc/hosts", &text)
    }

    /// Sets the DNS server for the resolver, at port 53, or none.
    pub fn name_server(&self, address: Option<&str>) -> anyhow::Result<()> {
        let line = address.map(|address| format!("nameserver {address}\n")).unwrap_or_default();
        self.replace("/etc/resolv.conf", &format!("{line}options timeout:1 attempts:2\n"))
    }

    /// Replaces the contents of a file for all processes in the namespaces.
    fn replace(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let replacement = self.replacement(file);
        let is_new = !replacement.exists();
        // An existing replacement is mounted already, so it is overwritten in place. All users must be able to read it.
        fs::write(&replacement, text)?;
        if is_new {
            self.sh(&format!("chmod 644 {0}; mount --bind {0} {file}", replacement.display()))?;
        }
        ensure!(fs::read_to_string(file)? == text, "{file} was not replaced");
        Ok(())
    }

    fn replacement(&self, file: &str) -> PathBuf {
        self.directory.path().join(file.replace('/', "_"))
    }
}

/// Runs `action` so that the sockets and files that it creates belong to this user.
pub fn as_user<T>(user: User, action: impl FnOnce() -> T) -> T {
    assert!(env::var_os(INSIDE).is_some(), "the user {} exists in namespaces only", user.name);
    set_file_user(user.id);
    let result = action();
    set_file_user(0);
    result
}

fn set_file_user(id: u32) {
    // SAFETY: a system call with one integer argument, which affects this thread only.
    #[expect(unsafe_code, reason = "setfsuid(2) has no safe form in std")]
    unsafe {
        libc::setfsuid(id);
    }
}

/// A command that runs `command` as this user. The user can read all files, like root, because only the owner can read
/// the files of the kit.
///
/// The working directory and the outputs of `command` are not copied.
pub fn run_as(user: User, command: &Command) -> anyhow::Result<Command> {
    if env::var_os(INSIDE).is_none() {
        bail!("the user {} exists in namespaces only", user.name);
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
