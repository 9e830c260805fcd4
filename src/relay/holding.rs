//! What all connections together may hold back of command bodies while they are being read.
//!
//! A policy judges a body as a whole. Most are small and wait in what a connection keeps anyway; a larger one needs a share
//! of one budget, and while there is none its connection is not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// For the whole process: room for 16 of the largest bodies at one time.
const BUDGET_KIB: usize = 256 * 1024;

/// A body that is held has arrived within this time, and a second more for each of its mebibytes, or its connection ends:
/// the others wait for its share.
const HELD_TIME: Duration = Duration::from_secs(10);

const MEBIBYTE: usize = 1024 * 1024;

/// The budget; clones are the same one.
#[derive(Clone)]
pub struct Holding(Arc<Semaphore>);

impl Default for Holding {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

#[cfg(test)]
impl Holding {
    pub(super) fn take_everything(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(BUDGET_KIB).unwrap_or(u32::MAX);
        Arc::clone(&self.0).try_acquire_many_owned(all).expect("nothing is held yet")
    }
}

/// The share that one body has of the budget.
pub(super) struct Share {
    _permit: OwnedSemaphorePermit,
    pub(super) due: Instant,
}

/// A share that is being waited for.
type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// Where one connection stands with the budget.
#[derive(Default)]
pub(super) struct Ask {
    waiting: Option<Waiting>,
    granted: Option<OwnedSemaphorePermit>,
}

impl Ask {
    /// A share for `bytes` if there is one now; otherwise [`Ask::poll`] tells when. Those who asked first come first.
    pub(super) fn share(&mut self, holding: &Holding, bytes: usize) -> Option<Share> {
        let mebibytes = u32::try_from(bytes.div_ceil(MEBIBYTE)).unwrap_or(u32::MAX);
        let due = Instant::now() + HELD_TIME + Duration::from_secs(1) * mebibytes;
        if let Some(permit) = self.granted.take() {
            return Some(Share { _permit: permit, due });
        }
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&holding.0).try_acquire_many_owned(kib) {
            return Some(Share { _permit: permit, due });
        }
        self.waiting = Some(Box::pin(Arc::clone(&holding.0).acquire_many_owned(kib)));
        None
    }

    /// Whether nothing is being waited for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(()) };
        let Poll::Ready(permit) = waiting.as_mut().poll(cx) else { return Poll::Pending };
        (self.waiting, self.granted) = (None, permit.ok());
        Poll::Ready(())
    }
}
