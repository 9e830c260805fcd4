//! Programs that tests need and a machine may lack: downloaded once into `target/kit`, or the test is skipped with a
//! message.

use std::env;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Returns the value of `found`, or prints that a test is skipped.
///
/// # Panics If `found` is an error and `CI` or `MONGATE_TEST_REQUIRE` is set, so that a pipeline does not succeed by
/// skipping tests.
pub fn or_skip<T>(what: &str, found: anyhow::Result<T>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if is_set("CI") || is_set("MONGATE_TEST_REQUIRE") => {
            panic!("{what} is required here (CI or MONGATE_TEST_REQUIRE is set): {error:#}")
        }
        Err(error) => {
            // Not with the print macros: the test harness hides their output if the test passes.
            let _ = writeln!(std::io::stderr(), "\n*** SKIPPED, NOT TESTED: {what} is not available: {error:#} ***\n");
            None
        }
    }
}

/// The directory `target/kit`, in the target directory of this program. It is created if it does not exist.
pub fn kit_directory() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("the path of this program is not known")?;
    // <target>/<profile>/{deps,examples}/<program>
    let target = program.ancestors().nth(3).context("this program was not built by cargo")?;
    let kit = target.join("kit");
    fs::create_dir_all(&kit).with_context(|| format!("cannot create {}", kit.display()))?;
    Ok(kit)
}

/// Returns `target/kit/<name>`. If it does not exist, `make` creates it.
///
/// `make` gets an empty directory and returns the path in it that is kept. That path is moved to its place atomically,
/// so that no incomplete result is ever used. Other processes that need the same name wait.
pub fn once(name: &str, make: impl FnOnce(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<PathBuf> {
    let kit = kit_directory()?;
    let product_path = kit.join(name);
    let lock_path = kit.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if product_path.exists() {
        return Ok(product_path);
    }
    // This process has the lock, so an existing directory was left by a program that was ended.
    let workshop = kit.join(format!("{name}.making"));
    let _ = fs::remove_dir_all(&workshop);
    fs::create_dir(&workshop).with_context(|| format!("cannot create {}", workshop.display()))?;
    let result = make(&workshop).and_then(|product| {
        fs::rename(&product, &product_path).with_context(|| format!("cannot move {} to its place", product.display()))
    });
    let _ = fs::remove_dir_all(&workshop);
    result.map(|()| product_path)
}

fn is_set(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}
