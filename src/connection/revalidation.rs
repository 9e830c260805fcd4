//! Verifies the certificate of a connected client again when the trust anchors or CRLs of its listener change.
//!
//! Otherwise a certificate that was revoked, or whose CA is no longer trusted, would remain valid for as long as a
//! driver's pool keeps its connections. Validity dates are checked as of the handshake: a certificate that expires
//! while its client is connected does not end the connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::{Sleep, sleep};

use crate::lifecycle::renewal::RenewalWatch;
use crate::listener::{ClientStream, ServerIdentity};
use crate::relay::Dismissal;

/// How long a client that must leave may finish commands in flight. One that always has a command in flight must leave
/// too.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// The verification of one client of a TLS listener.
pub(super) struct Revalidation<'a> {
    server: &'a ServerIdentity,
    renewals: RenewalWatch,
    verified_generation: u64,
    handshake_time: SystemTime,
    /// Runs after the client was rejected.
    grace_period: Option<Pin<Box<Sleep>>>,
}

impl<'a> Revalidation<'a> {
    /// Call it before the handshake, so that no change after it is missed.
    pub(super) fn new(server: &'a ServerIdentity) -> Self {
        let renewals = server.renewals();
        let verified_generation = renewals.generation();
        Self { server, renewals, verified_generation, handshake_time: SystemTime::now(), grace_period: None }
    }

    /// Resolves when [`revalidate`](Self::revalidate) is to be called. Cancel safe.
    pub(super) async fn revalidation_due(&mut self) {
        if let Some(grace_period) = &mut self.grace_period {
            return grace_period.await;
        }
        let mut renewed = pin!(self.renewals.newer_than(self.verified_generation));
        let mut registered = false;
        poll_fn(|cx| {
            // After the first poll the task is registered. Another poll would take a lock that all connections share.
            if self.renewals.generation() <= self.verified_generation && std::mem::replace(&mut registered, true) {
                return Poll::Pending;
            }
            renewed.as_mut().poll(cx)
        })
        .await;
    }

    /// Verifies the client again, and returns how it must leave if it is rejected. After that,
    /// [`revalidation_due`](Self::revalidation_due) resolves when the grace period is over.
    pub(super) fn revalidate(&mut self, client: &ClientStream) -> Option<Dismissal> {
        if self.grace_period.take().is_some() {
            return Some(Dismissal::AtOnce);
        }
        self.verified_generation = self.renewals.generation();
        if self.server.tls().would_accept(client.certificates()?, self.handshake_time) {
            return None;
        }
        self.grace_period = Some(Box::pin(sleep(GRACE_PERIOD)));
        Some(Dismissal::WhenIdle)
    }
}
