//! One certificate set and its files: decides after each read whether the set in use is replaced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::messages::{CERTIFICATE_FILES_VALID_AGAIN, CERTIFICATE_RELOAD_FAILED, CERTIFICATE_RELOADED};
use super::set_facts::{CertificateSetFacts, CrlFacts};
use super::set_source::{CandidateSet, LoadFailure, ReadResult, ReadSet, SetReader, SetSource};
use crate::identity::{CertificateFacts, date_text, printable};
use crate::lifecycle::reload_status::ReloadStatus;
use crate::telemetry::metrics::ReloadMetrics;
use crate::tls::Fingerprint;

/// When files that cannot be used are read again, counted from the first failure; they are also read after each change.
/// Programs write a key and its certificate within milliseconds of each other, people within seconds.
const GRACE_MS: [u64; 6] = [100, 300, 700, 1_500, 3_100, 5_000];

/// One certificate set that follows its files.
pub(super) struct WatchedSet {
    source: SetSource,
    status: Arc<ReloadStatus>,
    /// The files of the set in use.
    known: Option<Fingerprint>,
    trouble: Option<Trouble>,
}

/// The files cannot be used.
enum Trouble {
    /// They may be incomplete.
    Waiting { since: Instant, next_read: Instant },
    /// The failure with these files has been logged.
    Logged(Fingerprint),
}

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReloadOutcome {
    /// The files contain the set in use.
    Unchanged,
    /// The files contain the set in use again.
    Recovered,
    /// A new set is in use. The text describes the changes.
    Reloaded(String),
    /// The files cannot be used, but may be incomplete.
    Waiting,
    /// The files cannot be used. This has not been logged yet.
    Failed(LoadFailure),
    /// The files cannot be used. This has been logged.
    StillFailed,
}

impl WatchedSet {
    pub(super) fn new(source: SetSource, status: Arc<ReloadStatus>) -> Self {
        Self { source, status, known: None, trouble: None }
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.source.files
    }

    /// Reads the files once, on any thread.
    pub(super) fn reader(&self) -> SetReader {
        // After a failure, the same files may become usable: a certificate that was not valid yet.
        let known = if self.trouble.is_none() { self.known } else { None };
        SetReader { source: self.source.clone(), known }
    }

    /// When to read again even if nothing changes.
    pub(super) fn next_read(&self) -> Option<Instant> {
        match self.trouble {
            Some(Trouble::Waiting { next_read, .. }) => Some(next_read),
            _ => None,
        }
    }

    /// Puts a new set into use if that is possible. If `requested`, an operator waits for the result, and files that
    /// may be incomplete count as failed.
    pub(super) fn apply(&mut self, read: ReadSet, now: Instant, clock: SystemTime, requested: bool) -> ReloadOutcome {
        let ReadSet { fingerprint, result } = read;
        let candidate = match result {
            ReadResult::Known => return ReloadOutcome::Unchanged,
            ReadResult::Failure(failure) => return self.fail(failure, fingerprint, now, requested),
            ReadResult::Candidate(candidate) => candidate,
        };
        let CandidateSet { facts, is_in_use, commit } = candidate;
        if is_in_use {
            self.known = Some(fingerprint);
            self.status.record_unchanged();
            return match self.trouble.take() {
                Some(Trouble::Logged(_)) => ReloadOutcome::Recovered,
                _ => ReloadOutcome::Unchanged,
            };
        }
        let in_use = self.source.owner.set();
        if let Some(failure) = not_valid_now(&facts, &in_use, clock) {
            return self.fail(failure, fingerprint, now, requested);
        }
        commit();
        self.known = Some(fingerprint);
        self.trouble = None;
        self.status.record_success();
        ReloadOutcome::Reloaded(changes(&in_use, &facts))
    }

    fn fail(&mut self, failure: LoadFailure, fingerprint: Fingerprint, now: Instant, requested: bool) -> ReloadOutcome {
        let since = match self.trouble {
            Some(Trouble::Logged(logged)) if logged == fingerprint => return ReloadOutcome::StillFailed,
            Some(Trouble::Waiting { since, .. }) => since,
            _ => now,
        };
        let reads = GRACE_MS.iter().map(|after| since + Duration::from_millis(*after));
        if let Some(next_read) = reads.into_iter().find(|read| *read > now).filter(|_| !requested) {
            self.trouble = Some(Trouble::Waiting { since, next_read });
            self.status.record_pending();
            return ReloadOutcome::Waiting;
        }
        self.trouble = Some(Trouble::Logged(fingerprint));
        self.status.record_failure(&failure.sentence);
        ReloadOutcome::Failed(failure)
    }

