//! The metrics of certificates: when they expire, and whether a reload worked.

use metrics::{Counter, counter, gauge};

use super::families::{CERTIFICATE_EXPIRY, RELOADS};
use super::labels::CertificateRole;

/// Says when the certificate of `role` for the upstream or listener `name` ends, in seconds since 1970.
///
/// Of several certificates in one file, tell the one that ends first.
pub fn set_certificate_expiry(role: CertificateRole, name: &str, not_after_seconds: i64) {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 200 million years")]
    let seconds = not_after_seconds as f64;
    gauge!(CERTIFICATE_EXPIRY, "role" => role.label(), "name" => name.to_owned()).set(seconds);
}

/// The handles that count renewals of certificates.
#[derive(Clone)]
pub struct ReloadMetrics {
    ok: Counter,
    failed: Counter,
}

impl ReloadMetrics {
    /// Looks the handles up in the recorder of this moment.
    #[expect(clippy::new_without_default, reason = "a handle is looked up on purpose")]
    pub fn new() -> Self {
        Self { ok: counter!(RELOADS, "outcome" => "ok"), failed: counter!(RELOADS, "outcome" => "failed") }
    }

    /// A changed set is in use.
    pub fn count_ok(&self) {
        self.ok.increment(1);
    }

    /// A changed set cannot be used; the one before it stays.
    pub fn count_failed(&self) {
        self.failed.increment(1);
    }
}
