//! The `mongate` program: arguments to command to exit code, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    mongate::cli::main()
}
