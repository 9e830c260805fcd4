//! Runs a case under callgrind and adds up the profile.

use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::CASE;
use super::kit::{mongod_binary, process, scratch};

/// A case takes seconds; a busy machine may need much longer.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Costs of one case within [`super::counted`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Instructions of Rust functions.
    pub(crate) instructions: u64,
    /// Calls from Rust functions that allocate memory.
    pub(crate) allocations: u64,
    /// Calls from Rust functions that copy memory.
    pub(crate) copies: u64,
    /// Instructions of all other code: ciphers and the C library. They are shown, but not compared.
    pub(crate) elsewhere: u64,
}

/// Runs the case of this name under callgrind. Fails if valgrind is missing or has counted nothing.
pub(crate) fn count(case: &str) -> anyhow::Result<Sums> {
    let valgrind = mongod_binary::on_path("valgrind").context("valgrind is not on the PATH")?;
    let directory = scratch::directory("callgrind")?;
    let file = directory.path().join("out");
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--collect-atstart=no", "--compress-strings=no", "--compress-pos=no"]);
    command.arg("--toggle-collect=instructions::counted*");
    command.arg(format!("--callgrind-out-file={}", file.display()));
    command.arg(env::current_exe()?).env(CASE, case);
    process::run("valgrind", command, TIMEOUT)?;
    let sums = add_up(&fs::read_to_string(&file)?);
    anyhow::ensure!(sums.instructions > 0, "callgrind has counted no instruction of {case:?}");
    Ok(sums)
}

/// Adds up a profile in callgrind's format, without compression. `fn=` starts a function, and the lines with two
/// numbers are its own cost. The line after `calls=` is the cost of the called function, which has an entry of its own.
fn add_up(profile: &str) -> Sums {
    let (mut sums, mut is_rust_code, mut called) = (Sums::default(), false, "");
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("fn=") {
            is_rust_code = is_rust(function);
        } else if let Some(function) = line.strip_prefix("cfn=") {
            called = function;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let count = calls.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
            match library_call(called) {
                Some(LibraryCall::Allocate) if is_rust_code => sums.allocations += count,
                Some(LibraryCall::Copy) if is_rust_code => sums.copies += count,
                _ => {}
            }
            lines.next();
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
            *if is_rust_code { &mut sums.instructions } else { &mut sums.elsewhere } += cost;
        }
    }
    sums
}

/// Names of functions in C and assembly language have no path.
fn is_rust(function: &str) -> bool {
    function.contains("::")
}

enum LibraryCall {
    Allocate,
    Copy,
}

fn library_call(function: &str) -> Option<LibraryCall> {
    if ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"].contains(&function) {
        return Some(LibraryCall::Allocate);
    }
    let is_copy = !is_rust(function) && ["memcpy", "memmove"].iter().any(|name| function.contains(name));
    is_copy.then_some(LibraryCall::Copy)
}
