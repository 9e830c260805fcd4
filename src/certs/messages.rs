//! The log messages of this module.

pub(super) const CERTIFICATE_RELOADED: &str = "certificate reloaded";
pub(super) const CERTIFICATE_RELOAD_FAILED: &str =
    "certificate reload failed; the previous certificate set stays in use";
pub(super) const CERTIFICATE_FILES_VALID_AGAIN: &str = "certificate files are valid again; they hold the set in use";
pub(super) const CERTIFICATE_RELOAD_FINISHED: &str = "certificate reload finished";
pub(super) const CERTIFICATE_RELOAD_PANICKED: &str = "certificate reload panicked";
pub(super) const CERTIFICATE_WARNING: &str = "certificate warning";
pub(super) const CERTIFICATE_EXPIRED: &str = "certificate expired";
pub(super) const CERTIFICATE_EXPIRES_SOON: &str = "certificate expires soon";
pub(super) const FILE_WATCH_FAILED: &str = "certificate file watch failed; files are read once a minute";
pub(super) const FILE_WATCH_RESTORED: &str = "certificate file watch restored";
pub(super) const WORKLOAD_API_CERTIFICATE: &str = "certificate received from the SPIFFE Workload API";
pub(super) const WORKLOAD_API_CERTIFICATE_UNUSABLE: &str = "certificate from the SPIFFE Workload API cannot be used";
pub(super) const WORKLOAD_API_UNAVAILABLE: &str = "SPIFFE Workload API unavailable";
pub(super) const WORKLOAD_API_RECOVERED: &str = "SPIFFE Workload API recovered";
