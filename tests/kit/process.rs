//! Child processes that end with this program, and whose output tests can wait for.
//!
//! The kernel kills a child when its parent dies (`PR_SET_PDEATHSIG`), even if the parent is killed. The parent is the
//! *thread* that started the child, and the thread of a test ends with the test. Therefore all children are started by
//! one thread that never ends.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
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

/// Number of last lines of a child that are shown when its test fails.
const LINES_SHOWN_MAX: usize = 20;
/// Characters of each line that are shown; mongod's lines are long.
const SHOWN_LENGTH_MAX: usize = 400;

/// A running child. Dropping it kills it and its process group, and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// The output of a child that a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One line that a child wrote, without its line end. Invalid UTF-8 is replaced.
#[derive(Debug, Clone)]
pub struct Line {
    /// The output that the line was written to.
    pub stream: Stream,
    /// The line.
    pub text: String,
}

impl Process {
    /// Starts `command` with captured outputs and empty input. It has its own process group, so that a Ctrl-C in the
    /// terminal reaches only this program, which then ends its children in its own order.
    pub fn start(name: &str, command: Command) -> anyhow::Result<Self> {
        Self::start_bound(name, command, libc::SIGKILL)
    }

    /// As [`Process::start`]; the child gets `signal` when this program dies first. `SIGKILL` cannot be ignored, but a
    /// child that has children itself needs a signal on which it ends them.
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

    /// All lines of both outputs so far, in the order in which they were read.
    pub fn lines(&self) -> Vec<Line> {
        self.output.lock().lines.clone()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        let lines = self.lines().into_iter().filter(|line| line.stream == Stream::Out);
        lines.map(|line| line.text + "\n").collect()
    }

    /// Waits until `find` returns a value for a line. Lines that have already been written are included.
    ///
    /// Fails if the child ends first or `timeout` passes; the error shows the output of the child.
    pub fn wait_for_line<T>(&self, timeout: Duration, mut find: impl FnMut(&Line) -> Option<T>) -> anyhow::Result<T> {
        let mut seen = 0;
        let found = self.output.wait_until(timeout, |state| {
            let found = state.lines.iter().skip(seen).find_map(&mut find);
            seen = state.lines.len();
            (found.is_some() || state.open_count == 0).then_some(found)
        });
        match found {
            Some(Some(found)) => Ok(found),
            Some(None) => bail!("{} ended without the expected line; its output:\n{}", self.name, self.tail()),
            None => bail!("{} did not write the expected line within {timeout:?}:\n{}", self.name, self.tail()),
        }
    }

    /// Stops reading both outputs, as a stuck log collector does, or reads on. A few KiB may have been read ahead.
    pub fn read_outputs(&self, reading: bool) {
        self.output.lock().is_stopped = !reading;
        self.output.changed.notify_all();
    }

    /// Whether the child has ended, also while its outputs are not read.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal, such as `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        self.signal_to(i32::try_from(self.id())?, signal)
    }

    /// `id` is the child, or its process group if it is negative.
    fn signal_to(&self, id: i32, signal: i32) -> anyhow::Result<()> {
        #[expect(
            unsafe_code,
            reason = "kill(2) takes two integers; until the child is reaped, no other process can have its ID"
        )]
        let result = unsafe { libc::kill(id, signal) };
        if result != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot signal {}", self.name));
        }
        Ok(())
    }

    /// Waits until the child has ended and its outputs are complete.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        // Waits for the end of both outputs, because `Child::wait` has no timeout. The child is reaped afterwards.
        let ended = self.output.wait_until(timeout, |state| (state.open_count == 0).then_some(()));
        if ended.is_none() {
            bail!("{} is still running after {timeout:?}; its output:\n{}", self.name, self.tail());
        }
        Ok(self.child.wait()?)
    }

    /// Kills the child and its process group (`SIGKILL`) and waits for the child.
    pub fn kill(&mut self) {
        // Errors mean that the processes have ended. Until the child is reaped, no other process group can have its ID.
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
            eprintln!("last lines of {}:\n{}", self.name, self.tail());
        }
    }
}

