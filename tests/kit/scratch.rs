//! Directories for data, keys and sockets, which go with whoever holds them, and with this program at the latest.
//!
//! A Ctrl-C or a kill ends a program where it stands, without dropping anything. So all of them stand in one directory,
//! and a small shell waits for the end of this program, however it comes, to remove what is left of it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use tempfile::TempDir;

/// Its input ends when this program does. What is being removed may still be written to by a mongod that is being killed
/// in the same moment: then it tries again.
const JANITOR: &str = r#"
read -r _
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2>/dev/null && exit
    sleep 0.2
done
"#;

struct Root {
    path: PathBuf,
    // Holds the input of the janitor open.
    _janitor: Child,
}

/// A new directory with a name that starts with `purpose`; dropping it removes it.
pub fn directory(purpose: &str) -> anyhow::Result<TempDir> {
    static ROOT: LazyLock<anyhow::Result<Root>> = LazyLock::new(make_root);
    let root = ROOT.as_ref().map_err(|error| anyhow!("{error:#}"))?;
    let made = tempfile::Builder::new().prefix(&format!("{purpose}-")).tempdir_in(&root.path);
    made.with_context(|| format!("cannot make a directory in {}", root.path.display()))
}

fn make_root() -> anyhow::Result<Root> {
    let directory = tempfile::Builder::new().prefix("mongate-kit-").tempdir()?;
    let mut janitor = Command::new("sh");
    // Not where the tests were started: that folder may be gone before this ends.
    janitor.current_dir("/").args(["-c", JANITOR, "janitor"]).arg(directory.path());
    // In a group of its own: the Ctrl-C that ends us must not end it.
    janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let janitor = janitor.spawn().context("cannot start sh")?;
    Ok(Root { path: directory.keep(), _janitor: janitor })
}
