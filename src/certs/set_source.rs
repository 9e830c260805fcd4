//! Reads a certificate set from its files.
//!
//! Reading blocks, so it runs on a thread that no connection depends on.

use std::path::PathBuf;
use std::sync::Arc;

use super::owner::CertificateOwner;
use super::set_facts::CertificateSetFacts;
use crate::tls::Fingerprint;

/// Where the certificate set of an owner comes from.
#[derive(Clone)]
pub(super) struct SetSource {
    /// The owner of the set.
    pub(super) owner: CertificateOwner,
    /// All files that are read for the set, as absolute paths.
    pub(super) files: Vec<PathBuf>,
    /// Reads the files.
    pub(super) load: Arc<dyn Fn() -> Result<CandidateSet, LoadFailure> + Send + Sync>,
}

/// A set that was read and is complete.
pub(super) struct CandidateSet {
    /// What it contains.
    pub(super) facts: CertificateSetFacts,
    /// Whether it equals the set in use.
    pub(super) is_in_use: bool,
    /// Puts it into use.
    pub(super) commit: Box<dyn FnOnce() + Send>,
}

impl CandidateSet {
    /// A candidate that replaces nothing.
    pub(super) fn none() -> Self {
        Self { facts: CertificateSetFacts::default(), is_in_use: true, commit: Box::new(|| {}) }
    }
}

/// Why a set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoadFailure {
    /// The problem, with the name of the file.
    pub(super) sentence: String,
    /// What the operator can do.
    pub(super) remedy: String,
}

/// Reads the files of one owner once.
pub(super) struct SetReader {
    pub(super) source: SetSource,
    /// The files of the set in use. Files with this fingerprint need not be loaded.
    pub(super) known: Option<Fingerprint>,
}

/// The result of one read.
pub(super) struct ReadSet {
    pub(super) fingerprint: Fingerprint,
    pub(super) result: ReadResult,
}

pub(super) enum ReadResult {
    /// The files have the known fingerprint.
    Known,
    Candidate(CandidateSet),
    Failure(LoadFailure),
}

impl SetReader {
    pub(super) fn read(self) -> ReadSet {
        // Before the files are loaded: if one changes in between, the next fingerprint differs from this one.
        let fingerprint = Fingerprint::of(&self.source.files);
        if self.known == Some(fingerprint) {
            return ReadSet { fingerprint, result: ReadResult::Known };
        }
        let result = match (self.source.load)() {
            Ok(candidate) => ReadResult::Candidate(candidate),
            Err(failure) => ReadResult::Failure(failure),
        };
        ReadSet { fingerprint, result }
    }
}
