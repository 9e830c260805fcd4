//! How many instructions the gateway's own code takes: of the scan, and of the relay between two pipes in memory.
//!
//! `cargo bench --bench instructions` counts them with valgrind's callgrind and compares with `figures.txt` beside this file; what has
//! grown by more than 5 % fails. `-- --record` writes that file anew. `-- --test` runs every case without counting.
//!
//! Counted is what Rust functions of this program do themselves. The ciphers and the C library are shown, and not judged: both
//! choose their code by the processor that they find, so that another machine would count otherwise. What is asked of the
//! C library (to allocate, to copy) is judged by the number of calls instead.

mod callgrind;
mod cases;
mod figures;
#[path = "../../tests/kit/mod.rs"]
mod kit;
#[path = "../messages/mod.rs"]
mod messages;
mod relayed;

use std::env;
use std::io::{Write, stdout};
use std::process::ExitCode;

use cases::CASES;
use figures::{Figure, Recorded};

/// Names the one case that this program is to run as valgrind's child.
const CASE: &str = "MONGATE_INSTRUCTIONS_CASE";

fn main() -> anyhow::Result<ExitCode> {
    if let Ok(wanted) = env::var(CASE) {
        for case in CASES.iter().filter(|case| case.name == wanted) {
            (case.run)()?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let is = |name: &str| arguments.iter().any(|argument| argument == name);
    if is("--test") || !is("--bench") {
        for case in &CASES {
            (case.run)()?;
        }
        writeln!(stdout(), "{} cases ran; nothing was counted", CASES.len())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut counted = Vec::new();
    for case in &CASES {
        let sums = callgrind::count(case.name)?;
        let each = |sum: u64| sum.div_ceil(case.operations);
        counted.push(Figure {
            name: case.name.to_owned(),
            instructions: each(sums.instructions),
            // In hundredths: many operations share one allocation.
            allocations: each(100 * sums.allocations),
            copies: each(100 * sums.copies),
            elsewhere: each(sums.elsewhere),
        });
    }
    if is("--record") {
        figures::record(&counted)?;
    }
    let recorded = Recorded::read()?;
    let report = recorded.compare(&counted);
    write!(stdout(), "{report}")?;
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs `work` where callgrind counts; nothing else is counted.
///
/// Not generic, so that there is one function of this name to be told by.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}
