//! A directory with a certificate, its key and CA certificates, which can be renewed in the usual ways of programs and
//! people.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::certificates::{Issued, Pki};
use super::scratch;

/// File names of a Kubernetes TLS secret.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";

/// The directory. Dropping it removes it.
#[derive(Debug)]
pub struct Secret {
    directory: TempDir,
}

/// The contents of the files in PEM.
#[derive(Debug, Clone)]
pub struct Content {
    /// `tls.crt`.
    pub certificate: String,
    /// `tls.key`.
    pub key: String,
    /// `ca.crt`.
    pub authorities: String,
}

impl Content {
    /// This certificate with its key, and the CA certificate of the PKI.
    pub fn of(pki: &Pki, issued: &Issued) -> Self {
        Self {
            certificate: issued.certificate_pem.clone(),
            key: issued.key_pem.clone(),
            authorities: fs::read_to_string(pki.ca_file()).expect("the PKI has written its CA file"),
        }
    }

    fn files(&self) -> [(&'static str, &str); 3] {
        [(CERTIFICATE, &self.certificate), (KEY, &self.key), (AUTHORITIES, &self.authorities)]
    }
}

impl Secret {
    /// A directory with regular files.
    pub fn plain(content: &Content) -> anyhow::Result<Self> {
        let secret = Self { directory: scratch::directory("secret")? };
        write_all(secret.path(), content)?;
        Ok(secret)
    }

    /// A directory with symbolic links, as the kubelet creates them: `tls.crt -> ..data/tls.crt`, `..data -> ..0`.
    pub fn of_kubernetes(content: &Content) -> anyhow::Result<Self> {
        let secret = Self { directory: scratch::directory("secret")? };
        for (name, _) in content.files() {
            symlink(Path::new("..data").join(name), secret.path().join(name))?;
        }
        secret.turn("..0", content)?;
        Ok(secret)
    }

    /// Renews like the kubelet: creates a new directory `name`, which must not have been used, changes the link
    /// `..data` to it, and removes the old directory.
    pub fn turn(&self, name: &str, content: &Content) -> anyhow::Result<()> {
        let data = self.path().join("..data");
        let old = fs::read_link(&data).ok();
        fs::create_dir(self.path().join(name))?;
        write_all(&self.path().join(name), content)?;
        symlink(name, self.path().join("..data_tmp"))?;
        fs::rename(self.path().join("..data_tmp"), data)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.path().join(old))?;
        }
        Ok(())
    }

    /// Renews like careful programs: writes each file under a temporary name and renames it to the old name.
    pub fn rename_over(&self, content: &Content) -> anyhow::Result<()> {
        for (name, text) in content.files() {
            let aside = self.path().join(format!(".{name}.new"));
            fs::write(&aside, text)?;
            fs::rename(aside, self.path().join(name))?;
        }
        Ok(())
    }

    /// Renews like people: overwrites each file in place.
    pub fn write_in_place(&self, content: &Content) -> anyhow::Result<()> {
        write_all(self.path(), content)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `tls.crt`.
    pub fn certificate_file(&self) -> PathBuf {
        self.path().join(CERTIFICATE)
    }

    /// `tls.key`.
    pub fn key_file(&self) -> PathBuf {
        self.path().join(KEY)
    }

    /// `ca.crt`.
    pub fn authorities_file(&self) -> PathBuf {
        self.path().join(AUTHORITIES)
    }

    /// The lines with these files for a `tls` table of the gateway's configuration.
    pub fn configuration(&self) -> String {
        let line = |key, file: PathBuf| format!("{key} = '{}'\n", file.display());
        let files = [
            line("certificate_file", self.certificate_file()),
            line("private_key_file", self.key_file()),
            line("ca_file", self.authorities_file()),
        ];
        files.concat()
    }
}

fn write_all(directory: &Path, content: &Content) -> anyhow::Result<()> {
    for (name, text) in content.files() {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}
