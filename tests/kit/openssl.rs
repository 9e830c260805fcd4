//! The `openssl` command in shell lines, in a temporary directory.
//!
//! For what rcgen cannot create (X.509 version 1, encrypted keys, PKCS#1 and SEC1 formats), and for documented
//! commands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use super::mongod_binary::on_path;
use super::process;
use super::provision;
use super::scratch;

/// Limit for shell lines. An RSA key of 4,096 bits takes seconds, and more on a busy machine.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A directory for shell lines. Dropping it removes it.
#[derive(Debug)]
pub struct Workshop {
    directory: TempDir,
}

impl Workshop {
    /// An empty directory. `None` if there is no openssl, see [`provision::or_skip`].
    ///
    /// # Panics
    /// If the directory cannot be created.
    pub fn new() -> Option<Self> {
        provision::or_skip("openssl", on_path("openssl").context("there is no openssl on the PATH"))?;
        Some(Self { directory: scratch::directory("openssl").expect("a directory can be created") })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Runs shell lines in the directory and returns their standard output.
    ///
    /// # Panics
    /// If a line fails. Its output is shown.
    pub fn run(&self, lines: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-euc", lines]).current_dir(self.path());
        process::run("sh", shell, TIMEOUT).unwrap_or_else(|error| panic!("{error:#}\nin:\n{lines}"))
    }

    /// Signs `name.csr` as a certificate of X.509 version 1 in `name.crt`.
    ///
    /// `openssl x509 -req` of release 3.0 does that without extensions. In newer releases, `openssl req` has an option.
    ///
    /// # Panics
    /// If the certificate is not version 1.
    pub fn sign_version_1(&self, name: &str) {
        self.run(&format!(
            "openssl x509 -req -days 365 -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.crt"
        ));
        if self.version_of(name) != 1 {
            self.run(&format!(
                "printf '[req]\\ndistinguished_name=dn\\n[dn]\\n' > version-1.cnf
                 openssl req -x509 -x509v1 -config version-1.cnf -days 365 \\
                     -in {name}.csr -CA ca.pem -CAkey ca.key -out {name}.crt"
            ));
        }
        assert_eq!(
            self.version_of(name),
            1,
            "this openssl cannot create certificates of X.509 version 1: {}",
            self.run("openssl version")
        );
    }

    /// The X.509 version of `name.crt`, as printed by openssl.
    ///
    /// # Panics
    /// If the certificate cannot be read.
    pub fn version_of(&self, name: &str) -> u32 {
        let text = self.run(&format!("openssl x509 -in {name}.crt -noout -text"));
        let version = text.lines().find_map(|line| line.trim().strip_prefix("Version: ")).expect("a version line");
        version.split(' ').next().and_then(|number| number.parse().ok()).expect("a version number")
    }
}
