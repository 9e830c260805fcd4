//! The certificates that connections are made with, now and after each renewal; one for all servers that are shown them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{EndpointConfig, MaterialSource};
use crate::tls::{UpstreamTls, UpstreamTlsError, check_beside_agent};

/// Who the gateway is for an upstream.
///
/// Shared by all workers; readers never wait.
#[derive(Debug)]
pub struct ClientIdentity {
    /// `None` until the first set is there.
    current: ArcSwapOption<CertificateGeneration>,
    generations: AtomicU64,
    first_set: watch::Sender<FirstSet>,
}

/// One set of certificates.
#[derive(Debug, Clone)]
pub struct CertificateGeneration {
    /// The certificates; made for one of the servers that are shown them.
    pub tls: Arc<UpstreamTls>,
    /// Which set it is, counted from 0.
    pub generation: u64,
}

/// What is known about the first set of certificates, where it does not come from files.
#[derive(Debug)]
enum FirstSet {
    /// It was asked for.
    Awaited,
    /// It could not be had.
    Failed(Arc<UpstreamTlsError>),
    /// It came, and perhaps others since.
    There,
}

impl ClientIdentity {
    /// Reads the files of `endpoint`.
    ///
    /// Where certificates come from the SPIFFE Workload API there are none yet: [`ClientIdentity::renew`] brings them.
    pub fn new(endpoint: &EndpointConfig) -> Result<Self, UpstreamTlsError> {
        let (tls, first_set) = match &endpoint.tls.source {
            MaterialSource::Files(_) => (Some(UpstreamTls::load(endpoint)?), FirstSet::There),
            MaterialSource::WorkloadApi(agent) => {
                check_beside_agent(endpoint, agent)?;
                (None, FirstSet::Awaited)
            }
        };
        let set = tls.map(|tls| CertificateGeneration { tls: Arc::new(tls), generation: 0 });
        let current = ArcSwapOption::new(set.map(Arc::new));
        Ok(Self { current, generations: AtomicU64::new(0), first_set: watch::Sender::new(first_set) })
    }

    /// What connections are made with now; `None` as long as the SPIFFE Workload API has given nothing.
    pub fn current(&self) -> Option<Arc<CertificateGeneration>> {
        self.current.load_full()
    }

    /// The certificates of the current set.
    pub fn tls(&self) -> Option<Arc<UpstreamTls>> {
        self.current.load().as_ref().map(|set| Arc::clone(&set.tls))
    }

    /// Makes all further connections with `tls`; those that are there already stay as they are.
    ///
    /// A connection that is being made may still be of the old set: see [`super::UpstreamStream::made_with`].
    pub fn renew(&self, tls: UpstreamTls) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current.store(Some(Arc::new(CertificateGeneration { tls: Arc::new(tls), generation })));
        self.first_set.send_replace(FirstSet::There);
    }

    /// Which set of certificates connections are made with now, counted from 0.
    pub fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |set| set.generation)
    }

    /// Says why the first set of certificates could not be had; without it, connections wait for one. Changes nothing
    /// once there is a set.
    pub fn report_missing(&self, cause: Arc<UpstreamTlsError>) {
        self.first_set.send_if_modified(|known| {
            let lacking = !matches!(known, FirstSet::There);
            if lacking {
                *known = FirstSet::Failed(cause);
            }
            lacking
        });
    }

    /// The current set; while the first one is being asked for, waits for that. Without one, why there is none, if that is
    /// known.
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
        // It may have come meanwhile.
        self.current().ok_or(cause)
    }
}

impl FirstSet {
    fn cause(&self) -> Option<Arc<UpstreamTlsError>> {
        match self {
            Self::Failed(cause) => Some(Arc::clone(cause)),
            Self::Awaited | Self::There => None,
        }
    }
}
