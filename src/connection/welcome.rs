//! How long a client that was let in with a certificate may stay.
//!
//! Each change of what the listener judges by is a new judgement of those who are in: a certificate that was revoked, or
//! whose authority was taken away, must not be good for as long as a pool keeps its connections. Dates are those of the
//! handshake: a certificate that ends while its client is connected is no reason to cut it off.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime};

use tokio::time::{Sleep, sleep};

use super::door::Admission;
use crate::lifecycle::renewal::RenewalWatch;
use crate::listener::ClientStream;
use crate::relay::Dismissal;

/// How long a client that has to go may go on with what is in flight: one that always has something must not stay for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The welcome of one client.
pub(super) struct Revalidation {
    /// Before the handshake, so that nothing that comes after is missed.
    renewals: RenewalWatch,
    judged: u64,
    since: SystemTime,
    /// Once it is over.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Revalidation {
    /// Of a client that is about to be heard.
    pub(super) fn new(door: &Admission) -> Self {
        let renewals = door.renewals();
        let judged = renewals.generation();
        Self { renewals, judged, since: SystemTime::now(), patience: None }
    }

    /// Resolves when the client is to be [judged](Self::judge) again. Cancel safe.
    pub(super) async fn revalidation_due(&mut self) {
        if let Some(patience) = &mut self.patience {
            return patience.await;
        }
        let mut renewed = pin!(self.renewals.newer_than(self.judged));
        let mut registered = false;
        poll_fn(|cx| {
            // Once registered it wakes this task; polling again would cost a lock that all share.
            if self.renewals.generation() <= self.judged && std::mem::replace(&mut registered, true) {
                return std::task::Poll::Pending;
            }
            renewed.as_mut().poll(cx)
        })
        .await;
    }

    /// Whether the client has to go; once it has, [`doubt`](Self::doubt) resolves when its time is over.
    pub(super) fn judge(&mut self, client: &ClientStream, door: &Admission) -> Option<Dismissal> {
        if self.patience.take().is_some() {
            return Some(Dismissal::AtOnce);
        }
        self.judged = self.renewals.generation();
        let (certificates, tls) = (client.certificates()?, door.tls()?);
        if tls.would_accept(certificates, self.since) {
            return None;
        }
        self.patience = Some(Box::pin(sleep(PATIENCE)));
        Some(Dismissal::WhenIdle)
    }
}
