//! The gateway's identity towards an upstream: the current certificate set, shared by the connectors of all its
//! servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use super::name_lookup::LookupPlaces;
use crate::config::{EndpointConfig, MaterialSource};
use crate::tls::{UpstreamTls, UpstreamTlsError, check_workload_config};

/// The gateway's identity towards an upstream: the current certificate set.
///
/// Shared by all workers. Readers never block.
#[derive(Debug)]
pub struct ClientIdentity {
    /// `None` until the first set is available.
    current: ArcSwapOption<CertificateGeneration>,
    generations: AtomicU64,
    first_set: watch::Sender<FirstSet>,
    /// Shared by the connectors of all servers.
    lookups: LookupPlaces,
}

/// A certificate set and its number.
#[derive(Debug, Clone)]
pub struct CertificateGeneration {
    /// The certificate set, configured for one server of the upstream.
    pub tls: Arc<UpstreamTls>,
    /// The number of the set, counted from 0.
    pub generation: u64,
}

/// The state of the first certificate set, which may not be available at start.
#[derive(Debug)]
enum FirstSet {
    /// The SPIFFE Workload API was asked for it.
    Awaited,
    /// It is not available.
    Failed(Arc<UpstreamTlsError>),
    /// It is available.
    Available,
}

impl ClientIdentity {
    /// Reads the certificate files of `endpoint`.
    ///
    /// If certificates come from the SPIFFE Workload API, there are none yet: pass them to [`ClientIdentity::renew`].
    /// Blocks until the file system answers.
    pub fn new(endpoint: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let (tls, first_set) = match &endpoint.tls.source {
            MaterialSource::Files(_) => (Some(UpstreamTls::load(endpoint)?), FirstSet::Available),
            MaterialSource::WorkloadApi(agent) => {
                check_workload_config(endpoint, agent)?;
                (None, FirstSet::Awaited)
            }
        };
        let set = tls.map(|tls| CertificateGeneration { tls: Arc::new(tls), generation: 0 });
        let current = ArcSwapOption::new(set.map(Arc::new));
        Ok(Self {
            current,
            generations: AtomicU64::new(0),
            first_set: watch::Sender::new(first_set),
            lookups: LookupPlaces::default(),
        })
    }

    /// Limits the name lookups of the servers.
    pub(super) fn lookups(&self) -> &LookupPlaces {
        &self.lookups
    }

    /// The current certificate set; `None` until the SPIFFE Workload API has provided one.
    pub fn current(&self) -> Option<Arc<CertificateGeneration>> {
        self.current.load_full()
    }

    /// The TLS configuration of the current certificate set.
    pub fn tls(&self) -> Option<Arc<UpstreamTls>> {
        self.current.load().as_ref().map(|set| Arc::clone(&set.tls))
    }

    /// Replaces the certificate set. New connections use `tls`; existing connections are unchanged.
    ///
    /// A connection that is being made may still use the previous set: see `UpstreamStream::made_with`.
    pub fn renew(&self, tls: UpstreamTls) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current.store(Some(Arc::new(CertificateGeneration { tls: Arc::new(tls), generation })));
        self.first_set.send_replace(FirstSet::Available);
    }

    /// The generation of the current certificate set, counted from 0.
    pub fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |set| set.generation)
    }

    /// Records why the first certificate set is not available, so that connections fail at once instead of waiting for
    /// it. Has no effect once there is a set.
    pub fn report_missing(&self, cause: Arc<UpstreamTlsError>) {
        self.first_set.send_if_modified(|known| {
            let is_missing = !matches!(known, FirstSet::Available);
            if is_missing {
                *known = FirstSet::Failed(cause);
            }
            is_missing
        });
    }

    /// The current certificate set. Waits for the first set until `deadline`. Fails with the reason why there is no
    /// set, if it is known.
    pub(super) async fn set_by(
        &self,
        deadline: Instant,
    ) -> Result<Arc<CertificateGeneration>, Option<Arc<UpstreamTlsError>>> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let mut first_set = self.first_set.subscribe();
        let asked = first_set.wait_for(|known| !matches!(known, FirstSet::Awaited));
        let cause = match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(known)) => known.cause(),
            _ => None,
        };
        // It may have become available in the meantime.
        self.current().ok_or(cause)
    }
}

impl FirstSet {
    fn cause(&self) -> Option<Arc<UpstreamTlsError>> {
        match self {
            Self::Failed(cause) => Some(Arc::clone(cause)),
            Self::Awaited | Self::Available => None,
        }
    }
}
