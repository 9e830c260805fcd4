//! Reports when certificates in use expire: in metrics, and in log lines 30, 7 and 1 days before expiry and at expiry.
//!
//! Each log line is written once for each certificate. An expired leaf certificate stays in use: mongod or the client
//! decides whether to accept it. An expired CA certificate accepts no certificate.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::messages::{CERTIFICATE_EXPIRED, CERTIFICATE_EXPIRES_SOON};
use super::owner::CertificateOwner;
use crate::identity::{CertificateFacts, date_text, printable};
use crate::lifecycle::drain::DrainWatch;
use crate::telemetry::metrics::{CertificateRole, set_certificate_expiry};

/// Time between two checks. A certificate that expires earlier is checked at its end.
const INTERVAL: Duration = Duration::from_mins(1);

const DAY: Duration = Duration::from_hours(24);

/// Checks the expiry of all certificates in use. Shared by the tasks that replace certificates.
pub(super) struct ExpiryMonitor {
    owners: Vec<CertificateOwner>,
    /// When each certificate was checked last.
    checked: Mutex<HashMap<CertificateKey, SystemTime>>,
}

/// One certificate in one role. Issuer and serial number identify a certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CertificateKey {
    role: &'static str,
    owner: String,
    issuer: String,
    serial: String,
    not_after: SystemTime,
}

/// The time until expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimeLeft {
    Enough,
    Month,
    Week,
    Day,
    Expired,
}

impl ExpiryMonitor {
    pub(super) fn new(owners: Vec<CertificateOwner>) -> Self {
        Self { owners, checked: Mutex::default() }
    }

    /// Sets the metrics, and logs certificates that have passed a threshold since the last check. Also called after a
    /// reload.
    ///
    /// Returns how long it takes until the next check is due: when the next certificate expires, and at most a minute.
    pub(super) fn check(&self, now: SystemTime) -> Duration {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_use = HashMap::new();
        for owner in &self.owners {
            let set = owner.set();
            let contents = [(&set.own, &set.own_location), (&set.trust_anchors, &set.trust_anchors_location)];
            for (role, (certificates, location)) in owner.roles().into_iter().zip(contents) {
                set_metric(role, owner.name(), certificates);
                for facts in certificates {
                    let key = CertificateKey::of(role, owner.name(), facts);
                    if let Some(left) = passed_threshold(facts.not_after, checked.get(&key).copied(), now) {
                        log(owner, role, (facts, location), left, now);
                    }
                    in_use.insert(key, now);
                }
            }
        }
        // Forgets certificates that are no longer in use, so that the map does not grow.
        let next_end = in_use.keys().filter_map(|key| key.not_after.duration_since(now).ok()).min();
        *checked = in_use;
        // A certificate is valid until the end of its last second.
        next_end.map_or(INTERVAL, |left| (left + Duration::from_secs(1)).min(INTERVAL))
    }

    /// Checks until the drain begins: every minute, and when a certificate expires.
    pub(super) async fn run(&self, drain: DrainWatch) {
        let checks = async {
            loop {
                let pause = self.check(SystemTime::now());
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = checks => {}
            () = drain.draining() => {}
        }
    }
}

impl CertificateKey {
    fn of(role: CertificateRole, owner: &str, facts: &CertificateFacts) -> Self {
        Self {
            role: role.label(),
            owner: owner.to_owned(),
            issuer: facts.issuer.to_string(),
            serial: facts.serial.clone(),
            not_after: facts.not_after,
        }
    }
}

impl TimeLeft {
    fn of(not_after: SystemTime, now: SystemTime) -> Self {
        match not_after.duration_since(now) {
            Err(_) => Self::Expired,
            Ok(left) if left <= DAY => Self::Day,
            Ok(left) if left <= 7 * DAY => Self::Week,
            Ok(left) if left <= 30 * DAY => Self::Month,
            Ok(_) => Self::Enough,
        }
    }
}

/// The latest threshold passed between `last_check` and `now`. A certificate that was never checked counts as one with
/// enough time left.
fn passed_threshold(not_after: SystemTime, last_check: Option<SystemTime>, now: SystemTime) -> Option<TimeLeft> {
    let before = last_check.map_or(TimeLeft::Enough, |then| TimeLeft::of(not_after, then));
    let left = TimeLeft::of(not_after, now);
    (left > before).then_some(left)
}

/// The metric shows the certificate that expires first.
fn set_metric(role: CertificateRole, name: &str, certificates: &[CertificateFacts]) {
    let Some(end) = certificates.iter().map(|facts| facts.not_after).min() else { return };
    let age = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    set_certificate_expiry(role, name, i64::try_from(age.as_secs()).unwrap_or_default());
}

fn log(
    owner: &CertificateOwner,
    role: CertificateRole,
    (facts, location): (&CertificateFacts, &str),
    left: TimeLeft,
    now: SystemTime,
) {
    let (upstream, listener, role) = (owner.upstream(), owner.listener(), role.label());
    let subject = printable(facts.subject.as_str());
    let (serial, not_after) = (&facts.serial, date_text(facts.not_after));
    let remedy = "replace it in its file with a renewed certificate; the gateway reloads it without a restart";
    if left == TimeLeft::Expired {
        tracing::error!(
            upstream,
            listener,
            role,
            location,
            subject,
            serial,
            not_after,
            remedy,
            "{CERTIFICATE_EXPIRED}"
        );
    } else {
        let days_left = facts.not_after.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
        tracing::warn!(
            upstream,
            listener,
            role,
            location,
            subject,
            serial,
            not_after,
            days_left,
            remedy,
            "{CERTIFICATE_EXPIRES_SOON}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days before expiry at the last check, and now.
    #[track_caller]
    fn check(last_check: Option<f64>, now: f64, expected: Option<TimeLeft>) {
        let end = UNIX_EPOCH + 20_000 * DAY;
        let before = |days: f64| {
            let time = DAY.mul_f64(days.abs());
            if days < 0.0 { end + time } else { end - time }
        };
        assert_eq!(passed_threshold(end, last_check.map(before), before(now)), expected, "{last_check:?} -> {now}");
    }

    #[test]
    fn each_threshold_is_reported_once() {
        let hour = 1.0 / 24.0;
        check(Some(30.0 + hour), 30.0, Some(TimeLeft::Month));
        check(Some(30.0), 30.0 - hour, None);
        check(Some(7.0 + hour), 7.0, Some(TimeLeft::Week));
        check(Some(7.0), 6.0, None);
        check(Some(1.0 + hour), 1.0, Some(TimeLeft::Day));
        check(Some(1.0), hour, None);
        check(Some(hour), -hour, Some(TimeLeft::Expired));
        check(Some(-hour), -100.0, None);
    }

    #[test]
    fn after_a_long_pause_only_the_latest_threshold_is_reported() {
        check(Some(100.0), 3.0, Some(TimeLeft::Week));
        check(Some(100.0), -3.0, Some(TimeLeft::Expired));
    }

    #[test]
    fn the_first_check_reports_the_latest_threshold_that_has_passed() {
        check(None, 31.0, None);
        check(None, 29.0, Some(TimeLeft::Month));
        check(None, 0.5, Some(TimeLeft::Day));
        check(None, -1.0, Some(TimeLeft::Expired));
    }

    #[test]
    fn after_the_clock_is_set_back_only_thresholds_that_pass_again_are_reported() {
        check(Some(6.0), 40.0, None);
        check(Some(40.0), 6.0, Some(TimeLeft::Week));
    }
}
