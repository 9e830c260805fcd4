//! From the files of one owner to a set that could be used, or to the reason why not.
//!
//! Blocks; runs where nothing waits for it.

use std::path::PathBuf;
use std::sync::Arc;

use super::owner::{CertificateSet, Owner};
use crate::tls::Fingerprint;

/// Where an owner's certificates come from.
#[derive(Clone)]
pub(super) struct Source {
    /// Whose they are.
    pub(super) owner: Owner,
    /// All files that are read for it, with absolute paths.
    pub(super) files: Vec<PathBuf>,
    /// Reads them.
    pub(super) load: Arc<dyn Fn() -> Result<Candidate, Failure> + Send + Sync>,
}

/// A set that was read and is whole.
pub(super) struct Candidate {
    /// What is in it.
    pub(super) set: CertificateSet,
    /// Whether it is what is in use already.
    pub(super) is_in_use: bool,
    /// Puts it into use.
    pub(super) commit: Box<dyn FnOnce() + Send>,
}

impl Candidate {
    /// Nothing that could replace anything.
    pub(super) fn nothing() -> Self {
        Self { set: CertificateSet::default(), is_in_use: true, commit: Box::new(|| {}) }
    }
}

/// Why a set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What is wrong with which file.
    pub(super) sentence: String,
    /// What to do.
    pub(super) remedy: String,
}

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
