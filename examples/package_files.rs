//! Writes the manual pages, compressed with `gzip`, and the completions of bash, zsh and fish into a
//! directory, for packages: `cargo run --example package_files -- target/release/packaging`.
//!
//! They are made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::{Shell, generate_to};
use mongate::cli::Cli;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).context("name the directory to write to")?;
    let manual = directory.join("man");
    fs::create_dir_all(&manual)?;
    clap_mangen::generate_to(Cli::command(), &manual)?;
    compress(&manual)?;
    for (name, shell) in [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)] {
        let directory = directory.join(name);
        fs::create_dir_all(&directory)?;
        generate_to(shell, &mut Cli::command(), "mongate", &directory)?;
    }
    // bash loads completions by the name of the program.
    fs::rename(directory.join("bash/mongate.bash"), directory.join("bash/mongate"))?;
    Ok(())
}

/// Distributions expect compressed pages. `-n`: without the time, so that the same pages give the same bytes.
fn compress(manual: &Path) -> anyhow::Result<()> {
    for page in fs::read_dir(manual)? {
        let page = page?.path();
        if page.extension().is_some_and(|extension| extension == "1") {
            let status = Command::new("gzip").args(["-9nf"]).arg(&page).status().context("gzip cannot be started")?;
            anyhow::ensure!(status.success(), "gzip failed with {}", page.display());
        }
    }
    Ok(())
}
