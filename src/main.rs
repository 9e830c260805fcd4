//! The `mongate` binary. The command line is in `mongate::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mongate::cli::main()
}
