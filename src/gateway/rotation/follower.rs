//! Follows the agent of a SPIFFE Workload API: what it sends is at once what an upstream's connections are made with.
//!
//! A lost agent is looked for again and again, and takes nothing away: the certificates that it gave last stay in use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::config::{EndpointConfig, MaterialSource, WorkloadApi};
use crate::connection::Upstream;
use crate::gateway::expiry::Expiry;
use crate::gateway::owner::Owner;
use crate::identity::{date_text, printable};
use crate::lifecycle::drain::DrainWatch;
use crate::telemetry::log_throttle::{LogDecision, LogThrottle};
use crate::telemetry::metrics::ReloadMetrics;
use crate::tls::{UpstreamTls, UpstreamTlsError, WorkloadError, WorkloadSet, WorkloadUpdates};
use crate::upstream::ClientIdentity;

use super::record::ReloadRecord;
use super::sources::any_endpoint;

/// Between a lost agent and the first look for it: agents restart within a second or two.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The pause doubles up to here; an agent that is back is then found within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// One upstream and the agent that its certificates come from.
pub(in crate::gateway) struct Follower {
    upstream: Arc<Upstream>,
    endpoint: EndpointConfig,
    agent: WorkloadApi,
    handed_out: HandedOut,
    record: Arc<ReloadRecord>,
    metrics: ReloadMetrics,
    expiry: Arc<Expiry>,
    repeats: LogThrottle<&'static str>,
    is_lost: bool,
}

/// What the agent sent last, for whoever reads the files beside it; clones are the same place.
#[derive(Clone, Default)]
pub(super) struct HandedOut(Arc<Mutex<Option<Arc<WorkloadSet>>>>);

impl HandedOut {
    pub(super) fn latest(&self) -> Option<Arc<WorkloadSet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the agent has sent nothing since.
    pub(super) fn is_latest(&self, set: &Arc<WorkloadSet>) -> bool {
        self.latest().is_some_and(|latest| Arc::ptr_eq(&latest, set))
    }

    fn replace(&self, set: Arc<WorkloadSet>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(set);
    }
}

impl Follower {
    /// `None` where certificates come from files.
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        expiry: Arc<Expiry>,
        record: Arc<ReloadRecord>,
        metrics: ReloadMetrics,
    ) -> Option<Self> {
        let endpoint = any_endpoint(upstream, 0)?;
        let MaterialSource::WorkloadApi(agent) = &endpoint.tls.source else { return None };
        Some(Self {
            upstream: Arc::clone(upstream),
            agent: agent.clone(),
            endpoint,
            handed_out: HandedOut::default(),
            record,
            metrics,
            expiry,
            repeats: LogThrottle::new(),
            is_lost: false,
        })
    }

    /// What the agent is asked for.
    fn identity(&self) -> &ClientIdentity {
        &self.upstream.credentials()[0].identity
    }

    pub(super) fn handed_out(&self) -> &HandedOut {
        &self.handed_out
    }

    /// Takes what the agent sends until the drain begins: connections of that time are the last ones.
    pub(in crate::gateway) async fn run(mut self, drain: DrainWatch) {
        tokio::select! {
            () = self.follow() => {}
            () = drain.draining() => {}
        }
    }

    async fn follow(&mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            if self.listen().await {
                pause = PAUSE_MIN;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Takes what the agent sends until it is lost. Whether it has sent anything of use.
    async fn listen(&mut self) -> bool {
        let mut updates = match WorkloadUpdates::ask(&self.agent.socket, self.endpoint.connect_timeout).await {
            Ok(updates) => updates,
            Err(error) => {
                self.lose(error);
                return false;
            }
        };
        if std::mem::take(&mut self.is_lost) {
            tracing::info!(upstream = self.endpoint.name, "the SPIFFE Workload API is back");
        }
        let mut is_useful = false;
        loop {
            match updates.next().await {
                Ok(set) => is_useful |= self.take(set),
                Err(error) if error.is_about_content() => self.refuse(error.into()),
                Err(error) => {
                    self.lose(error);
                    return is_useful;
                }
            }
        }
    }

    /// Puts `set` to use, unless it is in use: an agent that comes back sends it again. Whether it can be used.
    ///
    /// Reads the files beside the agent, small ones on this machine, without a thread of their own: nothing may come in
    /// between, so that the latest set is the one in use.
    fn take(&self, set: WorkloadSet) -> bool {
        let set = Arc::new(set);
        let made = UpstreamTls::from_workload(&self.endpoint, &self.agent, &set);
        if made.is_ok() || set.credentials(&self.endpoint).is_ok() {
            // If it is the files that are wrong, it can be used once they are right.
            self.handed_out.replace(Arc::clone(&set));
        }
        match made {
            Ok(tls) => self.put_to_use(tls, &set),
            Err(error) => {
                self.refuse(error);
                return false;
            }
        }
        true
    }

    fn put_to_use(&self, tls: UpstreamTls, set: &WorkloadSet) {
        let in_use = self.identity().tls();
        if in_use.as_ref().is_some_and(|in_use| tls.is_same_material(in_use)) {
            self.record.well();
            return;
        }
        let certificate = &tls.credentials.certificate;
        tracing::info!(
            upstream = self.endpoint.name,
            spiffe_id = set.spiffe_id(),
            subject = printable(certificate.subject.as_str()),
            serial = certificate.serial,
            not_after = date_text(certificate.not_after),
            "certificates taken from the SPIFFE Workload API"
        );
        self.upstream.renew(0, tls);
        self.record.renewed();
        let now = SystemTime::now();
        Owner::Upstream(Arc::clone(&self.upstream), 0).tell_findings(now);
        self.expiry.look(now);
        if in_use.is_some() {
            self.metrics.count_ok();
        }
    }

    /// What came cannot be used.
    fn refuse(&self, error: UpstreamTlsError) {
        self.metrics.count_failed();
        self.record.failed(&error.to_string());
        if let LogDecision::Log { suppressed } = self.repeats.note("refused", std::time::Instant::now()) {
            tracing::warn!(
                upstream = self.endpoint.name,
                %error,
                remedy = error.remedy(),
                suppressed,
                "certificates from the SPIFFE Workload API cannot be used"
            );
        }
        self.identity().report_missing(Arc::new(error));
    }

    /// The agent gives nothing, or nothing more.
    fn lose(&mut self, error: WorkloadError) {
        self.is_lost = true;
        let in_use = if self.identity().tls().is_some() { "the last certificates" } else { "none" };
        if let LogDecision::Log { suppressed } = self.repeats.note("lost", std::time::Instant::now()) {
            tracing::warn!(
                upstream = self.endpoint.name,
                %error,
                remedy = error.remedy(),
                in_use,
                suppressed,
                "no certificates from the SPIFFE Workload API"
            );
        }
        self.identity().report_missing(Arc::new(error.into()));
    }
}
