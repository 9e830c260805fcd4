//! Exit codes, and how a command reports why it failed.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// The command did not succeed, for any reason without an exit code of its own.
pub(super) const FAILED: u8 = 1;

/// The options are incomplete or contradict each other; the exit code that clap uses.
pub(super) const USAGE: u8 = 2;

/// Input other than the configuration cannot be read: a body, a table of cases, a document; `EX_DATAERR` of sysexits.h.
pub(super) const DATA: u8 = 65;

/// The policy denies the command; `EX_NOPERM` of sysexits.h.
pub(super) const DENIED: u8 = 77;

/// The configuration, or a file that it names, cannot be used; `EX_CONFIG` of sysexits.h.
pub(super) const CONFIGURATION: u8 = 78;

/// Prints `error` to stderr and returns the exit code `code`.
pub(super) fn fail(code: u8, error: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "mongate: {error}");
    ExitCode::from(code)
}
