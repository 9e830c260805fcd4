//! What the control socket can do with the whole gateway.

use std::sync::Arc;

use tokio::sync::Notify;

use super::service_report::ServiceReport;
use crate::control::{Actions, Reloaded};
use crate::lifecycle::reload_status::ReloadStatus;

/// Why files are not used that a later reload may use.
const PENDING: &str = "the files may be incomplete; they are read again";

/// Reloads files, and begins the shutdown.
pub(super) struct ControlActions {
    pub(super) report: ServiceReport,
    /// Certificate sets and the policy, with the results of their reloads.
    pub(super) reloaded: Vec<(String, Arc<ReloadStatus>)>,
    pub(super) drain: Arc<Notify>,
}

impl Actions for ControlActions {
    async fn reload(&self) -> Option<Vec<Reloaded>> {
        if !self.report.reload_and_wait().await {
            return None;
        }
        let pending = |status: &ReloadStatus| status.is_pending().then(|| PENDING.to_owned());
        let result = |(name, status): &(String, Arc<ReloadStatus>)| Reloaded {
            name: name.clone(),
            problem: status.problem().or_else(|| pending(status)),
        };
        Some(self.reloaded.iter().map(result).collect())
    }

    fn drain(&self) {
        self.drain.notify_one();
    }
}