    /// Logs and counts an outcome that is new.
    pub(super) fn report(&self, outcome: &ReloadOutcome, metrics: &ReloadMetrics) {
        let owner = &self.source.owner;
        let (upstream, listener) = (owner.upstream(), owner.listener());
        match outcome {
            ReloadOutcome::Unchanged | ReloadOutcome::Waiting | ReloadOutcome::StillFailed => {}
            ReloadOutcome::Recovered => tracing::info!(upstream, listener, "{CERTIFICATE_FILES_VALID_AGAIN}"),
            ReloadOutcome::Reloaded(changed) => {
                metrics.count_ok();
                tracing::info!(upstream, listener, changed, "{CERTIFICATE_RELOADED}");
                owner.log_findings(SystemTime::now());
            }
            ReloadOutcome::Failed(LoadFailure { sentence, remedy }) => {
                metrics.count_failed();
                tracing::warn!(upstream, listener, error = sentence, remedy, "{CERTIFICATE_RELOAD_FAILED}");
            }
        }
    }
}

/// A certificate that is not valid at this time must not replace one that is, nor trust anchors of which none is valid
/// others.
fn not_valid_now(new: &CertificateSetFacts, in_use: &CertificateSetFacts, clock: SystemTime) -> Option<LoadFailure> {
    let is_valid = |facts: &CertificateFacts| (facts.not_before..=facts.not_after).contains(&clock);
    let has_valid = |set: &CertificateSetFacts| set.trust_anchors.iter().any(is_valid);
    if !has_valid(new) && has_valid(in_use) {
        let anchors = new.trust_anchors.iter();
        let dates = |facts: &CertificateFacts| {
            let (start, end) = (date_text(facts.not_before), date_text(facts.not_after));
            format!("{} is valid from {start} to {end}", facts.subject)
        };
        let sentence = format!(
            "none of the new CA certificates is valid now: {} ({})",
            anchors.map(dates).collect::<Vec<_>>().join(", "),
            new.trust_anchors_location
        );
        return Some(LoadFailure { sentence, remedy: "replace them with current CA certificates".to_owned() });
    }
    let (new, in_use) = (new.own.first()?, in_use.own.first()?);
    if is_valid(new) || !is_valid(in_use) {
        return None;
    }
    let name = describe(new);
    let (sentence, remedy) = if clock < new.not_before {
        (
            format!("the new certificate is not valid before {} ({name})", date_text(new.not_before)),
            "wait: the gateway uses it within a minute of that time; if the time is wrong, check the clocks",
        )
    } else {
        (
            format!("the new certificate expired on {} ({name})", date_text(new.not_after)),
            "replace it with a current certificate",
        )
    };
    Some(LoadFailure { sentence, remedy: remedy.to_owned() })
}

/// The changes between two sets, for a log line.
fn changes(old: &CertificateSetFacts, new: &CertificateSetFacts) -> String {
    let mut parts = Vec::new();
    match (old.own.first(), new.own.first()) {
        (Some(before), Some(after)) if before != after => {
            parts.push(format!("certificate {} -> {}", describe(before), describe(after)));
        }
        _ if old.own != new.own => parts.push(format!("chain of {} -> {}", old.own.len(), new.own.len())),
        _ => {}
    }
    if old.trust_anchors != new.trust_anchors {
        parts.push(format!("CA certificates {} -> {}", old.trust_anchors.len(), new.trust_anchors.len()));
    }
    if old.intermediates != new.intermediates {
        parts.push(format!("intermediate CA certificates {} -> {}", old.intermediates.len(), new.intermediates.len()));
    }
    if old.crls != new.crls {
        let crls: Vec<_> = new.crls.iter().map(describe_crl).collect();
        let crls = if crls.is_empty() { "none".to_owned() } else { crls.join(" and ") };
        parts.push(format!("revocation lists: {crls}"));
    }
    if parts.is_empty() { "certificates with the same content".to_owned() } else { parts.join("; ") }
}

fn describe(facts: &CertificateFacts) -> String {
    let subject = printable(facts.subject.as_str());
    format!("{subject}, serial {}, until {}", facts.serial, date_text(facts.not_after))
}

fn describe_crl(crl: &CrlFacts) -> String {
    let due = crl.next_update.map(|due| format!(", next {}", date_text(due))).unwrap_or_default();
    format!("{} of {}{due}", date_text(crl.this_update), printable(crl.issuer.as_str()))
}
