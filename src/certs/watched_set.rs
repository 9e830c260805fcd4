//! One set and its files: what each look at them means, and what is said about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::owner::{CertificateSet, Owner};
use crate::identity::{CertificateFacts, date_text, printable};
use crate::lifecycle::reload_status::ReloadRecord;
use crate::telemetry::metrics::ReloadMetrics;
use crate::tls::Fingerprint;

use super::reading::{Candidate, Failure, Found, Reader, Reading, Source};

/// When files that cannot be used are looked at again, from the first time that they could not; and at each event.
/// Programs write a key and its certificate within milliseconds of each other, people within seconds.
const GRACE_MS: [u64; 6] = [100, 300, 700, 1_500, 3_100, 5_000];

/// One set.
pub(super) struct Rotating {
    source: Source,
    record: Arc<ReloadRecord>,
    /// Of files that hold the set in use.
    known: Option<Fingerprint>,
    trouble: Option<Trouble>,
}

/// Files that cannot be used.
enum Trouble {
    /// They may be half written.
    Waiting { since: Instant, again: Instant },
    /// They are not, and that has been said.
    Told(Fingerprint),
}

/// What a look at the files came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The set in use is what they hold.
    Unchanged,
    /// It is again what they hold.
    Healed,
    /// A new set is in use; what is new about it.
    Renewed(String),
    /// They cannot be used, for now.
    Waiting,
    /// They cannot be used, and nobody has been told yet.
    Failed(Failure),
    /// They cannot be used, and that has been said.
    StillFailed,
}

impl Rotating {
    pub(super) fn new(source: Source, record: Arc<ReloadRecord>) -> Self {
        Self { source, record, known: None, trouble: None }
    }

    pub(super) fn files(&self) -> &[PathBuf] {
        &self.source.files
    }

    pub(super) fn reader(&self) -> Reader {
        // In trouble, time alone may make the same files good: a certificate that was not valid yet.
        let known = if self.trouble.is_none() { self.known } else { None };
        Reader { source: self.source.clone(), known }
    }

    /// When to look again without an event.
    pub(super) fn look_again(&self) -> Option<Instant> {
        match self.trouble {
            Some(Trouble::Waiting { again, .. }) => Some(again),
            _ => None,
        }
    }

    /// Takes a new set into use if it can be. `asked`: somebody wants to know now, so nothing is waited for.
    pub(super) fn judge(&mut self, reading: Reading, now: Instant, clock: SystemTime, asked: bool) -> Outcome {
        let Reading { fingerprint, found } = reading;
        let candidate = match found {
            Found::Known => return Outcome::Unchanged,
            Found::Failure(failure) => return self.fail(failure, fingerprint, now, asked),
            Found::Set(candidate) => candidate,
        };
        let Candidate { set, is_in_use, commit } = candidate;
        if is_in_use {
            self.known = Some(fingerprint);
            self.record.well();
            return match self.trouble.take() {
                Some(Trouble::Told(_)) => Outcome::Healed,
                _ => Outcome::Unchanged,
            };
        }
        let in_use = self.source.owner.set();
        if let Some(failure) = is_worse(&set, &in_use, clock) {
            return self.fail(failure, fingerprint, now, asked);
        }
        commit();
        self.known = Some(fingerprint);
        self.trouble = None;
        self.record.renewed();
        Outcome::Renewed(difference(&in_use, &set))
    }

    fn fail(&mut self, failure: Failure, fingerprint: Fingerprint, now: Instant, asked: bool) -> Outcome {
        let since = match self.trouble {
            Some(Trouble::Told(told)) if told == fingerprint => return Outcome::StillFailed,
            Some(Trouble::Waiting { since, .. }) => since,
            _ => now,
        };
        let looks = GRACE_MS.iter().map(|after| since + Duration::from_millis(*after));
        if let Some(again) = looks.into_iter().find(|look| *look > now).filter(|_| !asked) {
            self.trouble = Some(Trouble::Waiting { since, again });
            self.record.pending();
            return Outcome::Waiting;
        }
        self.trouble = Some(Trouble::Told(fingerprint));
        self.record.failed(&failure.sentence);
        Outcome::Failed(failure)
    }

    /// One line where something has happened.
    pub(super) fn tell(&self, outcome: &Outcome, metrics: &ReloadMetrics) {
        let owner: &Owner = &self.source.owner;
        let (upstream, listener) = (owner.upstream(), owner.listener());
        match outcome {
            Outcome::Unchanged | Outcome::Waiting | Outcome::StillFailed => {}
            Outcome::Healed => {
                tracing::info!(upstream, listener, "certificate files are whole again, and hold the set in use");
            }
            Outcome::Renewed(changed) => {
                metrics.count_ok();
                tracing::info!(upstream, listener, changed, "certificates renewed");
                owner.tell_findings(SystemTime::now());
            }
            Outcome::Failed(Failure { sentence, remedy }) => {
                metrics.count_failed();
                tracing::warn!(
                    upstream,
                    listener,
                    error = sentence,
                    remedy,
                    "certificates not renewed: what the files hold cannot be used, the last good set stays in use"
                );
            }
        }
    }
}

/// A certificate that is not good now must not replace one that is.
fn is_worse(new: &CertificateSet, old: &CertificateSet, clock: SystemTime) -> Option<Failure> {
    let (new, old) = (new.own.first()?, old.own.first()?);
    let is_good = |facts: &CertificateFacts| (facts.not_before..=facts.not_after).contains(&clock);
    if is_good(new) || !is_good(old) {
        return None;
    }
    let name = described(new);
    let (sentence, remedy) = if clock < new.not_before {
        (
            format!("the new certificate is not valid before {} ({name})", date_text(new.not_before)),
            "nothing, if the time is right: it is taken into use within a minute of that; else check the clocks",
        )
    } else {
        (
            format!("the new certificate expired on {} ({name})", date_text(new.not_after)),
            "put a current certificate into its place",
        )
    };
    Some(Failure { sentence, remedy: remedy.to_owned() })
}

/// What a new set has that the old one had not, for a log line.
fn difference(old: &CertificateSet, new: &CertificateSet) -> String {
    let mut parts = Vec::new();
    match (old.own.first(), new.own.first()) {
        (Some(before), Some(after)) if before != after => {
            parts.push(format!("certificate {} -> {}", described(before), described(after)));
        }
        _ if old.own != new.own => parts.push(format!("chain of {} -> {}", old.own.len(), new.own.len())),
        _ => {}
    }
    if old.authorities != new.authorities {
        parts.push(format!("authorities {} -> {}", old.authorities.len(), new.authorities.len()));
    }
    if old.lists != new.lists {
        let lists = new.lists.iter().map(|list| {
            let due = list.next_update.map(|due| format!(", next {}", date_text(due))).unwrap_or_default();
            format!("{} of {}{due}", date_text(list.this_update), printable(list.issuer.as_str()))
        });
        let lists: Vec<_> = lists.collect();
        let lists = if lists.is_empty() { "none".to_owned() } else { lists.join(" and ") };
        parts.push(format!("revocation lists: {lists}"));
    }
    if parts.is_empty() { "certificates with the same content".to_owned() } else { parts.join("; ") }
}

fn described(facts: &CertificateFacts) -> String {
    let subject = printable(facts.subject.as_str());
    format!("{subject}, serial {}, until {}", facts.serial, date_text(facts.not_after))
}
