//! Child processes that end with the program that started them, and whose output can be waited for.
//!
//! The kernel kills a child whose parent dies (`PR_SET_PDEATHSIG`), even when the parent is killed itself. It means the
//! parent's *thread*, though, and a test's thread ends with its test: so all children are born on one thread that never ends.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use anyhow::bail;

/// How many of the last lines of a child are shown when its test fails.
const LINES_SHOWN_MAX: usize = 20;
/// And how much of each: mongod's lines are long.
const SHOWN_LENGTH_MAX: usize = 400;

/// A running child; dropping it kills it, with those that it has started in its group, and waits for it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// Which of a child's two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line that a child wrote, without its line end; bytes that are no UTF-8 are replaced.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where it was written.
    pub stream: Stream,
    /// What was written.
    pub text: String,
}

impl Process {
    /// Starts `command` with its outputs captured and nothing to read, in a process group of its own, so that a Ctrl-C
    /// in the terminal reaches only us and the order of stopping is ours.
    pub fn start(name: &str, command: Command) -> anyhow::Result<Self> {
        Self::start_bound(name, command, libc::SIGKILL)
    }

    /// The same; when this process dies first, the child gets `signal`. `SIGKILL` is the surest, but one that has children
    /// of its own needs one at which it ends them.
    pub fn start_bound(name: &str, mut command: Command, signal: i32) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        die_with_parent(&mut command, signal);
        let program = command.get_program().to_os_string();
        let mut child = spawn(command).with_context(|| format!("cannot start {}", program.display()))?;
        let output = Arc::new(Output::default());
        if let Some(pipe) = child.stdout.take() {
            output.follow(Stream::Out, pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            output.follow(Stream::Err, pipe);
        }
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far, both outputs, in the order in which they were read.
    pub fn lines(&self) -> Vec<Line> {
        self.output.lock().lines.clone()
    }

    /// The standard output so far.
    pub fn stdout(&self) -> String {
        let lines = self.lines().into_iter().filter(|line| line.stream == Stream::Out);
        lines.map(|line| line.text + "\n").collect()
    }

    /// Waits until `find` gives something for one of the lines, those already written included.
    ///
    /// Fails when the child ends first or `timeout` passes; the error shows what the child wrote.
    pub fn wait_for_line<T>(&self, timeout: Duration, mut find: impl FnMut(&Line) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut state = self.output.lock();
        loop {
            if let Some(found) = state.lines.iter().skip(seen).find_map(&mut find) {
                return Ok(found);
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open_count == 0 || left.is_zero() {
                let how = if state.open_count == 0 { "ended" } else { "went on" };
                drop(state);
                bail!("{} {how} without the awaited line; it wrote:\n{}", self.name, self.tail());
            }
            state = self.output.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        self.signal_to(i32::try_from(self.id())?, signal)
    }

    /// `id` is the child, or its group if it is negative.
    fn signal_to(&self, id: i32, signal: i32) -> anyhow::Result<()> {
        #[expect(
            unsafe_code,
            reason = "kill(2) takes two integers; the child is not reaped yet, so the id is still its own"
        )]
        let result = unsafe { libc::kill(id, signal) };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot signal {}", self.name));
        }
        Ok(())
    }

    /// Waits until the child has ended by itself; its outputs are complete then.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        // The end of both outputs is the event that can be waited for with a limit; the rest is reaping.
        let deadline = Instant::now() + timeout;
        let mut state = self.output.lock();
        while state.open_count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                bail!("{} still runs after {timeout:?}; it wrote:\n{}", self.name, self.tail());
            }
            state = self.output.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        Ok(self.child.wait()?)
    }

    /// Kills the child and its group (`SIGKILL`) and waits for the child.
    pub fn kill(&mut self) {
        // All fail only when there is nobody left. Until the child is waited for, its id is nobody else's group.
        if let (Ok(None), Ok(id)) = (self.child.try_wait(), i32::try_from(self.id())) {
            let _ = self.signal_to(-id, libc::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        let state = self.output.lock();
        let first = state.lines.len().saturating_sub(LINES_SHOWN_MAX);
        let lines = state.lines.iter().skip(first);
        lines.fold(String::new(), |all, line| {
            let text: String = line.text.chars().take(SHOWN_LENGTH_MAX).collect();
            all + "  " + &self.name + " | " + &text + "\n"
        })
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the test harness captures it and shows it with the failed test")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the last lines of {}:\n{}", self.name, self.tail());
        }
    }
}

/// Runs `command` to its end and returns its standard output; a failure shows what it wrote.
pub fn run(name: &str, command: Command, timeout: Duration) -> anyhow::Result<String> {
    let mut process = Process::start(name, command)?;
    let status = process.wait(timeout)?;
    if !status.success() {
        bail!("{name} ended with {status}; it wrote:\n{}", process.tail());
    }
    Ok(process.stdout())
}

/// Both outputs of one child.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OutputState {
    lines: Vec<Line>,
    /// Outputs that the child, or a child of its own, still holds open.
    open_count: usize,
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: Stream, pipe: impl Read + Send + 'static) {
        self.lock().open_count += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
                output.lock().lines.push(Line { stream, text });
                output.changed.notify_all();
                bytes.clear();
            }
            output.lock().open_count -= 1;
            output.changed.notify_all();
        });
    }
}

struct Birth {
    command: Command,
    answer: mpsc::SyncSender<std::io::Result<Child>>,
}

static CRADLE: LazyLock<mpsc::SyncSender<Birth>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::sync_channel::<Birth>(0);
    thread::spawn(move || {
        while let Ok(mut birth) = receiver.recv() {
            // Who asked always waits for the answer.
            let _ = birth.answer.send(birth.command.spawn());
        }
    });
    sender
});

fn spawn(command: Command) -> anyhow::Result<Child> {
    let (answer, receiver) = mpsc::sync_channel(1);
    CRADLE.send(Birth { command, answer }).context("the thread that starts processes has ended")?;
    Ok(receiver.recv().context("the thread that starts processes has ended")??)
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    let bind_life = move || {
        // SAFETY: two system calls with integer arguments; neither allocates or takes a lock.
        #[expect(unsafe_code, reason = "prctl(2) and getppid(2) have no safe form in std")]
        let (result, parent_now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid().cast_unsigned()) };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // The parent may have died before the call; then no signal comes any more.
        if parent_now != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: `bind_life` is async-signal-safe, as the child of a fork needs it.
    #[expect(unsafe_code, reason = "what runs between fork and exec is for us to keep safe")]
    unsafe {
        command.pre_exec(bind_life);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _signal: i32) {
    // Elsewhere the drop alone stops the child.
}
