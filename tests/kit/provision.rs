//! What tests need and a machine may lack: fetched once into `target/kit`, one process at a time, or skipped aloud.

use std::env;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Returns what was found, or says loudly that a test which needs it does nothing.
///
/// # Panics
/// Where `CI` or `MONGATE_TEST_REQUIRE` is set: absence is a failure there, so that no pipeline goes green by skipping.
pub fn or_skip<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if is_set("CI") || is_set("MONGATE_TEST_REQUIRE") => {
            panic!("{what} is required here (CI or MONGATE_TEST_REQUIRE is set): {error:#}")
        }
        Err(error) => {
            // Not by the print macros: the test harness would hide them in a test that passes.
            let _ = writeln!(std::io::stderr(), "\n*** SKIPPED, NOT TESTED: {what} cannot be had: {error:#} ***\n");
            None
        }
    }
}

/// `target/kit`: below the directory that cargo built this program into, made if it is not there.
pub fn kit_directory() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("cannot tell where this program is")?;
    // <target>/<profile>/{deps,examples}/<program>
    let target = program.ancestors().nth(3).context("this program was not built by cargo")?;
    let kit = target.join("kit");
    fs::create_dir_all(&kit).with_context(|| format!("cannot make {}", kit.display()))?;
    Ok(kit)
}

/// Returns `target/kit/<name>`, made by `make` where it is not there yet.
///
/// `make` gets an empty directory to work in and returns what of it to keep; that is moved into place as a whole, so
/// that a half-made thing is never found. Other processes that want the same wait.
pub fn once(name: &str, make: impl FnOnce(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<PathBuf> {
    let kit = kit_directory()?;
    let wanted = kit.join(name);
    let lock_path = kit.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if wanted.exists() {
        return Ok(wanted);
    }
    // Nobody else makes it now: what stands there is of a program that was ended in the middle.
    let workshop = kit.join(format!("{name}.making"));
    let _ = fs::remove_dir_all(&workshop);
    fs::create_dir(&workshop).with_context(|| format!("cannot make {}", workshop.display()))?;
    let result = make(&workshop).and_then(|product| {
        fs::rename(&product, &wanted).with_context(|| format!("cannot move {} into place", product.display()))
    });
    let _ = fs::remove_dir_all(&workshop);
    result.map(|()| wanted)
}

fn is_set(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}
