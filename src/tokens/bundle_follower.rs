//! Follows the agent of a SPIFFE Workload API: the keys of JWT-SVIDs that it sends are in use at once.
//!
//! If the connection to the agent is lost, the last keys stay in use and the gateway connects again. Keys of a trust
//! domain that the agent leaves out of a later message are withdrawn: the two trust domains federate no longer.
//!
//! Spec: SPIFFE Workload API § 4.2 to § 4.4, § 6.2.2.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::key_report::KeyReport;
use super::load::{AGENT_TIMEOUT, no_keys, read_keys};
use crate::lifecycle::back_off::BackOff;
use crate::tls::{JwtBundleUpdates, JwtBundles};

/// First and longest pause before the gateway connects to a lost agent again. Agents restart within a second or two.
const RECONNECT_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Keeps the keys of one trust domain current.
pub(super) struct BundleFollower {
    report: KeyReport,
    socket: PathBuf,
    trust_domain: String,
}

impl BundleFollower {
    pub(super) fn new(report: KeyReport, socket: &Path, trust_domain: &str) -> Self {
        Self { report, socket: socket.to_owned(), trust_domain: trust_domain.to_owned() }
    }

    pub(super) async fn run(mut self) {
        let mut back_off = BackOff::new(RECONNECT_BACK_OFF.0, RECONNECT_BACK_OFF.1);
        loop {
            if self.receive().await {
                back_off.reset();
            }
            tokio::select! {
                () = sleep(back_off.next_pause()) => {}
                () = self.report.keys().requested() => {}
            }
        }
    }

    /// Uses what the agent sends until the connection is lost. Returns whether any keys could be used.
    async fn receive(&mut self) -> bool {
        let mut was_useful = false;
        loop {
            match self.follow_one_call(&mut was_useful).await {
                CallEnd::AskAgain => {}
                CallEnd::Lost => return was_useful,
            }
        }
    }

    async fn follow_one_call(&mut self, was_useful: &mut bool) -> CallEnd {
        let mut updates = match JwtBundleUpdates::ask(&self.socket, AGENT_TIMEOUT).await {
            Ok(updates) => updates,
            Err(error) => {
                self.report.failed(&error.into());
                return CallEnd::Lost;
            }
        };
        loop {
            let received = tokio::select! {
                biased;
                received = updates.next() => received,
                // A token has an unknown key. The agent sends new keys by itself, but not if it hangs.
                () = self.report.keys().requested() => return CallEnd::AskAgain,
            };
            match received {
                Ok(bundles) => *was_useful |= self.take(&bundles),
                Err(error) => {
                    let may_go_on = error.is_about_content();
                    self.report.failed(&error.into());
                    if !may_go_on {
                        return CallEnd::Lost;
                    }
                }
            }
        }
    }

    /// Returns whether the keys can be used.
    fn take(&mut self, bundles: &JwtBundles) -> bool {
        let Some(document) = bundles.key_set(&self.trust_domain) else {
            self.report.withdrawn(&no_keys(&self.socket, &self.trust_domain));
            return false;
        };
        match read_keys(self.report.keys().source(), &document) {
            Ok(keys) => {
                self.report.loaded(keys);
                true
            }
            Err(error) => {
                self.report.failed(&error);
                false
            }
        }
    }
}

/// Why a call is over.
enum CallEnd {
    /// Newer keys are wanted.
    AskAgain,
    /// The agent cannot be reached, or has ended the call.
    Lost,
}
