//! Stand-in until part A is merged.
use std::fmt;
use std::sync::Arc;

use super::dial_queue::DialError;
use super::pool::MemberPool;
use crate::lifecycle::lease::LeaseState;
use crate::upstream::ProvenConnection;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PoolKey {
    pub client: Arc<[u8]>,
    pub load_balanced: bool,
}
pub struct ReusePool {
    parked: std::sync::Mutex<Vec<(PoolKey, ProvenConnection)>>,
}
pub struct Leased {
    pub connection: ProvenConnection,
    pub lease: Lease,
}
pub struct Lease(Arc<LeaseState>, Arc<ReusePool>);
impl Lease {
    pub fn give_back(self, key: PoolKey, connection: ProvenConnection) {
        self.1.parked.lock().unwrap().push((key, connection));
    }
    pub async fn recalled(&self) {
        std::future::pending().await
    }
    pub fn handle(&self) -> Arc<LeaseState> {
        Arc::clone(&self.0)
    }
}
#[derive(Debug)]
pub enum AcquireError {
    Connect(DialError),
    Rejected,
    TimedOut,
}
impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
impl ReusePool {
    pub fn new() -> Self {
        Self { parked: Default::default() }
    }
}
impl MemberPool {
    pub async fn acquire(self: &Arc<Self>, key: &PoolKey, hello: &[u8], _caller: u64) -> Result<Leased, AcquireError> {
        let reuse = Arc::clone(self.reuse.as_ref().unwrap());
        let parked = {
            let mut parked = reuse.parked.lock().unwrap();
            let at = parked.iter().position(|(other, _)| other == key);
            at.map(|at| parked.remove(at))
        };
        if let Some((_, connection)) = parked {
            return Ok(Leased { connection, lease: Lease(Arc::default(), reuse) });
        }
        let mut connection = self.connect(None).await.map_err(AcquireError::Connect)?;
        connection.replay_hello(hello).await.map_err(|_| AcquireError::Rejected)?;
        Ok(Leased { connection, lease: Lease(Arc::default(), reuse) })
    }
}
