//! From the files of one owner to a set that could be used, or to the reason why not.
//!
//! Blocks; runs where nothing waits for it.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::gateway::owner::{CertificateSet, Owner};

/// As much of a file as the readers of certificates take, and one byte that says that there is more.
const FILE_BYTES_MAX: u64 = 1024 * 1024 + 1;

/// Where an owner's certificates come from.
#[derive(Clone)]
pub(in crate::gateway) struct Source {
    /// Whose they are.
    pub(in crate::gateway) owner: Owner,
    /// All files that are read for it, with absolute paths.
    pub(in crate::gateway) files: Vec<PathBuf>,
    /// Reads them.
    pub(in crate::gateway) load: Arc<dyn Fn() -> Result<Candidate, Failure> + Send + Sync>,
}

/// A set that was read and is whole.
pub(in crate::gateway) struct Candidate {
    /// What is in it.
    pub(in crate::gateway) set: CertificateSet,
    /// Whether it is what is in use already.
    pub(in crate::gateway) is_in_use: bool,
    /// Puts it into use.
    pub(in crate::gateway) commit: Box<dyn FnOnce() + Send>,
}

impl Candidate {
    /// Nothing that could replace anything.
    pub(super) fn nothing() -> Self {
        Self { set: CertificateSet::default(), is_in_use: true, commit: Box::new(|| {}) }
    }
}

/// Why a set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Failure {
    /// What is wrong with which file.
    pub(in crate::gateway) sentence: String,
    /// What to do.
    pub(in crate::gateway) remedy: String,
}

/// What the bytes of some files were, so that they can be known again without being kept: keys are among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

/// Reads the files of one owner once.
pub(super) struct Reader {
    pub(super) source: Source,
    /// Files like this are those of the set in use and need no closer look.
    pub(super) known: Option<Fingerprint>,
}

/// What the files were.
pub(super) struct Reading {
    pub(super) fingerprint: Fingerprint,
    pub(super) found: Found,
}

pub(super) enum Found {
    Known,
    Set(Candidate),
    Failure(Failure),
}

impl Reader {
    pub(super) fn read(self) -> Reading {
        // Before the set is: if a file changes in between, this one will differ at the next look.
        let fingerprint = Fingerprint::of(&self.source.files);
        if self.known == Some(fingerprint) {
            return Reading { fingerprint, found: Found::Known };
        }
        let found = match (self.source.load)() {
            Ok(candidate) => Found::Set(candidate),
            Err(failure) => Found::Failure(failure),
        };
        Reading { fingerprint, found }
    }
}

impl Fingerprint {
    pub(super) fn of(files: &[PathBuf]) -> Self {
        let mut hasher = DefaultHasher::new();
        for file in files {
            contents(file).map_err(|error| error.kind()).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// Does not open what is no file: a pipe would not answer.
fn contents(file: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_all_that_the_files_hold() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("tls.crt"), folder.path().join("tls.key")];
        let mut seen = Vec::new();
        let mut look = || {
            let fingerprint = Fingerprint::of(&files);
            assert_eq!(fingerprint, Fingerprint::of(&files));
            assert!(!seen.contains(&fingerprint), "the {}th change went unnoticed", seen.len());
            seen.push(fingerprint);
        };
        look();
        for [certificate, key] in [["a", "bc"], ["ab", "c"], ["ab", "d"], ["", "d"]] {
            fs::write(&files[0], certificate).unwrap();
            fs::write(&files[1], key).unwrap();
            look();
        }
        fs::remove_file(&files[1]).unwrap();
        look();
        fs::create_dir(&files[1]).unwrap();
        look();
    }
}