/// Runs `command` until it ends and returns its standard output. An error shows both outputs.
pub fn run(name: &str, command: Command, timeout: Duration) -> anyhow::Result<String> {
    let mut process = Process::start(name, command)?;
    let status = process.wait(timeout)?;
    if !status.success() {
        bail!("{name} ended with {status}; its output:\n{}", process.tail());
    }
    Ok(process.stdout())
}

/// The two outputs of a child.
#[derive(Debug, Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OutputState {
    lines: Vec<Line>,
    /// Number of outputs that the child, or one of its children, holds open.
    open_count: usize,
    /// Whether the outputs are not read.
    is_stopped: bool,
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `check` returns a value for the current state. `None` when `timeout` has passed.
    fn wait_until<T>(&self, timeout: Duration, mut check: impl FnMut(&OutputState) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(found) = check(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_while_stopped(&self) {
        let mut state = self.lock();
        while state.is_stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn follow(self: &Arc<Self>, stream: Stream, pipe: impl Read + Send + 'static) {
        self.lock().open_count += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
                output.wait_while_stopped();
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

struct SpawnRequest {
    command: Command,
    answer: mpsc::SyncSender<std::io::Result<Child>>,
}

/// The thread that starts all children.
static SPAWNER: LazyLock<mpsc::SyncSender<SpawnRequest>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::sync_channel::<SpawnRequest>(0);
    thread::spawn(move || {
        while let Ok(mut request) = receiver.recv() {
            // The requesting thread always waits for the answer.
            let _ = request.answer.send(request.command.spawn());
        }
    });
    sender
});

fn spawn(command: Command) -> anyhow::Result<Child> {
    let (answer, receiver) = mpsc::sync_channel(1);
    SPAWNER.send(SpawnRequest { command, answer }).context("the thread that starts processes has ended")?;
    Ok(receiver.recv().context("the thread that starts processes has ended")??)
}

/// Lets the child inherit `sockets` as its descriptors from 3 on, as a service manager passes them.
pub fn pass_sockets(command: &mut Command, sockets: Vec<Arc<OwnedFd>>) {
    /// Above the descriptors that the child gets.
    const FREE: i32 = 100;
    let mut copies = vec![0; sockets.len()];
    let pass = move || {
        // First all copies, so that none of the numbers from 3 on is overwritten before it is copied.
        for (copy, socket) in copies.iter_mut().zip(&sockets) {
            // SAFETY: a system call with integer arguments.
            #[expect(unsafe_code, reason = "std has no duplicate with a lowest number")]
            let duplicate = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FREE) };
            *copy = duplicate;
        }
        for (copy, target) in copies.iter().zip(3..) {
            // SAFETY: as above. This process is about to execute the child, and uses none of these descriptors.
            #[expect(unsafe_code, reason = "dup2(2) with a number has no safe form in std")]
            if unsafe { libc::dup2(*copy, target) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `pass` makes system calls only, and allocates nothing.
    #[expect(unsafe_code, reason = "the caller has to make sure that code between fork and exec is safe")]
    unsafe {
        command.pre_exec(pass);
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    let bind_life = move || {
        // SAFETY: two system calls with integer arguments. Neither allocates memory or takes a lock.
        #[expect(unsafe_code, reason = "prctl(2) and getppid(2) have no safe form in std")]
        let (result, parent_now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid().cast_unsigned()) };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // If the parent died before the call, there will be no signal.
        if parent_now != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: `bind_life` is async-signal-safe, as required in the child of a fork.
    #[expect(unsafe_code, reason = "the caller has to make sure that code between fork and exec is safe")]
    unsafe {
        command.pre_exec(bind_life);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _signal: i32) {
    // On other systems, only dropping the `Process` ends the child.
}
