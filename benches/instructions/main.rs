//! Counts the instructions of the gateway's own code: of scanning messages, and of the relay between two in-memory
//! pipes.
//!
//! `cargo bench --bench instructions` counts with valgrind's callgrind and compares with `figures.txt` next to this
//! file. An increase of more than 5 % fails. `-- --record` writes the file, and `-- --test` runs every case without
//! counting.
//!
//! Only the instructions of Rust functions are compared. Those of ciphers and of the C library are shown only: this
//! code is selected by processor, so machines differ. For the C library, the numbers of calls that allocate and that
//! copy are compared instead.

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

/// Environment variable with the name of the case that this program runs under valgrind.
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
            // In hundredths, because several operations may share one allocation.
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

/// Runs `work`; callgrind counts only within this function.
///
/// Not generic, so that callgrind finds exactly one function with this name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}
