//! Temporary directories for data, keys and sockets. They are removed when dropped, and at the end of this program at
//! the latest.
//!
//! A program that ends by Ctrl-C or by a signal drops nothing. Therefore all directories are in one directory, and a
//! small shell process waits for the end of this program and then removes it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use tempfile::TempDir;

/// Waits for the end of its standard input, which this program holds open. Retries, because a mongod that is being
/// killed may still write to the directory.
const JANITOR: &str = r#"
read -r _
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2>/dev/null && exit
    sleep 0.2
done
"#;

struct Root {
    path: PathBuf,
    // Holds the standard input of the janitor open.
    _janitor: Child,
}

/// Creates a directory whose name starts with `purpose`. It is removed when dropped.
pub fn directory(purpose: &str) -> anyhow::Result<TempDir> {
    static ROOT: LazyLock<anyhow::Result<Root>> = LazyLock::new(make_root);
    let root = ROOT.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let made = tempfile::Builder::new().prefix(&format!("{purpose}-")).tempdir_in(&root.path);
    made.with_context(|| format!("cannot make a directory in {}", root.path.display()))
}

fn make_root() -> anyhow::Result<Root> {
    let directory = tempfile::Builder::new().prefix("mongate-kit-").tempdir()?;
    let mut janitor = Command::new("sh");
    // The working directory of the tests may be removed before the janitor ends.
    janitor.current_dir("/").args(["-c", JANITOR, "janitor"]).arg(directory.path());
    // In a process group of its own, so that a Ctrl-C that ends this program does not end it.
    janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let janitor = janitor.spawn().context("cannot start sh")?;
    Ok(Root { path: directory.keep(), _janitor: janitor })
}
