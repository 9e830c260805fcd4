//! Runs a case under callgrind and adds up what counts.

use std::env;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::CASE;
use super::kit::{mongod_binary, process, scratch};

/// A case takes seconds; a busy machine may need long.
const TIMEOUT: Duration = Duration::from_mins(5);

/// What one case has done in [`super::counted`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Of Rust's functions themselves.
    pub(crate) instructions: u64,
    /// Calls that ask for memory.
    pub(crate) allocations: u64,
    /// Calls that copy memory.
    pub(crate) copies: u64,
    /// Instructions of everything else: ciphers, and the C library. For people to see.
    pub(crate) elsewhere: u64,
}

/// Counts the case of this name.
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
    anyhow::ensure!(sums.instructions > 0, "callgrind has counted nothing of {case:?}");
    Ok(sums)
}

/// Adds up a profile in callgrind's format, without compression: `fn=` begins a function, lines of two numbers are its own
/// cost, and the line behind `calls=` is the cost of the function called, which stands elsewhere again.
fn add_up(profile: &str) -> Sums {
    let (mut sums, mut is_ours, mut called) = (Sums::default(), false, "");
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("fn=") {
            is_ours = is_rust(function);
        } else if let Some(function) = line.strip_prefix("cfn=") {
            called = function;
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let count = calls.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
            match asked_of_library(called) {
                Some(Asked::Memory) if is_ours => sums.allocations += count,
                Some(Asked::Copy) if is_ours => sums.copies += count,
                _ => {}
            }
            lines.next();
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
            *if is_ours { &mut sums.instructions } else { &mut sums.elsewhere } += cost;
        }
    }
    sums
}

/// C and assembler have no paths.
fn is_rust(function: &str) -> bool {
    function.contains("::")
}

enum Asked {
    Memory,
    Copy,
}

fn asked_of_library(function: &str) -> Option<Asked> {
    if ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign"].contains(&function) {
        return Some(Asked::Memory);
    }
    let is_copy = !is_rust(function) && ["memcpy", "memmove"].iter().any(|name| function.contains(name));
    is_copy.then_some(Asked::Copy)
}
