//! Drivers of other languages, each in a directory under `target/kit`. Nothing is installed on the machine.
//!
//! Versions are pinned in `tests/drivers`: `requirements.txt` for Python, `package-lock.json` for Node.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::mongod_binary::on_path;
use super::process;
use super::provision;

/// Limit for an installation: mongosh is large, and a mirror can be slow.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(400);

/// A command that runs Python with `PyMongo`. The caller adds the path and the arguments of the program.
pub fn python() -> Option<Command> {
    provision::or_skip("PyMongo", try_python())
}

/// A command that runs Node with the driver, which `createRequire` finds.
pub fn node() -> Option<Command> {
    provision::or_skip("the Node driver", node_program("node"))
}

/// A command that runs mongosh.
pub fn mongosh() -> Option<Command> {
    provision::or_skip("mongosh", node_program("mongosh"))
}

/// The directory of the scripts and the pinned versions.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers")
}

fn try_python() -> anyhow::Result<Command> {
    let python = on_path("python3").context("there is no python3 on the PATH")?;
    let requirements = scripts().join("requirements.txt");
    let name = format!("python-{}", fingerprint(&[&requirements])?);
    let packages = provision::once(&name, |workshop| {
        let packages = workshop.join("packages");
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--no-compile", "--requirement"]).arg(&requirements);
        install.arg("--target").arg(&packages).env("TMPDIR", workshop);
        process::run("pip install", install, INSTALL_TIMEOUT)?;
        Ok(packages)
    })?;
    let mut command = Command::new(python);
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    Ok(command)
}

fn node_program(program: &str) -> anyhow::Result<Command> {
    let node = on_path("node").context("there is no node on the PATH")?;
    let npm = on_path("npm").context("there is no npm on the PATH")?;
    let pinned = ["package.json", "package-lock.json"].map(|name| scripts().join(name));
    let name = format!("node-{}", fingerprint(&[&pinned[0], &pinned[1]])?);
    let installed = provision::once(&name, |workshop| {
        let place = workshop.join("place");
        fs::create_dir(&place)?;
        for file in &pinned {
            fs::copy(file, place.join(file.file_name().context("a file without a name")?))?;
        }
        let mut install = Command::new(npm);
        // Scripts of packages are not needed, because the drivers are plain JavaScript.
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional", "--loglevel=error"]);
        install.current_dir(&place).env("npm_config_update_notifier", "false").env("TMPDIR", workshop);
        process::run("npm ci", install, INSTALL_TIMEOUT)?;
        Ok(place)
    })?
    .join("node_modules");
    let mut command = Command::new(node);
    command.env("NODE_PATH", &installed).env_remove("NODE_OPTIONS");
    // By default, mongosh stores its compiled code in the temporary directory of the system.
    command.env("NODE_COMPILE_CACHE", provision::kit_directory()?.join("node-compile-cache"));
    if program == "mongosh" {
        command.arg(installed.join("mongosh/bin/mongosh.js"));
        // mongosh writes settings, history and logs to the home directory.
        let home = provision::kit_directory()?.join("mongosh-home");
        fs::create_dir_all(&home)?;
        command.env("HOME", &home).env("XDG_CONFIG_HOME", &home);
    }
    Ok(command)
}

/// A hash of the files, so that new pinned versions get a new directory.
fn fingerprint(files: &[&PathBuf]) -> anyhow::Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
