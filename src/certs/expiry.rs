//! When the certificates in use end: the gauges, and a word in the log at 30, 7 and 1 days, and when one has ended.
//!
//! Each word once for each certificate. Changes nothing: a certificate that has ended stays in use, since mongod is the one
//! to judge it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use crate::identity::{CertificateFacts, date_text, printable};
use crate::lifecycle::drain::DrainWatch;
use crate::telemetry::metrics::{CertificateRole, set_certificate_expiry};

use super::owner::Owner;

/// The last word comes a day before the end: an hour late does no harm.
const INTERVAL: Duration = Duration::from_hours(1);

const DAY: Duration = Duration::from_hours(24);

/// Looks at the certificates of all owners; shared by whoever changes them.
pub(super) struct Expiry {
    owners: Vec<Owner>,
    looked: Mutex<HashMap<Key, SystemTime>>,
}

/// One certificate in one role. The issuer and its serial number are what names a certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    role: &'static str,
    owner: String,
    issuer: String,
    serial: String,
    not_after: SystemTime,
}

/// How near the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Far,
    Month,
    Week,
    Day,
    Over,
}

impl Expiry {
    pub(super) fn new(owners: Vec<Owner>) -> Self {
        Self { owners, looked: Mutex::default() }
    }

    /// Sets the gauges and logs what has come near since the last look. Call it when a set has changed, too.
    pub(super) fn look(&self, now: SystemTime) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashMap::new();
        for owner in &self.owners {
            let set = owner.set();
            for (role, certificates) in owner.roles().into_iter().zip([&set.own, &set.authorities]) {
                tell(role, owner.name(), certificates);
                for facts in certificates {
                    let key = Key::of(role, owner.name(), facts);
                    if let Some(nearness) = crossed(facts.not_after, looked.get(&key).copied(), now) {
                        log(owner, role, facts, nearness, now);
                    }
                    seen.insert(key, now);
                }
            }
        }
        // What is no longer in use is forgotten, so that this stays as small as the sets.
        *looked = seen;
    }

    /// Looks every hour until the drain begins; the first look has been taken.
    pub(super) async fn watch(&self, drain: DrainWatch) {
        let looking = async {
            loop {
                sleep(INTERVAL).await;
                self.look(SystemTime::now());
            }
        };
        tokio::select! {
            () = looking => {}
            () = drain.draining() => {}
        }
    }
}

impl Key {
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

impl Nearness {
    fn of(not_after: SystemTime, now: SystemTime) -> Self {
        match not_after.duration_since(now) {
            Err(_) => Self::Over,
            Ok(left) if left <= DAY => Self::Day,
            Ok(left) if left <= 7 * DAY => Self::Week,
            Ok(left) if left <= 30 * DAY => Self::Month,
            Ok(_) => Self::Far,
        }
    }
}

/// What has come between `last_look` and `now`, the nearest only; a certificate never seen before was far from its end.
fn crossed(not_after: SystemTime, last_look: Option<SystemTime>, now: SystemTime) -> Option<Nearness> {
    let before = last_look.map_or(Nearness::Far, |then| Nearness::of(not_after, then));
    let nearness = Nearness::of(not_after, now);
    (nearness > before).then_some(nearness)
}

/// Of several certificates the one that ends first counts.
fn tell(role: CertificateRole, name: &str, certificates: &[CertificateFacts]) {
    let Some(end) = certificates.iter().map(|facts| facts.not_after).min() else { return };
    let age = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    set_certificate_expiry(role, name, i64::try_from(age.as_secs()).unwrap_or_default());
}

fn log(owner: &Owner, role: CertificateRole, facts: &CertificateFacts, nearness: Nearness, now: SystemTime) {
    let (upstream, listener, role) = (owner.upstream(), owner.listener(), role.label());
    let subject = printable(facts.subject.as_str());
    let (serial, not_after) = (&facts.serial, date_text(facts.not_after));
    let remedy = "put a renewed one into its file: it is taken into use without a restart";
    if nearness == Nearness::Over {
        tracing::error!(
            upstream,
            listener,
            role,
            subject,
            serial,
            not_after,
            remedy,
            "a certificate in use has expired"
        );
    } else {
        let days_left = facts.not_after.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
        tracing::warn!(
            upstream,
            listener,
            role,
            subject,
            serial,
            not_after,
            days_left,
            remedy,
            "a certificate in use expires soon"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days before the end at the last look, and now.
    #[track_caller]
    fn check(last_look: Option<f64>, now: f64, expected: Option<Nearness>) {
        let end = UNIX_EPOCH + 20_000 * DAY;
        let before = |days: f64| {
            let time = DAY.mul_f64(days.abs());
            if days < 0.0 { end + time } else { end - time }
        };
        assert_eq!(crossed(end, last_look.map(before), before(now)), expected, "{last_look:?} -> {now}");
    }

    #[test]
    fn each_threshold_is_told_once() {
        let hour = 1.0 / 24.0;
        check(Some(30.0 + hour), 30.0, Some(Nearness::Month));
        check(Some(30.0), 30.0 - hour, None);
        check(Some(7.0 + hour), 7.0, Some(Nearness::Week));
        check(Some(7.0), 6.0, None);
        check(Some(1.0 + hour), 1.0, Some(Nearness::Day));
        check(Some(1.0), hour, None);
        check(Some(hour), -hour, Some(Nearness::Over));
        check(Some(-hour), -100.0, None);
    }

    #[test]
    fn a_long_sleep_tells_the_nearest_only() {
        check(Some(100.0), 3.0, Some(Nearness::Week));
        check(Some(100.0), -3.0, Some(Nearness::Over));
    }

    #[test]
    fn what_is_seen_for_the_first_time_is_told_where_it_stands() {
        check(None, 31.0, None);
        check(None, 29.0, Some(Nearness::Month));
        check(None, 0.5, Some(Nearness::Day));
        check(None, -1.0, Some(Nearness::Over));
    }

    #[test]
    fn a_clock_that_is_set_back_tells_again_only_what_comes_again() {
        check(Some(6.0), 40.0, None);
        check(Some(40.0), 6.0, Some(Nearness::Week));
    }
}
