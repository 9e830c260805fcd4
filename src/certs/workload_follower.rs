//! Follows the agent of a SPIFFE Workload API: an upstream uses the certificates that the agent sends at once.
//!
//! If the connection to the agent is lost, the last certificates stay in use and the gateway connects again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::expiry::ExpiryMonitor;
use super::messages::{
    WORKLOAD_API_CERTIFICATE, WORKLOAD_API_CERTIFICATE_UNUSABLE, WORKLOAD_API_RECOVERED, WORKLOAD_API_UNAVAILABLE,
};
use super::owner::CertificateOwner;
use super::received_set::ReceivedSet;
use crate::cluster::Upstream;
use crate::config::{EndpointConfig, MaterialSource, WorkloadApi};
use crate::identity::{date_text, printable};
use crate::lifecycle::back_off::BackOff;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::reload_status::ReloadStatus;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogSubject, LogThrottle};
use crate::telemetry::metrics::ReloadMetrics;
use crate::tls::{UpstreamTls, UpstreamTlsError, WorkloadError, WorkloadSet, WorkloadUpdates};
use crate::upstream::ClientIdentity;

/// First and longest pause before the gateway connects to a lost agent again. Agents restart within a second or two.
const RECONNECT_BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Follows the agent of one upstream.
pub(super) struct WorkloadFollower {
    upstream: Arc<Upstream>,
    endpoint: EndpointConfig,
    agent: WorkloadApi,
    received: ReceivedSet,
    status: Arc<ReloadStatus>,
    metrics: ReloadMetrics,
    expiry: Arc<ExpiryMonitor>,
    repeats: LogThrottle,
    is_lost: bool,
}

impl WorkloadFollower {
    /// `None` if the certificates of `upstream` come from files.
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        expiry: Arc<ExpiryMonitor>,
        status: Arc<ReloadStatus>,
        metrics: ReloadMetrics,
    ) -> Option<Self> {
        let endpoint = upstream.any_endpoint(0)?;
        let MaterialSource::WorkloadApi(agent) = &endpoint.tls.source else { return None };
        Some(Self {
            upstream: Arc::clone(upstream),
            agent: agent.clone(),
            endpoint,
            received: ReceivedSet::default(),
            status,
            metrics,
            expiry,
            repeats: LogThrottle::new(LogSubject::Upstream(upstream.name().to_owned())),
            is_lost: false,
        })
    }

    /// The certificate set that the agent sent last.
    pub(super) fn received(&self) -> &ReceivedSet {
        &self.received
    }

    fn identity(&self) -> &ClientIdentity {
        &self.upstream.credentials()[0].identity
    }

    /// Runs until the drain begins: connections after that need no new certificates.
    pub(super) async fn run(mut self, drain: DrainWatch) {
        tokio::select! {
            () = self.follow() => {}
            () = drain.draining() => {}
        }
    }

    async fn follow(&mut self) {
        let mut back_off = BackOff::new(RECONNECT_BACK_OFF.0, RECONNECT_BACK_OFF.1);
        loop {
            if self.receive().await {
                back_off.reset();
            }
            sleep(back_off.next_pause()).await;
        }
    }

    /// Uses what the agent sends until the connection is lost. Returns whether any set could be used.
    async fn receive(&mut self) -> bool {
        let mut updates = match WorkloadUpdates::ask(&self.agent.socket, self.endpoint.connect_timeout).await {
            Ok(updates) => updates,
            Err(error) => {
                self.lose(error);
                return false;
            }
        };
        if std::mem::take(&mut self.is_lost) {
            tracing::info!(upstream = self.endpoint.name, "{WORKLOAD_API_RECOVERED}");
        }
        let mut was_useful = false;
        loop {
            match updates.next().await {
                Ok(set) => was_useful |= self.take(set),
                Err(error) if error.is_about_content() => self.reject(error.into()),
                Err(error) => {
                    self.lose(error);
                    return was_useful;
                }
            }
        }
    }

    /// Puts `set` into use, unless it is in use: after a reconnection the agent sends it again. Returns whether it can
    /// be used.
    ///
    /// The additional files are small and local, so they are read here and not on another thread: the latest set must
    /// be the one in use, and an interruption could change the order.
    fn take(&self, set: WorkloadSet) -> bool {
        let set = Arc::new(set);
        let made = UpstreamTls::from_workload(&self.endpoint, &self.agent, &set);
        if made.is_ok() || set.credentials(&self.endpoint).is_ok() {
            // If only the files are wrong, the set can be used after they are corrected.
            self.received.replace(Arc::clone(&set));
        }
        match made {
            Ok(tls) => self.put_to_use(tls, &set),
            Err(error) => {
                self.reject(error);
                return false;
            }
        }
        true
    }

    fn put_to_use(&self, tls: UpstreamTls, set: &WorkloadSet) {
        let in_use = self.identity().tls();
        if in_use.as_ref().is_some_and(|in_use| tls.is_same_material(in_use)) {
            self.status.record_unchanged();
            return;
        }
        let certificate = &tls.credentials.certificate;
        tracing::info!(
            upstream = self.endpoint.name,
            spiffe_id = set.spiffe_id(),
            subject = printable(certificate.subject.as_str()),
            serial = certificate.serial,
            not_after = date_text(certificate.not_after),
            "{WORKLOAD_API_CERTIFICATE}"
        );
        self.upstream.renew(0, tls);
        self.status.record_success();
        let now = SystemTime::now();
        CertificateOwner::Upstream(Arc::clone(&self.upstream), 0).log_findings(now);
        self.expiry.check(now);
        if in_use.is_some() {
            self.metrics.count_ok();
        }
    }

    /// What the agent sent cannot be used.
    fn reject(&self, error: UpstreamTlsError) {
        self.metrics.count_failed();
        self.status.record_failure(&error.to_string());
        if let LogDecision::Log { suppressed } = self.note(WORKLOAD_API_CERTIFICATE_UNUSABLE) {
            tracing::warn!(
                upstream = self.endpoint.name,
                %error,
                remedy = error.remedy(),
                suppressed,
                "{WORKLOAD_API_CERTIFICATE_UNUSABLE}"
            );
        }
        self.identity().report_missing(Arc::new(error));
    }

    fn note(&self, message: &'static str) -> LogDecision {
        self.repeats.note(message, "", LineBudget::Failures)
    }

    /// The agent cannot be reached, or has ended the connection.
    fn lose(&mut self, error: WorkloadError) {
        self.is_lost = true;
        let in_use = if self.identity().tls().is_some() { "the last certificates" } else { "none" };
        if let LogDecision::Log { suppressed } = self.note(WORKLOAD_API_UNAVAILABLE) {
            tracing::warn!(
                upstream = self.endpoint.name,
                %error,
                remedy = error.remedy(),
                in_use,
                suppressed,
                "{WORKLOAD_API_UNAVAILABLE}"
            );
        }
        self.identity().report_missing(Arc::new(error.into()));
    }
}
