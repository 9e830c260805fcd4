//! Starts everything that keeps certificates current: the tasks that follow files and agents, and the expiry monitor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::expiry::ExpiryMonitor;
use super::file_reload::FileReloader;
use super::owner::CertificateOwner;
use super::set_source::SetSource;
use super::watched_set::WatchedSet;
use super::workload_follower::WorkloadFollower;
use crate::cluster::Upstream;
use crate::config::Config;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::reload::ReloadRequest;
use crate::lifecycle::reload_status::ReloadStatus;
use crate::lifecycle::tasks::Tasks;
use crate::listener::ServerIdentity;
use crate::telemetry::metrics::{ReloadMetrics, Reloaded};

/// Keeps the certificates of all upstreams and listeners current.
pub struct CertificateSupervisor {
    expiry: Arc<ExpiryMonitor>,
    files: FileReloader,
    agents: Vec<WorkloadFollower>,
    statuses: BTreeMap<String, Arc<ReloadStatus>>,
}

impl CertificateSupervisor {
    /// Supervises the certificates of `upstreams` and of the TLS listeners `servers`. Logs warnings about the sets in
    /// use, and certificates that expire soon.
    pub fn new(config: &Config, upstreams: &[Arc<Upstream>], servers: &[Arc<ServerIdentity>]) -> Self {
        let owners = upstreams.iter().flat_map(CertificateOwner::credentials_of);
        let owners: Vec<_> = owners.chain(servers.iter().cloned().map(CertificateOwner::Listener)).collect();
        let now = SystemTime::now();
        for owner in &owners {
            owner.log_findings(now);
        }
        let expiry = Arc::new(ExpiryMonitor::new(owners));
        expiry.check(now);

        let (mut sets, mut agents, mut statuses) = (Vec::new(), Vec::new(), BTreeMap::new());
        for source in file_sources(config, upstreams, servers) {
            let status = Arc::<ReloadStatus>::default();
            statuses.insert(source.owner.title(), Arc::clone(&status));
            sets.push(WatchedSet::new(source, status));
        }
        let metrics = ReloadMetrics::new(Reloaded::Certificates);
        for upstream in upstreams {
            let status = Arc::<ReloadStatus>::default();
            let follower = WorkloadFollower::new(upstream, Arc::clone(&expiry), Arc::clone(&status), metrics.clone());
            let Some(follower) = follower else { continue };
            if let Some(source) = SetSource::in_addition_to_agent(upstream, follower.received()) {
                sets.push(WatchedSet::new(source, Arc::clone(&status)));
            }
            statuses.insert(CertificateOwner::Upstream(Arc::clone(upstream), 0).title(), status);
            agents.push(follower);
        }
        let files = FileReloader::new(sets, metrics, Arc::clone(&expiry));
        Self { expiry, files, agents, statuses }
    }

    /// The results of reloads, by the title of the owner.
    pub fn statuses(&self) -> &BTreeMap<String, Arc<ReloadStatus>> {
        &self.statuses
    }

    /// The results of the reloads of one owner.
    pub fn status(&self, title: &str) -> Option<Arc<ReloadStatus>> {
        self.statuses.get(title).cloned()
    }

    /// Starts its tasks, which run until the drain begins. Returns the means to request a reload of all files.
    pub fn start(self, tasks: &Tasks, drain: &DrainWatch) -> ReloadRequest {
        let request = self.files.request();
        tasks.spawn("certificate renewal", self.files.run(drain.clone()));
        for agent in self.agents {
            tasks.spawn("workload api", agent.run(drain.clone()));
        }
        let (expiry, drain) = (self.expiry, drain.clone());
        tasks.spawn("certificate expiry", async move { expiry.run(drain).await });
        request
    }
}

fn file_sources(config: &Config, upstreams: &[Arc<Upstream>], servers: &[Arc<ServerIdentity>]) -> Vec<SetSource> {
    let of_upstream = |upstream: &Arc<Upstream>| {
        let credentials = 0..upstream.credentials().len();
        credentials.filter_map(|credential| SetSource::of_credential(upstream, credential)).collect::<Vec<_>>()
    };
    let of_server = |server: &Arc<ServerIdentity>| {
        let section = config.listeners.get(server.listener())?.tls.as_ref()?;
        Some(SetSource::of_listener(server, section))
    };
    upstreams.iter().flat_map(of_upstream).chain(servers.iter().filter_map(of_server)).collect()
}
