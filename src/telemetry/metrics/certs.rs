//! The metrics of certificates: their expiry, and reloads.

use metrics::{Counter, counter, gauge};

use super::families::{CERTIFICATE_EXPIRY, RELOADS};
use super::labels::{CertificateRole, Reloaded};

/// Sets the expiry of a certificate of the upstream or listener `name`, in seconds since 1970.
///
/// If a file holds several certificates, pass the earliest expiry.
pub fn set_certificate_expiry(role: CertificateRole, name: &str, not_after_seconds: i64) {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 200 million years")]
    let seconds = not_after_seconds as f64;
    gauge!(CERTIFICATE_EXPIRY, "role" => role.label(), "name" => name.to_owned()).set(seconds);
}

/// The metric handles that count reloads of certificate sets and policies.
#[derive(Clone)]
pub struct ReloadMetrics {
    ok: Counter,
    failed: Counter,
}

impl ReloadMetrics {
    /// Looks up the handles in the recorder that is installed now.
    pub fn new(what: Reloaded) -> Self {
        let counter = |outcome| counter!(RELOADS, "what" => what.label(), "outcome" => outcome);
        Self { ok: counter("ok"), failed: counter("failed") }
    }

    /// Counts a successful reload.
    pub fn count_ok(&self) {
        self.ok.increment(1);
    }

    /// Counts a failed reload; the previous set or policy stays in use.
    pub fn count_failed(&self) {
        self.failed.increment(1);
    }
}
