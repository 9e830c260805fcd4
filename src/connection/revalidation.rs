//! Verifies the certificate of a connected client again when the trust anchors or CRLs of its listener change, and ends
//! the connection of a client whose certificate expires.
//!
//! Otherwise a certificate that was revoked, or whose CA is no longer trusted, would remain valid for as long as a
//! driver's pool keeps its connections.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::time::{Sleep, sleep, sleep_until};

use crate::identity::CertificateFacts;
use crate::lifecycle::renewal::RenewalWatch;
use crate::listener::{ClientStream, ServerIdentity};
use crate::relay::Dismissal;

/// How long a client that must leave because its certificate is not trusted any longer may finish commands in flight.
/// One that always has a command in flight must leave too.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// The longest sleep until a certificate expires: the clock of the machine may be set meanwhile.
const EXPIRY_CHECK_MAX: Duration = Duration::from_mins(1);

/// The verification of one client of a TLS listener.
pub(super) struct Revalidation<'a> {
    server: &'a ServerIdentity,
    renewals: RenewalWatch,
    verified_generation: u64,
    handshake_time: SystemTime,
    /// Runs until the client has to be verified again, after the trust anchors have changed.
    reverification: Option<Pin<Box<Sleep>>>,
    /// Runs until the certificate has to be compared with the clock; `None` if its end does not matter.
    expiry: Option<(SystemTime, Pin<Box<Sleep>>)>,
    /// Runs after the client was rejected, or its certificate has expired.
    grace_period: Option<Pin<Box<Sleep>>>,
}

impl<'a> Revalidation<'a> {
    /// Call it before the handshake, so that no change after it is missed.
    pub(super) fn new(server: &'a ServerIdentity) -> Self {
        let renewals = server.renewals();
        let verified_generation = renewals.generation();
        Self {
            server,
            renewals,
            verified_generation,
            handshake_time: SystemTime::now(),
            reverification: None,
            expiry: None,
            grace_period: None,
        }
    }

    /// Begins to watch the end of the client's certificate, unless the listener keeps clients whose certificate has
    /// expired.
    pub(super) fn watch_expiry(&mut self, client: &ClientStream) {
        if !self.server.tls().closes_expired_clients {
            return;
        }
        let leaf = client.certificates().and_then(<[_]>::first);
        if let Some(facts) = leaf.and_then(|leaf| CertificateFacts::from_der(leaf).ok()) {
            self.expiry = Some((facts.not_after, Box::pin(sleep(until(facts.not_after)))));
        }
    }

    /// Resolves when [`revalidate`](Self::revalidate) is to be called. Cancel safe.
    pub(super) async fn revalidation_due(&mut self) {
        let Self { renewals, verified_generation, reverification, expiry, grace_period, .. } = self;
        let mut renewed = pin!(renewals.newer_than(*verified_generation));
        let mut registered = false;
        poll_fn(|cx| {
            // After the first poll the task is registered. Another poll of `renewed` would take a lock that all
            // connections share.
            let is_first = !std::mem::replace(&mut registered, true);
            let timers = [reverification.as_mut(), expiry.as_mut().map(|(_, timer)| timer), grace_period.as_mut()];
            for timer in timers.into_iter().flatten() {
                if timer.is_elapsed() || (is_first && timer.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(());
                }
            }
            if is_first || renewals.generation() > *verified_generation {
                return renewed.as_mut().poll(cx);
            }
            Poll::Pending
        })
        .await;
    }

    /// Does what is due, and returns how the client must leave if it is rejected. After that,
    /// [`revalidation_due`](Self::revalidation_due) resolves when the grace period is over.
    ///
    /// `expired_grace` is how long a client with an expired certificate may take to finish its commands in flight; with
    /// `None` any time.
    pub(super) fn revalidate(&mut self, client: &ClientStream, expired_grace: Option<Duration>) -> Option<Dismissal> {
        if self.grace_period.take_if(|timer| timer.is_elapsed()).is_some() {
            return Some(Dismissal::AtOnce);
        }
        if let Some((end, _)) = self.expiry.take_if(|(_, timer)| timer.is_elapsed()) {
            // A command in flight may finish, as at the end of a connection's lifetime: the client's access was not
            // withdrawn. A client that always has one in flight must leave too.
            if SystemTime::now() > end {
                if let Some(grace) = expired_grace {
                    self.grace_period.get_or_insert_with(|| Box::pin(sleep(grace)));
                }
                return Some(Dismissal::WhenIdle);
            }
            self.expiry = Some((end, Box::pin(sleep(until(end)))));
        }
        if self.reverification.take_if(|timer| timer.is_elapsed()).is_some() {
            return self.verify(client);
        }
        let generation = self.renewals.generation();
        if generation > self.verified_generation {
            self.verified_generation = generation;
            let due = self.renewals.schedule().due;
            self.reverification.get_or_insert_with(|| Box::pin(sleep_until(due)));
        }
        None
    }

    fn verify(&mut self, client: &ClientStream) -> Option<Dismissal> {
        // Validity dates are compared with the time of the handshake: the end of the certificate has its own timer.
        if self.server.tls().would_accept(client.certificates()?, self.handshake_time) {
            return None;
        }
        self.grace_period = Some(Box::pin(sleep(GRACE_PERIOD)));
        Some(Dismissal::WhenIdle)
    }
}

/// How long to sleep until `end`, or until the clock is read again.
fn until(end: SystemTime) -> Duration {
    // A certificate is valid until the end of its last second.
    let left = end.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1);
    left.min(EXPIRY_CHECK_MAX)
}
