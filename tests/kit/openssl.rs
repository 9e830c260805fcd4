//! The `openssl` command, as a person types it: shell lines in a directory of their own.
//!
//! For what rcgen cannot make: X.509 version 1, encrypted keys, PKCS#1 and SEC1 forms, and for documented commands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use super::mongod_binary::on_path;
use super::process;
use super::provision;
use super::scratch;

/// An RSA key of 4,096 bits may take seconds, on a busy machine many.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A directory in which shell lines run; dropping it removes it.
#[derive(Debug)]
pub struct Workshop {
    directory: TempDir,
}

impl Workshop {
    /// An empty one; `None` where there is no openssl, see [`provision::or_skip`].
    ///
    /// # Panics
    /// When no directory can be made.
    pub fn new() -> Option<Self> {
        provision::or_skip("openssl", on_path("openssl").context("there is no openssl on the PATH"))?;
        Some(Self { directory: scratch::directory("openssl").expect("a directory can be made") })
    }

    /// Where the lines run.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file of this name in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Runs shell lines one after the other and returns what they print.
    ///
    /// # Panics
    /// When one of them fails; what it wrote is shown.
    pub fn run(&self, lines: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-euc", lines]).current_dir(self.path());
        process::run("sh", shell, TIMEOUT).unwrap_or_else(|error| panic!("{error:#}\nin:\n{lines}"))
    }

    /// Signs `name.csr` without extensions into `name.crt`, which is X.509 version 1 then, and says so where it is not.
    ///
    /// `openssl x509 -req` of release 3.0 does that by itself; of newer ones, `req` has an option for it.
    ///
    /// # Panics
    /// When what comes out is not version 1.
    pub fn sign_version_1(&self, name: &str) {
        self.run(&format!(
            "openssl x509 -req -days 365 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.crt"
        ));
        if self.version_of(name) != 1 {
            self.run(&format!(
                "printf '[req]\\ndistinguished_name=dn\\n[dn]\\n' > version-1.cnf
                 openssl req -x509 -x509v1 -config version-1.cnf -days 365 -in {name}.csr -CA ca.pem -CAkey ca.key -out {name}.crt"
            ));
        }
        assert_eq!(
            self.version_of(name),
            1,
            "this openssl cannot make X.509 version 1: {}",
            self.run("openssl version")
        );
    }

    /// The X.509 version of `name.crt`, as openssl reads it.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn version_of(&self, name: &str) -> u32 {
        let text = self.run(&format!("openssl x509 -in {name}.crt -noout -text"));
        let version = text.lines().find_map(|line| line.trim().strip_prefix("Version: ")).expect("a version line");
        version.split(' ').next().and_then(|number| number.parse().ok()).expect("a version number")
    }
}
